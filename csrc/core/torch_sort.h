// Sorting by torch, on any device.
#pragma once
#include "tensor.h"

namespace detops {
struct Sorted {
  Tensor values, indices;
};

// Along the last axis, lowest first, equal values in the order given. Does not wait for the device.
inline Sorted stable_sort(const Tensor& t) {
  using torch::stable::detail::from, torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(t), from(std::optional<bool>(true)), from(int64_t{-1}), from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}
}  // namespace detops
