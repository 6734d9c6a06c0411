#include "balanced_l1_loss.h"

#include <optional>
#include <tuple>

#include "pair_loss_host.h"

namespace detops {
namespace {
constexpr double kMostRatio = 80;  // exp of it is a number in float32

PairLoss<TargetElements> checked(const char* op, const Tensor& input, const Tensor& target,
                                 const std::optional<Tensor>& weight, double alpha, double gamma, double beta,
                                 int64_t reduction, bool wide) {
  check_pair(op, input, target, weight);
  if (!(alpha > 0 && gamma > 0 && gamma <= kMostRatio * alpha)) {
    fail(op, "expected alpha and gamma above 0 with gamma of at most 80 alpha, got ", alpha, " and ", gamma);
  }
  if (!(beta > 0)) fail(op, "expected beta above 0, got ", beta);
  return {op, input, {target}, weight, checked_reduction(op, reduction), wide};
}

auto formula(double alpha, double gamma, double beta) {
  return [=](auto type) { return BalancedL1<typename decltype(type)::type>(alpha, gamma, beta); };
}
}  // namespace

// reduction 0 to 2 as in Reduction. `wide` makes the result of a half-precision input float32.
Tensor balanced_l1_loss(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight, double alpha,
                        double gamma, double beta, int64_t reduction, bool wide) {
  return pair_loss(checked("balanced_l1_loss", input, target, weight, alpha, gamma, beta, reduction, wide),
                   formula(alpha, gamma, beta));
}
DETOPS_OP(balanced_l1_loss,
          "(Tensor input, Tensor target, Tensor? weight, float alpha, float gamma, float beta, int reduction, "
          "bool wide) -> Tensor")

// Gradient with respect to input; that with respect to target is its negative.
Tensor balanced_l1_loss_backward(const Tensor& grad, const Tensor& input, const Tensor& target,
                                 const std::optional<Tensor>& weight, double alpha, double gamma, double beta,
                                 int64_t reduction) {
  const auto of = checked("balanced_l1_loss_backward", input, target, weight, alpha, gamma, beta, reduction, false);
  return pair_loss_backward(of, grad, formula(alpha, gamma, beta));
}
DETOPS_OP(balanced_l1_loss_backward,
          "(Tensor grad, Tensor input, Tensor target, Tensor? weight, float alpha, float gamma, float beta, "
          "int reduction) -> Tensor")

std::tuple<Tensor, Tensor> balanced_l1_loss_with_gradient(const Tensor& input, const Tensor& target,
                                                          const std::optional<Tensor>& weight, double alpha,
                                                          double gamma, double beta, int64_t reduction, bool wide) {
  return pair_loss_with_gradient(
      checked("balanced_l1_loss", input, target, weight, alpha, gamma, beta, reduction, wide),
      formula(alpha, gamma, beta));
}
DETOPS_OP(balanced_l1_loss_with_gradient,
          "(Tensor input, Tensor target, Tensor? weight, float alpha, float gamma, float beta, int reduction, "
          "bool wide) -> (Tensor, Tensor)")
}  // namespace detops
