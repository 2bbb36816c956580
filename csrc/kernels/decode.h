// Decoders: from a packed format to registers, one step (8 quads = 32 columns of a strip) at a time.
//
// A decoder offers
//   kBits, kZero                   how wide codes are, and the code of zero
//   begin(strip) -> Cursor         where the strip starts; a cursor can be kept and continued later
//   floats(cursor, sink)           sink(quad<0..7>, c[4]): four columns of signed values, to be multiplied by kUnit
//   bytes(cursor, sink)            sink(quad<0..7>, shift<0 | kHighShift>, u): value + kZero as unsigned bytes << shift
// Integer formats have both, float values only the first. Everything is inlined into the consumers of dense.h.
#pragma once

#include "formats/views.h"
#include "kernels/unroll.h"

namespace gossamer {
namespace {

constexpr int kStepQuads = kStepColumns / 4;

// A strip's tensors are read from start to end, but the hardware's prefetcher stops at every page and there are several
// streams: ask for the lines that will be needed in a while. Prefetching never faults, so it may run past the end.
template <int lines> GOSSAMER_INLINE void prefetch(const uint8_t* p, int64_t ahead) {
  unroll<lines>([&](auto i) GOSSAMER_LAMBDA { __builtin_prefetch(p + ahead + 64 * i); });
}
constexpr int64_t kAhead =
    5120;  // a strip of 640 int4 columns: it arrives while the one before is multiplied

// table[i] = i - zero, or the two's complement of the nibble i.
GOSSAMER_INLINE F16 code_table(int zero) {
  float table[16];
  for (int i = 0; i < 16; ++i) table[i] = static_cast<float>(i - zero);
  return load_f(table);
}
GOSSAMER_INLINE F16 nibble_table() {
  float table[16];
  for (int i = 0; i < 16; ++i) table[i] = static_cast<float>(i < 8 ? i : i - 16);
  return load_f(table);
}

template <int bits>
struct IntegerDecoder {
  static constexpr bool kScaled = true;
  static constexpr int kZero = 1 << (bits - 1);
  static constexpr int kBits = bits;
  static constexpr bool kLookup = bits <= 4;
  static constexpr float kUnit = kLookup ? 1.0f : kColumnUnit;
  static constexpr bool k8 = bits == 8, k4 = bits >= 4 && bits < 8,
                        k2 = bits == 2 || bits == 3 || bits == 6 || bits == 7, k1 = bits & 1;

  struct Cursor { const uint8_t *c8, *c4, *c2, *c1; };

  const IntegerView& m;
  const F16 table = code_table(kZero);

  explicit IntegerDecoder(const IntegerView& view) : m(view) {}

  GOSSAMER_INLINE Cursor begin(int64_t strip) const {
    const int64_t start = strip * m.quads() * 64;
    return {m.codes8 + start, m.codes4 + start / 2, m.codes2 + start / 4, m.codes1 + start / 8};
  }

  GOSSAMER_INLINE static void advance(Cursor& c) {
    if constexpr (k8) c.c8 += 64 * kStepQuads;
    if constexpr (k4) c.c4 += 64 * kStepQuads / 2;
    if constexpr (k2) c.c2 += 64 * kStepQuads / 4;
    if constexpr (k1) c.c1 += 64 * kStepQuads / 8;
  }

  // Codes of one quad as plain bytes, from all planes.
  template <int q> GOSSAMER_INLINE static B64 codes(const Cursor& c) {
    B64 u = set1_b(0);
    if constexpr (k8) u = load_b(c.c8 + 64 * q);
    if constexpr (k4) u = low_nibbles(right_words<4 * (q & 1)>(load_b(c.c4 + 64 * (q / 2))));
    if constexpr (k2) {
      const B64 two = and_b(right_words<2 * (q & 3)>(load_b(c.c2 + 64 * (q / 4))), set1_b(3));
      u = k4 ? or_b(u, left_words<k4 ? 4 : 0>(two)) : two;
    }
    if constexpr (k1) {
      const B64 one = and_b(right_words<q>(load_b(c.c1)), set1_b(1));
      u = or_b(u, left_words<bits - 1>(one));
    }
    return u;
  }

  GOSSAMER_INLINE static void look_ahead(const Cursor& c) {
    if constexpr (k8) prefetch<kStepQuads>(c.c8, kAhead);
    if constexpr (k4) prefetch<kStepQuads / 2>(c.c4, kAhead);
  }

