#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

namespace qwick {
namespace {

// About 50 microseconds: longer than Python needs between two kernel calls, shorter than anyone would notice
// as idle load.
constexpr int kSpins = 20000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

int usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

Range share(int items, int t, int threads) {
  const int64_t n = items;
  return {static_cast<int>(n * t / threads), static_cast<int>(n * (t + 1) / threads)};
}

struct Pool::Impl {
  std::mutex use;  // held by Pool::Use
  std::mutex mutex;
  std::condition_variable wake, done;
  std::vector<std::thread> workers;
  std::atomic<uint32_t> generation{0};
  std::atomic<int> pending{0};
  std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  const std::function<void(int, int)>* job = nullptr;
  int threads = 1;
  int spins = kSpins;
  std::vector<std::pair<void*, size_t>> buffers;

  void work(int index, int count, uint32_t seen) {
    for (;;) {
      for (int i = 0; i < spins && generation.load(std::memory_order_acquire) == seen; ++i) relax();
      if (generation.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex);
        ++sleepers;
        wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
        --sleepers;
      }
      ++seen;
      if (stop.load(std::memory_order_acquire)) return;
      (*job)(index, count);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex);
        done.notify_one();
      }
    }
  }

  void publish() {
    {
      // The counter moves under the lock: a worker between its last look and its sleep cannot miss it.
      std::lock_guard<std::mutex> lock(mutex);
      generation.fetch_add(1, std::memory_order_acq_rel);
    }
    if (sleepers.load(std::memory_order_acquire) > 0) wake.notify_all();
  }

  void start(int count) {
    threads = count;
    // With more threads than cores a spinning thread keeps a working one from running.
    spins = count <= usable_cores() ? kSpins : 50;
    stop = false;
    const uint32_t seen = generation.load();
    for (int i = 1; i < count; ++i) workers.emplace_back([=] { work(i, count, seen); });
  }

  void halt() {
    stop = true;
    publish();
    for (auto& w : workers) w.join();
    workers.clear();
  }
};

Pool::Pool() : impl_(new Impl) { impl_->start(usable_cores()); }

namespace {
std::atomic<Pool*> current{nullptr};
std::mutex creation;
}  // namespace

Pool& Pool::instance() {
  Pool* pool = current.load(std::memory_order_acquire);
  if (pool) return *pool;
  std::lock_guard<std::mutex> lock(creation);
  if (!current.load()) {
    // A forked child has none of its parent's threads: it gets a pool of its own, the old one is left alone.
    static const int once = pthread_atfork(nullptr, nullptr, [] {
      current.store(nullptr);
      new (&creation) std::mutex;
    });
    (void)once;
    current.store(new Pool);  // never destroyed: threads may outlive static destructors
  }
  return *current.load();
}

int Pool::threads() const { return impl_->threads; }

void Pool::resize(int threads) {
  std::lock_guard<std::mutex> use(impl_->use);
  if (threads == impl_->threads) return;
  impl_->halt();
  impl_->start(threads);
}

void Pool::run(const std::function<void(int, int)>& job) {
  Impl& p = *impl_;
  if (p.threads == 1) return job(0, 1);
  p.job = &job;
  p.pending.store(p.threads - 1, std::memory_order_release);
  p.publish();
  job(0, p.threads);
  for (int i = 0; i < p.spins && p.pending.load(std::memory_order_acquire) > 0; ++i) relax();
  if (p.pending.load(std::memory_order_acquire) > 0) {
    std::unique_lock<std::mutex> lock(p.mutex);
    p.done.wait(lock, [&] { return p.pending.load(std::memory_order_acquire) == 0; });
  }
}

void* Pool::scratch(int slot, size_t bytes) {
  auto& buffers = impl_->buffers;
  if (static_cast<size_t>(slot) >= buffers.size()) buffers.resize(slot + 1, {nullptr, 0});
  auto& [data, size] = buffers[slot];
  if (size < bytes) {
    free(data);
    data = nullptr;
    size = 0;
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    data = aligned_alloc(4096, rounded);
    if (!data) throw std::bad_alloc();
    size = rounded;
  }
  return data;
}

Pool::Use::Use() : pool_(Pool::instance()) { pool_.impl_->use.lock(); }
Pool::Use::~Use() { pool_.impl_->use.unlock(); }

}  // namespace qwick
