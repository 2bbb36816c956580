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
  uint8_t* get(int64_t bytes) {
    if (bytes > size_) {
      const size_t whole = static_cast<size_t>(bytes + 63) / 64 * 64;
      data_.reset(static_cast<uint8_t*>(std::aligned_alloc(64, whole)));
      size_ = data_ ? bytes : 0;
      if (!data_) throw std::bad_alloc();
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  std::unique_ptr<uint8_t, Free> data_;
  int64_t size_ = 0;
};

template <class F>
void for_packs(int64_t size, int64_t tokens, int64_t columns, const F& pack) {
  const int64_t packs = (tokens + size - 1) / size;
  const auto run = [&](int64_t p) { pack(p * size, std::min(tokens, (p + 1) * size)); };
  if (tokens * columns < kParallelWork || packs > kMaxTasks)
    for (int64_t p = 0; p < packs; ++p) run(p);
  else parallel_for(packs, run);
}

Activations prepare(const KernelTable& table, const ActivationLayout& layout, const float* x,
                    int64_t tokens) {
  static thread_local Buffer buffer;
  const ActivationRoom room(layout, tokens);
  const ActivationMemory memory = room.at(buffer.get(room.bytes));
  for_packs(pack_tokens(table), tokens, layout.padded_columns, [&](int64_t first, int64_t last) {
    prepare_tokens(table, layout, x, tokens, first, last, memory);
  });
  return prepared(layout, x, tokens, memory);
}

}  // namespace

void matmul(const MatrixView& w, const float* x, int64_t tokens, float* y, bool int8) {
  const KernelTable& table = active_table();
  const ActivationLayout layout = layout_for(table, w, tokens, int8);
  const Activations act = prepare(table, layout, x, tokens);
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
