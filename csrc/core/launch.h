// CUDA: launching kernels, and what they share. Kernels include this for the machine and nothing else of CUDA's, so
// that tests/emulation can compile them for the CPU.
#pragma once
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "device.h"

#define DETOPS_D __device__ __forceinline__

// DETOPS_SHARED(tile, float[32][33]): a variable of the block. The emulation brings its own.
#if !defined(DETOPS_SHARED)
#define DETOPS_SHARED(NAME, ...)   \
  using NAME##_type = __VA_ARGS__; \
  __shared__ NAME##_type NAME
#endif

// for (every i in [0, n) that is this thread's)
#define DETOPS_GRID_STRIDE(i, n)                                                                  \
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, detops_end = (n), \
               detops_step = static_cast<int64_t>(gridDim.x) * blockDim.x;                        \
       i < detops_end; i += detops_step)

namespace detops {
// ---- Launching -----------------------------------------------------------------------------------------------------

constexpr int64_t kMaxBlocks = 0x7fffffff;
constexpr int64_t kSharedWithoutAsking = 48 << 10;  // bytes

struct Grid {
  int64_t blocks;
  dim3 threads;
  int64_t shared_bytes = 0;  // of dynamic_shared()
};

// For DETOPS_GRID_STRIDE over n items.
inline Grid grid_for(int64_t n, unsigned threads = 256) {
  const int64_t blocks = (n + threads - 1) / threads;
  return {blocks < kMaxBlocks ? blocks : kMaxBlocks, dim3(threads)};
}

inline void check_launch(const char* op, cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // not left behind for torch to find
  throw std::runtime_error(std::string(op) + ": CUDA launch failed: " + cudaGetErrorString(status));
}

// Runs kernel(args) on every thread of the grid, on the current device; nothing happens if the grid is empty.
template <typename Args>
void launch(const char* op, void (*kernel)(Args), const Grid& grid, void* stream,
            const std::common_type_t<Args>& args) {
  if (grid.blocks == 0) return;
  if (grid.blocks > kMaxBlocks) throw std::runtime_error(std::string(op) + ": too large for one launch");
  if (grid.shared_bytes > kSharedWithoutAsking) {
    check_launch(
        op, cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(grid.shared_bytes)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  check_launch(op, cudaLaunchKernelEx(&config, kernel, args));
}

// Zeros, once the kernels launched before are done.
inline void clear(const char* op, void* data, int64_t bytes, void* stream) {
  if (bytes == 0) return;
  check_launch(op, cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)));
}

// ---- Inside a kernel -----------------------------------------------------------------------------------------------

// Whether a number, not negative, may be divided as a 32-bit one, which is several times faster. The emulation's limit
// is small, so that small tests divide both ways.
#if defined(DETOPS_EMULATE_CUDA)
constexpr int kNarrowBits = 6;
#else
constexpr int kNarrowBits = 32;
#endif
DETOPS_D bool is_narrow(int64_t n) { return n >> kNarrowBits == 0; }

// The launch's shared_bytes, aligned to 16.
template <typename T>
DETOPS_D T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
}

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Of a block with threads along x only.
DETOPS_D int lane_id() { return static_cast<int>(threadIdx.x % kWarp); }
DETOPS_D int warp_id() { return static_cast<int>(threadIdx.x / kWarp); }

struct Plus {
  template <typename T>
  DETOPS_D T operator()(T a, T b) const {
    return a + b;
  }
};

// The reduction of all lanes' values, in every lane; the same bits whatever the schedule. All lanes must take part.
template <typename T, typename Op>
DETOPS_D T warp_reduce(T value, Op op) {
#pragma unroll
  for (int apart = kWarp / 2; apart > 0; apart /= 2) value = op(value, __shfl_xor_sync(kAllLanes, value, apart));
  return value;
}
template <typename T>
DETOPS_D T warp_sum(T value) {
  return warp_reduce(value, Plus{});
}

// The same over the block, whose threads are a multiple of 32 along x, all of them taking part.
template <typename T, typename Op>
DETOPS_D T block_reduce(T value, T identity, Op op) {
  DETOPS_SHARED(partial, T[kWarp]);
  value = warp_reduce(value, op);
  __syncthreads();  // the last use of partial is over
  if (lane_id() == 0) partial[warp_id()] = value;
  __syncthreads();
  return warp_reduce(lane_id() < static_cast<int>(blockDim.x) / kWarp ? partial[lane_id()] : identity, op);
}
template <typename T>
DETOPS_D T block_sum(T value) {
  return block_reduce(value, T{}, Plus{});
}

template <typename T>
struct Scanned {
  T before, total;  // sums over the threads with lower numbers, and over all
};

// Of a block as above.
template <typename T>
DETOPS_D Scanned<T> block_scan(T value) {
  DETOPS_SHARED(sums, T[kWarp]);
  T sum = value;
#pragma unroll
  for (int apart = 1; apart < kWarp; apart *= 2) {
    const T other = __shfl_up_sync(kAllLanes, sum, static_cast<unsigned>(apart));
    if (lane_id() >= apart) sum += other;
  }
  __syncthreads();  // the last use of sums is over
  if (lane_id() == kWarp - 1) sums[warp_id()] = sum;
  __syncthreads();
  const T of_warp = lane_id() < static_cast<int>(blockDim.x) / kWarp ? sums[lane_id()] : T{};
  return {warp_sum(lane_id() < warp_id() ? of_warp : T{}) + sum - value, warp_sum(of_warp)};
}

// One bit per lane.
DETOPS_D unsigned ballot(bool vote) { return __ballot_sync(kAllLanes, vote); }

// CUDA names its 64-bit integer differently from the rest of the world.
template <typename T>
using cuda_integer_t =
    std::conditional_t<std::is_same_v<T, int64_t> || std::is_same_v<T, uint64_t>, unsigned long long, T>;

// Each returns the value before.
template <typename T>
DETOPS_D T atomic_add(T* to, T value) {
  using Word = cuda_integer_t<T>;
  return static_cast<T>(atomicAdd(reinterpret_cast<Word*>(to), static_cast<Word>(value)));
}
template <typename T>
DETOPS_D T atomic_exchange(T* to, T value) {
  using Word = cuda_integer_t<T>;
  return static_cast<T>(atomicExch(reinterpret_cast<Word*>(to), static_cast<Word>(value)));
}
template <typename T>
DETOPS_D T atomic_max(T* to, T value) {
  static_assert(!std::is_same_v<T, int64_t>, "the order of signed numbers is not that of their bits");
  using Word = cuda_integer_t<T>;
  return static_cast<T>(atomicMax(reinterpret_cast<Word*>(to), static_cast<Word>(value)));
}

// What an atomic access, maybe another block's, left there; up to 8 bytes, never a mixture of two values.
template <typename T>
DETOPS_D T atomic_load(const T* from) {
#if defined(DETOPS_EMULATE_CUDA)
  return emulation::atomic(const_cast<T*>(from), [](T value) { return value; });
#else
  return *static_cast<const volatile T*>(from);
#endif
}

// Values that are stored or loaded in one access of 16 bytes; the address must be a multiple of 16.
template <typename T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T values[size];
};
template <int kCount, typename T>
DETOPS_D void store_packs(T* to, const T (&values)[kCount]) {
  static_assert(kCount % Pack<T>::size == 0, "whole packs");
#pragma unroll
  for (int i = 0; i < kCount; i += Pack<T>::size) {
    Pack<T> pack;
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) pack.values[k] = values[i + k];
    *reinterpret_cast<Pack<T>*>(to + i) = pack;
  }
}
}  // namespace detops
