#include "drivers.h"

#include <string.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "dispatch.h"
#include "pool.h"
#include "product.h"
#include "profile.h"

namespace qwick {
namespace {

double seconds() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

auto label(const char* what, const Packed& w) {
  return [what, &w] { return label_of(what, w); };
}
auto label(const char* what) {
  return [what] { return std::string(what); };
}
constexpr double kFloat = sizeof(float);

// Rows with room for the forms asked for.
Rows make_rows(Pool& pool, Slot slot, const float* x, int m, int k, unsigned forms) {
  const size_t bytes = form_bytes(m, k, forms);
  return place_rows(bytes ? static_cast<uint8_t*>(pool.scratch(slot, bytes)) : nullptr, x, m, k, forms);
}

void prepare(Pool& pool, const Rows& rows, unsigned forms) {
  if (!forms) return;
  const int blocks = row_blocks(rows);
  const bool share = static_cast<size_t>(rows.m) * rows.k >= kWorthSharing;
  pool.run(blocks, share ? std::max(1, blocks / (4 * pool.threads())) : blocks,
           [&](int, Range mine) { prepare_blocks(rows, mine.begin, mine.end, forms); });
}

// job over `items` of a product of m rows; threads that are done with few rows, which the memory limits, ask for what w says
// comes next.
template <class Job>
void run(Pool& pool, const Packed& w, int m, int items, const Job& job) {
  constexpr int kFew = 32;
  std::vector<Ahead> ahead;
  for (int t = 0; m <= kFew && t < pool.threads(); ++t) ahead.push_back(w.next_part(t, pool.threads()));
  pool.run(items, std::max(1, items / (32 * pool.threads())), job, ahead.empty() ? nullptr : ahead.data());
}

void multiply(Pool& pool, const Packed& w, const Rows& rows, const float* bias, float* y, bool many) {
  const Panels panels(pool, many, rows.m, rows.k, 0);
  const Product product{rows, many, panels};
  const TileItems items(w, many, pool.threads());
  run(pool, w, rows.m, items.count(), [&](int t, Range mine) {
    items.each(mine, [&](const Segment& s, int t0, int t1) { product.tiles(t, s, t0, t1, 0, rows.m, {y, w.n(), bias}); });
  });
}

void matmul(const Packed& w, const float* x, int m, const float* bias, float* y, bool prompt) {
  if (m < 1) return;
  const Timed timed(label("matmul", w), product_bytes(w, m, w.n()), product_operations(w, m));
  Pool::Use pool;
  const bool many = takes_many(m, prompt);
  const unsigned forms = forms_of(w, many);
  const Rows rows = make_rows(*pool, kActivations, x, m, w.k(), forms);
  prepare(*pool, rows, forms);
  multiply(*pool, w, rows, bias, y, many);
}

// The outputs are looked at while they are in the cache, and never reach memory.
void matmul_argmax(const Packed& w, const float* x, int m, int n, int32_t* columns) {
  if (m < 1) return;
  const Timed timed(label("argmax", w), product_bytes(w, m, 0), product_operations(w, m));
  constexpr int kTiles = 8, kWidth = kTiles * kTile, kRows = 64;  // outputs at a time
  static_assert(kRows % kRowBlock == 0);
  Pool::Use pool;
  const bool many = takes_many(m, false);
  const unsigned forms = forms_of(w, many);
  const Rows rows = make_rows(*pool, kActivations, x, m, w.k(), forms);
  prepare(*pool, rows, forms);
  const int most = many ? m : std::min(m, kRows);
  const Panels panels(*pool, many, m, w.k(), static_cast<size_t>(most) * kWidth * sizeof(float));
  const Product product{rows, many, panels};
  std::vector<Best> found(static_cast<size_t>(m) * pool->threads());
  run(*pool, w, m, (n + kWidth - 1) / kWidth, [&](int t, Range mine) {
    float* y = panels.own(t);
    for (int i = mine.begin; i < mine.end; ++i) {
      Segment s = w.segments()[0];
      const int t0 = i * kTiles, t1 = std::min(t0 + kTiles, s.tiles), first = t0 * kTile;
      s.first = -first;
      for (int r0 = 0; r0 < m; r0 += most) {
        const int r1 = std::min(r0 + most, m);
        product.tiles(t, s, t0, t1, r0, r1, {y, kWidth, nullptr});
        kernels().argmax(y, kWidth, r1 - r0, std::min(kWidth, n - first), first, &found[static_cast<size_t>(t) * m + r0]);
      }
    }
  });
  for (int r = 0; r < m; ++r) {
    Best best;
    for (int t = 0; t < pool->threads(); ++t) {
      const Best& b = found[static_cast<size_t>(t) * m + r];
      const bool better = b.value > best.value || (b.value == best.value && b.column < best.column);
      best = {better ? b.value : best.value, better ? b.column : best.column, best.finite && b.finite};
    }
    columns[r] = best.finite ? best.column : -1;
  }
}

void mlp(const Packed& gate_up, const Packed& down, const float* x, int m, float* y, bool prompt) {
  if (m < 1) return;
  Pool::Use pool;
  const bool many = takes_many(m, prompt);
  const InnerForms in(down, many);
  const size_t cells = static_cast<size_t>(m) * down.k();
  float* floats = in.direct ? nullptr : static_cast<float*>(pool->scratch(kInnerFloats, cells * sizeof(float)));
  const Rows inner = make_rows(*pool, kInner, floats, m, down.k(), in.forms);
  {
    const Timed timed(label("gate and up", gate_up), product_bytes(gate_up, m, down.k()), product_operations(gate_up, m));
    const unsigned outer = forms_of(gate_up, many);
    const Rows rows = make_rows(*pool, kActivations, x, m, gate_up.k(), outer);
    prepare(*pool, rows, outer);
    const Panels panels(*pool, many, m, gate_up.k(), GateAndUp::own_bytes(m, many));
    const GateAndUp both(gate_up);
    run(*pool, gate_up, m, both.count(),
        [&](int t, Range mine) { both.items({rows, many, panels}, t, mine, inner, floats); });
  }
  const Timed timed(label("down", down), product_bytes(down, m, down.n()), product_operations(down, m));
  if (!in.direct) prepare(*pool, inner, in.forms);
  multiply(*pool, down, inner, nullptr, y, many);
}

template <class Job>
void over_rows(int rows, size_t width, const Job& job, size_t worth_sharing = kWorthSharing) {
  Pool::Use pool;
  const bool share = rows * width >= worth_sharing;
  pool->run(rows, share ? std::max(1, rows / (4 * pool->threads())) : rows,
            [&](int, Range mine) { job(mine.begin, mine.end); });
}

void gather_rows(const Source& w, const int32_t* ids, int count, float* out) {
  const size_t stride = stored_row_bytes(w.type, w.k);
  const Timed timed(label("gather_rows"), static_cast<double>(count) * (stride + kFloat * w.k), 0);
  over_rows(count, w.k, [&](int begin, int end) {
    for (int i = begin; i < end; ++i)
      decode_stored_row(w.type, w.data + ids[i] * stride, w.k, out + static_cast<size_t>(i) * w.k);
  });
}

void unpack(const Packed& w, float* out) {
  over_rows(w.n(), w.k(), [&](int begin, int end) {
    for (int i = begin; i < end; ++i) w.decode_row(i, out + static_cast<size_t>(i) * w.k());
  });
}

void add_rms_norm(float* x, const float* delta, const float* weight, float eps, float* out, int rows, int n) {
  const double cells = static_cast<double>(rows) * n;
  const Timed timed(label("add_rms_norm"), kFloat * cells * (delta ? 4 : 2), 4 * cells);
  over_rows(rows, n, [&](int begin, int end) {
    const size_t at = static_cast<size_t>(begin) * n;
    kernels().add_rms_norm(x + at, delta ? delta + at : nullptr, weight, eps, out + at, end - begin, n);
  });
}

void rope_store(const RopeStore& args, int rows) {
  const int width = (args.heads + 2 * args.kv_heads) * args.head_dim;
  const Timed timed(label(args.kv_heads ? "rope_store" : "rotate"), kFloat * rows * 2.0 * width, 6.0 * rows * width);
  // Keys go to places all over their pages, which are rarely in the cache: that is slow enough to share a few rows.
  over_rows(rows, width, [&](int begin, int end) { kernels().rope_store(args, begin, end); }, kWorthSharing / 4);
}

// Queries and results once, and each sequence's keys and values once.
struct AttentionCost {
  double bytes = 0, operations = 0;

