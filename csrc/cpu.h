// What this CPU and its operating system allow. Knows nothing of kernels.
#pragma once

#include <string>

namespace qwick {

enum Feature : unsigned {
  kAvx512VnniSet = 1u << 0,
  kAmxSet = 1u << 1,
  kAvx2Set = 1u << 2,
  kAvxVnniSet = 1u << 3,
  kAvx512Bf16Set = 1u << 4,
  kNeonSet = 1u << 5,
  kDotprodSet = 1u << 6,
  kI8mmSet = 1u << 7,
};

// The features that both the CPU has and the operating system has enabled; asked once.
unsigned cpu_features();

// Names of the features in `needs` that are missing, for a message; empty when none is.
std::string missing_features(unsigned needs);

}  // namespace qwick
