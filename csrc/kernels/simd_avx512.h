// The vector operations of the kernels in AVX-512 (F, BW, VL, DQ, VNNI, VBMI, VBMI2).
//
// F16: 16 floats, I16: 16 int32, B64: 64 bytes in tile order (lane 4r+j). A "column" j of a B64 is one byte of each of
// the 16 dwords. simd_avx2.h, simd_neon.h and simd_scalar.h offer the same names.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/inline.h"

namespace gossamer {
namespace {  // each instruction set has its own copy: shared inline functions would mix instruction sets at link time

using F16 = __m512;
using I16 = __m512i;
using B64 = __m512i;

// Whether dot() takes signed bytes on both sides. Else the first are unsigned: activations of windows are then stored as
// code + 128, weights as code + zero, and what that adds is taken off where the sums begin.
constexpr bool kSignedDot = false;
constexpr int kLargestBlock = 12;
constexpr int kSweepQuads = 8;  // of weights that a sweep unrolls
// Values that operations return in other units, because the exact power of two is free to apply with the scale.
constexpr float kColumnUnit = 1.0f / 16777216.0f;  // column(): byte << 24
constexpr int kHighShift = 4;                      // high_nibbles(): code << 4
constexpr float kNibbleUnit = 1.0f / 16.0f;        // nibble_values(): value << 4

GOSSAMER_INLINE F16 zero_f() { return _mm512_setzero_ps(); }
GOSSAMER_INLINE F16 set1_f(float v) { return _mm512_set1_ps(v); }
GOSSAMER_INLINE F16 load_f(const float* p) { return _mm512_loadu_ps(p); }
GOSSAMER_INLINE void store_f(float* p, F16 v) { _mm512_storeu_ps(p, v); }
GOSSAMER_INLINE F16 add_f(F16 a, F16 b) { return _mm512_add_ps(a, b); }
GOSSAMER_INLINE F16 mul_f(F16 a, F16 b) { return _mm512_mul_ps(a, b); }
GOSSAMER_INLINE F16 fma_f(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a, b, c); }
GOSSAMER_INLINE F16 sub_f(F16 a, F16 b) { return _mm512_sub_ps(a, b); }
GOSSAMER_INLINE F16 div_f(F16 a, F16 b) { return _mm512_div_ps(a, b); }
GOSSAMER_INLINE F16 min_f(F16 a, F16 b) { return _mm512_min_ps(a, b); }
GOSSAMER_INLINE F16 max_f(F16 a, F16 b) { return _mm512_max_ps(a, b); }
GOSSAMER_INLINE bool any_above(F16 a, float bound) {
  return _mm512_cmp_ps_mask(a, set1_f(bound), _CMP_GT_OQ) != 0;
}
GOSSAMER_INLINE bool any_magnitude_above(F16 a, float bound) {
  return _mm512_cmp_ps_mask(_mm512_abs_ps(a), set1_f(bound), _CMP_GT_OQ) != 0;
}
GOSSAMER_INLINE F16 load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

GOSSAMER_INLINE I16 set1_i(int v) { return _mm512_set1_epi32(v); }
GOSSAMER_INLINE I16 add_i(I16 a, I16 b) { return _mm512_add_epi32(a, b); }
GOSSAMER_INLINE I16 sub_i(I16 a, I16 b) { return _mm512_sub_epi32(a, b); }
template <int n> GOSSAMER_INLINE I16 left_i(I16 a) { return n ? _mm512_slli_epi32(a, n) : a; }
template <int n> GOSSAMER_INLINE I16 right_i(I16 a) { return n ? _mm512_srai_epi32(a, n) : a; }
GOSSAMER_INLINE F16 to_float(I16 a) { return _mm512_cvtepi32_ps(a); }

GOSSAMER_INLINE I16 magnitude_bits(F16 a) {
  return _mm512_and_si512(_mm512_castps_si512(a), set1_i(0x7FFFFFFF));
}
GOSSAMER_INLINE I16 max_i(I16 a, I16 b) { return _mm512_max_epi32(a, b); }
GOSSAMER_INLINE int reduce_max(I16 a) { return _mm512_reduce_max_epi32(a); }
GOSSAMER_INLINE int reduce_add(I16 a) { return _mm512_reduce_add_epi32(a); }
GOSSAMER_INLINE I16 round_f(F16 a) { return _mm512_cvtps_epi32(a); }
GOSSAMER_INLINE void store_low_bytes(uint8_t* p, I16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}

GOSSAMER_INLINE B64 load_b(const uint8_t* p) { return _mm512_loadu_si512(p); }
GOSSAMER_INLINE void store_b(uint8_t* p, B64 v) { _mm512_storeu_si512(p, v); }
GOSSAMER_INLINE B64 set1_b(int v) { return _mm512_set1_epi8(static_cast<char>(v)); }
GOSSAMER_INLINE B64 and_b(B64 a, B64 b) { return _mm512_and_si512(a, b); }
GOSSAMER_INLINE B64 or_b(B64 a, B64 b) { return _mm512_or_si512(a, b); }
GOSSAMER_INLINE B64 xor_b(B64 a, B64 b) { return _mm512_xor_si512(a, b); }
GOSSAMER_INLINE B64 sub_b(B64 a, B64 b) { return _mm512_sub_epi8(a, b); }
template <int n> GOSSAMER_INLINE B64 right_words(B64 a) { return n ? _mm512_srli_epi16(a, n) : a; }
template <int n> GOSSAMER_INLINE B64 left_words(B64 a) { return n ? _mm512_slli_epi16(a, n) : a; }
GOSSAMER_INLINE B64 low_nibbles(B64 a) { return and_b(a, set1_b(0x0F)); }
GOSSAMER_INLINE B64 high_nibbles(B64 a) { return and_b(a, set1_b(0xF0)); }   // << kHighShift
GOSSAMER_INLINE B64 nibble_values(B64 a) { return and_b(a, set1_b(0xF0)); }  // signed, / kNibbleUnit

// The lower nibbles in the same way.
GOSSAMER_INLINE B64 low_nibble_values(B64 a) { return nibble_values(left_words<4>(a)); }

// Sixteen dwords, column j of each moved to the lowest bits (with garbage above).
template <int bits> GOSSAMER_INLINE I16 dwords(B64 a) { return bits ? _mm512_srli_epi32(a, bits) : a; }
// table[low 4 bits of each index].
GOSSAMER_INLINE F16 lookup(F16 table, I16 index) { return _mm512_permutexvar_ps(index, table); }
// Column j of signed bytes as floats, divided by kColumnUnit.
template <int j> GOSSAMER_INLINE F16 column(B64 a) {
  if constexpr (j == 0) return to_float(_mm512_slli_epi32(a, 24));
  if constexpr (j == 3) return to_float(_mm512_and_si512(a, set1_i(static_cast<int>(0xFF000000))));
  // One byte shuffle (port 5) in place of two shifts (port 0): the multiply-adds need port 0.
  constexpr int lane = (j << 24) | 0x808080;
  const __m512i pick = _mm512_add_epi32(
      _mm512_set1_epi32(lane), _mm512_broadcast_i32x4(_mm_setr_epi32(0, 4 << 24, 8 << 24, 12 << 24)));
  return to_float(_mm512_shuffle_epi8(a, pick));
}

// acc[r] += sum over j of u[4r+j] * s[4r+j]; u unsigned (kSignedDot: signed), s signed. Exact. In assembly: gcc 12 copies accumulators otherwise.
GOSSAMER_INLINE I16 dot(I16 acc, B64 u, B64 s) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s));
  return acc;
}
// Same; the caller promises that no sum of two neighbouring products leaves int16.
GOSSAMER_INLINE I16 dot_small(I16 acc, B64 u, B64 s) { return dot(acc, u, s); }
// The same with the four signed bytes at p in every dword; left to itself gcc keeps them in registers that it then lacks.
template <bool small> GOSSAMER_INLINE I16 dot_word(I16 acc, B64 u, const uint8_t* p) {
  using Word = int32_t __attribute__((may_alias));
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(u), "m"(*reinterpret_cast<const Word*>(p)));
  return acc;
}
GOSSAMER_INLINE B64 broadcast16(const uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
GOSSAMER_INLINE B64 broadcast8(const uint8_t* p) {
  int64_t bytes;
  std::memcpy(&bytes, p, 8);
  return _mm512_set1_epi64(bytes);
}
// table[index] within each 16 bytes; index < 16.
GOSSAMER_INLINE B64 shuffle16(B64 table, B64 index) { return _mm512_shuffle_epi8(table, index); }
// table[low 4 bits of each index] within each 16 bytes; index < 128.
GOSSAMER_INLINE B64 shuffle_low(B64 table, B64 index) { return shuffle16(table, index); }
// 32 bytes -> 64 nibbles, low one first.
GOSSAMER_INLINE B64 load_nibbles(const uint8_t* p) {
  const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return low_nibbles(or_b(words, _mm512_slli_epi16(words, 4)));
}

// acc + w in the lanes where a equals b.
GOSSAMER_INLINE B64 add_where_equal(B64 acc, B64 a, B64 b, B64 w) {
  return _mm512_mask_add_epi8(acc, _mm512_cmpeq_epi8_mask(a, b), acc, w);
}

// For each mask of four columns the numbers of those that are kept, in ascending order and then zeros, and 8 x how many.
struct ColumnTable {
  alignas(64) uint32_t low[16];
  alignas(64) uint32_t high[16];  // of columns 4 to 7
  alignas(64) uint32_t bits[16];
  constexpr ColumnTable() : low{}, high{}, bits{} {
    for (uint32_t mask = 0; mask < 16; ++mask)
      for (uint32_t column = 0; column < 4; ++column)
        if ((mask >> column) & 1) {
          low[mask] |= column << bits[mask], high[mask] |= (4 + column) << bits[mask];
          bits[mask] += 8;
        }
  }
};
constexpr ColumnTable kColumns;

// Lane 4r+j is the j-th column of mask r (of eight columns), 0 where there are fewer.
GOSSAMER_INLINE B64 mask_columns(const uint8_t* masks) {
  const __m512i mask = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(masks)));
  const __m512i low = _mm512_permutexvar_epi32(mask, _mm512_load_si512(kColumns.low));
  const __m512i bits = _mm512_permutexvar_epi32(mask, _mm512_load_si512(kColumns.bits));
  const __m512i high = _mm512_permutexvar_epi32(_mm512_srli_epi32(mask, 4), _mm512_load_si512(kColumns.high));
  return or_b(low, _mm512_sllv_epi32(high, bits));
}

