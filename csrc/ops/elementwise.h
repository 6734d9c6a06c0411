// CPU loops over the elements of tensors that broadcast against each other, whatever their strides and dtypes.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <vector>

#include "../core/parallel.h"
#include "../core/simd.h"
#include "../core/tensor.h"
#include "raw_elements.h"

namespace detops {
constexpr int64_t kPiece = 1024;  // elements read at a time

inline void check_same_shape(const char* op, const char* a_name, const Tensor& a, const char* b_name, const Tensor& b) {
  bool same = a.dim() == b.dim();
  for (int64_t d = 0; same && d < a.dim(); ++d) same = a.size(d) == b.size(d);
  if (!same) fail(op, "expected ", b_name, " of the shape of ", a_name, ", ", shape_of(a), ", got ", shape_of(b));
}

inline void check_broadcasts(const char* op, const char* a_name, const Tensor& a, const char* b_name, const Tensor& b) {
  bool fits = b.dim() <= a.dim();
  for (int64_t d = 0; fits && d < b.dim(); ++d) {
    fits = b.size(d) == 1 || b.size(d) == a.size(a.dim() - b.dim() + d);
  }
  if (fits) return;
  fail(op, "expected ", b_name, " that broadcasts to the shape of ", a_name, ", ", shape_of(a), ", got ", shape_of(b));
}

// The order in which elements are visited, that of the first tensor's memory, and each operand's strides in it. Axes
// that all operands step through alike are one, but for the axis `apart`.
struct Loop {
  std::vector<int64_t> sizes;                 // outermost first
  std::vector<std::vector<int64_t>> strides;  // of each operand, in elements; 0 where it is repeated
  int64_t size = 1;
  int apart_at = -1;  // where the axis that is apart stands; -1: it has one element, if there is one

  Loop(const Tensor& like, std::initializer_list<const Tensor*> operands, int64_t apart = -1)
      : strides(operands.size()) {
    const int64_t dim = like.dim();
    axes_.resize(dim);
    for (int64_t d = 0; d < dim; ++d) axes_[d] = d, size *= like.size(d);
    std::stable_sort(axes_.begin(), axes_.end(), [&](int64_t a, int64_t b) { return like.stride(a) > like.stride(b); });
    for (const int64_t axis : axes_) {
      if (like.size(axis) == 1) continue;
      std::vector<int64_t> steps;
      for (const Tensor* operand : operands) {
        const int64_t d = operand == nullptr ? -1 : axis - (dim - operand->dim());
        steps.push_back(d < 0 || operand->size(d) == 1 ? 0 : operand->stride(d));
      }
      bool merges = !sizes.empty() && axis != apart && apart_at != static_cast<int>(sizes.size()) - 1;
      for (size_t i = 0; i < steps.size(); ++i) {
        merges = merges && strides[i].back() == steps[i] * like.size(axis);
      }
      if (!merges) sizes.push_back(1);
      sizes.back() *= like.size(axis);
      if (axis == apart) apart_at = static_cast<int>(sizes.size()) - 1;
      for (size_t i = 0; i < steps.size(); ++i) {
        if (merges) strides[i].pop_back();
        strides[i].push_back(steps[i]);
      }
    }
  }

  // A tensor of the shape of `like` whose memory is in the order of the loop, without gaps.
  Tensor new_output(const Tensor& like, ScalarType dtype) const {
    std::vector<int64_t> shape(axes_.size()), steps(axes_.size());
    int64_t step = 1;
    for (size_t i = axes_.size(); i-- > 0;) {
      shape[axes_[i]] = like.size(axes_[i]);
      steps[axes_[i]] = step;
      step *= std::max<int64_t>(shape[axes_[i]], 1);
    }
    return new_strided(like, static_cast<int64_t>(shape.size()), shape.data(), steps.data(), dtype);
  }

 private:
  std::vector<int64_t> axes_;  // of the tensor, in the order of the loop
};

// The elements of an operand in the order of the loop, as A.
template <typename A>
class Elements {
 public:
  Elements(const Loop& loop, size_t operand, const Tensor& t)
      : size(loop.size),
        data_(data<char>(t)),
        dtype_(t.scalar_type()),
        sizes_(loop.sizes),
        strides_(loop.strides[operand]) {
    int64_t step = 1;
    for (size_t d = sizes_.size(); d-- > 0; step *= sizes_[d]) flat_ = flat_ && strides_[d] == step;
    rows_of_four_ = sizes_.size() == 2 && sizes_[1] == 4 && strides_[0] == 1 && strides_[1] == 0;
  }

  // Elements [begin, begin + count), count at most kPiece, in place or in the buffer; then zeros up to a multiple of
  // 64. begin is a multiple of kPiece.
  DETOPS_HD const A* read(int64_t begin, int64_t count, A* buffer) const {
    const A* in_place = flat<A>();
    if (in_place != nullptr && count == kPiece) return in_place + begin;
    fill(begin, count, buffer);
    return buffer;
  }

  // Where they lie one after the other as T; else null.
  template <typename T>
  DETOPS_HD const T* flat() const {
    return flat_ && dtype_ == torch::headeronly::CppTypeToScalarType<T>::value ? reinterpret_cast<const T*>(data_)
                                                                               : nullptr;
  }

  A at(int64_t i) const {
    alignas(64) A buffer[kPiece];
    return read(i, 1, buffer)[0];
  }

  int64_t size;

