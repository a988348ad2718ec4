#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

namespace qwick {
namespace {

// Longer than Python needs between two kernel calls, shorter than anyone would notice as idle load.
constexpr auto kSpin = std::chrono::microseconds(50);

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Spins until `ready()` or for kSpin; returns whether ready.
template <class Ready>
bool spin(const Ready& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

// Into the second cache. Asking never faults, whatever has become of the memory.
void prefetch(const Ahead& next) {
  for (size_t i = 0; i < next.bytes; i += 64) {
    __builtin_prefetch(next.at[0] + i, 0, 2);
    if (next.at[1]) __builtin_prefetch(next.at[1] + i, 0, 2);
  }
}

int usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::atomic<int> wished{0};  // threads asked for; 0: as many as there are cores

struct alignas(64) Cursor {  // a thread's own range: the next item of it, and its end
  std::atomic<int> next{0};
  int end = 0;
};

}  // namespace

struct Pool::Impl {
  std::mutex use;  // held by Pool::Use

  // The region under way. Written only while `open` is false and `active` is 0.
  const std::function<void(int, Range)>* job = nullptr;
  const Ahead* ahead = nullptr;
  std::vector<Cursor> cursors;
  int chunk = 1;
  std::exception_ptr failure;  // under `mutex`
  std::atomic<bool> open{false};
  std::atomic<int> active{0};  // workers inside the region

  std::mutex mutex;  // of the two sleeps
  std::condition_variable wake, left;
  std::atomic<uint32_t> generation{0};
  std::atomic<int> count{1};
  std::atomic<int> sleepers{0};
  std::atomic<bool> caller_sleeps{false}, stop{false};
  std::vector<std::thread> workers;
  std::vector<std::pair<void*, size_t>> buffers;

  void take_chunks(int t) {
    const int n = static_cast<int>(cursors.size());
    for (int v = 0; v < n; ++v) {
      Cursor& c = cursors[(t + v) % n];
      for (;;) {
        const int begin = c.next.fetch_add(chunk, std::memory_order_relaxed);
        if (begin >= c.end) break;
        try {
          (*job)(t, {begin, std::min(begin + chunk, c.end)});
        } catch (...) {
          std::lock_guard<std::mutex> lock(mutex);
          if (!failure) failure = std::current_exception();
        }
      }
    }
  }

  void work(int t, uint32_t seen) {
    for (;;) {
      auto moved = [&] { return generation.load(std::memory_order_acquire) != seen; };
      if (!spin(moved)) {
        std::unique_lock<std::mutex> lock(mutex);
        ++sleepers;
        wake.wait(lock, moved);
        --sleepers;
      }
      seen = generation.load(std::memory_order_acquire);
      if (stop.load()) return;
      // Sequentially consistent on purpose: either this thread sees the region closed, or `run` sees it active.
      active.fetch_add(1);
      Ahead next{};
      if (open.load()) {
        if (ahead) next = ahead[t];
        take_chunks(t);
      }
      if (active.fetch_sub(1) == 1 && caller_sleeps.load()) {
        std::lock_guard<std::mutex> lock(mutex);
        left.notify_one();
      }
      prefetch(next);
    }
  }

  void publish() {
    {
      // The counter moves under the lock: a worker between its last look and its sleep cannot miss it.
      std::lock_guard<std::mutex> lock(mutex);
      generation.fetch_add(1, std::memory_order_acq_rel);
    }
    if (sleepers.load() > 0) wake.notify_all();
  }

  void start(int threads) {
    cursors = std::vector<Cursor>(threads);
    count = threads;
    stop = false;
    const uint32_t seen = generation.load();
    try {
      for (int t = 1; t < threads; ++t) workers.emplace_back([=] { work(t, seen); });
    } catch (...) {  // the system gives no more threads: work with the calling one, and say so
      halt();
      cursors = std::vector<Cursor>(1);
      count = 1;
      wished = 1;
      throw;
    }
  }

  void halt() {
    stop = true;
    publish();
    for (auto& w : workers) w.join();
    workers.clear();
  }
};

Pool::Pool() : impl_(new Impl) { impl_->start(wished > 0 ? wished.load() : usable_cores()); }

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

int Pool::threads() const { return impl_->count.load(); }

void Pool::set_threads(int count) {
  wished = count;  // first, so that a new pool does not start more than that
  instance().resize(count);
}

void Pool::resize(int threads) {
  std::lock_guard<std::mutex> use(impl_->use);
  if (threads == this->threads()) return;
  impl_->halt();
  impl_->start(threads);
}

void Pool::run(int items, int chunk, const std::function<void(int, Range)>& job, const Ahead* ahead) {
  Impl& p = *impl_;
  const int64_t n = threads();
  if (n == 1 || items <= chunk) {
    if (items > 0) job(0, {0, items});
    return;
  }
  p.job = &job;
  p.ahead = ahead;
  p.chunk = chunk;
  for (int64_t t = 0; t < n; ++t) {
    p.cursors[t].next.store(static_cast<int>(items * t / n), std::memory_order_relaxed);
    p.cursors[t].end = static_cast<int>(items * (t + 1) / n);
  }
  p.open.store(true);
  p.publish();
  p.take_chunks(0);
  p.open.store(false);
  auto done = [&] { return p.active.load() == 0; };
  if (!spin(done)) {
    std::unique_lock<std::mutex> lock(p.mutex);
    p.caller_sleeps.store(true);
    p.left.wait(lock, done);
    p.caller_sleeps.store(false);
  }
  if (ahead) prefetch(ahead[0]);
  if (p.failure) std::rethrow_exception(std::exchange(p.failure, nullptr));
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
