#include "pair_loss_kernels.h"
#include "smooth_l1_loss.h"

namespace detops {
DETOPS_PAIR_LOSS(SmoothL1, RawElements)
DETOPS_PAIR_LOSS_BACKWARD(SmoothL1, RawElements)
}  // namespace detops
