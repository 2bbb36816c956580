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

enum class Cells { float16, int8, float32 };

constexpr int64_t cell_bytes(Cells cells) {
  return cells == Cells::float32 ? 4 : cells == Cells::float16 ? 2 : 1;
}

template <Cells cells> GOSSAMER_INLINE F16 load_cells(const uint8_t* data, int64_t index) {
  if constexpr (cells == Cells::float32) return load_f(reinterpret_cast<const float*>(data) + index);
  else if constexpr (cells == Cells::int8) return load_int8(reinterpret_cast<const int8_t*>(data) + index);
  else return load_half(reinterpret_cast<const uint16_t*>(data) + index);
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

constexpr int kFewRows = 4;
// With few rows memory is what is waited for: ask for it early.
constexpr bool asks_early(int rows, Cells cells) { return rows <= kFewRows && cells != Cells::float32; }
constexpr bool kManyRegisters = kLargestBlock >= 12;
constexpr int kPartRows = kManyRegisters ? 8 : 4;  // whose sums stay in registers

// scores[t][token] of one block, before the mask. query: [head_dim][size], scaled.
template <int size, Cells cells>
GOSSAMER_INLINE void score_block(const CacheShape& shape, const BlockView& block, const float* query,
                                 float scores[][kCacheTokens]) {
  constexpr int64_t row_bytes = kCacheTokens * cell_bytes(cells);
  constexpr int width = kManyRegisters || size <= 2 ? 2 : 1;  // of 16 tokens each, at once
  for (int first = 0; first < 2; first += width) {
    F16 acc[size][width];
    unroll<size * width>([&](auto i) GOSSAMER_LAMBDA { acc[i / width][i % width] = zero_f(); });
    for (int64_t d = 0; d < shape.head_dim; ++d) {
      if (asks_early(size, cells) && first == 0) __builtin_prefetch(block.values + d * row_bytes);
      F16 k[width];
      unroll<width>([&](auto h) GOSSAMER_LAMBDA {
        k[h] = load_cells<cells>(block.keys, d * kCacheTokens + 16 * (first + h));
      });
      unroll<size>([&](auto t) GOSSAMER_LAMBDA {
        const F16 q = set1_f(query[d * size + t]);
        unroll<width>([&](auto h) GOSSAMER_LAMBDA { acc[t][h] = fma_f(k[h], q, acc[t][h]); });
      });
    }
    unroll<size>([&](auto t) GOSSAMER_LAMBDA {
      unroll<width>([&](auto h) GOSSAMER_LAMBDA {
        const int token = 16 * (first + h);
        if (shape.int8) acc[t][h] = mul_f(acc[t][h], load_f(block.key_scales + token));
        store_f(scores[t] + token, acc[t][h]);
      });
    });
  }
}

// out[t] = out[t] * correction[t] + sum over the first `tokens` of weights[t][token] * values[token]. next: the keys of the
// block that comes then, of the same size as these values.
template <int size, Cells cells, int width>
GOSSAMER_INLINE void add_values(const BlockView& block, int64_t head_dim, int64_t column, int tokens,
                                const float weights[][kCacheTokens], const float* correction,
                                const uint8_t* next, float out[][kLargestHead]) {
  F16 acc[size][width];
  unroll<size>([&](auto t) GOSSAMER_LAMBDA {
    unroll<width>([&](auto w) GOSSAMER_LAMBDA {
      acc[t][w] = mul_f(load_f(out[t] + column + 16 * w), set1_f(correction[t]));
    });
  });
  for (int token = 0; token < tokens; ++token) {
    if constexpr (asks_early(size, cells))
      for (int64_t byte = 0; byte < 16 * width * cell_bytes(cells); byte += 64)
        __builtin_prefetch(next + (column * kCacheTokens + token * 16 * width) * cell_bytes(cells) + byte);
    F16 v[width];
    unroll<width>([&](auto w) GOSSAMER_LAMBDA {
      v[w] = load_cells<cells>(block.values, token * head_dim + column + 16 * w);
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

// The softmax of a row as far as it has come.
struct Running {
  float largest = kNever;
  F16 sum = zero_f();  // over the lanes of all blocks

  // Sees the scores of a block; returns what earlier weights have to be multiplied by.
  GOSSAMER_INLINE float rise(const float scores[kCacheTokens]) {
    const F16 most = max_f(load_f(scores), load_f(scores + 16));
    if (!any_above(most, largest)) return 1;
    const float now = reduce_max_f(most);
    float lanes[kLanes];
    store_f(lanes, exp_f(set1_f(largest - now)));
    largest = now;
    sum = mul_f(sum, set1_f(lanes[0]));
    return lanes[0];
  }

  // Turns them into weights relative to the largest one so far.
  GOSSAMER_INLINE void weigh(const CacheShape& shape, const BlockView& block, float scores[kCacheTokens]) {
    unroll<2>([&](auto h) GOSSAMER_LAMBDA {
      const F16 weight = exp_f(sub_f(load_f(scores + 16 * h), set1_f(largest)));
      sum = add_f(sum, weight);
      store_f(scores + 16 * h, shape.int8 ? mul_f(weight, load_f(block.value_scales + 16 * h)) : weight);
    });
  }
};

// Scores of positions outside of [first, last) of a block that begins at `start`.
GOSSAMER_INLINE void hide(int64_t first, int64_t last, int64_t start, float scores[kCacheTokens]) {
  for (int64_t i = 0; i < first - start && i < kCacheTokens; ++i) scores[i] = 2 * kNever;
  for (int64_t i = last > start ? last - start : 0; i < kCacheTokens; ++i) scores[i] = 2 * kNever;
}

// The cells of a block as floats, where many rows go over them.
struct FloatBlock {
  alignas(64) float keys[kCacheTokens * kLargestHead], values[kCacheTokens * kLargestHead];

  template <Cells cells> GOSSAMER_INLINE void fill(const CacheShape& shape, BlockView& block) {
    for (int64_t i = 0; i < shape.cells(); i += kLanes) {
      store_f(keys + i, load_cells<cells>(block.keys, i));
      store_f(values + i, load_cells<cells>(block.values, i));
    }
    block.keys = reinterpret_cast<const uint8_t*>(keys);
    block.values = reinterpret_cast<const uint8_t*>(values);
  }
};

// `parts` times `size` rows; several parts share a block of floats.
template <int size, Cells stored, int parts>
void attend_block_rows(const AttentionRows& a) {
  constexpr int rows = size * parts;
  constexpr Cells cells = parts > 1 ? Cells::float32 : stored;
  const int64_t head_dim = a.shape.head_dim;
  alignas(64) float scores[size][kCacheTokens], out[rows][kLargestHead], query[parts][kLargestHead * size];
  FloatBlock floats;
  float correction[size];
  Running running[rows];
  int64_t first = a.first[0], last = a.last[0];
  for (int t = 0; t < rows; ++t) {
    first = smaller(a.first[t], first);
    last = -smaller(-a.last[t], -last);
    for (int64_t d = 0; d < head_dim; ++d)
      out[t][d] = 0, query[t / size][d * size + t % size] = a.query[t][d] * a.scale;
  }
  for (int64_t b = first / kCacheTokens; b * kCacheTokens < last; ++b) {
    BlockView block(a.shape, a.base + a.blocks[b] * a.block_bytes);
    const int64_t start = b * kCacheTokens;
    const int tokens = static_cast<int>(smaller(kCacheTokens, last - start));
    const uint8_t* next = start + kCacheTokens < last ? a.base + a.blocks[b + 1] * a.block_bytes
                          : a.next != nullptr         ? a.next
                                                      : block.keys;
    if constexpr (parts > 1) floats.fill<stored>(a.shape, block);
    for (int part = 0; part < parts; ++part) {
      const int row = part * size;
      score_block<size, cells>(a.shape, block, query[part], scores);
      for (int t = 0; t < size; ++t) {
        const int64_t from = a.first[row + t], to = a.last[row + t];
        if (from > start || to < start + kCacheTokens) hide(from, to, start, scores[t]);
        correction[t] = running[row + t].rise(scores[t]);
      }
      for (int t = 0; t < size; ++t) running[row + t].weigh(a.shape, block, scores[t]);
      constexpr int width = kManyRegisters ? (size <= kFewRows ? 4 : 2) : (size > 2 ? 1 : 4 / size);
      int64_t column = 0;
      for (; column + 16 * width <= head_dim; column += 16 * width)
        add_values<size, cells, width>(block, head_dim, column, tokens, scores, correction, next, out + row);
      for (; column < head_dim; column += 16)
        add_values<size, cells, 1>(block, head_dim, column, tokens, scores, correction, next, out + row);
    }
  }
  for (int t = 0; t < rows; ++t) {
    const F16 factor = set1_f(1.0f / reduce_add_f(running[t].sum));
    for (int64_t d = 0; d < head_dim; d += 16) store_f(a.out[t] + d, mul_f(load_f(out[t] + d), factor));
  }
}

template <Cells cells> void attend_cells(const AttentionRows& all) {
  AttentionRows part = all;
  for (int done = 0; done < all.rows;) {
    const int left = all.rows - done, size = left >= 24 ? 24 : left >= 8 ? 8 : left >= 4 ? 4 : left;
    for (int t = 0; t < size; ++t) {
      part.query[t] = all.query[done + t], part.out[t] = all.out[done + t];
      part.first[t] = all.first[done + t], part.last[t] = all.last[done + t];
    }
    switch (size) {
      case 24: attend_block_rows<kPartRows, cells, 24 / kPartRows>(part); break;
      case 8: attend_block_rows<kPartRows, cells, 8 / kPartRows>(part); break;
      case 4: attend_block_rows<4, cells, 1>(part); break;
      case 3: attend_block_rows<3, cells, 1>(part); break;
      case 2: attend_block_rows<2, cells, 1>(part); break;
      default: attend_block_rows<1, cells, 1>(part);
    }
    done += size;
  }
}

void attend_rows(const AttentionRows& a) {
  a.shape.int8 ? attend_cells<Cells::int8>(a) : attend_cells<Cells::float16>(a);
}

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
