// Precise RoI pooling, one axis at a time: the bilinear map is a sum of pixels, each times a hat along y and one along
// x, so that its mean over a bin is a sum of pixels, each times the mean of its hat along y and along x.
#pragma once
#include <cmath>
#include <cstdint>

#include "../core/device.h"

namespace detops {
// Bins side by side from the region's low edge to its high one, in feature pixels.
template <typename A>
struct PreciseRoiAxis {
  A start, length;

  DETOPS_HD A edge(int64_t i, int64_t bins) const {
    return start + length * static_cast<A>(i) / static_cast<A>(bins);  // never descends
  }
  DETOPS_HD bool reversed() const { return false; }  // a reversed region has no length
};

// From a region's edges in image pixels.
template <typename A>
DETOPS_HD PreciseRoiAxis<A> precise_roi_axis(A low, A high, A spatial_scale) {
  const A start = low * spatial_scale;
  return {start, max(high * spatial_scale - start, A(0))};
}

// A hat's mean over a bin, and how it changes with the bin's edges.
template <typename A>
struct HatMean {
  A value, by_low, by_high;
};

// Of a bin from low to high, the part that lies on one slope, 1 or -1, of the hat over `pixel`: between a and b. Moving
// an edge of the bin moves every point in proportion to its distance from the other edge: exact however short the bin,
// where a difference quotient would cancel.
template <typename A>
DETOPS_HD void add_slope(A low, A high, A pixel, A a, A b, A slope, HatMean<A>& mean) {
  if (!(b > a)) return;
  const A length = high - low, share = (b - a) / length, middle = a + (b - a) / A(2), way = (middle - low) / length;
  mean.value += share * (A(1) + slope * (middle - pixel));
  mean.by_low += slope * share * (A(1) - way);
  mean.by_high += slope * share * way;
}

template <typename A>
DETOPS_HD HatMean<A> hat_mean(A low, A high, A pixel) {
  if (!(high > low)) {  // a bin so short that its edges are rounded to one point
    const A slope = low < pixel ? A(1) : A(-1);
    return {A(1) + slope * (low - pixel), slope / A(2), slope / A(2)};
  }
  HatMean<A> mean{};
  add_slope(low, high, pixel, max(low, pixel - A(1)), min(high, pixel), A(1), mean);
  add_slope(low, high, pixel, max(low, pixel), min(high, pixel + A(1)), A(-1), mean);
  return mean;
}

// Calls fn(pixel, HatMean) for each pixel on the map whose hat overlaps a bin, in ascending order. None does where the
// region has no length, or an edge that is no number. Bins that share a pixel are neighbours.
template <typename A, typename Fn>
DETOPS_HD void for_each_hat(const PreciseRoiAxis<A>& axis, int64_t bin, int64_t bins, int64_t size, const Fn& fn) {
  const A low = axis.edge(bin, bins), high = axis.edge(bin + 1, bins);
  if (!(axis.length > A(0) && low < static_cast<A>(size) && high > A(-1))) return;
  const auto first = static_cast<int64_t>(std::floor(max(low, A(0))));
  const auto last = static_cast<int64_t>(std::ceil(min(high, static_cast<A>(size - 1))));
  for (int64_t pixel = first; pixel <= last; ++pixel) fn(pixel, hat_mean(low, high, static_cast<A>(pixel)));
}

// Calls fn(pixel, weight) with these means as a W: a bin's weights.
template <typename W, typename A, typename Fn>
DETOPS_HD void for_each_pixel(const PreciseRoiAxis<A>& axis, int64_t bin, int64_t bins, int64_t size, const Fn& fn) {
  for_each_hat(axis, bin, bins, size,
               [&](int64_t pixel, const HatMean<A>& hat) { fn(pixel, static_cast<W>(hat.value)); });
}

// How a weight changes with the region's edges, in feature pixels.
template <typename W>
struct EdgeWeights {
  W low, high;
};

// Calls fn(EdgeWeights) for the same pixels in the same order. A bin's edges lie between those of the region.
template <typename W, typename A, typename Fn>
DETOPS_HD void for_each_edge_weight(const PreciseRoiAxis<A>& axis, int64_t bin, int64_t bins, int64_t size,
                                    const Fn& fn) {
  const A first = static_cast<A>(bin) / static_cast<A>(bins), second = static_cast<A>(bin + 1) / static_cast<A>(bins);
  for_each_hat(axis, bin, bins, size, [&](int64_t, const HatMean<A>& hat) {
    fn(EdgeWeights<W>{static_cast<W>(hat.by_low * (A(1) - first) + hat.by_high * (A(1) - second)),
                      static_cast<W>(hat.by_low * first + hat.by_high * second)});
  });
}
}  // namespace detops
