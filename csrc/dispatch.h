// Which instruction set's kernels run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace qwick {

// Every table in this build, best first.
const std::vector<const Kernels*>& all_kernels();

// The table in use: the first selectable one that the CPU supports, or the forced one.
const Kernels& kernels();

// Uses the named table from now on; throws std::invalid_argument for an unknown or unsupported name.
void force_kernels(const std::string& name);

}  // namespace qwick
