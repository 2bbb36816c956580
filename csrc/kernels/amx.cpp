// Products of int8 activations in tiles (AMX-INT8), for 16 tokens and more and folds of 64 columns.
//
// A panel of weights (dense.h) is already what a tile of the right-hand side wants: a row for each quad of columns, in it
// four signed bytes for each of 16 outputs. Activations come as [fold][tokens][columns of the fold], so that a tile of the
// left-hand side is read with one stride. One product covers up to 16 tokens, 16 outputs and a fold; its exact integer sums
// then get their scales in the order of the AVX-512 kernels: the results are the same bits.
// Instructions and configuration: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
#include "kernels/simd_avx512.h"
// The vector operations must come first.
#include "kernels/nm_narrow.h"

namespace gossamer {
namespace {

using TilePanel = CodePanel<true>;

// Tile registers: two of each, so that a product need not wait for the sums of the one before to be fetched.
enum Tile { kSums = 0, kLeft = 2, kRight = 4, kTiles = 6 };

template <int tile> GOSSAMER_INLINE void zero_tile() { asm volatile("tilezero %%tmm%c0" ::"i"(tile)); }
template <int tile> GOSSAMER_INLINE void load_tile(const void* rows, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(tile), "r"(rows), "r"(stride) : "memory");
}
template <int tile> GOSSAMER_INLINE void store_tile(void* rows, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(tile), "r"(rows), "r"(stride) : "memory");
}
// Signed bytes times signed bytes.
template <int sums, int left, int right> GOSSAMER_INLINE void multiply_tiles() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(left), "i"(right));
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  explicit TileConfig(int tokens) {
    for (int i = 0; i < kTiles; ++i) {
      const bool right = i / 2 * 2 == kRight;
      rows[i] = static_cast<uint8_t>(right ? kTileColumns / 4 : tokens);
      row_bytes[i] = 64;
    }
  }
  void load() const { asm volatile("ldtilecfg %0" ::"m"(*this)); }
};
static_assert(sizeof(TileConfig) == 64);

template <int size, bool asymmetric>
void sweep_tiles(const TilePanel& panel, const uint8_t* x, const float* x_scale, const float* x_sum,
                 int64_t folds, const Rows& rows, int64_t token, bool begin) {
  alignas(64) int32_t sums[2][size][kStripRows];
  F16 total[size];
  unroll<size>([&](auto t) GOSSAMER_LAMBDA { total[t] = begin ? zero_f() : rows.load(token + t); });
  const auto multiply = [&](auto side, int64_t fold) GOSSAMER_LAMBDA {
    zero_tile<kSums + side>();
    load_tile<kLeft + side>(x + fold * kTileColumns * size, kTileColumns);
    load_tile<kRight + side>(panel.codes[fold * kTileColumns / 4], 64);
    multiply_tiles<kSums + side, kLeft + side, kRight + side>();
    store_tile<kSums + side>(sums[side], 64);
  };
  const auto add = [&](auto side, int64_t fold) GOSSAMER_LAMBDA {
    const int64_t step = fold * kTileColumns / kStepColumns;
    const F16 scale = load_f(panel.scale[step]);
    unroll<size>([&](auto t) GOSSAMER_LAMBDA {
      const F16 sum = to_float(load_b(reinterpret_cast<const uint8_t*>(sums[side][t])));
      total[t] = fma_f(sum, mul_f(scale, set1_f(x_scale[fold * size + t])), total[t]);
      if constexpr (asymmetric)
        total[t] = fma_f(load_f(panel.offset[step]), set1_f(x_sum[fold * size + t]), total[t]);
    });
  };
  multiply(Const<0>{}, 0);
  for (int64_t fold = 0; fold < folds; fold += 2) {
    if (fold + 1 < folds) multiply(Const<1>{}, fold + 1);
    add(Const<0>{}, fold);
    if (fold + 2 < folds) multiply(Const<0>{}, fold + 2);
    if (fold + 1 < folds) add(Const<1>{}, fold + 1);
  }
  unroll<size>([&](auto t) GOSSAMER_LAMBDA { rows.store(token + t, total[t]); });
}

// Calls f(Const<n>) for n = value, 1 <= value <= 16.
template <class F> GOSSAMER_INLINE void with_size(int value, const F& f) {
  unroll<kTileTokens>([&](auto i) GOSSAMER_LAMBDA {
    if (value == i + 1) f(Const<i + 1>{});
  });
}

// Each thread that multiplies configures its tiles, and gives them back: a configuration belongs to a thread.
struct TileSweep {
  static constexpr int64_t kTokens = 512;  // a multiple of kTileTokens

  const Shape& m;
  const Activations& act;
  float* y;
  mutable int configured = 0;

  TileSweep(const Shape& shape, const Activations& activations, float* out)
      : m(shape), act(activations), y(out) {}
  TileSweep(const TileSweep&) = delete;
  ~TileSweep() { asm volatile("tilerelease"); }

