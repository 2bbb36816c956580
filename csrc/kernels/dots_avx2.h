// Sums of products in AVX2 without VNNI. vpmaddubsw multiplies unsigned by signed bytes and adds up neighbours in 16 bits,
// with saturation: operands are chosen so that it never saturates.
#pragma once

#include "kernels/simd_avx2.h"

namespace gossamer {
namespace {

// acc[r] += sum over j of u[4r+j] * s[4r+j]; u unsigned, s signed. The caller promises that no sum of two neighbouring
// products leaves int16.
GOSSAMER_INLINE __m256i dot_half_small(__m256i acc, __m256i u, __m256i s) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}
GOSSAMER_INLINE I16 dot_small(I16 acc, B64 u, B64 s) {
  return {dot_half_small(acc.a, u.a, s.a), dot_half_small(acc.b, u.b, s.b)};
}
// The same for any bytes: 255 * 127 * 2 is more than 32767, so the top bit of u is taken apart.
GOSSAMER_INLINE __m256i dot_half(__m256i acc, __m256i u, __m256i s) {
  const __m256i rest = _mm256_maddubs_epi16(_mm256_and_si256(u, _mm256_set1_epi8(0x7F)), s);
  const __m256i top = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(u, 7), _mm256_set1_epi8(1)), s);
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(rest, _mm256_set1_epi16(1)));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(top, _mm256_set1_epi16(128)));
}
GOSSAMER_INLINE I16 dot(I16 acc, B64 u, B64 s) {
  return {dot_half(acc.a, u.a, s.a), dot_half(acc.b, u.b, s.b)};
}
// Signed by signed, of which s is never -128: the sign of w goes to s.
GOSSAMER_INLINE I16 dot_signed(I16 acc, B64 w, B64 s) {
  return {dot_half_small(acc.a, _mm256_abs_epi8(w.a), _mm256_sign_epi8(s.a, w.a)),
          dot_half_small(acc.b, _mm256_abs_epi8(w.b), _mm256_sign_epi8(s.b, w.b))};
}
// Sums of two neighbouring products in 16 bits, twice as many as rows; sum_pairs makes them rows.
GOSSAMER_INLINE I16 dot_short(I16 acc, B64 u, B64 s) {
  acc = {_mm256_add_epi16(acc.a, _mm256_maddubs_epi16(u.a, s.a)),
         _mm256_add_epi16(acc.b, _mm256_maddubs_epi16(u.b, s.b))};
  asm("" : "+x"(acc.a), "+x"(acc.b));  // gcc 12 would first make all products, and spill them
  return acc;
}
GOSSAMER_INLINE I16 sum_pairs(I16 acc) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(acc.a, ones), _mm256_madd_epi16(acc.b, ones)};
}
// Up to eight times the nibbles s, in bytes; 128 times as much, as what is taken from sums of two products.
GOSSAMER_INLINE I16 add_nibbles(I16 sums, B64 s) {
  sums = {_mm256_add_epi8(sums.a, s.a), _mm256_add_epi8(sums.b, s.b)};
  asm("" : "+x"(sums.a), "+x"(sums.b));
  return sums;
}
GOSSAMER_INLINE I16 nibble_excess(I16 sums) {
  const __m256i ones = _mm256_set1_epi8(1);
  return {_mm256_slli_epi16(_mm256_maddubs_epi16(ones, sums.a), 7),
          _mm256_slli_epi16(_mm256_maddubs_epi16(ones, sums.b), 7)};
}
GOSSAMER_INLINE I16 short_sums(I16 acc, I16 excess) {
  return sum_pairs({_mm256_sub_epi16(acc.a, excess.a), _mm256_sub_epi16(acc.b, excess.b)});
}

// ---- sums over a fold: codes of weights times four columns of a token at x ----

constexpr int kNarrowestSums = 4;  // narrower codes are summed in the same way

// Codes of 8 bits are multiplied as code - 128, all others as they are.
template <int bits> GOSSAMER_INLINE constexpr int first_sum(int start) { return bits == 8 ? 0 : start; }

// Quads whose products can be added up in 16 bits.
constexpr int short_quads(int bits) { return 32767 / (2 * 127 * ((1 << bits) - 1)); }

// q: which quad of a step of `quads`; the sum is complete after the last one. part: what is not in `sum` yet. word: which of
// the words of four columns at x.
template <int bits, int q, int quads, int word>
GOSSAMER_INLINE void add_products(I16& sum, I16& part, B64 codes, const uint8_t* x) {
  if constexpr (bits == 8) {
    sum = dot_signed(sum, xor_b(codes, set1_b(128)), broadcast4(x + 4 * word));
  } else {
    constexpr int run = short_quads(bits);
    part = dot_short(q % run == 0 ? set1_i(0) : part, codes, broadcast4(x + 4 * word));
    if constexpr (q % run == run - 1 || q == quads - 1) sum = add_i(sum, sum_pairs(part));
  }
}

}  // namespace
}  // namespace gossamer
