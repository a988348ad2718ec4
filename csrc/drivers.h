// The operations that Python sees: they split the work over the pool and call the kernels in use.
// Arguments are checked by the caller (bind.cpp). Each takes the pool for itself while it runs.
#pragma once

#include "kernels.h"
#include "packed.h"

namespace qwick {

// y [m][w.n] = x [m][w.k] W^T + bias [w.n] (bias may be null); prompt: the rows may take `Kernels::matmul_many`
void matmul(const Packed& w, const float* x, int m, const float* bias, float* y, bool prompt);
// columns [m]: where the largest of the first n outputs of each row of x W^T stands, the first among equals; -1 where one of
// them is NaN or infinite. w: one matrix
void matmul_argmax(const Packed& w, const float* x, int m, int n, int32_t* columns);
// y [m][down.n] = (silu(x gate^T) * (x up^T)) down^T; gate_up: gate above up
void mlp(const Packed& gate_up, const Packed& down, const float* x, int m, float* y, bool prompt);
void gather_rows(const Source& w, const int32_t* ids, int count, float* out);  // out [count][w.k]
void unpack(const Packed& w, float* out);                                      // out [w.n][w.k]
void add_rms_norm(float* x, const float* delta, const float* weight, float eps, float* out, int rows, int n);
void rope_store(const RopeStore& args, int rows);
void attention(const Attention& args, int sequences);

double read_bandwidth(size_t bytes);  // bytes per second, all threads, best of several passes
double peak_rate();                   // operations per second of the matrix kernels' instruction
void set_threads(int threads);
int threads();

}  // namespace qwick
