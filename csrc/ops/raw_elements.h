// Elements of tensors that broadcast against each other, of any floating dtype and any strides, as CUDA kernels read
// them: by their number in the order of a loop (elementwise.h).
#pragma once
#include <torch/headeronly/core/ScalarType.h>

#include "../core/device.h"

namespace detops {
using torch::headeronly::ScalarType;

struct RawLoop {
  static constexpr int kMostAxes = 64;  // of a tensor, in torch
  int64_t size;
  int axes;
  int64_t sizes[kMostAxes];  // outermost first
};

struct RawElements {
  const char* data;  // null if there is no such operand
  ScalarType dtype;
  bool in_packs;                        // without gaps, 16 bytes aligned, of the kernel's own dtype
  int64_t strides[RawLoop::kMostAxes];  // in elements, by axis of the loop

  // Of element i of the loop.
  template <typename Index>
  DETOPS_HD int64_t place(const RawLoop& loop, Index i) const {
    int64_t at = 0;
    for (int axis = loop.axes - 1; axis > 0; --axis) {
      const auto size = static_cast<Index>(loop.sizes[axis]);
      at += static_cast<int64_t>(i % size) * strides[axis];
      i /= size;
    }
    return loop.axes > 0 ? at + static_cast<int64_t>(i) * strides[0] : 0;
  }

  template <typename A>
  DETOPS_HD A load(const RawLoop& loop, int64_t i) const {
    // 64-bit divisions are several times slower.
    const int64_t at = loop.size >> 32 == 0 ? place(loop, static_cast<uint32_t>(i)) : place(loop, i);
    switch (dtype) {
      case ScalarType::Float:
        return static_cast<A>(reinterpret_cast<const float*>(data)[at]);
      case ScalarType::Double:
        return static_cast<A>(reinterpret_cast<const double*>(data)[at]);
      case ScalarType::Half:
        return static_cast<A>(reinterpret_cast<const Half*>(data)[at]);
      default:
        return static_cast<A>(reinterpret_cast<const BFloat16*>(data)[at]);
    }
  }
};
}  // namespace detops
