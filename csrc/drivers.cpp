#include "drivers.h"

#include <string.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "dispatch.h"
#include "pool.h"

namespace qwick {
namespace {

enum Slot { kActivations, kPanels, kAttention, kStream };

size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Rows with room for the forms asked for.
Rows make_rows(Pool& pool, const float* x, int m, int k, unsigned forms) {
  Rows rows{m, k, x, nullptr, nullptr, nullptr, nullptr, (k + 31) / 32 * 32};
  const size_t n = m;
  const size_t q = rounded(n * k), scale = rounded(n * (k / 32) * sizeof(float));
  const size_t sums = rounded(n * (k / 16) * sizeof(int32_t)), bf16 = rounded(n * rows.k_even * 2);
  const size_t bytes = (forms & kFormI8 ? q + scale + sums : 0) + (forms & kFormBF16 ? bf16 : 0);
  if (!bytes) return rows;
  auto* at = static_cast<uint8_t*>(pool.scratch(kActivations, bytes));
  if (forms & kFormI8) {
    rows.q = reinterpret_cast<int8_t*>(at);
    rows.scale = reinterpret_cast<float*>(at + q);
    rows.sums = reinterpret_cast<int32_t*>(at + q + scale);
    at += q + scale + sums;
  }
  if (forms & kFormBF16) rows.bf16 = reinterpret_cast<uint16_t*>(at);
  return rows;
}

double seconds() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void matmul(const Packed& w, const float* x, int m, const float* bias, float* y) {
  if (m < 1) return;
  const Kernels& kernels = qwick::kernels();
  const bool few = m <= kMaxSmallRows;
  unsigned forms = 0;
  for (const Segment& s : w.segments())
    forms |= (few ? kernels.small_forms : kernels.panel_forms)[static_cast<int>(s.kind)];
  forms &= ~kFormF32;

  Pool::Use pool;
  const Rows rows = make_rows(*pool, x, m, w.k(), forms);
  const Output out{y, w.n(), bias};
  const int count = pool->threads();
  // One row is prepared faster than a second parallel region starts.
  if (forms && few) kernels.prepare(rows, 0, m, forms);
  if (forms && !few)
    pool->run([&](int t, int n) {
      const Range mine = share(m, t, n);
      kernels.prepare(rows, mine.begin, mine.end, forms);
    });
  const size_t panel = few ? 0 : rounded(kernels.panel_bytes(w.k()));
  auto* scratch = few ? nullptr : static_cast<uint8_t*>(pool->scratch(kPanels, panel * count));
  pool->run([&](int t, int n) {
    for (const Segment& s : w.segments()) {
      // Pairs of tiles, because a panel holds two.
      const Range pairs = share((s.tiles + 1) / 2, t, n);
      const int t0 = pairs.begin * 2, t1 = std::min(pairs.end * 2, s.tiles);
      if (t0 >= t1) continue;
      if (few) {
        kernels.small(s, t0, t1, rows, out);
      } else {
        kernels.panel(s, t0, t1, rows, out, scratch + t * panel);
      }
    }
  });
}

// Work below this many elements is done by the calling thread: waking the others costs more.
constexpr size_t kWorthSharing = 16384;

template <class Job>
void over_rows(int rows, size_t width, const Job& job) {
  Pool::Use pool;
  if (rows < 2 || rows * width < kWorthSharing) return job(0, rows);
  pool->run([&](int t, int n) {
    const Range mine = share(rows, t, n);
    if (mine.begin < mine.end) job(mine.begin, mine.end);
  });
}

void gather_rows(const Source& w, const int32_t* ids, int count, float* out) {
  const size_t stride = stored_row_bytes(w.type, w.k);
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
  over_rows(rows, n, [&](int begin, int end) {
    const size_t at = static_cast<size_t>(begin) * n;
    kernels().add_rms_norm(x + at, delta ? delta + at : nullptr, weight, eps, out + at, end - begin, n);
  });
}

void swiglu(const float* gate_up, float* out, int rows, int n) {
  over_rows(rows, n, [&](int begin, int end) {
    kernels().swiglu(gate_up + static_cast<size_t>(begin) * 2 * n, out + static_cast<size_t>(begin) * n,
                     end - begin, n);
  });
}

void rope_store(const RopeStore& args, int rows) {
  over_rows(rows, static_cast<size_t>(args.heads + 2 * args.kv_heads) * args.head_dim,
            [&](int begin, int end) { kernels().rope_store(args, begin, end); });
}

void attention(const Attention& args, int sequences) {
  struct Item {
    int sequence, kv_head, q0, q1;
    int64_t cost;
  };
  const int group = args.heads / args.kv_heads;
  const int tokens = std::max(1, std::min(16, kMaxQueryRows / group));  // queries per item
  std::vector<Item> items;
  int64_t total = 0;
  for (int s = 0; s < sequences; ++s)
    for (int h = 0; h < args.kv_heads; ++h)
      for (int q0 = args.starts[s]; q0 < args.starts[s + 1]; q0 += tokens) {
        const int q1 = std::min(q0 + tokens, args.starts[s + 1]);
        const int64_t cost = static_cast<int64_t>(q1 - q0) * (args.positions[q1 - 1] + 1 + kPage);
        items.push_back({s, h, q0, q1, cost});
        total += cost;
      }
  const Kernels& kernels = qwick::kernels();
  Pool::Use pool;
  const size_t scratch = rounded(kernels.attention_scratch * sizeof(float));
  auto* buffer = static_cast<uint8_t*>(pool->scratch(kAttention, scratch * pool->threads()));
  pool->run([&](int t, int n) {
    // Thread t takes the items whose middle lies in its share of the cost.
    int64_t before = 0;
    for (const Item& i : items) {
      if ((before + i.cost / 2) * n / std::max<int64_t>(total, 1) == t)
        kernels.attention(args, i.sequence, i.kv_head, i.q0, i.q1,
                          reinterpret_cast<float*>(buffer + t * scratch));
      before += i.cost;
    }
  });
}

double read_bandwidth(size_t bytes) {
  const Kernels& kernels = qwick::kernels();
  Pool::Use pool;
  std::vector<uint8_t> data;
  try {
    data.assign(bytes, 1);
  } catch (const std::bad_alloc&) {
    return 0;
  }
  double best = 0;
  uint64_t sums[256] = {};
  for (int pass = 0; pass < 5; ++pass) {
    const double start = seconds();
    pool->run([&](int t, int n) {
      const size_t part = bytes / n / 256 * 256;
      sums[t % 256] += kernels.read(data.data() + t * part, part);
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
    std::vector<double> work(pool->threads());
    const double start = seconds();
    pool->run([&](int t, int) { work[t] = kernels.busy(rounds); });
    const double took = seconds() - start;
    double operations = 0;
    for (double w : work) operations += w;
    best = std::max(best, operations / took);
    if (took > 0.1) return best;
    rounds *= 2;
  }
}

void set_threads(int count) { Pool::instance().resize(count); }
int threads() { return Pool::instance().threads(); }

}  // namespace qwick
