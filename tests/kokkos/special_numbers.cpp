// SPDX-License-Identifier: Apache-2.0
// Infinities and what is no number: the same on the paths of cores and of devices.
#include "../backends/special_numbers.hpp"

#include <esft/backends/kokkos.hpp>

namespace esft::test {
namespace {

TEST(kokkos_special_numbers, of_logits_show_in_the_loss) { check_special_logits<kokkos_backend<>>(); }
TEST(kokkos_special_numbers, of_one_document_stay_there) { check_documents_stay_apart<kokkos_backend<>>(4); }

}  // namespace
}  // namespace esft::test
