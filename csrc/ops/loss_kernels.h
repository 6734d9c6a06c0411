// CUDA: the sum of losses. Each block adds up its own, a second kernel the blocks' sums in their order.
#pragma once
#include "../core/launch.h"
#include "loss.h"

namespace detops {
constexpr int kLossThreads = 256;

// The end of a kernel that adds up losses: `total` is a thread's. A single block writes the result itself.
template <typename A, typename Out>
DETOPS_D void finish_block(double total, const LossSum<Out>& sum) {
  total = block_sum(total);
  if (threadIdx.x > 0) return;
  if (gridDim.x == 1) {
    *sum.output = static_cast<Out>(static_cast<A>(total / sum.divisor));
  } else {
    sum.of_blocks[blockIdx.x] = total;
  }
}

template <typename Out>
struct AddBlocksArgs {
  LossSum<Out> sum;
  int64_t blocks;
};

template <typename A, typename Out>
__global__ void __launch_bounds__(kLossThreads) add_blocks_kernel(AddBlocksArgs<Out> a) {
  double total = 0;
  DETOPS_GRID_STRIDE(i, a.blocks) total += a.sum.of_blocks[i];
  finish_block<A>(total, a.sum);
}

// After a kernel of so many blocks.
template <typename A, typename Out>
void add_blocks(const char* op, const LossSum<Out>& sum, int64_t blocks, void* stream) {
  if (blocks > 1) launch(op, add_blocks_kernel<A, Out>, {1, kLossThreads}, stream, {sum, blocks});
}
}  // namespace detops
