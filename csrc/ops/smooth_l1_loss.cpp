#include "smooth_l1_loss.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "elementwise.h"

namespace detops {
namespace {
enum class Reduction { kNone, kSum, kMean };

enum class Pass { kLosses, kSlopes, kBoth };

// A loss's gradient is its slope times all of these that are given.
template <typename A>
struct Factors {
  A mean = 1;  // 1 / n
  A grad = 1;
};

// Losses of a piece times their weights; returns their sum. out, if given, gets the losses or, when there are any, the
// gradients. count is a multiple of 64.
template <Pass kPass, bool kAbsolute, typename V, typename A, typename T, typename Out>
DETOPS_HD double run_piece(const T* x, const T* y, const A* w, const A* g, Factors<A> factors, SmoothL1<A> formula,
                           int64_t count, Out* out) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(A);
  const V mean = broadcast<V>(factors.mean), grad = broadcast<V>(factors.grad);
  V sums[4] = {};
  for (int64_t i = 0; i < count; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < 4; ++k) {
      const int64_t at = i + k * kLanes;
      const V difference = load<V>(x + at) - load<V>(y + at);
      if constexpr (kPass != Pass::kSlopes) {
        V loss = formula.template loss<kAbsolute>(difference);
        if (w != nullptr) loss = loss * load<V>(w + at);
        sums[k] += loss;
        if (kPass == Pass::kLosses && out != nullptr) store(out + at, loss);
      }
      if constexpr (kPass != Pass::kLosses) {
        V slope = formula.template slope<kAbsolute>(difference) * mean;
        if (w != nullptr) slope = slope * load<V>(w + at);
        if constexpr (kPass == Pass::kSlopes) slope = slope * grad;  // last: it is 1 in kBoth, and the bits the same
        if (g != nullptr) slope = slope * load<V>(g + at);
        store(out + at, slope);
      }
    }
  }
  return kPass == Pass::kSlopes ? 0 : sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <typename A>
struct Operands {
  Elements<A> x, y;
  std::optional<Elements<A>> weight, grad;

  Operands(const Loop& loop, const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight_)
      : x(loop, 0, input), y(loop, 1, target) {
    if (weight_) weight.emplace(loop, 2, *weight_);
  }
};

// Elements [begin, end), a piece at a time: in place where x and y lie as T in the order of the loop, else by buffers,
// filled up with zeros, whose loss is 0. Returns the sum of the losses.
template <Pass kPass, bool kAbsolute, typename Isa, typename T, typename A, typename Out>
DETOPS_HD double run_block(const Operands<A>& of, Factors<A> factors, const SmoothL1<A>& formula, int64_t begin,
                           int64_t end, Out* out) {
  using V = Vec<Isa, A>;
  alignas(64) A x_buffer[kPiece], y_buffer[kPiece], w_buffer[kPiece], g_buffer[kPiece], out_buffer[kPiece];
  const T *x_flat = of.x.template flat<T>(), *y_flat = of.y.template flat<T>();
  const bool in_place = x_flat != nullptr && y_flat != nullptr;
  double total = 0;
  for (; begin < end; begin += kPiece) {
    const int64_t count = std::min(kPiece, end - begin);
    const A* w = of.weight ? of.weight->read(begin, count, w_buffer) : nullptr;
    const A* g = of.grad ? of.grad->read(begin, count, g_buffer) : nullptr;
    if (in_place && count == kPiece) {
      total += run_piece<kPass, kAbsolute, V>(x_flat + begin, y_flat + begin, w, g, factors, formula, kPiece,
                                              out != nullptr ? out + begin : nullptr);
      continue;
    }
    const A* x = of.x.read(begin, count, x_buffer);
    const A* y = of.y.read(begin, count, y_buffer);
    total += run_piece<kPass, kAbsolute, V>(x, y, w, g, factors, formula, (count + 63) / 64 * 64,
                                            out != nullptr ? out_buffer : nullptr);
    if (out != nullptr) write<V>(out_buffer, count, out + begin);
  }
  return total;
}

constexpr int64_t kBlock = 8 * kPiece;  // elements whose losses are summed apart, whoever does it

// Returns the sum of the losses.
template <Pass kPass, typename T, typename A, typename Out>
double run_cpu(const Operands<A>& of, Factors<A> factors, double beta, Out* output) {
  const SmoothL1<A> formula(beta);
  const int64_t n = of.x.size, blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> sums(blocks);
  parallel_for(blocks, grain_for(0.1 * kBlock), [&](int64_t first, int64_t last) {
    simd([&](auto isa) DETOPS_INLINE {
      using Isa = decltype(isa);
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block * kBlock, end = std::min(n, begin + kBlock);
        sums[block] = formula.absolute ? run_block<kPass, true, Isa, T>(of, factors, formula, begin, end, output)
                                       : run_block<kPass, false, Isa, T>(of, factors, formula, begin, end, output);
      }
    });
  });
  double total = 0;
  for (const double part : sums) total += part;
  return total;
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

ScalarType result_dtype(const Tensor& input, bool wide) {
  return wide && element_size(input.scalar_type()) == 2 ? ScalarType::Float : input.scalar_type();
}

// What a sum of losses is divided by.
double divisor(Reduction kind, int64_t size) { return kind == Reduction::kMean ? static_cast<double>(size) : 1.0; }

template <typename A>
SmoothL1Args<A> arguments(const Loop& loop, const Tensor& input, const Tensor& target,
                          const std::optional<Tensor>& weight, const Tensor* grad, double beta, Reduction reduction) {
  const auto raw = [&](size_t operand, const Tensor& t) { return raw_elements(loop, operand, t, input.scalar_type()); };
  return {raw_loop(loop),
          raw(0, input),
          raw(1, target),
          weight ? raw(2, *weight) : RawElements{},
          grad != nullptr ? raw(3, *grad) : RawElements{},
          SmoothL1<A>(beta),
          reduction == Reduction::kNone,
          divisor(reduction, loop.size)};
}
}  // namespace

