// y = W x for blocks of 16 rows and tiles of tokens, as docs/exact-experts.md defines it.
#pragma once
#include <algorithm>
#include <atomic>

#include "abi.h"
#include "dot.h"
#include "pool.h"

namespace aa {

constexpr int ROW_BLOCK = 16;

inline bool is_quantised(const aa_matrix& m) { return m.bits < 16; }
inline int64_t groups_of(const aa_matrix& m) { return m.columns / m.group; }
inline int64_t row_blocks(const aa_matrix& m) { return (m.rows + ROW_BLOCK - 1) / ROW_BLOCK; }

// Rows that a matrix can be multiplied with: fp32 as they are, or quantised records of
// q_a int8 [K], s_a fp32 [K/G], sums of each group's q_a int32 [K/G].
struct Operand {
  const uint8_t* data;
  int64_t stride;

  const uint8_t* row(int64_t index) const { return data + index * stride; }
};

inline int64_t record_bytes(int64_t columns, int64_t group) { return (columns + columns / group * 8 + 63) / 64 * 64; }

// Writes group `g` of a record. False where x isn't finite.
inline bool quantise_group(const float* x, int64_t columns, int64_t group, int64_t g, uint8_t* record) {
  int8_t* q = (int8_t*)record + g * group;
  float* scale = (float*)(record + columns) + g;
  int32_t* sum_of_q = (int32_t*)(record + columns + columns / group * 4) + g;
  I16 top{};
  for (int64_t j = 0; j < group; j += LANES) top = max(top, bits(load(x + j)) & set(INT32_MAX));
  int32_t amax_bits = largest(top);
  float amax;
  memcpy(&amax, &amax_bits, sizeof amax);
  if (amax_bits >= 0x7f800000 || amax < 0x1p-100f) {
    memset(q, 0, group);
    *scale = 0;
    *sum_of_q = 0;
    return amax_bits < 0x7f800000;
  }
  F16 r = set(127.0f / amax);
  I16 total{};
  for (int64_t j = 0; j < group; j += LANES) {
    I16 rounded = nearest(load(x + j) * r);
    store_signed_bytes(q + j, rounded);
    total += rounded;
  }
  *scale = amax / 127.0f;
  *sum_of_q = sum(total);
  return true;
}

inline bool quantise_row(const float* x, int64_t columns, int64_t group, uint8_t* record) {
  bool finite = true;
  for (int64_t g = 0; g < columns / group; g++)
    if (!quantise_group(x + g * group, columns, group, g, record)) finite = false;
  return finite;
}

// Rows x [T, K] as a matrix takes them, quantised into scratch where it is quantised. Sets `nonfinite`.
inline Operand prepare(const float* x, int64_t T, const aa_matrix& m, Scratch& scratch, std::atomic<bool>& nonfinite) {
  int64_t K = m.columns, group = m.group;
  if (!is_quantised(m)) return {(const uint8_t*)x, K * (int64_t)sizeof(float)};
  int64_t stride = record_bytes(K, group);
  uint8_t* records = scratch.at_least<uint8_t>(T * stride);
  int64_t each = std::max<int64_t>(1, 4096 / K);  // rows per unit
  parallel((T + each - 1) / each, [&](int64_t unit, int) {
    for (int64_t t = unit * each; t < std::min(T, (unit + 1) * each); t++)
      if (!quantise_row(x + t * K, K, group, records + t * stride)) nonfinite.store(true, std::memory_order_relaxed);
  });
  return {records, stride};
}

// One block of a quantised matrix with N tokens: out[t * stride + row].
template <int BITS, int N>
void quantised_block(const aa_matrix& m, int64_t block, const uint8_t* const* rows, float* out, int64_t stride) {
  const int64_t K = m.columns, NG = groups_of(m), bytes = LANES * m.group * BITS / 8;
  const int group = m.group, partials = m.partials;
  const uint8_t* weights = m.weights + block * NG * bytes;
  const uint16_t* scales = (const uint16_t*)m.scales + block * NG * LANES;
  const int8_t* zeros = m.zeros ? (const int8_t*)m.zeros + block * NG * LANES : nullptr;
  const int8_t* q[N];
  for (int t = 0; t < N; t++) q[t] = (const int8_t*)rows[t];
  F16 sums[4][N] = {};
  for (int p = 0; p < partials; p++) {
    F16 acc[N] = {};
    for (int64_t g = p * NG / partials; g < (p + 1) * NG / partials; g++) {
      I16 dots[N];
      group_dots<BITS>(weights + g * bytes, q, g * group, group, dots);
      F16 scale = m.scale_is_fp16 ? load_fp16(scales + g * LANES) : load_bf16(scales + g * LANES);
      I16 offset{};
      if (zeros) offset = load_signed_bytes(zeros + g * LANES) + set(OFFSET<BITS> < 0 ? 0 : 1 << OFFSET<BITS>);
#pragma GCC unroll 8
      for (int t = 0; t < N; t++) {
        float row_scale = ((const float*)(rows[t] + K))[g];
        int32_t row_sum = ((const int32_t*)(rows[t] + K))[NG + g];
        if (zeros) {
          dots[t] = dots[t] - offset * set(row_sum);
        } else if (OFFSET<BITS> >= 0) {
          dots[t] = dots[t] - shift_left(set(row_sum), OFFSET<BITS>);
        }
        acc[t] += to_float(dots[t]) * (scale * set(row_scale));
      }
    }
    for (int t = 0; t < N; t++) sums[p][t] = acc[t];
  }
  for (int t = 0; t < N; t++) {
    F16 y = sums[0][t];
    if (partials > 1) y = y + sums[1][t];
    if (partials > 2) y = y + (sums[2][t] + sums[3][t]);
    store(out + t * stride, y);
  }
}

struct BF16 {
  using Stored = uint16_t;
  AA_INLINE static F16 load(const Stored* at) { return load_bf16(at); }
};
struct FP16 {
  using Stored = uint16_t;
  AA_INLINE static F16 load(const Stored* at) { return load_fp16(at); }
};
struct FP32 {
  using Stored = float;
  AA_INLINE static F16 load(const Stored* at) { return aa::load(at); }
};

// R rows of floats with N tokens: 16 partial sums each.
template <class Weight, int R, int N>
AA_INLINE void float_rows(const typename Weight::Stored* w, int64_t K, const uint8_t* const* rows, float* out, int64_t stride) {
  F16 acc[R][N] = {};
  int64_t whole = K / LANES * LANES;
  auto add = [&](const F16(&weights)[R], const F16(&x)[N]) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int t = 0; t < N; t++) acc[r][t] += x[t] * weights[r];
  };
  F16 weights[R], x[N];
  for (int64_t j = 0; j < whole; j += LANES) {
    for (int r = 0; r < R; r++) weights[r] = Weight::load(w + r * K + j);
    for (int t = 0; t < N; t++) x[t] = load((const float*)rows[t] + j);
    add(weights, x);
  }
  if (whole < K) {
    for (int r = 0; r < R; r++) {
      typename Weight::Stored last[LANES] = {};
      memcpy(last, w + r * K + whole, (K - whole) * sizeof last[0]);
      weights[r] = Weight::load(last);
    }
    for (int t = 0; t < N; t++) x[t] = load_first((const float*)rows[t] + whole, K - whole);
    add(weights, x);
  }
  for (int r = 0; r < R; r++)
    for (int t = 0; t < N; t++) out[t * stride + r] = fold(acc[r][t]);
}

