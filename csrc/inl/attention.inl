// Grouped causal attention over paged keys and values with an online softmax (Milakov and Gimelshein 2018;
// Dao et al. 2022), to base 2. A row is one (query token, head of the group); rows share each page of keys while it is
// in the first cache. Included inside an ISA's namespace.
//
// Tokens are taken in segments of kSegment pages, whose results are merged in order: a row's result is the same whether
// one thread takes all segments or several share them.

constexpr int kRows = 8;  // at a time, in the softmax; kPageRows (simd/) of them share what is loaded of a page
static_assert(kRows % kPageRows == 0);
constexpr float kNever = -3.0e38f;  // the score of what is not seen

// 2^x for finite x <= 8, 0 where that is too small; NaN stays NaN. x = n + r, |r| <= 1/2: Taylor of e^(r ln 2), to about
// 3e-6.
QWICK_INLINE F32 exp2(F32 x) {
  const F32 n = whole(x), r = sub(x, n);
  F32 p = set1(1.3333558146e-3f);
  p = fma(p, r, set1(9.6181291076e-3f));
  p = fma(p, r, set1(5.5504108665e-2f));
  p = fma(p, r, set1(2.4022650696e-1f));
  p = fma(p, r, set1(6.9314718056e-1f));
  p = fma(p, r, set1(1.0f));
  return times_power(p, n);
}

// The same to 8e-5, for weights that meet 8-bit or bf16 values: minimax polynomial.
QWICK_INLINE F32 rough_exp2(F32 x) {
  const F32 n = whole(x), r = sub(x, n);
  F32 p = set1(0.05517167f);
  p = fma(p, r, set1(0.24261112f));
  p = fma(p, r, set1(0.69326099f));
  p = fma(p, r, set1(0.99992807f));
  return times_power(p, n);
}

// The rows of one item, in scratch. Arrays over rows are padded so that blocks of 16 may be read and written.
struct Item {
  int rows, head_dim;
  float query_scale;  // 1 / sqrt(head_dim), to base 2
  int64_t next_page;  // pages lie anywhere, so the hardware cannot guess which one is read next; -1: none
  const float* query[kMaxQueryRows];
  int limit[kMaxQueryRows];                      // tokens this row may see
  alignas(64) float top[kMaxQueryRows + 16];     // largest score of the segment so far
  alignas(64) float sum[kMaxQueryRows][16];      // parts of the sum of 2^(score - top)
  alignas(64) float total_top[kMaxQueryRows], total_sum[kMaxQueryRows];  // over the segments before
  // queries in 8 bits, per block of kPageRows rows (the last may have fewer), R rows side by side
  alignas(64) int8_t quants[kMaxQueryRows * kMaxHeadDim];               // [head_dim / 4][R][4]
  float scale[kMaxQueryRows * kMaxHeadDim / kGroup];                    // [head_dim / 32][R], softmax scale included
  int32_t start[kMaxQueryRows * kMaxHeadDim / kGroup];                  // [head_dim / 32][R] -128 * sum of quants
  // queries as bf16 pages meet them: [rows][head_dim]
  alignas(64) PairElement pairs[kMaxQueryRows * kMaxHeadDim];
  // of one page
  alignas(64) float score[kMaxQueryRows][kPage];
  alignas(64) uint8_t shares[kMaxQueryRows][kPage * sizeof(float)];  // 2^(score - top): floats, PairElements or bytes
  float fade[kMaxQueryRows];          // per row: by how much the sums so far shrink, because `top` has risen
  float weight[kMaxQueryRows];        // I8: what a byte of `shares` stands for
  bool faded[kMaxQueryRows / kRows];  // per block of rows: whether any `fade` is not 1
  alignas(64) float acc[kMaxQueryRows * kMaxHeadDim];    // of the segment: [rows][head_dim]
  alignas(64) float total[kMaxQueryRows * kMaxHeadDim];  // over the segments before
};

constexpr float kLog2E = 1.44269504088896341f;

// Asks for the next page's keys and values, a part at a time so that what is read now does not have to wait: while the
// first block of rows is computed.
struct NextPage {
  const uint8_t *keys, *values;
  size_t key_part, value_part;  // bytes of each to ask for at a time

