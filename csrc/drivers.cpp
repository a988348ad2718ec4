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
  // Few rows are prepared faster than a second parallel region starts.
  if (forms && few) kernels.prepare(rows, 0, m, forms);
  if (forms && !few)
    pool->run(m, std::max(1, m / (4 * count)),
              [&](int, Range mine) { kernels.prepare(rows, mine.begin, mine.end, forms); });

  // An item is a pair of tiles, because a panel holds two; the segments' items follow each other.
  std::vector<int> first;
  int items = 0;
  for (const Segment& s : w.segments()) {
    first.push_back(items);
    items += (s.tiles + 1) / 2;
  }
  const size_t panel = few ? 0 : rounded(kernels.panel_bytes(w.k()));
  auto* scratch = few ? nullptr : static_cast<uint8_t*>(pool->scratch(kPanels, panel * count));
  const int chunk = std::max(1, items / (8 * count));
  pool->run(items, chunk, [&](int t, Range mine) {
    for (size_t i = 0; i < first.size(); ++i) {
      const Segment& s = w.segments()[i];
      const int t0 = std::max(0, mine.begin - first[i]) * 2;
      const int t1 = std::min((mine.end - first[i]) * 2, s.tiles);
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
  const bool share = rows * width >= kWorthSharing;
  pool->run(rows, share ? std::max(1, rows / (4 * pool->threads())) : rows,
            [&](int, Range mine) { job(mine.begin, mine.end); });
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
  };
  const int group = args.heads / args.kv_heads;
  const int tokens = std::max(1, std::min(16, kMaxQueryRows / group));  // queries per item
  std::vector<Item> items;
  for (int s = 0; s < sequences; ++s)
    for (int h = 0; h < args.kv_heads; ++h)
      for (int q0 = args.starts[s]; q0 < args.starts[s + 1]; q0 += tokens)
        items.push_back({s, h, q0, std::min(q0 + tokens, args.starts[s + 1])});
  const Kernels& kernels = qwick::kernels();
  Pool::Use pool;
  const size_t scratch = rounded(kernels.attention_scratch * sizeof(float));
  auto* buffer = static_cast<uint8_t*>(pool->scratch(kAttention, scratch * pool->threads()));
  pool->run(static_cast<int>(items.size()), 1, [&](int t, Range mine) {
    for (int i = mine.begin; i < mine.end; ++i)
      kernels.attention(args, items[i].sequence, items[i].kv_head, items[i].q0, items[i].q1,
                        reinterpret_cast<float*>(buffer + t * scratch));
  });
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
