// Stands in for CUDA's own cuda_runtime.h: g++ compiles .cu files against it, and the threads of a block run as fibers
// of one CPU thread (emulator.cpp). Holds the part of CUDA that csrc/core/launch.h and the kernels use; add here what a
// new kernel needs. It cannot show speed, nor blocks that wait for each other.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __shared__  // of dynamic shared memory; variables are declared with DETOPS_SHARED
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define DETOPS_SHARED(NAME, ...)    \
  using NAME##_type = __VA_ARGS__;  \
  static const char NAME##_key = 0; \
  NAME##_type& NAME =               \
      *static_cast<NAME##_type*>(emulation::shared(&NAME##_key, #NAME, sizeof(NAME##_type), alignof(NAME##_type)))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulation {
// Where a kernel calls: the caller's line, by default argument.
struct Site {
  const char* file;
  int line;
};
#define EMULATION_SITE emulation::Site site = {__builtin_FILE(), __builtin_LINE()}

enum class BlockOp { kSync, kCount, kAnd, kOr };
enum class WarpOp { kSync, kShuffle, kBallot, kMatch };
int meet_block(BlockOp op, bool value, Site site);
// Hands in `value`, waits for all lanes of `mask`, returns what `op` makes of theirs for this lane.
uint64_t meet_warp(WarpOp op, unsigned mask, uint64_t value, int source, Site site);
int lane();
void* shared(const void* key, const char* name, size_t size, size_t alignment);
void note_atomic(const void* address, size_t size, void* code);  // before the access
void fence();
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
using Body = void (*)(void*);
int run(dim3 grid, dim3 block, size_t shared_bytes, const void* kernel, Body body, void* context);
int allow_shared(const void* kernel, int bytes);

template <typename T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <typename T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <typename T, typename Change>
__attribute__((noinline, no_sanitize("thread"))) T atomic(T* address, Change change) {
  note_atomic(address, sizeof(T), __builtin_return_address(0));
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T)) fail("misaligned atomic at %p", static_cast<void*>(address));
  const T before = *address;
  *address = change(before);
  return before;
}
template <typename T>
T shuffle(unsigned mask, T value, int source, bool inside, Site site) {
  return from_bits<T>(meet_warp(WarpOp::kShuffle, mask, to_bits(value), inside ? source : lane(), site));
}
template <typename T>
using same_t = typename std::enable_if<true, T>::type;  // not deduced from
}  // namespace emulation

// ---- Host ----------------------------------------------------------------------------------------------------------

using cudaStream_t = struct CUstream_st*;
enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t status);  // of a failed launch: what the emulator found
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  return static_cast<cudaError_t>(emulation::allow_shared(kernel, bytes));
}
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t size, cudaStream_t) {
  std::memset(data, value, size);
  return cudaSuccess;
}
template <typename... Parameters, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Args&&... args) {
  auto call = [&] { kernel(Parameters(args)...); };  // every thread has a copy of the parameters
  const auto body = [](void* context) { (*static_cast<decltype(call)*>(context))(); };
  return static_cast<cudaError_t>(emulation::run(config->gridDim, config->blockDim, config->dynamicSmemBytes,
                                                 reinterpret_cast<const void*>(kernel), body, &call));
}

// ---- Barriers, votes, shuffles -------------------------------------------------------------------------------------

