// The thread pool: one parallel region at a time; the calling thread does a share.
//
// Each thread starts on a range of its own, chunk by chunk, and then takes chunks from the ranges of threads that
// lag: on a machine that also does other work, a thread that the system has put aside delays a region by one
// chunk at most, and one that sleeps not at all. Which thread computes an item never changes its result.
// Kernel calls follow each other within microseconds, so idle threads spin for a short while before they sleep.
// No OpenMP: its runtime would clash with torch's in one process.
#pragma once

#include <stddef.h>

#include <cstdint>
#include <functional>
#include <memory>

namespace qwick {

struct Range {
  int begin, end;
};

// Memory that a thread will read first in the region after this one.
struct Ahead {
  const uint8_t* at[2];
  size_t bytes;  // of each
};

class Pool {
 public:
  static Pool& instance();

  int threads() const;

  // Uses `count` threads from now on, in this process and in the children it forks; waits for a running region.
  // Throws std::system_error when the system gives no more threads: the calling one then works alone.
  static void set_threads(int count);

  // Calls job(t, range) until the ranges, of `chunk` items at most, have covered 0..items-1 once; t is the calling
  // thread's number, for scratch. The caller holds `Use`, so that two callers' kernels never mix. What a job throws
  // comes out here, when all threads are done.
  // ahead: per thread, or null: asked for when the thread has nothing left to do, so that the memory is never idle
  // between two regions.
  void run(int items, int chunk, const std::function<void(int, Range)>& job, const Ahead* ahead = nullptr);

  // Scratch of at least `bytes`, page-aligned, valid while `Use` is held; slot: one buffer per purpose.
  void* scratch(int slot, size_t bytes);

  class Use {  // exclusive use of the pool for one kernel call
   public:
    Use();
    ~Use();
    Pool* operator->() { return &pool_; }
    Pool& operator*() { return pool_; }

   private:
    Pool& pool_;
  };

 private:
  Pool();
  void resize(int threads);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qwick
