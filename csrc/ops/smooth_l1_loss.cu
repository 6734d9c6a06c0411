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

// Elements i, i + 1, ... of an operand, `count` of them; of a pack of T if it can be.
template <typename T, typename A>
DETOPS_D void read(const RawLoop& loop, const RawElements& from, int64_t i, int count, A (&values)[Pack<T>::size]) {
  if (from.in_packs && count == Pack<T>::size) {
    const auto pack = reinterpret_cast<const Pack<T>*>(from.data)[i / Pack<T>::size];
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) values[k] = static_cast<A>(pack.values[k]);
  } else {
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) values[k] = k < count ? from.load<A>(loop, i + k) : A(0);
  }
}

template <int kCount, typename A, typename To>
DETOPS_D void write(To* to, int count, const A (&values)[kCount]) {
  To converted[kCount];
#pragma unroll
  for (int k = 0; k < kCount; ++k) converted[k] = static_cast<To>(values[k]);
  if (count == kCount) return store_packs(to, converted);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (k < count) to[k] = converted[k];
  }
}

template <typename T, typename To>
__global__ void __launch_bounds__(kThreads) smooth_l1_loss_kernel(KernelArgs<acc_t<T>, To> a) {
  using A = acc_t<T>;
  constexpr int kCount = Pack<T>::size;
  const RawLoop& loop = a.of.loop;
  double total = 0;
  DETOPS_GRID_STRIDE(pack, (loop.size + kCount - 1) / kCount) {
    const int64_t i = pack * kCount;
    const int count = static_cast<int>(min<int64_t>(kCount, loop.size - i));
    A x[kCount], y[kCount], losses[kCount], sum = 0;
    read<T>(loop, a.of.input, i, count, x);
    read<T>(loop, a.of.target, i, count, y);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const A difference = x[k] - y[k];
      losses[k] = a.of.formula.absolute ? a.of.formula.template loss<true>(difference)
                                        : a.of.formula.template loss<false>(difference);
      if (a.of.weight.data != nullptr && k < count) losses[k] *= a.of.weight.template load<A>(loop, i + k);
      sum += losses[k];  // 0 beyond the end
    }
    if (a.of.each) write(a.output + i, count, losses);
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

template <typename T>
__global__ void __launch_bounds__(kThreads) smooth_l1_loss_backward_kernel(KernelArgs<acc_t<T>, T> a) {
  using A = acc_t<T>;
  constexpr int kCount = Pack<T>::size;
  const RawLoop& loop = a.of.loop;
  const A factor = a.of.each ? A(1) : a.of.grad.template load<A>(loop, 0) / static_cast<A>(a.of.divisor);
  DETOPS_GRID_STRIDE(pack, (loop.size + kCount - 1) / kCount) {
    const int64_t i = pack * kCount;
    const int count = static_cast<int>(min<int64_t>(kCount, loop.size - i));
    A x[kCount], y[kCount], slopes[kCount];
    read<T>(loop, a.of.input, i, count, x);
    read<T>(loop, a.of.target, i, count, y);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const A difference = x[k] - y[k];
      slopes[k] = factor * (a.of.formula.absolute ? a.of.formula.template slope<true>(difference)
                                                  : a.of.formula.template slope<false>(difference));
      if (a.of.weight.data != nullptr && k < count) slopes[k] *= a.of.weight.template load<A>(loop, i + k);
      if (a.of.each && k < count) slopes[k] *= a.of.grad.template load<A>(loop, i + k);
    }
    write(a.output + i, count, slopes);
  }
}
}  // namespace

template <typename T, typename Out>
void smooth_l1_loss_cuda(const SmoothL1Args<acc_t<T>>& args, double* sums, Out* output, void* stream) {
  const char* op = "smooth_l1_loss";
  const Grid all = grid_for((args.loop.size + Pack<T>::size - 1) / Pack<T>::size, kThreads);
  const int64_t blocks = smooth_l1_blocks(args.loop.size);
  launch(op, smooth_l1_loss_kernel<T, Out>, args.each ? all : Grid{blocks, kThreads}, stream, {args, sums, output});
  if (args.each || blocks == 1) return;
  launch(op, sum_kernel<acc_t<T>, Out>, {1, kThreads}, stream, {sums, blocks, args.divisor, output});
}

template <typename T>
void smooth_l1_loss_backward_cuda(const SmoothL1Args<acc_t<T>>& args, T* output, void* stream) {
  const Grid all = grid_for((args.loop.size + Pack<T>::size - 1) / Pack<T>::size, kThreads);
  launch("smooth_l1_loss_backward", smooth_l1_loss_backward_kernel<T>, all, stream, {args, nullptr, output});
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
