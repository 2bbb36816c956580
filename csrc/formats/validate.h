// Checks that a view may be handed to the kernels: after these, no kernel reads outside of a buffer, whatever the bytes.
#pragma once

#include <stdexcept>
#include <string>

#include "formats/views.h"

namespace gossamer {

// What the caller knows about a buffer: kernels get bare pointers.
struct Extent {
  const char* name;
  const void* data;
  int64_t bytes;
};

[[noreturn]] void refuse(const std::string& what, const std::string& expected, const std::string& got);

// Throws std::invalid_argument unless rows, columns and groups make sense and every size below fits in int64.
void validate_shape(const Shape& m);
// Throws unless so many of a window can be kept: 2 of 4, 4 of 8, or 4, 8 or 12 of 16.
void validate_window(int keep, int window);
// Throws unless the buffer has exactly this many bytes.
void validate_extent(const Extent& buffer, int64_t bytes);
// Throws unless offsets, masks and the number of values agree, and no bit lies outside of the matrix.
// Requires: mask and offsets have the sizes of the layout. num_values does not count the padding.
void validate_bitmask(const BitmaskView& m, int64_t num_values);

}  // namespace gossamer
