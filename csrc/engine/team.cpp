#include "engine/team.h"

#include <unistd.h>

#include <system_error>

#include "core/spin.h"

namespace gossamer {
namespace {

// Returns once value is no longer `old`.
void wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
  if (spin_until([&] { return value.load(std::memory_order_acquire) != old; })) return;
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

Team::Team(int threads) : process_(getpid()) {
  try {
    workers_.reserve(static_cast<size_t>(threads - 1));
    for (int member = 1; member < threads; ++member) workers_.emplace_back([this, member] { work(member); });
  } catch (const std::system_error&) {
    // The limit of processes is reached: run with the threads we have.
  }
  size_ = static_cast<int>(workers_.size()) + 1;
}

Team::~Team() {
  if (getpid() != process_) {
    static_cast<void>(new std::vector<std::thread>(std::move(workers_)));  // nobody to join; left to the end of the child
    return;
  }
  stop_.store(true);
  job_.fetch_add(1);
  job_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Team::start(Body body, const void* context) {
  body_ = body;
  context_ = context;
  next_.store(0, std::memory_order_relaxed);
  if (size_ > 1) {
    job_.fetch_add(1);
    job_.notify_all();
  }
  body(context, 0);
  barrier();
}

void Team::work(int member) {
  uint32_t seen = 0;
  while (true) {
    wait_while(job_, seen);
    seen = job_.load(std::memory_order_acquire);
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
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
    return;
  }
  wait_while(phase_, phase);
}

}  // namespace gossamer
