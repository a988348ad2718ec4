// The contract between the drivers (drivers.cpp) and one instruction set.
//
// Every isa/*.cpp exports exactly one constant `Kernels` table. A driver splits the work into ranges, gives
// each thread a range and calls the table; a table entry works alone on its range, allocates nothing and
// knows no threads. Shapes are written [rows][columns], row-major.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kinds.h"

namespace qwick {

// ---- packed weights (their layout: kinds.h) --------------------------------------------------------------
struct Segment {           // one stored matrix inside a packed one
  Kind kind;
  int n, k;                // n: its output rows; k: columns
  int tiles;               // ceil(n / 16); rows past n are zero
  int first;               // its first column in the output
  size_t tile_bytes;       // a multiple of 64
  const uint8_t* data;     // 64-byte aligned

  const uint8_t* tile(int t) const { return data + t * tile_bytes; }
  const uint8_t* scales(int t) const {  // integer classes
    return tile(t) + static_cast<size_t>(k / kGroup) * quant_bytes(kind);
  }
  const uint8_t* supers(int t) const { return scales(t) + static_cast<size_t>(k / kGroup) * scale_bytes(kind); }
};

// ---- activations ----------------------------------------------------------------------------------------
// Rows of x in the forms that a kernel may ask for.
enum Form : unsigned { kFormF32 = 1, kFormI8 = 2, kFormBF16 = 4 };

struct Forms {  // of x, by what it is multiplied with
  Form integer = kFormI8, bf16 = kFormF32;

  Form of(Kind kind) const { return is_integer(kind) ? integer : kind == Kind::BF16 ? bf16 : kFormF32; }
};

// The 8-bit form goes by blocks of kRowBlock rows (the last may have fewer), R rows each, group after group, so that a
// kernel walks through all that it needs with one pointer. Per group:
//   i8  quants [8 steps][R][4]  round(x / scale); 0 where the scale is not finite
//   f32 scale [R]               max|x| of the group / 127
//   i32 start16 [R], start128 [R]  minus the sum of the quants times a zero point, where integer sums start
//   f32 minus [R]               minus the sum of the quants: what a stored minimum is multiplied with
//   i32 start32 [2][R]          times 32, for k 0..15 and 16..31
// A group whose max|x| is smaller has quants of 0: 127 / max|x| shall be finite, and so shall sums of it, which are taken
// over the tokens of 8-bit pages (255 * 127 / 2^-100 for each of 2^12 tokens is 2^127).
constexpr float kLeastRounded = 0x1p-100f;
constexpr int kRowBlock = 8;
constexpr size_t kRowGroupBytes = kGroup + 6 * 4;  // of one row

struct Rows {
  int m, k;
  const float* x;     // [m][k]
  uint8_t* bytes;     // the 8-bit form
  uint16_t* bf16;     // [m][k_even], k rounded up to 32 and zero-filled
  int k_even;

