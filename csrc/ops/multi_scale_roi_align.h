// RoIAlign (roi_align.h) from a feature pyramid: each region from the map of its level (roi_levels.h).
#pragma once
#include "roi_align.h"

namespace detops {
// As roi_align_cuda and roi_align_backward_cuda.
template <typename T>
void multi_scale_roi_align_cuda(const RoiAlignGrid& grid, const ScaledPyramid& maps, bool wide,
                                const TapsTables<acc_t<T>>& tables, const Pyramid<const T>& features,
                                const Maps<T>& output, void* stream);
template <typename T>
void multi_scale_roi_align_backward_cuda(const RoiAlignGrid& grid, const ScaledPyramid& maps, bool wide,
                                         const TapsTables<acc_t<T>>& tables, const Maps<const T>& grad,
                                         const Pyramid<T>& outputs, void* stream);
}  // namespace detops
