#include "formats/validate.h"

#include <algorithm>

namespace gossamer {

void refuse(const std::string& what, const std::string& expected, const std::string& got) {
  throw std::invalid_argument(what + ": expected " + expected + ", got " + got);
}

void validate_shape(const Shape& m) {
  constexpr int64_t largest = int64_t{1} << 31;
  if (m.rows < 1 || m.rows >= largest) refuse("rows", "1 to 2^31 - 1", std::to_string(m.rows));
  if (m.columns < 1 || m.columns >= largest) refuse("columns", "1 to 2^31 - 1", std::to_string(m.columns));
  if (m.rows * m.columns > int64_t{1} << 48)
    refuse("rows * columns", "at most 2^48", std::to_string(m.rows * m.columns));
  const int64_t size = m.group_size;
  const bool whole_row = size == m.columns;
  if (size < 1 || m.columns % size != 0 || (size % 32 != 0 && !whole_row))
    refuse("group_size", "a multiple of 32 that divides " + std::to_string(m.columns) + ", or that number",
           std::to_string(size));
}

void validate_window(int keep, int window) {
  if (window == 4 || window == 8) {
    if (2 * keep != window)
      refuse("keep", std::to_string(window / 2) + " of a window of " + std::to_string(window),
             std::to_string(keep));
    return;
  }
  if (window != 16) refuse("window", "4, 8 or 16", std::to_string(window));
  if (keep != 4 && keep != 8 && keep != 12) refuse("keep", "4, 8 or 12", std::to_string(keep));
}

void validate_extent(const Extent& buffer, int64_t bytes) {
  if (buffer.bytes != bytes)
    refuse(buffer.name, std::to_string(bytes) + " bytes", std::to_string(buffer.bytes));
}

namespace {

// Bits that may be set in the words of this strip and quad.
uint64_t inside(const Shape& m, int64_t strip, int64_t quad) {
  const int64_t rows = std::min<int64_t>(kStripRows, m.rows - strip * kStripRows);
  const int64_t columns = std::clamp<int64_t>(m.columns - quad * 4, 0, 4);
  const uint64_t row_bits = rows == 16 ? ~uint64_t{0} : (uint64_t{1} << (4 * rows)) - 1;
  return row_bits & (((uint64_t{1} << columns) - 1) * 0x1111111111111111u);
}

}  // namespace

void validate_bitmask(const BitmaskView& m, int64_t num_values) {
  if (load_i64(m.offsets, 0) != 0) refuse("offsets[0]", "0", std::to_string(load_i64(m.offsets, 0)));
  int64_t end = 0;
  for (int64_t strip = 0; strip < m.strips(); ++strip) {
    int64_t count[2] = {0, 0};
    for (int64_t quad = 0; quad < m.quads(); ++quad) {
      const uint64_t mask = load_u64(m.mask, strip * m.quads() + quad);
      if (mask & ~inside(m, strip, quad))
        refuse("mask of strip " + std::to_string(strip) + ", quad " + std::to_string(quad),
               "bits inside the matrix", "a bit outside");
      count[quad % 2] += __builtin_popcountll(mask);
    }
    end += m.kind == Values::nibble ? std::max(count[0], count[1]) : count[0] + count[1];
    const int64_t got = load_i64(m.offsets, strip + 1);
    if (got != end)
      refuse("offsets[" + std::to_string(strip + 1) + "]", std::to_string(end) + ", by the mask",
             std::to_string(got));
  }
  if (end != num_values) refuse("values", std::to_string(end) + " by the mask", std::to_string(num_values));
}

}  // namespace gossamer
