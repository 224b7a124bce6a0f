// Sixteen lanes of fp32 or int32, whatever the width of a register. Nothing here fuses, reorders or flushes.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(AA_AVX512) || defined(AA_AVX2)
#include <immintrin.h>
#elif defined(AA_NEON)
#include <arm_neon.h>
#endif

#define AA_INLINE inline __attribute__((always_inline))

namespace aa {

#if defined(AA_AVX512)
constexpr int REGISTER_BYTES = 64;
#elif defined(AA_AVX2)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif

constexpr int LANES = 16;
constexpr int PIECES = LANES * 4 / REGISTER_BYTES;

// One register. The compiler's vector types give + - * / & | ^ << >> and comparisons, lane by lane.
typedef float FloatRegister __attribute__((vector_size(REGISTER_BYTES)));
typedef int32_t IntRegister __attribute__((vector_size(REGISTER_BYTES)));
typedef uint32_t UnsignedRegister __attribute__((vector_size(REGISTER_BYTES)));

// The same in memory, wherever it lies and whatever it is declared as.
typedef float LooseFloats __attribute__((vector_size(REGISTER_BYTES), aligned(1), may_alias));
typedef int32_t LooseInts __attribute__((vector_size(REGISTER_BYTES), aligned(1), may_alias));

struct F16 {
  FloatRegister r[PIECES];
};

// Also a mask: all ones where true.
struct I16 {
  IntRegister r[PIECES];
};

#define AA_LANEWISE(Result, name, Argument, expression)         \
  AA_INLINE Result name(const Argument& a, const Argument& b) { \
    Result c;                                                   \
    for (int i = 0; i < PIECES; i++) c.r[i] = expression;       \
    return c;                                                   \
  }

AA_LANEWISE(F16, operator+, F16, a.r[i] + b.r[i])
AA_LANEWISE(F16, operator-, F16, a.r[i] - b.r[i])
AA_LANEWISE(F16, operator*, F16, a.r[i] * b.r[i])
AA_LANEWISE(F16, operator/, F16, a.r[i] / b.r[i])
AA_LANEWISE(I16, less, F16, (IntRegister)(a.r[i] < b.r[i]))
AA_LANEWISE(I16, equal, F16, (IntRegister)(a.r[i] == b.r[i]))

AA_LANEWISE(I16, operator+, I16, a.r[i] + b.r[i])
AA_LANEWISE(I16, operator-, I16, a.r[i] - b.r[i])
AA_LANEWISE(I16, operator*, I16, a.r[i] * b.r[i])
AA_LANEWISE(I16, operator&, I16, a.r[i] & b.r[i])
AA_LANEWISE(I16, operator|, I16, a.r[i] | b.r[i])
AA_LANEWISE(I16, operator^, I16, a.r[i] ^ b.r[i])
AA_LANEWISE(I16, less, I16, (IntRegister)(a.r[i] < b.r[i]))
AA_LANEWISE(I16, equal, I16, (IntRegister)(a.r[i] == b.r[i]))
#undef AA_LANEWISE

AA_INLINE F16& operator+=(F16& a, const F16& b) { return a = a + b; }
AA_INLINE I16& operator+=(I16& a, const I16& b) { return a = a + b; }

AA_INLINE F16 set(float value) {
  F16 c;
  for (int i = 0; i < PIECES; i++) c.r[i] = value - FloatRegister{};
  return c;
}

AA_INLINE I16 set(int32_t value) {
  I16 c;
  for (int i = 0; i < PIECES; i++) c.r[i] = value - IntRegister{};
  return c;
}

AA_INLINE F16 zero() { return F16{}; }

AA_INLINE F16 load(const float* at) {
  F16 c;
  for (int i = 0; i < PIECES; i++) c.r[i] = ((const LooseFloats*)at)[i];
  return c;
}

AA_INLINE I16 load(const int32_t* at) {
  I16 c;
  for (int i = 0; i < PIECES; i++) c.r[i] = ((const LooseInts*)at)[i];
  return c;
}

// The first `count` lanes of memory, +0 behind them.
AA_INLINE F16 load_first(const float* at, int64_t count) {
  float lanes[LANES] = {};
  memcpy(lanes, at, sizeof(float) * count);
  return load(lanes);
}

AA_INLINE void store(float* at, const F16& a) {
  for (int i = 0; i < PIECES; i++) ((LooseFloats*)at)[i] = a.r[i];
}

AA_INLINE void store(int32_t* at, const I16& a) {
  for (int i = 0; i < PIECES; i++) ((LooseInts*)at)[i] = a.r[i];
}

AA_INLINE void store_first(float* at, const F16& a, int64_t count) {
  float lanes[LANES];
  store(lanes, a);
  memcpy(at, lanes, sizeof(float) * count);
}

AA_INLINE I16 bits(const F16& a) {
  I16 c;
  for (int i = 0; i < PIECES; i++) c.r[i] = (IntRegister)a.r[i];
  return c;
}

AA_INLINE F16 from_bits(const I16& a) {
  F16 c;
  for (int i = 0; i < PIECES; i++) c.r[i] = (FloatRegister)a.r[i];
  return c;
}

// Shifts by a constant; right shifts bring in zeros.
AA_INLINE I16 shift_left(const I16& a, int by) {
  I16 c;
  for (int i = 0; i < PIECES; i++) c.r[i] = (IntRegister)((UnsignedRegister)a.r[i] << by);
  return c;
}

AA_INLINE I16 shift_right(const I16& a, int by) {
  I16 c;
  for (int i = 0; i < PIECES; i++) c.r[i] = (IntRegister)((UnsignedRegister)a.r[i] >> by);
  return c;
}

AA_INLINE I16 select(const I16& mask, const I16& yes, const I16& no) {
  I16 c;
  for (int i = 0; i < PIECES; i++) c.r[i] = (yes.r[i] & mask.r[i]) | (no.r[i] & ~mask.r[i]);
  return c;
}

AA_INLINE F16 select(const I16& mask, const F16& yes, const F16& no) {
  return from_bits(select(mask, bits(yes), bits(no)));
}

AA_INLINE F16 negate(const F16& a) { return from_bits(bits(a) ^ set(INT32_MIN)); }
AA_INLINE F16 absolute(const F16& a) { return from_bits(bits(a) & set(INT32_MAX)); }

// a < b ? a : b and a > b ? a : b: where either is a NaN, b.
AA_INLINE F16 min(const F16& a, const F16& b) {
#if defined(AA_AVX512)
  return {{(FloatRegister)_mm512_min_ps((__m512)a.r[0], (__m512)b.r[0])}};
#elif defined(AA_AVX2)
  return {{(FloatRegister)_mm256_min_ps((__m256)a.r[0], (__m256)b.r[0]),
           (FloatRegister)_mm256_min_ps((__m256)a.r[1], (__m256)b.r[1])}};
#else
  return select(less(a, b), a, b);
#endif
}

AA_INLINE F16 max(const F16& a, const F16& b) {
#if defined(AA_AVX512)
  return {{(FloatRegister)_mm512_max_ps((__m512)a.r[0], (__m512)b.r[0])}};
#elif defined(AA_AVX2)
  return {{(FloatRegister)_mm256_max_ps((__m256)a.r[0], (__m256)b.r[0]),
           (FloatRegister)_mm256_max_ps((__m256)a.r[1], (__m256)b.r[1])}};
#else
  return select(less(b, a), a, b);
#endif
}

AA_INLINE I16 max(const I16& a, const I16& b) { return select(less(a, b), b, a); }

AA_INLINE F16 square_root(const F16& a) {
  F16 c;
  for (int i = 0; i < PIECES; i++) {
#if defined(AA_AVX512)
    c.r[i] = (FloatRegister)_mm512_sqrt_ps((__m512)a.r[i]);
#elif defined(AA_AVX2)
    c.r[i] = (FloatRegister)_mm256_sqrt_ps((__m256)a.r[i]);
#elif defined(AA_NEON)
    c.r[i] = (FloatRegister)vsqrtq_f32((float32x4_t)a.r[i]);
#else
    for (int j = 0; j < 4; j++) c.r[i][j] = std::sqrt(a.r[i][j]);
#endif
  }
  return c;
}

AA_INLINE F16 to_float(const I16& a) {
  F16 c;
  for (int i = 0; i < PIECES; i++) c.r[i] = __builtin_convertvector(a.r[i], FloatRegister);
  return c;
}

// The nearest integers, half to even, of |a| below 2^22.
AA_INLINE I16 nearest(const F16& a) {
  I16 c;
  for (int i = 0; i < PIECES; i++) {
#if defined(AA_AVX512)
    c.r[i] = (IntRegister)_mm512_cvtps_epi32((__m512)a.r[i]);
#elif defined(AA_AVX2)
    c.r[i] = (IntRegister)_mm256_cvtps_epi32((__m256)a.r[i]);
#elif defined(AA_NEON)
    c.r[i] = (IntRegister)vcvtnq_s32_f32((float32x4_t)a.r[i]);
#else
    // Adding 1.5 * 2^23 rounds, and leaves the integer in the low bits.
    c.r[i] = (IntRegister)(a.r[i] + 12582912.0f) - 0x4B400000;
#endif
  }
  return c;
}

// Narrower integers, one by one.
template <class Narrow>
AA_INLINE I16 widened(const Narrow* at) {
  int32_t lanes[LANES];
  for (int i = 0; i < LANES; i++) lanes[i] = at[i];
  return load(lanes);
}

AA_INLINE I16 load_unsigned_shorts(const uint16_t* at) {
#if defined(AA_AVX512)
  return {{(IntRegister)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)at))}};
