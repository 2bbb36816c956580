// Packed matrices as pointers and sizes: the byte layouts of csrc/README.md, not owned and already validated.
//
// Strips of 16 output rows; columns padded to a multiple of 64; quads of 4 columns. "Tile order" of a quad: 64 lanes,
// lane 4r+j is row r of the strip, column j of the quad.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/inline.h"

namespace gossamer {

constexpr int kStripRows = 16;
constexpr int kStepColumns = 32;  // no group of columns that shares a scale begins or ends inside a step

enum class Values { nibble, int8, float16, bfloat16, float32 };

GOSSAMER_INLINE int64_t value_bytes(Values values) {
  switch (values) {
    case Values::nibble:
    case Values::int8: return 1;
    case Values::float16:
    case Values::bfloat16: return 2;
    case Values::float32: return 4;
  }
  return 1;
}

struct Shape {
  int64_t rows = 0, columns = 0;
  int64_t groups = 1;                 // of columns that share a scale, per row
  int64_t group_size = 0;             // columns; == columns when there is one scale per row
  const uint16_t* scale = nullptr;    // float16 [strips, groups, 16]; null for float values
  const uint16_t* minimum = nullptr;  // same shape; null when symmetric

  GOSSAMER_INLINE int64_t strips() const { return (rows + kStripRows - 1) / kStripRows; }
  GOSSAMER_INLINE int64_t padded_columns() const { return (columns + 63) / 64 * 64; }
  GOSSAMER_INLINE int64_t quads() const { return padded_columns() / 4; }
  GOSSAMER_INLINE int64_t windows() const { return padded_columns() / 16; }
  GOSSAMER_INLINE int64_t steps() const { return padded_columns() / kStepColumns; }
  // Columns of one group, counting the padding when there is one scale per row.
  GOSSAMER_INLINE int64_t group_columns() const { return groups == 1 ? padded_columns() : group_size; }
};

struct IntegerView : Shape {
  int bits = 0;
  const uint8_t *codes8 = nullptr, *codes4 = nullptr, *codes2 = nullptr, *codes1 = nullptr;
};

struct BitmaskView : Shape {
  Values kind = Values::int8;
  const uint8_t* mask = nullptr;     // int64 [strips, quads]
  const uint8_t* offsets = nullptr;  // int64 [strips + 1], in elements of values
  const uint8_t* values = nullptr;   // followed by 64 bytes of padding
};

struct NMView : Shape {
  int window = 16;  // columns: N of 16, 4 of 8 or 2 of 4
  int planes = 0;   // of four slots for 16 columns of a row
  Values kind = Values::nibble;
  // Nibbles only: [strips, windows, planes, 64] with the column beside the value; of narrow windows [strips, windows, 64],
  // two planes to a byte.
  const uint8_t* codes = nullptr;
  const uint8_t* index = nullptr;  // [strips, windows, planes, 32]; of windows of 4 [strips, windows / 2, 64]
  const uint8_t* mask = nullptr;   // windows of 8 only: [strips, windows, 2, 16]
  const uint8_t* values = nullptr;  // [strips, windows, planes, 64]; not with nibbles
};

// Not packed at all: [rows, columns] in row order. One group, no scales.
struct DenseView : Shape {
  Values kind = Values::float32;  // a float type
  const uint8_t* data = nullptr;
};

// Files may place these anywhere: no alignment is assumed.
GOSSAMER_INLINE int64_t load_i64(const uint8_t* base, int64_t i) {
  int64_t value;
  std::memcpy(&value, base + 8 * i, 8);
  return value;
}

GOSSAMER_INLINE uint64_t load_u64(const uint8_t* base, int64_t i) {
  return static_cast<uint64_t>(load_i64(base, i));
}

}  // namespace gossamer
