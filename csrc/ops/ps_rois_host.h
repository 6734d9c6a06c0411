// Position-sensitive pooling: host function and CPU kernels, for either kind of bins. A task is one bin of every region
// in a few output channels: the same pixels of as many planes of the input, which stay in the cache, and whose gradient
// is the task's own.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "../core/parallel.h"
#include "ps_rois.h"
#include "roi_maps.h"
#include "roi_rows.h"
#include "rois.h"

namespace detops {
// The pixels that each bin of each region takes along one axis, bin by bin.
template <typename A>
class BinPixels {
 public:
  struct Pixel {
    int32_t index;
    A weight;
  };

  // low(k), high(k): the edges of region k.
  template <typename Bins, typename Edge>
  BinPixels(int64_t num_rois, PsAxis along, const Bins& bins, const Edge& low, const Edge& high) : num_rois_(num_rois) {
    starts_.reserve(num_rois * along.bins + 1);
    starts_.push_back(0);
    for (int64_t bin = 0; bin < along.bins; ++bin) {
      for (int64_t k = 0; k < num_rois; ++k) {
        bins.template for_each<A>(low(k), high(k), bin, along, [&](int64_t index, A weight) {
          pixels_.push_back({static_cast<int32_t>(index), weight});
        });
        starts_.push_back(static_cast<int64_t>(pixels_.size()));
      }
    }
  }

  const Pixel* begin(int64_t bin, int64_t roi) const { return pixels_.data() + starts_[bin * num_rois_ + roi]; }
  const Pixel* end(int64_t bin, int64_t roi) const { return pixels_.data() + starts_[bin * num_rois_ + roi + 1]; }

 private:
  int64_t num_rois_;
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

constexpr double kNanosecondsPerPsBin = 4;

// Bin (row, column) of some output channels, from `channel`.
struct PsBin {
  int64_t channel, row, column;

