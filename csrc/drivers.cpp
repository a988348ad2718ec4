#include "drivers.h"

#include <string.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "dispatch.h"
#include "pool.h"
#include "profile.h"

namespace qwick {
namespace {

enum Slot { kActivations, kInner, kInnerFloats, kPanels, kAttention, kPartial };

size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Rows with room for the forms asked for.
Rows make_rows(Pool& pool, Slot slot, const float* x, int m, int k, unsigned forms) {
  Rows rows{m, k, x, nullptr, nullptr, (k + 31) / 32 * 32};
  const size_t i8 = forms & kFormI8 ? rounded(static_cast<size_t>(m) * rows.groups() * kRowGroupBytes) : 0;
  const size_t bf16 = forms & kFormBF16 ? static_cast<size_t>(m) * rows.k_even * sizeof(uint16_t) : 0;
  if (i8 + bf16 == 0) return rows;
  auto* at = static_cast<uint8_t*>(pool.scratch(slot, i8 + bf16));
  if (i8) rows.bytes = at;
  if (bf16) rows.bf16 = reinterpret_cast<uint16_t*>(at + i8);
  return rows;
}

double seconds() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

// "matmul 9728x896 i5+i5", and what it moves at least: each weight once, x and y once.
auto label(const char* what, const Packed& w) {
  return [what, &w] {
    std::string name = std::string(what) + " " + std::to_string(w.n()) + "x" + std::to_string(w.k());
    char separator = ' ';
    for (const Segment& s : w.segments()) name += separator + std::string(kind_name(s.kind)), separator = '+';
    return name;
  };
}
double product_bytes(const Packed& w, int m, int outputs) {
  return w.bytes() + sizeof(float) * static_cast<double>(m) * (w.k() + outputs);
}
double product_operations(const Packed& w, int m) { return 2.0 * m * w.n() * w.k(); }

auto label(const char* what) {
  return [what] { return std::string(what); };
}
constexpr double kFloat = sizeof(float);

// Work below this many elements is done by the calling thread: waking the others costs more.
constexpr size_t kWorthSharing = 16384;

bool takes_many(int m, bool prompt) { return kernels().matmul_many && (prompt || m > kernels().few); }

// The forms of x, but for the floats themselves, that the kernels of w's classes read.
unsigned forms_of(const Packed& w, bool many) {
  unsigned forms = 0;
  for (const Segment& s : w.segments())
    forms |= (many ? kernels().many_forms : kernels().forms).of(s.kind);
  return forms & ~kFormF32;
}

void prepare(Pool& pool, const Rows& rows, unsigned forms) {
  if (!forms) return;
  const int blocks = (rows.m + kRowBlock - 1) / kRowBlock;
  const bool share = static_cast<size_t>(rows.m) * rows.k >= kWorthSharing;
  pool.run(blocks, share ? std::max(1, blocks / (4 * pool.threads())) : blocks, [&](int, Range mine) {
    kernels().prepare(rows, mine.begin * kRowBlock, std::min(mine.end * kRowBlock, rows.m), forms);
  });
}

// A product of rows that are prepared, and the scratch of its threads.
struct Product {
  const Kernels& kernels = qwick::kernels();
  Pool& pool;
  bool many;            // `matmul_many` takes it
  const Rows& rows;
  uint8_t* scratch;     // per thread, `apart` bytes apart: what `matmul_many` needs, then `extra`
  size_t apart, extra;

  Product(Pool& pool, const Rows& rows, bool many, size_t extra)
      : pool(pool), many(many), rows(rows), extra(rounded(extra)) {
    apart = (many ? rounded(kernels.many_bytes(rows.m, rows.k)) : 0) + this->extra;
    scratch = apart ? static_cast<uint8_t*>(pool.scratch(kPanels, apart * pool.threads())) : nullptr;
  }
  float* extra_of(int thread) const { return reinterpret_cast<float*>(scratch + (thread + 1) * apart - extra); }

  // The rows r0..r1-1; r0 begins a block. Where panels are made: all rows, or they would be made again.
  void tiles(int thread, const Segment& s, int t0, int t1, int r0, int r1, const Output& out) const {
    if (many) return kernels.matmul_many(s, t0, t1, rows, out, scratch + thread * apart);
    Rows some = rows;
    some.m = r1 - r0;
    if (rows.x) some.x += static_cast<size_t>(r0) * rows.k;
    if (rows.bytes) some.bytes = rows.group(r0, 0, kRowBlock);
    kernels.matmul(s, t0, t1, some, out);
  }