  NextPage(const Attention& a, const Item& item, int r0, size_t key_bytes, size_t value_bytes, int parts)
      : keys(nullptr), values(nullptr), key_part(key_bytes / parts), value_part(value_bytes / parts) {
    if (r0 > 0 || item.next_page < 0) return;
    keys = static_cast<const uint8_t*>(a.keys) + item.next_page * key_bytes;
    values = static_cast<const uint8_t*>(a.values) + item.next_page * value_bytes;
  }
  __attribute__((always_inline)) void ask(int part) const {
    if (!keys) return;
    for (size_t i = 0; i < key_part; i += 64) __builtin_prefetch(keys + part * key_part + i, 0, 2);
    for (size_t i = 0; i < value_part; i += 64) __builtin_prefetch(values + part * value_part + i, 0, 2);
  }
};

// ---- blocks of rows --------------------------------------------------------------------------------------

template <int R>
struct Block {
  static constexpr int rows = R;
};

// job(Block<R>, r0, tokens) for the rows r0..r0+R-1, R = most, the last block's fewer. tokens: the most tokens of the
// page from `first` on that any of them sees; not called where that is none.
template <int R, class Job>
QWICK_INLINE void one_block(const Item& item, int first, int r0, const Job& job) {
  int tokens = 0;
  for (int r = 0; r < R; ++r) {
    const int seen = item.limit[r0 + r] - first;
    tokens = seen > tokens ? seen : tokens;
  }
  if (tokens > 0) job(Block<R>(), r0, tokens < kPage ? tokens : kPage);
}
template <int R, class Job>
QWICK_INLINE void last_block(const Item& item, int first, int r0, const Job& job) {
  if constexpr (R > 0) {
    if (item.rows - r0 == R) return one_block<R>(item, first, r0, job);
    last_block<R - 1>(item, first, r0, job);
  }
}
template <int most, class Job>
QWICK_INLINE void by_blocks(const Item& item, int first, const Job& job) {
  int r0 = 0;
  for (; r0 + most <= item.rows; r0 += most) one_block<most>(item, first, r0, job);
  last_block<most - 1>(item, first, r0, job);
}

// ---- a page, whatever it holds ---------------------------------------------------------------------------
// Taken in three steps, each for all rows: what a step of one block of rows waits for, the next block's fills.

// Scores of R rows, kNever for what is not seen. Their largest raise `top`, and so `fade`.
template <int R>
struct Scores {
  F32 low[R], high[R];
  F32 here, top;  // lane r: row r's largest of this page, of the segment so far

  Scores(Item& item, int r0, int first) {
    F32 most[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      most[r] = set1(kNever);
      if (r >= R) continue;
      low[r] = load(item.score[r0 + r]);
      high[r] = load(item.score[r0 + r] + 16);
      only_seen(item.limit[r0 + r] - first, kNever, low[r], high[r]);
      most[r] = max(low[r], high[r]);
    }
    const F32 old = load_some(item.top + r0, R);
    here = row_tops(most);
    top = max(here, old);
    store_some(item.top + r0, top, R);
    store_some(item.fade + r0, exp2(sub(old, top)), R);
    item.faded[r0 / kRows] = !equal(old, top);
  }
  // `other` for the tokens from `seen` on, which may be anything.
  static __attribute__((always_inline)) void only_seen(int seen, float other, F32& low, F32& high) {
    if (seen >= kPage) return;
    low = first_lanes(low, set1(other), seen < 0 ? 0 : seen < 16 ? seen : 16);
    high = first_lanes(high, set1(other), seen < 16 ? 0 : seen - 16);
  }
};

#include "attention_wide.inl"

#include "attention_bytes.inl"

// ---- items -----------------------------------------------------------------------------------------------

// Sums of a segment joined to those of the segments before it.
QWICK_INLINE void join(float& total_top, float& total_sum, float* total, float top, float sum, const float* acc, int d) {
  const float most = top > total_top ? top : total_top;
  alignas(64) float both[16] = {total_top - most, top - most};
  store(both, exp2(load(both)));
  const F32 a = set1(both[0]), b = set1(both[1]);
  total_top = most;
  total_sum = total_sum * both[0] + sum * both[1];
  for (int i = 0; i < d; i += 16) store(total + i, fma(load(acc + i), b, mul(load(total + i), a)));
}

QWICK_INLINE void put_row(const Attention& a, int token, int head, const float* total, float top, float sum) {
  const size_t row = static_cast<size_t>(token) * a.heads + head;
  if (a.sums) a.sums[row] = (top + __builtin_log2f(sum)) / kLog2E;
  float* out = a.out + row * a.head_dim;
  const F32 inverse = set1(1.0f / sum);
  for (int i = 0; i < a.head_dim; i += 16) store(out + i, mul(load(total + i), inverse));
}

