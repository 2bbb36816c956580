#include "formats/matrix.h"

#include "formats/unpack.h"

namespace gossamer {
namespace {

int64_t row_bytes_of_scales(const Shape& m) {
  return m.scale == nullptr ? 0 : m.groups * kStripRows * 2 * (m.minimum == nullptr ? 1 : 2);
}

struct BytesBefore {
  int64_t strip;

  int64_t operator()(const IntegerView& m) const {
    return strip * (m.padded_columns() * kStripRows * m.bits / 8 + row_bytes_of_scales(m));
  }
  int64_t operator()(const BitmaskView& m) const {
    const int64_t values = load_i64(m.offsets, strip) * value_bytes(m.kind);
    return values + strip * (m.quads() * 8 + row_bytes_of_scales(m));
  }
  int64_t operator()(const NMView& m) const {
    const int64_t slots = m.windows() * m.planes * 64;
    const int64_t columns = m.window == 16 ? slots / 2 : slots / 4;
    const int64_t values = m.kind == Values::nibble ? slots / 2 : slots * value_bytes(m.kind);
    const int64_t each = columns + values;
    return strip * (each + row_bytes_of_scales(m));
  }
  int64_t operator()(const DenseView& m) const {
    return strip * kStripRows * m.columns * value_bytes(m.kind);
  }
};

}  // namespace

int64_t bytes_before(const MatrixView& matrix, int64_t strip) {
  return std::visit(BytesBefore{strip}, matrix);
}

void read_row(const MatrixView& matrix, int64_t row, float* out) {
  if (const auto* integer = std::get_if<IntegerView>(&matrix)) unpack_row(*integer, row, out);
  else if (const auto* dense = std::get_if<DenseView>(&matrix)) unpack_row(*dense, row, out);
}

}  // namespace gossamer
