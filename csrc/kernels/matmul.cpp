#include "kernels/matmul.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "core/thread_pool.h"
#include "kernels/activations.h"

namespace gossamer {
namespace {

// Below this many multiply-adds, waking another thread costs more than it brings.
constexpr int64_t kParallelWork = 96 * 1024;
constexpr int64_t kTaskWork = 256 * 1024;  // worth claiming: claims of several threads cost each other time

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

struct Workspace { Buffer x, codes, scales, starts, sums, group_sums; };

Workspace& workspace() {
  static thread_local Workspace work;
  return work;
}

template <class F>
void for_packs(int64_t size, int64_t tokens, int64_t columns, const F& pack) {
  const int64_t packs = (tokens + size - 1) / size;
  const auto run = [&](int64_t p) { pack(p * size, std::min(tokens, (p + 1) * size)); };
  if (tokens * columns < kParallelWork || packs > kMaxTasks)
    for (int64_t p = 0; p < packs; ++p) run(p);
  else parallel_for(packs, run);
}

Activations prepare(const KernelTable& table, const ActivationLayout& layout, const float* x, int64_t tokens,
                    Workspace& work) {
  const int64_t width = layout.padded_columns;
  ActivationMemory memory;
  if (layout.int8) {
    memory.codes = work.codes.get<uint8_t>(tokens * width);
    memory.scales = work.scales.get<float>(tokens * layout.folds());
    memory.starts = work.starts.get<int32_t>(tokens * layout.folds());
    memory.sums = work.sums.get<float>(tokens * layout.folds());
  } else if (!is_plain(layout, tokens)) {
    memory.x = work.x.get<float>(tokens * width);
  }
  if (layout.sum_groups != 0) memory.group_sums = work.group_sums.get<float>(layout.sum_groups);
  for_packs(pack_tokens(table), tokens, width, [&](int64_t first, int64_t last) {
    prepare_tokens(table, layout, x, tokens, first, last, memory);
  });
  return prepared(layout, x, tokens, memory);
}

}  // namespace

void matmul(const MatrixView& w, const float* x, int64_t tokens, float* y, bool int8) {
  const KernelTable& table = active_table();
  const ActivationLayout layout = layout_for(table, w, tokens, int8);
  const Activations act = prepare(table, layout, x, tokens, workspace());
  const Shape& shape = shape_of(w);
  const int64_t strips = shape.strips(), threads = num_threads(),
                multiply_adds = shape.rows * shape.columns * tokens;
  if (threads == 1 || multiply_adds < kParallelWork)
    return multiply_strips(table, w, layout, act, y, 0, strips);
  // Several tasks for each thread where that pays: one that loses its CPU then holds up only a part.
  const int64_t rounds = std::clamp<int64_t>(multiply_adds / kTaskWork / threads, 1, 8);
  const int64_t tasks = std::min({strips, threads * rounds, int64_t{kMaxTasks}});
  parallel_for(tasks, [&](int64_t i) {
    multiply_strips(table, w, layout, act, y, strips * i / tasks, strips * (i + 1) / tasks);
  });
}

}  // namespace gossamer
