// Regions of interest: how a box is divided into bins, one axis at a time.
#pragma once
#include <cstdint>

#include "bilinear.h"

namespace detops {
// RoIAlign's axis: bins of equal size, each with equally spaced samples; in feature pixels.
template <typename A>
struct RoiAlignAxis {
  A start, bin;     // where the first bin begins; size of a bin, negative if the region is reversed
  int64_t samples;  // per bin

  DETOPS_HD bool reversed() const { return bin < A(0); }
};

// More samples than this a bin are taken for none: the box is no box, and no map is so large.
constexpr int64_t kMaxAdaptiveSamples = int64_t{1} << 24;

// From a region's edges in image pixels. sampling_ratio <= 0 takes a sample per pixel of a bin, rounded up.
template <typename A>
DETOPS_HD RoiAlignAxis<A> roi_align_axis(A low, A high, A spatial_scale, int64_t bins, int64_t sampling_ratio,
                                         bool aligned) {
  const A offset = aligned ? A(0.5) : A(0), start = low * spatial_scale - offset;
  const A raw = high * spatial_scale - offset - start, length = aligned ? raw : max(raw, A(1));
  const A bin = length / static_cast<A>(bins), wanted = std::ceil(bin);
  const bool usable = wanted > A(0) && wanted <= static_cast<A>(kMaxAdaptiveSamples);  // not NaN
  return {start, bin, sampling_ratio > 0 ? sampling_ratio : usable ? static_cast<int64_t>(wanted) : 0};
}

template <typename A>
DETOPS_HD A sample_position(const RoiAlignAxis<A>& axis, int64_t bin, int64_t sample) {
  return axis.start + static_cast<A>(bin) * axis.bin +
         (static_cast<A>(sample) + A(0.5)) * axis.bin / static_cast<A>(axis.samples);
}

struct SampleRange {
  int64_t begin, end;
};

// The samples of a bin that are on the map, of a bin that is not reversed: positions never decrease, so both ends are
// found by bisection however many samples there are.
template <typename A>
DETOPS_HD SampleRange samples_on_map(const RoiAlignAxis<A>& axis, int64_t bin, int64_t size) {
  const auto first_not = [&](auto before) {
    int64_t begin = 0, end = axis.samples;
    while (begin < end) {
      const int64_t middle = begin + (end - begin) / 2;
      if (before(sample_position(axis, bin, middle))) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  };
  return {first_not([](A position) { return position < A(-1); }),
          first_not([=](A position) { return position <= static_cast<A>(size); })};
}

// Calls fn(pixel, weight) for each pixel that a bin's samples meet, in ascending order, with the sum of their weights
// as a W; the samples are averaged. Where they lie closer than rounding errors, none counts as being before one of an
// earlier bin: what the bins meet ascends, and bins that share a pixel are neighbours.
template <typename W, typename A, typename Fn>
DETOPS_HD void for_each_pixel(const RoiAlignAxis<A>& axis, int64_t bin, int64_t bins, int64_t size, const Fn& fn) {
  constexpr int64_t kFew = 8;
  const bool reversed = axis.reversed();
  const A share = A(1) / static_cast<A>(axis.samples);
  A previous = A(-2);  // off the map, as is what lies before it or is NaN
  if (bin != (reversed ? bins - 1 : 0)) {
    const A last =
        reversed ? sample_position(axis, bin + 1, int64_t{0}) : sample_position(axis, bin - 1, axis.samples - 1);
    previous = max(previous, last);
  }
  SampleRange range{0, axis.samples};
  if (axis.samples > kFew && !reversed) range = samples_on_map(axis, bin, size);
  int64_t pixel = -1;  // whose weights, and those of the next, are not yet complete
  W here{}, next{};
  for (int64_t s = range.begin; s < range.end; ++s) {
    const A position = max(previous, sample_position(axis, bin, reversed ? axis.samples - 1 - s : s));
    if (!is_on_map(position, size)) continue;
    const BilinearTaps<A> taps = bilinear_taps(position, size);
    if (taps.low != pixel) {
      if (pixel >= 0) fn(pixel, here);
      if (pixel >= 0 && pixel + 1 < taps.low) fn(pixel + 1, next);
      here = pixel >= 0 && pixel + 1 == taps.low ? next : W{};
      next = W{};
      pixel = taps.low;
    }
    here += static_cast<W>(taps.low_weight * share);
    next += static_cast<W>(taps.high_weight * share);
  }
  if (pixel >= 0) fn(pixel, here);
  if (pixel >= 0 && pixel + 1 < size) fn(pixel + 1, next);
}
}  // namespace detops
