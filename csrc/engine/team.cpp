#include "engine/team.h"

#include <unistd.h>

#include "core/workers.h"

namespace gossamer {

Team::Team(int threads)
    : process_(getpid()), workers_(start_workers(threads, [this](int member) { work(member); })) {
  size_ = static_cast<int>(workers_.size()) + 1;
}

Team::~Team() {
  if (getpid() != process_) {
    // Nobody to join; left to the end of the child.
    static_cast<void>(new std::vector<std::thread>(std::move(workers_)));
    return;
  }
  stop_.store(true);
  job_.value.fetch_add(1);
  job_.wake();
  for (std::thread& worker : workers_) worker.join();
}

void Team::start(Body body, const void* context) {
  body_ = body;
  context_ = context;
  next_.store(0, std::memory_order_relaxed);
  if (size_ > 1) {
    job_.value.fetch_add(1);
    job_.wake();
  }
  body(context, 0);
  barrier();
}

void Team::work(int member) {
  uint32_t seen = 0;
  while (true) {
    job_.wait_while(seen);
    seen = job_.value.load(std::memory_order_acquire);
    if (stop_.load()) return;
    body_(context_, member);
    barrier();
  }
}

void Team::barrier() {
  if (size_ == 1) {
    next_.store(0, std::memory_order_relaxed);
    return;
  }
  const uint32_t phase = phase_.value.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    phase_.value.store(phase + 1);
    phase_.wake();
    return;
  }
  phase_.wait_while(phase);
}

}  // namespace gossamer
