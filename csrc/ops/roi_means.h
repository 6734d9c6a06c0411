// Bins that are weighted means of pixels, by weights over rows and over columns (roi_taps.h): a bin is then a product
// of rows and columns, for a vector of channels at a time (roi_tasks.h).
#pragma once
#include <algorithm>
#include <vector>

#include "roi_levels.h"
#include "roi_taps.h"
#include "roi_tasks.h"

namespace detops {
// sums[j] = weighted sum of the rows of one output of `y` in the touched column j.
template <typename V, typename T, typename A>
DETOPS_HD void sum_rows(const Rows<T>& map, const AxisTaps<A>& y, const Taps& taps, const AxisTaps<A>& x, V* sums) {
  if (taps.count == 0) std::fill(sums, sums + x.num_pixels, V{});
  in_fours(taps.count, [&](int64_t k0, auto count) DETOPS_INLINE {
    constexpr int kCount = decltype(count)::value;
    const T* row[kCount];
    V weight[kCount];
    for (int k = 0; k < kCount; ++k) {
      row[k] = map[y.pixels[taps.first + k0 + k]];
      weight[k] = every_channel<V>(y.weights[taps.weights + k0 + k]);
    }
    for (int64_t j = 0; j < x.num_pixels; ++j) {
      const int64_t offset = x.pixels[j] * map.pixel_stride;
      V sum = weight[0] * load_channels<V>(row[0] + offset);
      for (int k = 1; k < kCount; ++k) sum += weight[k] * load_channels<V>(row[k] + offset);
      sums[j] = k0 == 0 ? sum : sums[j] + sum;
    }
  });
}

// outputs[i * output_stride] = weighted sum of inputs[i * input_stride + taps], for `lines` values of i.
template <typename V, typename A>
DETOPS_HD void sum_columns(const AxisTaps<A>& x, const Taps& taps, int64_t lines, const V* inputs, int64_t input_stride,
                           V* outputs, int64_t output_stride) {
  if (taps.count == 0) {
    for (int64_t i = 0; i < lines; ++i) outputs[i * output_stride] = V{};
  }
  in_fours(taps.count, [&](int64_t k0, auto count) DETOPS_INLINE {
    constexpr int kCount = decltype(count)::value;
    V weight[kCount];
    for (int k = 0; k < kCount; ++k) weight[k] = every_channel<V>(x.weights[taps.weights + k0 + k]);
    const V* input = inputs + taps.first + k0;
    for (int64_t i = 0; i < lines; ++i) {
      V sum = weight[0] * input[i * input_stride];
      for (int k = 1; k < kCount; ++k) sum += weight[k] * input[i * input_stride + k];
      outputs[i * output_stride] = k0 == 0 ? sum : outputs[i * output_stride] + sum;
    }
  });
}

// Adds one output of the transposed `y` to a row of the gradient: a weighted sum of rows of sums, column by column.
template <typename V, typename A>
DETOPS_HD void add_rows(const AxisTaps<A>& y, const Taps& taps, const AxisTaps<A>& x, const V* sums, V* row) {
  in_fours(taps.count, [&](int64_t k0, auto count) DETOPS_INLINE {
    constexpr int kCount = decltype(count)::value;
    V weight[kCount];
    for (int k = 0; k < kCount; ++k) weight[k] = every_channel<V>(y.weights[taps.weights + k0 + k]);
    const V* from = sums + (taps.first + k0) * x.num_pixels;
    for (int64_t j = 0; j < x.num_pixels; ++j) {
      V sum = row[x.pixels[j]];
      for (int k = 0; k < kCount; ++k) sum += weight[k] * from[k * x.num_pixels + j];
      row[x.pixels[j]] = sum;
    }
  });
}

// Regions whose bins are products of weights over rows and over columns.
template <typename A>
struct MeanRegions {
  static constexpr bool kReadsInput = false;
  int64_t height, width;  // bins
  RoiTaps<A> y_taps, x_taps;
  RoiOrder order;

