#include "ps_rois_cuda.h"

namespace detops {
DETOPS_INSTANTIATE_PS_ROI(SampledBins)
}  // namespace detops
