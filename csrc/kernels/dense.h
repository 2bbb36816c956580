// Products for formats whose decoded form is dense: integer and bitmask.
//
// One token (up to 24 in int8): decode into registers and multiply at once. More tokens: decode a panel of columns of one
// strip into L1 once, then sweep the blocks of tokens over it. Every result is summed in an order that depends only on shapes.
#pragma once

#include "kernels/consume.h"
#include "kernels/decode.h"

namespace gossamer {
namespace {

// Up to so many tokens int8 weights are decoded again for each block: cheaper than through memory.
constexpr int kRegisterTokens = kLargestBlock >= 12 ? 24 : 1;
constexpr int64_t kMaxSweepStrips = 64;      // strips per call when there are more tokens than one
constexpr int64_t kSweepBytes = 768 * 1024;  // activations that stay in L2 while the strips pass by

// ---- one token ------------------------------------------------------------------------------------------------------

template <class Decoder>
void matvec_float(const Decoder& decoder, const Activations& act, float* y, int64_t first, int64_t last) {
  const Shape& m = decoder.m;
  const int64_t group_steps = m.group_columns() / kStepColumns;
  for (int64_t strip = first; strip < last; ++strip) {
    const Scales scales(m, strip);
    auto cursor = decoder.begin(strip);
    const float* x = act.x;
    F16 total = zero_f();
    for (int64_t group = 0; group < m.groups; ++group) {
      F16 acc[4] = {zero_f(), zero_f(), zero_f(), zero_f()};
      for (int64_t step = 0; step < group_steps; ++step, x += kStepColumns)
        decoder.floats(cursor, [&](auto q, const F16* v) GOSSAMER_LAMBDA {
          unroll<4>([&](auto j) GOSSAMER_LAMBDA { acc[j] = fma_f(v[j], set1_f(x[4 * q + j]), acc[j]); });
        });
      const F16 sum = add_f(add_f(acc[0], acc[1]), add_f(acc[2], acc[3]));
      if constexpr (Decoder::kScaled) {
        total = fma_f(sum, scales.of(group, Decoder::kUnit), total);
        if (scales.minimum)
          total = fma_f(scales.offset(group, Decoder::kZero), set1_f(act.group_sums[group]), total);
      } else {
        total = add_f(total, sum);
      }
    }
    Rows(m, y, strip).store(0, total);
  }
}

// The block of `size` tokens that begins at `token`, and the 16 rows of one strip: everything stays in registers.
template <class Decoder, int fold_steps, int size>
void block_int8(const Decoder& decoder, const Activations& act, int64_t token, float* y, int64_t strip) {
  const Shape& m = decoder.m;
  constexpr int bits = Decoder::kBits;
  constexpr bool two_sums =
      kHighShift != 0 && size <= 4;  // for more tokens one shift a quad is cheaper than the registers
  constexpr int64_t fold_columns = fold_steps * kStepColumns;
  const int64_t folds = m.padded_columns() / fold_columns, group_folds = m.group_columns() / fold_columns;
  const Scales scales(m, strip);
  auto cursor = decoder.begin(strip);
  const uint8_t* x = act.codes + token * m.padded_columns();
  const float* x_scale = act.scales + token * folds;
  const int32_t* x_start = act.starts + token * folds;
  const float* x_sum = act.sums + token * folds;
  F16 total[size];
  unroll<size>([&](auto t) GOSSAMER_LAMBDA { total[t] = zero_f(); });
  for (int64_t group = 0, fold = 0; group < m.groups; ++group) {
    const F16 scale = scales.of(group, 1.0f);
    const int64_t end = group + 1 == m.groups ? folds : fold + group_folds;
    for (; fold < end; ++fold, x_scale += size, x_start += size, x_sum += size) {
      I16 low[size], high[size], part[size];
      unroll<size>(
          [&](auto t) GOSSAMER_LAMBDA { low[t] = set1_i(first_sum<bits>(x_start[t])), high[t] = set1_i(0); });
      unroll<fold_steps>([&](auto) GOSSAMER_LAMBDA {
        decoder.bytes(cursor, [&](auto q, auto shift, B64 u) GOSSAMER_LAMBDA {
          const B64 code = two_sums ? u : right_words<shift>(u);
          unroll<size>([&](auto t) GOSSAMER_LAMBDA {
            add_products<bits, q, kStepQuads, q * size + t>(two_sums && shift ? high[t] : low[t], part[t],
                                                            code, x);
          });
        });
        x += kStepColumns * size;
      });
      unroll<size>([&](auto t) GOSSAMER_LAMBDA {
        if constexpr (two_sums) low[t] = add_i(low[t], right_i<kHighShift>(high[t]));
        total[t] = fma_f(to_float(low[t]), mul_f(scale, set1_f(x_scale[t])), total[t]);
      });
      if (!scales.minimum) continue;
      const F16 offset = mul_f(scales.offset(group, Decoder::kZero), set1_f(-1.0f / Decoder::kZero));
      unroll<size>([&](auto t) GOSSAMER_LAMBDA { total[t] = fma_f(offset, set1_f(x_sum[t]), total[t]); });
    }
  }
  const Rows rows(m, y, strip);
  unroll<size>([&](auto t) GOSSAMER_LAMBDA { rows.store(token + t, total[t]); });
}

template <class Decoder, int fold_steps>
void few_int8(const Decoder& decoder, const Activations& act, float* y, int64_t first, int64_t last) {
  for (int64_t strip = first; strip < last; ++strip)
    for_blocks(0, act.tokens, act.tokens, [&](auto size, int64_t t) {
      if constexpr (size <= kRegisterTokens) block_int8<Decoder, fold_steps, size>(decoder, act, t, y, strip);
    });
}

// ---- many tokens: panel and sweep -----------------------------------------------------------------------------------

struct FloatPanel {
  static constexpr int kColumns = 256;
  alignas(64) float weights[kColumns][kStripRows];  // scaled: what unpack() gives
};

template <class Decoder>
void fill_panel(const Decoder& decoder, typename Decoder::Cursor& cursor, int64_t strip, int64_t column,
                int64_t columns, FloatPanel& panel) {
  const Scales scales(decoder.m, strip);
  for (int64_t done = 0; done < columns; done += kStepColumns) {
    F16 scale = set1_f(1), offset = zero_f();
    if constexpr (Decoder::kScaled) {
      const int64_t group = scales.group_of(column + done);
      scale = scales.of(group, Decoder::kUnit);
      if (scales.minimum) offset = scales.offset(group, Decoder::kZero);
    }
    decoder.floats(cursor, [&](auto q, const F16* v) GOSSAMER_LAMBDA {
      for (int j = 0; j < 4; ++j) {
        const F16 w = Decoder::kScaled ? fma_f(v[j], scale, offset) : v[j];
        store_f(panel.weights[done + 4 * q + j], w);
      }
    });
  }
}

template <int size>
void sweep_block(const FloatPanel& panel, const float* x, int64_t columns, const Rows& rows, int64_t token,
                 bool begin) {
  constexpr int chains = size >= 8 ? 1 : size >= 4 ? 2 : 4;  // enough independent sums to hide the latency
  F16 acc[chains][size];
  unroll<chains * size>([&](auto i) GOSSAMER_LAMBDA { acc[i / size][i % size] = zero_f(); });
  if (!begin) unroll<size>([&](auto t) GOSSAMER_LAMBDA { acc[0][t] = rows.load(token + t); });
  for (int64_t k = 0; k < columns; k += chains) {
    unroll<chains>([&](auto c) GOSSAMER_LAMBDA {
      const F16 w = load_f(panel.weights[k + c]);
      unroll<size>([&](auto t)
                       GOSSAMER_LAMBDA { acc[c][t] = fma_f(w, set1_f(x[(k + c) * size + t]), acc[c][t]); });
    });
  }
  unroll<size>([&](auto t) GOSSAMER_LAMBDA {
    unroll<chains - 1>([&](auto c) GOSSAMER_LAMBDA { acc[0][t] = add_f(acc[0][t], acc[c + 1][t]); });
    rows.store(token + t, acc[0][t]);
  });
}

// Codes count from zero (unsigned), or are the values themselves: tiles take signed bytes on both sides.
template <bool is_signed>
struct CodePanel {
  static constexpr int kColumns = 640;
  alignas(64) uint8_t codes[kColumns / 4][64];
  alignas(64) float scale[kColumns / kStepColumns][kStripRows];
  alignas(64) float offset[kColumns / kStepColumns][kStripRows];  // of -start
  int bits;  // how wide codes are, at least kNarrowestSums
  bool asymmetric;
};
using IntegerPanel = CodePanel<false>;

template <class Decoder, bool is_signed>
void fill_panel(const Decoder& decoder, typename Decoder::Cursor& cursor, int64_t strip, int64_t column,
                int64_t columns, CodePanel<is_signed>& panel) {
  const Scales scales(decoder.m, strip);
  panel.bits = Decoder::kBits > kNarrowestSums ? Decoder::kBits : kNarrowestSums;
  panel.asymmetric = scales.minimum != nullptr;
  for (int64_t done = 0; done < columns; done += kStepColumns) {
    const int64_t group = scales.group_of(column + done), step = done / kStepColumns;
    store_f(panel.scale[step], scales.of(group, 1.0f));
    if (panel.asymmetric)
      store_f(panel.offset[step],
              mul_f(scales.offset(group, Decoder::kZero), set1_f(-1.0f / Decoder::kZero)));
    decoder.bytes(cursor, [&](auto q, auto shift, B64 u) GOSSAMER_LAMBDA {
      const B64 code = right_words<shift>(u);
      store_b(panel.codes[done / 4 + q], is_signed ? sub_b(code, set1_b(Decoder::kZero)) : code);
    });
  }
}

template <int size, int bits, bool asymmetric>
void sweep_block(const IntegerPanel& panel, const uint8_t* x, const float* x_scale, const int32_t* x_start,
                 const float* x_sum, int64_t columns, int fold_columns, const Rows& rows, int64_t token,
                 bool begin) {
  F16 total[size];
  unroll<size>([&](auto t) GOSSAMER_LAMBDA { total[t] = begin ? zero_f() : rows.load(token + t); });
  const uint8_t (*codes)[64] = panel.codes;
  for (int64_t column = 0; column < columns;
       column += fold_columns, x_scale += size, x_start += size, x_sum += size) {
    I16 acc[size], part[size];
    unroll<size>([&](auto t) GOSSAMER_LAMBDA { acc[t] = set1_i(first_sum<bits>(x_start[t])); });
    for (int quad = 0; quad < fold_columns / 4;
         quad += kSweepQuads, codes += kSweepQuads, x += 4 * kSweepQuads * size)
      unroll<kSweepQuads>([&](auto q) GOSSAMER_LAMBDA {
        const B64 u = load_b(codes[q]);
        unroll<size>([&](auto t) GOSSAMER_LAMBDA {
          add_products<bits, q, kSweepQuads, q * size + t>(acc[t], part[t], u, x);
        });
      });
    const int64_t step = column / kStepColumns;
    const F16 scale = load_f(panel.scale[step]);
    unroll<size>([&](auto t) GOSSAMER_LAMBDA {
      total[t] = fma_f(to_float(acc[t]), mul_f(scale, set1_f(x_scale[t])), total[t]);
    });
    if constexpr (asymmetric) {
      const F16 offset = load_f(panel.offset[step]);
      unroll<size>([&](auto t) GOSSAMER_LAMBDA { total[t] = fma_f(offset, set1_f(x_sum[t]), total[t]); });
    }
  }
  unroll<size>([&](auto t) GOSSAMER_LAMBDA { rows.store(token + t, total[t]); });
}

template <int size, class... Arguments>
GOSSAMER_INLINE void sweep_some(const IntegerPanel& panel, Arguments... arguments) {
  unroll<9 - kNarrowestSums>([&](auto wider) GOSSAMER_LAMBDA {
    constexpr int bits = kNarrowestSums + wider;
    if (panel.bits != bits) return;
    if (panel.asymmetric) sweep_block<size, bits, true>(panel, arguments...);
    else sweep_block<size, bits, false>(panel, arguments...);
  });
}

struct Sweep {
  static constexpr int64_t kTokens = 504;  // that stay with a panel: a multiple of all block sizes above 1

