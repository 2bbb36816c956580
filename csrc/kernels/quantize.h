// int8 activations: symmetric, one float32 scale for 64 (or 32) columns of a token.
//
//   scale = max|x| / 127 (float32), code = round half to even(x / scale), limited to +-127; a run of zeros has scale 0.
// A run with NaN or infinity gets the scale NaN, so that it shows in the result.
// Included by one translation unit per instruction set, after its simd_*.h.
#pragma once

#include "kernels/table.h"

namespace gossamer {
namespace {

constexpr float kTinyScale = 1e-30f;

// The codes of `count` vectors of 16 values. Multiplying by the reciprocal is much faster than dividing and differs only
// next to a tie, where we divide after all: codes are exactly those of the definition.
template <int count>
GOSSAMER_INLINE void quantize_vectors(const float* x, float scale, I16 codes[count]) {
  F16 distance = zero_f();
  const float inverse = 1.0f / scale;
  for (int i = 0; i < count; ++i) {
    const F16 quotient = mul_f(load_f(x + 16 * i), set1_f(inverse));
    codes[i] = round_f(quotient);
    const F16 rest = sub_f(quotient, to_float(codes[i]));
    distance = max_f(distance, mul_f(rest, rest));
  }
  if (scale >= kTinyScale && !any_magnitude_above(distance, 0.4998f * 0.4998f)) return;
  for (int i = 0; i < count; ++i) {
    const F16 quotient = div_f(load_f(x + 16 * i), set1_f(scale));
    codes[i] = round_f(max_f(min_f(quotient, set1_f(127.0f)), set1_f(-127.0f)));
  }
}

// 16 codes from `column` on, in the order of the block.
GOSSAMER_INLINE void store_codes(const QuantizePlan& plan, I16 code, int64_t column, int t, uint8_t* codes) {
  uint8_t* out = codes + column * plan.tokens + t * plan.granule;
  if (plan.is_unsigned) return store_low_bytes(out, add_i(code, set1_i(128)));  // granule 16
  if (plan.tokens == 1) return store_low_bytes(out, code);
  alignas(16) uint8_t bytes[16];
  store_low_bytes(bytes, code);
  for (int g = 0; g < 16; g += 4) std::memcpy(out + g * plan.tokens, bytes + g, 4);
}

// One run of columns that share a scale, for token t; the run begins at `column`.
template <int run>
GOSSAMER_INLINE void quantize_run(const QuantizePlan& plan, const float* x, int64_t column, int t, uint8_t* codes,
                                  float* scales, int32_t* starts) {
  alignas(64) float padded[run] = {};
  const int64_t left = plan.columns - column;
  const float* source = x + column;
  if (left < run) {
    for (int64_t i = 0; i < left; ++i) padded[i] = source[i];
    source = padded;
  }
  I16 bits = magnitude_bits(load_f(source));
  for (int i = 16; i < run; i += 16) bits = max_i(bits, magnitude_bits(load_f(source + i)));
  const int largest_bits = reduce_max(bits);
  const bool finite = largest_bits < 0x7F800000;
  float largest;
  std::memcpy(&largest, &largest_bits, 4);
  const float scale = finite ? largest / 127.0f : __builtin_nanf("");
  I16 code[run / 16];
  for (I16& c : code) c = set1_i(0);
  if (finite && scale != 0.0f) quantize_vectors<run / 16>(source, scale, code);
  I16 sum = set1_i(0);
  for (int i = 0; i < run; i += 16) {
    store_codes(plan, code[i / 16], column + i, t, codes);
    sum = add_i(sum, code[i / 16]);
    if ((i + 16) % plan.fold_columns != 0) continue;
    const int64_t slot = (column + i) / plan.fold_columns * plan.tokens + t;
    scales[slot] = scale;
    if (!plan.is_unsigned) starts[slot] = -plan.zero * reduce_add(sum);
    sum = set1_i(0);
  }
}

void quantize(const QuantizePlan& plan, const float* x, uint8_t* codes, float* scales, int32_t* starts) {
  for (int t = 0; t < plan.tokens; ++t)
    for (int64_t column = 0; column < plan.padded_columns; column += plan.scale_columns) {
      const float* row = x + t * plan.columns;
      if (plan.scale_columns == 64) quantize_run<64>(plan, row, column, t, codes, scales, starts);
      else quantize_run<32>(plan, row, column, t, codes, scales, starts);
    }
}

}  // namespace
}  // namespace gossamer
