// RoIAlign's taps on CUDA, from one map or a pyramid.
#pragma once
#include "roi_align.h"
#include "roi_tap_kernels.h"

namespace detops {
template <bool kForGradient, int kMost, typename A>
void find_aligned_taps(const char* op, const RoiAlignGrid& grid, const ScaledMaps<kMost>& maps, bool wide,
                       const TapsTables<A>& tables, void* stream) {
  if (wide) return launch_find_taps<double, kForGradient>(op, grid, maps, tables, stream);
  if constexpr (!std::is_same_v<A, double>) launch_find_taps<float, kForGradient>(op, grid, maps, tables, stream);
}
}  // namespace detops