  int groups() const { return k / kGroup; }
  // Group g of the block of R rows that begins at row `first`.
  uint8_t* group(int first, int g, int R) const {
    return bytes + (static_cast<size_t>(first) * groups() + static_cast<size_t>(g) * R) * kRowGroupBytes;
  }
};

struct Output {
  float* y;           // [m][ld]
  int ld;
  const float* bias;  // [ld] or null
};

// ---- attention ------------------------------------------------------------------------------------------
// Pages of kPage tokens, a layer's keys and its values apart; per page and key head:
//   F32         keys [head_dim][kPage], values [kPage][head_dim], so that both products run over contiguous vectors
//               without a horizontal sum
//   BF16        keys [head_dim / 2][kPage][2], values [kPage / 2][head_dim][2]: the operand order of a dot product of pairs
//   I8          keys: quant + 128 [head_dim / 4][kPage][4], then f32 scale [head_dim / 32][kPage]
//               values: quant [kPage / 4][head_dim][4] (signed), then f32 log2(scale) [kPage], f32 1 / scale [kPage]
//               The operand order of the 8-bit dot product. A scale is max|x| / 127 over 32 components of a
//               key, or over all of a value (1 where all are zero).
constexpr int kPage = 32;
constexpr int kSegment = 16;  // pages whose attention is summed before it is joined to the rest

enum class KV : int { F32, BF16, I8 };
constexpr size_t key_page_bytes(KV kv, int head_dim) {
  return static_cast<size_t>(kPage) * (kv == KV::I8 ? head_dim + head_dim / kGroup * 4 : head_dim * (kv == KV::F32 ? 4 : 2));
}
constexpr size_t value_page_bytes(KV kv, int head_dim) {
  return static_cast<size_t>(kPage) * (kv == KV::I8 ? head_dim + 8 : head_dim * (kv == KV::F32 ? 4 : 2));
}

struct Attention {
  const float* q;          // [n][q_stride], head h at h * head_dim
  int q_stride;
  float* out;              // [n][heads * head_dim]
  int heads, kv_heads, head_dim;
  const void *keys, *values;  // one layer's pages
  KV kv;
  const int32_t* pages;    // [s][pages_stride]
  int pages_stride;
  const int32_t* starts;   // [s + 1]
  const int32_t* positions;  // [n]
  float scale;             // 1 / sqrt(head_dim)
  float* sums;             // [n][heads] ln of the sum of e^score, or null
};

// Queries q0..q1-1 (rows of the batch, all of one sequence) against one key head, over some segments of its tokens.
struct AttentionItem {
  int sequence, kv_head, q0, q1;
  int segment0, segment1;
  float* partial;          // null when all segments are here: results go to `out`. Else [segment][row][head_dim + 16]:
                           // weighted values, largest score, sum of weights, to be joined when all are there
};

struct RopeStore {
  float* qkv;              // [n][stride]: heads, then keys, then values; q and k are rotated in place
  size_t stride;
  int heads, kv_heads, head_dim;  // no kv_heads: queries alone, and nothing is stored
  const float *cos, *sin;  // [positions][head_dim / 2]
  const int32_t *positions, *slots;  // [n]
  const float *q_norm, *k_norm;      // [head_dim] or null
  float eps;
  void *keys, *values;
  KV kv;
};

constexpr int kMaxHeadDim = 256;
constexpr int kMaxQueryRows = 64; // rows of one attention item

// The largest of a row's outputs so far, the first among equals.
struct Best {
  float value = -__builtin_inff();
  int32_t column = 0;
  bool finite = true;  // all that were seen
};

struct Kernels {
  const char* name;
  unsigned needs;          // bits of cpu.h
  bool selectable;         // false: only when forced (an emulation for tests)
  Forms forms;             // of x, for `matmul`

  // rows r0..r1-1 of x into the forms asked for; r0 begins a block of kRowBlock, r1 ends one
  void (*prepare)(const Rows& rows, int r0, int r1, unsigned forms);
  // the groups g0..g1-1 of these rows into the 8-bit form; x: row r0 from group g0 on, rows ld apart
  void (*quantize)(const float* x, size_t ld, const Rows& rows, int r0, int r1, int g0, int g1);
  // y[0..m)[tiles t0..t1) = x W^T + bias: weights decoded in registers
  void (*matmul)(const Segment& w, int t0, int t1, const Rows& x, const Output& out);

  // x += delta (when given); out = x / rms(x) * weight
  void (*add_rms_norm)(float* x, const float* delta, const float* weight, float eps, float* out, int rows,
                       int n);
  // out[r][0..n) = silu(gate) * up; gate at gate_up[r * ld], up `apart` later; rows of out `out_ld` apart; out may be
  // where gate is
  void (*swiglu)(const float* gate_up, int ld, int apart, float* out, int out_ld, int rows, int n);
  void (*rope_store)(const RopeStore& a, int r0, int r1);
  // best[r] of row r, whose columns first..first + n - 1 are at y[r * ld]
  void (*argmax)(const float* y, int ld, int rows, int n, int first, Best* best);
  // (q1 - q0) * heads / kv_heads <= kMaxQueryRows; scratch: attention_scratch bytes, 64-byte aligned
  void (*attention)(const Attention& a, const AttentionItem& item, void* scratch);
  void (*attention_join)(const Attention& a, const AttentionItem& item);  // over the segments 0..segment1-1
  size_t attention_scratch;

  // measuring the machine: bytes summed; multiply-adds done, 8-bit or the fastest this table has
  uint64_t (*read)(const uint8_t* p, size_t bytes);
  double (*busy)(int64_t rounds);

  // Another way, or null: for the rows of prompts, and for more than `few` rows of answers. Tiles are turned into
  // panels in scratch of many_bytes(m, k) per thread, which all rows use.
  int few;
  Forms many_forms;
  size_t (*many_bytes)(int m, int k);
  void (*matmul_many)(const Segment& w, int t0, int t1, const Rows& x, const Output& out, void* scratch);
};
constexpr int kAnyRows = 1 << 30;

extern const Kernels kScalar;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvxVnni, kAvx512Vnni, kAvx512Bf16, kAmx, kAmxEmulated, kAvxVnniEmulated;
#elif defined(__aarch64__)
extern const Kernels kNeon, kNeonDot, kNeonI8mm;
#endif

}  // namespace qwick
