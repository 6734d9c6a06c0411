#include "smooth_l1_loss.h"

#include <optional>
#include <tuple>

#include "pair_loss_host.h"

namespace detops {
namespace {
PairLoss<TargetElements> checked(const char* op, const Tensor& input, const Tensor& target,
                                 const std::optional<Tensor>& weight, double beta, int64_t reduction, bool wide) {
  check_pair(op, input, target, weight);
  if (!(beta >= 0)) fail(op, "expected beta of at least 0, got ", beta);
  return {op, input, {target}, weight, checked_reduction(op, reduction), wide};
}

auto formula(double beta) {
  return [=](auto type) { return SmoothL1<typename decltype(type)::type>(beta); };
}
}  // namespace

// reduction 0 to 2 as in Reduction. `wide` makes the result of a half-precision input float32.
Tensor smooth_l1_loss(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight, double beta,
                      int64_t reduction, bool wide) {
  return pair_loss(checked("smooth_l1_loss", input, target, weight, beta, reduction, wide), formula(beta));
}
DETOPS_OP(smooth_l1_loss,
          "(Tensor input, Tensor target, Tensor? weight, float beta, int reduction, bool wide) -> Tensor")

// Gradient with respect to input; that with respect to target is its negative.
Tensor smooth_l1_loss_backward(const Tensor& grad, const Tensor& input, const Tensor& target,
                               const std::optional<Tensor>& weight, double beta, int64_t reduction) {
  const auto of = checked("smooth_l1_loss_backward", input, target, weight, beta, reduction, false);
  return pair_loss_backward(of, grad, formula(beta));
}
DETOPS_OP(smooth_l1_loss_backward,
          "(Tensor grad, Tensor input, Tensor target, Tensor? weight, float beta, int reduction) -> Tensor")

std::tuple<Tensor, Tensor> smooth_l1_loss_with_gradient(const Tensor& input, const Tensor& target,
                                                        const std::optional<Tensor>& weight, double beta,
                                                        int64_t reduction, bool wide) {
  return pair_loss_with_gradient(checked("smooth_l1_loss", input, target, weight, beta, reduction, wide),
                                 formula(beta));
}
DETOPS_OP(smooth_l1_loss_with_gradient,
          "(Tensor input, Tensor target, Tensor? weight, float beta, int reduction, bool wide) -> (Tensor, Tensor)")
}  // namespace detops
