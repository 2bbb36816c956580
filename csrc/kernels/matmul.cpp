#include "kernels/matmul.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/table.h"

namespace gossamer {
namespace {

// Below this many multiply-adds, waking another thread costs more than it brings.
constexpr int64_t kParallelWork = 96 * 1024;
constexpr int64_t kTaskWork = 256 * 1024;  // worth claiming: claims of several threads cost each other time
constexpr int64_t kPackTokens = 24;  // a multiple of all block sizes above 1

// Memory that grows and is kept for the next call of the same thread.
class Buffer {
 public:
  template <class T>
  T* get(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    if (bytes > size_) {
      data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, bytes)));
      size_ = data_ ? bytes : 0;
      if (!data_) throw std::bad_alloc();
    }
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

struct Workspace {
  Buffer x, codes, scales, sums, group_sums;
};

Workspace& workspace() {
  static thread_local Workspace work;
  return work;
}

// Columns that are summed in integers: a run that has one activation scale and does not cross a group of weights.
int choose_fold(const Shape& m) {
  return m.group_size == 32 || (m.groups > 1 && m.group_size % 64 != 0) ? 32 : 64;
}

// Block by block (table.h), [columns / granule][tokens][granule], zeros in the padding.
void pack_float(const Shape& m, const float* x, int tokens, int granule, float* packed) {
  for (int t = 0; t < tokens; ++t, x += m.columns) {
    float* out = packed + t * granule;
    int64_t column = 0;
    if (granule == 1)
      for (; column < m.columns; ++column) out[column * tokens] = x[column];
    for (; column + granule <= m.columns; column += granule)
      std::memcpy(out + column * tokens, x + column, static_cast<size_t>(granule) * 4);
    for (; column < m.padded_columns(); column += granule)
      for (int i = 0; i < granule; ++i) out[column * tokens + i] = column + i < m.columns ? x[column + i] : 0.0f;
  }
}

void sum_groups(const Shape& m, const float* x, float* sums) {
  const int64_t columns = m.columns / m.groups;
  for (int64_t g = 0; g < m.groups; ++g) {
    float sum = 0;
    for (int64_t i = 0; i < columns; ++i) sum += x[g * columns + i];
    sums[g] = sum;
  }
}

template <class F>
void for_packs(int64_t tokens, int64_t columns, const F& pack) {
  const int64_t packs = (tokens + kPackTokens - 1) / kPackTokens;
  const auto run = [&](int64_t p) {
    for (int64_t t = p * kPackTokens; t < std::min(tokens, (p + 1) * kPackTokens);) t += pack(t);
  };
  if (tokens * columns < kParallelWork || packs > kMaxTasks)
    for (int64_t p = 0; p < packs; ++p) run(p);
  else
    parallel_for(packs, run);
}

Activations prepare(const KernelTable& table, const Shape& m, const float* x, int64_t tokens, bool int8, bool windows,
                    Workspace& work) {
  Activations act{.tokens = tokens, .largest_block = table.largest_block};
  const int64_t width = m.padded_columns();
  if (int8) {
    act.fold_columns = choose_fold(m);
    const int64_t folds = width / act.fold_columns;
    uint8_t* codes = work.codes.get<uint8_t>(tokens * width);
    float* scales = work.scales.get<float>(tokens * folds);
    int32_t* sums = work.sums.get<int32_t>(tokens * folds);
    for_packs(tokens, width, [&](int64_t t) {
      const QuantizePlan plan{.columns = m.columns, .padded_columns = width,
                              .tokens = block_tokens(tokens - t, table.largest_block), .granule = windows ? 16 : 4,
                              .scale_columns = m.group_size == 32 ? 32 : 64, .fold_columns = act.fold_columns,
                              .is_unsigned = windows};
      table.quantize(plan, x + t * m.columns, codes + t * width, scales + t * folds, sums + t * folds);
      return plan.tokens;
    });
    act.codes = codes, act.scales = scales, act.sums = sums;
    return act;
  }
  act.x = x;
  if (tokens > 1 || m.columns != width) {
    float* packed = work.x.get<float>(tokens * width);
    for_packs(tokens, width, [&](int64_t t) {
      const int block = block_tokens(tokens - t, table.largest_block);
      pack_float(m, x + t * m.columns, block, windows ? 16 : 1, packed + t * width);
      return block;
    });
    act.x = packed;
  }
  if (m.minimum != nullptr && tokens == 1) {
    float* sums = work.group_sums.get<float>(m.groups);
    sum_groups(m, x, sums);
    act.group_sums = sums;
  }
  return act;
}

template <class View, class Kernel>
void run(const View& w, const Kernel& kernel, const float* x, int64_t tokens, float* y, bool int8, bool windows) {
  const Activations act = prepare(active_table(), w, x, tokens, int8, windows, workspace());
  const int64_t strips = w.strips(), threads = num_threads(), multiply_adds = w.rows * w.columns * tokens;
  if (threads == 1 || multiply_adds < kParallelWork) return kernel(w, act, int8, y, 0, strips);
  // Several tasks for each thread where that pays: one that loses its CPU then holds up only a part.
  const int64_t rounds = std::clamp<int64_t>(multiply_adds / kTaskWork / threads, 1, 8);
  const int64_t tasks = std::min({strips, threads * rounds, int64_t{kMaxTasks}});
  parallel_for(tasks, [&](int64_t i) { kernel(w, act, int8, y, strips * i / tasks, strips * (i + 1) / tasks); });
}

bool is_integer(Values kind) { return kind == Values::nibble || kind == Values::int8; }

}  // namespace

void matmul(const IntegerView& w, const float* x, int64_t tokens, float* y, bool int8) {
  run(w, active_table().integer, x, tokens, y, int8, false);
}
void matmul(const BitmaskView& w, const float* x, int64_t tokens, float* y, bool int8) {
  run(w, active_table().bitmask, x, tokens, y, int8 && is_integer(w.kind), false);
}
void matmul(const NMView& w, const float* x, int64_t tokens, float* y, bool int8) {
  run(w, active_table().nm, x, tokens, y, int8 && is_integer(w.kind), true);
}

}  // namespace gossamer
