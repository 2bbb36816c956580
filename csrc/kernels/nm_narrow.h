// Products for 2:4 and 4:8: windows of 4 or 8 columns, of which half are kept, so that 16 columns of a row always have
// eight slots, in two planes of four.
//
// In int8 a shuffle fetches the activations of the kept columns, and the work is that of half of the weights. Floats, and
// 4:8 for more than kMostShuffled tokens, are made dense.
#pragma once

#include "kernels/dense.h"
#include "kernels/nm.h"

namespace gossamer {
namespace {

// One step is 32 columns of a strip: two windows of 16, each of two planes.
template <Values kind, int window>
struct NarrowSlots {
  static constexpr bool kNibble = kind == Values::nibble;
  static constexpr float kByteUnit = kNibble ? kNibbleUnit : 1.0f;

  struct Cursor { const uint8_t *columns, *values; };

  const NMView& m;
  const B64 places = load_places();

  explicit NarrowSlots(const NMView& view) : m(view) {}

  // Of 4: lanes 4r+2 and 4r+3 lie in the second window of a plane. In both nibbles, for the fields of two bits in both.
  static B64 load_places() {
    uint8_t lanes[64];
    for (int i = 0; i < 64; ++i) lanes[i] = i % 4 < 2 ? 0 : 0x44;
    return load_b(lanes);
  }

  GOSSAMER_INLINE Cursor begin(int64_t strip) const {
    const uint8_t* values = kNibble ? m.codes : m.values;
    return {(window == 4 ? m.index : m.mask) + strip * m.windows() * 32,
            values + strip * m.windows() * (kNibble ? 64 : 128)};
  }

  // sink(half<0..1>, plane<0..1>, index, value): columns of the eight of a plane in the low 4 bits (bit 7 is 0, others are
  // anything), and signed values / kByteUnit.
  template <class Sink> GOSSAMER_INLINE void step(Cursor& c, const Sink& sink) const {
    prefetch<1>(c.columns, kAhead / 2);
    prefetch<kNibble ? 2 : 4>(c.values, kAhead);
    B64 fields[2];  // of each plane, the first half's in the low nibble
    if constexpr (window == 4) {
      const B64 packed = load_b(c.columns), two = set1_b(0x33);
      fields[0] = or_b(and_b(packed, two), places);
      fields[1] = or_b(and_b(right_words<2>(packed), two), places);
    }
    unroll<2>([&](auto half) GOSSAMER_LAMBDA {
      unroll<2>([&](auto plane) GOSSAMER_LAMBDA {
        constexpr int i = 2 * half + plane;
        B64 index, value;
        if constexpr (window == 4) index = right_words<4 * half>(fields[plane]);
        else index = mask_columns(c.columns + 16 * i);
        if constexpr (!kNibble) value = load_b(c.values + 64 * i);
        else if constexpr (plane == 1) value = nibble_values(load_b(c.values + 64 * half));
        else value = low_nibble_values(load_b(c.values + 64 * half));
        sink(half, plane, index, value);
      });
    });
    c.columns += 64, c.values += kNibble ? 128 : 256;
  }
};

// Unless kSignedDot, activations are unsigned (code + 128): what is counted too much is 128 * sum(w), the same for all tokens. Sums of nibbles
// stay in 16 bits for a fold of 64 columns: 8 * 2 * 255 * 8 < 2^15.
template <Values kind, int window, int fold_steps, int size>
void narrow_int8(const NarrowSlots<kind, window>& slots, const Activations& act, int64_t token, float* y,
                 int64_t strip) {
  const NMView& m = slots.m;
  constexpr bool nibbles = kind == Values::nibble;
  constexpr int64_t fold_columns = fold_steps * kStepColumns;
  const int64_t folds = m.padded_columns() / fold_columns, group_folds = m.group_columns() / fold_columns;
  const Scales scales(m, strip);
  [[maybe_unused]] const B64 ones = set1_b(1);
  auto cursor = slots.begin(strip);
  const uint8_t* x = act.codes + token * m.padded_columns();
  const float* x_scale = act.scales + token * folds;
  F16 total[size];
  unroll<size>([&](auto t) GOSSAMER_LAMBDA { total[t] = zero_f(); });
  for (int64_t group = 0, fold = 0; group < m.groups; ++group) {
    const F16 scale = scales.of(group, slots.kByteUnit);
    const int64_t end = group + 1 == m.groups ? folds : fold + group_folds;
    for (; fold < end; ++fold, x_scale += size) {
      I16 acc[size], weights = set1_i(0);
      unroll<size>([&](auto t) GOSSAMER_LAMBDA { acc[t] = set1_i(0); });
      for (int step = 0; step < fold_steps; ++step, x += kStepColumns * size)
        slots.step(cursor, [&](auto half, auto plane, B64 index, B64 w) GOSSAMER_LAMBDA {
          if constexpr (!kSignedDot)
            weights = nibbles ? add_nibbles(weights, w) : dot_small(weights, ones, w);
          unroll<size>([&](auto t) GOSSAMER_LAMBDA {
            const B64 fetched = shuffle_low(broadcast8(x + 16 * (half * size + t) + 8 * plane), index);
            acc[t] = nibbles ? dot_short(acc[t], fetched, w) : dot(acc[t], fetched, w);
          });
        });
      const I16 excess = nibbles ? nibble_excess(weights) : left_i<7>(weights);
      unroll<size>([&](auto t) GOSSAMER_LAMBDA {
        const I16 sum = nibbles ? short_sums(acc[t], excess) : sub_i(acc[t], excess);
        total[t] = fma_f(to_float(sum), mul_f(scale, set1_f(x_scale[t])), total[t]);
      });
    }
  }
  const Rows rows(m, y, strip);
  unroll<size>([&](auto t) GOSSAMER_LAMBDA { rows.store(token + t, total[t]); });
}

// Made dense: a decoder as in decode.h.
template <Values kind, int window>
struct NarrowDecoder {
  using Slots = NarrowSlots<kind, window>;
  using Cursor = typename Slots::Cursor;
  static constexpr bool kScaled = true;
  static constexpr int kBits = Slots::kNibble ? 4 : 8, kZero = 1 << (kBits - 1),
                       kShift = Slots::kNibble ? kHighShift : 0;
  static constexpr float kUnit = kColumnUnit * Slots::kByteUnit;

