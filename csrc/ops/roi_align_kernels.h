// RoIAlign on CUDA, from one map or a pyramid.
//
// One kernel finds each region's taps, axis by axis, merged where samples meet in a pixel; a second one reads them for
// all channels. 1,000 regions of 12 x 12 pixels, 256 channels, 7 x 7 bins of 2 x 2 samples, to float32: a thread a bin
// would find 4 samples and read 16 values for each of 12.5 M bins. Here rows are summed once per touched column, 7 bins
// x 3.3 rows x 12 columns, then columns, 49 bins x 3.3: 430 products a channel in place of 784, of values that
// neighbouring threads read from one row.
//
// The gradient is gathered: each pixel adds up the bins that take it, region after region, and is written once. Adding
// from the regions to the map costs 200 M float atomics, whose order changes from run to run; in integers, whose order
// would not matter, a float's range does not fit. To gather costs every region's bins once more per tile that it
// touches, 3 of 16 x 16 pixels: 150 MB out of the L2, and some 3 products for each of its 144 pixels and 256 channels.
#pragma once
#include "roi_align.h"
#include "roi_kernels.h"

namespace detops {
struct Larger {
  template <typename V>
  DETOPS_D V operator()(V a, V b) const {
    return max(a, b);
  }
};

template <typename A, typename RoiMaps>
struct TapsArgs {
  RoiAlignGrid grid;
  RoiMaps maps;
  RoiAlignTables<A> tables;
};

// The taps of one axis of region k; a warp's lanes take a bin each. What two bins share, the later one's first pixels,
// is listed once. Returns the span.
template <typename A, typename G>
DETOPS_D RoiSpan find_taps(const RoiAlignAxisTable<A>& table, const RoiAlignAxis<G>& axis, int64_t size, int64_t k) {
  Taps* taps_of_bins = table.bins + k * table.num_bins;
  const int64_t part = k * table.capacity;
  int begin = -1, last = -1, touched = 0, used = 0;  // by the bins before
  for (int64_t first_bin = 0; first_bin < table.num_bins; first_bin += kWarp) {
    const int64_t i = first_bin + lane_id();  // in the order in which pixels ascend
    const int64_t bin = axis.bin < G(0) ? table.num_bins - 1 - i : i;
    int own[2] = {-1, -1}, own_last = -1, count = 0;
    const auto visit = [&](const auto& fn) {
      if (i < table.num_bins) for_each_pixel<A>(axis, bin, table.num_bins, size, fn);
    };
    visit([&](int64_t pixel, A) {
      own_last = static_cast<int>(pixel);
      if (count == 0) own[0] = own_last;
      if (count == 1) own[1] = own_last;
      ++count;
    });
    const int earlier = warp_scan(own_last, last, Larger{});
    const int shared = (count > 0 && own[0] <= earlier) + (count > 1 && own[1] <= earlier);
    const int place = warp_scan(count, used, Plus{}), position = warp_scan(count - shared, touched, Plus{}) - shared;
    const unsigned nonempty = ballot(count > 0);
    if (begin < 0 && nonempty != 0) begin = __shfl_sync(kAllLanes, own[0], __ffs(static_cast<int>(nonempty)) - 1);
    if (i < table.num_bins) taps_of_bins[bin] = {position, count, part + place};
    int n = 0;
    visit([&](int64_t pixel, A weight) {
      table.weights[part + place + n] = weight;
      if (n >= shared) table.pixels[part + position + n] = static_cast<int32_t>(pixel);
      ++n;
    });
  }
  return {max(begin, 0), last + 1, touched};
}

// The other way round: which bins take each pixel, one pixel a lane.
template <typename A>
DETOPS_D void transpose_taps(const RoiAlignAxisTable<A>& table, const RoiSpan& span, int64_t k) {
  const Taps* taps_of_bins = table.bins + k * table.num_bins;
  Taps* by_pixel = table.by_pixel + k * table.size;
  const int64_t part = k * table.capacity;
  for (int pixel = span.begin + lane_id(); pixel < span.end; pixel += kWarp) by_pixel[pixel] = {0, 0, 0};
  __syncwarp();
  int used = 0;
  for (int first = 0; first < span.touched; first += kWarp) {
    const int position = first + lane_id();
    int first_bin = 0, count = 0;
    for (int64_t bin = 0; bin < table.num_bins; ++bin) {
      const Taps taps = taps_of_bins[bin];
      if (position < taps.first || position >= taps.first + taps.count) continue;
      if (count++ == 0) first_bin = static_cast<int>(bin);
    }
    const int64_t place = part + warp_scan(count, used, Plus{});
    if (position < span.touched) by_pixel[table.pixels[part + position]] = {first_bin, count, place};
    for (int n = 0; n < count; ++n) {
      const Taps taps = taps_of_bins[first_bin + n];
      table.weights_from_pixel[place + n] = table.weights[taps.weights + position - taps.first];
    }
  }
}

// A warp an axis of a region.
template <typename A, typename G, typename RoiMaps, bool kForGradient>
__global__ void __launch_bounds__(kThreads, 2) find_taps_kernel(TapsArgs<A, RoiMaps> a) {
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + warp_id(), k = warp / 2;
  if (k >= a.tables.num_rois) return;
  const Roi<G> roi = a.tables.rois.template load<G>(k, a.tables.num_images);
  const auto place = a.maps.place(roi);
  const RoiAlignMap& map = a.maps.maps[place.map];
  const bool is_x = warp % 2 == 1;
  const RoiAlignAxisTable<A>& table = a.tables.axes[is_x];
  RoiAlignAxis<G> axis = is_x ? a.grid.columns(map.spatial_scale, roi.box.x1, roi.box.x2)
                              : a.grid.rows(map.spatial_scale, roi.box.y1, roi.box.y2);
  if (place.image < 0) axis.samples = 0;
  const RoiSpan span = find_taps(table, axis, is_x ? map.width : map.height, k);
  if (lane_id() == 0) {
    table.spans[k] = span;
    if (!is_x) a.tables.images[k] = place.image;
  }
  __syncwarp();
  if (kForGradient) transpose_taps(table, span, k);
}

template <bool kForGradient, typename A, typename RoiMaps>
void launch_find_taps(const char* op, const RoiAlignGrid& grid, const RoiMaps& maps, bool wide,
                      const RoiAlignTables<A>& tables, void* stream) {
  const Grid blocks{(2 * tables.num_rois + kWarps - 1) / kWarps, kThreads};
  if (wide) return launch(op, find_taps_kernel<A, double, RoiMaps, kForGradient>, blocks, stream, {grid, maps, tables});
  if constexpr (!std::is_same_v<A, double>) {
    launch(op, find_taps_kernel<A, float, RoiMaps, kForGradient>, blocks, stream, {grid, maps, tables});
  }
}

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
  RoiAlignTables<A> tables;

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
  RoiAlignTables<A> tables;
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
}  // namespace detops
