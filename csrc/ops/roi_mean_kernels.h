// Bins that are weighted means of pixels (roi_means.h) on CUDA, from one map or a pyramid.
//
// One kernel has found each region's taps (roi_tap_kernels.h), merged where samples meet in a pixel; a second one reads
// them for all channels. RoIAlign of 1,000 regions of 12 x 12 pixels, 256 channels, 7 x 7 bins of 2 x 2 samples, to
// float32: a thread a bin would find 4 samples and read 16 values for each of 12.5 M bins. Here rows are summed once
// per touched column, 7 bins x 3.3 rows x 12 columns, then columns, 49 bins x 3.3: 430 products a channel in place of
// 784, of values that neighbouring threads read from one row.
//
// The gradient is gathered: each pixel adds up the bins that take it, region after region, and is written once. Adding
// from the regions to the map costs 200 M float atomics, whose order changes from run to run; in integers, whose order
// would not matter, a float's range does not fit. To gather costs every region's bins once more per tile that it
// touches, 3 of 16 x 16 pixels: 150 MB out of the L2, and some 3 products for each of its 144 pixels and 256 channels.
#pragma once
#include "roi_tap_kernels.h"

namespace detops {
// Of pooling.
template <Layout kLayout_, typename T>
struct Mean {
  static constexpr Layout kLayout = kLayout_;
  static constexpr int kCount = kVector<kLayout, T, 4>;
  using A = acc_t<T>;
  static constexpr int kResident = kResidentSums<A>;
  using Input = T;
  using Output = T;
  using Bin = Taps;
  using Column = Channels<A, kCount>;
  using Sum = Column;
  TapsTables<A> tables;

  DETOPS_D int columns(int64_t roi) const { return tables.x().spans[roi].touched; }
  DETOPS_D ColumnRange range(int64_t, const Taps& taps) const { return {taps.first, taps.first + taps.count}; }
  DETOPS_D void reduce(const Maps<const T>& input, const Line<Mean>& line, int64_t roi, int column, Column& sum) const {
    const int64_t x = tables.x().pixels[roi * tables.x().capacity + column];
    const int32_t* rows = tables.y().pixels + roi * tables.y().capacity + line.rows.first;
    const A* weights = tables.y().weights + line.rows.weights;
    Column values;
    sum = {};
#pragma unroll 2  // four, the compiler's choice, would spill
    for (int n = 0; n < line.rows.count; ++n) {
      const T* from = line.input + rows[n] * input.row_stride + x * input.pixel_stride;
      read_channels<kLayout>(from, input.channel_stride, line.channels, values);
      add_channels(weights[n], values, sum);
    }
  }
  DETOPS_D void start(Sum& sum) const { sum = {}; }
  DETOPS_D void add(Sum& sum, int number, const Column& column, const Taps& taps) const {
    add_channels(tables.x().weights[taps.weights + number - taps.first], column, sum);
  }
  DETOPS_D Channels<A, kCount> finish(const Sum& sum, int64_t, const Taps&, const Taps&) const { return sum; }
};

// Of gathering.
template <Layout kLayout_, typename T>
struct MeanGradient {
  static constexpr Layout kLayout = kLayout_;
  static constexpr int kCount = kVector<kLayout, T, 8>;
  using A = acc_t<T>;
  static constexpr int kResident = kResidentSums<A>;
  using Output = T;
  using Sums = Channels<A, kCount>;
  TapsTables<A> tables;
  Maps<const T> grad;

  DETOPS_D void add(int64_t roi, int64_t channel, int channels, int64_t y, int64_t x, Sums& sums) const {
    const Taps rows = tables.y().by_pixel[roi * tables.y().size + y];
    if (rows.count == 0) return;
    const Taps columns = tables.x().by_pixel[roi * tables.x().size + x];
    const T* from = grad.at(roi, channel) + rows.first * grad.row_stride + columns.first * grad.pixel_stride;
    const A* row_weights = tables.y().weights_from_pixel + rows.weights;
    const A* column_weights = tables.x().weights_from_pixel + columns.weights;
    Sums values;
    for (int p = 0; p < rows.count; ++p) {
      Sums row{};
      for (int q = 0; q < columns.count; ++q) {
        read_channels<kLayout>(from + p * grad.row_stride + q * grad.pixel_stride, grad.channel_stride, channels,
                               values);
        add_channels(column_weights[q], values, row);
      }
      add_channels(row_weights[p], row, sums);
    }
  }
};

template <typename T, template <typename> typename MapsOrPyramid>
void pool_means_cuda(const char* op, const TapsTables<acc_t<T>>& tables, const MapsOrPyramid<const T>& input,
                     const Maps<T>& output, void* stream) {
  dispatch_layout([&](auto layout) { launch_pool(op, Mean<layout(), T>{tables}, input, output, stream); }, input,
                  output);
}

template <typename T, template <typename> typename MapsOrPyramid>
void gather_means_cuda(const char* op, const TapsTables<acc_t<T>>& tables, const Maps<const T>& grad,
                       const MapsOrPyramid<T>& output, void* stream) {
  dispatch_layout([&](auto layout) { launch_gather(op, MeanGradient<layout(), T>{tables, grad}, output, stream); },
                  grad, output);
}
}  // namespace detops
