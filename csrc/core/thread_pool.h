// A small pool for kernels that last microseconds.
//
// The caller takes part and claims tasks from the same counter as the workers, and waits only for tasks that somebody
// has begun. A worker that was not scheduled in time is therefore never waited for, which keeps an oversubscribed
// machine from collapsing. Which thread runs a task does not change what it computes: results do not depend on timing.
#pragma once

#include <cstdint>

namespace gossamer {

constexpr int kMaxTasks = 65535;

using TaskFunction = void (*)(const void* context, int64_t task);

// Runs task(context, 0 .. num_tasks-1) on the pool and returns when all are done. Requires num_tasks <= kMaxTasks.
// If the pool is busy with another thread's job, runs everything here instead of waiting.
void run_tasks(TaskFunction task, const void* context, int64_t num_tasks);

int num_threads();

// Takes effect at the next job. Throws std::invalid_argument unless 1 <= count <= 1024.
void set_num_threads(int count);

template <class F>
void parallel_for(int64_t num_tasks, const F& body) {
  run_tasks([](const void* context, int64_t task) { (*static_cast<const F*>(context))(task); }, &body,
            num_tasks);
}

}  // namespace gossamer
