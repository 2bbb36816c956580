// How threads of ours wait for each other.
#pragma once

#include <chrono>
#include <thread>

namespace gossamer {

// A waiting thread first spins, then yields to whoever else wants the CPU, then sleeps in the kernel. The time until it
// sleeps is longer than a model spends between two linear layers (30 to 150 us in transformers), else every layer would
// start with waking the workers; the spinning is short, else it would take the CPU from the threads that we wait for.
constexpr auto kSpin = std::chrono::microseconds(20);
constexpr auto kAwake = std::chrono::microseconds(300);

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Returns done(), after waiting for it awake; if false the caller sleeps in the kernel.
template <class Done>
bool spin_until(const Done& done) {
  const auto start = std::chrono::steady_clock::now();
  while (true) {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      pause_cpu();
    }
    const auto waited = std::chrono::steady_clock::now() - start;
    if (waited > kAwake) return done();
    if (waited > kSpin) std::this_thread::yield();
  }
}

}  // namespace gossamer
