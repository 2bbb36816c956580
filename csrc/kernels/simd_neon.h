// The vector operations of the kernels in NEON (Armv8.2 with dotprod): four 16-byte registers for each of the 64-byte vectors
// of simd_avx512.h, rows 0-3, 4-7, 8-11, 12-15. `sdot` multiplies signed bytes only: kSignedDot.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "core/inline.h"
#include "kernels/mask_tables.h"
#include "kernels/unroll.h"

namespace gossamer {
namespace {  // each instruction set has its own copy: shared inline functions would mix instruction sets at link time

struct F16 { float32x4_t v[4]; };
struct I16 { int32x4_t v[4]; };
struct B64 { uint8x16_t v[4]; };

constexpr bool kSignedDot = true;
constexpr int kLargestBlock = 4;
constexpr int kSweepQuads = 8;
constexpr float kColumnUnit = 1.0f;
constexpr int kHighShift = 0;
constexpr float kNibbleUnit = 1.0f;

template <class V, class F> GOSSAMER_INLINE V each(const F& f) {
  return {{f(Const<0>{}), f(Const<1>{}), f(Const<2>{}), f(Const<3>{})}};
}

GOSSAMER_INLINE F16 set1_f(float x) {
  return each<F16>([&](auto) GOSSAMER_LAMBDA { return vdupq_n_f32(x); });
}
GOSSAMER_INLINE F16 zero_f() { return set1_f(0); }
GOSSAMER_INLINE F16 load_f(const float* p) {
  return each<F16>([&](auto i) GOSSAMER_LAMBDA { return vld1q_f32(p + 4 * i); });
}
GOSSAMER_INLINE void store_f(float* p, F16 x) {
  unroll<4>([&](auto i) GOSSAMER_LAMBDA { vst1q_f32(p + 4 * i, x.v[i]); });
}
GOSSAMER_INLINE F16 add_f(F16 x, F16 y) {
  return each<F16>([&](auto i) GOSSAMER_LAMBDA { return vaddq_f32(x.v[i], y.v[i]); });
}
GOSSAMER_INLINE F16 sub_f(F16 x, F16 y) {
  return each<F16>([&](auto i) GOSSAMER_LAMBDA { return vsubq_f32(x.v[i], y.v[i]); });
}
GOSSAMER_INLINE F16 mul_f(F16 x, F16 y) {
  return each<F16>([&](auto i) GOSSAMER_LAMBDA { return vmulq_f32(x.v[i], y.v[i]); });
}
GOSSAMER_INLINE F16 div_f(F16 x, F16 y) {
  return each<F16>([&](auto i) GOSSAMER_LAMBDA { return vdivq_f32(x.v[i], y.v[i]); });
}
GOSSAMER_INLINE F16 fma_f(F16 x, F16 y, F16 z) {
  return each<F16>([&](auto i) GOSSAMER_LAMBDA { return vfmaq_f32(z.v[i], x.v[i], y.v[i]); });
}
// Of x and NaN, the second, as on the other levels (`fmin` and `fmax` would give NaN).
GOSSAMER_INLINE F16 min_f(F16 x, F16 y) {
  return each<F16>([&](auto i)
                       GOSSAMER_LAMBDA { return vbslq_f32(vcltq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]); });
}
GOSSAMER_INLINE F16 max_f(F16 x, F16 y) {
  return each<F16>([&](auto i)
                       GOSSAMER_LAMBDA { return vbslq_f32(vcgtq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]); });
}
GOSSAMER_INLINE bool any_above(F16 x, float bound) {
  const float32x4_t limit = vdupq_n_f32(bound);
  const uint32x4_t low = vorrq_u32(vcgtq_f32(x.v[0], limit), vcgtq_f32(x.v[1], limit));
  const uint32x4_t high = vorrq_u32(vcgtq_f32(x.v[2], limit), vcgtq_f32(x.v[3], limit));
  return vmaxvq_u32(vorrq_u32(low, high)) != 0;
}
GOSSAMER_INLINE bool any_magnitude_above(F16 x, float bound) {
  return any_above(each<F16>([&](auto i) GOSSAMER_LAMBDA { return vabsq_f32(x.v[i]); }), bound);
}
GOSSAMER_INLINE float16x4_t as_halves(uint16x4_t bits) { return vreinterpret_f16_u16(bits); }
GOSSAMER_INLINE F16 load_half(const uint16_t* p) {
  return each<F16>([&](auto i) GOSSAMER_LAMBDA { return vcvt_f32_f16(as_halves(vld1_u16(p + 4 * i))); });
}

