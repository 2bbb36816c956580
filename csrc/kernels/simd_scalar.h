// The vector operations of the kernels as plain loops: correct everywhere, and what the compiler makes of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/inline.h"

// Not inlined into the unrolled kernels: a loop of 16 or 64 outlives the call, and the compiler its patience.
#define OPERATION __attribute__((noinline))

namespace gossamer {
namespace {

struct F16 { float v[16]; };
struct I16 { int32_t v[16]; };
struct B64 { uint8_t v[64]; };

constexpr bool kSignedDot = false;
constexpr int kLargestBlock = 4;
constexpr int kSweepQuads = 1;
constexpr float kColumnUnit = 1.0f;
constexpr int kHighShift = 0;
constexpr float kNibbleUnit = 1.0f;

template <class V, class F> GOSSAMER_INLINE V each(const F& f) {
  V result;
  for (unsigned i = 0; i < sizeof(result.v) / sizeof(result.v[0]); ++i) result.v[i] = f(i);
  return result;
}

OPERATION F16 set1_f(float x) {
  return each<F16>([&](int) { return x; });
}
OPERATION F16 zero_f() { return set1_f(0); }
OPERATION F16 load_f(const float* p) {
  return each<F16>([&](int i) { return p[i]; });
}
OPERATION void store_f(float* p, F16 x) { std::memcpy(p, x.v, sizeof(x.v)); }
OPERATION F16 add_f(F16 x, F16 y) {
  return each<F16>([&](int i) { return x.v[i] + y.v[i]; });
}
OPERATION F16 mul_f(F16 x, F16 y) {
  return each<F16>([&](int i) { return x.v[i] * y.v[i]; });
}
OPERATION F16 fma_f(F16 x, F16 y, F16 z) {
  return each<F16>([&](int i) { return x.v[i] * y.v[i] + z.v[i]; });
}

OPERATION F16 sub_f(F16 x, F16 y) {
  return each<F16>([&](int i) { return x.v[i] - y.v[i]; });
}
OPERATION F16 div_f(F16 x, F16 y) {
  return each<F16>([&](int i) { return x.v[i] / y.v[i]; });
}
OPERATION F16 min_f(F16 x, F16 y) {
  return each<F16>([&](int i) { return x.v[i] < y.v[i] ? x.v[i] : y.v[i]; });
}
OPERATION F16 max_f(F16 x, F16 y) {
  return each<F16>([&](int i) { return x.v[i] > y.v[i] ? x.v[i] : y.v[i]; });
}
OPERATION bool any_above(F16 x, float bound) {
  bool any = false;
  for (float lane : x.v) any |= lane > bound;
  return any;
}
OPERATION bool any_magnitude_above(F16 x, float bound) {
  bool any = false;
  for (float lane : x.v) any |= lane > bound || lane < -bound;
  return any;
}

OPERATION float half_to_float(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31, fraction = half & 0x3FFu;
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * static_cast<float>(fraction) * 0x1p-24f;
  const uint32_t bits = sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | (fraction << 13);
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
OPERATION float brain_to_float(uint16_t brain) {
  const uint32_t bits = static_cast<uint32_t>(brain) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
OPERATION F16 load_half(const uint16_t* p) {
  uint16_t halves[16];
  std::memcpy(halves, p, 32);
  return each<F16>([&](int i) { return half_to_float(halves[i]); });
}

OPERATION I16 set1_i(int x) {
  return each<I16>([&](int) { return x; });
}
OPERATION I16 add_i(I16 x, I16 y) {
  return each<I16>([&](int i) { return x.v[i] + y.v[i]; });
}
OPERATION I16 sub_i(I16 x, I16 y) {
  return each<I16>([&](int i) { return x.v[i] - y.v[i]; });
}
template <int n> OPERATION I16 left_i(I16 x) {
  return each<I16>([&](int i) { return x.v[i] * (1 << n); });
}
template <int n> OPERATION I16 right_i(I16 x) {
  return each<I16>([&](int i) { return x.v[i] >> n; });
}
OPERATION F16 to_float(I16 x) {
  return each<F16>([&](int i) { return static_cast<float>(x.v[i]); });
}
OPERATION I16 magnitude_bits(F16 x) {
  I16 bits;
  std::memcpy(bits.v, x.v, 64);
  return each<I16>([&](int i) { return bits.v[i] & 0x7FFFFFFF; });
}
OPERATION I16 max_i(I16 x, I16 y) {
  return each<I16>([&](int i) { return x.v[i] > y.v[i] ? x.v[i] : y.v[i]; });
}
OPERATION int reduce_max(I16 x) {
  int result = x.v[0];
  for (int lane : x.v) result = lane > result ? lane : result;
  return result;
}
OPERATION int reduce_add(I16 x) {
  int result = 0;
  for (int lane : x.v) result += lane;
  return result;
}
OPERATION I16 round_f(F16 x) {
  return each<I16>([&](int i) { return static_cast<int>(std::nearbyintf(x.v[i])); });
}
OPERATION void store_low_bytes(uint8_t* p, I16 x) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<uint8_t>(x.v[i]);
}

OPERATION B64 load_b(const uint8_t* p) {
  return each<B64>([&](int i) { return p[i]; });
}
OPERATION void store_b(uint8_t* p, B64 x) { std::memcpy(p, x.v, 64); }
OPERATION B64 set1_b(int x) {
  return each<B64>([&](int) { return static_cast<uint8_t>(x); });
}
OPERATION B64 and_b(B64 x, B64 y) {
  return each<B64>([&](int i) -> uint8_t { return x.v[i] & y.v[i]; });
}
OPERATION B64 or_b(B64 x, B64 y) {
  return each<B64>([&](int i) -> uint8_t { return x.v[i] | y.v[i]; });
}
OPERATION B64 xor_b(B64 x, B64 y) {
  return each<B64>([&](int i) -> uint8_t { return x.v[i] ^ y.v[i]; });
}
OPERATION B64 sub_b(B64 x, B64 y) {
  return each<B64>([&](int i) -> uint8_t { return x.v[i] - y.v[i]; });
}
// Byte by byte here: the kernels mask away whatever another instruction set shifts in from the neighbour.
template <int n> OPERATION B64 right_words(B64 x) {
  return each<B64>([&](int i) -> uint8_t { return x.v[i] >> n; });
}
template <int n> OPERATION B64 left_words(B64 x) {
  return each<B64>([&](int i) -> uint8_t { return x.v[i] << n; });
}
OPERATION B64 low_nibbles(B64 x) { return and_b(x, set1_b(0x0F)); }
OPERATION B64 high_nibbles(B64 x) { return right_words<4>(x); }
OPERATION B64 nibble_values(B64 x) {
  return each<B64>([&](int i) -> uint8_t { return ((x.v[i] >> 4) ^ 8) - 8; });
}
OPERATION B64 low_nibble_values(B64 x) { return nibble_values(left_words<4>(x)); }
OPERATION B64 add_where_equal(B64 acc, B64 x, B64 y, B64 w) {
  return each<B64>([&](int i) -> uint8_t { return acc.v[i] + (x.v[i] == y.v[i] ? w.v[i] : 0); });
}

template <int bits> OPERATION I16 dwords(B64 x) {
  return each<I16>([&](int i) { return static_cast<int32_t>(x.v[4 * i + bits / 8] >> (bits % 8)); });
}
OPERATION F16 lookup(F16 table, I16 index) {
  return each<F16>([&](int i) { return table.v[index.v[i] & 15]; });
}
template <int j> OPERATION F16 column(B64 x) {
  return each<F16>([&](int i) { return static_cast<float>(static_cast<int8_t>(x.v[4 * i + j])); });
}
OPERATION I16 dot(I16 acc, B64 u, B64 s) {
  for (int i = 0; i < 64; ++i) acc.v[i / 4] += u.v[i] * static_cast<int8_t>(s.v[i]);
  return acc;
}
OPERATION I16 dot_small(I16 acc, B64 u, B64 s) { return dot(acc, u, s); }
OPERATION B64 broadcast4(const uint8_t* p) {
  return each<B64>([&](int i) { return p[i & 3]; });
}
template <bool small> OPERATION I16 dot_word(I16 acc, B64 u, const uint8_t* p) {
  return small ? dot_small(acc, u, broadcast4(p)) : dot(acc, u, broadcast4(p));
}
OPERATION B64 broadcast16(const uint8_t* p) {
  return each<B64>([&](int i) { return p[i & 15]; });
}
OPERATION B64 shuffle16(B64 table, B64 index) {
  return each<B64>([&](int i) { return table.v[(i & 48) | (index.v[i] & 15)]; });
}
OPERATION B64 broadcast8(const uint8_t* p) {
  return each<B64>([&](int i) { return p[i & 7]; });
}
OPERATION B64 shuffle_low(B64 table, B64 index) { return shuffle16(table, index); }
OPERATION B64 load_nibbles(const uint8_t* p) {
  return each<B64>([&](int i) -> uint8_t { return (p[i / 2] >> (4 * (i & 1))) & 15; });
}

OPERATION B64 mask_columns(const uint8_t* masks) {
  B64 result = set1_b(0);
  for (int row = 0; row < 16; ++row)
    for (int column = 0, next = 0; column < 8; ++column)
      if ((masks[row] >> column) & 1 && next < 4) result.v[4 * row + next++] = static_cast<uint8_t>(column);
  return result;
}

OPERATION B64 expand_bytes(const uint8_t* bits, const uint8_t*& p) {
  uint64_t mask;
  std::memcpy(&mask, bits, 8);
  B64 result = set1_b(0);
  for (; mask; mask &= mask - 1) result.v[__builtin_ctzll(mask)] = *p++;
  return result;
}
template <bool brain> OPERATION void load_half_columns(const uint8_t* p, F16 c[4]) {
  for (int lane = 0; lane < 64; ++lane) {
    uint16_t half;
    std::memcpy(&half, p + 2 * lane, 2);
    c[lane & 3].v[lane >> 2] = brain ? brain_to_float(half) : half_to_float(half);
  }
}
template <bool brain> OPERATION void expand_half_columns(uint64_t mask, const uint8_t*& p, F16 c[4]) {
  uint8_t lanes[128] = {};
  for (; mask; mask &= mask - 1, p += 2) std::memcpy(lanes + 2 * __builtin_ctzll(mask), p, 2);
  load_half_columns<brain>(lanes, c);
}
OPERATION void expand_float_columns(uint64_t mask, const uint8_t*& p, F16 c[4]) {
  for (int j = 0; j < 4; ++j) c[j] = zero_f();
  for (; mask; mask &= mask - 1, p += 4) {
    const int lane = __builtin_ctzll(mask);
    std::memcpy(&c[lane & 3].v[lane >> 2], p, 4);
  }
}

// ---- what the engine needs beside products ----

OPERATION F16 as_float(I16 bits) {
  F16 result;
  std::memcpy(result.v, bits.v, 64);
  return result;
}
OPERATION float reduce_add_f(F16 x) {
  float sum = 0;
  for (float lane : x.v) sum += lane;
  return sum;
}
OPERATION float reduce_max_f(F16 x) {
  float largest = x.v[0];
  for (float lane : x.v) largest = lane > largest ? lane : largest;
  return largest;
}
OPERATION F16 load_brain(const uint16_t* p) {
  return each<F16>([&](int i) { return brain_to_float(p[i]); });
}
OPERATION F16 load_int8(const int8_t* p) {
  return each<F16>([&](int i) { return static_cast<float>(p[i]); });
}
// Rounds half to even; what is too large becomes infinity.
OPERATION uint16_t float_to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  if (magnitude >= 0x7F800000u)
    return static_cast<uint16_t>(sign | (magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u));
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);
  if (magnitude < 0x38800000u) {  // below the normal numbers: a multiple of 2^-24
    const float units = std::nearbyintf(std::fabs(x) * 0x1p24f);
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(units));
  }
  const uint32_t rebased = magnitude - 0x38000000u, odd = (rebased >> 13) & 1;
  return static_cast<uint16_t>(sign | ((rebased + 0x0FFFu + odd) >> 13));
}
OPERATION void store_half(uint16_t* p, F16 v) {
  for (int i = 0; i < 16; ++i) p[i] = float_to_half(v.v[i]);
}

}  // namespace
}  // namespace gossamer

#undef OPERATION

#include "kernels/long_sums.h"
#include "kernels/whole_sums.h"
