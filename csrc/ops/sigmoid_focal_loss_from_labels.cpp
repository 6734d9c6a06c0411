#include <algorithm>
#include <optional>
#include <tuple>

#include "pair_loss_host.h"
#include "sigmoid_focal_loss.h"

namespace detops {
namespace {
const std::optional<Tensor> kNoWeight;

// The codes of a row-major loop over logits (N, C), as the loops read a target.
template <typename A>
struct LabelCodes {
  RawLabels labels;

  DETOPS_HD const A* read(int64_t begin, int64_t count, A* codes) const {
    const int64_t classes = labels.classes, padded = (count + 63) / 64 * 64;
    std::fill(codes, codes + padded, A(0));
    int64_t row = begin / classes, start = row * classes - begin;  // of the row, in codes
    for (; start < count; ++row, start += classes) {
      const int64_t label = labels.load(row);
      if (label < 0) {
        std::fill(codes + std::max<int64_t>(start, 0), codes + std::min(start + classes, count), A(kIgnored));
      } else if (label < classes && start + label >= 0 && start + label < count) {
        codes[start + label] = 1;
      }
    }
    return codes;
  }
};

struct TargetLabels {
  const Tensor& labels;
  int64_t classes;

  Loop loop(const Tensor& logits, const Tensor*, const Tensor* grad) const {
    return Loop(logits, {&logits, nullptr, nullptr, grad}, Order::kAxes);
  }
  template <typename A>
  LabelCodes<A> elements(const Loop&) const {
    return {raw()};
  }
  RawLabels raw(const Loop&, ScalarType) const { return raw(); }

  RawLabels raw() const { return {data<char>(labels), labels.scalar_type(), labels.stride(0), classes}; }
};

PairLoss<TargetLabels> checked(const char* op, const Tensor& logits, const Tensor& labels, double alpha, double gamma,
                               int64_t reduction, bool wide) {
  check_floating(op, "logits", logits);
  if (!is_integral(labels.scalar_type())) fail(op, "expected labels of an integer dtype, got ", dtype_of(labels));
  check_shape(op, "logits", logits, {kAny, kAny});
  check_shape(op, "labels", labels, {logits.size(0)});
  check_same_device(op, "logits", logits, "labels", labels);
  check_focal(op, alpha, gamma);
  const TargetLabels target{labels, logits.size(1)};
  dispatch_device(
      logits,
      [&] {
        const RawLabels raw = target.raw();
        for (int64_t i = 0; i < labels.size(0); ++i) {
          const int64_t label = raw.load(i);
          if (label < -1 || label > target.classes) {
            fail(op, "expected labels from -1 to ", target.classes, ", got ", label);
          }
        }
      },
      [](void*) {});
  return {op, logits, target, kNoWeight, checked_reduction(op, reduction), wide};
}

auto formula(double alpha, double gamma) {
  return [=](auto type) { return FocalLossOfCodes<typename decltype(type)::type>(alpha, gamma); };
}
}  // namespace

// reduction 0 to 2 as in Reduction. `wide` makes the result of half-precision logits float32.
Tensor sigmoid_focal_loss_from_labels(const Tensor& logits, const Tensor& labels, double alpha, double gamma,
                                      int64_t reduction, bool wide) {
  return pair_loss(checked("sigmoid_focal_loss_from_labels", logits, labels, alpha, gamma, reduction, wide),
                   formula(alpha, gamma));
}
DETOPS_OP(sigmoid_focal_loss_from_labels,
          "(Tensor logits, Tensor labels, float alpha, float gamma, int reduction, bool wide) -> Tensor")

Tensor sigmoid_focal_loss_from_labels_backward(const Tensor& grad, const Tensor& logits, const Tensor& labels,
                                               double alpha, double gamma, int64_t reduction) {
  const auto of = checked("sigmoid_focal_loss_from_labels_backward", logits, labels, alpha, gamma, reduction, false);
  return pair_loss_backward(of, grad, formula(alpha, gamma));
}
DETOPS_OP(sigmoid_focal_loss_from_labels_backward,
          "(Tensor grad, Tensor logits, Tensor labels, float alpha, float gamma, int reduction) -> Tensor")

std::tuple<Tensor, Tensor> sigmoid_focal_loss_from_labels_with_gradient(const Tensor& logits, const Tensor& labels,
                                                                        double alpha, double gamma, int64_t reduction,
                                                                        bool wide) {
  return pair_loss_with_gradient(
      checked("sigmoid_focal_loss_from_labels", logits, labels, alpha, gamma, reduction, wide), formula(alpha, gamma));
}
DETOPS_OP(sigmoid_focal_loss_from_labels_with_gradient,
          "(Tensor logits, Tensor labels, float alpha, float gamma, int reduction, bool wide) -> (Tensor, Tensor)")
}  // namespace detops
