#include "../core/launch.h"
#include "deform_conv2d.h"

// A thread finds where a kernel point samples once, for several channels. Neighbouring threads have neighbouring output
// pixels: they write columns side by side, and where offsets are smooth read pixels side by side. The gradient of the
// input is gathered, without atomics: samples are sorted by the cell between pixels that they fall into, once for all
// channels, and each pixel adds up those of its four cells, in their order.
namespace detops {
namespace {
constexpr int kThreads = 256;
constexpr int kChannels = 8;  // of a thread
constexpr int kSlices = 8;    // warps that share the channels of 32 samples' gradients

// A sample of a plane: four pixels, of which those beyond the map are zero.
template <typename A>
struct PlaneSample {
  A y, x, mask;
  int64_t corner;  // upper left pixel, maybe outside
  int64_t row, column;
  bool low_low, low_high, high_low, high_high;  // on the map

  template <typename T>
  DETOPS_D Corners<A> load(const T* plane) const {
    return {low_low ? static_cast<A>(plane[corner]) : A(0), low_high ? static_cast<A>(plane[corner + column]) : A(0),
            high_low ? static_cast<A>(plane[corner + row]) : A(0),
            high_high ? static_cast<A>(plane[corner + row + column]) : A(0)};
  }
};

// A kernel point of an output pixel, and an offset group.
struct Point {
  int64_t image, group, point, pixel;  // of the tile

  // In the order of samples: (images, offset groups, points, pixels).
  static DETOPS_D Point at(const DeformShape& shape, const DeformTile& tile, int64_t i) {
    const int64_t rest = i / tile.pixels, groups = rest / shape.points();
    return {groups / shape.offset_groups, groups % shape.offset_groups, rest % shape.points(), i % tile.pixels};
  }
};

template <typename A, typename T>
struct LoadedSample {
  DeformSample<A> at;
  PlaneSample<A> plane;