  Band rows(int64_t roi) const {
    const AxisTaps<A> y = y_taps[roi];
    return y.empty() ? Band{0, 0} : Band{y.first_pixel(), y.last_pixel() + 1};
  }
  int64_t sums() const { return height * x_taps.most_pixels(); }
  void touch(int64_t roi, TouchedPixels& touched) const {
    const AxisTaps<A> y = y_taps[roi], x = x_taps[roi];
    if (y.empty() || x.empty()) return;
    const uint64_t blocks = touched.blocks(x.first_pixel(), x.last_pixel());
    for (int64_t i = 0; i < y.num_pixels; ++i) touched.add(y.pixels[i], blocks);
  }

  template <typename V, typename T>
  DETOPS_HD void pool(int64_t roi, const Rows<T>& map, V* sums, V* bins) const {
    const AxisTaps<A> y = y_taps[roi], x = x_taps[roi];
    if (y.empty() || x.empty()) return std::fill(bins, bins + height * width, V{});
    const int64_t strip = std::max<int64_t>(kStripBytes / (x.num_pixels * sizeof(V)), 1);
    for (int64_t first = 0; first < height; first += strip) {
      const int64_t lines = std::min(strip, height - first);
      for (int64_t i = 0; i < lines; ++i) sum_rows(map, y, y.outputs[first + i], x, sums + i * x.num_pixels);
      for (int64_t bin = 0; bin < width; ++bin) {
        sum_columns(x, x.outputs[bin], lines, sums, x.num_pixels, bins + first * width + bin, width);
      }
    }
  }

  // The same with transposed taps: from bins to pixels.
  template <typename V>
  DETOPS_HD void add(int64_t roi, Band band, const Rows<V>&, V* sums, const V* bins, const Rows<V>& slab) const {
    const AxisTaps<A> y = y_taps[roi], x = x_taps[roi];
    for (int64_t j = 0; j < x.num_pixels; ++j) {
      sum_columns(x, x.outputs[j], height, bins, width, sums + j, x.num_pixels);
    }
    for (int64_t i = 0; i < y.num_pixels; ++i) {
      if (y.pixels[i] < band.begin || y.pixels[i] >= band.end) continue;
      add_rows(y, y.outputs[i], x, sums, slab[y.pixels[i]]);
    }
  }

