// The platform's matrix product over plain memory: torch's own kernels, called below its dispatcher, so that neither
// autocast nor autograd sees them and any thread may call.
#pragma once
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#if defined(DETOPS_WITH_CUDA)
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#endif

#include <array>

#include "tensor.h"

namespace detops {
// A batch of matrices in the memory of a tensor, or in plain memory of the CPU.
struct Matrices {
  void* data;
  ScalarType dtype;
  std::array<int64_t, 3> sizes, strides;  // matrix, row, column
  int32_t device_type = aoti_torch_device_type_cpu(), device_index = 0;

  Matrices transposed() const {
    Matrices t = *this;
    std::swap(t.sizes[1], t.sizes[2]);
    std::swap(t.strides[1], t.strides[2]);
    return t;
  }
  // The first `dim` = 3 axes, or rows and columns of the first matrix.
  Tensor view(int64_t dim) const {
    AtenTensorHandle handle;
    TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(
        data, dim, sizes.data() + 3 - dim, strides.data() + 3 - dim, /*storage_offset=*/0,
        torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device_type, device_index, &handle));
    return Tensor(handle);
  }
};

template <typename T>
constexpr ScalarType scalar_type = std::is_same_v<T, float>    ? ScalarType::Float
                                   : std::is_same_v<T, double> ? ScalarType::Double
                                   : std::is_same_v<T, Half>   ? ScalarType::Half
                                                               : ScalarType::BFloat16;

// A matrix in plain memory of the CPU, row by row.
template <typename T>
Matrices matrix(const T* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride = 1) {
  return {const_cast<T*>(data), scalar_type<T>, {1, rows, columns}, {0, row_stride, column_stride}};
}

#if defined(DETOPS_WITH_CUDA)
#define DETOPS_SHIM(NAME) aoti_torch_cuda_##NAME
#else
#define DETOPS_SHIM(NAME) aoti_torch_cpu_##NAME
#endif

// output = a b, or start + a b where it is given; start may be the output.
inline void multiply(const Matrices& output, const Matrices& a, const Matrices& b, const Matrices* start = nullptr) {
  const int64_t dim = output.sizes[0] == 1 ? 2 : 3;
  const Tensor to = output.view(dim), left = a.view(dim), right = b.view(dim);
  if (start == nullptr) {
    TORCH_ERROR_CODE_CHECK(dim == 2 ? DETOPS_SHIM(mm_out)(to.get(), left.get(), right.get())
                                    : DETOPS_SHIM(bmm_out)(to.get(), left.get(), right.get()));
    return;
  }
  const Tensor from = start->data == output.data ? to : start->view(dim);
  TORCH_ERROR_CODE_CHECK(dim == 2 ? DETOPS_SHIM(addmm_out)(to.get(), from.get(), left.get(), right.get(), 1, 1)
                                  : DETOPS_SHIM(baddbmm_out)(to.get(), from.get(), left.get(), right.get(), 1, 1));
}
}  // namespace detops
