#include "ps_roi_kernels.h"

namespace detops {
DETOPS_INSTANTIATE_PS_ROI(SampledBins)
}  // namespace detops
