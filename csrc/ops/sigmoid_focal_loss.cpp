#include "sigmoid_focal_loss.h"

#include <optional>
#include <tuple>

#include "pair_loss_host.h"

namespace detops {
namespace {
const std::optional<Tensor> kNoWeight;

PairLoss<TargetElements> checked(const char* op, const Tensor& inputs, const Tensor& targets, double alpha,
                                 double gamma, int64_t reduction, bool wide) {
  check_floating(op, "inputs", inputs);
  check_floating(op, "targets", targets);
  check_same_shape(op, "inputs", inputs, "targets", targets);
  check_same_device(op, "inputs", inputs, "targets", targets);
  check_focal(op, alpha, gamma);
  return {op, inputs, {targets}, kNoWeight, checked_reduction(op, reduction), wide};
}

auto formula(double alpha, double gamma) {
  return [=](auto type) { return FocalLoss<typename decltype(type)::type>(alpha, gamma); };
}
}  // namespace

// reduction 0 to 2 as in Reduction. `wide` makes the result of half-precision inputs float32.
Tensor sigmoid_focal_loss(const Tensor& inputs, const Tensor& targets, double alpha, double gamma, int64_t reduction,
                          bool wide) {
  return pair_loss(checked("sigmoid_focal_loss", inputs, targets, alpha, gamma, reduction, wide),
                   formula(alpha, gamma));
}
DETOPS_OP(sigmoid_focal_loss,
          "(Tensor inputs, Tensor targets, float alpha, float gamma, int reduction, bool wide) -> Tensor")

// Gradient with respect to inputs or, `of_targets`, to targets; in the dtype of inputs.
Tensor sigmoid_focal_loss_backward(const Tensor& grad, const Tensor& inputs, const Tensor& targets, double alpha,
                                   double gamma, int64_t reduction, bool of_targets) {
  const auto of = checked("sigmoid_focal_loss_backward", inputs, targets, alpha, gamma, reduction, false);
  if (!of_targets) return pair_loss_backward(of, grad, formula(alpha, gamma));
  return pair_loss_backward(of, grad,
                            [=](auto type) { return FocalLossOfTargets<typename decltype(type)::type>(alpha, gamma); });
}
DETOPS_OP(sigmoid_focal_loss_backward,
          "(Tensor grad, Tensor inputs, Tensor targets, float alpha, float gamma, int reduction, bool of_targets) -> "
          "Tensor")

std::tuple<Tensor, Tensor> sigmoid_focal_loss_with_gradient(const Tensor& inputs, const Tensor& targets, double alpha,
                                                            double gamma, int64_t reduction, bool wide) {
  return pair_loss_with_gradient(checked("sigmoid_focal_loss", inputs, targets, alpha, gamma, reduction, wide),
                                 formula(alpha, gamma));
}
DETOPS_OP(sigmoid_focal_loss_with_gradient,
          "(Tensor inputs, Tensor targets, float alpha, float gamma, int reduction, bool wide) -> (Tensor, Tensor)")
}  // namespace detops