  DETOPS_D LoadedSample(const DeformInputs<T>& from, const Point& p) {
    const DeformShape& shape = from.shape;
    const int64_t n = from.tile.image + p.image, pixel = from.tile.pixel + p.pixel;
    const int64_t y = pixel / shape.x.output_size, x = pixel % shape.x.output_size;
    const int64_t channel = p.group * shape.points() + p.point;
    at = deform_sample(shape, y, x, p.point, from.offset.template load<A>(n, 2 * channel, y, x),
                       from.offset.template load<A>(n, 2 * channel + 1, y, x));
    const bool counts = at.on_map();
    plane.y = counts ? at.y.fraction : A(0);
    plane.x = counts ? at.x.fraction : A(0);
    plane.mask = !counts ? A(0) : from.mask.data != nullptr ? from.mask.template load<A>(n, channel, y, x) : A(1);
    const bool upper = counts && at.y.low >= 0, lower = counts && at.y.low + 1 < shape.y.size;
    const bool left = at.x.low >= 0, right = at.x.low + 1 < shape.x.size;
    plane.low_low = upper && left;
    plane.low_high = upper && right;
    plane.high_low = lower && left;
    plane.high_high = lower && right;
    plane.corner = at.y.low * from.strides[2] + at.x.low * from.strides[3];
    plane.row = from.strides[2];
    plane.column = from.strides[3];
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads) deform_columns_kernel(DeformColumnsArgs<T> a) {
  using A = acc_t<T>;
  const DeformInputs<T>& from = a.from;
  const DeformShape& shape = from.shape;
  const int64_t points = shape.points(), pixels = from.tile.pixels, channels = shape.offset_channels();
  const int64_t chunks = (channels + kChannels - 1) / kChannels;
  DETOPS_GRID_STRIDE(i, from.tile.images * shape.offset_groups * chunks * points * pixels) {
    int64_t rest = i / pixels;
    const int64_t point = rest % points;
    rest /= points;
    const int64_t chunk = rest % chunks;
    rest /= chunks;
    const Point p{rest / shape.offset_groups, rest % shape.offset_groups, point, i % pixels};
    const LoadedSample<A, T> sample(from, p);
    const auto w = bilinear_weights(sample.plane.y, sample.plane.x, sample.plane.mask);
    const int64_t first = p.group * channels + chunk * kChannels;
    const int count = static_cast<int>(min<int64_t>(kChannels, channels - chunk * kChannels));
    const T* plane = from.input + (from.tile.image + p.image) * from.strides[0] + first * from.strides[1];
    T* column = a.columns + ((p.image * shape.channels + first) * points + point) * pixels + p.pixel;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      if (c >= count) continue;
      const Corners<A> v = sample.plane.load(plane + c * from.strides[1]);
      const A value =
          (w.low_low * v.low_low + w.low_high * v.low_high) + (w.high_low * v.high_low + w.high_high * v.high_high);
      column[c * points * pixels] = static_cast<T>(value);
    }
  }
}

template <typename A>
DETOPS_D void add(Corners<A>& to, A factor, const Corners<A>& v) {
  to.low_low += factor * v.low_low;
  to.low_high += factor * v.low_high;
  to.high_low += factor * v.high_low;
  to.high_high += factor * v.high_high;
}

// A block has 32 samples, a warp every eighth of their channels.
template <typename T>
__global__ void __launch_bounds__(kWarp* kSlices) deform_positions_kernel(DeformPositionsArgs<T> a) {
  using A = acc_t<T>;
  DETOPS_SHARED(partial, Corners<A>[kSlices][kWarp]);
  const DeformInputs<T>& from = a.from;
  const DeformShape& shape = from.shape;
  const int64_t points = shape.points(), pixels = from.tile.pixels, channels = shape.offset_channels();
  const int lane = lane_id(), slice = warp_id();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  const bool exists = i < from.samples();
  const Point p = Point::at(shape, from.tile, exists ? i : 0);
  const LoadedSample<A, T> sample(from, p);
  if (exists) {
    const int64_t first = p.group * channels;
    const T* plane = from.input + (from.tile.image + p.image) * from.strides[0] + first * from.strides[1];
    const T* column = a.columns + ((p.image * shape.channels + first) * points + p.point) * pixels + p.pixel;
    Corners<A> sums{};
    for (int64_t c = slice; c < channels; c += kSlices) {
      add(sums, static_cast<A>(column[c * points * pixels]), sample.plane.load(plane + c * from.strides[1]));
    }
    partial[slice][lane] = sums;
  }
  __syncthreads();
  if (!exists || slice > 0) return;
  Corners<A> sums{};
  for (int other = 0; other < kSlices; ++other) add(sums, A(1), partial[other][lane]);
  const DeformGradient<A> gradient = deform_gradient(sample.plane.y, sample.plane.x, sample.plane.mask, sums);
  const int64_t channel = ((from.tile.image + p.image) * shape.offset_groups + p.group) * points + p.point;
  const int64_t at = from.tile.pixel + p.pixel;
  a.offset.store(2 * channel * shape.pixels() + at, gradient.y);
  a.offset.store((2 * channel + 1) * shape.pixels() + at, gradient.x);
  a.mask.store(channel * shape.pixels() + at, gradient.mask);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) deform_cells_kernel(DeformCellsArgs<T> a) {
  using A = acc_t<T>;
  const DeformShape& shape = a.from.shape;
  DETOPS_GRID_STRIDE(i, a.from.samples()) {
    const Point p = Point::at(shape, a.from.tile, i);
    const LoadedSample<A, T> sample(a.from, p);
    const int64_t plane = p.image * shape.offset_groups + p.group;
    a.cells[i] = sample.at.on_map() ? shape.cell(plane, sample.at.y.low + 1, sample.at.x.low + 1) : a.from.cells();
    a.weights[i] = bilinear_weights(sample.plane.y, sample.plane.x, sample.plane.mask);
  }
}

// A binary search for each cell.
__global__ void __launch_bounds__(kThreads) deform_starts_kernel(DeformStartsArgs a) {
  DETOPS_GRID_STRIDE(cell, a.num_cells + 1) {
    int64_t low = 0, high = a.num_samples;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (a.sorted[middle] < cell) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    a.starts[cell] = low;
  }
}

// A thread has a pixel of the input in several channels. The samples that it is a corner of lie in four cells, two and
// two of them side by side.
template <typename T>
__global__ void __launch_bounds__(kThreads) deform_gather_kernel(DeformGatherArgs<T> a) {
  using A = acc_t<T>;
  const DeformShape& shape = a.shape;
  const int64_t height = shape.y.size, width = shape.x.size, channels = shape.offset_channels();
  const int64_t of_group = shape.points() * a.tile.pixels, chunks = (channels + kChannels - 1) / kChannels;
  DETOPS_GRID_STRIDE(i, a.tile.images * shape.offset_groups * chunks * height * width) {
    const int64_t x = i % width, y = i / width % height, rest = i / width / height;
    const int64_t chunk = rest % chunks, plane = rest / chunks;
    const int64_t image = plane / shape.offset_groups;
    const int64_t first = plane % shape.offset_groups * channels + chunk * kChannels;
    const int count = static_cast<int>(min<int64_t>(kChannels, channels - chunk * kChannels));
    const T* columns = a.columns + (image * shape.channels + first) * of_group;
    A sums[kChannels] = {};
    for (int row = 0; row < 2; ++row) {  // samples above the pixel, then below
      const int64_t cell = shape.cell(plane, y + row, x);
      const int64_t right = a.starts[cell + 1], end = a.starts[cell + 2];
      for (int64_t j = a.starts[cell]; j < end; ++j) {
        const int64_t sample = a.order[j];
        const Corners<A> w = a.weights[sample];
        const A low = row == 0 ? w.high_low : w.low_low, high = row == 0 ? w.high_high : w.low_high;
        const A weight = j < right ? high : low;
        const T* column = columns + (sample - plane * of_group);
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          if (c < count) sums[c] += weight * static_cast<A>(column[c * of_group]);
        }
      }
    }
    A* to =
        a.input + (a.tile.image + image) * a.strides[0] + first * a.strides[1] + y * a.strides[2] + x * a.strides[3];
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      if (c < count) to[c * a.strides[1]] += sums[c];
    }
  }
}
}  // namespace

