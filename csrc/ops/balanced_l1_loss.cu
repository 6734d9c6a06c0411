#include "balanced_l1_loss.h"
#include "pair_loss_kernels.h"

namespace detops {
DETOPS_PAIR_LOSS(BalancedL1, RawElements)
DETOPS_PAIR_LOSS_BACKWARD(BalancedL1, RawElements)
}  // namespace detops
