#include "masks_to_boxes.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "../core/parallel.h"
#include "../core/simd.h"
#include "../core/tensor.h"

namespace detops {
namespace {
template <typename V>
DETOPS_HD bool any(V v) {
  using Words = typename VecOf<uint64_t, sizeof(V)>::type;
  const Words words = bit_cast<Words>(v);
  uint64_t all = 0;
  for (size_t i = 0; i < sizeof(V) / 8; ++i) all |= words[i];
  return all != 0;
}

// Whether one of kCount vectors of elements is set.
template <int kCount, typename V, typename U>
DETOPS_HD bool any_set(const U* at, U counted) {
  V either = load<V>(at);
  for (int k = 1; k < kCount; ++k) either |= load<V>(at + k * static_cast<int64_t>(sizeof(V) / sizeof(U)));
  return any(either & counted);
}

// The first and, below, the last element of [0, size) that is set; -1 if none is. The last vector read may overlap the
// one before it.
template <typename Isa, typename U>
DETOPS_HD int64_t first_set(const U* row, int64_t size, U counted) {
  using V = Vec<Isa, U>;
  constexpr int64_t kLanes = lanes<Isa, U>;
  int64_t i = 0;
  while (i + 4 * kLanes <= size && !any_set<4, V>(row + i, counted)) i += 4 * kLanes;
  while (i + kLanes <= size && !any_set<1, V>(row + i, counted)) i += kLanes;
  if (i < size && size - i < kLanes && size >= kLanes && !any_set<1, V>(row + size - kLanes, counted)) return -1;
  while (i < size && !is_set(row[i], counted)) ++i;
  return i < size ? i : -1;
}
template <typename Isa, typename U>
DETOPS_HD int64_t last_set(const U* row, int64_t size, U counted) {
  using V = Vec<Isa, U>;
  constexpr int64_t kLanes = lanes<Isa, U>;
  int64_t end = size;
  while (end >= 4 * kLanes && !any_set<4, V>(row + end - 4 * kLanes, counted)) end -= 4 * kLanes;
  while (end >= kLanes && !any_set<1, V>(row + end - kLanes, counted)) end -= kLanes;
  if (end > 0 && end < kLanes && size >= kLanes && !any_set<1, V>(row, counted)) return -1;
  while (end > 0 && !is_set(row[end - 1], counted)) --end;
  return end - 1;
}

// One mask.
template <typename Isa, typename U>
class Mask {
 public:
  DETOPS_HD Mask(const RawMasks& masks, int64_t i, U counted)
      : of_(masks), data_(reinterpret_cast<const U*>(masks.data) + i * masks.mask_stride), counted_(counted) {}

  // From the edges inwards, so that nothing inside the box is looked at.
  DETOPS_HD MaskExtent extent() {
    const int64_t last_column = of_.width - 1;
    int64_t y1 = 0, x1 = -1;
    for (; y1 < of_.height && (x1 = first(y1, 0, of_.width)) < 0; ++y1) {
    }
    if (y1 == of_.height) return {0, 0, -1, -1};
    int64_t y2 = of_.height - 1, x2 = -1;
    while ((x2 = last(y2, 0, of_.width)) < 0) --y2;
    for (int64_t y = y1; y <= y2 && (x1 > 0 || x2 < last_column); ++y) {
      const int64_t left = first(y, 0, x1), right = last(y, x2 + 1, of_.width);
      if (left >= 0) x1 = left;
      if (right >= 0) x2 = right;
    }
    return {x1, y1, x2, y2};
  }

 private:
  static constexpr int64_t kPiece = 1024;  // elements gathered at a time

  // The first and the last column of [begin, end) that is set; -1 if none is.
  DETOPS_HD int64_t first(int64_t y, int64_t begin, int64_t end) {
    for (; begin < end; begin += kPiece) {
      const int64_t size = std::min(kPiece, end - begin), found = first_set<Isa>(read(y, begin, size), size, counted_);
      if (found >= 0) return begin + found;
    }
    return -1;
  }
  DETOPS_HD int64_t last(int64_t y, int64_t begin, int64_t end) {
    for (; begin < end; end -= kPiece) {
      const int64_t from = std::max(begin, end - kPiece), size = end - from;
      const int64_t found = last_set<Isa>(read(y, from, size), size, counted_);
      if (found >= 0) return from + found;
    }
    return -1;
  }

