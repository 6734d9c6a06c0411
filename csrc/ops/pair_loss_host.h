// A loss of pairs of elements on the host: its operators but for their names and formulas, and the CPU's loops.
#pragma once
#include <algorithm>
#include <optional>
#include <tuple>

#include "elementwise.h"
#include "loss_host.h"
#include "pair_loss.h"

namespace detops {
// A loss's gradient is its slope times all of these that are given.
template <typename A>
struct Factors {
  A mean = 1;  // 1 / n
  A grad = 1;
};

// Losses of a piece times their weights; returns their sum. out, if given, gets the losses or, when there are any, the
// gradients. count is a multiple of 64.
template <Pass kPass, int kVariant, typename V, typename Formula, typename A, typename X, typename Y, typename Out>
DETOPS_HD double run_piece(const X* x, const Y* y, const A* w, const A* g, Factors<A> factors, Formula formula,
                           int64_t count, Out* out) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(A), kUnroll = Formula::kUnroll;
  const V mean = broadcast<V>(factors.mean), grad = broadcast<V>(factors.grad);
  V sums[kUnroll] = {};
  for (int64_t i = 0; i < count; i += kUnroll * kLanes) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < kUnroll; ++k) {
      const int64_t at = i + k * kLanes;
      LossAndSlope<V> value = formula.template at<kVariant>(load<V>(x + at), load<V>(y + at));
      if constexpr (kPass != Pass::kGradients) {
        if (w != nullptr) value.loss = value.loss * load<V>(w + at);
        sums[k] += value.loss;
        if (kPass == Pass::kLosses && out != nullptr) store(out + at, value.loss);
      }
      if constexpr (kPass != Pass::kLosses) {
        V slope = value.slope * mean;
        if (w != nullptr) slope = slope * load<V>(w + at);
        if constexpr (kPass == Pass::kGradients) slope = slope * grad;  // last: it is 1 in kBoth, and the bits the same
        if (g != nullptr) slope = slope * load<V>(g + at);
        store(out + at, slope);
      }
    }
  }
  if constexpr (kPass == Pass::kGradients) return 0;
  for (int64_t width = kUnroll / 2; width > 0; width /= 2)
    for (int64_t k = 0; k < width; ++k) sums[k] += sums[k + width];
  return sum(sums[0]);
}

// The target as a tensor of the input's shape.
struct TargetElements {
  const Tensor& tensor;

  Loop loop(const Tensor& input, const Tensor* weight, const Tensor* grad) const {
    return Loop(input, {&input, &tensor, weight, grad});
  }
  template <typename A>
  Elements<A> elements(const Loop& loop) const {
    return Elements<A>(loop, 1, tensor);
  }
  RawElements raw(const Loop& loop, ScalarType of_kernel) const { return raw_elements(loop, 1, tensor, of_kernel); }
};

template <typename A, typename Target>
struct Operands {
  Elements<A> x;
  Target y;
  std::optional<Elements<A>> weight, grad;
};

// Elements [begin, end), a piece at a time: in place where x and y lie as T in the order of the loop, else by buffers,
// filled up with what has no loss. Returns the sum of the losses.
template <Pass kPass, int kVariant, typename Isa, typename T, typename Formula, typename A, typename Target,
          typename Out>
