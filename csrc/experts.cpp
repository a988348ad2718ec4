#include "experts.h"

#include <string.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "pool.h"
#include "product.h"
#include "profile.h"

namespace qwick {
namespace {

// Where the rows go.
struct Routes {
  int each;                    // experts of a row, the shared one included
  std::vector<int> taken;      // [m][each] the largest weight first, then the shared one
  std::vector<float> weights;  // [m][each]
};

// Brings the experts that a row takes to the front of `order`, which has all but a shared one; false: logits are no numbers.
bool choose(const Routing& routing, int experts, const float* logits, std::vector<int>& order) {
  std::iota(order.begin(), order.end(), 0);
  if (!std::all_of(logits, logits + experts, [](float v) { return std::isfinite(v); })) return false;
  std::partial_sort(order.begin(), order.begin() + routing.top, order.end(), [&](int a, int b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  return true;
}

Routes route(const Routing& routing, int experts, const float* logits, int m) {
  const int routed = experts - routing.shared, top = routing.top;
  Routes routes{top + routing.shared, {}, {}};
  std::vector<int> order(routed);
  for (int r = 0; r < m; ++r, logits += experts) {
    const bool sound = choose(routing, experts, logits, order);
    double sum = 0;  // of all, or of those taken
    const int of = routing.renormalize ? top : routed;
    for (int i = 0; i < of; ++i) sum += std::exp(static_cast<double>(logits[order[i]]) - logits[order[0]]);
    for (int i = 0; i < top; ++i) {
      const double weight = std::exp(static_cast<double>(logits[order[i]]) - logits[order[0]]) / sum;
      routes.taken.push_back(order[i]);
      routes.weights.push_back(sound ? static_cast<float>(weight) : std::numeric_limits<float>::quiet_NaN());
    }
    if (!routing.shared) continue;
    routes.taken.push_back(routed);
    routes.weights.push_back(sound ? static_cast<float>(1 / (1 + std::exp(-static_cast<double>(logits[routed]))))
                                   : std::numeric_limits<float>::quiet_NaN());
  }
  return routes;
}

// The rows of one expert, and how it multiplies them.
struct Part {
  const Packed *gate_up, *down;
  int first, m;  // its rows, among all rows in the order of experts
  bool many;
  unsigned outer;
  InnerForms in;
  GateAndUp both;
  TileItems tiles;
  Rows rows{}, inner{};
  float* floats = nullptr;

  Part(const Expert& expert, int first, int m, bool prompt, int threads)
      : gate_up(expert.gate_up), down(expert.down), first(first), m(m), many(takes_many(m, prompt)),
        outer(forms_of(*gate_up, many)), in(*down, many), both(*gate_up), tiles(*down, many, threads) {}
};

// The rows by expert, and within one as they came: place[i] is where the row of entry i of `taken` lies, source[j] which row
// lies at j.
struct Order {
  std::vector<int> starts, place, source;

  Order(const Routes& routes, size_t experts) : starts(experts + 1), place(routes.taken.size()), source(place.size()) {
    for (int e : routes.taken) ++starts[e + 1];
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    std::vector<int> next(starts.begin(), starts.end() - 1);
    for (size_t i = 0; i < place.size(); ++i) source[place[i] = next[routes.taken[i]]++] = static_cast<int>(i) / routes.each;
  }
};

// Room for the rows side by side, their forms, what lies between, and the results; given to the parts.
struct Room {
  float *gathered, *results;
  Panels panels;

  Room(Pool& pool, std::vector<Part>& parts, size_t total, int k, int n)
      : gathered(static_cast<float*>(pool.scratch(kGathered, sizeof(float) * total * k))),
        results(static_cast<float*>(pool.scratch(kResults, sizeof(float) * total * n))), panels(make_panels(pool, parts, k)) {
    size_t forms = 0, inner = 0, cells = 0;
    for (const Part& part : parts) {
      forms += form_bytes(part.m, k, part.outer);
      inner += form_bytes(part.m, part.down->k(), part.in.forms);
      cells += part.in.direct ? 0 : static_cast<size_t>(part.m) * part.down->k();
    }
    auto* at_forms = static_cast<uint8_t*>(pool.scratch(kActivations, forms));
    auto* at_inner = static_cast<uint8_t*>(pool.scratch(kInner, inner));
    auto* at_cells = cells ? static_cast<float*>(pool.scratch(kInnerFloats, cells * sizeof(float))) : nullptr;
    for (Part& part : parts) {
      part.rows = place_rows(at_forms, gathered + static_cast<size_t>(part.first) * k, part.m, k, part.outer);
      at_forms += form_bytes(part.m, k, part.outer);
      const int width = part.down->k();
      if (!part.in.direct) part.floats = at_cells, at_cells += static_cast<size_t>(part.m) * width;
      part.inner = place_rows(at_inner, part.floats, part.m, width, part.in.forms);
      at_inner += form_bytes(part.m, width, part.in.forms);
    }
  }

 private:
  static Panels make_panels(Pool& pool, const std::vector<Part>& parts, int k) {
    int most = 0, widest = k;
    bool many = false;
    size_t own = 0;
    for (const Part& part : parts) {
      most = std::max(most, part.m);
      widest = std::max(widest, part.down->k());
      many |= part.many;
      own = std::max(own, GateAndUp::own_bytes(part.m, part.many));
    }
    return Panels(pool, many, most, widest, own);
  }
};

// job(thread, part, items of it) over the items of all parts together: small experts keep all threads busy.
template <class Count, class Job>
void over_parts(Pool& pool, const std::vector<Part>& parts, const Count& count, const Job& job) {
  std::vector<int> begins{0};
  for (const Part& part : parts) begins.push_back(begins.back() + count(part));
  const int items = begins.back();
  if (!items) return;
  pool.run(items, std::max(1, items / (32 * pool.threads())), [&](int t, Range mine) {
    size_t i = std::upper_bound(begins.begin(), begins.end(), mine.begin) - begins.begin() - 1;
    for (; i < parts.size() && begins[i] < mine.end; ++i)
      job(t, parts[i], Range{std::max(mine.begin, begins[i]) - begins[i], std::min(mine.end, begins[i + 1]) - begins[i]});
  });
}

// Each row's results, weighted and summed in the order in which it took its experts, so that company changes nothing.
void join(Pool& pool, const Routes& routes, const Order& order, const float* results, int m, int n, float* y) {
  const bool share = routes.taken.size() * n >= kWorthSharing;
  pool.run(m, share ? std::max(1, m / (4 * pool.threads())) : m, [&](int, Range mine) {
    for (int r = mine.begin; r < mine.end; ++r) {
      float* out = y + static_cast<size_t>(r) * n;
      memset(out, 0, sizeof(float) * n);
      for (int i = r * routes.each; i < (r + 1) * routes.each; ++i) {
        const float* one = results + static_cast<size_t>(order.place[i]) * n;
        const float weight = routes.weights[i];
        for (int c = 0; c < n; ++c) out[c] += weight * one[c];
      }
    }
  });
}

}  // namespace

std::vector<int> chosen(const Routing& routing, int experts, const float* logits, int m) {
  std::vector<int> order(experts - routing.shared), all;
  std::vector<bool> taken(order.size());
  for (int r = 0; r < m; ++r, logits += experts) {
    choose(routing, experts, logits, order);
    for (int i = 0; i < routing.top; ++i) taken[order[i]] = true;
  }
  for (size_t e = 0; e < taken.size(); ++e)
    if (taken[e]) all.push_back(static_cast<int>(e));
  return all;
}

void experts(const std::vector<Expert>& all, const Routing& routing, const float* x, int m, const float* logits, float* y,
             bool prompt, Uses& uses) {
  if (m < 1) return;
  Pool::Use use;
  Pool& pool = *use;
  const int k = all[0].gate_up->k(), n = all[0].down->n();
  const Routes routes = route(routing, static_cast<int>(all.size()), logits, m);
  const Order order(routes, all.size());
  std::vector<Part> parts;
  double bytes = sizeof(float) * static_cast<double>(m) * (k + n), operations = 0;
  for (size_t e = 0; e < all.size(); ++e) {
    const int first = order.starts[e], rows = order.starts[e + 1] - first;
    if (!rows) continue;
    parts.emplace_back(all[e], first, rows, prompt, pool.threads());
    uses.rows[e] += rows;
    bytes += all[e].gate_up->bytes() + all[e].down->bytes();
    operations += product_operations(*all[e].gate_up, rows) + product_operations(*all[e].down, rows);
  }
  ++uses.calls;
  uses.taken += static_cast<int64_t>(parts.size());
  const Timed timed([&] { return label_of("experts", *all[0].gate_up); }, bytes, operations);
  const Room room(pool, parts, order.place.size(), k, n);

  over_parts(pool, parts, [](const Part& part) { return row_blocks(part.rows); }, [&](int, const Part& part, Range mine) {
    const int r0 = mine.begin * kRowBlock, r1 = std::min(mine.end * kRowBlock, part.m);
    for (int r = part.first + r0; r < part.first + r1; ++r)
      memcpy(room.gathered + static_cast<size_t>(r) * k, x + static_cast<size_t>(order.source[r]) * k, sizeof(float) * k);
    if (part.outer) prepare_blocks(part.rows, mine.begin, mine.end, part.outer);
  });
  over_parts(pool, parts, [](const Part& part) { return part.both.count(); }, [&](int t, const Part& part, Range mine) {
    part.both.items({part.rows, part.many, room.panels}, t, mine, part.inner, part.floats);
  });
  const auto rounds = [](const Part& part) { return part.in.direct || !part.in.forms ? 0 : row_blocks(part.inner); };
  over_parts(pool, parts, rounds, [&](int, const Part& part, Range mine) {
    prepare_blocks(part.inner, mine.begin, mine.end, part.in.forms);
  });
  over_parts(pool, parts, [](const Part& part) { return part.tiles.count(); }, [&](int t, const Part& part, Range mine) {
    const Output out{room.results + static_cast<size_t>(part.first) * n, n, nullptr};
    const Product product{part.inner, part.many, room.panels};
    part.tiles.each(mine, [&](const Segment& s, int t0, int t1) { product.tiles(t, s, t0, t1, 0, part.m, out); });
  });
  join(pool, routes, order, room.results, m, n, y);
}

}  // namespace qwick