template <class Weight, int N>
AA_INLINE void float_block(const aa_matrix& m, int64_t block, const uint8_t* const* rows, float* out, int64_t stride) {
  auto w = (const typename Weight::Stored*)m.weights + block * ROW_BLOCK * m.columns;
  int64_t count = std::min<int64_t>(ROW_BLOCK, m.rows - block * ROW_BLOCK), r = 0;
  constexpr int R = N == 1 ? 4 : 2;
  for (; r + R <= count; r += R) float_rows<Weight, R, N>(w + r * m.columns, m.columns, rows, out + r, stride);
  for (; r < count; r++) float_rows<Weight, 1, N>(w + r * m.columns, m.columns, rows, out + r, stride);
}

template <class Weight>
void float_tile(const aa_matrix& m, int64_t block, const uint8_t* const* rows, int count, float* out, int64_t stride) {
  int t = 0;
  for (; t + 2 <= count; t += 2) float_block<Weight, 2>(m, block, rows + t, out + t * stride, stride);
  if (t < count) float_block<Weight, 1>(m, block, rows + t, out + t * stride, stride);
}

template <int BITS>
void quantised_tile(const aa_matrix& m, int64_t block, const uint8_t* const* rows, int count, float* out, int64_t stride) {
  if (count == 1) return quantised_block<BITS, 1>(m, block, rows, out, stride);
  if (count == 2) return quantised_block<BITS, 2>(m, block, rows, out, stride);
  constexpr int MOST = TILE;
  constexpr int SMALL = TILE / 2 < 4 ? TILE : 4;
  if (count == MOST) return quantised_block<BITS, MOST>(m, block, rows, out, stride);
  // Missing tokens are the last one again, and their results are dropped.
  const uint8_t* filled[MOST];
  float results[MOST * ROW_BLOCK];
  for (int t = 0; t < MOST; t++) filled[t] = rows[std::min(t, count - 1)];
  if (count <= SMALL) {
    quantised_block<BITS, SMALL>(m, block, filled, results, ROW_BLOCK);
  } else {
    quantised_block<BITS, MOST>(m, block, filled, results, ROW_BLOCK);
  }
  for (int t = 0; t < count; t++) memcpy(out + t * stride, results + t * ROW_BLOCK, sizeof(float) * ROW_BLOCK);
}