#elif defined(AA_AVX2)
  return {{(IntRegister)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)at)),
           (IntRegister)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(at + 8)))}};
#else
  return widened(at);
#endif
}

AA_INLINE I16 load_signed_bytes(const int8_t* at) {
#if defined(AA_AVX512)
  return {{(IntRegister)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)at))}};
#elif defined(AA_AVX2)
  return {{(IntRegister)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)at)),
           (IntRegister)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(at + 8)))}};
#else
  return widened(at);
#endif
}

// Lanes of -128..127.
AA_INLINE void store_signed_bytes(int8_t* at, const I16& a) {
#if defined(AA_AVX512)
  _mm_storeu_si128((__m128i*)at, _mm512_cvtepi32_epi8((__m512i)a.r[0]));
#elif defined(AA_AVX2)
  __m256i shorts = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)a.r[0], (__m256i)a.r[1]), 0xD8);
  __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1));
  _mm_storeu_si128((__m128i*)at, bytes);
#else
  for (int i = 0; i < PIECES; i++)
    for (int j = 0; j < 4; j++) at[4 * i + j] = (int8_t)a.r[i][j];
#endif
}

AA_INLINE F16 load_bf16(const uint16_t* at) { return from_bits(shift_left(load_unsigned_shorts(at), 16)); }

