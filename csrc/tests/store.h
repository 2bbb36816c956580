// Random matrices in every format, in buffers of exactly the size that the layouts give them.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "formats/validate.h"
#include "kernels/table.h"

namespace gossamer {

inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

// Owns what views point into.
struct Store {
  std::mt19937 random{7};
  bool powers_of_two = false;  // scales are: then sums of products with integers have no rounding
  std::vector<std::unique_ptr<uint8_t[]>> buffers;

  uint8_t* bytes(int64_t count, bool noise = true) {
    buffers.push_back(std::make_unique<uint8_t[]>(static_cast<size_t>(count)));
    uint8_t* data = buffers.back().get();
    for (int64_t i = 0; noise && i < count; ++i) data[i] = static_cast<uint8_t>(random());
    return data;
  }
  float* floats(int64_t count, float around, float spread) {
    float* data = reinterpret_cast<float*>(bytes(count * 4, false));
    std::normal_distribution<float> normal(around, spread);
    for (int64_t i = 0; i < count; ++i) data[i] = normal(random);
    return data;
  }
  // Of any kind, followed by zeros; floats are about 1/64, of either sign.
  uint8_t* values(int64_t count, Values kind, int64_t padding = 0) {
    const int64_t width = value_bytes(kind);
    uint8_t* data = bytes(count * width + padding, false);
    for (int64_t i = 0; i < count; ++i) {
      uint32_t bits = static_cast<uint32_t>(random());
      if (kind == Values::float16) bits = (bits & 0x83FF) | 0x2400;
      if (kind == Values::bfloat16) bits = (bits & 0x807F) | 0x3C80;
      if (kind == Values::float32) bits = (bits & 0x807FFFFF) | 0x3C800000;
      std::memcpy(data + i * width, &bits, static_cast<size_t>(width));
    }
    return data;
  }
  void set_shape(Shape& m, int64_t rows, int64_t columns, int64_t group_size, bool scaled = true) {
    m.rows = rows, m.columns = columns, m.group_size = group_size;
    validate_shape(m);
    m.groups = columns / group_size;
    if (!scaled) return;
    const int64_t count = m.strips() * m.groups * kStripRows;
    uint16_t* scale = reinterpret_cast<uint16_t*>(bytes(count * 2, false));
    for (int64_t i = 0; i < count; ++i)  // about 1/64
      scale[i] = static_cast<uint16_t>(0x2400 + (powers_of_two ? random() % 2 * 0x400 : random() % 256));
    m.scale = scale;
  }
  IntegerView integer(int64_t rows, int64_t columns, int bits, bool minimum, int64_t group_size = 32) {
    IntegerView m;
    set_shape(m, rows, columns, group_size);
    m.bits = bits;
    if (minimum) m.minimum = m.scale;
    const int64_t lanes = m.strips() * m.quads() * 64;
    if (bits == 8) m.codes8 = bytes(lanes);
    if (bits >= 4 && bits < 8) m.codes4 = bytes(lanes / 2);
    if (bits == 2 || bits == 3 || bits == 6 || bits == 7) m.codes2 = bytes(lanes / 4);
    if (bits & 1) m.codes1 = bytes(lanes / 8);
    return m;
  }
  NMView nm(int64_t rows, int64_t columns, int planes, Values kind = Values::nibble,
            int64_t group_size = 32) {
    NMView m;
    set_shape(m, rows, columns, group_size, kind == Values::nibble || kind == Values::int8);
    m.planes = planes, m.kind = kind;
    const int64_t lanes = m.strips() * m.windows() * planes * 64;
    if (kind == Values::nibble) m.codes = bytes(lanes);
    else m.index = bytes(lanes / 2), m.values = values(lanes, kind);
    return m;
  }
  // Half of every window of 4 or 8 columns, all of its slots in use.
  NMView narrow(int64_t rows, int64_t columns, int window, Values kind = Values::nibble,
                int64_t group_size = 32) {
    NMView m;
    set_shape(m, rows, columns, group_size);
    m.window = window, m.planes = 2, m.kind = kind;
    const int64_t runs = m.strips() * m.windows();
    if (kind == Values::nibble) m.codes = bytes(runs * 64);
    else m.values = bytes(runs * 128);
    uint8_t* where = bytes(runs * 32);
    for (int64_t i = 0; i < runs * 32; ++i) {
      // Of 4: the first slot takes column 0 or 1, the second 2 or 3, four times a byte. Of 8: four bits.
      if (window == 4) where[i] = static_cast<uint8_t>((where[i] & 0x55) | (i % 2 ? 0xAA : 0));
      while (window == 8 && __builtin_popcount(where[i]) != 4) where[i] = static_cast<uint8_t>(random());
    }
    (window == 4 ? m.index : m.mask) = where;
    return m;
  }
  BitmaskView bitmask(int64_t rows, int64_t columns, Values kind, int64_t group_size = 32) {
    BitmaskView m;
    set_shape(m, rows, columns, group_size, kind == Values::nibble || kind == Values::int8);
    m.kind = kind;
    std::vector<uint64_t> mask;
    std::vector<int64_t> offsets{0};
    for (int64_t strip = 0; strip < m.strips(); ++strip) {
      int64_t count[2] = {0, 0};
      for (int64_t quad = 0; quad < m.quads(); ++quad) {
        uint64_t word = 0;
        for (int lane = 0; lane < 64; ++lane)
          if (strip * 16 + lane / 4 < rows && quad * 4 + lane % 4 < columns && random() % 2)
            word |= uint64_t{1} << lane;
        mask.push_back(word);
        count[quad % 2] += __builtin_popcountll(word);
      }
      offsets.push_back(offsets.back() +
                        (kind == Values::nibble ? std::max(count[0], count[1]) : count[0] + count[1]));
    }
    const auto copy = [&](const auto& words) {
      uint8_t* data = bytes(static_cast<int64_t>(words.size()) * 8, false);
      std::memcpy(data, words.data(), words.size() * 8);
      return data;
    };
    m.mask = copy(mask), m.offsets = copy(offsets);
    m.values = values(offsets.back(), kind, 64);
    validate_bitmask(m, offsets.back());
    return m;
  }
  DenseView dense(int64_t rows, int64_t columns, Values kind = Values::float32) {
    DenseView m;
    set_shape(m, rows, columns, columns, false);
    m.kind = kind;
    m.data = values(rows * columns, kind);
    return m;
  }
  RowNorm norm(int64_t size, bool centred = false) {
    return {.weight = floats(size, 1, 0.1f),
            .bias = centred ? floats(size, 0, 1) : nullptr,
            .epsilon = 1e-5f,
            .centred = centred};
  }
};

}  // namespace gossamer
