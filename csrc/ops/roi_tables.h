// What is found out about regions, axis by axis, before a map is read: which pixels each bin takes and, for the
// gradient, which bins take each pixel.
#pragma once
#include <cstdint>

#include "raw_rois.h"

namespace detops {
// Output i is the sum of weights[k] * input[first + k]. Inputs are positions in the list of touched pixels; or, the
// other way round for the gradient, outputs are, and inputs are bins.
struct Taps {
  int32_t first, count;
  int64_t weights;
};

// ---- CUDA: filled by one kernel, read by the next ------------------------------------------------------------------

// Of the pixels [begin, end), how many a region touches.
struct RoiSpan {
  int32_t begin, end, touched;
};

// Hands out device memory, 16 bytes aligned; without any, it counts what is needed.
class Arena {
 public:
  explicit Arena(char* data = nullptr) : data_(data) {}

  template <typename T>
  T* take(int64_t n) {
    const int64_t begin = used_;
    used_ += (n * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return data_ == nullptr ? nullptr : reinterpret_cast<T*>(data_ + begin);
  }
  int64_t used() const { return used_; }

 private:
  char* data_;
  int64_t used_ = 0;
};

// One axis of all regions, by region and then as said. Where maps differ in size, `size` is the largest.
template <typename Bin>
struct RoiAxisTable {
  int64_t num_bins, size;
  RoiSpan* spans;
  Bin* bins;       // by bin
  Taps* by_pixel;  // by pixel, within the span: of a region's bins; null unless for a gradient

  void place(Arena& arena, int64_t num_rois, bool for_gradient) {
    spans = arena.take<RoiSpan>(num_rois);
    bins = arena.take<Bin>(num_rois * num_bins);
    by_pixel = for_gradient ? arena.take<Taps>(num_rois * size) : nullptr;
  }
};

template <typename Axis>
struct RoiTables {
  RawRois rois;
  int64_t num_rois, num_images;
  int64_t* images;  // of regions, -1 where there is no such image
  Axis axes[2];     // y, x

  DETOPS_HD const Axis& y() const { return axes[0]; }
  DETOPS_HD const Axis& x() const { return axes[1]; }

  void place(Arena& arena, bool for_gradient) {
    images = arena.take<int64_t>(num_rois);
    for (Axis& axis : axes) axis.place(arena, num_rois, for_gradient);
  }
};

// Bins that are weighted sums of pixels. Taps of bins refer to the list of touched pixels, those of pixels to bins.
template <typename A>
struct TapsTable : RoiAxisTable<Taps> {
  int64_t capacity;       // of a region's part in each of these
  int32_t* pixels;        // touched, ascending
  A* weights;             // of bins
  A* weights_from_pixel;  // null unless for a gradient

  void place(Arena& arena, int64_t num_rois, bool for_gradient) {
    RoiAxisTable<Taps>::place(arena, num_rois, for_gradient);
    pixels = arena.take<int32_t>(num_rois * capacity);
    weights = arena.take<A>(num_rois * capacity);
    weights_from_pixel = for_gradient ? arena.take<A>(num_rois * capacity) : nullptr;
  }
};
template <typename A>
using TapsTables = RoiTables<TapsTable<A>>;
}  // namespace detops
