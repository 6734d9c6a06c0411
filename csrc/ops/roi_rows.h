// Rows of maps and slabs for the CPU kernels, and which of their pixels regions touch.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../core/scratch.h"
#include "../core/simd.h"

namespace detops {
// Rows of a map, or of a slab that holds as many of them as the mask has values, each where an earlier one was.
template <typename T>
struct Rows {
  T* data;
  int64_t stride, pixel_stride, mask;

  DETOPS_HD T* operator[](int64_t y) const { return data + (y & mask) * stride; }
};
constexpr int64_t kAllRows = -1;

// Runs terms(k0, count) with `count`, a constant, up to 4 of the terms [0, n), until all are done.
template <typename Terms>
DETOPS_HD void in_fours(int64_t n, const Terms& terms) {
  int64_t k = 0;
  for (; n - k > 4; k += 4) terms(k, std::integral_constant<int, 4>());
  switch (n - k) {
    case 1:
      return terms(k, std::integral_constant<int, 1>());
    case 2:
      return terms(k, std::integral_constant<int, 2>());
    case 3:
      return terms(k, std::integral_constant<int, 3>());
    case 4:
      return terms(k, std::integral_constant<int, 4>());
  }
}

struct Band {
  int64_t begin, end;  // rows
};

// The pixels that some region of an image touches: per row a bit for each block of columns, at most 64 of them.
class TouchedPixels {
 public:
  TouchedPixels(int64_t height, int64_t width)
      : block_(((width + 63) / 64 + 15) / 16 * 16), width_(width), rows_(height) {}

  // The bits of columns first to last, both included.
  uint64_t blocks(int64_t first, int64_t last) const {
    return ~uint64_t{0} >> (63 - last / block_) & ~uint64_t{0} << (first / block_);
  }
  void add(int64_t row, uint64_t blocks) { rows_[row] |= blocks; }

  // Calls fn(begin, end, touched) for the runs of columns, touched and untouched, that a row falls into.
  template <typename Fn>
  DETOPS_HD void for_each_run(int64_t row, const Fn& fn) const {
    const uint64_t blocks = rows_[row];
    for (int64_t begin = 0; begin < width_;) {
      const int64_t block = begin / block_;
      const bool touched = blocks >> block & 1;
      const uint64_t others = (touched ? ~blocks : blocks) >> block;
      const int64_t run = others == 0 ? 64 - block : __builtin_ctzll(others);
      const int64_t end = std::min(width_, (block + run) * block_);
      fn(begin, end, touched);
      begin = end;
    }
  }

 private:
  int64_t block_, width_;
  std::vector<uint64_t> rows_;
};
}  // namespace detops