GOSSAMER_INLINE I16 set1_i(int x) {
  return each<I16>([&](auto) GOSSAMER_LAMBDA { return vdupq_n_s32(x); });
}
GOSSAMER_INLINE I16 add_i(I16 x, I16 y) {
  return each<I16>([&](auto i) GOSSAMER_LAMBDA { return vaddq_s32(x.v[i], y.v[i]); });
}
GOSSAMER_INLINE I16 sub_i(I16 x, I16 y) {
  return each<I16>([&](auto i) GOSSAMER_LAMBDA { return vsubq_s32(x.v[i], y.v[i]); });
}
template <int n> GOSSAMER_INLINE I16 left_i(I16 x) {
  if constexpr (n == 0) return x;
  else return each<I16>([&](auto i) GOSSAMER_LAMBDA { return vshlq_n_s32(x.v[i], n); });
}
template <int n> GOSSAMER_INLINE I16 right_i(I16 x) {
  if constexpr (n == 0) return x;
  else return each<I16>([&](auto i) GOSSAMER_LAMBDA { return vshrq_n_s32(x.v[i], n); });
}
GOSSAMER_INLINE F16 to_float(I16 x) {
  return each<F16>([&](auto i) GOSSAMER_LAMBDA { return vcvtq_f32_s32(x.v[i]); });
}
GOSSAMER_INLINE I16 magnitude_bits(F16 x) {
  return each<I16>([&](auto i) GOSSAMER_LAMBDA { return vreinterpretq_s32_f32(vabsq_f32(x.v[i])); });
}
GOSSAMER_INLINE I16 max_i(I16 x, I16 y) {
  return each<I16>([&](auto i) GOSSAMER_LAMBDA { return vmaxq_s32(x.v[i], y.v[i]); });
}
GOSSAMER_INLINE int reduce_max(I16 x) {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.v[0], x.v[1]), vmaxq_s32(x.v[2], x.v[3])));
}
GOSSAMER_INLINE int reduce_add(I16 x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3])));
}
GOSSAMER_INLINE I16 round_f(F16 x) {
  return each<I16>([&](auto i) GOSSAMER_LAMBDA { return vcvtnq_s32_f32(x.v[i]); });
}
GOSSAMER_INLINE void store_low_bytes(uint8_t* p, I16 x) {
  const int16x8_t low = vcombine_s16(vmovn_s32(x.v[0]), vmovn_s32(x.v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(x.v[2]), vmovn_s32(x.v[3]));
  vst1q_u8(p, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(low), vmovn_s16(high))));
}