  void operator()(const TilePanel& panel, int64_t strip, int64_t column, int64_t columns, int64_t first,
                  int64_t last) const {
    const Rows rows(m, y, strip);
    const int64_t width = m.padded_columns(), folds = columns / kTileColumns;
    for (int64_t t = first; t < last; t += kTileTokens) {
      const int size = static_cast<int>(smaller(kTileTokens, act.tokens - t));
      if (size != configured) TileConfig(configured = size).load();
      const uint8_t* x = act.codes + t * width + column * size;
      const int64_t fold = (t * width + column * size) / kTileColumns;
      with_size(size, [&](auto tokens) GOSSAMER_LAMBDA {
        if (panel.asymmetric)
          sweep_tiles<tokens, true>(panel, x, act.scales + fold, act.sums + fold, folds, rows, t,
                                    column == 0);
        else
          sweep_tiles<tokens, false>(panel, x, act.scales + fold, act.sums + fold, folds, rows, t,
                                     column == 0);
      });
    }
  }
};

// N:16 with int4 values, made dense window by window; slots that name the same column add up.
struct NMDecoder {
  using Cursor = const uint8_t*;
  const NMView& m;

  explicit NMDecoder(const NMView& view) : m(view) {}
  Cursor begin(int64_t strip) const { return m.codes + strip * m.windows() * m.planes * 64; }
};

void fill_panel(const NMDecoder& decoder, const uint8_t*& codes, int64_t strip, int64_t column,
                int64_t columns, TilePanel& panel) {
  const Scales scales(decoder.m, strip);
  const B64 values =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
  const B64 slots = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
  const B64 lanes = _mm512_set1_epi32(0x03020100);
  panel.asymmetric = false;
  for (int64_t step = 0; step < columns / kStepColumns; ++step)
    store_f(panel.scale[step], scales.of(scales.group_of(column + step * kStepColumns), 1.0f));
  for (int64_t window = 0; window < columns / 16; ++window) {
    B64 quads[4] = {set1_b(0), set1_b(0), set1_b(0), set1_b(0)};
    for (int plane = 0; plane < decoder.m.planes; ++plane, codes += 64) {
      prefetch<1>(codes, kAhead);
      const B64 raw = load_b(codes), index = low_nibbles(raw),
                value = shuffle16(values, low_nibbles(right_words<4>(raw)));
      unroll<4>([&](auto slot) GOSSAMER_LAMBDA {
        const B64 pick = or_b(slots, set1_b(slot)), at = shuffle16(index, pick), w = shuffle16(value, pick);
        unroll<4>([&](auto q) GOSSAMER_LAMBDA {
          const __mmask64 here = _mm512_cmpeq_epi8_mask(at, or_b(lanes, set1_b(4 * q)));
          quads[q] = _mm512_mask_add_epi8(quads[q], here, quads[q], w);
        });
      });
    }
    unroll<4>([&](auto q) GOSSAMER_LAMBDA { store_b(panel.codes[4 * window + q], quads[q]); });
  }
}

template <class Decoder>
void multiply_panels(const Decoder& decoder, const Activations& act, float* y, int64_t first, int64_t last) {
  for (int64_t strip = first; strip < last; strip += kMaxSweepStrips)
    matmul_panels<TilePanel, TileSweep>(decoder, act, y, strip, smaller(strip + kMaxSweepStrips, last));
}

void tiled_integer(const IntegerView& m, const Activations& act, float* y, int64_t first, int64_t last) {
  switch (m.bits) {
    case 2: return multiply_panels(IntegerDecoder<2>(m), act, y, first, last);
    case 3: return multiply_panels(IntegerDecoder<3>(m), act, y, first, last);
    case 4: return multiply_panels(IntegerDecoder<4>(m), act, y, first, last);
    case 5: return multiply_panels(IntegerDecoder<5>(m), act, y, first, last);
    case 6: return multiply_panels(IntegerDecoder<6>(m), act, y, first, last);
    case 7: return multiply_panels(IntegerDecoder<7>(m), act, y, first, last);
    default: return multiply_panels(IntegerDecoder<8>(m), act, y, first, last);
  }
}

void tiled_bitmask(const BitmaskView& m, const Activations& act, float* y, int64_t first, int64_t last) {
  if (m.kind == Values::nibble) multiply_panels(BitmaskDecoder<Values::nibble>(m), act, y, first, last);
  else multiply_panels(BitmaskDecoder<Values::int8>(m), act, y, first, last);
}

template <int window>
void tiled_narrow(const NMView& m, const Activations& act, float* y, int64_t first, int64_t last) {
  if (m.kind == Values::nibble)
    multiply_panels(NarrowDecoder<Values::nibble, window>(m), act, y, first, last);
  else multiply_panels(NarrowDecoder<Values::int8, window>(m), act, y, first, last);
}

void tiled_nm(const NMView& m, const Activations& act, float* y, int64_t first, int64_t last) {
  if (m.window == 4) return tiled_narrow<4>(m, act, y, first, last);
  if (m.window == 8) return tiled_narrow<8>(m, act, y, first, last);
  multiply_panels(NMDecoder(m), act, y, first, last);
}

}  // namespace

extern const TileKernels amx_tiles;
const TileKernels amx_tiles = {tiled_integer, tiled_bitmask, tiled_nm};

}  // namespace gossamer
