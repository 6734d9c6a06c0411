// CPU loops over torch's own threads.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <cstdint>

#if defined(DETOPS_SANITIZE_THREADS)  // torch's pool is not instrumented: give the race detector threads that it can
                                      // see
#include <algorithm>
#include <thread>
#include <vector>
#endif

namespace detops {
// Number of threads that parallel_for may use, at most.
inline int64_t num_threads() {
#if defined(DETOPS_SANITIZE_THREADS)
  return 4;
#else
  return torch::stable::get_num_threads();
#endif
}

// Calls fn(begin, end) on pieces of [0, n) of at least `grain` items. fn must not throw: check arguments before.
template <typename Fn>
void parallel_for(int64_t n, [[maybe_unused]] int64_t grain, const Fn& fn) {
  if (n <= 0) return;
#if defined(DETOPS_SANITIZE_THREADS)
  const int64_t step = (n + num_threads() - 1) / num_threads();  // however small the work, or no race would show
  std::vector<std::thread> threads;
  for (int64_t begin = 0; begin < n; begin += step) {
    threads.emplace_back([&fn, begin, end = std::min(n, begin + step)] { fn(begin, end); });
  }
  for (std::thread& thread : threads) thread.join();
#else
  if (n <= grain) return fn(0, n);
  torch::stable::parallel_for(0, n, grain, fn);
#endif
}

// Items per task that make it worth waking a thread, when one item takes about `nanoseconds`.
inline int64_t grain_for(double nanoseconds) {
  constexpr double kWorthwhile = 100e3;  // waking a thread costs some 10 to 50 microseconds
  return static_cast<int64_t>(kWorthwhile / (nanoseconds < 1e-3 ? 1e-3 : nanoseconds)) + 1;
}
}  // namespace detops
