// Kernels that the emulation must run, and kernels with a mistake that it must find. `selftest NAME` runs one: prints
// "ok", "wrong result" or what the launch failed with.
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "core/launch.h"

namespace detops {
namespace {
struct Args {
  int* data;
  int n;
};

// ---- Good ones -----------------------------------------------------------------------------------------------------

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

// ---- Mistakes ------------------------------------------------------------------------------------------------------

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

// ---- Running -------------------------------------------------------------------------------------------------------

using Kernel = void (*)(Args);
std::vector<int> run(Kernel kernel, Grid grid, int n, int extra = 0) {
  std::vector<int> data(n + extra);
  std::iota(data.begin(), data.begin() + n, 1);
  launch("selftest", kernel, grid, nullptr, Args{data.data(), n});
  return data;
}

bool reduces() {
  const std::vector<int> data = run(reduce, {3, 96}, 1000, 3);
  std::vector<int> total(3), largest(3);
  for (int block = 0; block < 3; ++block) {
    for (int thread = 0; thread < 96; ++thread) {
      int sum = 0;
      for (int i = block * 96 + thread; i < 1000; i += 288) sum += i + 1;
      total[block] += sum;
      largest[block] = std::max(largest[block], sum);
    }
    if (data[1000 + block] != total[block] - largest[block]) return false;
  }
  return true;
}

bool scans() {
  const std::vector<int> data = run(scan, {1, 256}, 256);
  for (int i = 0; i < 256; ++i) {
    if (data[i] != (i + 1) * (i + 2) / 2) return false;
  }
  return true;
}

bool shuffle() {
  const std::vector<int> data = run(shuffles, {1, 32}, 256);
  unsigned thirds = 0;
  for (int t = 0; t < 32; t += 3) thirds |= 1u << t;
  for (int t = 0; t < 32; ++t) {
    unsigned alike = 0;
    for (int u = 0; u < 32; ++u) alike |= unsigned{u / 5 == t / 5} << u;
    const std::vector<int> expected = {std::max(t - 1, 0),      t % 8 + 3 < 8 ? t + 3 : t, t ^ 5,
                                       t / 16 * 16 + 9,         static_cast<int>(thirds),  1,
                                       static_cast<int>(alike), 8 + 4 + 31 + 41 + 64};
    if (!std::equal(expected.begin(), expected.end(), data.begin() + t * 8)) return false;
  }
  return true;
}

bool reverses(int threads) {
  const std::vector<int> data = run(dynamic_memory, {4, dim3(threads), threads * 4}, 4 * threads);
  for (int i = 0; i < 4 * threads; ++i) {
    if (data[i] != i / threads * threads + threads - i % threads) return false;
  }
  return true;
}

bool asks_for_much_shared() {
  launch("selftest", nothing, {1, 32, 200 << 10}, nullptr, Args{});
  return true;
}

bool reorders() {  // each launch another order, so that what depends on it shows
  std::set<std::vector<int>> results;
  for (int i = 0; i < 3; ++i) results.insert(run(turns, {1, 64}, 64, 1));
  return results.size() == 3;
}

template <typename Fn>
std::function<bool()> any_result(const Fn& fn) {
  return [=] { return fn(), true; };
}
std::function<bool()> mistake(Kernel kernel, Grid grid, int n = 64, int extra = 64) {
  return any_result([=] { run(kernel, grid, n, extra); });
}

const std::map<std::string, std::function<bool()>> kTests = {
    {"reduce", reduces},
    {"scan", scans},
    {"shuffles", shuffle},
    {"votes", [] { return run(votes, {1, dim3(33, 3)}, 3) == std::vector<int>{49, 1, 1}; }},
    {"dynamic_memory", [] { return reverses(32) && reverses(100) && reverses(1024); }},
    {"much_dynamic_memory", asks_for_much_shared},
    {"histogram",
     [] {
       const std::vector<int> data = run(histogram, {5, 64}, 1001, 4);
       return std::vector<int>(data.end() - 4, data.end()) == std::vector<int>{250, 251, 250, 250};
     }},
    {"last_block", [] { return run(last_block<true>, {6, 64}, 1000, 7)[1000] == 500500; }},
    {"syncwarp",
     [] {
       const std::vector<int> data = run(exchange<true>, {1, 64}, 64);
       for (int t = 0; t < 64; ++t) {
         if (data[t] != (t ^ 1)) return false;
       }
       return true;
     }},
    {"many_blocks", any_result([] { run(nothing, {100000, 1}, 1); })},
    {"no_blocks", any_result([] { run(nothing, {0, 1}, 1); })},
    {"order", reorders},
    {"missing_barrier", mistake(missing_barrier, {1, 64})},
    {"missing_second_barrier", mistake(missing_second_barrier, {1, 64})},
    {"divergent_barrier", mistake(divergent_barrier, {1, 64})},
    {"two_barriers", mistake(two_barriers, {1, 64})},
    {"divergent_shuffle", mistake(divergent_shuffle, {1, 64})},
    {"shuffle_from_outside", mistake(shuffle_from_outside, {1, 64})},
    {"shared_out_of_bounds", mistake(shared_out_of_bounds, {1, 1}, 32)},
    {"dynamic_out_of_bounds", mistake(dynamic_out_of_bounds, {1, 64, 63 * 4})},
    {"global_out_of_bounds", mistake(global_out_of_bounds, {1, 64}, 63, 0)},
    {"misaligned", mistake(misaligned, {1, 1})},
    {"lost_update", mistake(lost_update, {1, 64})},
    {"blocks_collide", mistake(blocks_collide, {4, 32})},
    {"atomic_and_plain", mistake(atomic_and_plain, {1, 64})},
    {"last_block_without_fence", mistake(last_block<false>, {6, 64}, 64)},
    {"no_syncwarp", mistake(exchange<false>, {1, 64})},
    {"uninitialised", mistake(uninitialised, {1, 64})},
    {"too_much_shared", mistake(too_much_shared, {1, 1})},
    {"too_many_threads", mistake(nothing, {1, 1025})},
    {"too_many_blocks", mistake(nothing, {int64_t{1} << 31, 1})},
    {"no_threads", mistake(nothing, {1, 0})},
    {"too_much_dynamic_memory", mistake(nothing, {1, 32, 228 << 10})},
};
}  // namespace
}  // namespace detops

int main(int count, char** names) {
  if (count != 2) {
    for (const auto& [name, test] : detops::kTests) std::puts(name.c_str());
    return 0;
  }
  try {
    std::puts(detops::kTests.at(names[1])() ? "ok" : "wrong result");
  } catch (const std::runtime_error& error) {
    std::puts(error.what());
  }
}