DETOPS_HD double run_block(const Operands<A, Target>& of, Factors<A> factors, const Formula& formula, int64_t begin,
                           int64_t end, Out* out) {
  using V = Vec<Isa, A>;
  alignas(64) A x_buffer[kPiece], y_buffer[kPiece], w_buffer[kPiece], g_buffer[kPiece], out_buffer[kPiece];
  const T* x_flat = of.x.template flat<T>();
  double total = 0;
  for (; begin < end; begin += kPiece) {
    const int64_t count = std::min(kPiece, end - begin);
    const A* w = of.weight ? of.weight->read(begin, count, w_buffer) : nullptr;
    const A* g = of.grad ? of.grad->read(begin, count, g_buffer) : nullptr;
    const auto run = [&](const auto* x, const auto* y, int64_t n, auto* to)
                         DETOPS_INLINE { total += run_piece<kPass, kVariant, V>(x, y, w, g, factors, formula, n, to); };
    if (x_flat != nullptr && count == kPiece) {
      if constexpr (std::is_same_v<Target, Elements<A>>) {
        const T* y_flat = of.y.template flat<T>();
        if (y_flat != nullptr) {
          run(x_flat + begin, y_flat + begin, kPiece, out != nullptr ? out + begin : nullptr);
          continue;
        }
      } else {
        run(x_flat + begin, of.y.read(begin, kPiece, y_buffer), kPiece, out != nullptr ? out + begin : nullptr);
        continue;
      }
    }
    const A* x = of.x.read(begin, count, x_buffer);
    const A* y = of.y.read(begin, count, y_buffer);
    const int64_t padded = (count + 63) / 64 * 64;
    if (count < padded) std::fill(x_buffer + count, x_buffer + padded, static_cast<A>(Formula::kNeutral));
    run(x, y, padded, out != nullptr ? out_buffer : nullptr);
    if (out != nullptr) write<V>(out_buffer, count, out + begin);
  }
  return total;
}

// Returns the sum of the losses.
template <Pass kPass, typename T, typename Formula, typename A, typename Target, typename Out>
double run_cpu(const Operands<A, Target>& of, Factors<A> factors, const Formula& formula, Out* output) {
  constexpr int64_t kBlock = 8 * kPiece;  // elements whose losses are summed apart, whoever does it
  return sum_of_blocks(
      of.x.size, kBlock, Formula::kNanoseconds, [&](auto isa, int64_t begin, int64_t end) DETOPS_INLINE {
        return with_variant(formula, [&](auto variant) DETOPS_INLINE {
          return run_block<kPass, decltype(variant)::value, decltype(isa), T>(of, factors, formula, begin, end, output);
        });
      });
}

inline ScalarType loss_dtype(const Tensor& input, bool wide) {
  return wide && element_size(input.scalar_type()) == 2 ? ScalarType::Float : input.scalar_type();
}

// What a call is given.
template <typename Target>
struct PairLoss {
  const char* op;
  const Tensor& input;
  Target target;
  const std::optional<Tensor>& weight;
  Reduction reduction;
  bool wide = false;  // the loss of half-precision input is float32

  Loop loop(const Tensor* grad = nullptr) const { return target.loop(input, weight ? &*weight : nullptr, grad); }

  template <typename A>
  auto operands(const Loop& loop) const {
    using Elements_ = decltype(target.template elements<A>(loop));
    Operands<A, Elements_> of{Elements<A>(loop, 0, input), target.template elements<A>(loop), {}, {}};
    if (weight) of.weight.emplace(loop, 2, *weight);
    return of;
  }

  template <typename Formula>
  auto raw(const Loop& loop, const Formula& formula, const Tensor* grad = nullptr) const {
    const ScalarType dtype = input.scalar_type();
    using Raw = decltype(target.raw(loop, dtype));
    return PairLossArgs<Formula, Raw>{raw_loop(loop),
                                      raw_elements(loop, 0, input, dtype),
                                      target.raw(loop, dtype),
                                      weight ? raw_elements(loop, 2, *weight, dtype) : RawElements{},
                                      grad != nullptr ? raw_elements(loop, 3, *grad, dtype) : RawElements{},
                                      formula,
                                      reduction == Reduction::kNone,
                                      divisor(reduction, loop.size),
                                      1 / divisor(reduction, loop.size)};
  }
};

// make(Type<A>{}) is the formula in A.
template <typename Target, typename Make>
Tensor pair_loss(const PairLoss<Target>& of, const Make& make) {
  const Tensor& input = of.input;
  const Loop loop = of.loop();
  const ScalarType dtype = loss_dtype(input, of.wide);
  const bool reduces = of.reduction != Reduction::kNone;
  Tensor output = reduces ? new_tensor<0>(input, {}, dtype) : loop.new_output(input, dtype);
  dispatch_floating(of.op, input, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const auto formula = make(Type<A>{});
    const auto run = [&](auto* to) {
      dispatch_device(
          input,
          [&] {
            const auto operands = of.template operands<A>(loop);
            const double total = run_cpu<Pass::kLosses, T>(operands, Factors<A>{}, formula, reduces ? nullptr : to);
            if (reduces) *to = static_cast<A>(total / divisor(of.reduction, loop.size));
          },
          [&](void* stream) {
            Tensor sums = new_tensor<1>(input, {loss_blocks(loop.size)}, ScalarType::Double);
            pair_loss_cuda<T>(of.op, of.raw(loop, formula), mutable_data<double>(sums), to, stream);
          });
    };
    dtype == input.scalar_type() ? run(mutable_data<T>(output)) : run(mutable_data<A>(output));
  });
  return output;
}

