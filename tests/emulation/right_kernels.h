// Kernels that the emulation must run.
#pragma once
#include "core/launch.h"

namespace detops {
struct Args {
  int* data;
  int n;
};

namespace {
__global__ void reduce(Args a) {
  int sum = 0;
  DETOPS_GRID_STRIDE(i, a.n) sum += a.data[i];
  const int total = block_sum(sum), largest = block_reduce(sum, 0, [](int x, int y) { return x > y ? x : y; });
  if (threadIdx.x == 0) a.data[a.n + blockIdx.x] = total - largest;
}

__global__ void scan(Args a) {  // inclusive sums, in place, of one block's elements
  DETOPS_SHARED(sums, int[2][256]);
  const int t = static_cast<int>(threadIdx.x);
  int now = 0;
  sums[now][t] = a.data[t];
  for (int apart = 1; apart < 256; apart *= 2) {
    __syncthreads();
    sums[1 - now][t] = sums[now][t] + (t >= apart ? sums[now][t - apart] : 0);
    now = 1 - now;
  }
  a.data[t] = sums[now][t];
}

__global__ void shuffles(Args a) {
  const int t = lane_id();
  int* out = a.data + t * 8;
  out[0] = __shfl_up_sync(kAllLanes, t, 1);
  out[1] = __shfl_down_sync(kAllLanes, t, 3, 8);
  out[2] = __shfl_xor_sync(kAllLanes, t, 5);
  out[3] = __shfl_sync(kAllLanes, t, 9, 16);
  out[4] = static_cast<int>(ballot(t % 3 == 0));
  out[5] = t < 7 ? __any_sync(0x7f, t == 6) + 2 * __all_sync(0x7f, t < 6) : 1;
  out[6] = static_cast<int>(__match_any_sync(kAllLanes, t / 5));
  out[7] = __popc(0xf0f0u) + __ffs(8) + __clz(1) + __ffsll(1ll << 40) + __popcll(~0ull);
}

__global__ void votes(Args a) {
  const int t = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const int count = __syncthreads_count(t % 2), all = __syncthreads_and(t < 1000), any = __syncthreads_or(t == 98);
  if (t == 0) a.data[0] = count, a.data[1] = all, a.data[2] = any;
}

__global__ void dynamic_memory(Args a) {  // reverses each block's elements
  int* const staged = dynamic_shared<int>();
  const int size = static_cast<int>(blockDim.x), t = static_cast<int>(threadIdx.x);
  int* const mine = a.data + blockIdx.x * blockDim.x;
  staged[t] = mine[t];
  __syncthreads();
  mine[t] = staged[size - 1 - t];
}

__global__ void histogram(Args a) {
  DETOPS_SHARED(counts, int[4]);
  if (threadIdx.x < 4) counts[threadIdx.x] = 0;
  __syncthreads();
  DETOPS_GRID_STRIDE(i, a.n) atomic_add(&counts[a.data[i] % 4], 1);
  __syncthreads();
  if (threadIdx.x < 4) atomic_add(&a.data[a.n + threadIdx.x], counts[threadIdx.x]);
}

__global__ void largest(Args a) {
  auto* const result = reinterpret_cast<uint64_t*>(a.data + a.n);
  DETOPS_GRID_STRIDE(i, a.n) atomic_max(result, static_cast<uint64_t>(a.data[i]) << 33);
}

// Every block leaves its sum; the last to finish adds them up.
template <bool kFence>
__global__ void last_block(Args a) {
  DETOPS_SHARED(is_last, bool);
  int* const sums = a.data + a.n;
  int* const ticket = sums + gridDim.x;
  int sum = 0;
  DETOPS_GRID_STRIDE(i, a.n) sum += a.data[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = sum;
    if (kFence) __threadfence();
    is_last = atomic_add(ticket, 1) == static_cast<int>(gridDim.x) - 1;
  }
  __syncthreads();
  if (is_last && threadIdx.x == 0) {
    for (unsigned b = 1; b < gridDim.x; ++b) sums[0] += sums[b];
  }
}

template <bool kSync>
__global__ void exchange(Args a) {  // within warps: a shuffle orders no memory
  DETOPS_SHARED(staged, int[64]);
  const int t = static_cast<int>(threadIdx.x);
  staged[t] = t;
  if (kSync) {
    __syncwarp();
  } else {
    __shfl_sync(kAllLanes, t, 0);
  }
  a.data[t] = staged[t ^ 1];
}

__global__ void turns(Args a) { a.data[threadIdx.x] = atomic_add(&a.data[64], 1); }

__global__ void nothing(Args) {}
}  // namespace
}  // namespace detops