  // job over `items`; threads that are done with few rows, which the memory limits, ask for what w says comes next.
  template <class Job>
  void run(const Packed& w, int items, const Job& job) const {
    constexpr int kFew = 32;
    std::vector<Ahead> ahead;
    for (int t = 0; rows.m <= kFew && t < pool.threads(); ++t) ahead.push_back(w.next_part(t, pool.threads()));
    pool.run(items, std::max(1, items / (32 * pool.threads())), job, ahead.empty() ? nullptr : ahead.data());
  }
};

void multiply(Pool& pool, const Packed& w, const Rows& rows, const float* bias, float* y, bool many) {
  const Product product(pool, rows, many, 0);
  const Output out{y, w.n(), bias};
  // An item is some tiles, because panels are made side by side, but not so many that threads end apart; the segments'
  // items follow each other.
  constexpr int kMostTiles = 8;
  const int share = w.n() / kTile / (8 * pool.threads());
  const int each = many ? std::min(std::max(share, 2), kMostTiles) : 2;
  std::vector<int> first;
  int items = 0;
  for (const Segment& s : w.segments()) {
    first.push_back(items);
    items += (s.tiles + each - 1) / each;
  }
  product.run(w, items, [&](int t, Range mine) {
    for (size_t i = 0; i < first.size(); ++i) {
      const Segment& s = w.segments()[i];
      const int t0 = std::max(0, mine.begin - first[i]) * each;
      const int t1 = std::min((mine.end - first[i]) * each, s.tiles);
      if (t0 < t1) product.tiles(t, s, t0, t1, 0, rows.m, out);
    }
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
  const Product product(*pool, rows, many, static_cast<size_t>(most) * kWidth * sizeof(float));
  std::vector<Best> found(static_cast<size_t>(m) * pool->threads());
  product.run(w, (n + kWidth - 1) / kWidth, [&](int t, Range mine) {
    float* y = product.extra_of(t);
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

// Gate and up meet while they are in the cache: their product, twice as wide as what is wanted, never reaches memory.
// Nor does what comes of them, where `down` reads 8 bits: `inner` takes it in that form. Else it goes to `floats`.
void gate_and_up(Pool& pool, const Packed& w, const Rows& rows, const Rows& inner, float* floats, bool many) {
  constexpr int kTiles = 4, kWidth = kTiles * kTile;  // of each, and their columns
  constexpr int kRows = 64;
  static_assert(kWidth % kGroup == 0 && kRows % kRowBlock == 0);
  const Segment gate = w.segments()[0], up = w.segments()[1];
  const int m = rows.m, most = many ? m : std::min(m, kRows);  // rows at a time
  const Product product(pool, rows, many, static_cast<size_t>(most) * 2 * kWidth * sizeof(float));
  product.run(w, (gate.tiles + kTiles - 1) / kTiles, [&](int t, Range mine) {
    float* both = product.extra_of(t);
    for (int i = mine.begin; i < mine.end; ++i) {
      const int t0 = i * kTiles, t1 = std::min(t0 + kTiles, gate.tiles), column = t0 * kTile;
      const int width = std::min(kWidth, gate.n - column);
      Segment left = gate, right = up;
      left.first = -column;  // so that the tiles' columns begin at 0 and at kWidth
      right.first = kWidth - column;
      for (int r0 = 0; r0 < m; r0 += most) {
        const int r1 = std::min(r0 + most, m);
        product.tiles(t, left, t0, t1, r0, r1, {both, 2 * kWidth, nullptr});
        product.tiles(t, right, t0, t1, r0, r1, {both, 2 * kWidth, nullptr});
        float* out = floats ? floats + static_cast<size_t>(r0) * gate.n + column : both;
        kernels().swiglu(both, 2 * kWidth, kWidth, out, floats ? gate.n : 2 * kWidth, r1 - r0, width);
        if (!floats)
          kernels().quantize(both, 2 * kWidth, inner, r0, r1, column / kGroup, (column + width) / kGroup);
      }
    }
  });
}

void mlp(const Packed& gate_up, const Packed& down, const float* x, int m, float* y, bool prompt) {
  if (m < 1) return;
  Pool::Use pool;
  const bool many = takes_many(m, prompt);
  const unsigned forms = forms_of(down, many);
  const auto& parts = down.segments();
  const bool direct = forms == kFormI8 &&  // and nobody reads the floats
                      std::all_of(parts.begin(), parts.end(), [](const Segment& s) { return is_integer(s.kind); });
  const size_t cells = static_cast<size_t>(m) * down.k();
  float* floats = direct ? nullptr : static_cast<float*>(pool->scratch(kInnerFloats, cells * sizeof(float)));
  const Rows inner = make_rows(*pool, kInner, floats, m, down.k(), forms);
  {
    const Timed timed(label("gate and up", gate_up), product_bytes(gate_up, m, down.k()), product_operations(gate_up, m));
    const unsigned outer = forms_of(gate_up, many);
    const Rows rows = make_rows(*pool, kActivations, x, m, gate_up.k(), outer);
    prepare(*pool, rows, outer);
    gate_and_up(*pool, gate_up, rows, inner, floats, many);
  }
  const Timed timed(label("down", down), product_bytes(down, m, down.n()), product_operations(down, m));
  if (!direct) prepare(*pool, inner, forms);
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
  const Timed timed(label("rope_store"), kFloat * rows * 2.0 * width, 6.0 * rows * width);
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
