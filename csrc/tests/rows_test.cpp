// What a model does between products (norms, gates, cache, attention) at every instruction set of this machine, against the
// plain loops of the scalar one.
#include <cmath>
#include <limits>
#include <string>

#include "core/machine.h"
#include "tests/store.h"

namespace gossamer {
namespace {

using Row = std::vector<float>;

Row normal_row(Store& store, int64_t size, float spread = 1) {
  const float* values = store.floats(size, 0, spread);
  return Row(values, values + size);
}

void expect_close(const std::string& what, const Row& right, const Row& got, float bound) {
  for (size_t i = 0; i < right.size(); ++i) {
    if (std::fabs(got[i] - right[i]) <= bound * (1 + std::fabs(right[i]))) continue;
    std::fprintf(stderr, "%s, element %ld of %ld: expected %.9g, got %.9g\n", what.c_str(),
                 static_cast<long>(i), static_cast<long>(right.size()), static_cast<double>(right[i]),
                 static_cast<double>(got[i]));
    std::exit(1);
  }
}

// run(table) gives a row; scalar's is the right one.
template <class F> void compare(const std::string& what, float bound, const F& run) {
  set_isa("scalar");
  const Row right = run(active_table());
  for (Isa isa : usable_isas()) {
    set_isa(isa_name(isa));
    expect_close(std::string(isa_name(isa)) + ": " + what, right, run(active_table()), bound);
  }
}

void check_rows(Store& store, int64_t size) {
  const Row x = normal_row(store, size, 3), y = normal_row(store, size), angles = normal_row(store, size);
  const std::string of = " of " + std::to_string(size);
  for (bool centred : {false, true}) {
    const RowNorm norm = store.norm(size, centred);
    compare((centred ? "layer norm" : "norm") + of, 2e-6f, [&](const KernelTable& table) {
      Row out(x.size());
      table.norm(norm, x.data(), size, out.data());
      return out;
    });
  }
  for (Gate gate : {Gate::silu, Gate::gelu_tanh, Gate::gelu, Gate::relu})
    for (const float* up : {static_cast<const float*>(nullptr), y.data()})
      compare("gate" + of, 1e-6f, [&](const KernelTable& table) {
        Row out(x.size());
        table.gate(gate, x.data(), up, size, out.data());
        return out;
      });
  compare("sum" + of, 0, [&](const KernelTable& table) {
    Row sum = y;
    table.add(x.data(), size, sum.data());
    return sum;
  });
  compare("rotation" + of, 1e-6f, [&](const KernelTable& table) {
    Row turned = x;
    table.rotate(turned.data(), angles.data(), size / 2);
    return turned;
  });
  for (bool with_nan : {false, true})
    compare("largest" + of, 0, [&](const KernelTable& table) {
      Row row = x;
      for (size_t i = 0; with_nan && i + 1 < row.size(); i += 3) row[i] = NAN;
      return Row{table.largest(row.data(), size)};
    });
}

// What float16 rounds in a special way: ties, the largest, too large, below the normal ones, zeros.
Row special_floats(int64_t size) {
  const float values[] = {1 + 0x1p-11f,
                          1 + 3 * 0x1p-11f,
                          -65504,
                          65519.996f,
                          65520,
                          1e30f,
                          0x1p-14f,
                          0x1.8p-24f,
                          0x1p-25f,
                          -0.0f,
                          0x1.8p-25f,
                          0,
                          -1e-8f,
                          0x1.ffcp-15f,
                          0x1.ffdp-15f,
                          0x1.ffep-15f,
                          std::numeric_limits<float>::infinity()};
  Row row;
  for (int64_t i = 0; i < size; ++i) row.push_back(values[static_cast<size_t>(i) % std::size(values)]);
  return row;
}

void check_append(Store& store, int head_dim, bool int8) {
  const CacheShape shape{.head_dim = head_dim, .int8 = int8};
  const Row key = int8 ? normal_row(store, head_dim) : special_floats(head_dim),
            value = normal_row(store, head_dim);
  compare(int8 ? "an int8 cache" : "a float16 cache", 0, [&](const KernelTable& table) {
    std::vector<uint8_t> block(static_cast<size_t>(shape.bytes()));
    table.append(shape, key.data(), value.data(), 5, block.data());
    return Row(block.begin(), block.end());
  });
}

void check_attention(Store& store, int head_dim, bool int8, int rows, int64_t tokens) {
  AttentionRows attention;
  attention.shape = {.head_dim = head_dim, .int8 = int8};
  const std::vector<int32_t> blocks{2, 0, 3, 1};
  std::vector<uint8_t> cache(static_cast<size_t>(4 * attention.shape.bytes()));
  set_isa("scalar");
  for (int64_t t = 0; t < tokens; ++t)
    active_table().append(
        attention.shape, normal_row(store, head_dim).data(), normal_row(store, head_dim).data(),
        static_cast<int>(t % kCacheTokens),
        cache.data() + blocks[static_cast<size_t>(t / kCacheTokens)] * attention.shape.bytes());
  const Row query = normal_row(store, int64_t{rows} * head_dim);
  attention.rows = rows, attention.scale = 0.5f;
  attention.base = cache.data(), attention.block_bytes = attention.shape.bytes(),
  attention.blocks = blocks.data();
  for (int t = 0; t < rows; ++t) {
    attention.query[t] = query.data() + t * head_dim;
    attention.last[t] = tokens - rows + t + 1, attention.first[t] = t % 2 ? attention.last[t] / 2 : 0;
  }
  compare("attention", 1e-5f, [&](const KernelTable& table) {
    Row out(query.size());
    for (int t = 0; t < rows; ++t) attention.out[t] = out.data() + t * head_dim;
    table.attend(attention);
    return out;
  });
}

}  // namespace
}  // namespace gossamer

int main() {
  using namespace gossamer;
  Store store;
  for (int64_t size : {2, 14, 16, 34, 100, 300}) check_rows(store, size);
  for (bool int8 : {false, true})
    for (int head_dim : {16, 64, 80}) {
      check_append(store, head_dim, int8);
      for (int rows : {1, 2, 3, 4, 8, 15, 24})
        for (int64_t tokens : {24, 32, 100}) check_attention(store, head_dim, int8, rows, tokens);
    }
  for (Isa isa : usable_isas()) std::printf("%s: rows are right\n", isa_name(isa));
  return 0;
}
