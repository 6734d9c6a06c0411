// Smooth L1 loss: Fast R-CNN (arXiv:1504.08083, equation 3), quadratic below beta.
#pragma once
#include <algorithm>
#include <limits>

#include "pair_loss.h"

namespace detops {
template <typename A>
struct SmoothL1 {
  static constexpr int kVariants = 2, kUnroll = 4;
  static constexpr double kNeutral = 0, kNanoseconds = 0.1;

  A half_beta, over_beta;
  bool absolute;  // beta is 0, or so small that its inverse is no number: the loss is |d|

  explicit SmoothL1(double beta)
      : half_beta(static_cast<A>(std::min(0.5 * beta, static_cast<double>(std::numeric_limits<A>::max())))),
        over_beta(static_cast<A>(1 / beta)),
        absolute(!(over_beta <= std::numeric_limits<A>::max())) {}

  DETOPS_HD int variant() const { return absolute; }

  template <int kAbsolute, typename V>
  DETOPS_HD LossAndSlope<V> at(V x, V y) const {
    const V difference = x - y, d = max(difference, -difference), one = constant<V>(1);
    if constexpr (kAbsolute) {
      return {d, select(difference > V{}, one, select(difference < V{}, -one, difference))};
    }
    const V steep = min(d * (V{} + over_beta), one);  // NaN stays NaN
    return {steep * (d - steep * (V{} + half_beta)), select(difference < V{}, -steep, steep)};
  }
};
}  // namespace detops
