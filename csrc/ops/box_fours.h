// The rows of four numbers of a tensor for CUDA kernels, read as one where the tensor allows it.
#pragma once
#include "../core/launch.h"
#include "raw_boxes.h"

namespace detops {
template <typename T>
struct alignas(sizeof(T) * 4 < 16 ? sizeof(T) * 4 : 16) Four {
  T values[4];
};

// Whether every row may be read as a Four<T>.
template <typename T>
bool in_fours(const RawBoxes& boxes, ScalarType dtype) {
  return boxes.dtype == dtype && boxes.column_stride == 1 && boxes.row_stride % 4 == 0 && boxes.image_stride % 4 == 0 &&
         reinterpret_cast<uintptr_t>(boxes.data) % alignof(Four<T>) == 0;
}

template <typename A, typename T, bool kFours>
DETOPS_D Box<A> read_row(const RawBoxes& from, int64_t image, int64_t row) {
  if constexpr (!kFours) return from.load<A>(image, row);
  const T* at = reinterpret_cast<const T*>(from.data) + image * from.image_stride + row * from.row_stride;
  const auto four = *reinterpret_cast<const Four<T>*>(at);
  return {static_cast<A>(four.values[0]), static_cast<A>(four.values[1]), static_cast<A>(four.values[2]),
          static_cast<A>(four.values[3])};
}
}  // namespace detops