  AttentionCost(const Attention& a, int sequences) {
    const double token = (key_page_bytes(a.kv, a.head_dim) + value_page_bytes(a.kv, a.head_dim)) / kPage;  // of one head
    for (int s = 0; s < sequences; ++s) {
      int most = 0;
      for (int row = a.starts[s]; row < a.starts[s + 1]; ++row) {
        most = std::max(most, a.positions[row] + 1);
        operations += 4.0 * (a.positions[row] + 1) * a.heads * a.head_dim;
      }
      bytes += token * most * a.kv_heads;
    }
    bytes += 2 * kFloat * a.starts[sequences] * a.heads * a.head_dim;
  }
};

void attention(const Attention& args, int sequences) {
  const AttentionCost cost = profiling() ? AttentionCost(args, sequences) : AttentionCost(args, 0);
  const Timed timed(label("attention"), cost.bytes, cost.operations);
  const int group = args.heads / args.kv_heads;
  const int tokens = std::max(1, std::min(16, kMaxQueryRows / group));  // queries per item
  std::vector<AttentionItem> items;
  for (int s = 0; s < sequences; ++s)
    for (int h = 0; h < args.kv_heads; ++h)
      for (int q0 = args.starts[s]; q0 < args.starts[s + 1]; q0 += tokens) {
        const int q1 = std::min(q0 + tokens, args.starts[s + 1]);
        const int most = *std::max_element(args.positions + q0, args.positions + q1) + 1;
        items.push_back({s, h, q0, q1, 0, (most + kSegment * kPage - 1) / (kSegment * kPage), nullptr});
      }
  const Kernels& kernels = qwick::kernels();
  Pool::Use pool;
  const size_t scratch = rounded(kernels.attention_scratch);
  auto* buffer = static_cast<uint8_t*>(pool->scratch(kAttention, scratch * pool->threads()));
  auto run = [&](const std::vector<AttentionItem>& work) {
    pool->run(static_cast<int>(work.size()), 1, [&](int t, Range mine) {
      for (int i = mine.begin; i < mine.end; ++i) kernels.attention(args, work[i], buffer + t * scratch);
    });
  };
  // Too few items to keep all threads busy to the end: long ones are cut along their tokens.
  if (pool->threads() == 1 || static_cast<int>(items.size()) >= 4 * pool->threads()) return run(items);
  std::vector<AttentionItem> parts;
  std::vector<size_t> at;  // where each item's partial sums lie, in floats
  size_t floats = 0;
  for (const AttentionItem& item : items) {
    at.push_back(floats);
    if (item.segment1 > 1)
      floats += static_cast<size_t>(item.segment1) * (item.q1 - item.q0) * group * (args.head_dim + 16);
  }
  if (!floats) return run(items);
  auto* partial = static_cast<float*>(pool->scratch(kPartial, floats * sizeof(float)));
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].segment1 > 1) items[i].partial = partial + at[i];
    for (int segment = 0; segment < items[i].segment1; ++segment) {
      parts.push_back(items[i]);
      if (!items[i].partial) break;
      parts.back().segment0 = segment;
      parts.back().segment1 = segment + 1;
    }
  }
  run(parts);
  for (const AttentionItem& item : items)
    if (item.partial) kernels.attention_join(args, item);
}