 private:
  // Compiled once, with its own switch of instruction sets: inlined into every kernel it would take minutes.
  [[gnu::noinline]] void fill(int64_t begin, int64_t count, A* buffer) const {
    simd([&](auto isa) DETOPS_INLINE {
      using V = Vec<decltype(isa), A>;
      switch (dtype_) {
        case ScalarType::Float:
          return fill_from<V, float>(begin, count, buffer);
        case ScalarType::Double:
          return fill_from<V, double>(begin, count, buffer);
        case ScalarType::Half:
          return fill_from<V, Half>(begin, count, buffer);
        default:
          return fill_from<V, BFloat16>(begin, count, buffer);
      }
    });
  }

  template <typename V, typename T>
  DETOPS_HD void fill_from(int64_t begin, int64_t count, A* buffer) const {
    constexpr bool kConverts = std::is_same_v<acc_t<T>, A>;  // a vector at a time
    const T* from = reinterpret_cast<const T*>(data_);
    if (flat_) {
      convert<V>(from + begin, count, buffer);
    } else if (kConverts && rows_of_four_ && count == kPiece) {
      if constexpr (kConverts) repeat_four<V>(from + begin / 4, buffer);
    } else {
      gather<V>(from, begin, count, buffer);
    }
    std::fill(buffer + count, buffer + (count + 63) / 64 * 64, A(0));
  }

  template <typename V, typename T>
  DETOPS_HD static void convert(const T* from, int64_t count, A* buffer) {
    constexpr int64_t kLanes = sizeof(V) / sizeof(A);
    int64_t i = 0;
    if constexpr (std::is_same_v<acc_t<T>, A>) {
      for (; i + kLanes <= count; i += kLanes) store(buffer + i, load<V>(from + i));
    }
    for (; i < count; ++i) buffer[i] = static_cast<A>(from[i]);
  }

  template <typename V, typename T>
  DETOPS_HD static void repeat_four(const T* from, A* buffer) {
    constexpr int64_t kLanes = sizeof(V) / sizeof(A);
    decltype(V{} < V{}) quarter;
    for (int64_t i = 0; i < kLanes; ++i) quarter[i] = i / 4;
    if constexpr (kLanes < 4) {
      for (int64_t i = 0; i < kPiece; ++i) buffer[i] = static_cast<A>(from[i / 4]);
    } else {
      for (int64_t i = 0; i < kPiece; i += 4 * kLanes, from += kLanes) {
        const V each = load<V>(from);
#pragma GCC unroll 4
        for (int64_t k = 0; k < 4; ++k) {
          store(buffer + i + k * kLanes, __builtin_shuffle(each, quarter + static_cast<int>(k * kLanes / 4)));
        }
      }
    }
  }

  template <typename V, typename T>
  DETOPS_HD void gather(const T* from, int64_t begin, int64_t count, A* buffer) const {
    if (sizes_.empty()) {
      *buffer = static_cast<A>(*from);
      return;
    }
    const size_t inner = sizes_.size() - 1;
    int64_t index[RawLoop::kMostAxes];
    for (size_t d = sizes_.size(); d-- > 0; begin /= sizes_[d]) index[d] = begin % sizes_[d];
    while (count > 0) {
      const T* row = from;
      for (size_t d = 0; d <= inner; ++d) row += index[d] * strides_[d];
      const int64_t run = std::min(count, sizes_[inner] - index[inner]), step = strides_[inner];
      if (step == 1) {
        convert<V>(row, run, buffer);
      } else if (step == 0) {
        std::fill(buffer, buffer + run, static_cast<A>(*row));
      } else {
        for (int64_t i = 0; i < run; ++i) buffer[i] = static_cast<A>(row[i * step]);
      }
      buffer += run;
      count -= run;
      index[inner] += run;
      for (size_t d = inner; d > 0 && index[d] == sizes_[d]; --d) index[d] = 0, ++index[d - 1];
    }
  }

  const char* data_;
  ScalarType dtype_;
  std::vector<int64_t> sizes_, strides_;
  bool flat_ = true;           // in the order of the loop, without gaps
  bool rows_of_four_ = false;  // one number for each box's coordinates
};

// The first `count` numbers of a buffer of a multiple of 64, to out.
template <typename V, typename A, typename Out>
DETOPS_HD void write(const A* buffer, int64_t count, Out* out) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(A);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, load<V>(buffer + i));
  for (; i < count; ++i) out[i] = static_cast<Out>(buffer[i]);
}

// For CUDA.
inline RawLoop raw_loop(const Loop& loop) {
  RawLoop raw{loop.size, static_cast<int>(loop.sizes.size()), {}};
  std::copy(loop.sizes.begin(), loop.sizes.end(), raw.sizes);
  return raw;
}
inline RawElements raw_elements(const Loop& loop, size_t operand, const Tensor& t, ScalarType of_kernel) {
  RawElements raw{data<char>(t), t.scalar_type(), false, {}};
  bool flat = true;
  int64_t step = 1;
  for (size_t axis = loop.sizes.size(); axis-- > 0; step *= loop.sizes[axis]) {
    raw.strides[axis] = loop.strides[operand][axis];
    flat = flat && raw.strides[axis] == step;
  }
  raw.in_packs = flat && raw.dtype == of_kernel && reinterpret_cast<uintptr_t>(raw.data) % 16 == 0;
  return raw;
}
}  // namespace detops
