#include "core/thread_pool.h"

#include <atomic>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/machine.h"
#include "core/signal.h"
#include "core/workers.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace gossamer {
namespace {

// One word says which job runs, which task is next and how many there are, so that a claim is a single
// compare-exchange. A successful claim keeps the job alive until the task is finished, so the job's fields may be read.
struct Ticket {
  static uint64_t make(uint32_t epoch, uint64_t total) { return (uint64_t{epoch} << 32) | (total << 16); }
  static uint32_t next(uint64_t word) { return word & 0xFFFF; }
  static uint32_t total(uint64_t word) { return (word >> 16) & 0xFFFF; }
};

class Pool {
 public:
  explicit Pool(int threads) : workers_(start_workers(threads, [this](int) { work(); })) {}

  ~Pool() {
    stop_.store(true);
    epoch_.value.fetch_add(1);
    epoch_.wake();
    for (auto& worker : workers_) worker.join();
  }

  void run(TaskFunction task, const void* context, int64_t num_tasks) {
    task_ = task;
    context_ = context;
    remaining_.value.store(static_cast<uint32_t>(num_tasks), std::memory_order_relaxed);
    const uint32_t epoch = epoch_.value.load(std::memory_order_relaxed) + 1;
    ticket_.store(Ticket::make(epoch, static_cast<uint64_t>(num_tasks)), std::memory_order_release);
    epoch_.value.store(epoch);
    epoch_.wake();
    claim_all();
    for (uint32_t left; (left = remaining_.value.load(std::memory_order_acquire)) != 0;)
      remaining_.wait_while(left);
  }

 private:
  void claim_all() {
    uint32_t done = 0;
    uint64_t word = ticket_.load(std::memory_order_acquire);
    while (Ticket::next(word) < Ticket::total(word)) {
      if (!ticket_.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel)) continue;
      task_(context_, Ticket::next(word));
      ++done;
      word = ticket_.load(std::memory_order_acquire);
    }
    // Reported once, not per task: the counter is shared. Until then this job cannot end and no other can begin.
    if (done != 0 && remaining_.value.fetch_sub(done) == done) remaining_.wake();
  }

  void work() {
    uint32_t seen = 0;
    while (true) {
      epoch_.wait_while(seen);
      if (stop_.load()) return;
      seen = epoch_.value.load(std::memory_order_acquire);
      claim_all();
    }
  }

  alignas(64) std::atomic<uint64_t> ticket_{0};
  Signal remaining_;
  Signal epoch_;
  std::atomic<bool> stop_{false};
  TaskFunction task_ = nullptr;
  const void* context_ = nullptr;
  std::vector<std::thread> workers_;
};

// Never destroyed at exit: a worker may still be asleep when static destructors run.
struct State {
  std::mutex mutex;
  Pool* pool = nullptr;
  std::atomic<int> threads{0};
};

alignas(State) unsigned char storage[sizeof(State)];
State* state = nullptr;
std::once_flag once;

State& get_state() {
  std::call_once(once, [] {
    state = new (storage) State;
#if defined(__unix__) || defined(__APPLE__)
    // The child has none of our threads and maybe a locked mutex: forget the pool, the next job makes a new one.
    pthread_atfork(nullptr, nullptr, [] {
      const int threads = state->threads.load();
      state = new (storage) State;
      state->threads.store(threads);
    });
#endif
  });
  return *state;
}

}  // namespace

int num_threads() {
  State& s = get_state();
  int count = s.threads.load(std::memory_order_relaxed);
  if (count == 0) {
    count = default_num_threads();
    s.threads.store(count);
  }
  return count;
}

void set_num_threads(int count) {
  if (count < 1 || count > 1024)
    throw std::invalid_argument("num_threads: expected 1 to 1024, got " + std::to_string(count));
  State& s = get_state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  delete s.pool;
  s.pool = nullptr;
  s.threads.store(count);
}

void run_tasks(TaskFunction task, const void* context, int64_t num_tasks) {
  const int threads = num_threads();
  State& s = get_state();
  std::unique_lock<std::mutex> lock(s.mutex, std::defer_lock);
  if (threads == 1 || num_tasks == 1 || !lock.try_lock()) {
    for (int64_t i = 0; i < num_tasks; ++i) task(context, i);
    return;
  }
  if (s.pool == nullptr) s.pool = new Pool(threads);
  s.pool->run(task, context, num_tasks);
}

}  // namespace gossamer
