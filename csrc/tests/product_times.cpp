// Multiplies one token by a random matrix, a given number of times, for benchmarks/arm_instructions.py to count:
//   product_times <format> <rows> <columns> <times>
// Formats: int4, int8, bitmask-int4, bitmask-int8, nm2of4-int4, nm4of8-int4, nm4of16-int4, nm8of16-int4. Groups of 64; int8 activations.
#include <string>

#include "kernels/matmul.h"
#include "tests/store.h"

int main(int argc, char** argv) {
  using namespace gossamer;
  expect(argc == 5, "product_times: expected <format> <rows> <columns> <times>");
  const std::string format = argv[1];
  const int64_t rows = std::clamp(std::atoi(argv[2]), 1, 1 << 20),
                columns = std::clamp(std::atoi(argv[3]), 1, 1 << 20), group = 64;
  Store store;
  MatrixView matrix;
  if (format == "int4") matrix = store.integer(rows, columns, 4, false, group);
  else if (format == "int8") matrix = store.integer(rows, columns, 8, false, group);
  else if (format == "bitmask-int4") matrix = store.bitmask(rows, columns, Values::nibble, group);
  else if (format == "bitmask-int8") matrix = store.bitmask(rows, columns, Values::int8, group);
  else if (format == "nm4of16-int4") matrix = store.nm(rows, columns, 1, Values::nibble, group);
  else if (format == "nm2of4-int4") matrix = store.narrow(rows, columns, 4, Values::nibble, group);
  else if (format == "nm4of8-int4") matrix = store.narrow(rows, columns, 8, Values::nibble, group);
  else if (format == "nm8of16-int4") matrix = store.nm(rows, columns, 2, Values::nibble, group);
  else expect(false, ("product_times: no such format: " + format).c_str());
  const float* x = store.floats(columns, 0, 1);
  float* y = store.floats(rows, 0, 1);
  for (long times = std::atol(argv[4]); times > 0; --times) matmul(matrix, x, 1, y, true);
  return 0;
}
