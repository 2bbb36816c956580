// Attention over the paged cache, with a running softmax from block to block, and the writing of the cache.
//
// Keys lie transposed, so that sixteen tokens are scored at once and no lane is ever summed across. A row's result does not
// depend on which rows are computed beside it.
#pragma once

#include "kernels/consume.h"
#include "kernels/elementwise.h"

namespace gossamer {
namespace {

constexpr float kNever = -1e30f;  // smaller than any score, and finite: differences stay numbers

template <bool int8> GOSSAMER_INLINE F16 load_cells(const uint8_t* cells, int64_t index) {
  if constexpr (int8) return load_int8(reinterpret_cast<const int8_t*>(cells) + index);
  else return load_half(reinterpret_cast<const uint16_t*>(cells) + index);
}

struct BlockView {
  const uint8_t *keys, *values;
  const float *key_scales, *value_scales;  // int8 only

  GOSSAMER_INLINE BlockView(const CacheShape& shape, const uint8_t* block) : keys(block) {
    values = block + shape.cells() * (shape.int8 ? 1 : 2);
    key_scales = reinterpret_cast<const float*>(block + 2 * shape.cells());
    value_scales = key_scales + kCacheTokens;
  }
};

// scores[t][token] of one block, before the mask.
template <int size, bool int8>
GOSSAMER_INLINE void score_block(const AttentionRows& a, const BlockView& block, float scores[][kCacheTokens]) {
  F16 acc[size][2];
  unroll<size>([&](auto t) GOSSAMER_LAMBDA { acc[t][0] = acc[t][1] = zero_f(); });
  for (int64_t d = 0; d < a.shape.head_dim; ++d) {
    const F16 k0 = load_cells<int8>(block.keys, d * kCacheTokens), k1 = load_cells<int8>(block.keys, d * kCacheTokens + 16);
    unroll<size>([&](auto t) GOSSAMER_LAMBDA {
      const F16 q = set1_f(a.query[t][d]);
      acc[t][0] = fma_f(k0, q, acc[t][0]);
      acc[t][1] = fma_f(k1, q, acc[t][1]);
    });
  }
  F16 scale[2] = {set1_f(a.scale), set1_f(a.scale)};
  if constexpr (int8)
    for (int h = 0; h < 2; ++h) scale[h] = mul_f(scale[h], load_f(block.key_scales + 16 * h));
  unroll<size>([&](auto t) GOSSAMER_LAMBDA {
    store_f(scores[t], mul_f(acc[t][0], scale[0]));
    store_f(scores[t] + 16, mul_f(acc[t][1], scale[1]));
  });
}

// out[t] = out[t] * correction[t] + sum over the first `tokens` of weights[t][token] * values[token].
template <int size, bool int8, int width>
GOSSAMER_INLINE void add_values(const BlockView& block, int64_t head_dim, int64_t column, int tokens,
                                const float weights[][kCacheTokens], const float* correction, float out[][kLargestHead]) {
  F16 acc[size][width];
  unroll<size>([&](auto t) GOSSAMER_LAMBDA {
    unroll<width>([&](auto w) GOSSAMER_LAMBDA {
      acc[t][w] = mul_f(load_f(out[t] + column + 16 * w), set1_f(correction[t]));
    });
  });
  for (int token = 0; token < tokens; ++token) {
    F16 v[width];
    unroll<width>([&](auto w) GOSSAMER_LAMBDA {
      v[w] = load_cells<int8>(block.values, token * head_dim + column + 16 * w);
    });
    unroll<size>([&](auto t) GOSSAMER_LAMBDA {
      const F16 p = set1_f(weights[t][token]);
      unroll<width>([&](auto w) GOSSAMER_LAMBDA { acc[t][w] = fma_f(v[w], p, acc[t][w]); });
    });
  }
  unroll<size>([&](auto t) GOSSAMER_LAMBDA {
    unroll<width>([&](auto w) GOSSAMER_LAMBDA { store_f(out[t] + column + 16 * w, acc[t][w]); });
  });
}

template <int size, bool int8>
void attend_block_rows(const AttentionRows& a) {
  alignas(64) float scores[size][kCacheTokens], out[size][kLargestHead] = {};
  float largest[size], sum[size], correction[size];
  int64_t first = a.first[0], last = a.last[0];
  for (int t = 0; t < size; ++t) {
    largest[t] = kNever, sum[t] = 0;
    first = a.first[t] < first ? a.first[t] : first;
    last = a.last[t] > last ? a.last[t] : last;
  }
  for (int64_t b = first / kCacheTokens; b * kCacheTokens < last; ++b) {
    const BlockView block(a.shape, a.base + a.blocks[b] * a.block_bytes);
    const int64_t start = b * kCacheTokens;
    const int tokens = static_cast<int>(smaller(kCacheTokens, last - start));
    score_block<size, int8>(a, block, scores);
    for (int t = 0; t < size; ++t) {
      for (int64_t i = 0; i < a.first[t] - start && i < kCacheTokens; ++i) scores[t][i] = 2 * kNever;
      for (int64_t i = a.last[t] > start ? a.last[t] - start : 0; i < kCacheTokens; ++i) scores[t][i] = 2 * kNever;
      const F16 s0 = load_f(scores[t]), s1 = load_f(scores[t] + 16);
      const float now = reduce_max_f(max_f(max_f(s0, s1), set1_f(largest[t])));
      correction[t] = 1;
      if (now > largest[t]) {
        float lanes[kLanes];
        store_f(lanes, exp_f(set1_f(largest[t] - now)));
        correction[t] = lanes[0];
        largest[t] = now;
      }
      const F16 p0 = exp_f(sub_f(s0, set1_f(now))), p1 = exp_f(sub_f(s1, set1_f(now)));
      sum[t] = sum[t] * correction[t] + reduce_add_f(add_f(p0, p1));
      store_f(scores[t], int8 ? mul_f(p0, load_f(block.value_scales)) : p0);
      store_f(scores[t] + 16, int8 ? mul_f(p1, load_f(block.value_scales + 16)) : p1);
    }
    int64_t column = 0;
    for (; column + 32 <= a.shape.head_dim; column += 32)
      add_values<size, int8, 2>(block, a.shape.head_dim, column, tokens, scores, correction, out);
    if (column < a.shape.head_dim)
      add_values<size, int8, 1>(block, a.shape.head_dim, column, tokens, scores, correction, out);
  }
  for (int t = 0; t < size; ++t) {
    const F16 factor = set1_f(1.0f / sum[t]);
    for (int64_t d = 0; d < a.shape.head_dim; d += 16) store_f(a.out[t] + d, mul_f(load_f(out[t] + d), factor));
  }
}

template <bool int8> void attend_cells(const AttentionRows& all) {
  AttentionRows part = all;
  for (int done = 0; done < all.rows;) {
    const int left = all.rows - done, size = left >= 8 ? 8 : left >= 4 ? 4 : left == 3 ? 3 : left;
    for (int t = 0; t < size; ++t) {
      part.query[t] = all.query[done + t], part.out[t] = all.out[done + t];
      part.first[t] = all.first[done + t], part.last[t] = all.last[done + t];
    }
    switch (size) {
      case 8: attend_block_rows<8, int8>(part); break;
      case 4: attend_block_rows<4, int8>(part); break;
      case 3: attend_block_rows<3, int8>(part); break;
      case 2: attend_block_rows<2, int8>(part); break;
      default: attend_block_rows<1, int8>(part);
    }
    done += size;
  }
}

void attend_rows(const AttentionRows& a) { a.shape.int8 ? attend_cells<true>(a) : attend_cells<false>(a); }

// ---- writing --------------------------------------------------------------------------------------------------------

// Rounds to int8 and returns the scale, as the activations of products are rounded.
GOSSAMER_INLINE float round_head(const float* x, int64_t head_dim, int8_t* codes) {
  I16 bits = set1_i(0);
  for (int64_t d = 0; d < head_dim; d += 16) bits = max_i(bits, magnitude_bits(load_f(x + d)));
  const int largest_bits = reduce_max(bits);
  float largest;
  std::memcpy(&largest, &largest_bits, 4);
  const float scale = largest / 127.0f, inverse = scale >= 1e-30f ? 1.0f / scale : 0.0f;
  for (int64_t d = 0; d < head_dim; d += 16)
    store_low_bytes(reinterpret_cast<uint8_t*>(codes) + d, round_f(mul_f(load_f(x + d), set1_f(inverse))));
  return scale;
}

void append_cache(const CacheShape& shape, const float* key, const float* value, int token, uint8_t* block) {
  const int64_t size = shape.head_dim, cells = shape.cells();
  if (shape.int8) {
    int8_t codes[kLargestHead];
    float* scales = reinterpret_cast<float*>(block + 2 * cells);
    scales[token] = round_head(key, size, codes);
    int8_t* keys = reinterpret_cast<int8_t*>(block);
    for (int64_t d = 0; d < size; ++d) keys[d * kCacheTokens + token] = codes[d];
    scales[kCacheTokens + token] = round_head(value, size, keys + cells + token * size);
    return;
  }
  uint16_t halves[kLargestHead];
  for (int64_t d = 0; d < size; d += 16) store_half(halves + d, load_f(key + d));
  uint16_t* keys = reinterpret_cast<uint16_t*>(block);
  for (int64_t d = 0; d < size; ++d) keys[d * kCacheTokens + token] = halves[d];
  for (int64_t d = 0; d < size; d += 16) store_half(keys + cells + token * size + d, load_f(value + d));
}

}  // namespace
}  // namespace gossamer
