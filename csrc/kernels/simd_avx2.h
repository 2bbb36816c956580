// The vector operations of the kernels in AVX2 (with FMA, F16C, BMI2): two 32-byte halves for each of the 64-byte
// vectors of simd_avx512.h, rows 0-7 and rows 8-15. How products are summed is in dots_avx2.h and dots_avxvnni.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/inline.h"
#include "kernels/mask_tables.h"

namespace gossamer {
namespace {  // each instruction set has its own copy: shared inline functions would mix instruction sets at link time

struct F16 { __m256 a, b; };
struct I16 { __m256i a, b; };
struct B64 { __m256i a, b; };

constexpr bool kSignedDot = false;
constexpr int kLargestBlock = 4;
constexpr int kSweepQuads = 8;  // of weights that a sweep unrolls
constexpr float kColumnUnit = 1.0f;
constexpr int kHighShift = 0;
constexpr float kNibbleUnit = 1.0f;

GOSSAMER_INLINE F16 zero_f() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
GOSSAMER_INLINE F16 set1_f(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
GOSSAMER_INLINE F16 load_f(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
GOSSAMER_INLINE void store_f(float* p, F16 v) { _mm256_storeu_ps(p, v.a), _mm256_storeu_ps(p + 8, v.b); }
GOSSAMER_INLINE F16 add_f(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
GOSSAMER_INLINE F16 mul_f(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
GOSSAMER_INLINE F16 fma_f(F16 x, F16 y, F16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
GOSSAMER_INLINE F16 sub_f(F16 x, F16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
GOSSAMER_INLINE F16 div_f(F16 x, F16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
GOSSAMER_INLINE F16 min_f(F16 x, F16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
GOSSAMER_INLINE F16 max_f(F16 x, F16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
GOSSAMER_INLINE bool any_above(F16 x, float bound) {
  const __m256 limit = _mm256_set1_ps(bound);
  return _mm256_movemask_ps(
             _mm256_or_ps(_mm256_cmp_ps(x.a, limit, _CMP_GT_OQ), _mm256_cmp_ps(x.b, limit, _CMP_GT_OQ))) != 0;
}
GOSSAMER_INLINE bool any_magnitude_above(F16 x, float bound) {
  const __m256 sign = _mm256_set1_ps(-0.0f), limit = _mm256_set1_ps(bound);
  const __m256 a = _mm256_cmp_ps(_mm256_andnot_ps(sign, x.a), limit, _CMP_GT_OQ);
  const __m256 b = _mm256_cmp_ps(_mm256_andnot_ps(sign, x.b), limit, _CMP_GT_OQ);
  return _mm256_movemask_ps(_mm256_or_ps(a, b)) != 0;
}
GOSSAMER_INLINE __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
GOSSAMER_INLINE F16 load_half(const uint16_t* p) {
  return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 8))};
}

GOSSAMER_INLINE I16 set1_i(int v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
GOSSAMER_INLINE I16 add_i(I16 x, I16 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
GOSSAMER_INLINE I16 sub_i(I16 x, I16 y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
template <int n> GOSSAMER_INLINE I16 left_i(I16 x) {
  return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
template <int n> GOSSAMER_INLINE I16 right_i(I16 x) {
  return {_mm256_srai_epi32(x.a, n), _mm256_srai_epi32(x.b, n)};
}
GOSSAMER_INLINE F16 to_float(I16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

GOSSAMER_INLINE I16 magnitude_bits(F16 x) {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  return {_mm256_and_si256(_mm256_castps_si256(x.a), magnitude),
          _mm256_and_si256(_mm256_castps_si256(x.b), magnitude)};
}
GOSSAMER_INLINE I16 max_i(I16 x, I16 y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
GOSSAMER_INLINE void store_i(int* p, I16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
GOSSAMER_INLINE int reduce_max(I16 x) {
  const __m256i eight = _mm256_max_epi32(x.a, x.b);
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 1)));
}
GOSSAMER_INLINE int reduce_add(I16 x) {
  const __m256i eight = _mm256_add_epi32(x.a, x.b);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 1)));
}
GOSSAMER_INLINE I16 round_f(F16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
GOSSAMER_INLINE void store_low_bytes(uint8_t* p, I16 x) {
  const __m256i low = _mm256_set1_epi32(0xFF);
  const __m256i words = _mm256_packus_epi32(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low));
  const __m256i bytes = _mm256_packus_epi16(words, words);  // in dwords 0, 4, 1, 5
  const __m256i sorted = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(sorted));
}

GOSSAMER_INLINE __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
GOSSAMER_INLINE B64 load_b(const uint8_t* p) { return {load_256(p), load_256(p + 32)}; }
GOSSAMER_INLINE void store_b(uint8_t* p, B64 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), v.b);
}
GOSSAMER_INLINE B64 set1_b(int v) {
  const __m256i all = _mm256_set1_epi8(static_cast<char>(v));
  return {all, all};
}
GOSSAMER_INLINE B64 and_b(B64 x, B64 y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
GOSSAMER_INLINE B64 or_b(B64 x, B64 y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
GOSSAMER_INLINE B64 xor_b(B64 x, B64 y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
GOSSAMER_INLINE B64 sub_b(B64 x, B64 y) { return {_mm256_sub_epi8(x.a, y.a), _mm256_sub_epi8(x.b, y.b)}; }
template <int n> GOSSAMER_INLINE B64 right_words(B64 x) {
  return {_mm256_srli_epi16(x.a, n), _mm256_srli_epi16(x.b, n)};
}
template <int n> GOSSAMER_INLINE B64 left_words(B64 x) {
  return {_mm256_slli_epi16(x.a, n), _mm256_slli_epi16(x.b, n)};
}
GOSSAMER_INLINE B64 low_nibbles(B64 x) { return and_b(x, set1_b(0x0F)); }
GOSSAMER_INLINE B64 high_nibbles(B64 x) { return low_nibbles(right_words<4>(x)); }
// table[index] within each 16 bytes; index < 16.
GOSSAMER_INLINE B64 shuffle16(B64 table, B64 index) {
  return {_mm256_shuffle_epi8(table.a, index.a), _mm256_shuffle_epi8(table.b, index.b)};
}
GOSSAMER_INLINE B64 shuffle_low(B64 table, B64 index) { return shuffle16(table, index); }
// The lower or the upper nibble of each byte as a signed value of -8 to 7: small, so that no pair of products can saturate.
GOSSAMER_INLINE B64 signed_nibbles(B64 nibbles) {
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
  return shuffle16({table, table}, nibbles);
}
GOSSAMER_INLINE B64 low_nibble_values(B64 x) { return signed_nibbles(low_nibbles(x)); }
GOSSAMER_INLINE B64 nibble_values(B64 x) { return signed_nibbles(high_nibbles(x)); }
GOSSAMER_INLINE B64 add_where_equal(B64 acc, B64 x, B64 y, B64 w) {
  return {_mm256_add_epi8(acc.a, _mm256_and_si256(_mm256_cmpeq_epi8(x.a, y.a), w.a)),
          _mm256_add_epi8(acc.b, _mm256_and_si256(_mm256_cmpeq_epi8(x.b, y.b), w.b))};
}

template <int bits> GOSSAMER_INLINE I16 dwords(B64 x) {
  return {_mm256_srli_epi32(x.a, bits), _mm256_srli_epi32(x.b, bits)};
}
GOSSAMER_INLINE __m256 lookup_half(F16 table, __m256i index) {
  const __m256 low = _mm256_permutevar8x32_ps(table.a, index),
               high = _mm256_permutevar8x32_ps(table.b, index);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
GOSSAMER_INLINE F16 lookup(F16 table, I16 index) {
  return {lookup_half(table, index.a), lookup_half(table, index.b)};
}
template <int j> GOSSAMER_INLINE __m256 column_half(__m256i x) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 24 - 8 * j), 24));
}
template <int j> GOSSAMER_INLINE F16 column(B64 x) { return {column_half<j>(x.a), column_half<j>(x.b)}; }

GOSSAMER_INLINE B64 broadcast4(const uint8_t* p) {
  int word;
  std::memcpy(&word, p, 4);
  const __m256i all = _mm256_set1_epi32(word);
  return {all, all};
}
GOSSAMER_INLINE B64 broadcast16(const uint8_t* p) {
  const __m256i all = _mm256_broadcastsi128_si256(load_128(p));
  return {all, all};
}
GOSSAMER_INLINE B64 broadcast8(const uint8_t* p) {
  int64_t bytes;
  std::memcpy(&bytes, p, 8);
  const __m256i all = _mm256_set1_epi64x(bytes);
  return {all, all};
}
GOSSAMER_INLINE B64 load_nibbles(const uint8_t* p) {
  const __m256i low = _mm256_cvtepu8_epi16(load_128(p)), high = _mm256_cvtepu8_epi16(load_128(p + 16));
  const B64 words = {low, high};
  return low_nibbles(or_b(words, left_words<4>(words)));
}

GOSSAMER_INLINE __m128i expand_16(const uint8_t* mask, const uint8_t* p) {
  return _mm_shuffle_epi8(load_128(p),
                          _mm_add_epi8(load_128(kSpread.low[mask[0]]), load_128(kSpread.high[mask[1]])));
}
// The octets come from memory and no load waits for more than one sum of population counts.
GOSSAMER_INLINE B64 expand_bytes(const uint8_t* mask, const uint8_t*& p) {
  uint64_t bits;
  std::memcpy(&bits, mask, 8);
  const auto before = [bits](int lanes) { return __builtin_popcountll(bits << (64 - lanes)); };
  const __m128i l0 = expand_16(mask, p), l1 = expand_16(mask + 2, p + before(16)),
                l2 = expand_16(mask + 4, p + before(32)), l3 = expand_16(mask + 6, p + before(48));
  p += __builtin_popcountll(bits);
  return {_mm256_set_m128i(l1, l0), _mm256_set_m128i(l3, l2)};
}

GOSSAMER_INLINE __m256i mask_columns_half(const uint8_t* masks) {
  const auto of = [masks](int row) { return static_cast<int>(kColumns.columns[masks[row]]); };
  return _mm256_setr_epi32(of(0), of(1), of(2), of(3), of(4), of(5), of(6), of(7));
}
GOSSAMER_INLINE B64 mask_columns(const uint8_t* masks) {
  return {mask_columns_half(masks), mask_columns_half(masks + 8)};
}

template <bool brain> GOSSAMER_INLINE __m256 widen(__m128i halves) {
  if constexpr (brain) return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  return _mm256_cvtph_ps(halves);
}
GOSSAMER_INLINE void columns_of_lanes(const float* lanes, F16 c[4]) {
  const __m256i rows = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
  for (int j = 0; j < 4; ++j)
    c[j] = {_mm256_i32gather_ps(lanes + j, rows, 4), _mm256_i32gather_ps(lanes + 32 + j, rows, 4)};
}
template <bool brain> GOSSAMER_INLINE void load_half_columns(const uint8_t* p, F16 c[4]) {
  alignas(32) float lanes[64];
  for (int i = 0; i < 8; ++i) _mm256_store_ps(lanes + 8 * i, widen<brain>(load_128(p + 16 * i)));
  columns_of_lanes(lanes, c);
}
template <bool brain> GOSSAMER_INLINE void expand_half_columns(uint64_t mask, const uint8_t*& p, F16 c[4]) {
  alignas(32) uint8_t lanes[128] = {};
  for (; mask; mask &= mask - 1, p += 2) std::memcpy(lanes + 2 * __builtin_ctzll(mask), p, 2);
  load_half_columns<brain>(lanes, c);
}
GOSSAMER_INLINE void expand_float_columns(uint64_t mask, const uint8_t*& p, F16 c[4]) {
  alignas(32) float lanes[64] = {};
  for (; mask; mask &= mask - 1, p += 4) std::memcpy(lanes + __builtin_ctzll(mask), p, 4);
  columns_of_lanes(lanes, c);
}

// ---- what the engine needs beside products ----

GOSSAMER_INLINE F16 as_float(I16 bits) { return {_mm256_castsi256_ps(bits.a), _mm256_castsi256_ps(bits.b)}; }
GOSSAMER_INLINE float reduce_add_f(F16 x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
GOSSAMER_INLINE float reduce_max_f(F16 x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
GOSSAMER_INLINE F16 load_brain(const uint16_t* p) {
  return {widen<true>(load_128(p)), widen<true>(load_128(p + 8))};
}
GOSSAMER_INLINE F16 load_int8(const int8_t* p) {
  const __m128i bytes = load_128(p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
GOSSAMER_INLINE void store_half(uint16_t* p, F16 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace
}  // namespace gossamer
