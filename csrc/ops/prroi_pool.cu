#include "prroi_pool.h"
#include "roi_align.h"
#include "roi_tap_kernels.h"

// A bin is a weighted mean of pixels by rows and columns, as RoIAlign's: its kernels pool, and gather the gradient.
//
// The gradient of a region's edges: a thread has a bin in a few channels. A pixel's values, each times its channel's
// gradient, are summed over these channels first, so that whatever the weights are (of the bin, and how these change
// with four edges) a pixel costs about one product a channel. A block's sums have one order, and so have its parts.
namespace detops {
namespace {
template <typename A>
struct EdgeWeightsArgs {
  PreciseRoiGrid grid;
  double spatial_scale;
  EdgeTables<A> tables;
};

// A warp an axis of a region; a lane a bin.
template <typename A>
__global__ void __launch_bounds__(kThreads, 2) find_edge_weights_kernel(EdgeWeightsArgs<A> a) {
  const TapsTables<A>& tables = a.tables.taps;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + warp_id(), k = warp / 2;
  if (k >= tables.num_rois || tables.images[k] < 0) return;
  const Roi<double> roi = tables.rois.template load<double>(k, tables.num_images);
  const bool is_x = warp % 2 == 1;
  const TapsTable<A>& table = tables.axes[is_x];
  const auto axis = is_x ? a.grid.columns(a.spatial_scale, roi.box.x1, roi.box.x2)
                         : a.grid.rows(a.spatial_scale, roi.box.y1, roi.box.y2);
  for (int64_t bin = lane_id(); bin < table.num_bins; bin += kWarp) {
    EdgeWeights<A>* to = a.tables.edges[is_x] + table.bins[k * table.num_bins + bin].weights;
    for_each_edge_weight<A>(axis, bin, table.num_bins, table.size, [&](const EdgeWeights<A>& edge) { *to++ = edge; });
  }
}

template <typename T>
struct EdgeGradientArgs {
  EdgeTables<acc_t<T>> tables;
  Maps<const T> grad, input;
  int64_t items, items_of_part;  // bins of vectors of channels, of a region
};

// 64-bit divisions are slow.
DETOPS_D int64_t divide(int64_t i, int64_t n) {
  return is_narrow(i) && is_narrow(n) ? static_cast<uint32_t>(i) / static_cast<uint32_t>(n) : i / n;
}

template <typename A>
struct EdgeSums {
  A x1, y1, x2, y2;
};

// Adds the gradient of one bin in some channels.
template <Layout kLayout, int kCount, typename T, typename A>
DETOPS_D void add_bin(const EdgeGradientArgs<T>& a, int64_t roi, int64_t image, int64_t channel, int64_t bin,
                      EdgeSums<A>& sums) {
  const TapsTables<A>& tables = a.tables.taps;
  const int64_t row = divide(bin, a.grad.width), column = bin - row * a.grad.width;
  const int channels = static_cast<int>(min<int64_t>(kCount, a.grad.channels - channel));
  const Taps down = tables.y().bins[roi * a.grad.height + row];
  const Taps across = tables.x().bins[roi * a.grad.width + column];
  const int32_t* rows = tables.y().pixels + roi * tables.y().capacity + down.first;
  const int32_t* columns = tables.x().pixels + roi * tables.x().capacity + across.first;
  Channels<A, kCount> grads, values;
  read_channels<kLayout>(a.grad.at(roi, channel) + row * a.grad.row_stride + column * a.grad.pixel_stride,
                         a.grad.channel_stride, channels, grads);
  for (int i = 0; i < down.count; ++i) {
    const T* from = a.input.at(image, channel) + rows[i] * a.input.row_stride;
    A whole{}, by_low{}, by_high{};  // sums over the row
    for (int j = 0; j < across.count; ++j) {
      read_channels<kLayout>(from + columns[j] * a.input.pixel_stride, a.input.channel_stride, channels, values);
      A value{};
#pragma unroll
      for (int c = 0; c < kCount; ++c) value = std::fma(grads.values[c], values.values[c], value);
      const EdgeWeights<A> edge = a.tables.edges[1][across.weights + j];
      whole = std::fma(tables.x().weights[across.weights + j], value, whole);
      by_low = std::fma(edge.low, value, by_low);
      by_high = std::fma(edge.high, value, by_high);
    }
    const A weight = tables.y().weights[down.weights + i];
    const EdgeWeights<A> edge = a.tables.edges[0][down.weights + i];
    sums.x1 = std::fma(weight, by_low, sums.x1);
    sums.x2 = std::fma(weight, by_high, sums.x2);
    sums.y1 = std::fma(edge.low, whole, sums.y1);
    sums.y2 = std::fma(edge.high, whole, sums.y2);
  }
}

// A block has a part of a region's bins. Neighbouring threads have neighbouring bins of a plane, or channels of a bin.
template <Layout kLayout, typename T>
__global__ void __launch_bounds__(kThreads, 2) edge_gradient_kernel(EdgeGradientArgs<T> a) {
  using A = acc_t<T>;
  constexpr int kCount = kVector<kLayout, T, 4>;
  const auto parts = static_cast<uint32_t>(a.tables.parts);
  const int64_t roi = blockIdx.x / parts, part = blockIdx.x % parts;
  const int64_t image = max<int64_t>(a.tables.taps.images[roi], 0);
  const int64_t bins = a.grad.height * a.grad.width, vectors = a.items / bins;
  const int64_t inner = kLayout == Layout::kPlanes ? bins : vectors, end = min((part + 1) * a.items_of_part, a.items);
  EdgeSums<A> sums{};
  for (int64_t i = part * a.items_of_part + threadIdx.x; i < end; i += kThreads) {
    const int64_t outer = divide(i, inner), rest = i - outer * inner;
    const int64_t vector = kLayout == Layout::kPlanes ? outer : rest, bin = kLayout == Layout::kPlanes ? rest : outer;
    add_bin<kLayout, kCount>(a, roi, image, vector * kCount, bin, sums);
  }
  const double x1 = block_sum<double>(sums.x1), y1 = block_sum<double>(sums.y1);
  const double x2 = block_sum<double>(sums.x2), y2 = block_sum<double>(sums.y2);
  if (threadIdx.x > 0) return;
  double* to = a.tables.sums + static_cast<int64_t>(blockIdx.x) * 4;
  to[0] = x1;
  to[1] = y1;
  to[2] = x2;
  to[3] = y2;
}

template <typename T>
struct FinishArgs {
  RoiGradient from;
  T* output;
};

// A thread a number.
template <typename T>
__global__ void finish_roi_gradient_kernel(FinishArgs<T> a) {
  DETOPS_GRID_STRIDE(i, a.from.num_rois * 5) {
    const int64_t roi = i / 5, column = i - roi * 5;
    double sum = 0;
    for (int64_t part = 0; column > 0 && part < a.from.parts; ++part) {
      sum += a.from.sums[(roi * a.from.parts + part) * 4 + column - 1];
    }
    a.output[i] = static_cast<T>(static_cast<acc_t<T>>(sum * a.from.spatial_scale));
  }
}
}  // namespace

template <typename T>
void prroi_pool_cuda(const PreciseRoiGrid& grid, const ScaledMapAlone& map, const TapsTables<acc_t<T>>& tables,
                     const Maps<const T>& input, const Maps<T>& output, void* stream) {
  const char* op = "prroi_pool";
  launch_find_taps<double, false>(op, grid, map, tables, stream);
  pool_means_cuda(op, tables, input, output, stream);
}

template <typename T>
void prroi_pool_backward_cuda(const PreciseRoiGrid& grid, const ScaledMapAlone& map, const TapsTables<acc_t<T>>& tables,
                              const Maps<const T>& grad, const Maps<T>& output, void* stream) {
  const char* op = "prroi_pool_backward";
  launch_find_taps<double, true>(op, grid, map, tables, stream);
  gather_means_cuda(op, tables, grad, output, stream);
}

template <typename T>
void prroi_pool_backward_rois_cuda(const PreciseRoiGrid& grid, const ScaledMapAlone& map,
                                   const EdgeTables<acc_t<T>>& tables, const Maps<const T>& grad,
                                   const Maps<const T>& input, void* stream) {
  const char* op = "prroi_pool_backward_rois";
  const int64_t num_rois = tables.taps.num_rois;
  launch_find_taps<double, false>(op, grid, map, tables.taps, stream);
  launch(op, find_edge_weights_kernel<acc_t<T>>, {(2 * num_rois + kWarps - 1) / kWarps, kThreads}, stream,
         {grid, map.spatial_scale(), tables});
  dispatch_layout(
      [&](auto layout) {
        constexpr int kCount = kVector<layout(), T, 4>;
        const int64_t items = (grad.channels + kCount - 1) / kCount * grad.height * grad.width;
        launch(op, edge_gradient_kernel<layout(), T>, {num_rois * tables.parts, kThreads}, stream,
               {tables, grad, input, items, (items + tables.parts - 1) / tables.parts});
      },
      grad, input);
}

template <typename T>
void finish_roi_gradient_cuda(const RoiGradient& args, T* output, void* stream) {
  launch("prroi_pool_backward_rois", finish_roi_gradient_kernel<T>, grid_for(args.num_rois * 5), stream,
         {args, output});
}

#define INSTANTIATE(T)                                                                                                 \
  template void prroi_pool_cuda<T>(const PreciseRoiGrid&, const ScaledMapAlone&, const TapsTables<acc_t<T>>&,          \
                                   const Maps<const T>&, const Maps<T>&, void*);                                       \
  template void prroi_pool_backward_cuda<T>(const PreciseRoiGrid&, const ScaledMapAlone&, const TapsTables<acc_t<T>>&, \
                                            const Maps<const T>&, const Maps<T>&, void*);                              \
  template void prroi_pool_backward_rois_cuda<T>(const PreciseRoiGrid&, const ScaledMapAlone&,                         \
                                                 const EdgeTables<acc_t<T>>&, const Maps<const T>&,                    \
                                                 const Maps<const T>&, void*);                                         \
  template void finish_roi_gradient_cuda<T>(const RoiGradient&, T*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
}  // namespace detops
