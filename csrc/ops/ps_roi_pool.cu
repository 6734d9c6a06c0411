#include "ps_roi_kernels.h"

namespace detops {
DETOPS_INSTANTIATE_PS_ROI(WholeBins)
}  // namespace detops