// reduction 0 to 2 as in Reduction. `wide` makes the result of a half-precision input float32.
Tensor smooth_l1_loss(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight, double beta,
                      int64_t reduction, bool wide) {
  check("smooth_l1_loss", input, target, weight, beta, reduction);
  const auto kind = static_cast<Reduction>(reduction);
  const Loop loop(input, {&input, &target, weight ? &*weight : nullptr});
  const ScalarType dtype = result_dtype(input, wide);
  Tensor output = kind == Reduction::kNone ? loop.new_output(input, dtype) : new_tensor<0>(input, {}, dtype);
  dispatch_floating("smooth_l1_loss", input, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const auto run = [&](auto* to) {
      dispatch_device(
          input,
          [&] {
            const Operands<A> operands(loop, input, target, weight);
            const bool reduces = kind != Reduction::kNone;
            const double total = run_cpu<Pass::kLosses, T>(operands, Factors<A>{}, beta, reduces ? nullptr : to);
            if (reduces) *to = static_cast<A>(total / divisor(kind, loop.size));
          },
          [&](void* stream) {
            Tensor sums = new_tensor<1>(input, {smooth_l1_blocks(loop.size)}, ScalarType::Double);
            smooth_l1_loss_cuda<T>(arguments<A>(loop, input, target, weight, nullptr, beta, kind),
                                   mutable_data<double>(sums), to, stream);
          });
    };
    dtype == input.scalar_type() ? run(mutable_data<T>(output)) : run(mutable_data<A>(output));
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
    dispatch_device(
        input,
        [&] {
          Operands<A> operands(loop, input, target, weight);
          Factors<A> factors{static_cast<A>(1 / divisor(kind, loop.size))};
          if (kind == Reduction::kNone) {
            operands.grad.emplace(loop, 3, grad);
          } else {
            factors.grad = Elements<A>(loop, 3, grad).at(0);
          }
          run_cpu<Pass::kSlopes, T>(operands, factors, beta, mutable_data<T>(output));
        },
        [&](void* stream) {
          smooth_l1_loss_backward_cuda<T>(arguments<A>(loop, input, target, weight, &grad, beta, kind),
                                          mutable_data<T>(output), stream);
        });
  });
  return output;
}
DETOPS_OP(smooth_l1_loss_backward,
          "(Tensor grad, Tensor input, Tensor target, Tensor? weight, float beta, int reduction) -> Tensor")

// The sum or mean and its gradient with respect to input: on the CPU of one pass.
std::tuple<Tensor, Tensor> smooth_l1_loss_with_gradient(const Tensor& input, const Tensor& target,
                                                        const std::optional<Tensor>& weight, double beta,
                                                        int64_t reduction, bool wide) {
  const char* op = "smooth_l1_loss";  // what the caller called
  check(op, input, target, weight, beta, reduction);
  const auto kind = static_cast<Reduction>(reduction);
  if (kind == Reduction::kNone) fail(op, "expected reduction from 1 to 2, got ", reduction);
  std::tuple<Tensor, Tensor> result;
  auto& [output, gradient] = result;
  dispatch_device(
      input,
      [&] {
        const Loop loop(input, {&input, &target, weight ? &*weight : nullptr});
        const ScalarType dtype = result_dtype(input, wide);
        output = new_tensor<0>(input, {}, dtype);
        gradient = loop.new_output(input, input.scalar_type());
        dispatch_floating(op, input, [&](auto type) {
          using T = typename decltype(type)::type;
          using A = acc_t<T>;
          const Operands<A> operands(loop, input, target, weight);
          const double size = divisor(kind, loop.size);
          const Factors<A> factors{static_cast<A>(1 / size)};
          const double total = run_cpu<Pass::kBoth, T>(operands, factors, beta, mutable_data<T>(gradient));
          const A mean = static_cast<A>(total / size);
          dtype == input.scalar_type() ? void(*mutable_data<T>(output) = mean) : void(*mutable_data<A>(output) = mean);
        });
      },
      [&](void*) {
        Tensor one = new_tensor<0>(input, {}, input.scalar_type());
        torch::stable::fill_(one, 1);
        output = smooth_l1_loss(input, target, weight, beta, reduction, wide);
        gradient = smooth_l1_loss_backward(one, input, target, weight, beta, reduction);
      });
  return result;
}
DETOPS_OP(smooth_l1_loss_with_gradient,
          "(Tensor input, Tensor target, Tensor? weight, float beta, int reduction, bool wide) -> (Tensor, Tensor)")
}  // namespace detops
