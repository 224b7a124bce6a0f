// Stands before the compiler's header where AVX-512 or AVX-VNNI kernels are compiled for a processor without them: SIMDe
// computes what each of their intrinsics is defined to. What it lacks is put together from halves.
#pragma once
#include_next <immintrin.h>
#include <simde/x86/avx512.h>

namespace emulated {

inline __m256i half(__m512i a, int i) { return ((const __m256i*)&a)[i]; }

inline __m512i both(__m256i low, __m256i high) {
  __m512i whole;
  ((__m256i*)&whole)[0] = low;
  ((__m256i*)&whole)[1] = high;
  return whole;
}

inline __m512 cvtph_ps(__m256i a) {
  const __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(a)), high = _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1));
  return (__m512)both((__m256i)low, (__m256i)high);
}

inline __m512i cvtepu16_epi32(__m256i a) {
  return both(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(a)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1)));
}

inline __m512i cvtps_epi32(__m512 a) {
  return both(_mm256_cvtps_epi32((__m256)half((__m512i)a, 0)), _mm256_cvtps_epi32((__m256)half((__m512i)a, 1)));
}

inline __m512i cvtepi8_epi32(__m128i a) { return both(_mm256_cvtepi8_epi32(a), _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8))); }

// The low byte of each number.
inline __m128i cvtepi32_epi8(__m512i a) {
  int32_t numbers[16];
  int8_t bytes[16];
  __builtin_memcpy(numbers, &a, sizeof numbers);
  for (int i = 0; i < 16; i++) bytes[i] = (int8_t)numbers[i];
  return _mm_loadu_si128((const __m128i*)bytes);
}

}  // namespace emulated

#define AA_I(a) ((simde__m512i)(a))
#define AA_F(a) ((simde__m512)(a))

#define _mm256_dpbusd_avx_epi32(s, a, b) \
  ((__m256i)simde_mm256_dpbusd_epi32((simde__m256i)(s), (simde__m256i)(a), (simde__m256i)(b)))
#define _mm512_abs_epi8(a) ((__m512i)simde_mm512_abs_epi8(AA_I(a)))
#define _mm512_add_epi16(a, b) ((__m512i)simde_mm512_add_epi16(AA_I(a), AA_I(b)))
#define _mm512_castps512_ps256(a) ((__m256)emulated::half((__m512i)(a), 0))
#define _mm512_castps_pd(a) ((__m512d)(a))
#define _mm512_cvtepi32_epi8(a) emulated::cvtepi32_epi8(a)
#define _mm512_cvtepi8_epi32(a) emulated::cvtepi8_epi32(a)
#define _mm512_cvtepu16_epi32(a) emulated::cvtepu16_epi32(a)
#define _mm512_cvtph_ps(a) emulated::cvtph_ps(a)
#define _mm512_cvtps_epi32(a) emulated::cvtps_epi32(a)
#define _mm512_dpbusd_epi32(s, a, b) ((__m512i)simde_mm512_dpbusd_epi32(AA_I(s), AA_I(a), AA_I(b)))
#define _mm512_extractf64x4_pd(a, i) ((__m256d)emulated::half((__m512i)(a), i))
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) ((__m512i)simde_mm512_madd_epi16(AA_I(a), AA_I(b)))
#define _mm512_maddubs_epi16(a, b) ((__m512i)simde_mm512_maddubs_epi16(AA_I(a), AA_I(b)))
#define _mm512_mask_sub_epi8(s, m, a, b) ((__m512i)simde_mm512_mask_sub_epi8(AA_I(s), m, AA_I(a), AA_I(b)))
#define _mm512_max_ps(a, b) ((__m512)simde_mm512_max_ps(AA_F(a), AA_F(b)))
#define _mm512_min_ps(a, b) ((__m512)simde_mm512_min_ps(AA_F(a), AA_F(b)))
#define _mm512_movepi8_mask(a) simde_mm512_movepi8_mask(AA_I(a))
#define _mm512_set1_epi16(a) ((__m512i)simde_mm512_set1_epi16(a))
#define _mm512_setzero_si512() ((__m512i)simde_mm512_setzero_si512())
#define _mm512_sqrt_ps(a) ((__m512)simde_mm512_sqrt_ps(AA_F(a)))
#define _mm512_test_epi32_mask(a, b) simde_mm512_test_epi32_mask(AA_I(a), AA_I(b))
