// Losses that are the sum, over elements, of a function of an input x and a target y. A formula is that function:
//
//   struct Formula {
//     static constexpr int kVariants;   // kernels specialised for some values of its parameters; variant() chooses
//     static constexpr int kUnroll;     // vectors that the CPU computes side by side
//     static constexpr double kNeutral; // with target 0, an input whose loss and slope are 0
//     int variant() const;
//     template <int kVariant, typename V> LossAndSlope<V> at(V x, V y) const;
//   };
#pragma once
#include "loss.h"
#include "raw_elements.h"

namespace detops {
template <typename V>
struct LossAndSlope {
  V loss, slope;  // the slope is the derivative with respect to x
};

// fn(std::integral_constant of the formula's variant)
template <typename Formula, int kVariant = 0, typename Fn>
DETOPS_HD auto with_variant(const Formula& formula, const Fn& fn) {
  if constexpr (kVariant + 1 < Formula::kVariants) {
    if (formula.variant() != kVariant) return with_variant<Formula, kVariant + 1>(formula, fn);
  }
  return fn(std::integral_constant<int, kVariant>{});
}

// ---- CUDA ----------------------------------------------------------------------------------------------------------

template <typename Formula, typename Target = RawElements>
struct PairLossArgs {
  RawLoop loop;
  RawElements input;
  Target target;
  RawElements weight, grad;  // grad: of the backward pass, one number unless `each`
  Formula formula;
  bool each;       // element has a loss of its own, or else there is the sum of all
  double divisor;  // of the sum
  double mean;     // 1 / divisor
};
template <typename T, typename Formula, typename Target, typename Out>
void pair_loss_cuda(const char* op, const PairLossArgs<Formula, Target>& args, double* sums, Out* output, void* stream);
template <typename T, typename Formula, typename Target>
void pair_loss_backward_cuda(const char* op, const PairLossArgs<Formula, Target>& args, T* output, void* stream);
}  // namespace detops