GOSSAMER_INLINE B64 load_b(const uint8_t* p) {
  return each<B64>([&](auto i) GOSSAMER_LAMBDA { return vld1q_u8(p + 16 * i); });
}
GOSSAMER_INLINE void store_b(uint8_t* p, B64 x) {
  unroll<4>([&](auto i) GOSSAMER_LAMBDA { vst1q_u8(p + 16 * i, x.v[i]); });
}
GOSSAMER_INLINE B64 set1_b(int x) {
  return each<B64>([&](auto) GOSSAMER_LAMBDA { return vdupq_n_u8(static_cast<uint8_t>(x)); });
}
GOSSAMER_INLINE B64 and_b(B64 x, B64 y) {
  return each<B64>([&](auto i) GOSSAMER_LAMBDA { return vandq_u8(x.v[i], y.v[i]); });
}
GOSSAMER_INLINE B64 or_b(B64 x, B64 y) {
  return each<B64>([&](auto i) GOSSAMER_LAMBDA { return vorrq_u8(x.v[i], y.v[i]); });
}
GOSSAMER_INLINE B64 xor_b(B64 x, B64 y) {
  return each<B64>([&](auto i) GOSSAMER_LAMBDA { return veorq_u8(x.v[i], y.v[i]); });
}
GOSSAMER_INLINE B64 sub_b(B64 x, B64 y) {
  return each<B64>([&](auto i) GOSSAMER_LAMBDA { return vsubq_u8(x.v[i], y.v[i]); });
}
// Byte by byte here: the kernels mask away whatever another instruction set shifts in from the neighbour.
template <int n> GOSSAMER_INLINE B64 right_words(B64 x) {
  if constexpr (n == 0) return x;
  else return each<B64>([&](auto i) GOSSAMER_LAMBDA { return vshrq_n_u8(x.v[i], n); });
}
template <int n> GOSSAMER_INLINE B64 left_words(B64 x) {
  return each<B64>([&](auto i) GOSSAMER_LAMBDA { return vshlq_n_u8(x.v[i], n); });
}
GOSSAMER_INLINE B64 low_nibbles(B64 x) { return and_b(x, set1_b(0x0F)); }
GOSSAMER_INLINE B64 high_nibbles(B64 x) { return right_words<4>(x); }
GOSSAMER_INLINE int8x16_t as_signed(uint8x16_t x) { return vreinterpretq_s8_u8(x); }
GOSSAMER_INLINE B64 nibble_values(B64 x) {
  return each<B64>([&](auto i)
                       GOSSAMER_LAMBDA { return vreinterpretq_u8_s8(vshrq_n_s8(as_signed(x.v[i]), 4)); });
}
GOSSAMER_INLINE B64 low_nibble_values(B64 x) { return nibble_values(left_words<4>(x)); }
GOSSAMER_INLINE B64 add_where_equal(B64 acc, B64 x, B64 y, B64 w) {
  return each<B64>(
      [&](auto i) GOSSAMER_LAMBDA { return vaddq_u8(acc.v[i], vandq_u8(vceqq_u8(x.v[i], y.v[i]), w.v[i])); });
}

template <int bits> GOSSAMER_INLINE I16 dwords(B64 x) {
  return right_i<bits>(each<I16>([&](auto i) GOSSAMER_LAMBDA { return vreinterpretq_s32_u8(x.v[i]); }));
}
GOSSAMER_INLINE F16 lookup(F16 table, I16 index) {
  uint8x16x4_t bytes;
  unroll<4>([&](auto i) GOSSAMER_LAMBDA { bytes.val[i] = vreinterpretq_u8_f32(table.v[i]); });
  const uint32x4_t first = vdupq_n_u32(0x03020100), each_byte = vdupq_n_u32(0x04040404);
  return each<F16>([&](auto i) GOSSAMER_LAMBDA {
    const uint32x4_t lane = vandq_u32(vreinterpretq_u32_s32(index.v[i]), vdupq_n_u32(15));
    const uint32x4_t pick = vmlaq_u32(first, lane, each_byte);
    return vreinterpretq_f32_u8(vqtbl4q_u8(bytes, vreinterpretq_u8_u32(pick)));
  });
}
template <int j> GOSSAMER_INLINE F16 column(B64 x) {
  const I16 four = dwords<0>(x);
  return to_float(right_i<24>(left_i<24 - 8 * j>(four)));
}

GOSSAMER_INLINE I16 dot(I16 acc, B64 x, B64 y) {
  return each<I16>([&](auto i)
                       GOSSAMER_LAMBDA { return vdotq_s32(acc.v[i], as_signed(x.v[i]), as_signed(y.v[i])); });
}
GOSSAMER_INLINE I16 dot_small(I16 acc, B64 x, B64 y) { return dot(acc, x, y); }

