// Every product of every instruction set that this machine has against plain sums over unpack().
//
// With int8 activations to the last bit: scales are powers of two and activations are codes times a power of two, so that
// nothing is ever rounded. With float activations up to the rounding of a sum.
#include <cmath>
#include <string>

#include "core/machine.h"
#include "formats/unpack.h"
#include "kernels/matmul.h"
#include "tests/store.h"

namespace gossamer {
namespace {

struct Input {
  int64_t tokens, columns, run;
  std::vector<float> x;  // [tokens, columns]

  float* row(int64_t token) { return x.data() + token * columns; }
};

// Codes of -127 to 127 times a power of two that each run has for itself; its first code is 127, so that rounding it to int8
// gives the codes again. Half of the last token is zeros.
Input make_input(Store& store, int64_t tokens, int64_t columns, int64_t run) {
  Input input{.tokens = tokens, .columns = columns, .run = run, .x = {}};
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t k = 0; k < columns; ++k) {
      const int code = k % run == 0 ? 127 : static_cast<int>(store.random() % 255) - 127;
      const bool none = t + 1 == tokens && k >= columns / 2;
      input.x.push_back(none ? 0.0f : std::ldexp(static_cast<float>(code), -static_cast<int>(k / run % 3)));
    }
  return input;
}

struct Expected { std::vector<double> y, size; };  // size: sum of |x w|

Expected multiply_plainly(const MatrixView& matrix, const Input& input) {
  const Shape& m = shape_of(matrix);
  std::vector<float> w(static_cast<size_t>(m.rows * m.columns));
  std::visit([&](const auto& view) { unpack(view, w.data()); }, matrix);
  Expected expected;
  for (int64_t t = 0; t < input.tokens; ++t)
    for (int64_t o = 0; o < m.rows; ++o) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < m.columns; ++k) {
        const double product = static_cast<double>(w[static_cast<size_t>(o * m.columns + k)]) *
                               static_cast<double>(input.x[static_cast<size_t>(t * m.columns + k)]);
        sum += product, size += std::fabs(product);
      }
      expected.y.push_back(sum), expected.size.push_back(size);
    }
  return expected;
}

std::vector<float> multiply(const MatrixView& matrix, const Input& input, bool int8) {
  std::vector<float> y(static_cast<size_t>(input.tokens * shape_of(matrix).rows), 1e30f);
  matmul(matrix, input.x.data(), input.tokens, y.data(), int8);
  return y;
}

struct Case {
  std::string name;
  MatrixView matrix;
  bool integer;
};

void check(const Case& c, Input input, bool int8) {
  const Shape& m = shape_of(c.matrix);
  const Expected expected = multiply_plainly(c.matrix, input);
  for (Isa isa : usable_isas()) {
    set_isa(isa_name(isa));
    const std::vector<float> y = multiply(c.matrix, input, int8);
    for (size_t i = 0; i < y.size(); ++i) {
      const double bound = int8 && c.integer ? 0 : 1e-5 * expected.size[i];
      if (std::fabs(static_cast<double>(y[i]) - expected.y[i]) <= bound) continue;
      std::fprintf(stderr, "%s, %s, %ld x %ld in groups of %ld, %ld tokens%s: expected %.9g, got %.9g\n",
                   isa_name(isa), c.name.c_str(), static_cast<long>(m.rows), static_cast<long>(m.columns),
                   static_cast<long>(m.group_size), static_cast<long>(input.tokens), int8 ? ", int8" : "",
                   expected.y[i], static_cast<double>(y[i]));
      std::exit(1);
    }
  }
}

// A run with a NaN shows in all rows of its token, and in no other token.
void check_nan(const Case& c, Input input) {
  const int64_t rows = shape_of(c.matrix).rows;
  for (Isa isa : usable_isas()) {
    set_isa(isa_name(isa));
    const std::vector<float> before = multiply(c.matrix, input, true);
    Input bad = input;
    bad.row(1)[bad.columns - 1] = NAN;
    const std::vector<float> y = multiply(c.matrix, bad, true);
    for (int64_t i = 0; i < static_cast<int64_t>(y.size()); ++i) {
      const size_t at = static_cast<size_t>(i);
      expect(i / rows == 1 ? std::isnan(y[at]) : y[at] == before[at],
             (c.name + ": a NaN is lost, or spreads").c_str());
    }
  }
}

std::vector<Case> cases(Store& store, int64_t rows, int64_t columns, int64_t group_size) {
  std::vector<Case> all;
  for (int bits = 2; bits <= 8; ++bits)
    for (bool minimum : {false, true})
      all.push_back({"int" + std::to_string(bits) + (minimum ? " with minimum" : ""),
                     store.integer(rows, columns, bits, minimum, group_size), true});
  const std::pair<const char*, Values> kinds[] = {{"int4", Values::nibble},
                                                  {"int8", Values::int8},
                                                  {"float16", Values::float16},
                                                  {"bfloat16", Values::bfloat16},
                                                  {"float32", Values::float32}};
  for (const auto& [name, kind] : kinds) {
    const bool integer = kind == Values::nibble || kind == Values::int8;
    const int64_t size = integer ? group_size : columns;
    all.push_back({std::string("bitmask ") + name, store.bitmask(rows, columns, kind, size), integer});
    if (!integer) all.push_back({std::string("dense ") + name, store.dense(rows, columns, kind), false});
    for (int planes = 1; planes <= 3 && kind != Values::float32; ++planes)
      all.push_back(
          {std::to_string(4 * planes) + ":16 " + name, store.nm(rows, columns, planes, kind, size), integer});
    for (int window : {4, 8})
      if (integer)
        all.push_back({"half of " + std::to_string(window) + " " + name,
                       store.narrow(rows, columns, window, kind, size), true});
  }
  return all;
}

struct Size { int64_t rows, columns, group_size; };

void check_size(const Size& size, std::initializer_list<int64_t> token_counts) {
  Store store{.powers_of_two = true, .buffers = {}};
  for (const Case& c : cases(store, size.rows, size.columns, size.group_size))
    for (int64_t tokens : token_counts) {
      const int64_t run = shape_of(c.matrix).group_size == 32 ? 32 : 64;
      const Input input = make_input(store, tokens, size.columns, run);
      for (bool int8 : {false, true}) check(c, input, int8);
      if (c.integer && tokens == 5) check_nan(c, input);
    }
}

}  // namespace
}  // namespace gossamer

int main() {
  using namespace gossamer;
  // Odd rows and columns; groups: one for a row, and others.
  for (const Size& size : {Size{1, 16, 16}, Size{15, 192, 192}, Size{16, 100, 100}, Size{17, 64, 64},
                           Size{37, 13, 13}, Size{17, 64, 32}, Size{33, 192, 64}, Size{16, 288, 96}})
    check_size(size, {1, 2, 3, 5, 17, 40});
  // More columns than a panel, more tokens than a sweep.
  check_size({18, 1088, 64}, {1, 21});
  check_size({18, 704, 64}, {517});
  for (Isa isa : usable_isas()) std::printf("%s: products are right\n", isa_name(isa));
  return 0;
}
