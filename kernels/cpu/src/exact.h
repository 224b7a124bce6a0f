// exp as docs/exact-experts.md defines it, what is made of it, and the floating-point mode that everything runs in.
#pragma once
#include <initializer_list>

#include "vec.h"

namespace aa {

AA_INLINE F16 exp(const F16& t) {
  F16 clamped = min(set(88.0f), max(set(-87.0f), t));
  I16 whole = nearest(clamped * set(0x1.715476p+0f));
  F16 n = to_float(whole);
  F16 r = (clamped - n * set(0x1.62e4p-1f)) - n * set(0x1.7f7d1cp-20f);
  F16 series = set(0x1.6a233ep-10f);
  for (float c : {0x1.123a76p-7f, 0x1.5558f6p-5f, 0x1.555490p-3f, 0x1.fffffcp-2f, 1.0f, 1.0f})
    series = series * r + set(c);
  return series * from_bits(shift_left(whole + set(127), 23));
}

AA_INLINE F16 sigmoid(const F16& t) { return set(1.0f) / (exp(negate(t)) + set(1.0f)); }

AA_INLINE F16 silu(const F16& t) { return t / (exp(negate(t)) + set(1.0f)); }

// Rounds to nearest even and keeps subnormals while it lives, whatever mode the calling thread was in.
class ExactMode {
 public:
  ExactMode() : before_(current()) { change(DEFAULT); }
  ~ExactMode() { change(before_); }
  ExactMode(const ExactMode&) = delete;
  ExactMode& operator=(const ExactMode&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint32_t DEFAULT = 0x1F80;
  static uint64_t current() { return __builtin_ia32_stmxcsr(); }
  static void change(uint64_t mode) {
    uint32_t word = (uint32_t)mode;
    asm volatile("ldmxcsr %0" : : "m"(word) : "memory");
  }
#elif defined(__aarch64__)
  static constexpr uint64_t DEFAULT = 0;
  static uint64_t current() {
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void change(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#else
  static constexpr uint64_t DEFAULT = 0;
  static uint64_t current() { return 0; }
  static void change(uint64_t) {}
#endif
  uint64_t before_;
};

}  // namespace aa