inline void __syncthreads(EMULATION_SITE) { emulation::meet_block(emulation::BlockOp::kSync, false, site); }
inline int __syncthreads_count(int vote, EMULATION_SITE) {
  return emulation::meet_block(emulation::BlockOp::kCount, vote != 0, site);
}
inline int __syncthreads_and(int vote, EMULATION_SITE) {
  return emulation::meet_block(emulation::BlockOp::kAnd, vote != 0, site);
}
inline int __syncthreads_or(int vote, EMULATION_SITE) {
  return emulation::meet_block(emulation::BlockOp::kOr, vote != 0, site);
}
inline void __syncwarp(unsigned mask = ~0u, EMULATION_SITE) {
  emulation::meet_warp(emulation::WarpOp::kSync, mask, 0, 0, site);
}
inline unsigned __ballot_sync(unsigned mask, int vote, EMULATION_SITE) {
  return static_cast<unsigned>(emulation::meet_warp(emulation::WarpOp::kBallot, mask, vote != 0, 0, site));
}
inline int __any_sync(unsigned mask, int vote, EMULATION_SITE) {
  return emulation::meet_warp(emulation::WarpOp::kBallot, mask, vote != 0, 0, site) != 0;
}
inline int __all_sync(unsigned mask, int vote, EMULATION_SITE) {
  return emulation::meet_warp(emulation::WarpOp::kBallot, mask, vote != 0, 0, site) == mask;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, EMULATION_SITE) {
  return static_cast<unsigned>(
      emulation::meet_warp(emulation::WarpOp::kMatch, mask, emulation::to_bits(value), 0, site));
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATION_SITE) {
  const int first = emulation::lane() & ~(width - 1);
  return emulation::shuffle(mask, value, first + (source & (width - 1)), true, site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATION_SITE) {
  const int lane = emulation::lane(), by = static_cast<int>(delta);
  return emulation::shuffle(mask, value, lane - by, (lane & (width - 1)) >= by, site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATION_SITE) {
  const int lane = emulation::lane(), by = static_cast<int>(delta);
  return emulation::shuffle(mask, value, lane + by, (lane & (width - 1)) + by < width, site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMULATION_SITE) {
  const int lane = emulation::lane(), to = lane ^ bits;
  return emulation::shuffle(mask, value, to, to < (lane & ~(width - 1)) + width, site);
}
inline unsigned __activemask() { return 1u << emulation::lane(); }  // nothing may rely on more
inline void __threadfence() { emulation::fence(); }
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) {}

// ---- Atomics -------------------------------------------------------------------------------------------------------

template <typename T>
__forceinline__ T atomicAdd(T* address, emulation::same_t<T> value) {
  return emulation::atomic(address, [=](T before) { return static_cast<T>(before + value); });
}
template <typename T>
__forceinline__ T atomicMin(T* address, emulation::same_t<T> value) {
  return emulation::atomic(address, [=](T before) { return std::min(before, value); });
}
template <typename T>
__forceinline__ T atomicMax(T* address, emulation::same_t<T> value) {
  return emulation::atomic(address, [=](T before) { return std::max(before, value); });
}
template <typename T>
__forceinline__ T atomicOr(T* address, emulation::same_t<T> value) {
  return emulation::atomic(address, [=](T before) { return static_cast<T>(before | value); });
}
template <typename T>
__forceinline__ T atomicAnd(T* address, emulation::same_t<T> value) {
  return emulation::atomic(address, [=](T before) { return static_cast<T>(before & value); });
}
template <typename T>
__forceinline__ T atomicExch(T* address, emulation::same_t<T> value) {
  return emulation::atomic(address, [=](T) { return value; });
}
template <typename T>
__forceinline__ T atomicCAS(T* address, emulation::same_t<T> expected, emulation::same_t<T> value) {
  return emulation::atomic(address, [=](T before) { return before == expected ? value : before; });
}

// ---- Arithmetic ----------------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline int __float_as_int(float x) { return emulation::from_bits<int>(emulation::to_bits(x)); }
inline unsigned __float_as_uint(float x) { return emulation::from_bits<unsigned>(emulation::to_bits(x)); }
inline float __int_as_float(int x) { return emulation::from_bits<float>(emulation::to_bits(x)); }
inline float __uint_as_float(unsigned x) { return emulation::from_bits<float>(emulation::to_bits(x)); }
inline long long __double_as_longlong(double x) { return emulation::from_bits<long long>(emulation::to_bits(x)); }
inline double __longlong_as_double(long long x) { return emulation::from_bits<double>(emulation::to_bits(x)); }
