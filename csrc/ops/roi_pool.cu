#include <limits>

#include "roi_kernels.h"
#include "roi_pool.h"

// One kernel lays out each region's bins, a second one takes their largest values: of each touched column over the rows
// of a bin, then of these.
//
// The gradient goes to each bin's first largest pixel. To add it there takes float atomics, whose order changes from
// run to run; to look for it at every pixel would go through each bin as often as it has pixels. So a first pass, as
// fast as pooling, writes down where they lie, for as many channels as stay in the L2; then every pixel, region after
// region, adds up the bins that name it, and is written once.
namespace detops {
namespace {
constexpr uint32_t kNowhere = 0xffffffff;
template <typename A>
constexpr A kLowest = std::numeric_limits<A>::lowest();

struct BinsArgs {
  double spatial_scale;
  RoiPoolTables tables;
};

// A warp an axis of a region, a lane a bin; for the gradient then a lane a pixel.
template <typename G, bool kForGradient>
__global__ void __launch_bounds__(kThreads) find_bins_kernel(BinsArgs a) {
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + warp_id(), k = warp / 2;
  if (k >= a.tables.num_rois) return;
  const Roi<G> roi = a.tables.rois.template load<G>(k, a.tables.num_images);
  const bool is_x = warp % 2 == 1;
  const RoiAxisTable<RoiPoolBin>& table = a.tables.axes[is_x];
  const RoiPoolAxis<G> axis = roi_pool_axis(is_x ? roi.box.x1 : roi.box.y1, is_x ? roi.box.x2 : roi.box.y2,
                                            static_cast<G>(a.spatial_scale), table.num_bins);
  const auto bin_at = [&](int64_t i) { return roi.image < 0 ? RoiPoolBin{0, 0} : roi_pool_bin(axis, i, table.size); };
  const auto begin = static_cast<int>(bin_at(0).begin), end = static_cast<int>(bin_at(table.num_bins - 1).end);
  const RoiSpan span{begin, end, max(end - begin, 0)};  // begins and ends of bins ascend
  for (int64_t i = lane_id(); i < table.num_bins; i += kWarp) table.bins[k * table.num_bins + i] = bin_at(i);
  if (lane_id() == 0) {
    table.spans[k] = span;
    if (!is_x) a.tables.images[k] = roi.image;
  }
  if constexpr (kForGradient) {
    for (int pixel = begin + lane_id(); pixel < end; pixel += kWarp) {
      Taps taps{0, 0, 0};
      for (int64_t i = 0; i < table.num_bins; ++i) {
        const RoiPoolBin bin = bin_at(i);
        if (pixel < bin.begin || pixel >= bin.end) continue;
        if (taps.count++ == 0) taps.first = static_cast<int32_t>(i);
      }
      table.by_pixel[k * table.size + pixel] = taps;
    }
  }
}

template <bool kForGradient>
void launch_find_bins(const char* op, double spatial_scale, bool wide, const RoiPoolTables& tables, void* stream) {
  const Grid blocks{(2 * tables.num_rois + kWarps - 1) / kWarps, kThreads};
  launch(op, wide ? find_bins_kernel<double, kForGradient> : find_bins_kernel<float, kForGradient>, blocks, stream,
         {spatial_scale, tables});
}

// What Largest and FirstLargest share: columns are those of the region's span.
struct Binned {
  using Bin = RoiPoolBin;
  RoiPoolTables tables;

  DETOPS_D int columns(int64_t roi) const { return tables.x().spans[roi].touched; }
  DETOPS_D ColumnRange range(int64_t roi, const RoiPoolBin& bin) const {
    const int begin = tables.x().spans[roi].begin;
    return {static_cast<int>(bin.begin) - begin, static_cast<int>(bin.end) - begin};
  }
  template <typename T>
  DETOPS_D const T* column(const Maps<const T>& input, const T* planes, int64_t roi, int number) const {
    return planes + (tables.x().spans[roi].begin + number) * input.pixel_stride;
  }
};

template <typename A, int kCount>
DETOPS_D Channels<A, kCount> every_channel(A value) {
  Channels<A, kCount> all;
#pragma unroll
  for (int c = 0; c < kCount; ++c) all.values[c] = value;
  return all;
}

// Of pooling.
template <Layout kLayout_, typename T>
struct Largest : Binned {
  static constexpr Layout kLayout = kLayout_;
  static constexpr int kCount = kVector<kLayout, T, 4>;
  using A = acc_t<T>;
  static constexpr int kResident = kLayout == Layout::kPacked ? kResident128 : kResidentSums<A>;
  using Input = T;
  using Output = T;
  using Column = Channels<A, kCount>;
  using Sum = Column;

