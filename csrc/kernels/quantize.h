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
GOSSAMER_INLINE void quantize_vectors(const float* x, float scale, float inverse, I16 codes[count]) {
  F16 distance = zero_f();
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
  if (plan.granule >= 16) {
    const int64_t inside = column % plan.granule;
    uint8_t* out = codes + (column - inside) * plan.tokens + t * plan.granule + inside;
    return store_low_bytes(out, plan.is_unsigned ? add_i(code, set1_i(128)) : code);
  }
  uint8_t* out = codes + column * plan.tokens + t * plan.granule;
  if (plan.tokens == 1) return store_low_bytes(out, code);
  alignas(16) uint8_t bytes[16];
  store_low_bytes(bytes, code);
  for (int g = 0; g < 16; g += 4) std::memcpy(out + g * plan.tokens, bytes + g, 4);
}

// The run that begins at `column` of a row, of which `padded` takes a copy where it goes beyond the last column.
template <int run>
GOSSAMER_INLINE const float* run_at(const QuantizePlan& plan, const float* row, int64_t column,
                                    float padded[run]) {
  const int64_t left = plan.columns - column;
  if (left >= run) return row + column;
  for (int64_t i = 0; i < run; ++i) padded[i] = i < left ? row[column + i] : 0.0f;
  return padded;
}

// NaN when one of the values is no number.
template <int run> GOSSAMER_INLINE float largest_magnitude(const float* x) {
  I16 bits = magnitude_bits(load_f(x));
  for (int i = 16; i < run; i += 16) bits = max_i(bits, magnitude_bits(load_f(x + i)));
  const int largest_bits = reduce_max(bits);
  float largest;
  std::memcpy(&largest, &largest_bits, 4);
  return largest_bits < 0x7F800000 ? largest : __builtin_nanf("");
}

// One run of columns that share a scale, for token t; the run begins at `column`.
template <int run>
GOSSAMER_INLINE void quantize_run(const QuantizePlan& plan, const float* x, float scale, float inverse,
                                  int64_t column, int t, uint8_t* codes, float* scales, int32_t* starts) {
  I16 code[run / 16];
  for (I16& c : code) c = set1_i(0);
  if (scale > 0) quantize_vectors<run / 16>(x, scale, inverse, code);
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

// Sixteen runs at a time: first all scales, then all codes, so that no run waits for the divisions of another.
template <int run>
void quantize_row(const QuantizePlan& plan, const float* row, int t, uint8_t* codes, float* scales,
                  int32_t* starts) {
  alignas(64) float padded[run], scale[16] = {}, inverse[16];
  for (int64_t begin = 0; begin < plan.padded_columns; begin += 16 * run) {
    const int64_t left = (plan.padded_columns - begin) / run;
    const int count = static_cast<int>(left < 16 ? left : 16);
    for (int r = 0; r < count; ++r)
      scale[r] = largest_magnitude<run>(run_at<run>(plan, row, begin + r * run, padded));
    const F16 all = div_f(load_f(scale), set1_f(127.0f));
    store_f(scale, all);
    store_f(inverse, div_f(set1_f(1.0f), all));
    for (int r = 0; r < count; ++r) {
      const int64_t column = begin + r * run;
      quantize_run<run>(plan, run_at<run>(plan, row, column, padded), scale[r], inverse[r], column, t, codes,
                        scales, starts);
    }
  }
}

void quantize(const QuantizePlan& plan, const float* x, uint8_t* codes, float* scales, int32_t* starts) {
  for (int t = 0; t < plan.tokens; ++t) {
    if (plan.scale_columns == 64) quantize_row<64>(plan, x + t * plan.columns, t, codes, scales, starts);
    else quantize_row<32>(plan, x + t * plan.columns, t, codes, scales, starts);
  }
}

}  // namespace
}  // namespace gossamer
