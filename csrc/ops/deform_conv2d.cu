#include "../core/launch.h"
#include "deform_conv2d.h"

// A thread finds where a kernel point samples once, for several channels. Neighbouring threads have neighbouring output
// pixels: they write columns side by side, and where offsets are smooth read pixels side by side.
namespace detops {
namespace {
constexpr int kThreads = 256;
constexpr int kChannels = 8;  // of a thread that samples
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
    const T* low = plane + corner;
    const T* high = low + row;
    return {low_low ? static_cast<A>(low[0]) : A(0), low_high ? static_cast<A>(low[column]) : A(0),
            high_low ? static_cast<A>(high[0]) : A(0), high_high ? static_cast<A>(high[column]) : A(0)};
  }
  DETOPS_D void add(A* plane, const Corners<A>& values) const {
    A* low = plane + corner;
    A* high = low + row;
    if (low_low) atomic_add(low, values.low_low);
    if (low_high) atomic_add(low + column, values.low_high);
    if (high_low) atomic_add(high, values.high_low);
    if (high_high) atomic_add(high + column, values.high_high);
  }
  // The same place in a tensor of other strides.
  DETOPS_D PlaneSample of(int64_t low_y, int64_t low_x, const int64_t (&strides)[4]) const {
    PlaneSample other = *this;
    other.corner = low_y * strides[2] + low_x * strides[3];
    other.row = strides[2];
    other.column = strides[3];
    return other;
  }
};

// A kernel point of an output pixel, and an offset group.
struct Point {
  int64_t image, group, point, pixel;  // of the tile
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
    plane = plane.of(at.y.low, at.x.low, from.strides);
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
__global__ void __launch_bounds__(kWarp* kSlices) deform_backward_kernel(DeformBackwardArgs<T> a) {
  using A = acc_t<T>;
  DETOPS_SHARED(partial, Corners<A>[kSlices][kWarp]);
  const DeformInputs<T>& from = a.from;
  const DeformShape& shape = from.shape;
  const int64_t points = shape.points(), pixels = from.tile.pixels, channels = shape.offset_channels();
  const int lane = lane_id(), slice = warp_id();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  const bool exists = i < from.tile.images * shape.offset_groups * points * pixels;
  const int64_t group = i / pixels / points, pixel = i % pixels;
  const Point p{group / shape.offset_groups, group % shape.offset_groups, i / pixels % points, pixel};
  if (exists) {
    const LoadedSample<A, T> sample(from, p);
    const int64_t n = from.tile.image + p.image, first = p.group * channels;
    const T* plane = from.input + n * from.strides[0] + first * from.strides[1];
    const T* column = a.columns + ((p.image * shape.channels + first) * points + p.point) * pixels + pixel;
    const auto weights = bilinear_weights(sample.plane.y, sample.plane.x, sample.plane.mask);
    const auto target = sample.plane.of(sample.at.y.low, sample.at.x.low, a.strides);
    Corners<A> sums{};
    for (int64_t c = slice; c < channels; c += kSlices) {
      const A grad = static_cast<A>(column[c * points * pixels]);
      if (a.positions_wanted()) add(sums, grad, sample.plane.load(plane + c * from.strides[1]));
      if (a.input == nullptr) continue;
      target.add(a.input + n * a.strides[0] + (first + c) * a.strides[1],
                 {weights.low_low * grad, weights.low_high * grad, weights.high_low * grad, weights.high_high * grad});
    }
    partial[slice][lane] = sums;
  }
  __syncthreads();
  if (!exists || slice > 0 || !a.positions_wanted()) return;
  Corners<A> sums{};
  for (int s = 0; s < kSlices; ++s) add(sums, A(1), partial[s][lane]);
  const LoadedSample<A, T> sample(from, p);
  const DeformGradient<A> gradient = deform_gradient(sample.plane.y, sample.plane.x, sample.plane.mask, sums);
  const int64_t channel = ((from.tile.image + p.image) * shape.offset_groups + p.group) * points + p.point;
  const int64_t at = from.tile.pixel + pixel;
  a.offset.store(2 * channel * shape.pixels() + at, gradient.y);
  a.offset.store((2 * channel + 1) * shape.pixels() + at, gradient.x);
  a.mask.store(channel * shape.pixels() + at, gradient.mask);
}
}  // namespace

template <typename T>
void deform_columns_cuda(const DeformColumnsArgs<T>& args, void* stream) {
  const DeformShape& shape = args.from.shape;
  const int64_t chunks = (shape.offset_channels() + kChannels - 1) / kChannels;
  const int64_t samples = args.from.tile.images * shape.offset_groups * shape.points() * args.from.tile.pixels;
  launch("deform_conv2d", deform_columns_kernel<T>, grid_for(samples * chunks, kThreads), stream, args);
}
template <typename T>
void deform_backward_cuda(const DeformBackwardArgs<T>& args, void* stream) {
  const DeformShape& shape = args.from.shape;
  const int64_t samples = args.from.tile.images * shape.offset_groups * shape.points() * args.from.tile.pixels;
  launch("deform_conv2d_backward", deform_backward_kernel<T>, {(samples + kWarp - 1) / kWarp, dim3(kWarp * kSlices)},
         stream, args);
}

#define INSTANTIATE(T)                                                   \
  template void deform_columns_cuda(const DeformColumnsArgs<T>&, void*); \
  template void deform_backward_cuda(const DeformBackwardArgs<T>&, void*)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(Half);
INSTANTIATE(BFloat16);
}  // namespace detops
