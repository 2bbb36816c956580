#include "engine/team.h"

#include <unistd.h>

#include <climits>
#include <system_error>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include "core/spin.h"

namespace gossamer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kLostCpu = std::chrono::microseconds(50);  // a yield that takes longer let somebody else run
constexpr int kCrowdedWaits = 1000;

// The kernel wakes a sleeper at once on a busy machine, but lets a thread that yielded wait for its turn. (std::atomic's own
// wait yields several times before it sleeps.)
void sleep_while(const std::atomic<uint32_t>& value, uint32_t old) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<const uint32_t*>(&value), FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
#else
  value.wait(old, std::memory_order_acquire);
#endif
}

void wake_all(std::atomic<uint32_t>& value) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&value), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  value.notify_all();
#endif
}

// Returns whether value is no longer `old`, after waiting awake: spinning, then yielding, unless that cost the CPU lately.
bool wait_awake(const std::atomic<uint32_t>& value, uint32_t old) {
  static thread_local int crowded = 0;  // waits until yielding is tried again
  const auto start = Clock::now();
  for (auto now = start; now - start < kAwake;) {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return true;
      pause_cpu();
    }
    const auto before = now = Clock::now();
    if (before - start < kSpin) continue;
    if (crowded > 0) {
      --crowded;
      break;
    }
    std::this_thread::yield();
    now = Clock::now();
    if (now - before > kLostCpu) crowded = kCrowdedWaits;
  }
  return false;
}

}  // namespace

// Who sleeps says so before it looks a last time, and who wakes looks for sleepers after the change: none is missed.
void Team::wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
  if (wait_awake(value, old)) return;
  asleep_.fetch_add(1);
  while (value.load() == old) sleep_while(value, old);
  asleep_.fetch_sub(1);
}

void Team::wake(std::atomic<uint32_t>& value) {
  if (asleep_.load() != 0) wake_all(value);
}

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
    static_cast<void>(
        new std::vector<std::thread>(std::move(workers_)));  // nobody to join; left to the end of the child
    return;
  }
  stop_.store(true);
  job_.fetch_add(1);
  wake(job_);
  for (std::thread& worker : workers_) worker.join();
}

void Team::start(Body body, const void* context) {
  body_ = body;
  context_ = context;
  next_.store(0, std::memory_order_relaxed);
  if (size_ > 1) {
    job_.fetch_add(1);
    wake(job_);
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
    phase_.store(phase + 1);
    wake(phase_);
    return;
  }
  wait_while(phase_, phase);
}

}  // namespace gossamer
