// SIMD without intrinsics: vectors as the compiler's own type, and one switch that picks the instruction set at run
// time.
//
//   simd([&](auto isa) DETOPS_INLINE { add<decltype(isa)>(x, y, n); });
//
// compiles the body once per instruction set and runs the widest that this processor has. Everything the body calls
// must be DETOPS_INLINE (or DETOPS_HD), since a function takes the instruction set of the one it is inlined into. The
// body sees the set as a type: Vec<Isa, float> is a register of it, lanes<Isa, float> its length.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "device.h"

#define DETOPS_INLINE __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 11 && !defined(__clang__)
#define DETOPS_X86 1
#else
#define DETOPS_X86 0
#endif

namespace detops {
struct Baseline {
  static constexpr int bytes = 16;  // SSE2, NEON
};
struct Avx2 {
  static constexpr int bytes = 32;  // x86-64-v3: with FMA and F16C
};
struct Avx512 {
  static constexpr int bytes = 64;  // x86-64-v4
};

template <typename T, int kBytes>
struct VecOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
template <typename Isa, typename T>
using Vec = typename VecOf<T, Isa::bytes>::type;
template <typename Isa, typename T>
constexpr int64_t lanes = Isa::bytes / sizeof(T);

// Names of the instruction sets, worst first, as `detops info` prints them.
enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

inline InstructionSet best_instruction_set() {
#if DETOPS_X86
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt") &&
                  __builtin_cpu_supports("movbe");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (v4) return InstructionSet::kAvx512;
  if (v3) return InstructionSet::kAvx2;
#endif
  return InstructionSet::kBaseline;
}
// What simd() uses. Tests lower it, so that one machine runs every variant.
inline InstructionSet active_instruction_set = best_instruction_set();

namespace simd_detail {
template <typename Body>
void run_baseline(const Body& body) {
  body(Baseline{});
}
#if DETOPS_X86
template <typename Body>
__attribute__((target("arch=x86-64-v3"), noinline)) void run_avx2(const Body& body) {
  body(Avx2{});
}
template <typename Body>
__attribute__((target("arch=x86-64-v4"), noinline)) void run_avx512(const Body& body) {
  body(Avx512{});
}
template <typename Body>
__attribute__((target("arch=x86-64-v3"), optimize("fp-contract=fast"), noinline)) void run_avx2_fused(
    const Body& body) {
  body(Avx2{});
}
template <typename Body>
__attribute__((target("arch=x86-64-v4"), optimize("fp-contract=fast"), noinline)) void run_avx512_fused(
    const Body& body) {
  body(Avx512{});
}
#endif
}  // namespace simd_detail

// Runs body(Isa{}) for the active instruction set. Products and sums round separately: every machine gets the same
// bits. The sanitizers' builds have one variant alone, DETOPS_ONLY_...,.
template <typename Body>
void simd(const Body& body) {
#if DETOPS_X86 && defined(DETOPS_ONLY_AVX512)
  simd_detail::run_avx512(body);
#elif DETOPS_X86 && defined(DETOPS_ONLY_AVX2)
  simd_detail::run_avx2(body);
#else
#if DETOPS_X86
  if (active_instruction_set == InstructionSet::kAvx512) return simd_detail::run_avx512(body);
  if (active_instruction_set == InstructionSet::kAvx2) return simd_detail::run_avx2(body);
#endif
  simd_detail::run_baseline(body);
#endif
}

// The same where a * b + c may become one fused operation: for weighted sums, never for coordinates or decisions.
template <typename Body>
void simd_fused(const Body& body) {
#if DETOPS_X86 && defined(DETOPS_ONLY_AVX512)
  simd_detail::run_avx512_fused(body);
#elif DETOPS_X86 && defined(DETOPS_ONLY_AVX2)
  simd_detail::run_avx2_fused(body);
#else
#if DETOPS_X86
  if (active_instruction_set == InstructionSet::kAvx512) return simd_detail::run_avx512_fused(body);
  if (active_instruction_set == InstructionSet::kAvx2) return simd_detail::run_avx2_fused(body);
#endif
  simd_detail::run_baseline(body);
#endif
}

template <typename V>
using element_t = std::decay_t<decltype(std::declval<V>()[0])>;
template <typename V>
DETOPS_HD V broadcast(element_t<V> x) {
  return V{} + x;  // x + 0 is x, but for the sign of a negative zero
}

// One bit per lane of a comparison's result.
template <typename M>
DETOPS_HD uint32_t bits(M mask) {
#if DETOPS_X86
  using F4 = VecOf<float, 16>::type;
  using D2 = VecOf<double, 16>::type;
  using F8 = VecOf<float, 32>::type;
  using D4 = VecOf<double, 32>::type;
  constexpr bool is_double = sizeof(element_t<M>) == 8;
  if constexpr (sizeof(M) == 64 && !is_double) return static_cast<uint16_t>(__builtin_ia32_cvtd2mask512(mask));
  if constexpr (sizeof(M) == 64 && is_double) {
    return static_cast<uint8_t>(__builtin_ia32_cvtq2mask512(bit_cast<VecOf<long long, 64>::type>(mask)));
  }
  if constexpr (sizeof(M) == 32 && !is_double) return __builtin_ia32_movmskps256(bit_cast<F8>(mask));
  if constexpr (sizeof(M) == 32 && is_double) return __builtin_ia32_movmskpd256(bit_cast<D4>(mask));
  if constexpr (sizeof(M) == 16 && !is_double) return __builtin_ia32_movmskps(bit_cast<F4>(mask));
  if constexpr (sizeof(M) == 16 && is_double) return __builtin_ia32_movmskpd(bit_cast<D2>(mask));
#endif
  uint32_t result = 0;
  for (size_t i = 0; i < sizeof(M) / sizeof(element_t<M>); ++i) result |= static_cast<uint32_t>(mask[i] != 0) << i;
  return result;
}

// Whether a comparison holds in every lane.
template <typename M>
DETOPS_HD bool all(M mask) {
  return bits(mask) == static_cast<uint32_t>((uint64_t{1} << sizeof(M) / sizeof(element_t<M>)) - 1);
}

template <typename V>
DETOPS_HD V load(const element_t<V>* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <typename V>
DETOPS_HD void store(element_t<V>* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

// The lanes added up pairwise, so that the order does not depend on how they were filled.
template <typename V>
DETOPS_HD element_t<V> sum(V v) {
  constexpr int n = sizeof(V) / sizeof(element_t<V>);
  element_t<V> part[n];
  std::memcpy(part, &v, sizeof v);
  for (int width = n / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
}

// Half and BFloat16 as vectors of float, exactly; and back, to the nearest even. T may also be float or double itself.
template <typename V>
DETOPS_HD V load(const BFloat16* from) {
  constexpr int n = sizeof(V) / 4;
  typename VecOf<uint16_t, 2 * n>::type raw;
  std::memcpy(&raw, from, sizeof raw);
  using U32 = typename VecOf<uint32_t, 4 * n>::type;
#if DETOPS_X86  // GCC widens a vector by halves
  if constexpr (n == 16) {
    const auto wide =
        __builtin_ia32_pmovzxwd512_mask(bit_cast<VecOf<short, 32>::type>(raw), VecOf<int, 64>::type{}, -1);
    return bit_cast<V>(bit_cast<U32>(wide) << 16);
  }
  if constexpr (n == 8) {
    return bit_cast<V>(bit_cast<U32>(__builtin_ia32_pmovzxwd256(bit_cast<VecOf<short, 16>::type>(raw))) << 16);
  }
#endif
  return bit_cast<V>(__builtin_convertvector(raw, U32) << 16);
}
template <typename V>
DETOPS_HD void store(BFloat16* to, V v) {
  constexpr int n = sizeof(V) / 4;
  using U32 = typename VecOf<uint32_t, 4 * n>::type;
  const U32 u = bit_cast<U32>(v);
  const U32 rounded = (u + (0x7fffu + ((u >> 16) & 1))) >> 16;
  const U32 nearest = v == v ? rounded : (u >> 16 | 0x40u);  // a NaN stays one
  const auto raw = __builtin_convertvector(nearest, typename VecOf<uint16_t, 2 * n>::type);
  std::memcpy(to, &raw, sizeof raw);
}
template <typename V>
DETOPS_HD V load(const Half* from) {
  constexpr int n = sizeof(V) / 4;
#if DETOPS_X86
  if constexpr (n == 16) {
    typename VecOf<short, 32>::type raw;
    std::memcpy(&raw, from, sizeof raw);
    return __builtin_ia32_vcvtph2ps512_mask(raw, V{}, -1, /*current direction=*/4);
  }
  if constexpr (n == 8) {
    typename VecOf<short, 16>::type raw;
    std::memcpy(&raw, from, sizeof raw);
    return __builtin_ia32_vcvtph2ps256(raw);
  }
#endif
  V v;
  for (int i = 0; i < n; ++i) v[i] = static_cast<float>(from[i]);
  return v;
}
template <typename V>
DETOPS_HD void store(Half* to, V v) {
  constexpr int n = sizeof(V) / 4;
#if DETOPS_X86
  if constexpr (n == 16) {
    const auto raw = __builtin_ia32_vcvtps2ph512_mask(v, /*to nearest=*/0, VecOf<short, 32>::type{}, -1);
    std::memcpy(to, &raw, sizeof raw);
    return;
  }
  if constexpr (n == 8) {
    const auto raw = __builtin_ia32_vcvtps2ph256(v, /*to nearest=*/0);
    std::memcpy(to, &raw, sizeof raw);
    return;
  }
#endif
  for (int i = 0; i < n; ++i) to[i] = static_cast<Half>(v[i]);
}

// Lanes 0, 2, 4, ... and 1, 3, 5, ... of a, b laid end to end.
template <typename V>
struct EvenOdd {
  V even, odd;
};
template <typename V>
struct EndToEnd {
  V a, b;
};
template <typename V>
DETOPS_HD EvenOdd<V> deinterleave(V a, V b) {
  constexpr int n = sizeof(V) / sizeof(element_t<V>);
  decltype(V{} < V{}) even;
  for (int i = 0; i < n; ++i) even[i] = 2 * i;
  return {__builtin_shuffle(a, b, even), __builtin_shuffle(a, b, even + 1)};
}
// And back: lanes of both in turn.
template <typename V>
DETOPS_HD EndToEnd<V> interleave(V even, V odd) {
  constexpr int n = sizeof(V) / sizeof(element_t<V>);
  decltype(V{} < V{}) front;
  for (int i = 0; i < n; ++i) front[i] = i / 2 + i % 2 * n;
  return {__builtin_shuffle(even, odd, front), __builtin_shuffle(even, odd, front + n / 2)};
}
}  // namespace detops
