// RoIAlign, "Mask R-CNN" (arXiv:1703.06870, section 3): the mean of bilinear samples on a regular grid in each bin.
#pragma once
#include "../math/roi.h"

namespace detops {
struct RoiAlignGrid {
  double spatial_scale;  // feature pixels per image pixel
  int64_t pooled_height, pooled_width, sampling_ratio;
  bool aligned;  // pixel centres at half integers of the image, and regions of any size

  template <typename A>
  DETOPS_HD RoiAlignAxis<A> rows(A y1, A y2) const {
    return roi_align_axis(y1, y2, static_cast<A>(spatial_scale), pooled_height, sampling_ratio, aligned);
  }
  template <typename A>
  DETOPS_HD RoiAlignAxis<A> columns(A x1, A x2) const {
    return roi_align_axis(x1, x2, static_cast<A>(spatial_scale), pooled_width, sampling_ratio, aligned);
  }
};
}  // namespace detops
