// Per region, each axis' samples become a small matrix of weights over pixels (roi_taps.h); a bin is then a product of
// rows and columns, for a vector of channels at a time (roi_tasks.h).
#include "roi_align.h"

#include <algorithm>
#include <vector>

#include "roi_taps.h"
#include "roi_tasks.h"

namespace detops {
namespace {
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

template <typename A>
struct AlignedRegions {
  static constexpr bool kReadsInput = false;
  int64_t height, width;  // bins
  RoiTaps<A> y_taps, x_taps;
  RoiOrder order;

  Band rows(int64_t roi) const {
    const AxisTaps<A> y = y_taps[roi];
    return y.empty() ? Band{0, 0} : Band{y.first_pixel(), y.last_pixel() + 1};
  }
  int64_t longest_span() const { return y_taps.longest_span(); }
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

template <typename A, typename G>
AlignedRegions<A> make_regions(const char* op, const Tensor& rois_tensor, const RoiAlignGrid& grid, int64_t images,
                               int64_t height, int64_t width) {
  const std::vector<Roi<G>> rois = read_rois<G>(op, rois_tensor, images);
  const auto num_rois = static_cast<int64_t>(rois.size());
  RoiTaps<A> y_taps(num_rois, grid.pooled_height, height), x_taps(num_rois, grid.pooled_width, width);
  for (const Roi<G>& roi : rois) {
    y_taps.add_bins(grid.rows(roi.box.y1, roi.box.y2));
    x_taps.add_bins(grid.columns(roi.box.x1, roi.box.x2));
  }
  RoiOrder order(
      num_rois, [&](int64_t k) { return rois[k].image; },
      [&](int64_t k) { return y_taps[k].empty() ? 0 : y_taps[k].first_pixel(); });
  return {grid.pooled_height, grid.pooled_width, std::move(y_taps), std::move(x_taps), std::move(order)};
}

// Regions whose sums are of type A.
template <typename A, typename... Args>
AlignedRegions<A> regions_of(const char* op, const Tensor& maps, const Tensor& rois, const Args&... args) {
  return is_wide(maps, rois) ? make_regions<A, double>(op, rois, args...) : make_regions<A, float>(op, rois, args...);
}

// For CUDA; the memory still missing.
template <typename A>
RoiAlignTables<A> tables_of(const Tensor& rois, const RoiAlignGrid& grid, int64_t images, int64_t height,
                            int64_t width) {
  RoiAlignTables<A> tables{raw_rois(rois), rois.size(0), images, nullptr, {}};
  const int64_t bins[] = {grid.pooled_height, grid.pooled_width}, sizes[] = {height, width};
  for (int i = 0; i < 2; ++i) {
    RoiAlignAxisTable<A>& axis = tables.axes[i];
    axis.num_bins = bins[i];
    axis.size = sizes[i];
    axis.capacity = sizes[i] + 2 * bins[i];  // a bin shares at most two pixels with those before it
    const int64_t of_samples = 2 * std::min(grid.sampling_ratio, axis.capacity) * bins[i];
    if (grid.sampling_ratio > 0) axis.capacity = std::min(axis.capacity, of_samples);
  }
  return tables;
}
}  // namespace

Tensor roi_align(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                 int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  const char* op = "roi_align";
  check_floating(op, "input", input);
  check_shape(op, "input", input, {kAny, kAny, kAny, kAny});
  check_rois(op, "input", input, rois);
  check_pooled_size(op, pooled_height, pooled_width);
  Tensor output = new_regions(input, rois.size(0), pooled_height, pooled_width);
  const RoiAlignGrid grid{spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned};
  const int64_t images = input.size(0), height = input.size(2), width = input.size(3);
  dispatch_floating(op, input, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    dispatch_device(
        input,
        [&] {
          const auto regions = regions_of<A>(op, input, rois, grid, images, height, width);
          if (rois.size(0) == 0 || input.size(1) == 0) return;
          pool_regions<A>(regions, maps_of<const T>(input), maps_of<T>(output));
        },
        [&](void* stream) {
          check_tables(op, rois, height, width);
          if (output.numel() == 0) return;
          auto tables = tables_of<A>(rois, grid, images, height, width);
          const Tensor memory = place_tables(tables, input, false);
          roi_align_cuda<T>(grid, is_wide(input, rois), tables, maps_of<const T>(input), maps_of<T>(output), stream);
        });
  });
  return output;
}
DETOPS_OP(roi_align,
          "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
          "int sampling_ratio, bool aligned) -> Tensor")

Tensor roi_align_backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                          int64_t pooled_width, int64_t batch, int64_t channels, int64_t height, int64_t width,
                          int64_t sampling_ratio, bool aligned, bool channels_last) {
  const char* op = "roi_align_backward";
  check_floating(op, "grad", grad);
  check_rois(op, "grad", grad, rois);
  check_pooled_size(op, pooled_height, pooled_width);
  check_shape(op, "grad", grad, {rois.size(0), channels, pooled_height, pooled_width});
  Tensor output = new_maps(grad, {batch, channels, height, width}, channels_last);
  const RoiAlignGrid grid{spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned};
  dispatch_floating(op, grad, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    dispatch_device(
        grad,
        [&] {
          auto regions = regions_of<A>(op, grad, rois, grid, batch, height, width);
          if (output.numel() == 0) return;
          regions.y_taps = regions.y_taps.transposed();
          regions.x_taps = regions.x_taps.transposed();
          const Maps<const T> grads = maps_of<const T>(grad);
          backpropagate_regions<A>(regions, grads, grads, maps_of<T>(output));
        },
        [&](void* stream) {
          check_tables(op, rois, height, width);
          if (output.numel() == 0) return;
          auto tables = tables_of<A>(rois, grid, batch, height, width);
          const Tensor memory = place_tables(tables, grad, true);
          roi_align_backward_cuda<T>(grid, is_wide(grad, rois), tables, maps_of<const T>(grad), maps_of<T>(output),
                                     stream);
        });
  });
  return output;
}
DETOPS_OP(
    roi_align_backward,
    "(Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, SymInt batch, "
    "SymInt channels, SymInt height, SymInt width, int sampling_ratio, bool aligned, bool channels_last) -> Tensor")
}  // namespace detops
