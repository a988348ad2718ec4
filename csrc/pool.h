// The thread pool: one parallel region at a time, static ranges, the calling thread does a share.
//
// Kernel calls follow each other within microseconds, so idle threads spin for a short while before they
// sleep. No OpenMP: its runtime would clash with torch's in one process, and its splits are not ours.
#pragma once

#include <stddef.h>

#include <functional>
#include <memory>
#include <mutex>

namespace qwick {

struct Range {
  int begin, end;
};

// Item range of thread `t` of `threads`: sizes differ by at most one.
Range share(int items, int t, int threads);

class Pool {
 public:
  static Pool& instance();

  int threads() const;
  void resize(int threads);  // waits for a running region

  // Runs job(t, threads) once per thread, t = 0..threads-1, and returns when all are done.
  // The caller holds `Use`, so that two callers' kernels never mix.
  void run(const std::function<void(int, int)>& job);

  // Scratch of at least `bytes`, 64-byte aligned, valid while `Use` is held; slot: one buffer per purpose.
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
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qwick