template <typename T>
void deform_columns_cuda(const DeformColumnsArgs<T>& args, void* stream) {
  const DeformShape& shape = args.from.shape;
  const int64_t chunks = (shape.offset_channels() + kChannels - 1) / kChannels;
  launch("deform_conv2d", deform_columns_kernel<T>, grid_for(args.from.samples() * chunks, kThreads), stream, args);
}
template <typename T>
void deform_positions_cuda(const DeformPositionsArgs<T>& args, void* stream) {
  const Grid grid{(args.from.samples() + kWarp - 1) / kWarp, dim3(kWarp * kSlices)};
  launch("deform_conv2d_backward", deform_positions_kernel<T>, grid, stream, args);
}
template <typename T>
void deform_cells_cuda(const DeformCellsArgs<T>& args, void* stream) {
  launch("deform_conv2d_backward", deform_cells_kernel<T>, grid_for(args.from.samples(), kThreads), stream, args);
}
void deform_starts_cuda(const DeformStartsArgs& args, void* stream) {
  launch("deform_conv2d_backward", deform_starts_kernel, grid_for(args.num_cells + 1, kThreads), stream, args);
}
template <typename T>
void deform_gather_cuda(const DeformGatherArgs<T>& args, void* stream) {
  const DeformShape& shape = args.shape;
  const int64_t chunks = (shape.offset_channels() + kChannels - 1) / kChannels;
  const int64_t pixels = args.tile.images * shape.offset_groups * shape.y.size * shape.x.size;
  launch("deform_conv2d_backward", deform_gather_kernel<T>, grid_for(pixels * chunks, kThreads), stream, args);
}

#define INSTANTIATE(T)                                                       \
  template void deform_columns_cuda(const DeformColumnsArgs<T>&, void*);     \
  template void deform_positions_cuda(const DeformPositionsArgs<T>&, void*); \
  template void deform_cells_cuda(const DeformCellsArgs<T>&, void*);         \
  template void deform_gather_cuda(const DeformGatherArgs<T>&, void*)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(Half);
INSTANTIATE(BFloat16);
}  // namespace detops