// Rows 16 * block and on of W x for 1 to TILE tokens: out[t * stride + row]. Rows that W lacks are not written.
inline void product(const aa_matrix& m, int64_t block, const uint8_t* const* rows, int count, float* out, int64_t stride) {
  if (m.bits == 4) return quantised_tile<4>(m, block, rows, count, out, stride);
  if (m.bits == 8) return quantised_tile<8>(m, block, rows, count, out, stride);
  if (m.bits == 32) return float_tile<FP32>(m, block, rows, count, out, stride);
  if (m.scale_is_fp16) return float_tile<FP16>(m, block, rows, count, out, stride);
  float_tile<BF16>(m, block, rows, count, out, stride);
}

// How many blocks make a unit of work: enough units to share, and weights that stay in the second-level cache. With few
// tokens units are small, so that no thread waits long for the last one.
inline int64_t blocks_per_unit(const aa_matrix& m, int64_t T) {
  int64_t bytes = ROW_BLOCK * m.columns * m.bits / 8;
  int64_t shared = row_blocks(m) / ((T <= TILE ? 32 : 8) * threads());
  return std::max<int64_t>(1, std::min({shared, (int64_t)(128 << 10) / bytes, (int64_t)16}));
}

// Tokens of one unit of work.
constexpr int64_t CHUNK = 32 * TILE;

// out = W x (+ residual) for rows [T, K]: out [T, N].
inline void linear(const aa_matrix& m, const Operand& x, int64_t T, const float* residual, float* out) {
  int64_t each = blocks_per_unit(m, T), spans = (row_blocks(m) + each - 1) / each, chunks = (T + CHUNK - 1) / CHUNK;
  parallel(spans * chunks, [&](int64_t unit, int) {
    int64_t first = unit % spans * each, last = std::min(first + each, row_blocks(m));
    int64_t end = std::min(T, (unit / spans + 1) * CHUNK);
    for (int64_t t = unit / spans * CHUNK; t < end; t += TILE) {
      int count = (int)std::min<int64_t>(TILE, end - t);
      const uint8_t* rows[TILE];
      for (int i = 0; i < count; i++) rows[i] = x.row(t + i);
      for (int64_t block = first; block < last; block++)
        product(m, block, rows, count, out + t * m.rows + block * ROW_BLOCK, m.rows);
      if (!residual) continue;
      for (int i = 0; i < count; i++)
        for (int64_t n = first * ROW_BLOCK; n < std::min(m.rows, last * ROW_BLOCK); n++)
          out[(t + i) * m.rows + n] = residual[(t + i) * m.rows + n] + out[(t + i) * m.rows + n];
    }
  });
}

}  // namespace aa
