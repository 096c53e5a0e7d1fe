// SPDX-License-Identifier: Apache-2.0
#include <esft/io/sha256.hpp>

#include <string>
#include <string_view>

#include <gtest/gtest.h>
#include <rapidcheck.h>

namespace sha256_tests {

std::string digest_of(std::string_view text) { return esft::sha256_hex(std::as_bytes(std::span(text))); }

// Vectors of FIPS 180-4 and the NIST example files.
TEST(sha256, known_vectors) {
  EXPECT_EQ(digest_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digest_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(digest_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(digest_of(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(sha256, pieces_give_the_digest_of_the_whole) {
  const bool holds = rc::check("any split", [](const std::string& text, std::uint8_t step) {
    esft::sha256 hash;
    const std::size_t piece = step + std::size_t{1};
    for (std::size_t at = 0; at < text.size(); at += piece) hash.update(std::string_view(text).substr(at, piece));
    RC_ASSERT(hash.hex_digest() == digest_of(text));
  });
  EXPECT_TRUE(holds);
}

TEST(sha256, every_length_around_the_block_size_agrees_with_the_plain_code) {
  for (std::size_t length = 0; length < 200; ++length) {
    std::string text(length, 'x');
    for (std::size_t i = 0; i < length; ++i) text[i] = static_cast<char>(i * 37 + length);
    esft::detail::sha256_state fast = {1, 2, 3, 4, 5, 6, 7, 8};
    esft::detail::sha256_state plain = fast;
    const auto* data = reinterpret_cast<const std::byte*>(text.data());
    esft::detail::sha256_blocks(fast, data, length / 64);
    esft::detail::sha256_blocks_plain(plain, data, length / 64);
    ASSERT_EQ(fast, plain) << length;
    std::string other = text + "y";
    EXPECT_NE(digest_of(text), digest_of(other));
  }
}

TEST(sha256, may_go_on_after_a_digest) {
  esft::sha256 hash;
  hash.update("ab");
  const std::string before = hash.hex_digest();
  hash.update("c");
  EXPECT_EQ(hash.hex_digest(), digest_of("abc"));
  EXPECT_EQ(before, digest_of("ab"));
}

}  // namespace sha256_tests
