// Each axis' means of hats are a small matrix of weights over pixels, as RoIAlign's samples are (roi_means.h).
#include "prroi_pool.h"

#include <algorithm>
#include <vector>

#include "roi_means.h"

namespace detops {
namespace {
// How the weights of regions change with their edges, in the same order.
template <typename A>
struct RoiEdges {
  std::vector<EdgeWeights<A>> y, x;

  RoiEdges(const char* op, const Tensor& rois, const PreciseRoiGrid& grid, const ScaledMapAlone& map) {
    const auto& [scale, height, width] = map.maps[0];
    const auto add = [](std::vector<EdgeWeights<A>>& to, const auto& axis, int64_t bins, int64_t size) {
      for (int64_t bin = 0; bin < bins; ++bin) {
        for_each_edge_weight<A>(axis, bin, bins, size, [&](const EdgeWeights<A>& edge) { to.push_back(edge); });
      }
    };
    for (const Roi<double>& roi : read_rois<double>(op, rois, map.images)) {
      add(y, grid.rows(scale, roi.box.y1, roi.box.y2), grid.pooled_height, height);
      add(x, grid.columns(scale, roi.box.x1, roi.box.x2), grid.pooled_width, width);
    }
  }
};

// Of one region in a vector of channels, in feature pixels.
template <typename V>
struct EdgeGradient {
  V x1, y1, x2, y2;
};

// One row of bins at a time: the rows that it takes are summed by their weights, for the edges along x, and each is
// multiplied by the row's gradient, for those along y. `memory`: two vectors for every pixel of a row.
template <typename V, typename T, typename A>
DETOPS_HD EdgeGradient<V> differentiate(const MeanRegions<A>& regions, const RoiEdges<A>& edges, int64_t roi,
                                        const Rows<T>& map, const V* grads, V* memory) {
  const AxisTaps<A> y = regions.y_taps[roi], x = regions.x_taps[roi];
  V *const summed = memory, *const spread = memory + x.num_pixels;  // by column: of rows; of the row of bins' gradient
  EdgeGradient<V> result{};
  if (y.empty() || x.empty()) return result;
  for (int64_t bin_row = 0; bin_row < regions.height; ++bin_row, grads += regions.width) {
    const Taps& down = y.outputs[bin_row];
    if (down.count == 0) continue;
    std::fill(spread, spread + x.num_pixels, V{});
    for (int64_t bin = 0; bin < regions.width; ++bin) {
      const Taps& across = x.outputs[bin];
      const A* weights = x.weights + across.weights;
      for (int k = 0; k < across.count; ++k) spread[across.first + k] += every_channel<V>(weights[k]) * grads[bin];
    }
    in_fours(down.count, [&](int64_t k0, auto count) DETOPS_INLINE {
      constexpr int kCount = decltype(count)::value;
      const T* row[kCount];
      V weight[kCount], dot[kCount];
      for (int k = 0; k < kCount; ++k) {
        row[k] = map[y.pixels[down.first + k0 + k]];
        weight[k] = every_channel<V>(y.weights[down.weights + k0 + k]);
        dot[k] = V{};
      }
      for (int64_t j = 0; j < x.num_pixels; ++j) {
        const int64_t offset = x.pixels[j] * map.pixel_stride;
        V sum = k0 == 0 ? V{} : summed[j];
        for (int k = 0; k < kCount; ++k) {
          const V value = load_channels<V>(row[k] + offset);
          sum += weight[k] * value;
          dot[k] += spread[j] * value;
        }
        summed[j] = sum;
      }
      for (int k = 0; k < kCount; ++k) {
        const EdgeWeights<A>& edge = edges.y.data()[down.weights + k0 + k];
        result.y1 += every_channel<V>(edge.low) * dot[k];
        result.y2 += every_channel<V>(edge.high) * dot[k];
      }
    });
    for (int64_t bin = 0; bin < regions.width; ++bin) {
      const Taps& across = x.outputs[bin];
      const EdgeWeights<A>* weights = edges.x.data() + across.weights;
      V by_low{}, by_high{};
      for (int k = 0; k < across.count; ++k) {
        by_low += every_channel<V>(weights[k].low) * summed[across.first + k];
        by_high += every_channel<V>(weights[k].high) * summed[across.first + k];
      }
      result.x1 += grads[bin] * by_low;
      result.x2 += grads[bin] * by_high;
    }
  }
  return result;
}

// edge_grads (K, C, 4) = the gradients of x1, y1, x2, y2 by each channel, in feature pixels.
template <typename T, typename A>
void differentiate_regions(const MeanRegions<A>& regions, const RoiEdges<A>& edges, const Maps<const T>& grad,
                           const Maps<const T>& input, const Maps<A>& edge_grads) {
  const int64_t bins = grad.height * grad.width, most = regions.x_taps.most_pixels();
  visit_regions<A, T>(regions, input, workers_for(grad.size, grad.channels, 2 * bins), 2 * most + bins,
                      [&](int64_t roi, const auto& map, int64_t channel, int64_t count, auto* memory) DETOPS_INLINE {
                        using V = std::decay_t<decltype(*memory)>;
                        V* const grads = memory + 2 * most;
                        load_bins<V, T>(grad, roi, roi, channel, count, grads);
                        const EdgeGradient<V> gradient = differentiate<V>(regions, edges, roi, map, grads, memory);
                        const V values[] = {gradient.x1, gradient.y1, gradient.x2, gradient.y2};
                        unpack_row<V, A>(edge_grads, edge_grads.at(roi, channel), count, 0, 4, values);
                      });
}

// output (K, 5) = the gradient of the regions: the channels' added up in their order.
template <typename R, typename A>
void sum_channels(const Maps<A>& edge_grads, double spatial_scale, R* output) {
  for (int64_t k = 0; k < edge_grads.size; ++k) {
    output[k * 5] = static_cast<R>(0.0f);
    for (int64_t edge = 0; edge < 4; ++edge) {
      const A* from = edge_grads.at(k, 0) + edge * edge_grads.pixel_stride;
      double sum = 0;
      for (int64_t c = 0; c < edge_grads.channels; ++c) sum += from[c];
      output[k * 5 + 1 + edge] = static_cast<R>(static_cast<acc_t<R>>(sum * spatial_scale));
    }
  }
}

// As many parts of a region as keep a GPU busy.
int64_t parts_of(int64_t num_rois, int64_t channels, int64_t bins) {
  constexpr int64_t kLeast = 1024;  // bins of a channel
  return std::max<int64_t>(std::min(4 * kManyBlocks / num_rois, channels * bins / kLeast), 1);
}
}  // namespace

Tensor prroi_pool(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                  int64_t pooled_width) {
  const char* op = "prroi_pool";
  check_pooling(op, input, rois, pooled_height, pooled_width);
  Tensor output = new_regions(input, rois.size(0), pooled_height, pooled_width);
  const PreciseRoiGrid grid{pooled_height, pooled_width};
  const ScaledMapAlone map(spatial_scale, input.size(0), input.size(2), input.size(3));
  pool_means(op, input, rois, grid, map, output, [&](const auto&... args) { prroi_pool_cuda(grid, map, args...); });
  return output;
}
DETOPS_OP(prroi_pool,
          "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) -> Tensor")

Tensor prroi_pool_backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                           int64_t pooled_width, int64_t batch, int64_t channels, int64_t height, int64_t width,
                           bool channels_last) {
  const char* op = "prroi_pool_backward";
  check_pooling_backward(op, grad, rois, channels, pooled_height, pooled_width);
  Tensor output = new_maps(grad, {batch, channels, height, width}, channels_last);
  const PreciseRoiGrid grid{pooled_height, pooled_width};
  const ScaledMapAlone map(spatial_scale, batch, height, width);
  gather_means(op, grad, rois, grid, map, output,
               [&](const auto&... args) { prroi_pool_backward_cuda(grid, map, args...); });
  return output;
}
DETOPS_OP(prroi_pool_backward,
          "(Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, SymInt batch, "
          "SymInt channels, SymInt height, SymInt width, bool channels_last) -> Tensor")

