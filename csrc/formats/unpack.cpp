#include "formats/unpack.h"

#include <algorithm>
#include <cmath>

namespace gossamer {
namespace {

float half_at(const uint16_t* base, int64_t i) {
  uint16_t half;
  std::memcpy(&half, reinterpret_cast<const uint8_t*>(base) + 2 * i, 2);
  const int exponent = (half >> 10) & 31, fraction = half & 0x3FF;
  const float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                          : exponent     ? std::ldexp(static_cast<float>(1024 + fraction), exponent - 25)
                                         : std::ldexp(static_cast<float>(fraction), -24);
  return half & 0x8000 ? -magnitude : magnitude;
}

float value_at(const uint8_t* values, Values kind, int64_t i) {
  if (kind == Values::float16) return half_at(reinterpret_cast<const uint16_t*>(values), i);
  if (kind == Values::int8) return static_cast<float>(static_cast<int8_t>(values[i]));
  uint32_t bits = 0;
  if (kind == Values::bfloat16) std::memcpy(reinterpret_cast<uint8_t*>(&bits) + 2, values + 2 * i, 2);
  else std::memcpy(&bits, values + 4 * i, 4);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

float nibble(int bits) { return static_cast<float>((bits & 15) < 8 ? bits & 15 : (bits & 15) - 16); }

// scale * (value + zero) + minimum, or scale * value; 1 * value when there are no scales.
float scaled(const Shape& m, int64_t row, int64_t column, float value, int zero) {
  if (m.scale == nullptr) return value;
  const int64_t group = std::min(column / m.group_columns(), m.groups - 1);
  const int64_t i = (row / kStripRows * m.groups + group) * kStripRows + row % kStripRows;
  if (m.minimum == nullptr) return half_at(m.scale, i) * value;
  return half_at(m.scale, i) * (value + static_cast<float>(zero)) + half_at(m.minimum, i);
}

struct Slot {
  int column;  // of the 16
  float value;
};

// Lane `i` of all, where N of 16 are kept.
Slot wide_slot(const NMView& m, int64_t i) {
  const int byte = m.kind == Values::nibble ? m.codes[i] : m.index[i / 2] >> (4 * (i % 2));
  return {byte & 15, m.kind == Values::nibble ? nibble(byte >> 4) : value_at(m.values, m.kind, i)};
}

// What lies in lane `lane` of plane `plane` of 16 columns of a strip (`window` counts both), where half of every 4 or 8
// columns are kept.
Slot narrow_slot(const NMView& m, int64_t window, int plane, int lane) {
  const float value = m.kind == Values::nibble ? nibble(m.codes[window * 64 + lane] >> (4 * plane))
                                               : value_at(m.values, m.kind, (window * 2 + plane) * 64 + lane);
  if (m.window == 4) {
    const int shift = 4 * static_cast<int>(window % 2) + 2 * plane;
    return {8 * plane + lane % 4 / 2 * 4 + ((m.index[window / 2 * 64 + lane] >> shift) & 3), value};
  }
  int kept = m.mask[(window * 2 + plane) * 16 + lane / 4];
  for (int slot = 0; slot < lane % 4; ++slot) kept &= kept - 1;
  return {8 * plane + (kept ? __builtin_ctz(static_cast<unsigned>(kept)) : 0), value};
}

int code_at(const IntegerView& m, int64_t strip, int64_t quad, int lane) {
  int code = 0, shift = 0;
  const auto take = [&](const uint8_t* plane, int width) {
    if (plane == nullptr) return;
    const int64_t per_byte = 8 / width, index = strip * m.quads() / per_byte + quad / per_byte;
    code |= ((plane[index * 64 + lane] >> (quad % per_byte * width)) & ((1 << width) - 1)) << shift;
    shift += width;
  };
  take(m.codes8, 8), take(m.codes4, 4), take(m.codes2, 2), take(m.codes1, 1);
  return code;
}

}  // namespace

void unpack(const IntegerView& m, float* w) {
  const int zero = 1 << (m.bits - 1);
  for (int64_t row = 0; row < m.rows; ++row)
    for (int64_t column = 0; column < m.columns; ++column) {
      const int lane = static_cast<int>(row % kStripRows * 4 + column % 4);
      const int code = code_at(m, row / kStripRows, column / 4, lane);
      w[row * m.columns + column] = scaled(m, row, column, static_cast<float>(code - zero), zero);
    }
}

void unpack(const BitmaskView& m, float* w) {
  std::fill(w, w + m.rows * m.columns, 0.0f);
  for (int64_t strip = 0; strip < m.strips(); ++strip) {
    int64_t next[2] = {load_i64(m.offsets, strip), load_i64(m.offsets, strip)};
    for (int64_t quad = 0; quad < m.quads(); ++quad)
      for (uint64_t mask = load_u64(m.mask, strip * m.quads() + quad); mask; mask &= mask - 1) {
        const int lane = __builtin_ctzll(mask);
        int64_t& i = next[m.kind == Values::nibble ? quad % 2 : 0];
        const float value = m.kind == Values::nibble ? nibble(m.values[i] >> (4 * (quad % 2)))
                                                     : value_at(m.values, m.kind, i);
        ++i;
        const int64_t row = strip * kStripRows + lane / 4, column = quad * 4 + lane % 4;
        w[row * m.columns + column] = scaled(m, row, column, value, 0);
      }
  }
}

void unpack(const NMView& m, float* w) {
  std::fill(w, w + m.rows * m.columns, 0.0f);
  const int64_t lanes = m.strips() * m.windows() * m.planes * 64;
  for (int64_t i = 0; i < lanes; ++i) {
    const int64_t window = i / 64 / m.planes;
    const Slot slot = m.window == 16 ? wide_slot(m, i)
                                     : narrow_slot(m, window, static_cast<int>(i / 64 % m.planes),
                                                   static_cast<int>(i % 64));
    const int64_t row = window / m.windows() * kStripRows + i % 64 / 4,
                  column = window % m.windows() * 16 + slot.column;
    // Unused slots have value 0 and index 0, so values are added: the products do the same.
    if (row < m.rows && column < m.columns)
      w[row * m.columns + column] += scaled(m, row, column, slot.value, 0);
  }
}

void unpack_row(const IntegerView& m, int64_t row, float* out) {
  const int64_t strip = row / kStripRows, lane = row % kStripRows;
  const int64_t zero = m.minimum == nullptr ? int64_t{1} << (m.bits - 1) : 0;
  for (int64_t group = 0, column = 0; group < m.groups; ++group) {
    const int64_t at = (strip * m.groups + group) * kStripRows + lane;
    const float scale = half_at(m.scale, at), offset = m.minimum == nullptr ? 0.0f : half_at(m.minimum, at);
    for (const int64_t end = column + m.group_size; column < end; ++column) {
      const int code = code_at(m, strip, column / 4, static_cast<int>(4 * lane + column % 4));
      out[column] = scale * static_cast<float>(code - zero) + offset;
    }
  }
}

void unpack_row(const DenseView& m, int64_t row, float* out) {
  for (int64_t column = 0; column < m.columns; ++column)
    out[column] = value_at(m.data, m.kind, row * m.columns + column);
}

void unpack(const DenseView& m, float* w) {
  for (int64_t row = 0; row < m.rows; ++row) unpack_row(m, row, w + row * m.columns);
}

}  // namespace gossamer