// Sums over a fold, as in dots_avx2.h: codes of 8 bits are multiplied as code - 128, narrower ones are signed as they are.
constexpr int kNarrowestSums = 7;
template <int bits> GOSSAMER_INLINE constexpr int first_sum(int start) { return bits == 8 ? 0 : start; }
// Four words are loaded at once, and one of them multiplied: steps have a multiple of four. In assembly: gcc 12 copies
// accumulators otherwise.
template <int bits, int q, int quads, int word>
GOSSAMER_INLINE void add_products(I16& sum, I16&, B64 codes, const uint8_t* x) {
  const uint8x16_t words = vld1q_u8(x + word / 4 * 16);
  const B64 w = bits == 8 ? xor_b(codes, set1_b(128)) : codes;
  unroll<4>([&](auto i) GOSSAMER_LAMBDA {
    asm("sdot %0.4s, %1.16b, %2.4b[%3]" : "+w"(sum.v[i]) : "w"(w.v[i]), "w"(words), "n"(word % 4));
  });
}

GOSSAMER_INLINE B64 broadcast16(const uint8_t* p) {
  const uint8x16_t all = vld1q_u8(p);
  return {{all, all, all, all}};
}
GOSSAMER_INLINE B64 shuffle16(B64 table, B64 index) {
  return each<B64>([&](auto i) GOSSAMER_LAMBDA { return vqtbl1q_u8(table.v[i], index.v[i]); });
}
GOSSAMER_INLINE B64 broadcast8(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);
  const uint8x16_t all = vreinterpretq_u8_u64(vdupq_n_u64(word));
  return {{all, all, all, all}};
}
GOSSAMER_INLINE B64 shuffle_low(B64 table, B64 index) { return shuffle16(table, low_nibbles(index)); }
GOSSAMER_INLINE B64 load_nibbles(const uint8_t* p) {
  const uint8x16_t first = vld1q_u8(p), second = vld1q_u8(p + 16), mask = vdupq_n_u8(0x0F);
  const uint8x16_t low0 = vandq_u8(first, mask), high0 = vshrq_n_u8(first, 4);
  const uint8x16_t low1 = vandq_u8(second, mask), high1 = vshrq_n_u8(second, 4);
  return {{vzip1q_u8(low0, high0), vzip2q_u8(low0, high0), vzip1q_u8(low1, high1), vzip2q_u8(low1, high1)}};
}

GOSSAMER_INLINE B64 mask_columns(const uint8_t* masks) {
  return each<B64>([&](auto i) GOSSAMER_LAMBDA {
    uint32x4_t rows = vdupq_n_u32(kColumns.columns[masks[4 * i]]);
    rows = vsetq_lane_u32(kColumns.columns[masks[4 * i + 1]], rows, 1);
    rows = vsetq_lane_u32(kColumns.columns[masks[4 * i + 2]], rows, 2);
    return vreinterpretq_u8_u32(vsetq_lane_u32(kColumns.columns[masks[4 * i + 3]], rows, 3));
  });
}

// Byte i: how many bits of the octets 0 to i are set.
GOSSAMER_INLINE uint64_t running_counts(uint64_t mask) {
  const uint8x8_t counts = vcnt_u8(vcreate_u8(mask));
  return vget_lane_u64(vreinterpret_u64_u8(counts), 0) * 0x0101010101010101u;
}
template <int octet> GOSSAMER_INLINE int octet_of(uint64_t word) {
  return static_cast<int>((word >> (8 * octet)) & 0xFF);
}
// How many bits of the octets before this one are set.
template <int octet> GOSSAMER_INLINE int count_before(uint64_t counts) {
  if constexpr (octet == 0) return 0;
  else return octet_of<octet - 1>(counts);
}

template <int octet>
GOSSAMER_INLINE uint8x16_t expand_16(const uint8_t* mask, uint64_t counts, const uint8_t* p) {
  const uint8x16_t next = vld1q_u8(p + count_before<octet>(counts));
  const uint8x16_t low = vld1q_u8(kSpread.low[mask[octet]]), high = vld1q_u8(kSpread.high[mask[octet + 1]]);
  return vqtbl1q_u8(next, vaddq_u8(low, high));
}
GOSSAMER_INLINE B64 expand_bytes(const uint8_t* bits, const uint8_t*& p) {
  uint64_t mask;
  std::memcpy(&mask, bits, 8);
  const uint64_t counts = running_counts(mask);
  const B64 lanes = each<B64>([&](auto i) GOSSAMER_LAMBDA { return expand_16<2 * i>(bits, counts, p); });
  p += octet_of<7>(counts);
  return lanes;
}

