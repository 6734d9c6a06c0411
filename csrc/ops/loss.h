// What losses of elements or rows share: how they are reduced.
#pragma once
#include "../core/device.h"

namespace detops {
enum class Reduction { kNone, kSum, kMean };  // numbered as the operators' argument

// What a pass over the inputs gives: losses or their sum; the gradient; the sum and its gradient.
enum class Pass { kLosses, kGradients, kBoth };

// CUDA's blocks that add up the losses of n elements, and room for their sums.
inline int64_t loss_blocks(int64_t n, int64_t of_block = 8192) {
  const int64_t blocks = (n + of_block - 1) / of_block;
  return blocks < 1 ? 1 : blocks < kManyBlocks ? blocks : kManyBlocks;
}

// Where CUDA's blocks leave the sum of losses.
template <typename Out>
struct LossSum {
  double* of_blocks;
  double divisor;
  Out* output;
};
}  // namespace detops
