// Position-sensitive pooling: host function and CPU kernels, for either kind of bins. A task is a plane of the input
// with its bin of every region, so that what it reads stays in the cache and its gradient is its own.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "../core/parallel.h"
#include "ps_rois.h"
#include "roi_maps.h"
#include "rois.h"

namespace detops {
// The pixels that each bin of each region takes along one axis.
template <typename A>
class BinPixels {
 public:
  struct Pixel {
    int64_t index;
    A weight;
  };

  // low(k), high(k): the edges of region k.
  template <typename Bins, typename Edge>
  BinPixels(int64_t num_rois, PsAxis along, const Bins& bins, const Edge& low, const Edge& high) : bins_(along.bins) {
    starts_.reserve(num_rois * bins_ + 1);
    starts_.push_back(0);
    for (int64_t k = 0; k < num_rois; ++k) {
      for (int64_t bin = 0; bin < bins_; ++bin) {
        bins.template for_each<A>(low(k), high(k), bin, along,
                                  [&](int64_t index, A weight) { pixels_.push_back({index, weight}); });
        starts_.push_back(static_cast<int64_t>(pixels_.size()));
      }
    }
  }

  const Pixel* begin(int64_t roi, int64_t bin) const { return pixels_.data() + starts_[roi * bins_ + bin]; }
  const Pixel* end(int64_t roi, int64_t bin) const { return pixels_.data() + starts_[roi * bins_ + bin + 1]; }

 private:
  int64_t bins_;
  std::vector<int64_t> starts_;
  std::vector<Pixel> pixels_;
};

template <typename A>
struct PsRegions {
  std::vector<int64_t> images;
  BinPixels<A> rows, columns;
};

template <typename A, typename G, typename Bins>
PsRegions<A> ps_regions(const char* op, const Tensor& tensor, const Bins& bins, int64_t num_images, PsAxis rows,
                        PsAxis columns) {
  const std::vector<Roi<G>> rois = read_rois<G>(op, tensor, num_images);
  const auto edge = [&](G Box<G>::* side) { return [&rois, side](int64_t k) { return rois[k].box.*side; }; };
  std::vector<int64_t> images;
  images.reserve(rois.size());
  for (const Roi<G>& roi : rois) images.push_back(roi.image);
  const auto k = static_cast<int64_t>(rois.size());
  return {std::move(images), BinPixels<A>(k, rows, bins, edge(&Box<G>::y1), edge(&Box<G>::y2)),
          BinPixels<A>(k, columns, bins, edge(&Box<G>::x1), edge(&Box<G>::x2))};
}

constexpr double kNanosecondsPerPsBin = 8;

// Where a channel of the input goes: bin (row, column) of output channel `channel`.
struct PsBin {
  int64_t channel, row, column;

  template <typename T>
  PsBin(int64_t input_channel, const Maps<T>& pooled)
      : channel(input_channel / (pooled.height * pooled.width)),
        row(input_channel / pooled.width % pooled.height),
        column(input_channel % pooled.width) {}

  template <typename T>
  T& of(const Maps<T>& pooled, int64_t roi) const {
    return pooled.at(roi, channel)[row * pooled.row_stride + column * pooled.pixel_stride];
  }
};

template <typename A, typename T>
void ps_roi_cpu(const PsRegions<A>& regions, const Maps<const T>& input, const Maps<T>& output) {
  const double per_channel = kNanosecondsPerPsBin * static_cast<double>(output.size);
  parallel_for(input.channels, grain_for(per_channel), [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      const PsBin bin(c, output);
      for (int64_t k = 0; k < output.size; ++k) {
        const T* plane = input.at(regions.images[k], c);
        A mean = 0;
        for (auto y = regions.rows.begin(k, bin.row); y != regions.rows.end(k, bin.row); ++y) {
          const T* row = plane + y->index * input.row_stride;
          A of_row = 0;
          for (auto x = regions.columns.begin(k, bin.column); x != regions.columns.end(k, bin.column); ++x) {
            of_row += x->weight * static_cast<A>(row[x->index * input.pixel_stride]);
          }
          mean += y->weight * of_row;
        }
        bin.of(output, k) = static_cast<T>(mean);
      }
    }
  });
}