template <bool brain> GOSSAMER_INLINE float32x4_t widen(uint16x4_t halves) {
  if constexpr (brain) return vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
  else return vcvt_f32_f16(as_halves(halves));
}
template <bool brain> GOSSAMER_INLINE void load_half_columns(const uint8_t* p, F16 c[4]) {
  const uint16_t* halves = reinterpret_cast<const uint16_t*>(p);
  const uint16x8x4_t top = vld4q_u16(halves), bottom = vld4q_u16(halves + 32);
  unroll<4>([&](auto j) GOSSAMER_LAMBDA {
    c[j] = {{widen<brain>(vget_low_u16(top.val[j])), widen<brain>(vget_high_u16(top.val[j])),
             widen<brain>(vget_low_u16(bottom.val[j])), widen<brain>(vget_high_u16(bottom.val[j]))}};
  });
}
template <bool brain> GOSSAMER_INLINE void expand_half_columns(uint64_t mask, const uint8_t*& p, F16 c[4]) {
  alignas(16) uint8_t lanes[128];
  const uint64_t counts = running_counts(mask);
  unroll<8>([&](auto octet) GOSSAMER_LAMBDA {
    const uint8x8_t lane = vld1_u8(kSpread.low[octet_of<octet>(mask)]), low = vqadd_u8(lane, lane);
    const uint8x8_t high = vqadd_u8(low, vdup_n_u8(1));
    const uint8x16_t next = vld1q_u8(p + 2 * count_before<octet>(counts));
    const uint8x16_t index = vcombine_u8(vzip1_u8(low, high), vzip2_u8(low, high));
    vst1q_u8(lanes + 16 * octet, vqtbl1q_u8(next, index));
  });
  p += 2 * octet_of<7>(counts);
  load_half_columns<brain>(lanes, c);
}
GOSSAMER_INLINE void expand_float_columns(uint64_t mask, const uint8_t*& p, F16 c[4]) {
  alignas(16) float lanes[64] = {};
  for (; mask; mask &= mask - 1, p += 4) std::memcpy(lanes + __builtin_ctzll(mask), p, 4);
  unroll<4>([&](auto i) GOSSAMER_LAMBDA {
    const float32x4x4_t rows = vld4q_f32(lanes + 16 * i);
    unroll<4>([&](auto j) GOSSAMER_LAMBDA { c[j].v[i] = rows.val[j]; });
  });
}

// ---- what the engine needs beside products ----

GOSSAMER_INLINE F16 as_float(I16 bits) {
  return each<F16>([&](auto i) GOSSAMER_LAMBDA { return vreinterpretq_f32_s32(bits.v[i]); });
}
GOSSAMER_INLINE float reduce_add_f(F16 x) {
  return vaddvq_f32(vaddq_f32(vaddq_f32(x.v[0], x.v[1]), vaddq_f32(x.v[2], x.v[3])));
}
GOSSAMER_INLINE float reduce_max_f(F16 x) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[1]), vmaxq_f32(x.v[2], x.v[3])));
}
GOSSAMER_INLINE F16 load_brain(const uint16_t* p) {
  return each<F16>([&](auto i) GOSSAMER_LAMBDA { return widen<true>(vld1_u16(p + 4 * i)); });
}
GOSSAMER_INLINE F16 load_int8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return to_float({{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
                    vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))}});
}
GOSSAMER_INLINE void store_half(uint16_t* p, F16 x) {
  unroll<4>([&](auto i) GOSSAMER_LAMBDA { vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i]))); });
}

}  // namespace
}  // namespace gossamer

#include "kernels/long_sums.h"