  DETOPS_HD const U* read(int64_t y, int64_t begin, int64_t size) {
    const U* row = data_ + y * of_.row_stride + begin * of_.column_stride;
    if (of_.column_stride == 1) return row;
    for (int64_t i = 0; i < size; ++i) buffer_[i] = row[i * of_.column_stride];
    return buffer_;
  }

  const RawMasks& of_;
  const U* data_;
  U counted_;
  alignas(64) U buffer_[kPiece];
};

template <typename U>
void masks_to_boxes_cpu(RawMasks masks, U counted, float* boxes) {
  const bool transposed = masks.row_stride < masks.column_stride;
  if (transposed) {
    std::swap(masks.row_stride, masks.column_stride);
    std::swap(masks.height, masks.width);
  }
  const double bytes = static_cast<double>(masks.height) * static_cast<double>(masks.width) * sizeof(U);
  parallel_for(masks.count, grain_for(0.05 * bytes + 20), [&](int64_t begin, int64_t end) {
    simd([&](auto isa) DETOPS_INLINE {
      for (int64_t i = begin; i < end; ++i) {
        MaskExtent at = Mask<decltype(isa), U>(masks, i, counted).extent();
        if (at.x2 < 0) at = {0, 0, 0, 0};
        if (transposed) at = {at.y1, at.x1, at.y2, at.x2};
        float* box = boxes + 4 * i;
        box[0] = static_cast<float>(at.x1), box[1] = static_cast<float>(at.y1);
        box[2] = static_cast<float>(at.x2), box[3] = static_cast<float>(at.y2);
      }
    });
  });
}

// fn(bits that make an element other than zero, as an unsigned integer of its size)
template <typename Fn>
void dispatch_counted(ScalarType dtype, const Fn& fn) {
  const auto all = [&](auto zero) {
    using U = decltype(zero);
    fn(static_cast<U>(is_floating(dtype) ? std::numeric_limits<U>::max() / 2 : std::numeric_limits<U>::max()));
  };
  switch (dtype == ScalarType::Bool ? 1 : element_size(dtype)) {
    case 1:
      return all(uint8_t{});
    case 2:
      return all(uint16_t{});
    case 4:
      return all(uint32_t{});
    default:
      return all(uint64_t{});
  }
}
}  // namespace

Tensor masks_to_boxes(const Tensor& masks) {
  const char* op = "masks_to_boxes";
  if (masks.scalar_type() != ScalarType::Bool) check_real(op, "masks", masks);
  check_shape(op, "masks", masks, {kAny, kAny, kAny});
  Tensor boxes = new_tensor<2>(masks, {masks.size(0), 4}, ScalarType::Float);
  if (masks.size(0) == 0) return boxes;
  if (masks.size(1) == 0 || masks.size(2) == 0) return torch::stable::zero_(boxes);
  const RawMasks raw{data<char>(masks), masks.size(0),   masks.size(1),  masks.size(2),
                     masks.stride(0),   masks.stride(1), masks.stride(2)};
  float* to = mutable_data<float>(boxes);
  dispatch_counted(masks.scalar_type(), [&](auto counted) {
    using U = decltype(counted);
    dispatch_device(
        masks, [&] { masks_to_boxes_cpu(raw, counted, to); },
        [&](void* stream) {
          const MaskParts divided(raw);
          const int64_t words = sizeof(MaskExtent) / sizeof(int64_t);
          Tensor extents =
              new_tensor<3>(masks, {divided.parts > 1 ? raw.count : 0, divided.parts, words}, ScalarType::Long);
          auto* partial = divided.parts > 1 ? reinterpret_cast<MaskExtent*>(mutable_data<int64_t>(extents)) : nullptr;
          masks_to_boxes_cuda<U>({raw, counted, divided, partial, to}, stream);
        });
  });
  return boxes;
}
DETOPS_OP(masks_to_boxes, "(Tensor masks) -> Tensor")
}  // namespace detops
