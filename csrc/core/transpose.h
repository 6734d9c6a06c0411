// Square blocks transposed in registers.
#pragma once
#include <utility>

#include "simd.h"

namespace detops {
namespace transpose_detail {
// Swaps the off-diagonal kStep x kStep blocks of every 2 kStep x 2 kStep block that rows a and b = a + kStep take part
// in.
template <int kStep, typename V, size_t... J>
DETOPS_HD void exchange(V& a, V& b, std::index_sequence<J...>) {
  constexpr int n = sizeof...(J);
#if defined(__clang__)
  const V upper = __builtin_shufflevector(a, b, (J & kStep ? n + J - kStep : J)...);
  b = __builtin_shufflevector(a, b, (J & kStep ? n + J : J + kStep)...);
#else
  using Integer = std::conditional_t<sizeof(element_t<V>) == 8, int64_t, int32_t>;
  using Index = typename VecOf<Integer, sizeof(V)>::type;
  const V upper =
      __builtin_shuffle(a, b, Index{(J & kStep ? n + static_cast<int>(J) - kStep : static_cast<int>(J))...});
  b = __builtin_shuffle(a, b, Index{(J & kStep ? n + static_cast<int>(J) : static_cast<int>(J) + kStep)...});
#endif
  a = upper;
}

template <int kStep, typename V, int n>
DETOPS_HD void transpose_from(V (&rows)[n]) {
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    if (!(i & kStep)) exchange<kStep>(rows[i], rows[i + kStep], std::make_index_sequence<n>());
  }
  if constexpr (kStep > 1) transpose_from<kStep / 2>(rows);
}
}  // namespace transpose_detail

// Element j of row i changes places with element i of row j; as many rows as a vector has lanes.
template <typename V, int n>
DETOPS_HD void transpose(V (&rows)[n]) {
  static_assert(n == sizeof(V) / sizeof(element_t<V>));
  transpose_detail::transpose_from<n / 2>(rows);
}
}  // namespace detops
