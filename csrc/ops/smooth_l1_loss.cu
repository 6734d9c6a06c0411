#include "../core/launch.h"
#include "smooth_l1_loss.h"

// Bound by the bytes of input and target: 16 bytes of each at a time, and no more passes than one each way. The sum is
// that of the blocks' sums, added up by a second kernel in their order.
namespace detops {
namespace {
constexpr int kThreads = 256;

template <typename A, typename To>
struct KernelArgs {
  SmoothL1Args<A> of;
  double* sums;  // of blocks
  To* output;
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

template <typename T, bool kPacks, typename To>
__global__ void __launch_bounds__(kThreads) smooth_l1_loss_kernel(KernelArgs<acc_t<T>, To> a) {
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
    for (int k = 0; k < kCount; ++k) {
      const A difference = x[k] - y[k];
      losses[k] = a.of.formula.absolute ? a.of.formula.template loss<true>(difference)
                                        : a.of.formula.template loss<false>(difference);
    }
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
    for (int k = 0; k < kCount; ++k) sum += losses[k];
    total += sum;
  }
  if (a.of.each) return;
  total = block_sum(total);
  if (threadIdx.x > 0) return;
  if (gridDim.x == 1) {
    *a.output = static_cast<To>(static_cast<A>(total / a.of.divisor));
  } else {
    a.sums[blockIdx.x] = total;
  }
}

template <typename T, bool kPacks>
__global__ void __launch_bounds__(kThreads) smooth_l1_loss_backward_kernel(KernelArgs<acc_t<T>, T> a) {
  using A = acc_t<T>;
  constexpr int kCount = kStep<T, kPacks>;
  const RawLoop& loop = a.of.loop;
  const A mean = static_cast<A>(1 / a.of.divisor), grad = a.of.each ? A(1) : a.of.grad.template load<A>(loop, 0);
  DETOPS_GRID_STRIDE(step, (loop.size + kCount - 1) / kCount) {
    const int64_t i = step * kCount;
    const int count = static_cast<int>(min<int64_t>(kCount, loop.size - i));
    A x[kCount], y[kCount], slopes[kCount], by[kCount];
    read<T, kPacks>(loop, a.of.input, i, count, x);
    read<T, kPacks>(loop, a.of.target, i, count, y);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const A difference = x[k] - y[k];
      slopes[k] = mean * (a.of.formula.absolute ? a.of.formula.template slope<true>(difference)
                                                : a.of.formula.template slope<false>(difference));
    }
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

template <typename To>
struct SumArgs {
  const double* sums;
  int64_t num_sums;
  double divisor;
  To* output;
};

template <typename A, typename To>
__global__ void __launch_bounds__(kThreads) sum_kernel(SumArgs<To> a) {
  double total = 0;
  DETOPS_GRID_STRIDE(i, a.num_sums) total += a.sums[i];
  total = block_sum(total);
  if (threadIdx.x == 0) *a.output = static_cast<To>(static_cast<A>(total / a.divisor));
}

template <typename A>
bool all_in_packs(const SmoothL1Args<A>& args) {
  return args.input.in_packs && args.target.in_packs && (args.weight.data == nullptr || args.weight.in_packs) &&
         (args.grad.data == nullptr || !args.each || args.grad.in_packs);
}

template <typename T, bool kPacks>
Grid grid_of_steps(int64_t n) {
  return grid_for((n + kStep<T, kPacks> - 1) / kStep<T, kPacks>, kThreads);
}

template <typename T, bool kPacks, typename Out>
void launch_loss(const SmoothL1Args<acc_t<T>>& args, double* sums, Out* output, void* stream) {
  const char* op = "smooth_l1_loss";
  const int64_t n = args.loop.size, blocks = smooth_l1_blocks(n);
  launch(op, smooth_l1_loss_kernel<T, kPacks, Out>, args.each ? grid_of_steps<T, kPacks>(n) : Grid{blocks, kThreads},
         stream, {args, sums, output});
  if (args.each || blocks == 1) return;
  launch(op, sum_kernel<acc_t<T>, Out>, {1, kThreads}, stream, {sums, blocks, args.divisor, output});
}

template <typename T, bool kPacks>
void launch_backward(const SmoothL1Args<acc_t<T>>& args, T* output, void* stream) {
  launch("smooth_l1_loss_backward", smooth_l1_loss_backward_kernel<T, kPacks>, grid_of_steps<T, kPacks>(args.loop.size),
         stream, {args, nullptr, output});
}
}  // namespace

template <typename T, typename Out>
void smooth_l1_loss_cuda(const SmoothL1Args<acc_t<T>>& args, double* sums, Out* output, void* stream) {
  all_in_packs(args) ? launch_loss<T, true>(args, sums, output, stream)
                     : launch_loss<T, false>(args, sums, output, stream);
}

template <typename T>
void smooth_l1_loss_backward_cuda(const SmoothL1Args<acc_t<T>>& args, T* output, void* stream) {
  all_in_packs(args) ? launch_backward<T, true>(args, output, stream) : launch_backward<T, false>(args, output, stream);
}

#define INSTANTIATE(T, OUT) template void smooth_l1_loss_cuda<T>(const SmoothL1Args<acc_t<T>>&, double*, OUT*, void*);
INSTANTIATE(float, float)
INSTANTIATE(double, double)
INSTANTIATE(Half, Half)
INSTANTIATE(Half, float)
INSTANTIATE(BFloat16, BFloat16)
INSTANTIATE(BFloat16, float)
#define INSTANTIATE_BACKWARD(T) template void smooth_l1_loss_backward_cuda<T>(const SmoothL1Args<acc_t<T>>&, T*, void*);
INSTANTIATE_BACKWARD(float)
INSTANTIATE_BACKWARD(double)
INSTANTIATE_BACKWARD(Half)
INSTANTIATE_BACKWARD(BFloat16)
}  // namespace detops
