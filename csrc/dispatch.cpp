#include "dispatch.h"

#include <atomic>
#include <stdexcept>

#include "cpu.h"

namespace qwick {
namespace {
std::atomic<const Kernels*> active{nullptr};
}

const std::vector<const Kernels*>& all_kernels() {
  static const std::vector<const Kernels*> all = {
#if defined(__x86_64__)
      &kAvx512Bf16, &kAvx512Vnni, &kAmx, &kAvxVnni, &kAvx2,
#if defined(QWICK_EMULATIONS)
      &kAmxEmulated, &kAvxVnniEmulated,
#endif
#elif defined(__aarch64__)
      &kNeonI8mm, &kNeonDot, &kNeon,
#endif
      &kScalar,
  };
  return all;
}

const Kernels& kernels() {
  const Kernels* k = active.load(std::memory_order_acquire);
  if (k) return *k;
  for (const Kernels* candidate : all_kernels())
    if (candidate->selectable && missing_features(candidate->needs).empty()) {
      active.store(candidate, std::memory_order_release);
      return *candidate;
    }
  throw std::logic_error("no kernels");  // the scalar table needs nothing
}

void force_kernels(const std::string& name) {
  std::string known;
  for (const Kernels* k : all_kernels()) {
    if (name == k->name) {
      const std::string missing = missing_features(k->needs);
      if (!missing.empty()) throw std::invalid_argument("this CPU lacks " + missing + " for '" + name + "'");
      active.store(k, std::memory_order_release);
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(k->name);
  }
  throw std::invalid_argument("unknown instruction set '" + name + "'; known: " + known);
}

}  // namespace qwick
