#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "pair_loss_host.h"
#include "sigmoid_focal_loss.h"

namespace detops {
namespace {
// fn(labels as their own type)
template <typename Fn>
DETOPS_HD auto with_type(const RawLabels& labels, const Fn& fn) {
  switch (labels.dtype) {
    case ScalarType::Byte:
      return fn(reinterpret_cast<const uint8_t*>(labels.data));
    case ScalarType::Char:
      return fn(reinterpret_cast<const int8_t*>(labels.data));
    case ScalarType::Short:
      return fn(reinterpret_cast<const int16_t*>(labels.data));
    case ScalarType::Int:
      return fn(reinterpret_cast<const int32_t*>(labels.data));
    default:
      return fn(reinterpret_cast<const int64_t*>(labels.data));
  }
}

// The codes of a loop over logits, as the loops read a target.
template <typename A>
struct LabelCodes {
  RawLabels labels;
  RawLoop loop;

  // Compiled once, with its own switch of instruction sets, as Elements::fill is.
  [[gnu::noinline]] const A* read(int64_t begin, int64_t count, A* codes) const {
    simd([&](auto) DETOPS_INLINE {
      with_type(labels, [&](const auto* from) DETOPS_INLINE { fill(from, begin, count, codes); });
    });
    return codes;
  }

 private:
  template <typename L>
  DETOPS_HD void fill(const L* from, int64_t begin, int64_t count, A* codes) const {
    const int inner = loop.axes - 1;
    int64_t index[RawLoop::kMostAxes];
    for (int axis = inner; axis >= 0; begin /= loop.sizes[axis--]) index[axis] = begin % loop.sizes[axis];
    std::fill(codes + count, codes + (count + 63) / 64 * 64, A(0));
    while (count > 0) {
      const L* label = from;
      for (int axis = 0; axis <= inner; ++axis) label += index[axis] * labels.strides[axis];
      const int64_t run = loop.axes == 0 ? 1 : std::min(count, loop.sizes[inner] - index[inner]);
      const int64_t first = labels.class_axis < 0 ? 0 : index[labels.class_axis];
      if (inner >= 0 && inner == labels.class_axis) {
        const auto column = static_cast<int64_t>(*label) - first;
        std::fill(codes, codes + run, static_cast<A>(column + first < 0 ? kIgnored : 0));
        if (column >= 0 && column < run) codes[column] = 1;
      } else {
        of_class(label, inner < 0 ? 0 : labels.strides[inner], first, run, codes);
      }
      if (run == count) return;
      codes += run;
      count -= run;
      index[inner] += run;
      for (int axis = inner; axis > 0 && index[axis] == loop.sizes[axis]; --axis) index[axis] = 0, ++index[axis - 1];
    }
  }

  template <typename L>
  DETOPS_HD static void of_class(const L* label, int64_t step, int64_t wanted, int64_t count, A* codes) {
    const auto code = [&](int64_t of) { return of == wanted ? A(1) : of < 0 ? static_cast<A>(kIgnored) : A(0); };
    if (step == 1) {
      for (int64_t i = 0; i < count; ++i) codes[i] = code(label[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) codes[i] = code(label[i * step]);
    }
  }
};

struct TargetLabels {
  Tensor labels;  // with an axis of 1 for that of the classes
  int64_t classes;

