// RoIAlign, "Mask R-CNN" (arXiv:1703.06870, section 3): the mean of bilinear samples on a regular grid in each bin.
#pragma once
#include "../math/roi.h"
#include "roi_levels.h"
#include "roi_tables.h"

namespace detops {
struct RoiAlignGrid {
  int64_t pooled_height, pooled_width, sampling_ratio;
  bool aligned;  // pixel centres at half integers of the image, and regions of any size
  static constexpr bool kAlwaysWide = false;

  template <typename A>
  DETOPS_HD RoiAlignAxis<A> rows(double spatial_scale, A y1, A y2) const {
    return roi_align_axis(y1, y2, static_cast<A>(spatial_scale), pooled_height, sampling_ratio, aligned);
  }
  template <typename A>
  DETOPS_HD RoiAlignAxis<A> columns(double spatial_scale, A x1, A x2) const {
    return roi_align_axis(x1, x2, static_cast<A>(spatial_scale), pooled_width, sampling_ratio, aligned);
  }
  // How many pixels the bins of an axis take together, of at most `any`: two for each sample.
  int64_t most_taps(int64_t any, int64_t bins) const {
    return sampling_ratio > 0 ? min(any, 2 * min(sampling_ratio, any) * bins) : any;
  }
};

// ---- CUDA ----------------------------------------------------------------------------------------------------------

// Bins by tables of taps, which kernels launched before have filled; and, from those for a gradient, its gathering.
template <typename T, template <typename> typename MapsOrPyramid>
void pool_means_cuda(const char* op, const TapsTables<acc_t<T>>& tables, const MapsOrPyramid<const T>& input,
                     const Maps<T>& output, void* stream);
template <typename T, template <typename> typename MapsOrPyramid>
void gather_means_cuda(const char* op, const TapsTables<acc_t<T>>& tables, const Maps<const T>& grad,
                       const MapsOrPyramid<T>& output, void* stream);

// Geometry is float64 if `wide`. The tables' memory is for these calls to fill.
template <typename T>
void roi_align_cuda(const RoiAlignGrid& grid, const ScaledMapAlone& map, bool wide, const TapsTables<acc_t<T>>& tables,
                    const Maps<const T>& input, const Maps<T>& output, void* stream);
template <typename T>
void roi_align_backward_cuda(const RoiAlignGrid& grid, const ScaledMapAlone& map, bool wide,
                             const TapsTables<acc_t<T>>& tables, const Maps<const T>& grad, const Maps<T>& output,
                             void* stream);
}  // namespace detops