  const NMView& m;
  const Slots slots;

  explicit NarrowDecoder(const NMView& view) : m(view), slots(view) {}
  GOSSAMER_INLINE Cursor begin(int64_t strip) const { return slots.begin(strip); }

  // The signed values of a step in tile order, in the unit of the slots.
  GOSSAMER_INLINE void spread(Cursor& c, B64 quads[kStepQuads]) const {
    uint8_t pick[64], lane[64];
    for (int i = 0; i < 64; ++i)
      pick[i] = static_cast<uint8_t>(i % 16 / 4 * 4), lane[i] = static_cast<uint8_t>(i % 4);
    const B64 picks = load_b(pick), lanes = load_b(lane);
    slots.step(c, [&](auto half, auto plane, B64 index, B64 w) GOSSAMER_LAMBDA {
      const B64 columns = low_nibbles(index);
      B64* pair = quads + 4 * half + 2 * plane;  // the slots of a plane lie in two quads
      pair[0] = pair[1] = set1_b(0);
      unroll<4>([&](auto slot) GOSSAMER_LAMBDA {
        const B64 from = or_b(picks, set1_b(slot)), at = shuffle16(columns, from), value = shuffle16(w, from);
        unroll<2>([&](auto q) GOSSAMER_LAMBDA {
          pair[q] = add_where_equal(pair[q], at, or_b(lanes, set1_b(4 * q)), value);
        });
      });
    });
  }

  template <class Sink> GOSSAMER_INLINE void bytes(Cursor& c, const Sink& sink) const {
    B64 quads[kStepQuads];
    spread(c, quads);
    unroll<kStepQuads>([&](auto q) GOSSAMER_LAMBDA {
      sink(q, Const<kShift>{}, sub_b(quads[q], set1_b(-(kZero << kShift))));
    });
  }

  template <class Sink> GOSSAMER_INLINE void floats(Cursor& c, const Sink& sink) const {
    B64 quads[kStepQuads];
    spread(c, quads);
    unroll<kStepQuads>([&](auto q) GOSSAMER_LAMBDA {
      F16 v[4];
      unroll<4>([&](auto j) GOSSAMER_LAMBDA { v[j] = column<j>(quads[q]); });
      sink(q, v);
    });
  }
};

template <Values kind, int window>
void narrow_dense(const NMView& m, const Activations& act, bool int8, float* y, int64_t first, int64_t last) {
  const NarrowDecoder<kind, window> decoder(m);
  if (!int8 && act.tokens == 1) return matvec_float(decoder, act, y, first, last);
  for (int64_t strip = first; strip < last; strip += kMaxSweepStrips) {
    const int64_t end = smaller(strip + kMaxSweepStrips, last);
    if (int8) matmul_panels<IntegerPanel>(decoder, act, y, strip, end);
    else matmul_panels<FloatPanel>(decoder, act, y, strip, end);
  }
}

template <Values kind, int window>
void narrow_run(const NMView& m, const Activations& act, bool int8, float* y, int64_t first, int64_t last) {
  if (!act.windows) return narrow_dense<kind, window>(m, act, int8, y, first, last);
  const NarrowSlots<kind, window> slots(m);
  const int64_t blocks = kNMTokenBytes / (m.padded_columns() * kLargestBlock);
  const int64_t run = (blocks > 1 ? blocks : 1) * kLargestBlock;
  for (int64_t t = 0; t < act.tokens; t += run)
    for (int64_t strip = first; strip < last; ++strip)
      for_blocks(t, smaller(t + run, act.tokens), act.tokens, [&](auto size, int64_t token) {
        if (act.fold_columns == 64) narrow_int8<kind, window, 2, size>(slots, act, token, y, strip);
        else narrow_int8<kind, window, 1, size>(slots, act, token, y, strip);
      });
}

template <int window>
void nm_narrow(const NMView& m, const Activations& act, bool int8, float* y, int64_t first, int64_t last) {
  if (m.kind == Values::nibble) narrow_run<Values::nibble, window>(m, act, int8, y, first, last);
  else narrow_run<Values::int8, window>(m, act, int8, y, first, last);
}

}  // namespace
}  // namespace gossamer