  const Shape& m;
  const Activations& act;
  float* y;

  GOSSAMER_INLINE void operator()(const FloatPanel& panel, int64_t strip, int64_t column, int64_t columns,
                                  int64_t first, int64_t last) const {
    const Rows rows(m, y, strip);
    for_blocks(first, last, act.tokens, [&](auto size, int64_t t) {
      const float* x = act.x + t * m.padded_columns() + column * size;
      sweep_block<size>(panel, x, columns, rows, t, column == 0);
    });
  }

  GOSSAMER_INLINE void operator()(const IntegerPanel& panel, int64_t strip, int64_t column, int64_t columns,
                                  int64_t first, int64_t last) const {
    const Rows rows(m, y, strip);
    for_blocks(first, last, act.tokens, [&](auto size, int64_t t) {
      const uint8_t* x = act.codes + t * m.padded_columns() + column * size;
      const int64_t fold = t * (m.padded_columns() / act.fold_columns) + column / act.fold_columns * size;
      const float* scales = act.scales + fold;
      sweep_some<size>(panel, x, scales, act.starts + fold, act.sums + fold, columns, act.fold_columns, rows,
                       t, column == 0);
    });
  }
};

// Tokens, then columns, then strips, so that the activations of the inner loop stay in L2 however large the matrix is;
// a decoder's cursors are kept for the next columns.
template <class Panel, class Sweeper = Sweep, class Decoder>
void matmul_panels(const Decoder& decoder, const Activations& act, float* y, int64_t first, int64_t last) {
  const Shape& m = decoder.m;
  const int64_t width = m.padded_columns(), element = sizeof(Panel) == sizeof(FloatPanel) ? 4 : 1;
  typename Decoder::Cursor cursors[kMaxSweepStrips];
  Panel panel;
  const Sweeper sweep{m, act, y};
  for (int64_t t = 0; t < act.tokens; t += Sweeper::kTokens) {
    const int64_t t_end = smaller(t + Sweeper::kTokens, act.tokens);
    const int64_t panels = kSweepBytes / (element * (t_end - t) * Panel::kColumns);
    const int64_t run = (panels > 1 ? panels : 1) * Panel::kColumns;
    for (int64_t begin = 0; begin < width; begin += run)
      for (int64_t strip = first; strip < last; ++strip) {
        auto& cursor = cursors[strip - first];
        if (begin == 0) cursor = decoder.begin(strip);
        for (int64_t column = begin; column < smaller(begin + run, width); column += Panel::kColumns) {
          const int64_t columns = smaller(Panel::kColumns, width - column);
          fill_panel(decoder, cursor, strip, column, columns, panel);
          sweep(panel, strip, column, columns, t, t_end);
        }
      }
  }
}

template <class Decoder>
void matmul_dense(const Decoder& decoder, const Activations& act, bool int8, float* y, int64_t first,
                  int64_t last) {
  if constexpr (Decoder::kScaled)
    if (int8 && act.tokens <= kRegisterTokens) {
      if (act.fold_columns == 64) few_int8<Decoder, 2>(decoder, act, y, first, last);
      else few_int8<Decoder, 1>(decoder, act, y, first, last);
      return;
    }
  if (act.tokens > 1) {
    for (int64_t strip = first; strip < last; strip += kMaxSweepStrips) {
      const int64_t end = smaller(strip + kMaxSweepStrips, last);
      if constexpr (Decoder::kScaled)
        if (int8) {
          matmul_panels<IntegerPanel>(decoder, act, y, strip, end);
          continue;
        }
      matmul_panels<FloatPanel>(decoder, act, y, strip, end);
    }
    return;
  }
  matvec_float(decoder, act, y, first, last);
}

}  // namespace
}  // namespace gossamer
