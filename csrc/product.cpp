#include "product.h"

namespace qwick {

bool takes_many(int m, bool prompt) { return kernels().matmul_many && (prompt || m > kernels().few); }

unsigned forms_of(const Packed& w, bool many) {
  unsigned forms = 0;
  for (const Segment& s : w.segments())
    forms |= (many ? kernels().many_forms : kernels().forms).of(s.kind);
  return forms & ~kFormF32;
}

namespace {
size_t i8_bytes(int m, int k, unsigned forms) {
  return forms & kFormI8 ? rounded(static_cast<size_t>(m) * (k / kGroup) * kRowGroupBytes) : 0;
}
int even(int k) { return (k + 31) / 32 * 32; }
}  // namespace

size_t form_bytes(int m, int k, unsigned forms) {
  const size_t bf16 = forms & kFormBF16 ? rounded(static_cast<size_t>(m) * even(k) * sizeof(uint16_t)) : 0;
  return i8_bytes(m, k, forms) + bf16;
}

Rows place_rows(uint8_t* at, const float* x, int m, int k, unsigned forms) {
  Rows rows{m, k, x, nullptr, nullptr, even(k)};
  if (forms & kFormI8) rows.bytes = at;
  if (forms & kFormBF16) rows.bf16 = reinterpret_cast<uint16_t*>(at + i8_bytes(m, k, forms));
  return rows;
}

Panels::Panels(Pool& pool, bool many, int m, int k, size_t extra) : extra(rounded(extra)) {
  apart = (many ? rounded(kernels().many_bytes(m, k)) : 0) + this->extra;
  if (apart) at = static_cast<uint8_t*>(pool.scratch(kPanels, apart * pool.threads()));
}

void Product::tiles(int thread, const Segment& s, int t0, int t1, int r0, int r1, const Output& out) const {
  if (many) return kernels().matmul_many(s, t0, t1, rows, out, panels.panel(thread));
  Rows some = rows;
  some.m = r1 - r0;
  if (rows.x) some.x += static_cast<size_t>(r0) * rows.k;
  if (rows.bytes) some.bytes = rows.group(r0, 0, kRowBlock);
  kernels().matmul(s, t0, t1, some, out);
}

TileItems::TileItems(const Packed& w, bool many, int threads) : w_(w) {
  constexpr int kMostTiles = 8;
  const int share = w.n() / kTile / (8 * threads);
  each_ = many ? std::min(std::max(share, 2), kMostTiles) : 2;
  for (const Segment& s : w.segments()) {
    first_.push_back(count_);
    count_ += (s.tiles + each_ - 1) / each_;
  }
}

void GateAndUp::items(const Product& product, int thread, Range mine, const Rows& inner, float* floats) const {
  const int m = product.rows.m, most = product.many ? m : std::min(m, kRows);
  float* both = product.panels.own(thread);
  for (int i = mine.begin; i < mine.end; ++i) {
    const int t0 = i * kTiles, t1 = std::min(t0 + kTiles, gate_.tiles), column = t0 * kTile;
    const int width = std::min(kWidth, gate_.n - column);
    Segment left = gate_, right = up_;
    left.first = -column;  // so that the tiles' columns begin at 0 and at kWidth
    right.first = kWidth - column;
    for (int r0 = 0; r0 < m; r0 += most) {
      const int r1 = std::min(r0 + most, m);
      product.tiles(thread, left, t0, t1, r0, r1, {both, 2 * kWidth, nullptr});
      product.tiles(thread, right, t0, t1, r0, r1, {both, 2 * kWidth, nullptr});
      float* out = floats ? floats + static_cast<size_t>(r0) * gate_.n + column : both;
      kernels().swiglu(both, 2 * kWidth, kWidth, out, floats ? gate_.n : 2 * kWidth, r1 - r0, width);
      if (!floats)
        kernels().quantize(both, 2 * kWidth, inner, r0, r1, column / kGroup, (column + width) / kGroup);
    }
  }
}

InnerForms::InnerForms(const Packed& down, bool many) : forms(forms_of(down, many)) {
  const auto& parts = down.segments();
  direct = forms == kFormI8 && std::all_of(parts.begin(), parts.end(), [](const Segment& s) { return is_integer(s.kind); });
}

std::string label_of(const char* what, const Packed& w) {
  std::string name = std::string(what) + " " + std::to_string(w.n()) + "x" + std::to_string(w.k());
  char separator = ' ';
  for (const Segment& s : w.segments()) name += separator + std::string(kind_name(s.kind)), separator = '+';
  return name;
}
double product_bytes(const Packed& w, int m, int outputs) {
  return w.bytes() + sizeof(float) * static_cast<double>(m) * (w.k() + outputs);
}
double product_operations(const Packed& w, int m) { return 2.0 * m * w.n() * w.k(); }

}  // namespace qwick
