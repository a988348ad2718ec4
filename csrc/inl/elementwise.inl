// Norm, SwiGLU and RoPE, one row at a time. Included inside an ISA's namespace.

// e^x to about 2 ulp for x in [-87, 88], clamped to that range; NaN stays NaN (x is the second operand on purpose:
// the instructions return it when either is NaN).
// x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts keeps r exact; minimax polynomial of Cephes' expf.
QWICK_INLINE F32 exp(F32 x) {
  x = min(set1(88.0f), max(set1(-87.0f), x));
  const F32 n = whole(mul(x, set1(1.44269504088896341f)));
  F32 r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  F32 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(mul(p, r), r, add(r, set1(1.0f)));
  return times_power(p, n);
}

// x / (1 + e^-x)
QWICK_INLINE F32 silu(F32 x) { return div(x, add(set1(1.0f), exp(sub(set1(0.0f), x)))); }

static float square_sum(const float* x, int n) {
  F32 a = set1(0.0f), b = a;
  int i = 0;
  for (; i + 32 <= n; i += 32) {
    const F32 u = load(x + i), v = load(x + i + 16);
    a = fma(u, u, a);
    b = fma(v, v, b);
  }
  for (; i < n; i += 16) {
    const F32 u = load_some(x + i, n - i < 16 ? n - i : 16);
    a = fma(u, u, a);
  }
  return reduce_add(add(a, b));
}

static void scale_by(const float* x, const float* weight, float factor, float* out, int n) {
  const F32 f = set1(factor);
  int i = 0;
  for (; i + 16 <= n; i += 16) store(out + i, mul(mul(load(x + i), f), load(weight + i)));
  if (i < n) store_some(out + i, mul(mul(load_some(x + i, n - i), f), load_some(weight + i, n - i)), n - i);
}

static void add_rms_norm(float* x, const float* delta, const float* weight, float eps, float* out, int rows,
                         int n) {
  for (int r = 0; r < rows; ++r, x += n, out += n) {
    if (delta) {
      int i = 0;
      for (; i + 16 <= n; i += 16) store(x + i, add(load(x + i), load(delta + i)));
      if (i < n) store_some(x + i, add(load_some(x + i, n - i), load_some(delta + i, n - i)), n - i);
      delta += n;
    }
    const float mean = square_sum(x, n) / static_cast<float>(n);
    scale_by(x, weight, 1.0f / __builtin_sqrtf(mean + eps), out, n);
  }
}

static void swiglu(const float* gate_up, int ld, int apart, float* out, int out_ld, int rows, int n) {
  for (int r = 0; r < rows; ++r, gate_up += ld, out += out_ld) {
    const float* up = gate_up + apart;
    int i = 0;
    for (; i + 16 <= n; i += 16) store(out + i, mul(silu(load(gate_up + i)), load(up + i)));
    if (i < n) store_some(out + i, mul(silu(load_some(gate_up + i, n - i)), load_some(up + i, n - i)), n - i);
  }
}

static void argmax(const float* y, int ld, int rows, int n, int first, Best* best) {
  for (int r = 0; r < rows; ++r, y += ld, ++best) {
    F32 top = set1(-__builtin_inff()), poison = set1(0.0f);  // 0 times what is not finite is NaN
    int i = 0;
    for (; i + 16 <= n; i += 16) {
      const F32 v = load(y + i);
      top = max(top, v);
      poison = fma(v, set1(0.0f), poison);
    }
    float largest = reduce_max(top), sum = reduce_add(poison);
    for (; i < n; ++i) {
      largest = y[i] > largest ? y[i] : largest;
      sum += y[i] * 0.0f;
    }
    if (sum != sum) best->finite = false;
    // Ranges come in any order, so an equal value may also stand before the one that was found.
    if (!(largest >= best->value) || (largest == best->value && first > best->column)) continue;
    best->value = largest;
    best->column = first;
    for (i = 0; i < n; ++i)
      if (y[i] == largest) {
        best->column += i;
        break;
      }
  }
}

// "NeoX" rotation: component i is paired with i + head_dim / 2.
static void rotate(float* head, const float* cos, const float* sin, int half) {
  for (int i = 0; i < half; i += 16) {
    const int n = half - i < 16 ? half - i : 16;
    const F32 a = load_some(head + i, n), b = load_some(head + half + i, n);
    const F32 c = load_some(cos + i, n), s = load_some(sin + i, n);
    store_some(head + i, sub(mul(a, c), mul(b, s)), n);
    store_some(head + half + i, add(mul(b, c), mul(a, s)), n);
  }
}

