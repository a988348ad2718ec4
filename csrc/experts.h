// The feed-forward part of a mixture of experts: each row goes through some of many small ones. Arguments are checked by the
// caller (bind.cpp).
#pragma once

#include <atomic>
#include <vector>

#include "packed.h"

namespace qwick {

struct Expert {
  const Packed *gate_up, *down;  // as `mlp` takes them
};

struct Routing {
  int top;           // experts that each row takes, beside a shared one
  bool renormalize;  // their weights sum to 1
  bool shared;       // the last expert takes every row, by the sigmoid of its logit
};

struct Uses {  // read while others count
  std::vector<std::atomic<int64_t>> rows;   // that each expert took
  std::atomic<int64_t> calls{0}, taken{0};  // calls, and the experts in use of each of them, summed
  explicit Uses(size_t experts) : rows(experts) {}
};

// y [m][n] = sum over the experts that the row takes: weight * expert(x). logits [m][all.size()]: the weights are their
// softmax over all but a shared one; a row takes those with the largest, the lowest number among equals. Rows are grouped by
// expert: what an expert weighs is read once. A row with logits that are no numbers yields NaN. uses (of all.size() experts) grows.
void experts(const std::vector<Expert>& all, const Routing& routing, const float* x, int m, const float* logits, float* y,
             bool prompt, Uses& uses);

// The experts that such rows take, a shared one left out, in order.
std::vector<int> chosen(const Routing& routing, int experts, const float* logits, int m);

}  // namespace qwick
