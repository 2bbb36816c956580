// Tables for instruction sets that turn masks into the indices of a shuffle.
#pragma once

#include <cstdint>

namespace gossamer {
namespace {

// Which of the next 16 bytes goes to each of 16 lanes (0x80 and more: none): what `low` says of the first octet of mask bits,
// plus what `high` says of the second; `low` adds the bytes that the first one takes.
struct SpreadTables {
  alignas(64) uint8_t low[256][16], high[256][16];
  constexpr SpreadTables() : low{}, high{} {
    for (int mask = 0; mask < 256; ++mask) {
      int taken = 0;
      for (int i = 0; i < 8; ++i)
        low[mask][i] = high[mask][8 + i] = (mask >> i) & 1 ? static_cast<uint8_t>(taken++) : 0x80;
      for (int i = 8; i < 16; ++i) low[mask][i] = static_cast<uint8_t>(taken);
    }
  }
};
constexpr SpreadTables kSpread;

// The numbers of the first four columns that a mask of eight keeps, a byte each.
struct ColumnTable {
  uint32_t columns[256];
  constexpr ColumnTable() : columns{} {
    for (uint32_t mask = 0; mask < 256; ++mask)
      for (uint32_t column = 0, next = 0; column < 8; ++column)
        if ((mask >> column) & 1 && next < 4) columns[mask] |= column << (8 * next++);
  }
};
constexpr ColumnTable kColumns;

}  // namespace
}  // namespace gossamer
