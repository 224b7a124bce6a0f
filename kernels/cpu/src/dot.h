// Integer dots of 16 interleaved rows with the quantised activations of up to TILE tokens, over one group of columns.
// The bytes of a matrix are described in kernels/formats/matrix.py.
#pragma once
#include "vec.h"

namespace aa {

#if defined(AA_AVX512)
constexpr int TILE = 8;
#else
constexpr int TILE = 4;
#endif

#if defined(AA_VNNI) || defined(AA_NEON)
#define AA_DOT4
#endif

// Weights enter as q + 2^OFFSET; OFFSET -1 stands for q as it is.
#if defined(AA_VNNI)
constexpr int BYTE_OFFSET = 7;
#else
constexpr int BYTE_OFFSET = -1;
#endif
template <int BITS>
constexpr int OFFSET = BITS == 4 ? 3 : BYTE_OFFSET;

constexpr int COLUMNS_PER_STEP = 32;
template <int BITS>
constexpr int STEP_BYTES = LANES * COLUMNS_PER_STEP * BITS / 8;

// Weights are read once, in order: hardware alone falls behind at every page. Measured: 2 KiB ahead reads fastest.
template <int BITS>
AA_INLINE void prefetch_step(const uint8_t* w) {
  for (int i = 0; i < STEP_BYTES<BITS>; i += 64) __builtin_prefetch(w + 2048 + i);
}

AA_INLINE UnsignedRegister load_register(const uint8_t* at) { return (UnsignedRegister) * (const LooseInts*)at; }

AA_INLINE IntRegister broadcast4(const int8_t* at) {
  int32_t four;
  memcpy(&four, at, sizeof four);
  return four - IntRegister{};
}

// The weights of four columns: of the first half of 64 bytes' columns, or of the second.
AA_INLINE IntRegister nibbles(UnsignedRegister w, int half) { return (IntRegister)((w >> (4 * half)) & 0x0f0f0f0fu); }

#if defined(AA_DOT4)

// sum + four products of a lane's bytes.
AA_INLINE IntRegister dot4(IntRegister sum, IntRegister weights, IntRegister x) {
#if defined(AA_NEON)
  return (IntRegister)vdotq_s32((int32x4_t)sum, (int8x16_t)weights, (int8x16_t)x);
#elif defined(AA_AVX512)
  return (IntRegister)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, (__m512i)x);
#else
  return (IntRegister)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weights, (__m256i)x);
#endif
}

AA_INLINE IntRegister as_factor(UnsignedRegister w) {
#if defined(AA_NEON)
  return (IntRegister)w;
#else
  return (IntRegister)(w ^ 0x80808080u);
#endif
}

template <int BITS, int N>
AA_INLINE void group_dots(const uint8_t* w, const int8_t* const (&x)[N], int64_t at, int columns, I16 (&dots)[N]) {
  // Two chains of sums where few tokens would wait for one.
  constexpr int CHAINS = N * PIECES < 8 ? 2 : 1;
  IntRegister sums[CHAINS][N][PIECES];
  for (int chain = 0; chain < CHAINS; chain++)
    for (int t = 0; t < N; t++)
      for (int i = 0; i < PIECES; i++) sums[chain][t][i] = IntRegister{};
  for (int j = 0; j < columns; j += COLUMNS_PER_STEP, w += STEP_BYTES<BITS>) {
    prefetch_step<BITS>(w);
    // Four columns at a time: half of 64 bytes at 4 bit, all of them at 8 bit.
#pragma GCC unroll 8
    for (int four = 0; four < 8; four++) {
#pragma GCC unroll 4
      for (int i = 0; i < PIECES; i++) {
        UnsignedRegister stored = load_register(w + four * 8 * BITS / 64 * 64 + i * REGISTER_BYTES);
        IntRegister weights = BITS == 4 ? nibbles(stored, four % 2) : as_factor(stored);
#pragma GCC unroll 8
        for (int t = 0; t < N; t++) {
          IntRegister& sum = sums[four % CHAINS][t][i];
          sum = dot4(sum, weights, broadcast4(x[t] + at + j + 4 * four));
        }
      }
    }
  }
  for (int t = 0; t < N; t++)
    for (int i = 0; i < PIECES; i++)
      dots[t].r[i] = CHAINS == 2 ? sums[0][t][i] + sums[CHAINS - 1][t][i] : sums[0][t][i];
}

#elif defined(AA_AVX512) || defined(AA_AVX2)

// Sixteen-bit sums of neighbouring products, unsigned times signed.
AA_INLINE IntRegister multiply_pairs(IntRegister weights, IntRegister x) {
#if defined(AA_AVX512)
  return (IntRegister)_mm512_maddubs_epi16((__m512i)weights, (__m512i)x);
#else
  return (IntRegister)_mm256_maddubs_epi16((__m256i)weights, (__m256i)x);
#endif
}

AA_INLINE IntRegister add_shorts(IntRegister a, IntRegister b) {
#if defined(AA_AVX512)
  return (IntRegister)_mm512_add_epi16((__m512i)a, (__m512i)b);
#else
  return (IntRegister)_mm256_add_epi16((__m256i)a, (__m256i)b);
#endif
}

AA_INLINE IntRegister widen(IntRegister shorts) {
#if defined(AA_AVX512)
  return (IntRegister)_mm512_madd_epi16((__m512i)shorts, _mm512_set1_epi16(1));
#else
  return (IntRegister)_mm256_madd_epi16((__m256i)shorts, _mm256_set1_epi16(1));
#endif
}

