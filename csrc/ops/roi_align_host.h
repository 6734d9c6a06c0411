// RoIAlign on the host: regions for the CPU kernels, tables for CUDA's.
#pragma once
#include <algorithm>

#include "roi_align.h"
#include "roi_means.h"

namespace detops {
// Regions whose sums are of type A.
template <typename A, int kMost>
MeanRegions<A> aligned_regions(const char* op, const Tensor& features, const Tensor& rois, const RoiAlignGrid& grid,
                               const ScaledMaps<kMost>& maps) {
  return is_wide(features, rois) ? mean_regions<A, double>(op, rois, grid, maps)
                                 : mean_regions<A, float>(op, rois, grid, maps);
}

// The memory still missing.
template <typename A, int kMost>
TapsTables<A> aligned_tables(const Tensor& rois, const RoiAlignGrid& grid, const ScaledMaps<kMost>& maps) {
  auto tables = mean_tables<A>(rois, grid, maps);
  for (TapsTable<A>& axis : tables.axes) {
    const int64_t of_samples = 2 * std::min(grid.sampling_ratio, axis.capacity) * axis.num_bins;
    if (grid.sampling_ratio > 0) axis.capacity = std::min(axis.capacity, of_samples);
  }
  return tables;
}
}  // namespace detops
