#include "remove_small_boxes.h"

#include <algorithm>
#include <array>
#include <limits>

#include "box_columns.h"
#include "marked_rows.h"

namespace detops {
namespace {
// The least side, in the type that sides are computed in, that is `min_size` or more once both are rounded to T;
// infinity if none is. As PyTorch compares a tensor with a number.
template <typename T>
double least_side(double min_size) {
  if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>) {
    const float wanted = static_cast<T>(static_cast<float>(min_size));
    const auto reaches = [&](float side) { return static_cast<float>(static_cast<T>(side)) >= wanted; };
    float low = -std::numeric_limits<float>::infinity(), high = std::numeric_limits<float>::infinity();
    if (!reaches(high)) return std::numeric_limits<double>::quiet_NaN();
    if (reaches(low)) return low;
    // Floating numbers in their order, as integers.
    const auto number = [](int32_t at) { return bit_cast<float>(at < 0 ? at ^ 0x7fffffff : at); };
    const auto place = [](float x) {
      const auto bits = bit_cast<int32_t>(x);
      return bits < 0 ? bits ^ 0x7fffffff : bits;
    };
    int64_t below = place(low), reached = place(high);
    while (reached - below > 1) {
      const int64_t middle = (below + reached) / 2;
      (reaches(number(static_cast<int32_t>(middle))) ? reached : below) = middle;
    }
    return number(static_cast<int32_t>(reached));
  } else {
    return static_cast<acc_t<T>>(min_size);
  }
}

template <typename A>
struct alignas(64) Columns {
  A x1[kRowPiece], y1[kRowPiece], x2[kRowPiece], y2[kRowPiece];
};

// One bit for each of rows [begin, begin + count), which end with a piece or with the boxes; returns how many are set.
template <typename T, typename Isa>
DETOPS_HD int64_t mark_piece(const BoxView& boxes, acc_t<T> least, int64_t begin, int64_t count, RowBits* bits) {
  using A = acc_t<T>;
  int64_t kept = 0;
  if constexpr (std::is_integral_v<T>) {
    const T* row = reinterpret_cast<const T*>(boxes.data) + begin * boxes.row_stride;
    std::fill(bits, bits + words_of(count), RowBits{0});
    for (int64_t i = 0; i < count; ++i, row += boxes.row_stride) {
      const T *y = row + boxes.column_stride, *far = row + 2 * boxes.column_stride;
      const bool both = side<A>(*row, *far) >= least && side<A>(*y, far[boxes.column_stride]) >= least;
      bits[i / kBitsOfRows] |= static_cast<RowBits>(both) << i % kBitsOfRows;
      kept += both;
    }
  } else {
    using V = Vec<Isa, A>;
    constexpr int64_t kLanes = lanes<Isa, A>;
    Columns<A> columns;
    boxes.template read_vectors<V>(begin, count, columns.x1, columns.y1, columns.x2, columns.y2);
    const V at_least = broadcast<V>(least);
    for (int64_t first = 0; first < count; first += kBitsOfRows) {
      RowBits word = 0;
      for (int64_t k = 0; k < kBitsOfRows; k += kLanes) {
        const int64_t i = first + k;
        const V width = load<V>(columns.x2 + i) - load<V>(columns.x1 + i);
        const V height = load<V>(columns.y2 + i) - load<V>(columns.y1 + i);
        word |= (detops::bits(width >= at_least) & detops::bits(height >= at_least)) << k;
      }
      if (count - first < kBitsOfRows) word &= (RowBits{1} << (count - first)) - 1;
      bits[first / kBitsOfRows] = word;
      kept += __builtin_popcount(word);
    }
  }
  return kept;
}

template <typename T>
Tensor on_cpu(const Tensor& boxes, double min_size) {
  const BoxView view(boxes);
  const auto least = static_cast<acc_t<T>>(least_side<T>(min_size));
  return marked_rows(boxes, view.size, 0.5, [&](auto isa, int64_t begin, int64_t count, RowBits* bits) DETOPS_INLINE {
    return mark_piece<T, decltype(isa)>(view, least, begin, count, bits);
  });
}

template <typename T>
Tensor on_cuda(const Tensor& boxes, double min_size, void* stream) {
  const BoxView view(boxes);
  const RowParts divided(view.size);
  Tensor bits = new_tensor<1>(boxes, {words_of(view.size)}, ScalarType::Int);
  Tensor counts = new_tensor<1>(boxes, {divided.parts + 1}, ScalarType::Long);
  Tensor all = new_tensor<1>(boxes, {view.size}, ScalarType::Long);
  int64_t* const of_parts = mutable_data<int64_t>(counts);
  auto* const words = reinterpret_cast<RowBits*>(mutable_data<int32_t>(bits));
  const double least = least_side<T>(min_size);
  remove_small_boxes_cuda<T>(
      {view, least, divided, words, of_parts, mutable_data<int64_t>(all), of_parts + divided.parts}, stream);
  int64_t kept = 0;
  const Tensor count = torch::stable::select(counts, 0, divided.parts);
  TORCH_ERROR_CODE_CHECK(aoti_torch_item_int64(count.get(), &kept));  // the one wait
  return torch::stable::narrow(all, 0, 0, kept);
}
}  // namespace

Tensor remove_small_boxes(const Tensor& boxes, double min_size) {
  const char* op = "remove_small_boxes";
  check_real(op, "boxes", boxes);
  check_shape(op, "boxes", boxes, {kAny, 4});
  if (boxes.size(0) == 0) return new_tensor<1>(boxes, {0}, ScalarType::Long);
  Tensor keep;
  dispatch_real(op, boxes, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_device(
        boxes, [&] { keep = on_cpu<T>(boxes, min_size); },
        [&](void* stream) { keep = on_cuda<T>(boxes, min_size, stream); });
  });
  return keep;
}
DETOPS_OP(remove_small_boxes, "(Tensor boxes, float min_size) -> Tensor")
}  // namespace detops
