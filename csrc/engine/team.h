// Threads that walk through a step together: each runs the same list of ops, with barriers between them.
//
// Unlike the pool of core/thread_pool, whose caller waits for nobody who has not begun, a team waits for all its members
// at every barrier.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "core/signal.h"

namespace gossamer {

class Team {
 public:
  // Starts threads - 1 workers; with fewer when the system refuses more.
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Runs body(member) for members 0 .. size-1 at the same time; the caller is member 0. Returns when all are done.
  template <class F>
  void run(const F& body) {
    start([](const void* context, int member) { (*static_cast<const F*>(context))(member); }, &body);
  }

  // Waits until every member is here. Only inside of run().
  void barrier();

  // 0, 1, 2, ... over all members since the last barrier.
  int64_t claim() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  using Body = void (*)(const void* context, int member);

  void start(Body body, const void* context);
  void work(int member);

  const int process_;  // the workers do not exist in a forked child
  int size_ = 1;
  Body body_ = nullptr;
  const void* context_ = nullptr;
  Signal job_, phase_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;  // last: they see all of the above
};

}  // namespace gossamer
