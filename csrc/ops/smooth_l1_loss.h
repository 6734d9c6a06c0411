// Smooth L1 loss: Fast R-CNN (arXiv:1504.08083, equation 3), quadratic below beta.
#pragma once
#include <limits>

#include "../core/device.h"
#include "raw_elements.h"

namespace detops {
template <typename A>
struct SmoothL1 {
  A beta, over_beta;
  bool absolute;  // beta is 0, or so small that its inverse is no number: the loss is |d|

  explicit SmoothL1(double beta_)
      : beta(static_cast<A>(beta_)),
        over_beta(static_cast<A>(1 / beta_)),
        absolute(!(over_beta <= std::numeric_limits<A>::max())) {}

  template <bool kAbsolute, typename V>
  DETOPS_HD V loss(V difference) const {
    const V d = max(difference, -difference), half = constant<V>(0.5);
    if constexpr (kAbsolute) return d;
    return select(d < V{} + beta, half * d * (d * (V{} + over_beta)), d - half * (V{} + beta));
  }

  // Derivative with respect to the difference.
  template <bool kAbsolute, typename V>
  DETOPS_HD V slope(V difference) const {
    const V one = constant<V>(1);
    if constexpr (kAbsolute) return select(difference > V{}, one, select(difference < V{}, -one, difference));
    return max(min(difference * (V{} + over_beta), one), -one);
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
