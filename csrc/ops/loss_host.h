// Losses on the host: arguments that all of them have, and a sum whose bits do not depend on the number of threads.
#pragma once
#include <algorithm>
#include <vector>

#include "../core/parallel.h"
#include "../core/simd.h"
#include "../core/tensor.h"
#include "loss.h"

namespace detops {
inline Reduction checked_reduction(const char* op, int64_t reduction) {
  if (reduction < 0 || reduction > 2) fail(op, "expected reduction from 0 to 2, got ", reduction);
  return static_cast<Reduction>(reduction);
}

inline void check_reduces(const char* op, Reduction reduction) {
  if (reduction == Reduction::kNone) fail(op, "expected reduction from 1 to 2, got 0");
}

inline void check_focal(const char* op, double alpha, double gamma) {
  if (!((alpha >= 0 && alpha <= 1) || alpha == -1)) fail(op, "expected alpha from 0 to 1, or -1 for none, got ", alpha);
  if (!(gamma >= 0)) fail(op, "expected gamma of at least 0, got ", gamma);
}

// What a sum of losses is divided by.
inline double divisor(Reduction reduction, int64_t size) {
  return reduction == Reduction::kMean ? static_cast<double>(size) : 1.0;
}

// fn(isa, begin, end) on each block of [0, n), in parallel; returns the sum of what they return, added up in order.
template <typename Fn>
double sum_of_blocks(int64_t n, int64_t block, double nanoseconds_each, const Fn& fn) {
  const int64_t blocks = (n + block - 1) / block;
  std::vector<double> sums(blocks);
  parallel_for(blocks, grain_for(nanoseconds_each * static_cast<double>(block)), [&](int64_t first, int64_t last) {
    simd([&](auto isa) DETOPS_INLINE {
      for (int64_t i = first; i < last; ++i) sums[i] = fn(isa, i * block, std::min(n, (i + 1) * block));
    });
  });
  double total = 0;
  for (const double part : sums) total += part;
  return total;
}
}  // namespace detops