// output = the gradient of the input, zeros included. Planes that lie side by side in memory are written together.
template <typename A, typename T>
void ps_roi_backward_cpu(const PsRegions<A>& regions, const Maps<const T>& grad, const Maps<T>& output) {
  std::vector<std::vector<int64_t>> rois(output.size);  // of each image
  for (int64_t k = 0; k < grad.size; ++k) rois[regions.images[k]].push_back(k);
  const int64_t together = output.interleaved() ? 16 : 1, pixels = output.height * output.width;
  const int64_t blocks = (output.channels + together - 1) / together, tasks = output.size * blocks;
  const double work = kNanosecondsPerPsBin * 2 * static_cast<double>(grad.size) * static_cast<double>(output.channels);
  const int64_t pieces =
      std::clamp<int64_t>(static_cast<int64_t>(work / grain_for(1)), 1, std::min(num_threads(), tasks));
  const std::unique_ptr<A[]> scratch(new A[pieces * together * pixels]);
  parallel_for(pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      A* planes = scratch.get() + piece * together * pixels;
      for (int64_t task = tasks * piece / pieces; task < tasks * (piece + 1) / pieces; ++task) {
        const int64_t image = task / blocks, begin = task % blocks * together;
        const int64_t count = std::min(together, output.channels - begin);
        std::fill_n(planes, count * pixels, A(0));
        for (int64_t c = 0; c < count; ++c) {
          const PsBin bin(begin + c, grad);
          A* plane = planes + c * pixels;
          for (const int64_t k : rois[image]) {
            const A of_bin = static_cast<A>(bin.of(grad, k));
            for (auto y = regions.rows.begin(k, bin.row); y != regions.rows.end(k, bin.row); ++y) {
              A* row = plane + y->index * output.width;
              const A of_row = of_bin * y->weight;
              for (auto x = regions.columns.begin(k, bin.column); x != regions.columns.end(k, bin.column); ++x) {
                row[x->index] += of_row * x->weight;
              }
            }
          }
        }
        T* to = output.at(image, begin);
        for (int64_t i = 0; i < pixels; ++i) {
          T* pixel = to + i / output.width * output.row_stride + i % output.width * output.pixel_stride;
          for (int64_t c = 0; c < count; ++c) pixel[c * output.channel_stride] = static_cast<T>(planes[c * pixels + i]);
        }
      }
    }
  });
}

// Calls fn(Type<T>{}, Type<G>{}): element type of the maps, and that of the geometry, float64 if either tensor is.
template <typename Fn>
void dispatch_ps_roi(const char* op, const Tensor& maps, const Tensor& rois, const Fn& fn) {
  dispatch_floating(op, maps, [&](auto type) {
    using T = typename decltype(type)::type;
    if (std::is_same_v<T, double> || is_double(rois)) {
      fn(type, Type<double>{});
    } else {
      fn(type, Type<float>{});
    }
  });
}

template <typename Bins>
Tensor ps_roi_host(const char* op, const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                   const Bins& bins) {
  check_pooling(op, input, rois, pooled_height, pooled_width);
  if (input.size(1) % (pooled_height * pooled_width) != 0) {
    fail(op, "expected input of a multiple of ", pooled_height * pooled_width, " channels, one for each bin, got ",
         input.size(1));
  }
  const int64_t channels = input.size(1) / (pooled_height * pooled_width);
  Tensor output = new_maps(input, {rois.size(0), channels, pooled_height, pooled_width}, is_channels_last(input));
  dispatch_ps_roi(op, input, rois, [&](auto type, auto geometry) {
    using T = typename decltype(type)::type;
    using G = typename decltype(geometry)::type;
    const Maps<const T> from = maps_of<const T>(input);
    const Maps<T> to = maps_of<T>(output);
    dispatch_device(
        input,
        [&] {
          using A = acc_t<T>;
          ps_roi_cpu(
              ps_regions<A, G>(op, rois, bins, from.size, {pooled_height, from.height}, {pooled_width, from.width}),
              from, to);
        },
        [&](void* stream) { ps_roi_cuda<G>(op, PsRoiArgs<T, Bins>{from, raw_rois(rois), to, bins}, stream); });
  });
  return output;
}

template <typename Bins>
Tensor ps_roi_backward_host(const char* op, const Tensor& grad, const Tensor& rois, const std::array<int64_t, 4>& sizes,
                            bool channels_last, const Bins& bins) {
  check_floating(op, "grad", grad);
  check_rois(op, "grad", grad, rois);
  check_shape(op, "grad", grad, {rois.size(0), kAny, kAny, kAny});
  if (grad.size(1) * grad.size(2) * grad.size(3) != sizes[1]) {
    fail(op, "expected grad of ", sizes[1], " values for each region, got ", shape_of(grad));
  }
  Tensor output = new_maps(grad, sizes, channels_last);
  dispatch_ps_roi(op, grad, rois, [&](auto type, auto geometry) {
    using T = typename decltype(type)::type;
    using G = typename decltype(geometry)::type;
    const Maps<const T> from = maps_of<const T>(grad);
    const Maps<T> to = maps_of<T>(output);
    dispatch_device(
        grad,
        [&] {
          const auto regions =
              ps_regions<acc_t<T>, G>(op, rois, bins, to.size, {from.height, to.height}, {from.width, to.width});
          if (to.size * to.channels * to.height * to.width > 0) ps_roi_backward_cpu(regions, from, to);
        },
        [&](void* stream) { ps_roi_backward_cuda<G>(op, PsRoiArgs<T, Bins>{from, raw_rois(rois), to, bins}, stream); });
  });
  return output;
}
}  // namespace detops
