// Rotated regions of interest: RoIAlign's bins and samples along the sides of a rotated box.
#pragma once
#include <limits>

#include "roi.h"
#include "trigonometry.h"

namespace detops {
struct RotatedRoiGrid {
  double spatial_scale;  // feature pixels per image pixel
  int64_t pooled_height, pooled_width, sampling_ratio;
  bool aligned;  // pixel centres at half integers of the image, and regions of any size
  bool clockwise;
};

template <typename A>
struct RotatedRoi {
  A x, y;                         // centre, in feature pixels
  A cos, sin;                     // direction of the columns' axis
  RoiAlignAxis<A> rows, columns;  // from the centre
};

template <typename A>
struct Point {
  A x, y;
};

// RoIAlign's axis about its middle.
template <typename A>
DETOPS_HD RoiAlignAxis<A> rotated_roi_axis(A side, int64_t bins, const RotatedRoiGrid& grid) {
  const A scaled = side * static_cast<A>(grid.spatial_scale), length = grid.aligned ? scaled : max(scaled, A(1));
  const A bin = length / static_cast<A>(bins), wanted = std::ceil(bin);
  const bool usable = wanted > A(0) && wanted <= static_cast<A>(kMaxAdaptiveSamples);  // not NaN
  const int64_t adapted = usable ? static_cast<int64_t>(wanted) : 0;
  return {-length / A(2), bin, grid.sampling_ratio > 0 ? grid.sampling_ratio : adapted};
}

template <typename A>
constexpr A kNoPlace = std::numeric_limits<A>::quiet_NaN();

// From a centre, sides in image pixels and radians. What is no angle gives a region that lies nowhere.
template <typename A>
DETOPS_HD RotatedRoi<A> rotated_roi(A x, A y, A width, A height, A angle, const RotatedRoiGrid& grid) {
  const A scale = static_cast<A>(grid.spatial_scale), offset = grid.aligned ? A(0.5) : A(0);
  const double radians = static_cast<double>(angle);
  const bool is_angle = radians >= -kLargestAngle && radians <= kLargestAngle;
  const Direction turn = direction_of_radians(is_angle ? radians : 0);
  const A sin = static_cast<A>(grid.clockwise ? turn.sin : -turn.sin);
  return {is_angle ? x * scale - offset : kNoPlace<A>,
          is_angle ? y * scale - offset : kNoPlace<A>,
          static_cast<A>(turn.cos),
          sin,
          rotated_roi_axis(height, grid.pooled_height, grid),
          rotated_roi_axis(width, grid.pooled_width, grid)};
}

// From the region's own axes to the map's, and back.
template <typename A>
DETOPS_HD Point<A> to_map(const RotatedRoi<A>& roi, A along_columns, A along_rows) {
  return {along_columns * roi.cos - along_rows * roi.sin + roi.x,
          along_columns * roi.sin + along_rows * roi.cos + roi.y};
}
template <typename A>
DETOPS_HD Point<A> to_region(const RotatedRoi<A>& roi, A x, A y) {
  const A dx = x - roi.x, dy = y - roi.y;
  return {dx * roi.cos + dy * roi.sin, dy * roi.cos - dx * roi.sin};
}

// How far a rectangle with these half sides reaches from its middle, along axes turned by the region's angle.
template <typename A>
DETOPS_HD Point<A> turned_reach(const RotatedRoi<A>& roi, A half_x, A half_y) {
  const A cos = std::fabs(roi.cos), sin = std::fabs(roi.sin);
  return {cos * half_x + sin * half_y, sin * half_x + cos * half_y};
}

// Of `count` samples, the first at `first` and `step` apart, those that can lie within `reach` of `middle`; some more.
template <typename A>
DETOPS_HD SampleRange samples_near(A first, A step, int64_t count, A middle, A reach) {
  if (step == A(0)) return {0, count};
  const double a = (static_cast<double>(middle) - reach - first) / step;
  const double b = (static_cast<double>(middle) + reach - first) / step;
  const double most = static_cast<double>(count), low = min(a, b) - 2, high = max(a, b) + 3;
  if (!(low < most && high > 0)) return {0, 0};  // NaN too
  return {static_cast<int64_t>(max(0.0, low)), static_cast<int64_t>(min(most, high))};
}

// Calls fn(x, y) for the samples of a bin that are on a map, row by row. Few others are met, however large the region.
template <typename A, typename Fn>
DETOPS_HD void for_each_sample(const RotatedRoi<A>& roi, int64_t row_bin, int64_t column_bin, int64_t height,
                               int64_t width, const Fn& fn) {
  constexpr int64_t kFew = 8;
  SampleRange rows{0, roi.rows.samples}, columns{0, roi.columns.samples};
  if (rows.end > kFew || columns.end > kFew) {
    const A half_width = static_cast<A>(width + 1) / A(2), half_height = static_cast<A>(height + 1) / A(2);
    const Point<A> middle = to_region(roi, half_width - A(1), half_height - A(1));
    const Point<A> reach = turned_reach(roi, half_width, half_height);
    const auto near = [](const RoiAlignAxis<A>& axis, int64_t bin, A where, A within) {
      return samples_near(sample_position(axis, bin, 0), axis.bin / static_cast<A>(axis.samples), axis.samples, where,
                          within);
    };
    rows = near(roi.rows, row_bin, middle.y, reach.y);
    columns = near(roi.columns, column_bin, middle.x, reach.x);
  }
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const A along_rows = sample_position(roi.rows, row_bin, i);
    for (int64_t j = columns.begin; j < columns.end; ++j) {
      const Point<A> at = to_map(roi, sample_position(roi.columns, column_bin, j), along_rows);
      if (is_on_map(at.y, height) && is_on_map(at.x, width)) fn(at.x, at.y);
    }
  }
}
}  // namespace detops