  // Of `pooled`'s channel by channel bins, which are the planes of the input.
  template <typename T>
  static PsBin of_plane(int64_t plane, const Maps<T>& pooled) {
    const int64_t bin = plane % (pooled.height * pooled.width);
    return {plane / (pooled.height * pooled.width), bin / pooled.width, bin % pooled.width};
  }
  template <typename T>
  int64_t first_plane(const Maps<T>& pooled) const {
    return (channel * pooled.height + row) * pooled.width + column;
  }
  template <typename T>
  T* of(const Maps<T>& pooled, int64_t roi) const {
    return pooled.at(roi, channel) + row * pooled.row_stride + column * pooled.pixel_stride;
  }
};

// Calls fn(bin, count) for all bins of all output channels, kTogether of these at a time: count is their number, known
// when compiling.
constexpr int64_t kTogether = 4;
template <typename T, typename Fn>
void for_ps_bins(const Maps<T>& pooled, int64_t first, int64_t last, const Fn& fn) {
  for (int64_t task = first; task < last; ++task) {
    const int64_t bins = pooled.height * pooled.width, bin = task % bins;
    const PsBin from{task / bins * kTogether, bin / pooled.width, bin % pooled.width};
    in_fours(std::min(kTogether, pooled.channels - from.channel), [&](int64_t, auto count) { fn(from, count); });
  }
}
template <typename T>
int64_t num_ps_tasks(const Maps<T>& pooled) {
  return (pooled.channels + kTogether - 1) / kTogether * pooled.height * pooled.width;
}

template <typename A, typename T, int kCount>
void pool_ps_bin(const PsRegions<A>& regions, const Maps<const T>& input, PsBin bin,
                 std::integral_constant<int, kCount>, const Maps<T>& output) {
  const int64_t plane = bin.first_plane(output), next_plane = output.height * output.width * input.channel_stride;
  for (int64_t k = 0; k < output.size; ++k) {
    const T* map = input.at(regions.images[k], plane);
    const auto* const first_x = regions.columns.begin(bin.column, k);
    const auto* const last_x = regions.columns.end(bin.column, k);
    A means[kCount] = {};
    for (auto y = regions.rows.begin(bin.row, k); y != regions.rows.end(bin.row, k); ++y) {
      const T* row = map + y->index * input.row_stride;
      A of_row[kCount] = {};
      for (auto x = first_x; x != last_x; ++x) {
        const T* pixel = row + x->index * input.pixel_stride;
        for (int i = 0; i < kCount; ++i) of_row[i] += x->weight * static_cast<A>(pixel[i * next_plane]);
      }
      for (int i = 0; i < kCount; ++i) means[i] += y->weight * of_row[i];
    }
    T* to = bin.of(output, k);
    for (int i = 0; i < kCount; ++i) to[i * output.channel_stride] = static_cast<T>(means[i]);
  }
}

template <typename A, typename T>
void ps_roi_cpu(const PsRegions<A>& regions, const Maps<const T>& input, const Maps<T>& output) {
  const double per_task = kNanosecondsPerPsBin * kTogether * static_cast<double>(output.size);
  parallel_for(num_ps_tasks(output), grain_for(per_task), [&](int64_t first, int64_t last) {
    for_ps_bins(output, first, last, [&](PsBin bin, auto count) { pool_ps_bin(regions, input, bin, count, output); });
  });
}

// Adds the gradient of one bin of some regions to planes (kCount, H, W).
template <typename A, typename T, int kCount>
void add_ps_bin(const PsRegions<A>& regions, const std::vector<int64_t>& rois, const Maps<const T>& grad, PsBin bin,
                std::integral_constant<int, kCount>, int64_t width, int64_t pixels, A* planes) {
  for (const int64_t k : rois) {
    const auto* const first_x = regions.columns.begin(bin.column, k);
    const auto* const last_x = regions.columns.end(bin.column, k);
    const T* from = bin.of(grad, k);
    A of_bin[kCount];
    for (int i = 0; i < kCount; ++i) of_bin[i] = static_cast<A>(from[i * grad.channel_stride]);
    for (auto y = regions.rows.begin(bin.row, k); y != regions.rows.end(bin.row, k); ++y) {
      A* row = planes + y->index * width;
      A of_row[kCount];
      for (int i = 0; i < kCount; ++i) of_row[i] = of_bin[i] * y->weight;
      for (auto x = first_x; x != last_x; ++x) {
        for (int i = 0; i < kCount; ++i) row[x->index + i * pixels] += of_row[i] * x->weight;
      }
    }
  }
}

// planes (count, H, W) to as many planes of the output, `stride` apart.
template <typename A, typename T>
void move_planes(const A* planes, int64_t count, int64_t stride, const Maps<T>& output, T* to) {
  const int64_t pixels = output.height * output.width;
  for (int64_t y = 0; y < output.height; ++y, to += output.row_stride) {
    const A* row = planes + y * output.width;
    if (output.pixel_stride == 1) {
      for (int64_t c = 0; c < count; ++c) {
        for (int64_t x = 0; x < output.width; ++x) to[c * stride + x] = static_cast<T>(row[c * pixels + x]);
      }
    } else {
      for (int64_t x = 0; x < output.width; ++x) {
        for (int64_t c = 0; c < count; ++c) {
          to[c * stride + x * output.pixel_stride] = static_cast<T>(row[c * pixels + x]);
        }
      }
    }
  }
}

// output = the gradient of the input, zeros included. Where the planes lie side by side in memory, those are written
// together; else those that take the same pixels are computed together.
template <typename A, typename T>
void ps_roi_backward_cpu(const PsRegions<A>& regions, const Maps<const T>& grad, const Maps<T>& output) {
  constexpr int64_t kSideBySide = 16;
  std::vector<std::vector<int64_t>> rois(output.size);  // of each image
  for (int64_t k = 0; k < grad.size; ++k) rois[regions.images[k]].push_back(k);
  const bool interleaved = output.interleaved();
  const int64_t pixels = output.height * output.width, next_plane = grad.height * grad.width * output.channel_stride;
  const int64_t of_image = interleaved ? (output.channels + kSideBySide - 1) / kSideBySide : num_ps_tasks(grad);
  const int64_t tasks = output.size * of_image;
  const double work = kNanosecondsPerPsBin * 2 * static_cast<double>(grad.size) * static_cast<double>(output.channels);
  const int64_t pieces =
      std::clamp<int64_t>(static_cast<int64_t>(work / grain_for(1)), 1, std::min(num_threads(), tasks));
  const int64_t needed = (interleaved ? kSideBySide : kTogether) * pixels;
  const std::unique_ptr<A[]> scratch(new A[pieces * needed]);
  parallel_for(pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      A* planes = scratch.get() + piece * needed;
      for (int64_t task = tasks * piece / pieces; task < tasks * (piece + 1) / pieces; ++task) {
        const int64_t image = task / of_image, part = task % of_image;
        if (interleaved) {
          const int64_t begin = part * kSideBySide, count = std::min(kSideBySide, output.channels - begin);
          std::fill_n(planes, count * pixels, A(0));
          for (int64_t c = 0; c < count; ++c) {
            add_ps_bin(regions, rois[image], grad, PsBin::of_plane(begin + c, grad), std::integral_constant<int, 1>(),
                       output.width, pixels, planes + c * pixels);
          }
          move_planes(planes, count, output.channel_stride, output, output.at(image, begin));
        } else {
          for_ps_bins(grad, part, part + 1, [&](PsBin bin, auto count) {
            std::fill_n(planes, count * pixels, A(0));
            add_ps_bin(regions, rois[image], grad, bin, count, output.width, pixels, planes);
            move_planes(planes, count, next_plane, output, output.at(image, bin.first_plane(grad)));
          });
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
