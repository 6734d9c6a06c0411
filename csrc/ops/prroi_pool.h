// Precise RoI pooling, "Acquisition of Localization Confidence for Accurate Object Detection" (arXiv:1807.11590,
// section 3.4): the mean of the bilinearly interpolated map over each bin. Geometry is float64: there is little of it.
#pragma once
#include "../math/precise_roi.h"
#include "roi_levels.h"
#include "roi_tables.h"

namespace detops {
struct PreciseRoiGrid {
  int64_t pooled_height, pooled_width;
  static constexpr bool kAlwaysWide = true;

  DETOPS_HD PreciseRoiAxis<double> rows(double spatial_scale, double y1, double y2) const {
    return precise_roi_axis(y1, y2, spatial_scale);
  }
  DETOPS_HD PreciseRoiAxis<double> columns(double spatial_scale, double x1, double x2) const {
    return precise_roi_axis(x1, x2, spatial_scale);
  }
  static int64_t most_taps(int64_t any, int64_t) { return any; }
};

// ---- CUDA ----------------------------------------------------------------------------------------------------------

// The tables' memory is for these calls to fill.
template <typename T>
void prroi_pool_cuda(const PreciseRoiGrid& grid, const ScaledMapAlone& map, const TapsTables<acc_t<T>>& tables,
                     const Maps<const T>& input, const Maps<T>& output, void* stream);
template <typename T>
void prroi_pool_backward_cuda(const PreciseRoiGrid& grid, const ScaledMapAlone& map, const TapsTables<acc_t<T>>& tables,
                              const Maps<const T>& grad, const Maps<T>& output, void* stream);

// For the gradient of the regions.
template <typename A>
struct EdgeTables {
  TapsTables<A> taps;
  int64_t parts;             // into which a region's bins of all channels are divided
  EdgeWeights<A>* edges[2];  // y, x: beside the weights of the taps
  double* sums;              // by region and part: the gradients of x1, y1, x2, y2 in feature pixels

  void place(Arena& arena, bool) {
    taps.place(arena, false);
    for (int i = 0; i < 2; ++i) edges[i] = arena.take<EdgeWeights<A>>(taps.num_rois * taps.axes[i].capacity);
    sums = arena.take<double>(taps.num_rois * parts * 4);
  }
};
template <typename T>
void prroi_pool_backward_rois_cuda(const PreciseRoiGrid& grid, const ScaledMapAlone& map,
                                   const EdgeTables<acc_t<T>>& tables, const Maps<const T>& grad,
                                   const Maps<const T>& input, void* stream);

// Adds up the parts, to rois' gradient (K, 5), row by row, of elements T.
struct RoiGradient {
  const double* sums;
  int64_t num_rois, parts;
  double spatial_scale;
};
template <typename T>
void finish_roi_gradient_cuda(const RoiGradient& args, T* output, void* stream);
}  // namespace detops