  DETOPS_D void start(Sum& most) const { most = every_channel<A, kCount>(kLowest<A>); }
  DETOPS_D static void take(Column& most, const Column& values) {
#pragma unroll
    for (int c = 0; c < kCount; ++c) most.values[c] = max(most.values[c], values.values[c]);
  }
  DETOPS_D void reduce(const Maps<const T>& input, const Line<Largest>& line, int64_t roi, int number,
                       Column& most) const {
    const T* from = column(input, line.input, roi, number);
    Column values;
    start(most);
    for (int64_t y = line.rows.begin; y < line.rows.end; ++y) {
      read_channels<kLayout>(from + y * input.row_stride, input.channel_stride, line.channels, values);
      take(most, values);
    }
  }
  DETOPS_D void add(Sum& most, int, const Column& column, const RoiPoolBin&) const { take(most, column); }
  DETOPS_D Channels<A, kCount> finish(const Sum& most, int64_t, const RoiPoolBin& rows,
                                      const RoiPoolBin& columns) const {
    const bool empty = rows.begin >= rows.end || columns.begin >= columns.end;
    return empty ? every_channel<A, kCount>(0) : most;
  }
};

// Of pooling too: the pixel, counted row by row, that has the largest value; of equal ones the first.
template <Layout kLayout_, typename T>
struct FirstLargest : Binned {
  static constexpr Layout kLayout = kLayout_;
  static constexpr int kCount = kVector<kLayout, T, 4>;
  using A = acc_t<T>;
  static constexpr int kResident = kLayout == Layout::kPacked ? kResident128 : kResidentSums<A>;
  using Input = T;
  using Output = uint32_t;
  struct Column {
    Channels<A, kCount> values;
    Channels<int, kCount> rows;
  };
  struct Sum {
    Column most;
    Channels<int, kCount> columns;
  };
  int64_t width;  // of the map

  DETOPS_D static void start_column(Column& most) {
#pragma unroll
    for (int c = 0; c < kCount; ++c) most.values.values[c] = kLowest<A>, most.rows.values[c] = -1;
  }
  DETOPS_D static void take(Column& most, const Channels<A, kCount>& values, int row) {
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      const bool larger = values.values[c] > most.values.values[c];
      most.values.values[c] = larger ? values.values[c] : most.values.values[c];
      most.rows.values[c] = larger ? row : most.rows.values[c];
    }
  }
  DETOPS_D void reduce(const Maps<const T>& input, const Line<FirstLargest>& line, int64_t roi, int number,
                       Column& most) const {
    const T* from = column(input, line.input, roi, number);
    Channels<A, kCount> values;
    start_column(most);
    for (int64_t y = line.rows.begin; y < line.rows.end; ++y) {
      read_channels<kLayout>(from + y * input.row_stride, input.channel_stride, line.channels, values);
      take(most, values, static_cast<int>(y));
    }
  }
  DETOPS_D void start(Sum& sum) const {
    start_column(sum.most);
    sum.columns = {};
  }
  DETOPS_D void add(Sum& sum, int number, const Column& column, const RoiPoolBin&) const {
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      const A value = column.values.values[c], most = sum.most.values.values[c];
      const int row = column.rows.values[c], first = sum.most.rows.values[c];
      if (!(value > most || (value == most && row < first))) continue;
      sum.most.values.values[c] = value;
      sum.most.rows.values[c] = row;
      sum.columns.values[c] = number;
    }
  }
  DETOPS_D Channels<uint32_t, kCount> finish(const Sum& sum, int64_t roi, const RoiPoolBin&, const RoiPoolBin&) const {
    Channels<uint32_t, kCount> where;
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      const int64_t row = sum.most.rows.values[c], column = tables.x().spans[roi].begin + sum.columns.values[c];
      where.values[c] = row < 0 ? kNowhere : static_cast<uint32_t>(row * width + column);
    }
    return where;
  }
};