// The next popcount(mask) bytes of p spread over the lanes of the mask, zero elsewhere.
GOSSAMER_INLINE B64 expand_bytes(const uint8_t* bits, const uint8_t*& p) {
  uint64_t mask;
  std::memcpy(&mask, bits, 8);
  const B64 lanes = _mm512_maskz_expand_epi8(_cvtu64_mask64(mask), load_b(p));
  p += __builtin_popcountll(mask);
  return lanes;
}

// Sixty-four 16-bit floats in tile order -> four columns.
template <bool brain> GOSSAMER_INLINE void half_columns(__m512i low, __m512i high, F16 c[4]) {
  if constexpr (brain) {
    const I16 even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const I16 odd = _mm512_add_epi32(even, set1_i(1));
    const I16 top = set1_i(static_cast<int>(0xFFFF0000));
    const F16 even0 = _mm512_castsi512_ps(left_i<16>(low)), even1 = _mm512_castsi512_ps(left_i<16>(high));
    const F16 odd0 = _mm512_castsi512_ps(and_b(low, top)), odd1 = _mm512_castsi512_ps(and_b(high, top));
    c[0] = _mm512_permutex2var_ps(even0, even, even1);
    c[1] = _mm512_permutex2var_ps(odd0, even, odd1);
    c[2] = _mm512_permutex2var_ps(even0, odd, even1);
    c[3] = _mm512_permutex2var_ps(odd0, odd, odd1);
  } else {
    alignas(64) static constexpr uint16_t kPick[32] = {0,  4,  8,  12, 16, 20, 24, 28, 32, 36, 40,
                                                       44, 48, 52, 56, 60, 1,  5,  9,  13, 17, 21,
                                                       25, 29, 33, 37, 41, 45, 49, 53, 57, 61};
    const __m512i first = _mm512_load_si512(kPick), second = _mm512_add_epi16(first, _mm512_set1_epi16(2));
    const __m512i a = _mm512_permutex2var_epi16(low, first, high),
                  b = _mm512_permutex2var_epi16(low, second, high);
    c[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(a));
    c[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(a, 1));
    c[2] = _mm512_cvtph_ps(_mm512_castsi512_si256(b));
    c[3] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(b, 1));
  }
}
template <bool brain> GOSSAMER_INLINE void load_half_columns(const uint8_t* p, F16 c[4]) {
  half_columns<brain>(load_b(p), load_b(p + 64), c);
}
template <bool brain> GOSSAMER_INLINE void expand_half_columns(uint64_t mask, const uint8_t*& p, F16 c[4]) {
  const uint32_t first = static_cast<uint32_t>(mask), second = static_cast<uint32_t>(mask >> 32);
  const __m512i low = _mm512_maskz_expand_epi16(first, load_b(p));
  p += 2 * __builtin_popcount(first);
  const __m512i high = _mm512_maskz_expand_epi16(second, load_b(p));
  p += 2 * __builtin_popcount(second);
  half_columns<brain>(low, high, c);
}

