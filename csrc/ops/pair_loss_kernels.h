// CUDA: losses of pairs of elements. Bound by the bytes of input and target: 16 bytes of each at a time, and no more
// passes than one each way.
#pragma once
#include "loss_kernels.h"
#include "pair_loss.h"

namespace detops {
template <typename Formula, typename Target, typename To>
struct PairLossKernelArgs {
  PairLossArgs<Formula, Target> of;
  LossSum<To> sum;
  To* output;  // of each element
};

// Elements that a thread takes at a time: a pack where all operands are in packs.
template <typename T, bool kPacks>
constexpr int kStep = kPacks ? Pack<T>::size : 1;

// Elements i, i + 1, ... of an operand, `count` of them; zeros beyond.
template <typename T, bool kPacks, int kCount, typename A>
DETOPS_D void read(const RawLoop& loop, const RawElements& from, int64_t i, int count, A (&values)[kCount]) {
  if constexpr (kPacks) {
    const T* data = reinterpret_cast<const T*>(from.data) + i;
    if (count == kCount) {
      const auto pack = *reinterpret_cast<const Pack<T>*>(data);
#pragma unroll
      for (int k = 0; k < kCount; ++k) values[k] = static_cast<A>(pack.values[k]);
    } else {
#pragma unroll
      for (int k = 0; k < kCount; ++k) values[k] = k < count ? static_cast<A>(data[k]) : A(0);
    }
  } else {
    values[0] = from.load<A>(loop, i);
  }
}

template <bool kPacks, int kCount, typename A, typename To>
DETOPS_D void write(To* to, int count, const A (&values)[kCount]) {
  To converted[kCount];
#pragma unroll
  for (int k = 0; k < kCount; ++k) converted[k] = static_cast<To>(values[k]);
  if constexpr (kPacks) {
    if (count == kCount) return store_packs(to, converted);
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (k < count) to[k] = converted[k];
  }
}

template <typename A, int kCount>
DETOPS_D void multiply(A (&values)[kCount], const A (&by)[kCount]) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) values[k] *= by[k];
}

template <typename Formula, typename A>
DETOPS_D LossAndSlope<A> evaluate(const Formula& formula, A x, A y) {
  return with_variant(formula, [&](auto variant) { return formula.template at<decltype(variant)::value>(x, y); });
}

