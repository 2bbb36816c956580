// Norms, activation functions and sums over one row of floats.
#pragma once

#include "kernels/table.h"
#include "kernels/unroll.h"

namespace gossamer {
namespace {

// e^x to about 2 units in the last place; below -87 (and for -infinity) about 1e-38.
GOSSAMER_INLINE F16 exp_f(F16 x) {
  x = max_f(min_f(x, set1_f(88.0f)), set1_f(-87.0f));
  const I16 n = round_f(mul_f(x, set1_f(1.44269504f)));
  const F16 whole = to_float(n);
  F16 r = fma_f(whole, set1_f(-0.693359375f), x);
  r = fma_f(whole, set1_f(2.12194440e-4f), r);
  F16 p = set1_f(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = fma_f(p, r, set1_f(c));
  p = fma_f(mul_f(r, r), p, add_f(r, set1_f(1.0f)));
  return mul_f(p, as_float(left_i<23>(add_i(n, set1_i(127)))));
}

// Calls f(column) for whole vectors; the rest goes through padded copies.
constexpr int64_t kLanes = 16;

GOSSAMER_INLINE F16 load_some(const float* x, int64_t count) {
  if (count >= kLanes) return load_f(x);
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = x[i];
  return load_f(lanes);
}
GOSSAMER_INLINE void store_some(float* out, int64_t count, F16 v) {
  if (count >= kLanes) return store_f(out, v);
  float lanes[kLanes];
  store_f(lanes, v);
  for (int64_t i = 0; i < count; ++i) out[i] = lanes[i];
}

void norm_row(const RowNorm& norm, const float* x, int64_t size, float* out) {
  float mean = 0;
  if (norm.centred) {
    F16 sum = zero_f();
    for (int64_t i = 0; i < size; i += kLanes) sum = add_f(sum, load_some(x + i, size - i));
    mean = reduce_add_f(sum) / static_cast<float>(size);
  }
  F16 squares = zero_f();
  for (int64_t i = 0; i < size; i += kLanes) {
    const F16 v = sub_f(load_some(x + i, size - i), set1_f(mean));
    squares = fma_f(v, v, squares);
  }
  float total = reduce_add_f(squares);
  if (const int64_t padding = (kLanes - size % kLanes) % kLanes; padding != 0)
    total -= static_cast<float>(padding) * mean * mean;
  const float factor = 1.0f / __builtin_sqrtf(total / static_cast<float>(size) + norm.epsilon);
  for (int64_t i = 0; i < size; i += kLanes) {
    const int64_t left = size - i;
    F16 v = mul_f(sub_f(load_some(x + i, left), set1_f(mean)), set1_f(factor));
    v = mul_f(v, load_some(norm.weight + i, left));
    if (norm.bias != nullptr) v = add_f(v, load_some(norm.bias + i, left));
    store_some(out + i, left, v);
  }
}

GOSSAMER_INLINE F16 sigmoid(F16 x) {
  return div_f(set1_f(1.0f), add_f(set1_f(1.0f), exp_f(sub_f(zero_f(), x))));
}

template <Gate kind> GOSSAMER_INLINE F16 activation(F16 x) {
  if constexpr (kind == Gate::silu) return mul_f(x, sigmoid(x));
  if constexpr (kind == Gate::gelu_tanh) {  // (1 + tanh(u)) / 2 = sigmoid(2u)
    const F16 inner = fma_f(mul_f(mul_f(x, x), x), set1_f(0.044715f), x);
    return mul_f(x, sigmoid(mul_f(inner, set1_f(1.5957691216f))));
  }
  if constexpr (kind == Gate::gelu) {
    float lanes[kLanes];
    store_f(lanes, x);
    for (float& lane : lanes) lane = 0.5f * lane * (1.0f + __builtin_erff(lane * 0.70710678f));
    return load_f(lanes);
  }
  return max_f(x, zero_f());
}

template <Gate kind> void gate_kind(const float* gate, const float* up, int64_t size, float* out) {
  for (int64_t i = 0; i < size; i += kLanes) {
    F16 v = activation<kind>(load_some(gate + i, size - i));
    if (up != nullptr) v = mul_f(v, load_some(up + i, size - i));
    store_some(out + i, size - i, v);
  }
}

void gate_row(Gate kind, const float* gate, const float* up, int64_t size, float* out) {
  switch (kind) {
    case Gate::silu: return gate_kind<Gate::silu>(gate, up, size, out);
    case Gate::gelu_tanh: return gate_kind<Gate::gelu_tanh>(gate, up, size, out);
    case Gate::gelu: return gate_kind<Gate::gelu>(gate, up, size, out);
    case Gate::relu: return gate_kind<Gate::relu>(gate, up, size, out);
  }
}

// -infinity when there is nothing but NaN.
float largest(const float* x, int64_t size) {
  F16 most[4];
  for (F16& each : most) each = set1_f(-__builtin_inff());
  int64_t i = 0;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes)
    unroll<4>([&](auto k) GOSSAMER_LAMBDA {
      most[k] = max_f(load_f(x + i + kLanes * k), most[k]);
    });  // NaN: the second
  float result = reduce_max_f(max_f(max_f(most[0], most[1]), max_f(most[2], most[3])));
  for (; i < size; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

void rotate_head(float* x, const float* cosine, int64_t half) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t left = half - i;
    const F16 a = load_some(x + i, left), b = load_some(x + half + i, left);
    const F16 c = load_some(cosine + i, left), s = load_some(cosine + half + i, left);
    store_some(x + i, left, sub_f(mul_f(a, c), mul_f(b, s)));
    store_some(x + half + i, left, fma_f(b, c, mul_f(a, s)));
  }
}

void add_row(const float* x, int64_t size, float* sum) {
  for (int64_t i = 0; i < size; i += kLanes)
    store_some(sum + i, size - i, add_f(load_some(sum + i, size - i), load_some(x + i, size - i)));
}

}  // namespace
}  // namespace gossamer