// grad times the derivative with respect to the input.
template <typename Target, typename Make>
Tensor pair_loss_backward(const PairLoss<Target>& of, const Tensor& grad, const Make& make) {
  const Tensor& input = of.input;
  const bool reduces = of.reduction != Reduction::kNone;
  check_floating(of.op, "grad", grad);
  check_same_device(of.op, "input", input, "grad", grad);
  if (reduces) {
    check_shape(of.op, "grad", grad, {});
  } else {
    check_same_shape(of.op, "input", input, "grad", grad);
  }
  const Loop loop = of.loop(&grad);
  Tensor output = loop.new_output(input, input.scalar_type());
  if (loop.size == 0) return output;
  dispatch_floating(of.op, input, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const auto formula = make(Type<A>{});
    dispatch_device(
        input,
        [&] {
          auto operands = of.template operands<A>(loop);
          Factors<A> factors{static_cast<A>(1 / divisor(of.reduction, loop.size))};
          if (reduces) {
            factors.grad = Elements<A>(loop, 3, grad).at(0);
          } else {
            operands.grad.emplace(loop, 3, grad);
          }
          run_cpu<Pass::kGradients, T>(operands, factors, formula, mutable_data<T>(output));
        },
        [&](void* stream) {
          pair_loss_backward_cuda<T>(of.op, of.raw(loop, formula, &grad), mutable_data<T>(output), stream);
        });
  });
  return output;
}

// The sum or mean and its gradient with respect to the input: on the CPU of one pass.
template <typename Target, typename Make>
std::tuple<Tensor, Tensor> pair_loss_with_gradient(const PairLoss<Target>& of, const Make& make) {
  const Tensor& input = of.input;
  check_reduces(of.op, of.reduction);
  std::tuple<Tensor, Tensor> result;
  auto& [output, gradient] = result;
  dispatch_device(
      input,
      [&] {
        const Loop loop = of.loop();
        const ScalarType dtype = loss_dtype(input, of.wide);
        output = new_tensor<0>(input, {}, dtype);
        gradient = loop.new_output(input, input.scalar_type());
        dispatch_floating(of.op, input, [&](auto type) {
          using T = typename decltype(type)::type;
          using A = acc_t<T>;
          const double size = divisor(of.reduction, loop.size);
          const Factors<A> factors{static_cast<A>(1 / size)};
          const double total = run_cpu<Pass::kBoth, T>(of.template operands<A>(loop), factors, make(Type<A>{}),
                                                       mutable_data<T>(gradient));
          const A mean = static_cast<A>(total / size);
          dtype == input.scalar_type() ? void(*mutable_data<T>(output) = mean) : void(*mutable_data<A>(output) = mean);
        });
      },
      [&](void*) {
        Tensor one = new_tensor<0>(input, {}, input.scalar_type());
        torch::stable::fill_(one, 1);
        output = pair_loss(of, make);
        gradient = pair_loss_backward(of, one, make);
      });
  return result;
}

inline void check_weight(const char* op, const char* input_name, const Tensor& input, const Tensor& weight) {
  check_floating(op, "weight", weight);
  check_broadcasts(op, input_name, input, "weight", weight);
  check_same_device(op, input_name, input, "weight", weight);
}

// What operators whose target is a tensor check.
inline void check_pair(const char* op, const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight) {
  check_floating(op, "input", input);
  check_floating(op, "target", target);
  check_same_shape(op, "input", input, "target", target);
  check_same_device(op, "input", input, "target", target);
  if (weight) check_weight(op, "input", input, *weight);
}
}  // namespace detops
