#include "profile.h"

#include <atomic>
#include <chrono>
#include <mutex>
#include <utility>

namespace qwick {
namespace {

std::atomic<bool> on{false};
std::mutex mutex;  // of `all`
std::vector<Profiled> all;

double now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void profile(bool wanted) {
  std::lock_guard<std::mutex> lock(mutex);
  if (wanted) all.clear();
  on = wanted;
}

bool profiling() { return on.load(std::memory_order_relaxed); }

std::vector<Profiled> profiled() {
  std::lock_guard<std::mutex> lock(mutex);
  return all;
}

void Timed::begin(std::string name, double bytes, double operations) {
  call_.name = std::move(name);
  call_.bytes = bytes;
  call_.operations = operations;
  start_ = now();
}

void Timed::end() {
  const double seconds = now() - start_;
  std::lock_guard<std::mutex> lock(mutex);
  Profiled* found = nullptr;
  for (Profiled& p : all)
    if (p.name == call_.name) found = &p;
  if (!found) {
    all.push_back({});
    found = &all.back();
    found->name = call_.name;
  }
  ++found->calls;
  found->seconds += seconds;
  found->bytes += call_.bytes;
  found->operations += call_.operations;
}

}  // namespace qwick
