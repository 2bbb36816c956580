// The packed matrices as Python classes. Arrays are checked once, kept alive and never copied.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <vector>

#include "formats/expand.h"
#include "formats/unpack.h"
#include "formats/validate.h"
#include "kernels/matmul.h"

namespace gossamer {

namespace nb = nanobind;

using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using OptionalArray = std::optional<Array>;

constexpr nb::dlpack::dtype kByte{static_cast<uint8_t>(nb::dlpack::dtype_code::UInt), 8, 1};
constexpr nb::dlpack::dtype kHalf{static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
constexpr nb::dlpack::dtype kLong{static_cast<uint8_t>(nb::dlpack::dtype_code::Int), 64, 1};

inline nb::dlpack::dtype dtype_of(Values kind) {
  using Code = nb::dlpack::dtype_code;
  switch (kind) {
    case Values::nibble: return kByte;
    case Values::int8: return {static_cast<uint8_t>(Code::Int), 8, 1};
    case Values::float16: return kHalf;
    case Values::bfloat16: return {static_cast<uint8_t>(Code::Bfloat), 16, 1};
    case Values::float32: return {static_cast<uint8_t>(Code::Float), 32, 1};
  }
  return kByte;
}

inline Values parse_values(const std::string& name, bool float32) {
  if (name == "int4") return Values::nibble;
  if (name == "int8") return Values::int8;
  if (name == "float16") return Values::float16;
  if (name == "bfloat16") return Values::bfloat16;
  if (name == "float32" && float32) return Values::float32;
  refuse("values", "int4, int8, float16, bfloat16" + std::string(float32 ? " or float32" : ""),
         "'" + name + "'");
}

// Keeps the arrays that its views point into.
class Holder {
 public:
  // The data of an array that must have this type and this many elements.
  const uint8_t* keep(const char* name, const OptionalArray& array, nb::dlpack::dtype dtype,
                      int64_t elements) {
    if (!array) refuse(name, "an array", "None");
    if (array->dtype() != dtype)
      refuse(name, "another element type", "one of " + std::to_string(array->dtype().bits) + " bits");
    validate_extent({name, array->data(), static_cast<int64_t>(array->nbytes())},
                    elements * (dtype.bits / 8));
    arrays_.push_back(*array);
    return static_cast<const uint8_t*>(array->data());
  }

  static void refuse_extra(const char* name, const OptionalArray& array) {
    if (array) refuse(name, "None for this kind of matrix", "an array");
  }

 private:
  std::vector<Array> arrays_;
};

inline void set_shape(Shape& m, std::pair<int64_t, int64_t> shape, int64_t group_size) {
  m.rows = shape.first, m.columns = shape.second, m.group_size = group_size;
  validate_shape(m);
  m.groups = m.columns / m.group_size;
}

inline void keep_scales(Holder& holder, Shape& m, const OptionalArray& scale, const OptionalArray& minimum) {
  const int64_t count = m.strips() * m.groups * kStripRows;
  m.scale = reinterpret_cast<const uint16_t*>(holder.keep("scale", scale, kHalf, count));
  if (minimum) m.minimum = reinterpret_cast<const uint16_t*>(holder.keep("minimum", minimum, kHalf, count));
}

template <class View>
struct Matrix : Holder {
  View view;

  // x [num_tokens, columns], y [num_tokens, rows]: addresses of contiguous float32; the caller vouches for them.
  void multiply(uintptr_t x, int64_t num_tokens, uintptr_t y, bool int8_activations) const {
    if (num_tokens < 1 || x == 0 || y == 0) refuse("matmul", "at least one token and real addresses", "none");
    const nb::gil_scoped_release release;
    matmul(view, reinterpret_cast<const float*>(x), num_tokens, reinterpret_cast<float*>(y),
           int8_activations);
  }

  void unpack_to(uintptr_t w) const {
    if (w == 0) refuse("unpack", "a real address", "none");
    const nb::gil_scoped_release release;
    unpack(view, reinterpret_cast<float*>(w));
  }
};

struct IntegerMatrix : Matrix<IntegerView> {
  IntegerMatrix(std::pair<int64_t, int64_t> shape, int bits, int64_t group_size, OptionalArray scale,
                OptionalArray minimum, OptionalArray codes8, OptionalArray codes4, OptionalArray codes2,
                OptionalArray codes1) {
    if (bits < 2 || bits > 8) refuse("bits", "2 to 8", std::to_string(bits));
    set_shape(view, shape, group_size);
    view.bits = bits;
    const int64_t lanes = view.strips() * view.quads() * 64;
    const auto plane = [&](const char* name, const OptionalArray& array, int width,
                           bool used) -> const uint8_t* {
      if (used) return keep(name, array, kByte, lanes / 8 * width);
      refuse_extra(name, array);
      return nullptr;
    };
    view.codes8 = plane("codes8", codes8, 8, bits == 8);
    view.codes4 = plane("codes4", codes4, 4, bits >= 4 && bits <= 7);
    view.codes2 = plane("codes2", codes2, 2, bits == 2 || bits == 3 || bits == 6 || bits == 7);
    view.codes1 = plane("codes1", codes1, 1, bits == 3 || bits == 5 || bits == 7);
    keep_scales(*this, view, scale, minimum);
  }
};

inline bool is_integer(Values kind) { return kind == Values::nibble || kind == Values::int8; }

struct BitmaskMatrix : Matrix<BitmaskView> {
  BitmaskMatrix(std::pair<int64_t, int64_t> shape, const std::string& values_kind, OptionalArray mask,
                OptionalArray offsets, OptionalArray values, OptionalArray scale,
                std::optional<int64_t> group_size) {
    set_shape(view, shape, group_size.value_or(shape.second));
    view.kind = parse_values(values_kind, true);
    view.mask = keep("mask", mask, kLong, view.strips() * view.quads());
    view.offsets = keep("offsets", offsets, kLong, view.strips() + 1);
    if (!values) refuse("values", "an array", "None");
    const int64_t padding = 64 / value_bytes(view.kind),
                  count = static_cast<int64_t>(values->size()) - padding;
    if (count < 0)
      refuse("values", "64 bytes of padding at the end", std::to_string(values->nbytes()) + " bytes in all");
    view.values = keep("values", values, dtype_of(view.kind), count + padding);
    validate_bitmask(view, count);
    if (is_integer(view.kind)) keep_scales(*this, view, scale, std::nullopt);
    else refuse_extra("scale", scale);
  }

  // codes4: the address of strips x quads / 2 x 64 bytes; the caller vouches for it.
  void expand_to(uintptr_t codes4) const {
    if (codes4 == 0) refuse("expand", "a real address", "none");
    if (view.kind != Values::nibble) refuse("expand", "int4 values", "others");
    const nb::gil_scoped_release release;
    expand(view, reinterpret_cast<uint8_t*>(codes4));
  }
};

struct NMMatrix : Matrix<NMView> {
  NMMatrix(std::pair<int64_t, int64_t> shape, int keep_count, const std::string& values_kind,
           OptionalArray codes, OptionalArray index, OptionalArray mask, OptionalArray values,
           OptionalArray scale, std::optional<int64_t> group_size, int window) {
    validate_window(keep_count, window);
    set_shape(view, shape, group_size.value_or(shape.second));
    view.window = window, view.planes = keep_count * (16 / window) / 4;
    view.kind = parse_values(values_kind, false);
    const bool nibbles = view.kind == Values::nibble, wide = window == 16;
    if (!wide && !is_integer(view.kind))
      refuse("values of a window below 16", "int4 or int8", "'" + values_kind + "'");
    const int64_t lanes = view.strips() * view.windows() * view.planes * 64;
    const auto part = [&](const char* name, const OptionalArray& array, nb::dlpack::dtype dtype, bool used,
                          int64_t count) -> const uint8_t* {
      if (used) return keep(name, array, dtype, count);
      refuse_extra(name, array);
      return nullptr;
    };
    view.codes = part("codes", codes, kByte, nibbles, wide ? lanes : lanes / 2);
    view.index = part("index", index, kByte, window == 4 || (wide && !nibbles), wide ? lanes / 2 : lanes / 4);
    view.mask = part("mask", mask, kByte, window == 8, lanes / 4);
    view.values = part("values", values, dtype_of(view.kind), !nibbles, lanes);
    if (is_integer(view.kind)) keep_scales(*this, view, scale, std::nullopt);
    else refuse_extra("scale", scale);
  }
};

// Not packed: rows of float16, bfloat16 or float32.
struct DenseMatrix : Matrix<DenseView> {
  DenseMatrix(std::pair<int64_t, int64_t> shape, const std::string& values_kind, OptionalArray weight) {
    set_shape(view, shape, shape.second);
    view.kind = parse_values(values_kind, true);
    if (is_integer(view.kind)) refuse("values", "float16, bfloat16 or float32", "'" + values_kind + "'");
    view.data = keep("weight", weight, dtype_of(view.kind), view.rows * view.columns);
  }
};

}  // namespace gossamer
