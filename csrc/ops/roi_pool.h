// RoI pooling, "Fast R-CNN" (arXiv:1504.08083, section 2.1): the largest value of each bin.
#pragma once
#include "../math/roi.h"
#include "feature_maps.h"
#include "roi_tables.h"

namespace detops {
struct RoiPoolBin {
  int64_t begin, end;  // pixels; empty if end <= begin
};

// One axis of a region: whole pixels from its rounded edges, both included, divided into bins that may share a pixel.
template <typename A>
struct RoiPoolAxis {
  A start, bin;  // feature pixels
};

// Edges far outside any map are moved to where they mean the same; NaN is taken for 0.
template <typename A>
DETOPS_HD A roi_pool_edge(A position, A spatial_scale) {
  constexpr A kFar = A(1 << 24);
  const A edge = std::round(position * spatial_scale);  // halves away from zero
  return edge != edge ? A(0) : min(max(edge, -kFar), kFar);
}
template <typename A>
DETOPS_HD RoiPoolAxis<A> roi_pool_axis(A low, A high, A spatial_scale, int64_t bins) {
  const A start = roi_pool_edge(low, spatial_scale), end = roi_pool_edge(high, spatial_scale);
  return {start, max(end - start + A(1), A(1)) / static_cast<A>(bins)};
}
template <typename A>
DETOPS_HD RoiPoolBin roi_pool_bin(const RoiPoolAxis<A>& axis, int64_t bin, int64_t size) {
  const auto start = static_cast<int64_t>(axis.start);
  const auto begin = static_cast<int64_t>(std::floor(static_cast<A>(bin) * axis.bin)) + start;
  const auto end = static_cast<int64_t>(std::ceil(static_cast<A>(bin + 1) * axis.bin)) + start;
  return {min(max(begin, int64_t{0}), size), min(max(end, int64_t{0}), size)};
}

// ---- CUDA ----------------------------------------------------------------------------------------------------------

using RoiPoolTables = RoiTables<RoiAxisTable<RoiPoolBin>>;

// Geometry is float64 if `wide`. The tables' memory is for these calls to fill; so is that of `where`, a pixel for each
// bin, which has as many channels as are to be gone through at a time, a multiple of 8 or all.
template <typename T>
void roi_pool_cuda(double spatial_scale, bool wide, const RoiPoolTables& tables, const Maps<const T>& input,
                   const Maps<T>& output, void* stream);
template <typename T>
void roi_pool_backward_cuda(double spatial_scale, bool wide, const RoiPoolTables& tables, const Maps<const T>& grad,
                            const Maps<const T>& input, const Maps<uint32_t>& where, const Maps<T>& output,
                            void* stream);
}  // namespace detops
