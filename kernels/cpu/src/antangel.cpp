// The one translation unit: all ops of abi.h for the instruction set that the flags name.
#pragma GCC visibility push(default)
#include "abi.h"
#pragma GCC visibility pop

#include "attention.h"
#include "feed_forward.h"
#include "head.h"
#include "in_place.h"
#include "norm.h"
#include "route.h"

#ifndef AA_VARIANT
#error "AA_VARIANT must name the variant"
#endif

extern "C" const char* aa_variant() { return AA_VARIANT; }

extern "C" void aa_set_threads(int threads) {
  aa::Call call;
  aa::Pool::get().set_threads(threads);
}

extern "C" int aa_threads() { return aa::threads(); }

extern "C" int aa_linear(const float* x, int64_t T, const aa_matrix* matrix, const float* residual, float* out) {
  static aa::Scratch scratch;
  aa::Call call;
  std::atomic<bool> nonfinite{false};
  aa::linear(*matrix, aa::prepare(x, T, *matrix, scratch, nonfinite), T, residual, out);
  return nonfinite ? AA_NONFINITE : AA_OK;
}

namespace {

// Read where the compiler can't follow, so that nothing is computed before the program runs.
volatile float seven = 7, eleven = 11, near_one = 1.0f + 0x1p-12f, tiny = 0x1p-126f, odd_half = 2.5f, two = 2.0f;

float first_of(const aa::F16& a) {
  float lanes[aa::LANES];
  aa::store(lanes, a);
  return lanes[0];
}

}  // namespace

// Which property of the arithmetic is lost: 1 separate multiply and add, 2 division, 3 square root, 4 subnormals,
// 5 rounding half to even, 6 exp, 7 bf16, 8 fp16.
extern "C" int aa_probe() {
  using namespace aa;
  ExactMode mode;
  F16 a = set(near_one), b = set(near_one), c = set(-(near_one * near_one));
  if (first_of(a * b + c) != 0.0f || near_one * near_one + -(1.0f + 0x1p-11f) != 0.0f) return 1;
  if (first_of(set(eleven) / set(seven)) != 0x1.924924p+0f) return 2;
  if (first_of(square_root(set(two))) != 0x1.6a09e6p+0f) return 3;
  if (first_of(set(tiny) * set(0.5f)) != 0x1p-127f) return 4;
  if (first_of(to_float(nearest(set(odd_half)))) != 2.0f) return 5;
  if (first_of(exp(set(two))) != 0x1.d8e64cp+2f) return 6;
  uint16_t subnormal[LANES], half[LANES];
  for (int i = 0; i < LANES; i++) subnormal[i] = 1, half[i] = 0x8001;
  if (first_of(load_bf16(subnormal)) != 0x1p-133f) return 7;
  if (first_of(load_fp16(half)) != -0x1p-24f) return 8;
  return 0;
}
