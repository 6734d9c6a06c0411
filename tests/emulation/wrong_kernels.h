// Kernels with a mistake that the emulation must find.
#pragma once
#include "right_kernels.h"

namespace detops {
namespace {
__global__ void missing_barrier(Args a) {
  DETOPS_SHARED(staged, int[64]);
  const int t = static_cast<int>(threadIdx.x);
  staged[t] = a.data[t];
  a.data[t] = staged[63 - t];
}

__global__ void missing_second_barrier(Args a) {  // the next round overwrites what is still being read
  DETOPS_SHARED(staged, int[64]);
  const int t = static_cast<int>(threadIdx.x);
  for (int round = 0; round < 2; ++round) {
    staged[t] = a.data[t] + round;
    __syncthreads();
    a.data[64 + t] = staged[63 - t];
  }
}

__global__ void divergent_barrier(Args a) {
  if (threadIdx.x < 40) __syncthreads();
  a.data[threadIdx.x] = 1;
}

__global__ void two_barriers(Args a) {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  a.data[threadIdx.x] = 1;
}

__global__ void divergent_shuffle(Args a) {
  if (threadIdx.x < 40) a.data[threadIdx.x] = warp_sum(1);
}

__global__ void shuffle_from_outside(Args a) {
  if (threadIdx.x < 16) a.data[threadIdx.x] = __shfl_sync(0xffffu, 1, 20);
}

__global__ void shared_out_of_bounds(Args a) {
  DETOPS_SHARED(staged, int[32]);
  for (int i = 0; i <= a.n; ++i) staged[i] = i;
  a.data[0] = staged[0];
}

__global__ void dynamic_out_of_bounds(Args a) {
  int* const staged = dynamic_shared<int>();
  staged[threadIdx.x] = 1;
  a.data[threadIdx.x] = 1;
}

__global__ void global_out_of_bounds(Args a) { a.data[threadIdx.x] = 1; }

__global__ void misaligned(Args a) { *reinterpret_cast<Pack<int>*>(a.data + 1) = Pack<int>{{1, 2, 3, 4}}; }

__global__ void lost_update(Args a) { *a.data += 1; }

__global__ void blocks_collide(Args a) {
  if (threadIdx.x == 0) *a.data = static_cast<int>(blockIdx.x);
}

__global__ void atomic_and_plain(Args a) {
  if (threadIdx.x == 0) {
    *a.data = 0;
  } else {
    atomic_add(a.data, 1);
  }
}

__global__ void uninitialised(Args a) {
  DETOPS_SHARED(counts, int[64]);
  const int t = static_cast<int>(threadIdx.x);
  if (t < 63) counts[t] = 0;
  __syncthreads();
  a.data[t] = counts[t];
}

__global__ void too_much_shared(Args a) {
  DETOPS_SHARED(large, float[13000]);
  large[0] = 0;
  a.data[0] = static_cast<int>(large[0]);
}
}  // namespace
}  // namespace detops
