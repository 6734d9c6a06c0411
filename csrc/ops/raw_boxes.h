// Boxes as a tensor has them, of any real dtype and any strides: what the CPU kernels and CUDA's read alike.
#pragma once
#include <torch/headeronly/core/ScalarType.h>

#include "../core/device.h"
#include "../math/box.h"

namespace detops {
using torch::headeronly::ScalarType;

// fn(pointer to the elements, as their type)
template <typename Fn>
DETOPS_HD auto visit_elements(const char* data, ScalarType dtype, const Fn& fn) {
  switch (dtype) {
    case ScalarType::Float:
      return fn(reinterpret_cast<const float*>(data));
    case ScalarType::Double:
      return fn(reinterpret_cast<const double*>(data));
    case ScalarType::Half:
      return fn(reinterpret_cast<const Half*>(data));
    case ScalarType::BFloat16:
      return fn(reinterpret_cast<const BFloat16*>(data));
    case ScalarType::Byte:
      return fn(reinterpret_cast<const uint8_t*>(data));
    case ScalarType::Char:
      return fn(reinterpret_cast<const int8_t*>(data));
    case ScalarType::Short:
      return fn(reinterpret_cast<const int16_t*>(data));
    case ScalarType::Int:
      return fn(reinterpret_cast<const int32_t*>(data));
    default:
      return fn(reinterpret_cast<const int64_t*>(data));
  }
}

struct RawBoxes {  // (images, size, 4)
  const char* data;
  ScalarType dtype;
  int64_t size, image_stride, row_stride, column_stride;  // strides in elements

  // fn(pointer to the first coordinate, as its type)
  template <typename Fn>
  DETOPS_HD auto visit(const Fn& fn) const {
    return visit_elements(data, dtype, fn);
  }

  template <typename A>
  DETOPS_HD Box<A> load(int64_t image, int64_t i) const {
    const int64_t first = image * image_stride + i * row_stride;
    return visit([&](const auto* boxes) {
      const auto* box = boxes + first;
      return Box<A>{static_cast<A>(box[0]), static_cast<A>(box[column_stride]), static_cast<A>(box[2 * column_stride]),
                    static_cast<A>(box[3 * column_stride])};
    });
  }
};

// Numbers of boxes, such as their scores.
struct RawNumbers {  // (images, size)
  const char* data;
  ScalarType dtype;
  int64_t image_stride, stride;  // in elements

  template <typename Fn>
  DETOPS_HD auto visit(const Fn& fn) const {
    return visit_elements(data, dtype, fn);
  }
};
}  // namespace detops