// One key and value into a page of float32: the key as a column (components kPage apart), the value as a row.
static void store_slot(float* keys, float* values, size_t offset, int d, const float* key, const float* value) {
  for (int i = 0; i < d; ++i) keys[i * kPage + offset] = key[i];
  for (int i = 0; i < d; i += 16) store(values + offset * d + i, load(value + i));
}

// The same into a page of bf16: components in pairs, tokens in pairs.
static void store_slot(uint16_t* keys, uint16_t* values, size_t offset, int d, const float* key, const float* value) {
  uint16_t k[kMaxHeadDim], v[kMaxHeadDim];
  for (int i = 0; i < d; i += 16) {
    store_bf16(k + i, load(key + i));
    store_bf16(v + i, load(value + i));
  }
  for (int i = 0; i < d; ++i) keys[i / 2 * 2 * kPage + 2 * offset + i % 2] = k[i];
  for (int i = 0; i < d; ++i) values[offset / 2 * 2 * d + 2 * i + offset % 2] = v[i];
}

// Rounds n floats to bytes under one scale; returns the largest magnitude.
static float round_slot(const float* x, int n, int8_t* to) {
  float amax = 0;
  for (int i = 0; i < n; i += 32) {
    const float top = largest(load(x + i), load(x + i + 16));
    if (top > amax || top != top) amax = top;  // a NaN stays: nothing is above it
  }
  const F32 inverse = inverse_scale(amax);
  for (int i = 0; i < n; i += 16) store_i8(to + i, rounded(load(x + i), inverse, amax));
  return amax;
}

// One key and value into a page of 8-bit numbers.
static void store_slot(uint8_t* keys, uint8_t* values, size_t offset, int d, const float* key, const float* value) {
  int8_t q[kMaxHeadDim];
  float* scales = reinterpret_cast<float*>(keys + kPage * d) + offset;
  for (int g = 0; g < d; g += kGroup) {
    scales[g / kGroup * kPage] = round_slot(key + g, kGroup, q + g) / 127.0f;
  }
  for (int i = 0; i < d; ++i) keys[i / 4 * 4 * kPage + 4 * offset + i % 4] = static_cast<uint8_t>(q[i]) ^ 0x80;
  const float amax = round_slot(value, d, q);
  for (int i = 0; i < d; ++i) values[offset / 4 * 4 * d + 4 * i + offset % 4] = static_cast<uint8_t>(q[i]);
  // Of zeros too: the larger it is, the more their tokens' weights, which are bytes, crowd out those of others.
  const float scale = (amax < kLeastRounded ? kLeastRounded : amax) / 127.0f;
  float* of_values = reinterpret_cast<float*>(values + kPage * d) + offset;
  of_values[0] = __builtin_log2f(scale);
  of_values[kPage] = 1.0f / scale;
}

template <class T>
static void store_in(const RopeStore& a, size_t page, size_t offset, const float* key, const float* value) {
  uint8_t* keys = static_cast<uint8_t*>(a.keys) + page * key_page_bytes(a.kv, a.head_dim);
  uint8_t* values = static_cast<uint8_t*>(a.values) + page * value_page_bytes(a.kv, a.head_dim);
  store_slot(reinterpret_cast<T*>(keys), reinterpret_cast<T*>(values), offset, a.head_dim, key, value);
}

static void store_key_value(const RopeStore& a, int slot, int head, const float* key, const float* value) {
  const size_t page = static_cast<size_t>(slot / kPage) * a.kv_heads + head, offset = slot % kPage;
  switch (a.kv) {
    case KV::F32: return store_in<float>(a, page, offset, key, value);
    case KV::BF16: return store_in<uint16_t>(a, page, offset, key, value);
    case KV::I8: return store_in<uint8_t>(a, page, offset, key, value);
  }
}

static void rope_store(const RopeStore& a, int r0, int r1) {
  const int d = a.head_dim, half = d / 2;
  for (int r = r0; r < r1; ++r) {
    float* row = a.qkv + r * a.stride;
    const float* cos = a.cos + static_cast<size_t>(a.positions[r]) * half;
    const float* sin = a.sin + static_cast<size_t>(a.positions[r]) * half;
    for (int h = 0; h < a.heads + a.kv_heads; ++h) {
      float* head = row + static_cast<size_t>(h) * d;
      const float* norm = h < a.heads ? a.q_norm : a.k_norm;
      if (norm) scale_by(head, norm, 1.0f / __builtin_sqrtf(square_sum(head, d) / d + a.eps), head, d);
      rotate(head, cos, sin, half);
    }
    for (int h = 0; h < a.kv_heads; ++h)
      store_key_value(a, a.slots[r], h, row + static_cast<size_t>(a.heads + h) * d,
                      row + static_cast<size_t>(a.heads + a.kv_heads + h) * d);
  }
}
