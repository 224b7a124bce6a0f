// Root-mean-square norms, and what makes queries, keys and values of a residual stream.
#pragma once
#include "product.h"

namespace aa {

inline float sum_of_squares(const float* x, int64_t D) {
  F16 acc{};
  int64_t whole = D / LANES * LANES;
  for (int64_t j = 0; j < whole; j += LANES) acc += load(x + j) * load(x + j);
  if (whole < D) {
    F16 last = load_first(x + whole, D - whole);
    acc += last * last;
  }
  return fold(acc);
}

// out = x / sqrt(mean(x^2) + eps) * weight; out may be x.
inline void norm_row(const float* x, const float* weight, float eps, int64_t D, float* out) {
  float scale = 1.0f / std::sqrt(sum_of_squares(x, D) / (float)D + eps);
  for (int64_t j = 0; j < D; j++) out[j] = x[j] * scale * weight[j];
}

// x [2 * half and more] turned in place: element i with i + half.
inline void rotate(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; i++) {
    float a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

AA_INLINE void put(float* at, float value) { *at = value; }

AA_INLINE void put(uint16_t* at, float value) { *at = to_bf16_bits(value); }

// Keys [blocks, G, D, block_size] and values [blocks, G, block_size, D].
template <class Stored>
struct Cache {
  Stored *keys, *values;
  int64_t G, D, block_size;

  void write(int64_t slot, int64_t g, const float* key, const float* value) const {
    int64_t head = (slot / block_size * G + g) * D * block_size, offset = slot % block_size;
    for (int64_t d = 0; d < D; d++) put(keys + head + d * block_size + offset, key[d]);
    for (int64_t d = 0; d < D; d++) put(values + head + offset * D + d, value[d]);
  }
};

// Rows of one unit of work.
inline int64_t norm_rows(int64_t D) { return std::max<int64_t>(1, 4096 / D); }

// Rows x [T, K], normed, as a matrix takes them. Sets `nonfinite`.
inline Operand prepare_normed(const float* x, int64_t T, const float* weight, float eps, const aa_matrix& m,
                              std::atomic<bool>& nonfinite) {
  static Scratch floats, quantised;
  int64_t K = m.columns, each = norm_rows(K), stride = is_quantised(m) ? record_bytes(K, m.group) : 0;
  float* normed = floats.at_least<float>(T * K);
  uint8_t* records = quantised.at_least<uint8_t>(T * stride);
  parallel((T + each - 1) / each, [&](int64_t unit, int) {
    for (int64_t t = unit * each; t < std::min(T, (unit + 1) * each); t++) {
      norm_row(x + t * K, weight, eps, K, normed + t * K);
      if (stride && !quantise_row(normed + t * K, K, m.group, records + t * stride)) nonfinite = true;
    }
  });
  return stride ? Operand{records, stride} : Operand{(const uint8_t*)normed, K * (int64_t)sizeof(float)};
}

// What a projected row [(H + 2G) D] goes through on its way to q [H D] and the cache.
struct HeadFinish {
  const float* norm;  // [H + G, D]
  float eps;
  int64_t H;
  const float *cos, *sin;
  int64_t half;

  template <class Stored>
  void run(float* row, int64_t t, int64_t slot, const Cache<Stored>& cache, float* q) const {
    int64_t G = cache.G, D = cache.D;
    for (int64_t h = 0; h < H + G; h++) {
      norm_row(row + h * D, norm + h * D, eps, D, row + h * D);
      rotate(row + h * D, cos + t * half, sin + t * half, half);
    }
    memcpy(q, row, H * D * sizeof(float));
    for (int64_t g = 0; g < G; g++) cache.write(slot, g, row + (H + g) * D, row + (H + G + g) * D);
  }
};

// Rows of which neighbours in the cache are best written by one thread.
constexpr int64_t FINISH_ROWS = 8;

template <class Stored>
void finish_heads(const HeadFinish& finish, float* projected, int64_t T, const int64_t* slots, const Cache<Stored>& cache,
                  float* q) {
  int64_t query_width = finish.H * cache.D, width = query_width + 2 * cache.G * cache.D;
  parallel((T + FINISH_ROWS - 1) / FINISH_ROWS, [&](int64_t unit, int) {
    for (int64_t t = unit * FINISH_ROWS; t < std::min(T, (unit + 1) * FINISH_ROWS); t++)
      finish.run(projected + t * width, t, slots[t], cache, q + t * query_width);
  });
}

}  // namespace aa

extern "C" int aa_rms_norm(const float* x, const float* weight, int weight_rows, float eps, int64_t T, int64_t D, float* out) {
  using namespace aa;
  Call call;
  int64_t each = norm_rows(D), step = weight_rows == 1 ? 0 : D;
  parallel((T + each - 1) / each, [&](int64_t unit, int) {
    for (int64_t t = unit * each; t < std::min(T, (unit + 1) * each); t++)
      norm_row(x + t * D, weight + t * step, eps, D, out + t * D);
  });
  return AA_OK;
}

extern "C" int aa_query_key_value(const float* x, int64_t T, const float* input_norm, float eps, const aa_matrix* matrix,
                                  const float* head_norm, int64_t H, int64_t G, int64_t D, const float* cos,
                                  const float* sin, int64_t half, const int64_t* slots, void* keys, void* values,
                                  int cache_is_bf16, int64_t block_size, float* q) {
  using namespace aa;
  static Scratch scratch;
  Call call;
  std::atomic<bool> nonfinite{false};
  Operand rows = prepare_normed(x, T, input_norm, eps, *matrix, nonfinite);
  if (nonfinite) return AA_NONFINITE;
  float* projected = scratch.at_least<float>(T * matrix->rows);
  linear(*matrix, rows, T, nullptr, projected);
  HeadFinish finish{head_norm, eps, H, cos, sin, half};
  if (cache_is_bf16) {
    finish_heads<uint16_t>(finish, projected, T, slots, {(uint16_t*)keys, (uint16_t*)values, G, D, block_size}, q);
  } else {
    finish_heads<float>(finish, projected, T, slots, {(float*)keys, (float*)values, G, D, block_size}, q);
  }
  return AA_OK;
}