  static constexpr int64_t kStripBytes = 16 << 10;  // of sums over rows, to stay in the first cache
};

// From `grid`, which divides a region's rows and columns into bins, in G.
template <typename A, typename G, typename RoiGrid, int kMost>
MeanRegions<A> mean_regions_in(const char* op, const Tensor& rois_tensor, const RoiGrid& grid,
                               const ScaledMaps<kMost>& maps) {
  const std::vector<Roi<G>> rois = read_rois<G>(op, rois_tensor, maps.images);
  const auto num_rois = static_cast<int64_t>(rois.size());
  RoiTaps<A> y_taps(num_rois, grid.pooled_height), x_taps(num_rois, grid.pooled_width);
  std::vector<int64_t> images(num_rois);
  for (int64_t k = 0; k < num_rois; ++k) {
    const Box<G>& box = rois[k].box;
    const auto place = maps.place(rois[k]);
    const ScaledMap& map = maps.maps[place.map];
    auto y = grid.rows(map.spatial_scale, box.y1, box.y2);
    auto x = grid.columns(map.spatial_scale, box.x1, box.x2);
    if (place.image < 0) y = x = {};  // no pixels
    y_taps.add_bins(y, map.height);
    x_taps.add_bins(x, map.width);
    images[k] = std::max<int64_t>(place.image, 0);
  }
  RoiOrder order(
      num_rois, [&](int64_t k) { return images[k]; },
      [&](int64_t k) { return y_taps[k].empty() ? 0 : y_taps[k].first_pixel(); });
  return {grid.pooled_height, grid.pooled_width, std::move(y_taps), std::move(x_taps), std::move(order)};
}
template <typename A, typename RoiGrid, int kMost>
MeanRegions<A> mean_regions(const char* op, const Tensor& features, const Tensor& rois, const RoiGrid& grid,
                            const ScaledMaps<kMost>& maps) {
  if constexpr (!RoiGrid::kAlwaysWide) {
    if (!is_wide(features, rois)) return mean_regions_in<A, float>(op, rois, grid, maps);
  }
  return mean_regions_in<A, double>(op, rois, grid, maps);
}

// The CPU's kernels, compiled once for all operators, in roi_means.cpp: output = the means, outputs = the gradient of
// the features, from transposed taps.
template <typename T>
void pool_means_cpu(const MeanRegions<acc_t<T>>& regions, const Pyramid<const T>& features, const Maps<T>& output);
template <typename T>
void gather_means_cpu(const MeanRegions<acc_t<T>>& regions, const Maps<const T>& grad, const Pyramid<T>& outputs);

// For CUDA; the memory still missing. Each bin shares at most two pixels with those before it.
template <typename A, typename RoiGrid, int kMost>
TapsTables<A> mean_tables(const Tensor& rois, const RoiGrid& grid, const ScaledMaps<kMost>& maps) {
  TapsTables<A> tables{raw_rois(rois), rois.size(0), maps.images, nullptr, {}};
  TapsTable<A>&y = tables.axes[0], &x = tables.axes[1];
  y.num_bins = grid.pooled_height;
  x.num_bins = grid.pooled_width;
  for (int i = 0; i < maps.levels.count; ++i) {
    y.size = std::max(y.size, maps.maps[i].height);
    x.size = std::max(x.size, maps.maps[i].width);
  }
  for (TapsTable<A>& axis : tables.axes) axis.capacity = grid.most_taps(axis.size + 2 * axis.num_bins, axis.num_bins);
  return tables;
}

// ---- Host functions: the features, and their gradient, are maps or, where they are several tensors, a pyramid ------

template <int kMost>
void check_tables(const char* op, const Tensor& rois, const ScaledMaps<kMost>& maps) {
  for (int i = 0; i < maps.levels.count; ++i) check_tables(op, rois, maps.maps[i].height, maps.maps[i].width);
}

// output = the means. On CUDA launch(tables, features, output, stream) finds them.
template <typename Features, typename RoiGrid, int kMost, typename Launch>
void pool_means(const char* op, const Features& features, const Tensor& rois, const RoiGrid& grid,
                const ScaledMaps<kMost>& maps, const Tensor& output, const Launch& launch) {
  dispatch_floating(op, output, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    dispatch_device(
        output,
        [&] {
          const auto regions = mean_regions<A>(op, output, rois, grid, maps);
          if (is_empty(output)) return;
          pool_means_cpu<T>(regions, maps_of<const T>(features), maps_of<T>(output));
        },
        [&](void* stream) {
          check_tables(op, rois, maps);
          if (is_empty(output)) return;
          auto tables = mean_tables<A>(rois, grid, maps);
          const Tensor memory = place_tables(tables, output, false);
          launch(tables, maps_of<const T>(features), maps_of<T>(output), stream);
        });
  });
}

// outputs = the gradient of the features. On CUDA launch(tables, grad, outputs, stream) gathers it.
template <typename Outputs, typename RoiGrid, int kMost, typename Launch>
void gather_means(const char* op, const Tensor& grad, const Tensor& rois, const RoiGrid& grid,
                  const ScaledMaps<kMost>& maps, const Outputs& outputs, const Launch& launch) {
  dispatch_floating(op, grad, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    dispatch_device(
        grad,
        [&] {
          auto regions = mean_regions<A>(op, grad, rois, grid, maps);
          if (is_empty(outputs)) return;
          regions.y_taps = regions.y_taps.transposed();
          regions.x_taps = regions.x_taps.transposed();
          gather_means_cpu<T>(regions, maps_of<const T>(grad), maps_of<T>(outputs));
        },
        [&](void* stream) {
          check_tables(op, rois, maps);
          if (is_empty(outputs)) return;
          auto tables = mean_tables<A>(rois, grid, maps);
          const Tensor memory = place_tables(tables, grad, true);
          launch(tables, maps_of<const T>(grad), maps_of<T>(outputs), stream);
        });
  });
}
}  // namespace detops
