// Axis-aligned boxes: corners (x1, y1, x2, y2) in pixels, x2 and y2 outside, so that width is x2 - x1. V is float,
// double or, on the CPU, a SIMD vector of them: each formula stands here once.
#pragma once
#include <limits>

#include "../core/device.h"

namespace detops {
template <typename V>
struct Box {
  V x1, y1, x2, y2;
};

template <typename V>
DETOPS_HD V area(const Box<V>& a) {
  return (a.x2 - a.x1) * (a.y2 - a.y1);
}

template <typename V>
DETOPS_HD V intersection(const Box<V>& a, const Box<V>& b) {
  const V width = max(min(a.x2, b.x2) - max(a.x1, b.x1), V{});
  const V height = max(min(a.y2, b.y2) - max(a.y1, b.y1), V{});
  return width * height;
}

// Intersection over union; NaN where there is none to speak of: two boxes of no area, one with NaN, infinite ones. A
// comparison with it is then false.
template <typename V>
DETOPS_HD V iou_or_nan(const Box<V>& a, const Box<V>& b, V area_a, V area_b) {
  const V shared = intersection(a, b);
  return shared / (area_a + area_b - shared);
}

// The one rule of suppression, a tie's included: whether the IoU of two boxes is above a threshold. The quotient is
// rounded once, in the boxes' precision (float for half), and compared with `threshold`, an overlap_threshold(). No box
// overlaps one where that is 0 / 0 or otherwise NaN.
template <typename V>
DETOPS_HD auto overlaps(const Box<V>& a, const Box<V>& b, V area_a, V area_b, V threshold) {
  return iou_or_nan(a, b, area_a, area_b) > threshold;
}

// The greatest A that is not above t: an A is above it if and only if it is, as a double, above t.
template <typename A>
A overlap_threshold(double t) {
  const A nearest = static_cast<A>(t);
  return static_cast<double>(nearest) > t ? std::nextafter(nearest, -std::numeric_limits<A>::infinity()) : nearest;
}

// The smallest box around both.
template <typename V>
DETOPS_HD Box<V> hull(const Box<V>& a, const Box<V>& b) {
  return {min(a.x1, b.x1), min(a.y1, b.y1), max(a.x2, b.x2), max(a.y2, b.y2)};
}
}  // namespace detops