// Half to even, in integers, since instructions for it flush subnormals. A NaN stays one.
AA_INLINE uint16_t to_bf16_bits(float a) {
  uint32_t u;
  memcpy(&u, &a, sizeof u);
  return (u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}

AA_INLINE float round_to_bf16(float a) {
  uint32_t u = (uint32_t)to_bf16_bits(a) << 16;
  memcpy(&a, &u, sizeof a);
  return a;
}

// The same of every lane.
AA_INLINE I16 to_bf16_bits(const F16& a) {
  I16 u = bits(a);
  I16 rounded = shift_right(u + set(0x7fff) + (shift_right(u, 16) & set(1)), 16);
  return select(less(set(0x7f800000), u & set(INT32_MAX)), set(0x7fc0), rounded);
}

AA_INLINE F16 round_to_bf16(const F16& a) { return from_bits(shift_left(to_bf16_bits(a), 16)); }

AA_INLINE void store_bf16(uint16_t* at, const F16& a) {
  I16 u = to_bf16_bits(a);
  int32_t lanes[LANES];
  store(lanes, u);
  for (int i = 0; i < LANES; i++) at[i] = (uint16_t)lanes[i];
}

AA_INLINE F16 load_fp16(const uint16_t* at) {
#if defined(AA_AVX512)
  return {{(FloatRegister)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)at))}};
#elif defined(AA_AVX2)
  return {{(FloatRegister)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)at)),
           (FloatRegister)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(at + 8)))}};
#else
  // The exponent is 112 too small when its bits are only moved; multiplying mends subnormals too.
  I16 half = load_unsigned_shorts(at);
  I16 moved = shift_left(half & set(0x7fff), 13);
  F16 scaled = from_bits(moved) * set(0x1p112f);
  F16 endless = from_bits(moved | set(0x7f800000));
  F16 magnitude = select(equal(half & set(0x7c00), set(0x7c00)), endless, scaled);
  return from_bits(bits(magnitude) | shift_left(half & set(0x8000), 16));
#endif
}

// Lanes added as halves: i + (i+8), then i + (i+4), i + (i+2), i + (i+1).
AA_INLINE float fold(const F16& a) {
#if defined(AA_AVX512)
  __m512 all = (__m512)a.r[0];
  __m256 eight = _mm512_castps512_ps256(all) + _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(all), 1));
  __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
#elif defined(AA_AVX2)
  __m256 eight = (__m256)(a.r[0] + a.r[1]);
  __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
#else
  FloatRegister four = (a.r[0] + a.r[2]) + (a.r[1] + a.r[3]);
#endif
#if defined(AA_AVX512) || defined(AA_AVX2)
  __m128 two = four + _mm_movehl_ps(four, four);
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  return (four[0] + four[2]) + (four[1] + four[3]);
#endif
}

AA_INLINE int32_t sum(const I16& a) {
  int32_t lanes[LANES], total = 0;
  store(lanes, a);
  for (int i = 0; i < LANES; i++) total += lanes[i];
  return total;
}

AA_INLINE int32_t largest(const I16& a) {
  int32_t lanes[LANES];
  store(lanes, a);
  int32_t top = lanes[0];
  for (int i = 1; i < LANES; i++) top = lanes[i] > top ? lanes[i] : top;
  return top;
}

AA_INLINE float largest(const F16& a) {
  float lanes[LANES];
  store(lanes, a);
  float top = lanes[0];
  for (int i = 1; i < LANES; i++) top = lanes[i] > top ? lanes[i] : top;
  return top;
}

}  // namespace aa
