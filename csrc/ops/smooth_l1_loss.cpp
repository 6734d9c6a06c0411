#include "smooth_l1_loss.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "elementwise.h"

namespace detops {
namespace {
enum class Reduction { kNone, kSum, kMean };

// Every element's loss times its weight, to out in the order of the loop if that is given; returns the sum.
template <bool kAbsolute, typename Isa, typename A, typename Out>
DETOPS_HD double loss_of_block(const Elements<A>& input, const Elements<A>& target, const Elements<A>* weight,
                               const SmoothL1<A>& formula, int64_t begin, int64_t end, Out* out) {
  using V = Vec<Isa, A>;
  constexpr int64_t kLanes = lanes<Isa, A>;
  alignas(64) A x_buffer[kPiece], y_buffer[kPiece], w_buffer[kPiece], out_buffer[kPiece];
  double total = 0;
  for (; begin < end; begin += kPiece) {
    const int64_t count = std::min(kPiece, end - begin);
    const A* x = input.template read<V>(begin, count, x_buffer);
    const A* y = target.template read<V>(begin, count, y_buffer);
    const A* w = weight != nullptr ? weight->template read<V>(begin, count, w_buffer) : nullptr;
    V sums[4] = {};
    for (int64_t i = 0; i < count; i += 4 * kLanes) {  // reads fill up with zeros, whose loss is 0
#pragma GCC unroll 4
      for (int64_t k = 0; k < 4; ++k) {
        const int64_t at = i + k * kLanes;
        V loss = formula.template loss<kAbsolute>(load<V>(x + at) - load<V>(y + at));
        if (w != nullptr) loss = loss * load<V>(w + at);
        sums[k] += loss;
        if (out != nullptr) store(out_buffer + at, loss);
      }
    }
    if (out != nullptr) write<V>(out_buffer, count, out + begin);
    total += sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
  return total;
}

// Derivatives with respect to the input, in the order of the loop; `grad` is one number or each element's own.
template <bool kAbsolute, typename Isa, typename A, typename Out>
DETOPS_HD void slopes_of_block(const Elements<A>& input, const Elements<A>& target, const Elements<A>* weight,
                               const Elements<A>* grads, A grad, const SmoothL1<A>& formula, int64_t begin, int64_t end,
                               Out* out) {
  using V = Vec<Isa, A>;
  constexpr int64_t kLanes = lanes<Isa, A>;
  alignas(64) A x_buffer[kPiece], y_buffer[kPiece], w_buffer[kPiece], g_buffer[kPiece], out_buffer[kPiece];
  for (; begin < end; begin += kPiece) {
    const int64_t count = std::min(kPiece, end - begin);
    const A* x = input.template read<V>(begin, count, x_buffer);
    const A* y = target.template read<V>(begin, count, y_buffer);
    const A* w = weight != nullptr ? weight->template read<V>(begin, count, w_buffer) : nullptr;
    const A* g = grads != nullptr ? grads->template read<V>(begin, count, g_buffer) : nullptr;
    A* to = out_buffer;
    if constexpr (std::is_same_v<A, Out>) to = count == kPiece ? out + begin : out_buffer;
#pragma GCC unroll 4
    for (int64_t i = 0; i < count; i += kLanes) {
      V slope = formula.template slope<kAbsolute>(load<V>(x + i) - load<V>(y + i)) * broadcast<V>(grad);
      if (w != nullptr) slope = slope * load<V>(w + i);
      if (g != nullptr) slope = slope * load<V>(g + i);
      store(to + i, slope);
    }
    if (to == out_buffer) write<V>(out_buffer, count, out + begin);
  }
}

constexpr int64_t kBlock = 8 * kPiece;  // elements whose losses are summed apart, whoever does it

template <typename A, typename Out>
void loss_cpu(const Elements<A>& input, const Elements<A>& target, const Elements<A>* weight, double beta,
              Reduction reduction, Out* output) {
  const SmoothL1<A> formula(beta);
  const int64_t n = input.size, blocks = (n + kBlock - 1) / kBlock;
  Out* each = reduction == Reduction::kNone ? output : nullptr;
  std::vector<double> sums(blocks);
  parallel_for(blocks, grain_for(0.1 * kBlock), [&](int64_t first, int64_t last) {
    simd([&](auto isa) DETOPS_INLINE {
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block * kBlock, end = std::min(n, begin + kBlock);
        sums[block] = formula.absolute
                          ? loss_of_block<true, decltype(isa)>(input, target, weight, formula, begin, end, each)
                          : loss_of_block<false, decltype(isa)>(input, target, weight, formula, begin, end, each);
      }
    });
  });
  if (reduction == Reduction::kNone) return;
  double total = 0;
  for (const double part : sums) total += part;
  if (reduction == Reduction::kMean) total /= static_cast<double>(n);
  *output = static_cast<Out>(static_cast<A>(total));
}

template <typename A, typename Out>
void slopes_cpu(const Elements<A>& input, const Elements<A>& target, const Elements<A>* weight,
                const Elements<A>* grads, A grad, double beta, Out* output) {
  const SmoothL1<A> formula(beta);
  const int64_t n = input.size, blocks = (n + kBlock - 1) / kBlock;
  parallel_for(blocks, grain_for(0.15 * kBlock), [&](int64_t first, int64_t last) {
    const int64_t begin = first * kBlock, end = std::min(n, last * kBlock);
    simd([&](auto isa) DETOPS_INLINE {
      if (formula.absolute) {
        slopes_of_block<true, decltype(isa)>(input, target, weight, grads, grad, formula, begin, end, output);
      } else {
        slopes_of_block<false, decltype(isa)>(input, target, weight, grads, grad, formula, begin, end, output);
      }
    });
  });
}

void check(const char* op, const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight, double beta,
           int64_t reduction) {
  check_floating(op, "input", input);
  check_floating(op, "target", target);
  check_same_shape(op, "input", input, "target", target);
  check_same_device(op, "input", input, "target", target);
  if (weight) {
    check_floating(op, "weight", *weight);
    check_broadcasts(op, "input", input, "weight", *weight);
    check_same_device(op, "input", input, "weight", *weight);
  }
  if (!(beta >= 0)) fail(op, "expected beta of at least 0, got ", beta);
  if (reduction < 0 || reduction > 2) fail(op, "expected reduction from 0 to 2, got ", reduction);
}
}  // namespace

// reduction 0 to 2 as in Reduction. `wide` makes the result of a half-precision input float32.
Tensor smooth_l1_loss(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight, double beta,
                      int64_t reduction, bool wide) {
  check("smooth_l1_loss", input, target, weight, beta, reduction);
  const auto kind = static_cast<Reduction>(reduction);
  const Loop loop(input, {&input, &target, weight ? &*weight : nullptr});
  const bool half = element_size(input.scalar_type()) == 2;
  const ScalarType dtype = wide && half ? ScalarType::Float : input.scalar_type();
  Tensor output = kind == Reduction::kNone ? loop.new_output(input, dtype) : new_tensor<0>(input, {}, dtype);
  dispatch_floating("smooth_l1_loss", output, [&](auto type) {
    using Out = typename decltype(type)::type;
    using A = acc_t<Out>;
    const Elements<A> x(loop, 0, input), y(loop, 1, target);
    std::optional<Elements<A>> w;
    if (weight) w.emplace(loop, 2, *weight);
    loss_cpu(x, y, w ? &*w : nullptr, beta, kind, mutable_data<Out>(output));
  });
  return output;
}
DETOPS_OP(smooth_l1_loss,
          "(Tensor input, Tensor target, Tensor? weight, float beta, int reduction, bool wide) -> Tensor")

// Gradient with respect to input; that with respect to target is its negative.
Tensor smooth_l1_loss_backward(const Tensor& grad, const Tensor& input, const Tensor& target,
                               const std::optional<Tensor>& weight, double beta, int64_t reduction) {
  const char* op = "smooth_l1_loss_backward";
  check(op, input, target, weight, beta, reduction);
  const auto kind = static_cast<Reduction>(reduction);
  check_floating(op, "grad", grad);
  check_same_device(op, "input", input, "grad", grad);
  if (kind == Reduction::kNone) {
    check_same_shape(op, "input", input, "grad", grad);
  } else {
    check_shape(op, "grad", grad, {});
  }
  const Loop loop(input, {&input, &target, weight ? &*weight : nullptr, &grad});
  Tensor output = loop.new_output(input, input.scalar_type());
  if (loop.size == 0) return output;
  dispatch_floating(op, input, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const Elements<A> x(loop, 0, input), y(loop, 1, target), g(loop, 3, grad);
    std::optional<Elements<A>> w;
    if (weight) w.emplace(loop, 2, *weight);
    A factor = 1;
    if (kind != Reduction::kNone) factor = g.at(0);
    if (kind == Reduction::kMean) factor /= static_cast<A>(x.size);
    slopes_cpu(x, y, w ? &*w : nullptr, kind == Reduction::kNone ? &g : nullptr, factor, beta, mutable_data<T>(output));
  });
  return output;
}
DETOPS_OP(smooth_l1_loss_backward,
          "(Tensor grad, Tensor input, Tensor target, Tensor? weight, float beta, int reduction) -> Tensor")
}  // namespace detops