  Loop loop(const Tensor& logits, const Tensor* weight, const Tensor* grad) const {
    return Loop(logits, {&logits, &labels, weight, grad}, logits.dim() - 1);
  }
  template <typename A>
  LabelCodes<A> elements(const Loop& loop) const {
    return {raw(loop, labels.scalar_type()), raw_loop(loop)};
  }
  RawLabels raw(const Loop& loop, ScalarType) const {
    RawLabels raw{data<char>(labels), labels.scalar_type(), classes, loop.apart_at, {}};
    std::copy(loop.strides[1].begin(), loop.strides[1].end(), raw.strides);
    return raw;
  }
};

// On the CPU, where they can be seen.
void check_labels(const char* op, const Tensor& labels, int64_t classes) {
  const Loop loop(labels, {&labels});
  if (loop.size == 0) return;
  RawLabels raw{data<char>(labels), labels.scalar_type(), classes, -1, {}};
  std::vector<int64_t> index(loop.sizes.size());
  for (int64_t i = 0; i < loop.size; ++i) {
    int64_t at = 0;
    for (size_t axis = 0; axis < index.size(); ++axis) at += index[axis] * loop.strides[0][axis];
    const int64_t label = raw.load(at);
    if (label < -1 || label > classes) fail(op, "expected labels from -1 to ", classes, ", got ", label);
    for (size_t axis = index.size(); axis-- > 0 && ++index[axis] == loop.sizes[axis];) index[axis] = 0;
  }
}

PairLoss<TargetLabels> checked(const char* op, const Tensor& logits, const Tensor& labels,
                               const std::optional<Tensor>& weight, double alpha, double gamma, int64_t reduction,
                               bool wide) {
  check_floating(op, "logits", logits);
  if (!is_integral(labels.scalar_type())) fail(op, "expected labels of an integer dtype, got ", dtype_of(labels));
  if (logits.dim() == 0) fail(op, "expected logits of shape (..., C), got ()");
  std::vector<int64_t> wanted(logits.dim() - 1);
  for (size_t d = 0; d < wanted.size(); ++d) wanted[d] = logits.size(static_cast<int64_t>(d));
  check_shape(op, "labels", labels, wanted);
  check_same_device(op, "logits", logits, "labels", labels);
  if (weight) check_weight(op, "logits", logits, *weight);
  check_focal(op, alpha, gamma);
  const int64_t classes = logits.size(-1);
  dispatch_device(logits, [&] { check_labels(op, labels, classes); }, [](void*) {});
  wanted.push_back(1);
  return {op, logits, {torch::stable::view(labels, wanted), classes}, weight, checked_reduction(op, reduction), wide};
}

auto formula(double alpha, double gamma) {
  return [=](auto type) { return FocalLossOfCodes<typename decltype(type)::type>(alpha, gamma); };
}
}  // namespace

// reduction 0 to 2 as in Reduction. `wide` makes the result of half-precision logits float32.
Tensor sigmoid_focal_loss_from_labels(const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& weight,
                                      double alpha, double gamma, int64_t reduction, bool wide) {
  return pair_loss(checked("sigmoid_focal_loss_from_labels", logits, labels, weight, alpha, gamma, reduction, wide),
                   formula(alpha, gamma));
}
DETOPS_OP(sigmoid_focal_loss_from_labels,
          "(Tensor logits, Tensor labels, Tensor? weight, float alpha, float gamma, int reduction, bool wide) -> "
          "Tensor")

Tensor sigmoid_focal_loss_from_labels_backward(const Tensor& grad, const Tensor& logits, const Tensor& labels,
                                               const std::optional<Tensor>& weight, double alpha, double gamma,
                                               int64_t reduction) {
  const auto of =
      checked("sigmoid_focal_loss_from_labels_backward", logits, labels, weight, alpha, gamma, reduction, false);
  return pair_loss_backward(of, grad, formula(alpha, gamma));
}
DETOPS_OP(sigmoid_focal_loss_from_labels_backward,
          "(Tensor grad, Tensor logits, Tensor labels, Tensor? weight, float alpha, float gamma, int reduction) -> "
          "Tensor")

std::tuple<Tensor, Tensor> sigmoid_focal_loss_from_labels_with_gradient(const Tensor& logits, const Tensor& labels,
                                                                        const std::optional<Tensor>& weight,
                                                                        double alpha, double gamma, int64_t reduction,
                                                                        bool wide) {
  return pair_loss_with_gradient(
      checked("sigmoid_focal_loss_from_labels", logits, labels, weight, alpha, gamma, reduction, wide),
      formula(alpha, gamma));
}
DETOPS_OP(sigmoid_focal_loss_from_labels_with_gradient,
          "(Tensor logits, Tensor labels, Tensor? weight, float alpha, float gamma, int reduction, bool wide) -> "
          "(Tensor, Tensor)")
}  // namespace detops