  template <class Sink> GOSSAMER_INLINE void bytes(Cursor& c, const Sink& sink) const {
    look_ahead(c);
    unroll<kStepQuads>([&](auto q) GOSSAMER_LAMBDA {
      if constexpr (bits == 4) {  // odd quads stay where they are: no shift
        const B64 pair = load_b(c.c4 + 64 * (q / 2));
        if constexpr (q % 2) sink(q, Const<kHighShift>{}, high_nibbles(pair));
        else sink(q, Const<0>{}, low_nibbles(pair));
      } else {
        sink(q, Const<0>{}, codes<q>(c));
      }
    });
    advance(c);
  }

  template <class Sink> GOSSAMER_INLINE void floats(Cursor& c, const Sink& sink) const {
    look_ahead(c);
    unroll<kStepQuads>([&](auto q) GOSSAMER_LAMBDA {
      F16 v[4];
      if constexpr (bits == 4) {
        constexpr int shift = 4 * (q % 2);
        const B64 pair = load_b(c.c4 + 64 * (q / 2));
        unroll<4>([&](auto j) GOSSAMER_LAMBDA { v[j] = lookup(table, dwords<8 * j + shift>(pair)); });
      } else if constexpr (kLookup) {
        const B64 u = codes<q>(c);
        unroll<4>([&](auto j) GOSSAMER_LAMBDA { v[j] = lookup(table, dwords<8 * j>(u)); });
      } else {
        const B64 s = bits == 8 ? xor_b(codes<q>(c), set1_b(128)) : sub_b(codes<q>(c), set1_b(kZero));
        unroll<4>([&](auto j) GOSSAMER_LAMBDA { v[j] = column<j>(s); });
      }
      sink(q, v);
    });
    advance(c);
  }
};

template <Values kind>
struct BitmaskDecoder {
  static constexpr bool kScaled = kind == Values::nibble || kind == Values::int8;
  static constexpr int kZero = kind == Values::nibble ? 8 : 128;
  static constexpr int kBits = kind == Values::nibble ? 4 : 8;
  static constexpr float kUnit = kind == Values::int8 ? kColumnUnit : 1.0f;

  struct Cursor { const uint8_t *mask, *even, *odd; };  // odd: nibbles only

  const BitmaskView& m;
  const F16 table = nibble_table();

  explicit BitmaskDecoder(const BitmaskView& view) : m(view) {}

  GOSSAMER_INLINE Cursor begin(int64_t strip) const {
    const uint8_t* start = m.values + load_i64(m.offsets, strip) * value_bytes(kind);
    return {m.mask + strip * m.quads() * 8, start, start};
  }

  // The lines of values in a step at half density; where more are kept, the hardware fetches the rest.
  GOSSAMER_INLINE static void look_ahead(const Cursor& c) {
    prefetch<1>(c.mask, kAhead / 2);
    prefetch<kind == Values::nibble ? 2 : 4>(c.even, kAhead);
  }

  template <class Sink> GOSSAMER_INLINE void bytes(Cursor& c, const Sink& sink) const {
    look_ahead(c);
    unroll<kStepQuads>([&](auto q) GOSSAMER_LAMBDA {
      const uint8_t* mask = c.mask + 8 * q;
      if constexpr (kind == Values::int8) {
        sink(q, Const<0>{}, xor_b(expand_bytes(mask, c.even), set1_b(128)));
      } else if constexpr (q % 2) {
        const B64 spread = high_nibbles(expand_bytes(mask, c.odd));
        sink(q, Const<kHighShift>{}, xor_b(spread, set1_b(8 << kHighShift)));
      } else {
        sink(q, Const<0>{}, xor_b(low_nibbles(expand_bytes(mask, c.even)), set1_b(8)));
      }
    });
    c.mask += 8 * kStepQuads;
  }

  template <class Sink> GOSSAMER_INLINE void floats(Cursor& c, const Sink& sink) const {
    look_ahead(c);
    unroll<kStepQuads>([&](auto q) GOSSAMER_LAMBDA {
      const uint8_t* bits = c.mask + 8 * q;
      F16 v[4];
      if constexpr (kind == Values::nibble) {
        constexpr int shift = 4 * (q % 2);
        const B64 spread = expand_bytes(bits, q % 2 ? c.odd : c.even);
        unroll<4>([&](auto j) GOSSAMER_LAMBDA { v[j] = lookup(table, dwords<8 * j + shift>(spread)); });
      } else if constexpr (kind == Values::int8) {
        const B64 spread = expand_bytes(bits, c.even);
        unroll<4>([&](auto j) GOSSAMER_LAMBDA { v[j] = column<j>(spread); });
      } else if constexpr (kind == Values::float32) {
        expand_float_columns(load_u64(bits, 0), c.even, v);
      } else {
        expand_half_columns<kind == Values::bfloat16>(load_u64(bits, 0), c.even, v);
      }
      sink(q, v);
    });
    c.mask += 8 * kStepQuads;
  }
};

}  // namespace
}  // namespace gossamer
