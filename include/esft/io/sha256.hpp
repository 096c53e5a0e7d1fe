// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Streaming SHA-256, with the processor's SHA instructions where it has them.

#include <esft/io/bytes.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace esft {

namespace detail {

inline constexpr std::array<std::uint32_t, 64> sha256_constants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

using sha256_state = std::array<std::uint32_t, 8>;

/// Compresses whole 64-byte blocks in plain C++.
/// @source FIPS 180-4, section 6.2
inline void sha256_blocks_plain(sha256_state& state, const std::byte* data, std::size_t blocks) {
  for (; blocks > 0; --blocks, data += 64) {
    std::array<std::uint32_t, 64> w{};
    for (std::size_t t = 0; t < 16; ++t) w[t] = __builtin_bswap32(load_little_endian<std::uint32_t>({data + 4 * t, 4}));
    for (std::size_t t = 16; t < 64; ++t) {
      const std::uint32_t s0 = std::rotr(w[t - 15], 7) ^ std::rotr(w[t - 15], 18) ^ (w[t - 15] >> 3U);
      const std::uint32_t s1 = std::rotr(w[t - 2], 17) ^ std::rotr(w[t - 2], 19) ^ (w[t - 2] >> 10U);
      w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (std::size_t t = 0; t < 64; ++t) {
      const std::uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const std::uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + sha256_constants[t] + w[t];
      const std::uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const std::uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const sha256_state step = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state[i] += step[i];
  }
}

#if defined(__x86_64__)
inline bool cpu_has_sha() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  const bool has_sse41 = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1U << 19U)) != 0;
  return has_sse41 && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & (1U << 29U)) != 0;
}

/// The same with SHA-NI: the state is kept as ABEF and CDGH, as the instructions want it; four rounds a pair of instructions.
__attribute__((target("sha,sse4.1"))) inline void sha256_blocks_native(sha256_state& state, const std::byte* data, std::size_t blocks) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
  const auto load = [](const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); };
  const __m128i abcd = load(state.data());
  const __m128i efgh = load(state.data() + 4);
  const __m128i badc = _mm_shuffle_epi32(abcd, 0xb1);
  const __m128i hgfe = _mm_shuffle_epi32(efgh, 0x1b);
  __m128i abef = _mm_alignr_epi8(badc, hgfe, 8);
  __m128i cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
  for (; blocks > 0; --blocks, data += 64) {
    const __m128i abef_before = abef;
    const __m128i cdgh_before = cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; ++i) w[i] = _mm_shuffle_epi8(load(data + 16 * i), swap);
    for (int group = 0; group < 16; ++group) {
      __m128i& current = w[group & 3];
      if (group >= 4) {  // current holds W[t-16..t-13]; its successors are the three younger groups
        const __m128i older = w[(group + 2) & 3];
        const __m128i newest = w[(group + 3) & 3];
        current = _mm_sha256msg1_epu32(current, w[(group + 1) & 3]);
        current = _mm_add_epi32(current, _mm_alignr_epi8(newest, older, 4));
        current = _mm_sha256msg2_epu32(current, newest);
      }
      __m128i round = _mm_add_epi32(current, load(sha256_constants.data() + 4 * group));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, round);
      round = _mm_shuffle_epi32(round, 0x0e);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, round);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state.data()), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state.data() + 4), _mm_alignr_epi8(dchg, feba, 8));
}
#endif

inline void sha256_blocks(sha256_state& state, const std::byte* data, std::size_t blocks) {
#if defined(__x86_64__)
  static const bool native = cpu_has_sha();
  if (native) return sha256_blocks_native(state, data, blocks);
#endif
  sha256_blocks_plain(state, data, blocks);
}

}  // namespace detail

/// Digest of a stream of bytes. Use it to prove that bytes are the same ones; it is not a password hash.
class sha256 {
 public:
  /// Appends bytes.
  void update(std::span<const std::byte> bytes) {
    length_ += bytes.size();
    if (pending_size_ > 0) {
      const std::size_t taken = std::min(bytes.size(), pending_.size() - pending_size_);
      std::copy_n(bytes.begin(), taken, pending_.begin() + static_cast<std::ptrdiff_t>(pending_size_));
      pending_size_ += taken;
      bytes = bytes.subspan(taken);
      if (pending_size_ < pending_.size()) return;
      detail::sha256_blocks(state_, pending_.data(), 1);
      pending_size_ = 0;
    }
    detail::sha256_blocks(state_, bytes.data(), bytes.size() / 64);
    bytes = bytes.subspan(bytes.size() / 64 * 64);
    std::copy(bytes.begin(), bytes.end(), pending_.begin());
    pending_size_ = bytes.size();
  }
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }

  /// Lower-case hexadecimal digest of everything so far; more may be appended afterwards.
  [[nodiscard]] std::string hex_digest() const {
    sha256 copy = *this;
    const std::uint64_t bits = __builtin_bswap64(length_ * 8);
    const std::array<std::byte, 64> padding = {std::byte{0x80}};
    const std::size_t used = copy.pending_size_ + 1;
    copy.update(std::span(padding).first(1 + (used <= 56 ? 56 - used : 120 - used)));
    copy.update(store_little_endian(bits));
    std::string result;
    for (const std::uint32_t word : copy.state_) {
      for (int shift = 28; shift >= 0; shift -= 4) result += "0123456789abcdef"[(word >> static_cast<unsigned>(shift)) & 15U];
    }
    return result;
  }

 private:
  detail::sha256_state state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> pending_{};
  std::size_t pending_size_ = 0;
  std::uint64_t length_ = 0;
};

/// Digest of one block of bytes.
inline std::string sha256_hex(std::span<const std::byte> bytes) {
  sha256 digest;
  digest.update(bytes);
  return digest.hex_digest();
}

}  // namespace esft
