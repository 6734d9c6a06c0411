// Tensors as the kernels of deformable convolution see them.
#pragma once
#include <optional>

#include "../core/tensor.h"
#include "deform_conv2d.h"

namespace detops {
inline DeformField field_of(const Tensor& t) {
  return {data<char>(t), t.scalar_type(), {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}};
}
inline DeformField field_of(const std::optional<Tensor>& t) { return t ? field_of(*t) : DeformField{}; }

inline DeformResult result_of(Tensor* t) {
  return t != nullptr ? DeformResult{mutable_data<char>(*t), t->scalar_type()} : DeformResult{};
}
}  // namespace detops