template <class Pages, KV kv>
static void attention_item(const Attention& a, const AttentionItem& work, Item& item) {
  const int group = a.heads / a.kv_heads, d = a.head_dim;
  const int rows = (work.q1 - work.q0) * group;
  item.rows = rows;
  item.head_dim = d;
  item.query_scale = a.scale * kLog2E;
  int most = 0;
  for (int r = 0; r < rows; ++r) {
    const int token = work.q0 + r / group, head = work.kv_head * group + r % group;
    item.query[r] = a.q + static_cast<size_t>(token) * a.q_stride + static_cast<size_t>(head) * d;
    item.limit[r] = a.positions[token] + 1;
    item.total_top[r] = kNever;
    item.total_sum[r] = 0;
    most = item.limit[r] > most ? item.limit[r] : most;
  }
  if (kv == KV::BF16)
    for (int r = 0; r < rows; ++r)
      for (int i = 0; i < d; i += 16) store_element(item.pairs + static_cast<size_t>(r) * d + i, load(item.query[r] + i));
  if (kv == KV::I8)
    for (int r = 0; r < rows; r += kPageRows) quantize_queries(item, r, rows - r < kPageRows ? rows - r : kPageRows);
  memset(item.total, 0, sizeof(float) * rows * d);
  const int32_t* pages = a.pages + static_cast<size_t>(work.sequence) * a.pages_stride;
  for (int segment = work.segment0; segment < work.segment1; ++segment) {
    for (int r = 0; r < rows; ++r) item.top[r] = kNever;
    memset(item.sum, 0, sizeof(item.sum[0]) * rows);
    memset(item.acc, 0, sizeof(float) * rows * d);
    const int begin = segment * kSegment * kPage, end = begin + kSegment * kPage < most ? begin + kSegment * kPage : most;
    for (int first = begin; first < end; first += kPage) {
      const size_t page = static_cast<size_t>(pages[first / kPage]) * a.kv_heads + work.kv_head;
      const bool more = first + kPage < most;
      item.next_page = more ? static_cast<int64_t>(pages[first / kPage + 1]) * a.kv_heads + work.kv_head : -1;
      Pages::template page<kv>(a, page, first, item);
    }
    for (int r = 0; r < rows; ++r) {
      const float sum = reduce_add(load(item.sum[r]));
      const float* acc = item.acc + static_cast<size_t>(r) * d;
      if (work.partial) {
        float* to = work.partial + (static_cast<size_t>(segment) * rows + r) * (d + 16);
        memcpy(to, acc, sizeof(float) * d);
        to[d] = item.top[r];
        to[d + 1] = sum;
      } else {
        join(item.total_top[r], item.total_sum[r], item.total + static_cast<size_t>(r) * d, item.top[r], sum, acc, d);
      }
    }
  }
  if (work.partial) return;
  for (int r = 0; r < rows; ++r)
    put_row(a, work.q0 + r / group, work.kv_head * group + r % group, item.total + static_cast<size_t>(r) * d,
            item.total_top[r], item.total_sum[r]);
}

static void attention(const Attention& a, const AttentionItem& work, void* scratch) {
  Item& item = *static_cast<Item*>(scratch);
  switch (a.kv) {
    case KV::F32: return attention_item<WidePages, KV::F32>(a, work, item);
    case KV::BF16: return attention_item<WidePages, KV::BF16>(a, work, item);
    case KV::I8: return attention_item<BytePages, KV::I8>(a, work, item);
  }
}

static void attention_join(const Attention& a, const AttentionItem& work) {
  const int group = a.heads / a.kv_heads, d = a.head_dim, rows = (work.q1 - work.q0) * group;
  for (int r = 0; r < rows; ++r) {
    alignas(64) float total[kMaxHeadDim] = {};
    float top = kNever, sum = 0;
    for (int segment = 0; segment < work.segment1; ++segment) {
      const float* from = work.partial + (static_cast<size_t>(segment) * rows + r) * (d + 16);
      join(top, sum, total, from[d], from[d + 1], from, d);
    }
    put_row(a, work.q0 + r / group, work.kv_head * group + r % group, total, top, sum);
  }
}
