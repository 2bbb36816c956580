#include "core/signal.h"

#include <chrono>
#include <climits>
#include <thread>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gossamer {
namespace {

using Clock = std::chrono::steady_clock;

// The time until a thread sleeps is longer than a model spends between two linear layers (30 to 150 us in transformers),
// else every layer would start with waking the workers; the spinning is short, else it would take the CPU from the threads
// that we wait for.
constexpr auto kSpin = std::chrono::microseconds(20);
constexpr auto kAwake = std::chrono::microseconds(300);
constexpr auto kLostCpu = std::chrono::microseconds(50);  // a yield that takes longer let somebody else run
constexpr int kCrowdedWaits = 1000;

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

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
void Signal::wait_while(uint32_t old) {
  if (wait_awake(value, old)) return;
  asleep_.fetch_add(1);
  while (value.load() == old) sleep_while(value, old);
  asleep_.fetch_sub(1);
}

void Signal::wake() {
  if (asleep_.load() != 0) wake_all(value);
}

}  // namespace gossamer
