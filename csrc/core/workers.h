// Threads that a caller works together with.
#pragma once

#include <system_error>
#include <thread>
#include <vector>

namespace gossamer {

// Starts work(1) .. work(threads - 1), each in a thread; fewer when the system refuses more.
template <class F> std::vector<std::thread> start_workers(int threads, const F& work) {
  std::vector<std::thread> workers;
  try {
    workers.reserve(static_cast<size_t>(threads - 1));
    for (int i = 1; i < threads; ++i) workers.emplace_back([work, i] { work(i); });
  } catch (const std::system_error&) {
    // The limit of processes is reached: run with the threads we have.
  }
  return workers;
}

}  // namespace gossamer