double read_bandwidth(size_t bytes) {
  const Kernels& kernels = qwick::kernels();
  Pool::Use pool;
  const std::vector<uint8_t> data(bytes, 1);
  double best = 0;
  uint64_t sums[256] = {};
  for (int pass = 0; pass < 5; ++pass) {
    const double start = seconds();
    constexpr size_t kPart = 1 << 20;
    pool->run(static_cast<int>(bytes / kPart), 4, [&](int t, Range mine) {
      sums[t % 256] += kernels.read(data.data() + mine.begin * kPart, (mine.end - mine.begin) * kPart);
    });
    best = std::max(best, bytes / (seconds() - start));
  }
  volatile uint64_t sink = sums[0];
  (void)sink;
  return best;
}

double peak_rate() {
  const Kernels& kernels = qwick::kernels();
  Pool::Use pool;
  double best = 0;
  int64_t rounds = 1000;
  while (true) {
    const int parts = 16 * pool->threads();
    std::vector<double> work(parts);
    const double start = seconds();
    pool->run(parts, 1, [&](int, Range mine) { work[mine.begin] = kernels.busy(rounds); });
    const double took = seconds() - start;
    double operations = 0;
    for (double w : work) operations += w;
    best = std::max(best, operations / took);
    if (took > 0.1) return best;
    rounds *= 2;
  }
}

void set_threads(int count) { Pool::set_threads(count); }
int threads() { return Pool::instance().threads(); }

}  // namespace qwick
