// The products in tiles against plain loops, to the last bit; the tiles are emulated where the machine has none.
// tests/kernels/test_amx.py runs it.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "core/machine.h"
#include "kernels/table.h"

namespace gossamer {

extern const TileKernels amx_tiles;

namespace {

std::mt19937 random_bits{11};

int below(int bound) { return static_cast<int>(random_bits() % static_cast<unsigned>(bound)); }

float random_half(uint16_t& bits) {
  const _Float16 half = static_cast<_Float16>(0.01f + 0.001f * static_cast<float>(below(100)));
  std::memcpy(&bits, &half, 2);
  return half;
}

// A matrix of integers with scales, as plain numbers; the formats are made from it.
struct Plain {
  int64_t rows, columns, group, padded, strips;
  int zero;  // added to make codes unsigned
  bool asymmetric;
  std::vector<int> values;  // [strips * 16, padded]
  std::vector<uint16_t> scale_bits, minimum_bits;
  std::vector<float> scale, minimum;  // [strips, groups, 16]

  Plain(int64_t rows, int64_t columns, int64_t group, int zero, bool asymmetric)
      : rows(rows),
        columns(columns),
        group(group),
        padded((columns + 63) / 64 * 64),
        strips((rows + 15) / 16),
        zero(zero),
        asymmetric(asymmetric),
        values(static_cast<size_t>(strips * 16 * padded)) {
    const size_t count = static_cast<size_t>(strips * groups() * 16);
    scale_bits.resize(count), minimum_bits.resize(count);
    for (size_t i = 0; i < count; ++i)
      scale.push_back(random_half(scale_bits[i])), minimum.push_back(random_half(minimum_bits[i]));
  }
  int64_t groups() const { return columns / group; }
  int& at(int64_t row, int64_t column) { return values[static_cast<size_t>(row * padded + column)]; }
  int lane(int64_t strip, int64_t quad, int i) { return at(strip * 16 + i / 4, quad * 4 + i % 4); }
  void fill() {
    for (int& value : values) value = below(2 * zero) - zero;
  }
  void shape(Shape& m) const {
    m.rows = rows, m.columns = columns, m.groups = groups(), m.group_size = group,
    m.scale = scale_bits.data();
    if (asymmetric) m.minimum = minimum_bits.data();
  }
};

struct Input {
  static constexpr int fold = kTileColumns;
  int64_t tokens;
  std::vector<int> codes;       // [tokens, padded]
  std::vector<float> scales;    // [tokens, folds]
  std::vector<uint8_t> packed;  // [fold][tokens of the block][fold columns], block by block
  std::vector<float> packed_scales, packed_sums;

