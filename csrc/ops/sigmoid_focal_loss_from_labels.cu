#include "../core/launch.h"
#include "sigmoid_focal_loss.h"

namespace detops {
// The codes of elements i, i + 1, ...
template <typename T, bool kPacks, int kCount, typename A>
DETOPS_D void read(const RawLoop& loop, const RawLabels& from, int64_t i, int count, A (&codes)[kCount]) {
  int64_t row, column;
  if (is_narrow(loop.size) && is_narrow(from.classes)) {
    row = static_cast<uint32_t>(i) / static_cast<uint32_t>(from.classes);
    column = static_cast<uint32_t>(i) % static_cast<uint32_t>(from.classes);
  } else {
    row = i / from.classes;
    column = i % from.classes;
  }
  int64_t label = from.load(row);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    codes[k] = label < 0 || label > from.classes ? A(kIgnored) : label == column ? A(1) : A(0);
    if (k + 1 < count && ++column == from.classes) column = 0, label = from.load(++row);
  }
}
}  // namespace detops

#include "pair_loss_kernels.h"  // after read(), which its kernels call

namespace detops {
DETOPS_PAIR_LOSS(FocalLossOfCodes, RawLabels)
DETOPS_PAIR_LOSS_BACKWARD(FocalLossOfCodes, RawLabels)
}  // namespace detops