// Signed weights as an unsigned factor, and a signed factor x with their sign.
struct Signed {
#if defined(AA_AVX512)
  explicit Signed(IntRegister w)
      : magnitude((IntRegister)_mm512_abs_epi8((__m512i)w)), negative_(_mm512_movepi8_mask((__m512i)w)) {}
  AA_INLINE IntRegister apply(IntRegister x) const {
    return (IntRegister)_mm512_mask_sub_epi8((__m512i)x, negative_, _mm512_setzero_si512(), (__m512i)x);
  }
#else
  explicit Signed(IntRegister w) : magnitude((IntRegister)_mm256_abs_epi8((__m256i)w)), sign_(w) {}
  AA_INLINE IntRegister apply(IntRegister x) const {
    return (IntRegister)_mm256_sign_epi8((__m256i)x, (__m256i)sign_);
  }
#endif
  IntRegister magnitude;

 private:
#if defined(AA_AVX512)
  __mmask64 negative_;
#else
  IntRegister sign_;
#endif
};

// Compilers reorder these sums until they no longer fit the registers: here they may not.
AA_INLINE void keep_in_order(IntRegister& sum) {
#if !defined(AA_EMULATED)
  asm volatile("" : "+x"(sum));
#endif
}

// Eight sums of at most 2 * 15 * 127 fit 16 bits: widened once per 32 columns.
template <int N>
AA_INLINE void step4(const uint8_t* w, const int8_t* const (&x)[N], int64_t at, I16 (&dots)[N]) {
  IntRegister sums[N][PIECES];
  for (int t = 0; t < N; t++)
    for (int i = 0; i < PIECES; i++) sums[t][i] = IntRegister{};
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    IntRegister weights[2][PIECES];
#pragma GCC unroll 2
    for (int i = 0; i < PIECES; i++) {
      UnsignedRegister stored = load_register(w + 64 * j + i * REGISTER_BYTES);
      weights[0][i] = nibbles(stored, 0);
      weights[1][i] = nibbles(stored, 1);
    }
#pragma GCC unroll 8
    for (int t = 0; t < N; t++) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; half++) {
        IntRegister factor = broadcast4(x[t] + at + 8 * j + 4 * half);
#pragma GCC unroll 2
        for (int i = 0; i < PIECES; i++) {
          sums[t][i] = add_shorts(sums[t][i], multiply_pairs(weights[half][i], factor));
          if (N > 2) keep_in_order(sums[t][i]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < N; t++)
#pragma GCC unroll 2
    for (int i = 0; i < PIECES; i++) dots[t].r[i] += widen(sums[t][i]);
}

// Two products of at most 127 * 127 fit 16 bits, no more: widened at once.
template <int N>
AA_INLINE void step8(const uint8_t* w, const int8_t* const (&x)[N], int64_t at, I16 (&dots)[N]) {
#pragma GCC unroll 8
  for (int j = 0; j < 8; j++) {
#pragma GCC unroll 2
    for (int i = 0; i < PIECES; i++) {
      Signed weights((IntRegister)load_register(w + 64 * j + i * REGISTER_BYTES));
#pragma GCC unroll 8
      for (int t = 0; t < N; t++) {
        IntRegister factor = weights.apply(broadcast4(x[t] + at + 4 * j));
        dots[t].r[i] += widen(multiply_pairs(weights.magnitude, factor));
      }
    }
  }
}

template <int BITS, int N>
AA_INLINE void group_dots(const uint8_t* w, const int8_t* const (&x)[N], int64_t at, int columns, I16 (&dots)[N]) {
  for (int t = 0; t < N; t++) dots[t] = I16{};
  for (int j = 0; j < columns; j += COLUMNS_PER_STEP, w += STEP_BYTES<BITS>) {
    prefetch_step<BITS>(w);
    if constexpr (BITS == 4) {
      step4(w, x, at + j, dots);
    } else {
      step8(w, x, at + j, dots);
    }
  }
}

#else

// Integers below 2^24 are exact in fp32, which every vector unit multiplies well.
template <int BITS, int N>
AA_INLINE void group_dots(const uint8_t* w, const int8_t* const (&x)[N], int64_t at, int columns, I16 (&dots)[N]) {
  constexpr int COLUMNS = 32 / BITS;
  F16 sums[N] = {};
  for (int j = 0; j < columns; j += COLUMNS, w += 64) {
    I16 stored;
    memcpy(&stored, w, sizeof stored);
    for (int c = 0; c < COLUMNS; c++) {
      // In a lane's 32 bits, byte b is column b, its high nibble column 4 + b.
      I16 weights = BITS == 4 ? shift_right(stored, 8 * (c % 4) + c / 4 * 4) & set(15) : shift_left(stored, 24 - 8 * c);
      if (BITS == 8)
        for (int i = 0; i < PIECES; i++) weights.r[i] >>= 24;
      F16 factor = to_float(weights);
      for (int t = 0; t < N; t++) sums[t] += factor * set((float)x[t][at + j + c]);
    }
  }
  for (int t = 0; t < N; t++)
    for (int i = 0; i < PIECES; i++) dots[t].r[i] = __builtin_convertvector(sums[t].r[i], IntRegister);
}

#endif

}  // namespace aa
