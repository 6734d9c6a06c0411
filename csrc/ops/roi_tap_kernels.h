// Which pixels each bin of regions takes, with which weights, found by a CUDA kernel for those that pool.
#pragma once
#include "roi_kernels.h"
#include "roi_levels.h"

namespace detops {
struct Larger {
  template <typename V>
  DETOPS_D V operator()(V a, V b) const {
    return max(a, b);
  }
};

template <typename RoiGrid, int kMost, typename A>
struct TapsArgs {
  RoiGrid grid;  // divides a region's rows and columns into bins
  ScaledMaps<kMost> maps;
  TapsTables<A> tables;
};

// The taps of one axis of region k; a warp's lanes take a bin each. What two bins share, the later one's first pixels,
// is listed once. Returns the span.
template <typename A, typename Axis>
DETOPS_D RoiSpan find_taps(const TapsTable<A>& table, const Axis& axis, int64_t size, int64_t k) {
  Taps* taps_of_bins = table.bins + k * table.num_bins;
  const int64_t part = k * table.capacity;
  int begin = -1, last = -1, touched = 0, used = 0;  // by the bins before
  for (int64_t first_bin = 0; first_bin < table.num_bins; first_bin += kWarp) {
    const int64_t i = first_bin + lane_id();  // in the order in which pixels ascend
    const int64_t bin = axis.reversed() ? table.num_bins - 1 - i : i;
    int own[2] = {-1, -1}, own_last = -1, count = 0;
    const auto visit = [&](const auto& fn) {
      if (i < table.num_bins) for_each_pixel<A>(axis, bin, table.num_bins, size, fn);
    };
    visit([&](int64_t pixel, A) {
      own_last = static_cast<int>(pixel);
      if (count == 0) own[0] = own_last;
      if (count == 1) own[1] = own_last;
      ++count;
    });
    const int earlier = warp_scan(own_last, last, Larger{});
    const int shared = (count > 0 && own[0] <= earlier) + (count > 1 && own[1] <= earlier);
    const int place = warp_scan(count, used, Plus{}), position = warp_scan(count - shared, touched, Plus{}) - shared;
    const unsigned nonempty = ballot(count > 0);
    if (begin < 0 && nonempty != 0) begin = __shfl_sync(kAllLanes, own[0], __ffs(static_cast<int>(nonempty)) - 1);
    if (i < table.num_bins) taps_of_bins[bin] = {position, count, part + place};
    int n = 0;
    visit([&](int64_t pixel, A weight) {
      table.weights[part + place + n] = weight;
      if (n >= shared) table.pixels[part + position + n] = static_cast<int32_t>(pixel);
      ++n;
    });
  }
  return {max(begin, 0), last + 1, touched};
}

// The other way round: which bins take each pixel, one pixel a lane.
template <typename A>
DETOPS_D void transpose_taps(const TapsTable<A>& table, const RoiSpan& span, int64_t k) {
  const Taps* taps_of_bins = table.bins + k * table.num_bins;
  Taps* by_pixel = table.by_pixel + k * table.size;
  const int64_t part = k * table.capacity;
  for (int pixel = span.begin + lane_id(); pixel < span.end; pixel += kWarp) by_pixel[pixel] = {0, 0, 0};
  __syncwarp();
  int used = 0;
  for (int first = 0; first < span.touched; first += kWarp) {
    const int position = first + lane_id();
    int first_bin = 0, count = 0;
    for (int64_t bin = 0; bin < table.num_bins; ++bin) {
      const Taps taps = taps_of_bins[bin];
      if (position < taps.first || position >= taps.first + taps.count) continue;
      if (count++ == 0) first_bin = static_cast<int>(bin);
    }
    const int64_t place = part + warp_scan(count, used, Plus{});
    if (position < span.touched) by_pixel[table.pixels[part + position]] = {first_bin, count, place};
    for (int n = 0; n < count; ++n) {
      const Taps taps = taps_of_bins[first_bin + n];
      table.weights_from_pixel[place + n] = table.weights[taps.weights + position - taps.first];
    }
  }
}

// A warp an axis of a region.
template <typename A, typename G, typename RoiGrid, int kMost, bool kForGradient>
__global__ void __launch_bounds__(kThreads, 2) find_taps_kernel(TapsArgs<RoiGrid, kMost, A> a) {
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + warp_id(), k = warp / 2;
  if (k >= a.tables.num_rois) return;
  const Roi<G> roi = a.tables.rois.template load<G>(k, a.tables.num_images);
  const auto place = a.maps.place(roi);
  const ScaledMap& map = a.maps.maps[place.map];
  const bool is_x = warp % 2 == 1;
  const TapsTable<A>& table = a.tables.axes[is_x];
  auto axis = is_x ? a.grid.columns(map.spatial_scale, roi.box.x1, roi.box.x2)
                   : a.grid.rows(map.spatial_scale, roi.box.y1, roi.box.y2);
  if (place.image < 0) axis = {};  // no pixels
  const RoiSpan span = find_taps(table, axis, is_x ? map.width : map.height, k);
  if (lane_id() == 0) {
    table.spans[k] = span;
    if (!is_x) a.tables.images[k] = place.image;
  }
  __syncwarp();
  if (kForGradient) transpose_taps(table, span, k);
}

// Geometry is in G.
template <typename G, bool kForGradient, typename RoiGrid, int kMost, typename A>
void launch_find_taps(const char* op, const RoiGrid& grid, const ScaledMaps<kMost>& maps, const TapsTables<A>& tables,
                      void* stream) {
  const int64_t blocks = (2 * tables.num_rois + kWarps - 1) / kWarps;
  launch(op, find_taps_kernel<A, G, RoiGrid, kMost, kForGradient>, {blocks, kThreads}, stream, {grid, maps, tables});
}
}  // namespace detops
