// Bilinear interpolation along one axis: pixel i of a map lies at i, so that a sample at 2.25 is 0.75 of pixel 2 and
// 0.25 of pixel 3. A sample in the plane is the product of its two axes.
#pragma once
#include <cstdint>

#include "../core/device.h"

namespace detops {
// Whether a sample counts; what lies more than a pixel outside the map does not, nor does NaN.
template <typename A>
DETOPS_HD bool is_on_map(A position, int64_t size) {
  return size > 0 && position >= A(-1) && position <= static_cast<A>(size);
}

template <typename A>
struct BilinearTaps {
  int64_t low, high;  // pixels
  A low_weight, high_weight;
};

// The border rule: up to a pixel outside, a sample is its nearest pixel. Only for samples on the map.
template <typename A>
DETOPS_HD BilinearTaps<A> bilinear_taps(A position, int64_t size) {
  const A inside = max(position, A{});
  const auto low = static_cast<int64_t>(inside);
  if (low >= size - 1) return {size - 1, size - 1, A(1), A(0)};
  const A fraction = inside - static_cast<A>(low);
  return {low, low + 1, A(1) - fraction, fraction};
}

// The other rule, of deformable convolution: the map lies in zeros. A sample is between pixels low and low + 1, of
// which one may lie outside and is zero then; beyond these, and at NaN, the sample is zero.
template <typename A>
struct PaddedTaps {
  int64_t low;  // -1 to size - 1
  A fraction;   // of the way to low + 1
  bool on_map;
};

template <typename A>
DETOPS_HD PaddedTaps<A> padded_taps(A position, int64_t size) {
  if (!(position >= A(-1) && position < static_cast<A>(size))) return {-1, A(0), false};
  const A low = std::floor(position);
  return {min(static_cast<int64_t>(low), size - 1), position - low, true};
}
}  // namespace detops
