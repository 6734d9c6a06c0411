// The only header that knows torch: tensors, checks, dispatch by dtype and device, registration, over the LibTorch
// stable ABI.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/shim_utils.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <array>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>

#include "device.h"

namespace detops {
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// ---- Checks: every message reads "<operator>: expected <argument> ..., got ...". -----------------------------------

template <typename... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << op << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string shape_of(const Tensor& t) {
  std::string text = "(";
  for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
  return text + ")";
}

// As Python names it: "float32".
inline std::string dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    default:
      return torch::headeronly::toString(t.scalar_type());
  }
}

constexpr int64_t kAny = -1;  // a size that is not checked

template <typename Sizes = std::initializer_list<int64_t>>
void check_shape(const char* op, const char* name, const Tensor& t, const Sizes& expected) {
  bool matches = t.dim() == static_cast<int64_t>(expected.size());
  int64_t d = 0;
  for (const int64_t size : expected) {
    matches = matches && (size == kAny || t.size(d) == size);
    ++d;
  }
  if (matches) return;
  std::string wanted;
  for (const int64_t size : expected)
    wanted += (wanted.empty() ? "" : ", ") + (size == kAny ? "*" : std::to_string(size));
  fail(op, "expected ", name, " of shape (", wanted, "), got ", shape_of(t));
}

inline int64_t element_size(ScalarType type) {
  switch (type) {
    case ScalarType::Byte:
    case ScalarType::Char:
      return 1;
    case ScalarType::Short:
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return 2;
    case ScalarType::Int:
    case ScalarType::Float:
      return 4;
    default:
      return 8;
  }
}
inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}
inline bool is_double(const Tensor& t) { return t.scalar_type() == ScalarType::Double; }
inline bool is_integral(ScalarType type) {
  return type == ScalarType::Byte || type == ScalarType::Char || type == ScalarType::Short || type == ScalarType::Int ||
         type == ScalarType::Long;
}

inline void check_floating(const char* op, const char* name, const Tensor& t) {
  if (!is_floating(t.scalar_type())) {
    fail(op, "expected ", name, " of dtype float32, float64, float16 or bfloat16, got ", dtype_of(t));
  }
}
inline void check_real(const char* op, const char* name, const Tensor& t) {
  if (!is_floating(t.scalar_type()) && !is_integral(t.scalar_type())) {
    fail(op, "expected ", name, " of a floating or integer dtype, got ", dtype_of(t));
  }
}
inline void check_same_dtype(const char* op, const char* a_name, const Tensor& a, const char* b_name, const Tensor& b) {
  if (a.scalar_type() != b.scalar_type()) {
    fail(op, "expected ", b_name, " of the dtype of ", a_name, ", ", dtype_of(a), ", got ", dtype_of(b));
  }
}
inline void check_same_device(const char* op, const char* a_name, const Tensor& a, const char* b_name,
                              const Tensor& b) {
  if (a.device() == b.device()) return;
  const auto name = [](const Tensor& t) {
    return t.is_cpu() ? std::string("cpu") : t.is_cuda() ? "cuda:" + std::to_string(t.get_device_index()) : "another";
  };
  fail(op, "expected ", b_name, " on the device of ", a_name, ", ", name(a), ", got ", name(b));
}

// ---- Making tensors: straight through the C shim, a third of the dispatcher's latency. -----------------------------

constexpr int64_t kHugeBytes = int64_t{8} << 20;  // smaller blocks come from memory that is in use already

// Asks for huge pages under a large block of fresh CPU memory: touching it for the first time is then several times
// faster.
inline void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a hint: may be refused
#endif
}

// Uninitialised, on the device of `like`.
inline Tensor new_strided(const Tensor& like, int64_t dim, const int64_t* sizes, const int64_t* strides,
                          ScalarType dtype) {
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  const auto shim_dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dim, sizes, strides, shim_dtype, device_type, device_index, &handle));
  Tensor tensor(handle);
  int64_t bytes = element_size(dtype);
  for (int64_t d = 0; d < dim; ++d) bytes *= sizes[d];
  if (bytes >= kHugeBytes && tensor.is_cpu()) advise_huge_pages(const_cast<void*>(tensor.const_data_ptr()), bytes);
  return tensor;
}

