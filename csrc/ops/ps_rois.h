// Position-sensitive pooling, "R-FCN" (arXiv:1605.06409, section 2): bin (i, j) of output channel c is a mean over
// input channel (c * PH + i) * PW + j and no other. What the kernels of both operators share: which pixels a bin takes
// along an axis, with which weights.
#pragma once
#include "feature_maps.h"
#include "raw_rois.h"
#include "roi_align.h"
#include "roi_pool.h"

namespace detops {
// One axis of a region on a map of `size` pixels.
struct PsAxis {
  int64_t bins, size;
};

// Bins that average bilinear samples: "Light-Head R-CNN" (arXiv:1711.07264), as RoIAlign does, aligned.
struct SampledBins {
  double spatial_scale;
  int64_t sampling_ratio;

  // Calls fn(pixel, weight) for the pixels of a bin of the region from low to high.
  template <typename W, typename G, typename Fn>
  DETOPS_HD void for_each(G low, G high, int64_t bin, PsAxis along, const Fn& fn) const {
    const G scale = static_cast<G>(spatial_scale);
    for_each_pixel<W>(roi_align_axis(low, high, scale, along.bins, sampling_ratio, true), bin, along.bins, along.size,
                      fn);
  }
};

// Bins that average whole pixels: R-FCN's own. The last row and the last column of a map are in no bin.
struct WholeBins {
  double spatial_scale;

  template <typename W, typename G, typename Fn>
  DETOPS_HD void for_each(G low, G high, int64_t bin, PsAxis along, const Fn& fn) const {
    const G scale = static_cast<G>(spatial_scale), start = roi_pool_edge(low, scale);
    const G length = max(roi_pool_edge(high, scale) - start, G(1));
    const RoiPoolAxis<G> axis{start, length / static_cast<G>(along.bins)};
    const RoiPoolBin pixels = roi_pool_bin(axis, bin, max(along.size - 1, int64_t{0}));
    for (int64_t pixel = pixels.begin; pixel < pixels.end; ++pixel) {
      fn(pixel, W(1) / static_cast<W>(pixels.end - pixels.begin));
    }
  }
};

// Of the CUDA kernels; `input` and `output` are exchanged in the backward pass, where `input` is the gradient.
template <typename T, typename Bins>
struct PsRoiArgs {
  Maps<const T> input;
  RawRois rois;
  Maps<T> output;
  Bins bins;
};

// Geometry is computed in G.
template <typename G, typename T, typename Bins>
void ps_roi_cuda(const char* op, const PsRoiArgs<T, Bins>& args, void* stream);
template <typename G, typename T, typename Bins>
void ps_roi_backward_cuda(const char* op, const PsRoiArgs<T, Bins>& args, void* stream);
}  // namespace detops