// Of gathering.
template <Layout kLayout_, typename T>
struct LargestGradient {
  static constexpr Layout kLayout = kLayout_;
  static constexpr int kCount = kVector<kLayout, T, 8>;
  using A = acc_t<T>;
  static constexpr int kResident = kResidentSums<A>;
  using Output = T;
  using Sums = Channels<A, kCount>;
  RoiPoolTables tables;
  Maps<const T> grad;
  Maps<uint32_t> where;
  int64_t width;  // of the map

  DETOPS_D void add(int64_t roi, int64_t channel, int channels, int64_t y, int64_t x, Sums& sums) const {
    const Taps rows = tables.y().by_pixel[roi * tables.y().size + y];
    const Taps columns = tables.x().by_pixel[roi * tables.x().size + x];
    const auto pixel = static_cast<uint32_t>(y * width + x);
    const T* grads = grad.at(roi, channel);
    const uint32_t* pixels = where.at(roi, channel);
    Channels<uint32_t, kCount> taken;
    for (int64_t p = rows.first; p < rows.first + rows.count; ++p) {
      for (int64_t q = columns.first; q < columns.first + columns.count; ++q) {
        const uint32_t* from = pixels + p * where.row_stride + q * where.pixel_stride;
        read_channels<kLayout>(from, where.channel_stride, channels, taken);
        const T* bin = grads + p * grad.row_stride + q * grad.pixel_stride;
        const int64_t stride = kLayout == Layout::kPlanes ? grad.channel_stride : 1;
#pragma unroll
        for (int c = 0; c < kCount; ++c) {
          if (taken.values[c] == pixel && c < channels) sums.values[c] += static_cast<A>(bin[c * stride]);
        }
      }
    }
  }
};

// Channels [first, first + count).
template <typename T>
Maps<T> some_channels(Maps<T> maps, int64_t first, int64_t count) {
  maps.data += first * maps.channel_stride;
  maps.channels = count;
  return maps;
}
}  // namespace

template <typename T>
void roi_pool_cuda(double spatial_scale, bool wide, const RoiPoolTables& tables, const Maps<const T>& input,
                   const Maps<T>& output, void* stream) {
  const char* op = "roi_pool";
  launch_find_bins<false>(op, spatial_scale, wide, tables, stream);
  dispatch_layout([&](auto layout) { launch_pool(op, Largest<layout(), T>{{tables}}, input, output, stream); }, input,
                  output);
}

template <typename T>
void roi_pool_backward_cuda(double spatial_scale, bool wide, const RoiPoolTables& tables, const Maps<const T>& grad,
                            const Maps<const T>& input, const Maps<uint32_t>& where, const Maps<T>& output,
                            void* stream) {
  const char* op = "roi_pool_backward";
  launch_find_bins<true>(op, spatial_scale, wide, tables, stream);
  for (int64_t first = 0; first < output.channels; first += where.channels) {
    const int64_t count = min(where.channels, output.channels - first);
    const Maps<uint32_t> of_bins = some_channels(where, 0, count);
    const Maps<const T> from = some_channels(input, first, count), grads = some_channels(grad, first, count);
    const Maps<T> to = some_channels(output, first, count);
    dispatch_layout(
        [&](auto layout) {
          if (of_bins.size > 0) {
            launch_pool(op, FirstLargest<layout(), T>{{tables}, output.width}, from, of_bins, stream);
          }
          launch_gather(op, LargestGradient<layout(), T>{tables, grads, of_bins, output.width}, to, stream);
        },
        from, grads, of_bins, to);
  }
}

#define INSTANTIATE(T)                                                                                             \
  template void roi_pool_cuda<T>(double, bool, const RoiPoolTables&, const Maps<const T>&, const Maps<T>&, void*); \
  template void roi_pool_backward_cuda<T>(double, bool, const RoiPoolTables&, const Maps<const T>&,                \
                                          const Maps<const T>&, const Maps<uint32_t>&, const Maps<T>&, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
}  // namespace detops
