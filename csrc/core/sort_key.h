// Numbers as unsigned integers in the same order, on every device.
#pragma once
#include <cstring>

#include "device.h"

namespace detops {
// What a number is sorted as: half and bfloat16 as float, small integers as int32.
template <typename T>
using sortable_t =
    std::conditional_t<std::is_integral_v<T>, std::conditional_t<sizeof(T) == 8, int64_t, int32_t>, acc_t<T>>;

// -0 is 0, and NaN comes after everything, as in torch.sort.
DETOPS_HD uint32_t ascending_key(float x) {
  if (x != x) return ~0u;
  x += 0.0f;
  uint32_t u = 0;
  memcpy(&u, &x, sizeof u);
  return u ^ (u >> 31 ? ~0u : 0x80000000u);
}
DETOPS_HD uint64_t ascending_key(double x) {
  if (x != x) return ~uint64_t{0};
  x += 0.0;
  uint64_t u = 0;
  memcpy(&u, &x, sizeof u);
  return u ^ (u >> 63 ? ~uint64_t{0} : uint64_t{1} << 63);
}
DETOPS_HD uint32_t ascending_key(int32_t x) { return static_cast<uint32_t>(x) ^ 0x80000000u; }
DETOPS_HD uint64_t ascending_key(int64_t x) {
  return static_cast<uint64_t>(x) ^ uint64_t { 1 } << 63;
}

// The same order as signed integers, which torch sorts.
DETOPS_HD int32_t to_signed(uint32_t key) { return static_cast<int32_t>(key ^ 0x80000000u); }
DETOPS_HD int64_t to_signed(uint64_t key) { return static_cast<int64_t>(key ^ uint64_t{1} << 63); }
}  // namespace detops
