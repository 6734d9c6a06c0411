// Non-maximum suppression: in order of score, a box is dropped if one kept before it overlaps it by more than a
// threshold. What the CPU and CUDA kernels share; the decision itself is overlaps() in math/box.h.
#pragma once
#include "../math/box.h"

namespace detops {
template <typename A>
struct NmsRule {
  double iou_threshold;
  A threshold;  // as overlaps() takes it
  A share;      // of the sum of two areas that an intersection must exceed, or there is no overlap

  explicit NmsRule(double t)
      : iou_threshold(t),
        threshold(overlap_threshold<A>(t)),
        // shared / (sum - shared) > t where shared > sum * t / (1 + t); a little less, for the rounding of each step.
        share(static_cast<A>(t / (1 + t) * (1 - 16 * static_cast<double>(std::numeric_limits<A>::epsilon())))) {}

  bool drops_nothing() const { return iou_threshold >= 1; }  // no quotient is above 1

  // Whether a box can overlap any other at all. At thresholds of 0 or more only proper boxes do: those of a NaN or
  // infinite area, of none or of a reversed side give a quotient of NaN or 0.
  DETOPS_HD bool concerns(const Box<A>& a, A area) const {
    if (iou_threshold < 0) return area == area;
    return area > 0 && area <= std::numeric_limits<A>::max() && a.x2 > a.x1;
  }

  // This box's part of what an intersection must exceed. Products that may be subnormal round too coarsely.
  DETOPS_HD A needed(A area) const { return area > std::numeric_limits<A>::min() * 0x1p26 ? area * share : A(0); }
};
}  // namespace detops
