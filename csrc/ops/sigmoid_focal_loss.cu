#include "pair_loss_kernels.h"
#include "sigmoid_focal_loss.h"

namespace detops {
DETOPS_PAIR_LOSS(FocalLoss, RawElements)
DETOPS_PAIR_LOSS_BACKWARD(FocalLoss, RawElements)
DETOPS_PAIR_LOSS_BACKWARD(FocalLossOfTargets, RawElements)
}  // namespace detops
