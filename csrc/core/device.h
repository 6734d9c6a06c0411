// What compiles the same for host and device: qualifiers, element types, accumulator types. Neither libtorch nor CUDA.
#pragma once
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__CUDACC__)
#define DETOPS_HD __host__ __device__ __forceinline__
#else
#define DETOPS_HD __attribute__((always_inline)) inline
#endif

namespace detops {
// Blocks of threads that keep a large GPU busy: eight for each of its multiprocessors. The emulation's is small, so
// that small tests take every path.
#if defined(DETOPS_EMULATE_CUDA)
constexpr int64_t kManyBlocks = 2;
#else
constexpr int64_t kManyBlocks = 1056;
#endif

using BFloat16 = torch::headeronly::BFloat16;
using Half = torch::headeronly::Half;

// The type that sums and geometry of elements T are computed in.
template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <typename T>
using acc_t = typename Accumulator<T>::type;

template <typename To, typename From>
DETOPS_HD To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// For numbers and, on the CPU, SIMD vectors of them. min and max return a at a tie and where b is NaN.
template <typename V>
DETOPS_HD V min(V a, V b) {
  return b < a ? b : a;
}
template <typename V>
DETOPS_HD V max(V a, V b) {
  return b > a ? b : a;
}
// The same of numbers; either where one is NaN. A GPU has an instruction for it.
template <typename V>
DETOPS_HD V min_number(V a, V b) {
#if defined(__CUDA_ARCH__)
  return ::fmin(a, b);
#else
  return min(a, b);
#endif
}
template <typename V>
DETOPS_HD V max_number(V a, V b) {
#if defined(__CUDA_ARCH__)
  return ::fmax(a, b);
#else
  return max(a, b);
#endif
}
template <typename Condition, typename V>
DETOPS_HD V select(Condition condition, V yes, V no) {
  return condition ? yes : no;
}
// x as a V, in every lane of a vector.
template <typename V>
DETOPS_HD V constant(double x) {
  if constexpr (std::is_arithmetic_v<V>) {
    return static_cast<V>(x);
  } else {
    return V{} + static_cast<std::decay_t<decltype(V{}[0])>>(x);
  }
}
}  // namespace detops
