// Balanced L1 loss: Libra R-CNN (arXiv:1904.02701, section 3.3).
#pragma once
#include <cmath>

#include "../math/exponential.h"
#include "pair_loss.h"

namespace detops {
// For d = |x - y| below beta, alpha / b (b d + 1) log(b d / beta + 1) - alpha d; else gamma d + gamma / b - alpha beta.
template <typename A>
struct BalancedL1 {
  static constexpr int kVariants = 1, kUnroll = 1;
  static constexpr double kNeutral = 0, kNanoseconds = 0.5;

  A alpha, gamma, beta, b, b_over_beta, alpha_over_b, offset;

  BalancedL1(double alpha_, double gamma_, double beta_)
      : alpha(static_cast<A>(alpha_)), gamma(static_cast<A>(gamma_)), beta(static_cast<A>(beta_)) {
    const double exact = std::expm1(gamma_ / alpha_);  // such that the slopes meet at 1
    b = static_cast<A>(exact);
    b_over_beta = static_cast<A>(exact / beta_);
    alpha_over_b = static_cast<A>(alpha_ / exact);
    offset = static_cast<A>(gamma_ / exact - alpha_ * beta_);
  }

  DETOPS_HD int variant() const { return 0; }

  template <int kVariant, typename V>
  DETOPS_HD LossAndSlope<V> at(V x, V y) const {
    const V difference = x - y, d = max(difference, -difference), one = constant<V>(1), of_alpha = V{} + alpha;
    const V log = logarithm1p(d * (V{} + b_over_beta)), grown = d * (V{} + b) + one;
    const V near = (V{} + alpha_over_b) * grown * log - of_alpha * d;
    const V far = (V{} + gamma) * d + (V{} + offset);
    const V near_slope = of_alpha * (log + (V{} + (1 - beta)) / (d * (V{} + b) + (V{} + beta)));
    const auto beyond = d >= V{} + beta;  // not NaN
    const V steep = select(beyond, V{} + gamma, near_slope);
    return {select(beyond, far, near), select(difference < V{}, -steep, select(difference == V{}, V{}, steep))};
  }
};
}  // namespace detops