Tensor prroi_pool_backward_rois(const Tensor& grad, const Tensor& input, const Tensor& rois, double spatial_scale,
                                int64_t pooled_height, int64_t pooled_width) {
  const char* op = "prroi_pool_backward_rois";
  check_pooling_backward(op, grad, input, rois, pooled_height, pooled_width);
  Tensor output = new_tensor<2>(rois, {rois.size(0), 5}, rois.scalar_type());
  const PreciseRoiGrid grid{pooled_height, pooled_width};
  const ScaledMapAlone map(spatial_scale, input.size(0), input.size(2), input.size(3));
  dispatch_floating(op, input, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const Maps<const T> grads = maps_of<const T>(grad), maps = maps_of<const T>(input);
    dispatch_device(
        input,
        [&] {
          const auto regions = mean_regions<A>(op, input, rois, grid, map);
          const RoiEdges<A> edges(op, rois, grid, map);
          const int64_t num_rois = grads.size, channels = grads.channels;
          const Scratch<A> memory(num_rois * 4 * channels);
          const Maps<A> edge_grads{memory.get(), num_rois, channels, 1, 4, 4 * channels, 1, 4 * channels, channels};
          differentiate_regions(regions, edges, grads, maps, edge_grads);
          dispatch_floating(op, rois, [&](auto rois_type) {
            using R = typename decltype(rois_type)::type;
            sum_channels(edge_grads, spatial_scale, mutable_data<R>(output));
          });
        },
        [&](void* stream) {
          check_tables(op, rois, input.size(2), input.size(3));
          if (rois.size(0) == 0) return;
          const int64_t parts = parts_of(rois.size(0), input.size(1), pooled_height * pooled_width);
          EdgeTables<A> tables{mean_tables<A>(rois, grid, map), parts, {}, nullptr};
          const Tensor memory = place_tables(tables, input, false);
          prroi_pool_backward_rois_cuda<T>(grid, map, tables, grads, maps, stream);
          dispatch_floating(op, rois, [&](auto rois_type) {
            using R = typename decltype(rois_type)::type;
            finish_roi_gradient_cuda<R>({tables.sums, rois.size(0), parts, spatial_scale}, mutable_data<R>(output),
                                        stream);
          });
        });
  });
  return output;
}
DETOPS_OP(prroi_pool_backward_rois,
          "(Tensor grad, Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) "
          "-> Tensor")
}  // namespace detops