GOSSAMER_INLINE void expand_float_columns(uint64_t mask, const uint8_t*& p, F16 c[4]) {
  F16 rows[4];  // four rows x four columns each
  for (int i = 0; i < 4; ++i) {
    const __mmask16 part = static_cast<__mmask16>(mask >> (16 * i));
    rows[i] = _mm512_maskz_expand_ps(part, _mm512_loadu_ps(p));
    p += 4 * __builtin_popcount(part);
  }
  const I16 first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
  const I16 second = _mm512_add_epi32(first, set1_i(2));
  for (int half = 0; half < 2; ++half) {
    const I16 pick = half ? second : first;
    const F16 top = _mm512_permutex2var_ps(rows[0], pick, rows[1]);
    const F16 bottom = _mm512_permutex2var_ps(rows[2], pick, rows[3]);
    c[2 * half] = _mm512_shuffle_f32x4(top, bottom, 0x44);
    c[2 * half + 1] = _mm512_shuffle_f32x4(top, bottom, 0xEE);
  }
}

// ---- what the engine needs beside products ----

GOSSAMER_INLINE F16 as_float(I16 bits) { return _mm512_castsi512_ps(bits); }
GOSSAMER_INLINE float reduce_add_f(F16 a) { return _mm512_reduce_add_ps(a); }
GOSSAMER_INLINE float reduce_max_f(F16 a) { return _mm512_reduce_max_ps(a); }
GOSSAMER_INLINE F16 load_brain(const uint16_t* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
GOSSAMER_INLINE F16 load_int8(const int8_t* p) {
  return to_float(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
GOSSAMER_INLINE void store_half(uint16_t* p, F16 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace
}  // namespace gossamer

#include "kernels/long_sums.h"
#include "kernels/whole_sums.h"
