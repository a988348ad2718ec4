// The contract between the drivers (drivers.cpp) and one instruction set.
//
// Every isa/*.cpp exports exactly one constant `Kernels` table. A driver splits the work into ranges, gives
// each thread a range and calls the table; a table entry works alone on its range, allocates nothing and
// knows no threads. Shapes are written [rows][columns], row-major.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qwick {

// ---- packed weights -------------------------------------------------------------------------------------
// A matrix W[n][k] is cut into tiles of 16 output rows. One layout serves every instruction set: a tile's 16
// rows are one 512-bit, two 256-bit or four 128-bit vectors of 32-bit lanes. Packing moves bits and never
// rounds: a packed matrix decodes to exactly the values of the stored one.
constexpr int kTile = 16;
constexpr int kGroup = 32;        // k per integer dot product and per scale
constexpr int kSuper = 256;       // k per second-level scale (the "K" formats)

enum class Kind : int { I4, I5, I6, I8, BF16, F16, F32 };
constexpr int kKinds = 7;

// Quants of a tile, integer kinds. Step t of a group (t = 0..7) is 64 bytes: byte 4 * row + b holds
// k = 4 * t + b, the operand order of a 4-way 8-bit dot product. Planes per group of 32 k x 16 rows:
//   I4   4 x 64 B: vector j holds step 2j in its low nibbles and step 2j + 1 in its high nibbles
//   I5   the I4 planes, then 64 B whose bit t is the fifth bit of step t
//   I6   the I4 planes, then 2 x 64 B: vector j holds the two high bits of steps 4j .. 4j + 3
//   I8   8 x 64 B, value + 128
// Scales of a tile follow its quants:
//   I5, I8   per group: f16 scale[16]                      w = scale * (q - 16 | 128)
//   I4       per group: u8 scale[16], u8 min[16]; then per 256: f16 d[16], f16 dmin[16]
//                                                          w = d * scale * q - dmin * min
//   I6       per group: i8 scale[2][16] (k 0..15, 16..31); then per 256: f16 d[16]
//                                                          w = d * scale * (q - 32)
// Float kinds: [k][16] elements.
constexpr int quant_bytes(Kind kind) {  // per group and tile
  return kind == Kind::I4 ? 256 : kind == Kind::I5 ? 320 : kind == Kind::I6 ? 384 : 512;
}
constexpr bool is_integer(Kind kind) { return kind <= Kind::I8; }
constexpr int zero_point(Kind kind) {
  return kind == Kind::I5 ? 16 : kind == Kind::I6 ? 32 : kind == Kind::I8 ? 128 : 0;
}

struct Segment {           // one stored matrix inside a packed one
  Kind kind;
  int n, k;                // n: its output rows; k: columns
  int tiles;               // ceil(n / 16); rows past n are zero
  int first;               // its first column in the output
  size_t tile_bytes;       // a multiple of 64
  const uint8_t* data;     // 64-byte aligned

  const uint8_t* tile(int t) const { return data + t * tile_bytes; }
  const uint8_t* scales(int t) const {  // integer kinds
    return tile(t) + static_cast<size_t>(k / kGroup) * quant_bytes(kind);
  }
};

// ---- activations ----------------------------------------------------------------------------------------
// Rows of x in the forms that a kernel may ask for.
enum Form : unsigned { kFormF32 = 1, kFormI8 = 2, kFormBF16 = 4 };

struct Rows {
  int m, k;
  const float* x;     // [m][k]
  int8_t* q;          // [m][k] round(x / scale), scale = max|x| of the group / 127
  float* scale;       // [m][k / 32]
  int32_t* sums;      // [m][k / 16] sums of q
  uint16_t* bf16;     // [m][k_even], k rounded up to 32 and zero-filled
  int k_even;
};

struct Output {
  float* y;           // [m][ld]
  int ld;
  const float* bias;  // [ld] or null
};

// ---- attention ------------------------------------------------------------------------------------------
// Keys are stored [page][kv_head][head_dim][kPage], values [page][kv_head][kPage][head_dim], so that both
// products run over contiguous vectors without a horizontal sum.
constexpr int kPage = 32;

struct Attention {
  const float* q;          // [n][q_stride], head h at h * head_dim
  int q_stride;
  float* out;              // [n][heads * head_dim]
  int heads, kv_heads, head_dim;
  const void *keys, *values;  // one layer's pages
  bool bf16;               // else float32
  const int32_t* pages;    // [s][pages_stride]
  int pages_stride;
  const int32_t* starts;   // [s + 1]
  const int32_t* positions;  // [n]
  float scale;             // 1 / sqrt(head_dim)
};

struct RopeStore {
  float* qkv;              // [n][(heads + 2 * kv_heads) * head_dim]; q and k are rotated in place
  int heads, kv_heads, head_dim;
  const float *cos, *sin;  // [positions][head_dim / 2]
  const int32_t *positions, *slots;  // [n]
  const float *q_norm, *k_norm;      // [head_dim] or null
  float eps;
  void *keys, *values;
  bool bf16;
};

constexpr int kMaxSmallRows = 4;  // `small` takes up to this many rows
constexpr int kMaxHeadDim = 256;
constexpr int kMaxQueryRows = 64; // rows of one attention item

struct Kernels {
  const char* name;
  unsigned needs;          // bits of cpu.h
  bool selectable;         // false: only when forced (an emulation for tests)
  unsigned small_forms[kKinds], panel_forms[kKinds];
  size_t (*panel_bytes)(int k);  // scratch per thread for `panel`

  // rows r0..r1-1 of x into the forms asked for
  void (*prepare)(const Rows& rows, int r0, int r1, unsigned forms);
  // y[0..m)[tiles t0..t1) = x W^T + bias, m <= kMaxSmallRows: weights decoded in registers
  void (*small)(const Segment& w, int t0, int t1, const Rows& x, const Output& out);
  // the same for many rows: two tiles at a time are decoded into scratch, then used for all rows
  void (*panel)(const Segment& w, int t0, int t1, const Rows& x, const Output& out, void* scratch);

  // x += delta (when given); out = x / rms(x) * weight
  void (*add_rms_norm)(float* x, const float* delta, const float* weight, float eps, float* out, int rows,
                       int n);
  void (*swiglu)(const float* gate_up, float* out, int rows, int n);  // [rows][2n] -> [rows][n]
  void (*rope_store)(const RopeStore& a, int r0, int r1);
  // queries q0..q1-1 (rows of the batch, all of sequence s) against one key head;
  // (q1 - q0) * heads / kv_heads <= kMaxQueryRows
  void (*attention)(const Attention& a, int s, int kv_head, int q0, int q1, float* scratch);
  size_t attention_scratch;  // floats per thread

  // measuring the machine: bytes summed; multiply-adds done, 8-bit or the fastest this table has
  uint64_t (*read)(const uint8_t* p, size_t bytes);
  double (*busy)(int64_t rounds);
};

extern const Kernels kScalar;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvxVnni, kAvx512Vnni, kAmx, kAmxEmulated;
#endif

}  // namespace qwick
