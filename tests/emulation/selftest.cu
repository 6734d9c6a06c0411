// `selftest NAME` runs one of the kernels: prints "ok", "wrong result" or what the launch failed with.
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "right_kernels.h"
#include "wrong_kernels.h"

namespace detops {
namespace {
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
       const std::vector<int> data = run(histogram, grid_for(1001, 64), 1001, 4);
       return std::vector<int>(data.end() - 4, data.end()) == std::vector<int>{250, 251, 250, 250};
     }},
    {"largest",
     [] {
       const std::vector<int> data = run(largest, grid_for(1000, 128), 1000, 2);
       return data[1000] == 0 && data[1001] == 2000;
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
