#include "../core/launch.h"
#include "sigmoid_focal_loss.h"

namespace detops {
// Where element i of the loop has its label, and its class.
struct LabelPlace {
  int64_t label, column;
  int64_t left;  // elements until the innermost axis starts again
};

template <typename Index>
DETOPS_D LabelPlace place(const RawLoop& loop, const RawLabels& from, Index i) {
  LabelPlace found{0, 0, 1};
  for (int axis = loop.axes - 1; axis >= 0; --axis) {
    const auto size = static_cast<Index>(loop.sizes[axis]);
    const auto index = static_cast<int64_t>(i % size);
    found.label += index * from.strides[axis];
    if (axis == from.class_axis) found.column = index;
    if (axis == loop.axes - 1) found.left = loop.sizes[axis] - index;
    i /= size;
  }
  return found;
}

// The codes of elements i, i + 1, ...
template <typename T, bool kPacks, int kCount, typename A>
DETOPS_D void read(const RawLoop& loop, const RawLabels& from, int64_t i, int count, A (&codes)[kCount]) {
  LabelPlace at{0, 0, 0};
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (k >= count) {
      codes[k] = A(0);
      continue;
    }
    if (at.left == 0) {
      at = is_narrow(loop.size) ? place(loop, from, static_cast<uint32_t>(i + k)) : place(loop, from, i + k);
    }
    const int64_t label = from.load(at.label);
    codes[k] = label < 0 || label > from.classes ? A(kIgnored) : label == at.column ? A(1) : A(0);
    --at.left;
    if (loop.axes - 1 == from.class_axis) {
      ++at.column;
    } else if (loop.axes > 0) {
      at.label += from.strides[loop.axes - 1];
    }
  }
}
}  // namespace detops

#include "pair_loss_kernels.h"  // after read(), which its kernels call

namespace detops {
DETOPS_PAIR_LOSS(FocalLossOfCodes, RawLabels)
DETOPS_PAIR_LOSS_BACKWARD(FocalLossOfCodes, RawLabels)
}  // namespace detops
