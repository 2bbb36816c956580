#include "kernels/activations.h"

#include <algorithm>
#include <cstring>

namespace gossamer {
namespace {

// Columns that are summed in integers: a run that has one activation scale and does not cross a group of weights.
int choose_fold(const Shape& m) {
  return m.group_size == 32 || (m.groups > 1 && m.group_size % 64 != 0) ? 32 : 64;
}

// Block by block (table.h), [columns / granule][tokens][granule], zeros in the padding.
void pack_float(const ActivationLayout& m, const float* x, int tokens, int granule, float* packed) {
  for (int t = 0; t < tokens; ++t, x += m.columns) {
    float* out = packed + t * granule;
    int64_t column = 0;
    if (granule == 1)
      for (; column < m.columns; ++column) out[column * tokens] = x[column];
    for (; column + granule <= m.columns; column += granule)
      std::memcpy(out + column * tokens, x + column, static_cast<size_t>(granule) * 4);
    for (; column < m.padded_columns; column += granule)
      for (int i = 0; i < granule; ++i)
        out[column * tokens + i] = column + i < m.columns ? x[column + i] : 0.0f;
  }
}

void sum_groups(const ActivationLayout& m, const float* x, float* sums) {
  const int64_t columns = m.columns / m.sum_groups;
  for (int64_t g = 0; g < m.sum_groups; ++g) {
    float sum = 0;
    for (int64_t i = 0; i < columns; ++i) sum += x[g * columns + i];
    sums[g] = sum;
  }
}

struct IsInteger {
  bool operator()(const IntegerView&) const { return true; }
  bool operator()(const DenseView&) const { return false; }
  template <class View> bool operator()(const View& m) const {
    return m.kind == Values::nibble || m.kind == Values::int8;
  }
};

struct Zero {
  int operator()(const IntegerView& m) const { return 1 << (m.bits - 1); }
  int operator()(const BitmaskView& m) const { return m.kind == Values::nibble ? 8 : 128; }
  int operator()(const NMView& m) const { return m.window == 16 ? 0 : m.kind == Values::nibble ? 8 : 128; }
  int operator()(const DenseView&) const { return 0; }
};

bool pays_in_tiles(const NMView* nm, int64_t tokens) {
  if (nm == nullptr) return tokens >= kFewestTiled;
  return nm->kind == Values::nibble && nm->planes > 1 && tokens >= kFewestTiledNM;
}

// True when the product fetches activations by shuffles, and not from weights made dense.
bool shuffles(const NMView& m, int64_t tokens, bool int8) {
  return m.window == 16 || (int8 && (m.window == 4 || tokens <= kMostShuffled));
}

}  // namespace

int ActivationLayout::block(const KernelTable& table, int64_t remaining) const {
  return tiles ? static_cast<int>(std::min<int64_t>(remaining, kTileTokens))
               : block_tokens(remaining, table.largest_block);
}

ActivationLayout layout_for(const KernelTable& table, const MatrixView& matrix, int64_t tokens, bool int8,
                            int scale_columns) {
  const Shape& m = shape_of(matrix);
  ActivationLayout layout{.columns = m.columns, .padded_columns = m.padded_columns()};
  layout.int8 = int8 && std::visit(IsInteger{}, matrix);
  const auto* nm = std::get_if<NMView>(&matrix);
  if (layout.int8) {
    layout.scale_columns = m.group_size == 32 ? 32 : scale_columns;
    layout.fold_columns = std::min(choose_fold(m), layout.scale_columns);
    layout.zero = std::visit(Zero{}, matrix);
    layout.tiles = table.tiles != nullptr && layout.fold_columns == kTileColumns && pays_in_tiles(nm, tokens);
  } else if (m.minimum != nullptr && tokens == 1) {
    layout.sum_groups = m.groups;
  }
  layout.windows = nm != nullptr && !layout.tiles && shuffles(*nm, tokens, layout.int8);
  return layout;
}

ActivationRoom::ActivationRoom(const ActivationLayout& layout, int64_t tokens) {
  const auto take = [this](int64_t size) {
    const int64_t offset = bytes;
    bytes += (size + 63) / 64 * 64;
    return offset;
  };
  const int64_t cells = tokens * layout.padded_columns, folds = tokens * layout.folds();
  x = take(layout.int8 || is_plain(layout, tokens) ? 0 : cells * 4);
  codes = take(layout.int8 ? cells : 0);
  scales = take(layout.int8 ? folds * 4 : 0);
  starts = take(layout.int8 ? folds * 4 : 0);
  sums = take(layout.int8 ? folds * 4 : 0);
  group_sums = take(layout.sum_groups * 4);
}

ActivationMemory ActivationRoom::at(uint8_t* begin) const {
  const auto floats = [begin](int64_t offset) { return reinterpret_cast<float*>(begin + offset); };
  return {.x = floats(x),
          .codes = begin + codes,
          .scales = floats(scales),
          .starts = reinterpret_cast<int32_t*>(begin + starts),
          .sums = floats(sums),
          .group_sums = floats(group_sums)};
}

bool is_plain(const ActivationLayout& layout, int64_t tokens) {
  return !layout.int8 && tokens == 1 && layout.columns == layout.padded_columns;
}

void prepare_tokens(const KernelTable& table, const ActivationLayout& layout, const float* x, int64_t tokens,
                    int64_t first, int64_t last, const ActivationMemory& memory) {
  const int64_t width = layout.padded_columns, folds = layout.folds();
  for (int64_t t = first; t < last;) {
    const int block = layout.block(table, tokens - t);
    const float* rows = x + t * layout.columns;
    if (layout.int8) {
      const QuantizePlan plan{.columns = layout.columns,
                              .padded_columns = width,
                              .tokens = block,
                              .granule = layout.granule(),
                              .scale_columns = layout.scale_columns,
                              .fold_columns = layout.fold_columns,
                              .is_unsigned = layout.windows && !table.signed_dot,
                              .zero = layout.zero};
      float* scales = memory.scales + t * folds;
      int32_t* starts = memory.starts + t * folds;
      table.quantize(plan, rows, memory.codes + t * width, scales, starts);
      if (!layout.windows)
        for (int64_t i = 0; i < block * folds; ++i)
          memory.sums[t * folds + i] = scales[i] * static_cast<float>(starts[i]);
    } else if (!is_plain(layout, tokens)) {
      pack_float(layout, rows, block, layout.windows ? 16 : 1, memory.x + t * width);
    }
    t += block;
  }
  if (layout.sum_groups != 0) sum_groups(layout, x, memory.group_sums);
}

Activations prepared(const ActivationLayout& layout, const float* x, int64_t tokens,
                     const ActivationMemory& memory) {
  Activations act{.tokens = tokens, .windows = layout.windows};
  if (layout.int8) {
    act.fold_columns = layout.fold_columns;
    act.codes = memory.codes, act.scales = memory.scales, act.starts = memory.starts;
    act.sums = memory.sums;
    return act;
  }
  act.x = is_plain(layout, tokens) ? x : memory.x;
  if (layout.sum_groups != 0) act.group_sums = memory.group_sums;
  return act;
}

namespace {

struct Multiply {
  const KernelTable& table;
  const Activations& act;
  bool int8;
  float* y;
  int64_t first, last;

  void operator()(const IntegerView& m) const { table.integer(m, act, int8, y, first, last); }
  void operator()(const BitmaskView& m) const { table.bitmask(m, act, int8, y, first, last); }
  void operator()(const NMView& m) const { table.nm(m, act, int8, y, first, last); }
  void operator()(const DenseView& m) const { table.dense(m, act, y, first, last); }
};

struct MultiplyTiled {
  const TileKernels& tiles;
  const Activations& act;
  float* y;
  int64_t first, last;

  void operator()(const IntegerView& m) const { tiles.integer(m, act, y, first, last); }
  void operator()(const BitmaskView& m) const { tiles.bitmask(m, act, y, first, last); }
  void operator()(const NMView& m) const { tiles.nm(m, act, y, first, last); }
  void operator()(const DenseView&) const {}  // never in int8
};

}  // namespace

void multiply_strips(const KernelTable& table, const MatrixView& matrix, const ActivationLayout& layout,
                     const Activations& act, float* y, int64_t first, int64_t last) {
  if (layout.tiles) return std::visit(MultiplyTiled{*table.tiles, act, y, first, last}, matrix);
  std::visit(Multiply{table, act, layout.int8, y, first, last}, matrix);
}

}  // namespace gossamer
