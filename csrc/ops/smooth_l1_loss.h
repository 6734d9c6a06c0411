// Smooth L1 loss: Fast R-CNN (arXiv:1504.08083, equation 3), quadratic below beta.
#pragma once
#include <algorithm>
#include <limits>

#include "../core/device.h"
#include "raw_elements.h"

namespace detops {
template <typename A>
struct SmoothL1 {
  A half_beta, over_beta;
  bool absolute;  // beta is 0, or so small that its inverse is no number: the loss is |d|

  explicit SmoothL1(double beta)
      : half_beta(static_cast<A>(std::min(0.5 * beta, static_cast<double>(std::numeric_limits<A>::max())))),
        over_beta(static_cast<A>(1 / beta)),
        absolute(!(over_beta <= std::numeric_limits<A>::max())) {}

  // |d| / beta, at most 1: the slope but for its sign. NaN stays NaN.
  template <typename V>
  DETOPS_HD V steepness(V distance) const {
    return min(distance * (V{} + over_beta), constant<V>(1));
  }

  template <bool kAbsolute, typename V>
  DETOPS_HD V loss(V difference) const {
    const V d = max(difference, -difference);
    if constexpr (kAbsolute) return d;
    const V steep = steepness(d);
    return steep * (d - steep * (V{} + half_beta));
  }

  // Derivative with respect to the difference.
  template <bool kAbsolute, typename V>
  DETOPS_HD V slope(V difference) const {
    if constexpr (kAbsolute) {
      const V one = constant<V>(1);
      return select(difference > V{}, one, select(difference < V{}, -one, difference));
    }
    const V steep = steepness(max(difference, -difference));
    return select(difference < V{}, -steep, steep);
  }
};

// ---- CUDA ----------------------------------------------------------------------------------------------------------

template <typename A>
struct SmoothL1Args {
  RawLoop loop;
  RawElements input, target, weight, grad;  // grad: of the backward pass, one number unless `each`
  SmoothL1<A> formula;
  bool each;       // element has a loss of its own, or else there is the sum of all
  double divisor;  // of the sum
};

// Blocks that add up the losses of n elements, and room for their sums.
inline int64_t smooth_l1_blocks(int64_t n) {
  constexpr int64_t kOfBlock = 8192;
  const int64_t blocks = (n + kOfBlock - 1) / kOfBlock;
  return blocks < 1 ? 1 : blocks < kManyBlocks ? blocks : kManyBlocks;
}
template <typename T, typename Out>
void smooth_l1_loss_cuda(const SmoothL1Args<acc_t<T>>& args, double* sums, Out* output, void* stream);
template <typename T>
void smooth_l1_loss_backward_cuda(const SmoothL1Args<acc_t<T>>& args, T* output, void* stream);
}  // namespace detops
