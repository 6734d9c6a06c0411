#include "smooth_l1_loss.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "elementwise.h"

namespace detops {
namespace {
enum class Reduction { kNone, kSum, kMean };

// Losses of a piece times their weights, to out if that is given; returns their sum. count is a multiple of 64.
template <bool kAbsolute, typename V, typename A, typename T, typename Out>
DETOPS_HD double losses(const T* x, const T* y, const A* w, const SmoothL1<A>& formula, int64_t count, Out* out) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(A);
  V sums[4] = {};
  for (int64_t i = 0; i < count; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < 4; ++k) {
      const int64_t at = i + k * kLanes;
      V loss = formula.template loss<kAbsolute>(load<V>(x + at) - load<V>(y + at));
      if (w != nullptr) loss = loss * load<V>(w + at);
      sums[k] += loss;
      if (out != nullptr) store(out + at, loss);
    }
  }
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Derivatives with respect to x; `grad` times g, if that is given, is each loss's gradient.
template <bool kAbsolute, typename V, typename A, typename T, typename Out>
DETOPS_HD void slopes(const T* x, const T* y, const A* w, const A* g, A grad, const SmoothL1<A>& formula, int64_t count,
                      Out* out) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(A);
#pragma GCC unroll 4
  for (int64_t i = 0; i < count; i += kLanes) {
    V slope = formula.template slope<kAbsolute>(load<V>(x + i) - load<V>(y + i)) * broadcast<V>(grad);
    if (w != nullptr) slope = slope * load<V>(w + i);
    if (g != nullptr) slope = slope * load<V>(g + i);
    store(out + i, slope);
  }
}

template <typename A>
struct Operands {
  Elements<A> x, y;
  std::optional<Elements<A>> weight, grad;
};

// Elements [begin, end), a piece at a time: in place where x and y lie as T in the order of the loop, else by buffers,
// filled up with zeros, whose loss is 0. Returns the sum of the losses; with kBackward out gets slopes, not losses.
template <bool kAbsolute, bool kBackward, typename Isa, typename T, typename A, typename Out>
DETOPS_HD double run_block(const Operands<A>& of, A grad, const SmoothL1<A>& formula, int64_t begin, int64_t end,
                           Out* out) {
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
      if constexpr (kBackward) {
        slopes<kAbsolute, V>(x_flat + begin, y_flat + begin, w, g, grad, formula, kPiece, out + begin);
      } else {
        total += losses<kAbsolute, V>(x_flat + begin, y_flat + begin, w, formula, kPiece,
                                      out != nullptr ? out + begin : nullptr);
      }
      continue;
    }
    const A* x = of.x.read(begin, count, x_buffer);
    const A* y = of.y.read(begin, count, y_buffer);
    const int64_t padded = (count + 63) / 64 * 64;
    if constexpr (kBackward) {
      slopes<kAbsolute, V>(x, y, w, g, grad, formula, padded, out_buffer);
    } else {
      total += losses<kAbsolute, V>(x, y, w, formula, padded, out != nullptr ? out_buffer : nullptr);
    }
    if (out != nullptr) write<V>(out_buffer, count, out + begin);
  }
  return total;
}

constexpr int64_t kBlock = 8 * kPiece;  // elements whose losses are summed apart, whoever does it

template <typename T, typename A, typename Out>
void loss_cpu(const Operands<A>& of, double beta, Reduction reduction, Out* output) {
  const SmoothL1<A> formula(beta);
  const int64_t n = of.x.size, blocks = (n + kBlock - 1) / kBlock;
  Out* each = reduction == Reduction::kNone ? output : nullptr;
  std::vector<double> sums(blocks);
  parallel_for(blocks, grain_for(0.1 * kBlock), [&](int64_t first, int64_t last) {
    simd([&](auto isa) DETOPS_INLINE {
      using Isa = decltype(isa);
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block * kBlock, end = std::min(n, begin + kBlock);
        sums[block] = formula.absolute ? run_block<true, false, Isa, T>(of, A(1), formula, begin, end, each)
                                       : run_block<false, false, Isa, T>(of, A(1), formula, begin, end, each);
      }
    });
  });
  if (reduction == Reduction::kNone) return;
  double total = 0;
  for (const double part : sums) total += part;
  if (reduction == Reduction::kMean) total /= static_cast<double>(n);
  *output = static_cast<Out>(static_cast<A>(total));
}

template <typename T, typename A>
void slopes_cpu(const Operands<A>& of, A grad, double beta, T* output) {
  const SmoothL1<A> formula(beta);
  const int64_t n = of.x.size, blocks = (n + kBlock - 1) / kBlock;
  parallel_for(blocks, grain_for(0.15 * kBlock), [&](int64_t first, int64_t last) {
    const int64_t begin = first * kBlock, end = std::min(n, last * kBlock);
    simd([&](auto isa) DETOPS_INLINE {
      using Isa = decltype(isa);
      if (formula.absolute) {
        run_block<true, true, Isa, T>(of, grad, formula, begin, end, output);
      } else {
        run_block<false, true, Isa, T>(of, grad, formula, begin, end, output);
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
          reduction == Reduction::kMean ? static_cast<double>(loop.size) : 1.0};
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
  dispatch_floating("smooth_l1_loss", input, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const auto run = [&](auto* to) {
      dispatch_device(
          input,
          [&] {
            Operands<A> operands{{loop, 0, input}, {loop, 1, target}, {}, {}};
            if (weight) operands.weight.emplace(loop, 2, *weight);
            loss_cpu<T>(operands, beta, kind, to);
          },
          [&](void* stream) {
            Tensor sums = new_tensor<1>(input, {smooth_l1_blocks(loop.size)}, ScalarType::Double);
            smooth_l1_loss_cuda<T>(arguments<A>(loop, input, target, weight, nullptr, beta, kind),
                                   mutable_data<double>(sums), to, stream);
          });
    };
    if (dtype == input.scalar_type()) {
      run(mutable_data<T>(output));
    } else {
      run(mutable_data<A>(output));
    }
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
          Operands<A> operands{{loop, 0, input}, {loop, 1, target}, {}, {}};
          if (weight) operands.weight.emplace(loop, 2, *weight);
          A factor = 1;
          if (kind == Reduction::kNone) {
            operands.grad.emplace(loop, 3, grad);
          } else {
            factor = Elements<A>(loop, 3, grad).at(0);
            if (kind == Reduction::kMean) factor /= static_cast<A>(loop.size);
          }
          slopes_cpu<T>(operands, factor, beta, mutable_data<T>(output));
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
}  // namespace detops