  Input(Plain& w, int64_t tokens) : tokens(tokens) {
    const int64_t folds = w.padded / fold;
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t k = 0; k < w.padded; ++k) codes.push_back(k < w.columns ? below(255) - 127 : 0);
    for (int64_t i = 0; i < tokens * folds; ++i)
      scales.push_back(0.001f * static_cast<float>(1 + below(1000)));
    for (int64_t t = 0; t < tokens; t += kTileTokens)
      for (int64_t f = 0; f < folds; ++f)
        for (int64_t row = t; row < std::min(tokens, t + kTileTokens); ++row) {
          for (int k = 0; k < fold; ++k) packed.push_back(static_cast<uint8_t>(code(w, row, f * fold + k)));
          packed_scales.push_back(scale(w, row, f)), packed_sums.push_back(sum(w, row, f));
        }
  }
  int code(const Plain& w, int64_t t, int64_t k) const {
    return codes[static_cast<size_t>(t * w.padded + k)];
  }
  float scale(const Plain& w, int64_t t, int64_t f) const {
    return scales[static_cast<size_t>(t * (w.padded / fold) + f)];
  }
  float sum(const Plain& w, int64_t t, int64_t f) const {
    int sum = 0;
    for (int k = 0; k < fold; ++k) sum += code(w, t, f * fold + k);
    return scale(w, t, f) * static_cast<float>(-w.zero * sum);
  }
};

// kernels/dense.h in scalars: integer sums of a fold, then one multiply-add for its scale, another for an offset.
std::vector<float> expected(Plain& w, const Input& x) {
  std::vector<float> y;
  for (int64_t t = 0; t < x.tokens; ++t)
    for (int64_t o = 0; o < w.rows; ++o) {
      float total = 0;
      for (int64_t f = 0; f < w.padded / x.fold; ++f) {
        const int64_t group = std::min(f * x.fold / (w.groups() == 1 ? w.padded : w.group), w.groups() - 1);
        const size_t cell = static_cast<size_t>((o / 16 * w.groups() + group) * 16 + o % 16);
        int sum = 0;
        for (int k = 0; k < x.fold; ++k) sum += w.at(o, f * x.fold + k) * x.code(w, t, f * x.fold + k);
        total = std::fma(static_cast<float>(sum), w.scale[cell] * x.scale(w, t, f), total);
        if (!w.asymmetric) continue;
        const float zero = static_cast<float>(w.zero),
                    offset = std::fma(w.scale[cell], zero, w.minimum[cell]) * (-1.0f / zero);
        total = std::fma(offset, x.sum(w, t, f), total);
      }
      y.push_back(total);
    }
  return y;
}

template <class View>
void check(const char* what, Plain& w, const View& view,
           void (*product)(const View&, const Activations&, float*, int64_t, int64_t)) {
  for (int64_t tokens : {8, 16, 21, 33}) {
    const Input x(w, tokens);
    Activations act;
    act.tokens = tokens, act.codes = x.packed.data(), act.scales = x.packed_scales.data(),
    act.sums = x.packed_sums.data();
    act.fold_columns = kTileColumns;
    const std::vector<float> right = expected(w, x);
    for (int threads : {1, 2, 4}) {  // each time other threads: none inherits a configuration
      std::vector<float> y(right.size(), 1e30f);
      std::vector<std::thread> team;
      for (int i = 0; i < threads; ++i)
        team.emplace_back(
            [&, i] { product(view, act, y.data(), w.strips * i / threads, w.strips * (i + 1) / threads); });
      for (std::thread& thread : team) thread.join();
      if (std::memcmp(y.data(), right.data(), y.size() * 4) == 0) continue;
      std::printf("amx_test: %s, %ld x %ld, groups of %ld, %ld tokens, %d threads: wrong\n", what,
                  static_cast<long>(w.rows), static_cast<long>(w.columns), static_cast<long>(w.group),
                  static_cast<long>(tokens), threads);
      std::exit(1);
    }
  }
}

void check_integer(int64_t rows, int64_t columns, int64_t group, int bits, bool asymmetric) {
  Plain w(rows, columns, group, 1 << (bits - 1), asymmetric);
  w.fill();
  IntegerView view;
  w.shape(view);
  view.bits = bits;
  std::vector<uint8_t> planes[9];
  int shift = 0;
  for (int plane : {8, 4, 2, 1}) {
    if ((bits & plane) == 0) continue;
    const int quads = 8 / plane;  // that share a byte
    for (int64_t strip = 0; strip < w.strips; ++strip)
      for (int64_t quad = 0; quad < w.padded / 4; quad += quads)
        for (int lane = 0; lane < 64; ++lane) {
          int byte = 0;
          for (int q = 0; q < quads; ++q)
            byte |= ((w.lane(strip, quad + q, lane) + w.zero) >> shift & ((1 << plane) - 1)) << q * plane;
          planes[plane].push_back(static_cast<uint8_t>(byte));
        }
    shift += plane;
  }
  view.codes8 = planes[8].data(), view.codes4 = planes[4].data(), view.codes2 = planes[2].data(),
  view.codes1 = planes[1].data();
  check("integer", w, view, amx_tiles.integer);
}

void check_bitmask(int64_t rows, int64_t columns, int64_t group, Values kind) {
  Plain w(rows, columns, group, kind == Values::nibble ? 8 : 128, false);
  w.fill();
  std::vector<uint8_t> values;
  std::vector<uint64_t> mask;
  std::vector<int64_t> offsets{0};
  for (int64_t strip = 0; strip < w.strips; ++strip) {
    std::vector<uint8_t> streams[2];
    for (int64_t quad = 0; quad < w.padded / 4; ++quad) {
      mask.push_back(0);
      for (int lane = 0; lane < 64; ++lane) {
        const int64_t row = strip * 16 + lane / 4, column = quad * 4 + lane % 4;
        if (row >= rows || column >= columns || below(2)) {
          w.at(row, column) = 0;
          continue;
        }
        mask.back() |= uint64_t{1} << lane;
        streams[kind == Values::nibble ? quad % 2 : 0].push_back(static_cast<uint8_t>(w.at(row, column)));
      }
    }
    const size_t longest = std::max(streams[0].size(), streams[1].size());
    for (auto& stream : streams) stream.resize(longest);
    for (size_t i = 0; i < longest; ++i)
      values.push_back(kind == Values::nibble
                           ? static_cast<uint8_t>((streams[0][i] & 15) | streams[1][i] << 4)
                           : streams[0][i]);
    offsets.push_back(static_cast<int64_t>(values.size()));
  }
  values.resize(values.size() + 64);
  BitmaskView view;
  w.shape(view);
  view.kind = kind, view.values = values.data();
  view.mask = reinterpret_cast<const uint8_t*>(mask.data()),
  view.offsets = reinterpret_cast<const uint8_t*>(offsets.data());
  check("bitmask", w, view, amx_tiles.bitmask);
}

void check_nm(int64_t rows, int64_t columns, int64_t group, int planes) {
  Plain w(rows, columns, group, 8, false);
  std::vector<uint8_t> codes;
  for (int64_t strip = 0; strip < w.strips; ++strip)
    for (int64_t window = 0; window < w.padded / 16; ++window)
      for (int plane = 0; plane < planes; ++plane)
        for (int row = 0; row < 16; ++row)
          for (int slot = 0; slot < 4; ++slot) {  // now and then two slots name the same column, and add up
            const int value = below(16) - 8, column = below(16);
            w.at(strip * 16 + row, window * 16 + column) += value;
            codes.push_back(static_cast<uint8_t>(value << 4 | column));
          }
  NMView view;
  w.shape(view);
  view.planes = planes, view.kind = Values::nibble, view.codes = codes.data();
  check("nm", w, view, amx_tiles.nm);
}

// Half of every 4 or 8 columns, in the order of csrc/README.md.
void check_narrow(int64_t rows, int64_t columns, int64_t group, int window, Values kind) {
  const bool nibbles = kind == Values::nibble;
  Plain w(rows, columns, group, nibbles ? 8 : 128, false);
  const int64_t runs = w.strips * w.padded / 16;
  std::vector<uint8_t> index(static_cast<size_t>(runs * 32)), mask(index),
      values(static_cast<size_t>(runs * 128));
  for (int64_t run = 0; run < runs; ++run)
    for (int row = 0; row < 16; ++row)
      for (int slot = 0, column = -1; slot < 8;
           ++slot) {  // ascending, so that every window has half of its columns
        const int first = slot * 2 / window * window, last = first + window,
                  left = window / 2 - slot % (window / 2);
        if (slot % (window / 2) == 0) column = first - 1;
        column += 1 + below(last - left - column);
        const int value = below(2 * w.zero) - w.zero, lane = 4 * row + slot % 4, plane = slot / 4;
        w.at(run * 16 / w.padded * 16 + row, run * 16 % w.padded + column) = value;
        index[static_cast<size_t>(run / 2 * 64 + lane)] |=
            static_cast<uint8_t>((column - first) << (4 * (run % 2) + 2 * plane));
        mask[static_cast<size_t>((run * 2 + plane) * 16 + row)] |=
            static_cast<uint8_t>(1 << (column - first));
        if (nibbles)
          values[static_cast<size_t>(run * 64 + lane)] |= static_cast<uint8_t>((value & 15) << (4 * plane));
        else values[static_cast<size_t>((run * 2 + plane) * 64 + lane)] = static_cast<uint8_t>(value);
      }
  NMView view;
  w.shape(view);
  view.window = window, view.planes = 2, view.kind = kind;
  (window == 4 ? view.index : view.mask) = (window == 4 ? index : mask).data();
  (nibbles ? view.codes : view.values) = values.data();
  check("nm of narrow windows", w, view, amx_tiles.nm);
}

}  // namespace
}  // namespace gossamer

int main() {
  using namespace gossamer;
  if (!tiles_usable()) return 1;
  struct Size { int64_t rows, columns, group; };
  // One with a strip that is not full and columns of padding, one with more columns than a panel, one with more strips.
  for (const Size& size : {Size{21, 96, 96}, Size{16, 64, 64}, Size{40, 704, 64}, Size{100, 128, 64}}) {
    for (int bits = 2; bits <= 8; ++bits)
      for (bool asymmetric : {false, true})
        check_integer(size.rows, size.columns, size.group, bits, asymmetric);
    check_bitmask(size.rows, size.columns, size.group, Values::nibble);
    check_bitmask(size.rows, size.columns, size.group, Values::int8);
    for (int planes = 1; planes <= 3; ++planes) check_nm(size.rows, size.columns, size.group, planes);
    for (int window : {4, 8})
      for (Values kind : {Values::nibble, Values::int8})
        check_narrow(size.rows, size.columns, size.group, window, kind);
  }
  std::puts("amx_test: products in tiles are right");
  return 0;
}
