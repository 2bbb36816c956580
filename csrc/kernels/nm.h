// Products for N:16: each weight brings the index of its column in a window of 16, so a shuffle fetches the activations
// and the work is proportional to N, for any number of tokens. Nothing is ever made dense.
#pragma once

#include "kernels/consume.h"
#include "kernels/decode.h"

namespace gossamer {
namespace {

constexpr int64_t kNMTokenBytes = 768 * 1024;  // activations that stay in L2 while the strips pass by

// The 64 lanes of one plane of one window.
template <Values kind>
struct NMPlane {
  B64 raw;  // nibble: code bytes; else indices as bytes
  const uint8_t* values;

  GOSSAMER_INLINE NMPlane(const NMView& m, int64_t plane) {
    if constexpr (kind == Values::nibble) {
      prefetch<1>(m.codes + plane * 64, kAhead);
      raw = load_b(m.codes + plane * 64);
    } else {
      raw = load_nibbles(m.index + plane * 32);
      values = m.values + plane * 64 * value_bytes(kind);
    }
  }
  static constexpr float kUnit = kind == Values::int8 ? kColumnUnit : 1.0f;

  GOSSAMER_INLINE void floats(F16 table, F16 v[4]) const {
    if constexpr (kind == Values::nibble)
      unroll<4>([&](auto j) GOSSAMER_LAMBDA { v[j] = lookup(table, dwords<8 * j + 4>(raw)); });
    else if constexpr (kind == Values::int8)
      unroll<4>([&](auto j) GOSSAMER_LAMBDA { v[j] = column<j>(load_b(values)); });
    else load_half_columns<kind == Values::bfloat16>(values, v);
  }
  GOSSAMER_INLINE B64 indices() const { return kind == Values::nibble ? low_nibbles(raw) : raw; }
  static constexpr float kByteUnit = kind == Values::nibble ? kNibbleUnit : 1.0f;
  GOSSAMER_INLINE B64 bytes() const { return kind == Values::nibble ? nibble_values(raw) : load_b(values); }
};

template <Values kind, int planes, int size>
void nm_float(const NMView& m, const Activations& act, int64_t token, float* y, int64_t strip) {
  constexpr bool scaled = kind == Values::nibble || kind == Values::int8;
  constexpr int chains = size >= 8 ? 1 : size >= 2 ? 2 : 4;
  const F16 table = nibble_table();
  const Scales scales(m, strip);
  const float* x = act.x + token * m.padded_columns();
  F16 acc[chains][size];
  unroll<chains * size>([&](auto i) GOSSAMER_LAMBDA { acc[i / size][i % size] = zero_f(); });
  int64_t plane = strip * m.windows() * planes;
  for (int64_t group = 0, column = 0; group < m.groups; ++group) {
    F16 scale = set1_f(1);
    if constexpr (scaled) scale = scales.of(group, NMPlane<kind>::kUnit);
    for (const int64_t end = column + m.group_columns(); column < end; column += 16, x += 16 * size)
      for (int p = 0; p < planes; ++p, ++plane) {
        const NMPlane<kind> entries(m, plane);
        F16 v[4];
        entries.floats(table, v);
        unroll<4>([&](auto j) GOSSAMER_LAMBDA {
          const I16 index = dwords<8 * j>(entries.raw);
          const F16 w = scaled ? mul_f(v[j], scale) : v[j];
          unroll<size>([&](auto t) GOSSAMER_LAMBDA {
            acc[j % chains][t] = fma_f(w, lookup(load_f(x + 16 * t), index), acc[j % chains][t]);
          });
        });
      }
  }
  const Rows rows(m, y, strip);
  unroll<size>([&](auto t) GOSSAMER_LAMBDA {
    unroll<chains - 1>([&](auto c) GOSSAMER_LAMBDA { acc[0][t] = add_f(acc[0][t], acc[c + 1][t]); });
    rows.store(token + t, acc[0][t]);
  });
}

// Unless kSignedDot, activations are unsigned (code + 128): what is counted too much is 128 * sum(w), the same for all tokens.
template <Values kind, int planes, int size>
void nm_int8(const NMView& m, const Activations& act, int64_t token, float* y, int64_t strip) {
  const int64_t folds = m.padded_columns() / act.fold_columns,
                group_folds = m.group_columns() / act.fold_columns;
  const Scales scales(m, strip);
  const uint8_t* x = act.codes + token * m.padded_columns();
  const float* x_scale = act.scales + token * folds;
  [[maybe_unused]] const B64 ones = set1_b(1);
  F16 total[size];
  unroll<size>([&](auto t) GOSSAMER_LAMBDA { total[t] = zero_f(); });
  int64_t plane = strip * m.windows() * planes;
  const int fold_windows = act.fold_columns / 16;
  for (int64_t group = 0, fold = 0; group < m.groups; ++group) {
    const F16 scale = scales.of(group, NMPlane<kind>::kByteUnit);
    const int64_t end = group + 1 == m.groups ? folds : fold + group_folds;
    for (; fold < end; ++fold, x_scale += size) {
      I16 start = set1_i(0);
      if constexpr (!kSignedDot) {
        I16 weights = set1_i(0);
        for (int p = 0; p < fold_windows * planes; ++p)
          weights = dot_small(weights, ones, NMPlane<kind>(m, plane + p).bytes());
        start = sub_i(start, left_i<7>(weights));
      }
      I16 acc[size];
      unroll<size>([&](auto t) GOSSAMER_LAMBDA { acc[t] = start; });
      const auto add_window = [&](auto) GOSSAMER_LAMBDA {
        for (int p = 0; p < planes; ++p, ++plane) {
          const NMPlane<kind> entries(m, plane);
          const B64 index = entries.indices(), w = entries.bytes();
          unroll<size>([&](auto t) GOSSAMER_LAMBDA {
            const B64 fetched = shuffle16(broadcast16(x + 16 * t), index);
            acc[t] = kind == Values::nibble ? dot_small(acc[t], fetched, w) : dot(acc[t], fetched, w);
          });
        }
        x += 16 * size;
      };
      unroll<2>(add_window);
      if (fold_windows == 4) unroll<2>(add_window);
      unroll<size>([&](auto t) GOSSAMER_LAMBDA {
        total[t] = fma_f(to_float(acc[t]), mul_f(scale, set1_f(x_scale[t])), total[t]);
      });
    }
  }
  const Rows rows(m, y, strip);
  unroll<size>([&](auto t) GOSSAMER_LAMBDA { rows.store(token + t, total[t]); });
}

template <Values kind, int planes>
void nm_run(const NMView& m, const Activations& act, bool int8, float* y, int64_t first, int64_t last) {
  constexpr bool integer = kind == Values::nibble || kind == Values::int8;
  const int64_t bytes = m.padded_columns() * (int8 ? 1 : 4), blocks = kNMTokenBytes / (bytes * kLargestBlock);
  const int64_t run = (blocks > 1 ? blocks : 1) * kLargestBlock;
  for (int64_t t = 0; t < act.tokens; t += run)
    for (int64_t strip = first; strip < last; ++strip)
      for_blocks(t, smaller(t + run, act.tokens), act.tokens, [&](auto size, int64_t token) {
        if constexpr (integer)
          if (int8) return nm_int8<kind, planes, size>(m, act, token, y, strip);
        nm_float<kind, planes, size>(m, act, token, y, strip);
      });
}

template <Values kind>
void nm_planes(const NMView& m, const Activations& act, bool int8, float* y, int64_t first, int64_t last) {
  if (m.planes == 1) return nm_run<kind, 1>(m, act, int8, y, first, last);
  if (m.planes == 2) return nm_run<kind, 2>(m, act, int8, y, first, last);
  return nm_run<kind, 3>(m, act, int8, y, first, last);
}

}  // namespace
}  // namespace gossamer
