// SPDX-License-Identifier: Apache-2.0
// .npy files: bytes that NumPy wrote, round trips of every type, and what is refused by name.
#include "io/io_test.hpp"

#include <esft/io/npy.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace io_npy_tests {

using esft::dtype;
using esft::input_error_code;
using esft::test::expect_input_error;
using esft::test::scratch_directory;
using esft::test::slurp;
using esft::test::spill;

/// A file of version 1 or 2 with this header.
std::string npy(std::string header, const std::string& data, char version = 1) {
  std::string bytes = "\x93NUMPY";
  bytes += version;
  bytes += '\0';
  bytes += static_cast<char>(header.size() & 255U);
  bytes += static_cast<char>(header.size() >> 8U);
  if (version > 1) bytes += std::string(2, '\0');
  return bytes + header + data;
}

template <class T>
void round_trip(const scratch_directory& folder, const esft::tensor_shape& shape, const std::vector<T>& values) {
  esft::write_npy<T>(folder / "a.npy", shape, values);
  const esft::npy_array back = esft::read_npy(folder / "a.npy");
  EXPECT_EQ(back.type, esft::dtype_v<T>);
  EXPECT_EQ(back.shape, shape);
  const auto read = back.as<T>();
  EXPECT_EQ(std::vector<T>(read.begin(), read.end()), values);
  const std::string bytes = slurp(folder / "a.npy");
  EXPECT_EQ((bytes.size() - values.size() * sizeof(T)) % 64, 0U) << "the data is aligned";
}

TEST(npy, every_type_and_rank_comes_back) {
  const scratch_directory folder;
  round_trip<float>(folder, {2, 3}, {1, -2.5F, 3e-30F, 4, 5, 6});
  round_trip<double>(folder, {2, 1, 2}, {1, 2, 3, 4e200});
  round_trip<std::int32_t>(folder, {4}, {-1, 0, 1, 2147483647});
  round_trip<std::int64_t>(folder, {}, {-9007199254740993});
  round_trip<std::uint8_t>(folder, {0, 5}, {});
}

TEST(npy, what_is_written_is_what_numpy_writes) {
  const scratch_directory folder;
  esft::write_npy<float>(folder / "a.npy", {1, 2}, std::array<float, 2>{1, 2});
  // numpy.save('a.npy', numpy.array([[1, 2]], dtype='<f4'))
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }";
  header.resize(117, ' ');
  EXPECT_EQ(slurp(folder / "a.npy"), npy(header + "\n", std::string("\0\0\x80\x3f\0\0\0\x40", 8)));
}

TEST(npy, headers_of_other_writers_are_read) {
  const scratch_directory folder;
  spill(folder / "a.npy", npy("{\"shape\":(2,),\"fortran_order\":False,\"descr\":\"<i4\"}\n", std::string("\1\0\0\0\2\0\0\0", 8), 2));
  EXPECT_EQ(esft::read_npy(folder / "a.npy").as<std::int32_t>()[1], 2);
  spill(folder / "a.npy", npy("{'descr': '<f2', 'fortran_order': False, 'shape': ()}", std::string("\0\x3c", 2), 3));
  const esft::npy_array scalar = esft::read_npy(folder / "a.npy");
  EXPECT_EQ(scalar.type, dtype::float16);
  EXPECT_TRUE(scalar.shape.empty());
}

TEST(npy, what_is_not_read_is_refused_by_name) {
  const scratch_directory folder;
  const auto refused = [&](input_error_code code, const std::string& bytes, const std::string& mentioned) {
    spill(folder / "bad.npy", bytes);
    expect_input_error(
        code, [&] { static_cast<void>(esft::read_npy(folder / "bad.npy")); }, mentioned);
  };
  const std::string four(4, '\0');
  const auto header = [](const std::string& descr, const std::string& order, const std::string& shape) {
    return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
  };
  refused(input_error_code::unsupported_format, npy(header("'<f4'", "True", "(1,)"), four), "Fortran order");
  refused(input_error_code::unsupported_format, npy(header("'>f4'", "False", "(1,)"), four), "big-endian");
  refused(input_error_code::unsupported_format, npy(header("[('x', '<f4')]", "False", "(1,)"), four), "several fields");
  refused(input_error_code::unknown_dtype, npy(header("'|O'", "False", "(1,)"), four), "'|O'");
  refused(input_error_code::byte_count, npy(header("'<f4'", "False", "(2,)"), four), "[2] takes 8 bytes, the file holds 4");
  refused(input_error_code::byte_count, npy(header("'<f4'", "False", "(1,)"), four + four), "more than one array");
  refused(input_error_code::size_overflow, npy(header("'<f4'", "False", "(4611686018427387905, 4)"), four), "64 bits");
  refused(input_error_code::size_overflow, npy(header("'<f4'", "False", "(99999999999999999999,)"), four), "64 bits");
  refused(input_error_code::bad_record, npy(header("'<f4'", "False", "(-1,)"), four), "shape");
  refused(input_error_code::bad_record, npy(header("'<f4'", "Maybe", "(1,)"), four), "fortran_order");
  refused(input_error_code::bad_record, npy("{'descr': '<f4', 'shape': (1,)}", four), "lacks");
  refused(input_error_code::bad_record, npy("{'descr': '<f4', 'descr': '<f4'}", four), "twice");
  refused(input_error_code::bad_record, npy("{'descr': '<f4", four), "quotes");
  refused(input_error_code::unsupported_version, npy("{}", std::string(64, ' '), 4), "version 4");
  refused(input_error_code::unsupported_format, "PK\3\4 an archive of arrays", ".npz");
  refused(input_error_code::too_small, "\x93NUMPY", "shorter");
  std::string cut = npy(header("'<f4'", "False", "(1,)"), four);
  cut[9] = '\x7f';
  refused(input_error_code::header_length, cut, "does not fit");
}

}  // namespace io_npy_tests