template <typename T, bool kPacks, typename Formula, typename Target, typename To>
__global__ void __launch_bounds__(kLossThreads) pair_loss_kernel(PairLossKernelArgs<Formula, Target, To> a) {
  using A = acc_t<T>;
  constexpr int kCount = kStep<T, kPacks>;
  const RawLoop& loop = a.of.loop;
  double total = 0;
  DETOPS_GRID_STRIDE(step, (loop.size + kCount - 1) / kCount) {
    const int64_t i = step * kCount;
    const int count = static_cast<int>(min<int64_t>(kCount, loop.size - i));
    A x[kCount], y[kCount], losses[kCount], sum = 0;
    read<T, kPacks>(loop, a.of.input, i, count, x);
    read<T, kPacks>(loop, a.of.target, i, count, y);
#pragma unroll
    for (int k = 0; k < kCount; ++k) losses[k] = evaluate(a.of.formula, x[k], y[k]).loss;
    if (a.of.weight.data != nullptr) {
      A weights[kCount];
      read<T, kPacks>(loop, a.of.weight, i, count, weights);
      multiply(losses, weights);
    }
    if (a.of.each) {
      write<kPacks>(a.output + i, count, losses);
      continue;
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum += k < count ? losses[k] : A(0);
    total += sum;
  }
  if (!a.of.each) finish_block<A>(total, a.sum);
}

template <typename T, bool kPacks, typename Formula, typename Target>
__global__ void __launch_bounds__(kLossThreads) pair_loss_backward_kernel(PairLossKernelArgs<Formula, Target, T> a) {
  using A = acc_t<T>;
  constexpr int kCount = kStep<T, kPacks>;
  const RawLoop& loop = a.of.loop;
  const A mean = static_cast<A>(a.of.mean), grad = a.of.each ? A(1) : a.of.grad.template load<A>(loop, 0);
  DETOPS_GRID_STRIDE(step, (loop.size + kCount - 1) / kCount) {
    const int64_t i = step * kCount;
    const int count = static_cast<int>(min<int64_t>(kCount, loop.size - i));
    A x[kCount], y[kCount], slopes[kCount], by[kCount];
    read<T, kPacks>(loop, a.of.input, i, count, x);
    read<T, kPacks>(loop, a.of.target, i, count, y);
#pragma unroll
    for (int k = 0; k < kCount; ++k) slopes[k] = mean * evaluate(a.of.formula, x[k], y[k]).slope;
    if (a.of.weight.data != nullptr) {
      read<T, kPacks>(loop, a.of.weight, i, count, by);
      multiply(slopes, by);
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) slopes[k] *= grad;  // last: the gradient for 1, times it, has the same bits
    if (a.of.each) {
      read<T, kPacks>(loop, a.of.grad, i, count, by);
      multiply(slopes, by);
    }
    write<kPacks>(a.output + i, count, slopes);
  }
}

template <typename Formula, typename Target>
bool all_in_packs(const PairLossArgs<Formula, Target>& args) {
  return args.input.in_packs && args.target.in_packs && (args.weight.data == nullptr || args.weight.in_packs) &&
         (args.grad.data == nullptr || !args.each || args.grad.in_packs);
}

template <typename T, bool kPacks>
Grid grid_of_steps(int64_t n) {
  return grid_for((n + kStep<T, kPacks> - 1) / kStep<T, kPacks>, kLossThreads);
}

template <typename T, typename Formula, typename Target, typename Out>
void pair_loss_cuda(const char* op, const PairLossArgs<Formula, Target>& args, double* sums, Out* output,
                    void* stream) {
  const LossSum<Out> sum{sums, args.divisor, output};
  const int64_t n = args.loop.size, blocks = loss_blocks(n);
  const auto run = [&](auto packs) {
    constexpr bool kPacks = decltype(packs)::value;
    const Grid grid = args.each ? grid_of_steps<T, kPacks>(n) : Grid{blocks, kLossThreads};
    launch(op, pair_loss_kernel<T, kPacks, Formula, Target, Out>, grid, stream, {args, sum, output});
  };
  all_in_packs(args) ? run(std::true_type{}) : run(std::false_type{});
  if (!args.each) add_blocks<acc_t<T>>(op, sum, blocks, stream);
}

template <typename T, typename Formula, typename Target>
void pair_loss_backward_cuda(const char* op, const PairLossArgs<Formula, Target>& args, T* output, void* stream) {
  const auto run = [&](auto packs) {
    constexpr bool kPacks = decltype(packs)::value;
    launch(op, pair_loss_backward_kernel<T, kPacks, Formula, Target>, grid_of_steps<T, kPacks>(args.loop.size), stream,
           {args, {}, output});
  };
  all_in_packs(args) ? run(std::true_type{}) : run(std::false_type{});
}

#define DETOPS_PAIR_LOSS_OF(T, OUT, FORMULA, TARGET) \
  template void pair_loss_cuda<T>(const char*, const PairLossArgs<FORMULA<acc_t<T>>, TARGET>&, double*, OUT*, void*);
#define DETOPS_PAIR_LOSS_BACKWARD_OF(T, FORMULA, TARGET) \
  template void pair_loss_backward_cuda<T>(const char*, const PairLossArgs<FORMULA<acc_t<T>>, TARGET>&, T*, void*);

#define DETOPS_PAIR_LOSS(FORMULA, TARGET)                  \
  DETOPS_PAIR_LOSS_OF(float, float, FORMULA, TARGET)       \
  DETOPS_PAIR_LOSS_OF(double, double, FORMULA, TARGET)     \
  DETOPS_PAIR_LOSS_OF(Half, Half, FORMULA, TARGET)         \
  DETOPS_PAIR_LOSS_OF(Half, float, FORMULA, TARGET)        \
  DETOPS_PAIR_LOSS_OF(BFloat16, BFloat16, FORMULA, TARGET) \
  DETOPS_PAIR_LOSS_OF(BFloat16, float, FORMULA, TARGET)
#define DETOPS_PAIR_LOSS_BACKWARD(FORMULA, TARGET)      \
  DETOPS_PAIR_LOSS_BACKWARD_OF(float, FORMULA, TARGET)  \
  DETOPS_PAIR_LOSS_BACKWARD_OF(double, FORMULA, TARGET) \
  DETOPS_PAIR_LOSS_BACKWARD_OF(Half, FORMULA, TARGET)   \
  DETOPS_PAIR_LOSS_BACKWARD_OF(BFloat16, FORMULA, TARGET)
}  // namespace detops
