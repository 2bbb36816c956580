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

// The codes of 16 values. Multiplying by the reciprocal is four times faster than dividing and differs only next to a
// tie, where we divide after all: codes are exactly those of the definition.
GOSSAMER_INLINE I16 quantize16(F16 x, float scale, float inverse) {
  if (scale >= kTinyScale) {
    const F16 quotient = mul_f(x, set1_f(inverse));
    const I16 code = round_f(quotient);
    if (!any_magnitude_above(sub_f(quotient, to_float(code)), 0.4998f)) return code;
  }
  const F16 quotient = div_f(x, set1_f(scale));
  return round_f(max_f(min_f(quotient, set1_f(127.0f)), set1_f(-127.0f)));
}

// One run of columns (32 or 64) of token t, whose first column is `column`.
GOSSAMER_INLINE void quantize_run(const QuantizePlan& plan, const float* x, int64_t column, int t, uint8_t* codes,
                                  float* scales, int32_t* sums) {
  alignas(64) float padded[64] = {};
  const int64_t left = plan.columns - column;
  const float* source = x + column;
  if (left < plan.scale_columns) {
    for (int64_t i = 0; i < left; ++i) padded[i] = source[i];
    source = padded;
  }
  I16 bits = magnitude_bits(load_f(source));
  for (int i = 16; i < plan.scale_columns; i += 16) bits = max_i(bits, magnitude_bits(load_f(source + i)));
  const int largest_bits = reduce_max(bits);
  const bool finite = largest_bits < 0x7F800000;
  float largest;
  std::memcpy(&largest, &largest_bits, 4);
  const float scale = finite ? largest / 127.0f : __builtin_nanf("");
  const bool empty = !finite || scale == 0.0f;
  const float inverse = empty ? 0.0f : 1.0f / scale;
  const int zero = plan.is_unsigned ? 128 : 0;
  for (int fold = 0; fold < plan.scale_columns; fold += plan.fold_columns) {
    I16 sum = set1_i(0);
    for (int i = fold; i < fold + plan.fold_columns; i += 16) {
      const I16 code = empty ? set1_i(0) : quantize16(load_f(source + i), scale, inverse);
      sum = add_i(sum, code);
      alignas(16) uint8_t bytes[16];
      store_low_bytes(bytes, add_i(code, set1_i(zero)));
      for (int g = 0; g < 16; g += plan.granule)
        std::memcpy(codes + (column + i + g) * plan.tokens + t * plan.granule, bytes + g, plan.granule == 4 ? 4 : 16);
    }
    const int64_t slot = (column + fold) / plan.fold_columns * plan.tokens + t;
    scales[slot] = scale;
    sums[slot] = reduce_add(sum);
  }
}

void quantize(const QuantizePlan& plan, const float* x, uint8_t* codes, float* scales, int32_t* sums) {
  for (int t = 0; t < plan.tokens; ++t)
    for (int64_t column = 0; column < plan.padded_columns; column += plan.scale_columns)
      quantize_run(plan, x + t * plan.columns, column, t, codes, scales, sums);
}

}  // namespace
}  // namespace gossamer