// The same; strides are row-major unless given.
template <size_t kDim>
Tensor new_tensor(const Tensor& like, const std::array<int64_t, kDim>& sizes, ScalarType dtype,
                  const int64_t* strides = nullptr) {
  std::array<int64_t, kDim + 1> row_major{};
  if (strides == nullptr) {
    int64_t stride = 1;
    for (size_t d = kDim; d-- > 0; stride *= sizes[d] > 1 ? sizes[d] : 1) row_major[d] = stride;
    strides = row_major.data();
  }
  return new_strided(like, static_cast<int64_t>(kDim), sizes.data(), strides, dtype);
}

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// ---- Dispatch ------------------------------------------------------------------------------------------------------

template <typename T>
struct Type {
  using type = T;
};

// Calls fn(Type<T>{}) with the C++ type T of a floating tensor's elements; checked before.
template <typename Fn>
void dispatch_floating(const char* op, const Tensor& t, const Fn& fn) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return fn(Type<float>{});
    case ScalarType::Double:
      return fn(Type<double>{});
    case ScalarType::Half:
      return fn(Type<Half>{});
    case ScalarType::BFloat16:
      return fn(Type<BFloat16>{});
    default:
      fail(op, "expected a floating dtype, got ", dtype_of(t));
  }
}

// The same with the integer types.
template <typename Fn>
void dispatch_real(const char* op, const Tensor& t, const Fn& fn) {
  switch (t.scalar_type()) {
    case ScalarType::Byte:
      return fn(Type<uint8_t>{});
    case ScalarType::Char:
      return fn(Type<int8_t>{});
    case ScalarType::Short:
      return fn(Type<int16_t>{});
    case ScalarType::Int:
      return fn(Type<int32_t>{});
    case ScalarType::Long:
      return fn(Type<int64_t>{});
    default:
      return dispatch_floating(op, t, fn);
  }
}

// The same by dtype alone; checked before.
template <typename Fn>
void dispatch_type(ScalarType dtype, const Fn& fn) {
  switch (dtype) {
    case ScalarType::Byte:
      return fn(Type<uint8_t>{});
    case ScalarType::Char:
      return fn(Type<int8_t>{});
    case ScalarType::Short:
      return fn(Type<int16_t>{});
    case ScalarType::Int:
      return fn(Type<int32_t>{});
    case ScalarType::Long:
      return fn(Type<int64_t>{});
    case ScalarType::Half:
      return fn(Type<Half>{});
    case ScalarType::BFloat16:
      return fn(Type<BFloat16>{});
    case ScalarType::Double:
      return fn(Type<double>{});
    default:
      return fn(Type<float>{});
  }
}

template <typename T>
const T* data(const Tensor& t) {
  void* pointer = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(t.get(), &pointer));
  return static_cast<const T*>(pointer);
}
template <typename T>
T* mutable_data(Tensor& t) {
  return const_cast<T*>(data<T>(t));
}

// Calls on_cpu() or, in a library built with CUDA, on_cuda(stream) under a device guard, by the device of t.
template <typename OnCpu, typename OnCuda>
void dispatch_device([[maybe_unused]] const Tensor& t, [[maybe_unused]] const OnCpu& on_cpu,
                     [[maybe_unused]] const OnCuda& on_cuda) {
#if defined(DETOPS_EMULATE_CUDA)
  on_cuda(static_cast<void*>(nullptr));
#elif defined(DETOPS_WITH_CUDA)
  const torch::stable::accelerator::DeviceGuard guard(t.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  on_cuda(stream);
#else
  on_cpu();
#endif
}

// ---- Registration --------------------------------------------------------------------------------------------------

// DETOPS_OP(f, "(Tensor a) -> Tensor") makes the host function f the operator detops::f. A host function is compiled
// once per library: _C holds the schema and the CPU's kernel, _C_cuda adds CUDA's.
#if defined(DETOPS_EMULATE_CUDA)
#define DETOPS_OP(F, SCHEMA)                                              \
  STABLE_TORCH_LIBRARY_FRAGMENT(detops_emulated, m) { m.def(#F SCHEMA); } \
  STABLE_TORCH_LIBRARY_IMPL(detops_emulated, CPU, m) { m.impl(#F, TORCH_BOX(&F)); }
#elif defined(DETOPS_WITH_CUDA)
#define DETOPS_OP(F, SCHEMA) \
  STABLE_TORCH_LIBRARY_IMPL(detops, CUDA, m) { m.impl(#F, TORCH_BOX(&F)); }
#else
#define DETOPS_OP(F, SCHEMA)                                     \
  STABLE_TORCH_LIBRARY_FRAGMENT(detops, m) { m.def(#F SCHEMA); } \
  STABLE_TORCH_LIBRARY_IMPL(detops, CPU, m) { m.impl(#F, TORCH_BOX(&F)); }
#endif
}  // namespace detops
