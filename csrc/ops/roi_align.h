// RoIAlign, "Mask R-CNN" (arXiv:1703.06870, section 3): the mean of bilinear samples on a regular grid in each bin.
#pragma once
#include "../math/roi.h"
#include "feature_maps.h"
#include "roi_levels.h"
#include "roi_tables.h"

namespace detops {
struct RoiAlignGrid {
  int64_t pooled_height, pooled_width, sampling_ratio;
  bool aligned;  // pixel centres at half integers of the image, and regions of any size

  template <typename A>
  DETOPS_HD RoiAlignAxis<A> rows(double spatial_scale, A y1, A y2) const {
    return roi_align_axis(y1, y2, static_cast<A>(spatial_scale), pooled_height, sampling_ratio, aligned);
  }
  template <typename A>
  DETOPS_HD RoiAlignAxis<A> columns(double spatial_scale, A x1, A x2) const {
    return roi_align_axis(x1, x2, static_cast<A>(spatial_scale), pooled_width, sampling_ratio, aligned);
  }
};

// The maps that regions are pooled from, at most so many.
struct RoiAlignMap {
  double spatial_scale;  // feature pixels per image pixel
  int64_t height, width;
};
template <int kMost>
struct RoiAlignMaps {
  RoiAlignMap maps[kMost];
  RoiLevels<kMost> levels;
  int64_t images;  // of each map

  struct Place {
    int map;
    int64_t image;  // counted as feature_maps.h says; -1 if there is none, and no sample then counts
  };
  template <typename G>
  DETOPS_HD Place place(const Roi<G>& roi) const {
    const int map = levels.of(roi.box);
    return {max(map, 0), map < 0 || roi.image < 0 ? -1 : map * images + roi.image};
  }
};
using RoiAlignMapAlone = RoiAlignMaps<1>;
using RoiAlignPyramid = RoiAlignMaps<Pyramid<float>::kMostLevels>;

// ---- CUDA ----------------------------------------------------------------------------------------------------------

// Taps of bins refer to the list of touched pixels, those of pixels to bins.
template <typename A>
struct RoiAlignAxisTable : RoiAxisTable<Taps> {
  int64_t capacity;       // of a region's part in each of these
  int32_t* pixels;        // touched, ascending
  A* weights;             // of bins
  A* weights_from_pixel;  // null unless for a gradient

  void place(Arena& arena, int64_t num_rois, bool for_gradient) {
    RoiAxisTable<Taps>::place(arena, num_rois, for_gradient);
    pixels = arena.take<int32_t>(num_rois * capacity);
    weights = arena.take<A>(num_rois * capacity);
    weights_from_pixel = for_gradient ? arena.take<A>(num_rois * capacity) : nullptr;
  }
};
template <typename A>
using RoiAlignTables = RoiTables<RoiAlignAxisTable<A>>;

// Geometry is float64 if `wide`. The tables' memory is for these calls to fill.
template <typename T>
void roi_align_cuda(const RoiAlignGrid& grid, const RoiAlignMapAlone& map, bool wide,
                    const RoiAlignTables<acc_t<T>>& tables, const Maps<const T>& input, const Maps<T>& output,
                    void* stream);
template <typename T>
void roi_align_backward_cuda(const RoiAlignGrid& grid, const RoiAlignMapAlone& map, bool wide,
                             const RoiAlignTables<acc_t<T>>& tables, const Maps<const T>& grad, const Maps<T>& output,
                             void* stream);
}  // namespace detops
