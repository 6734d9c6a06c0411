#include "roi_align_rotated.h"
#include "roi_kernels.h"

// One kernel finds out where each region lies. Then a thread takes a bin in some channels and finds its samples anew,
// or, for the gradient, a pixel: it goes over the samples that the pixel can have a part in, region after region, so
// that each sum has one order.
namespace detops {
namespace {
template <typename G>
DETOPS_D RoiSpan span_of(G middle, G reach, int64_t size) {
  const double low = static_cast<double>(middle) - reach - 2, high = static_cast<double>(middle) + reach + 3;
  if (!(low < static_cast<double>(size) && high > 0)) return {0, 0, 0};  // NaN too
  return {static_cast<int32_t>(max(low, 0.0)), static_cast<int32_t>(min(high, static_cast<double>(size))), 0};
}

template <typename G>
__global__ void __launch_bounds__(kThreads) place_regions_kernel(RotatedRoiArgs a) {
  DETOPS_GRID_STRIDE(k, a.tables.num_rois) {
    const RotatedRoiOfImage<G> roi = load_rotated_roi<G>(a.rois, k, a.images, a.grid);
    const Point<G> reach =
        turned_reach(roi.region, std::fabs(roi.region.columns.start), std::fabs(roi.region.rows.start));
    a.tables.images[k] = roi.image;
    a.tables.axes[0].spans[k] = span_of(roi.region.y, reach.y, a.height);
    a.tables.axes[1].spans[k] = span_of(roi.region.x, reach.x, a.width);
    static_cast<RotatedRoi<G>*>(a.tables.regions)[k] = roi.region;
  }
}

// ---- Forward -------------------------------------------------------------------------------------------------------

template <typename T>
struct ForwardArgs {
  Maps<const T> input;
  Maps<T> output;
  RotatedRoiTables tables;
};

template <Layout kLayout, typename T, typename G>
__global__ void __launch_bounds__(kThreads, kResident128) roi_align_rotated_kernel(ForwardArgs<T> a) {
  using A = acc_t<T>;
  constexpr int kCount = kVector<kLayout, T, 4>;
  const int64_t bins = a.output.height * a.output.width, vectors = (a.output.channels + kCount - 1) / kCount;
  DETOPS_GRID_STRIDE(i, a.output.size * vectors * bins) {
    const int64_t roi = i / (vectors * bins), rest = i % (vectors * bins);
    const int64_t bin = kLayout == Layout::kPlanes ? rest % bins : rest / vectors;
    const int64_t channel = (kLayout == Layout::kPlanes ? rest / bins : rest % vectors) * kCount;
    const int64_t row_bin = bin / a.output.width, column_bin = bin % a.output.width, image = a.tables.images[roi];
    const int channels = static_cast<int>(min<int64_t>(kCount, a.output.channels - channel));
    const RotatedRoi<G> region = static_cast<const RotatedRoi<G>*>(a.tables.regions)[roi];
    Channels<A, kCount> sum{};
    if (image >= 0) {
      const T* plane = a.input.at(image, channel);
      for_each_sample(region, row_bin, column_bin, a.input.height, a.input.width, [&](G x, G y) {
        const BilinearTaps<G> rows = bilinear_taps(y, a.input.height), columns = bilinear_taps(x, a.input.width);
        const auto add = [&](int64_t row, int64_t column, G weight) {
          Channels<A, kCount> values;
          read_channels<kLayout>(plane + row * a.input.row_stride + column * a.input.pixel_stride,
                                 a.input.channel_stride, channels, values);
          add_channels(static_cast<A>(weight), values, sum);
        };
        add(rows.low, columns.low, rows.low_weight * columns.low_weight);
        add(rows.low, columns.high, rows.low_weight * columns.high_weight);
        add(rows.high, columns.low, rows.high_weight * columns.low_weight);
        add(rows.high, columns.high, rows.high_weight * columns.high_weight);
      });
      const int64_t samples = max<int64_t>(region.rows.samples * region.columns.samples, 1);
      for (A& value : sum.values) value /= static_cast<A>(samples);
    }
    write_channels<kLayout>(
        a.output.at(roi, channel) + row_bin * a.output.row_stride + column_bin * a.output.pixel_stride,
        a.output.channel_stride, channels, sum);
  }
}

// ---- Backward ------------------------------------------------------------------------------------------------------

// What pixel `i` of an axis has of a sample at `position`.
template <typename G>
DETOPS_D G share_of_pixel(G position, int64_t i, int64_t size) {
  if (!is_on_map(position, size)) return G(0);
  const BilinearTaps<G> taps = bilinear_taps(position, size);
  return (taps.low == i ? taps.low_weight : G(0)) + (taps.high == i ? taps.high_weight : G(0));
}

// Of gathering.
template <Layout kLayout_, typename T, typename G>
struct RotatedGradient {
  static constexpr Layout kLayout = kLayout_;
  static constexpr int kCount = kVector<kLayout, T, 8>;
  using A = acc_t<T>;
  using Output = T;
  using Sums = Channels<A, kCount>;
  static constexpr int kResident = kResident128;
  RotatedRoiTables tables;
  Maps<const T> grad;
  int64_t height, width;

  // The samples of all bins that are within reach of a place on the region's axis, numbered through.
  DETOPS_D static SampleRange samples(const RoiAlignAxis<G>& axis, int64_t bins, G middle, G reach) {
    return samples_near(sample_position(axis, 0, 0), axis.bin / static_cast<G>(axis.samples), bins * axis.samples,
                        middle, reach);
  }

  DETOPS_D void add(int64_t roi, int64_t channel, int channels, int64_t y, int64_t x, Sums& sums) const {
    const RotatedRoi<G> region = static_cast<const RotatedRoi<G>*>(tables.regions)[roi];
    const Point<G> middle = to_region(region, static_cast<G>(x), static_cast<G>(y));
    const Point<G> reach = turned_reach(region, G(1), G(1));
    const SampleRange rows = samples(region.rows, grad.height, middle.y, reach.y);
    const SampleRange columns = samples(region.columns, grad.width, middle.x, reach.x);
    const A share = A(1) / static_cast<A>(max<int64_t>(region.rows.samples * region.columns.samples, 1));
    const T* from = grad.at(roi, channel);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const int64_t row_bin = i / region.rows.samples;
      const G along_rows = sample_position(region.rows, row_bin, i % region.rows.samples);
      for (int64_t j = columns.begin; j < columns.end; ++j) {
        const int64_t column_bin = j / region.columns.samples;
        const Point<G> at =
            to_map(region, sample_position(region.columns, column_bin, j % region.columns.samples), along_rows);
        const G weight = share_of_pixel(at.y, y, height) * share_of_pixel(at.x, x, width);
        if (weight == G(0)) continue;
        Sums values;
        read_channels<kLayout>(from + row_bin * grad.row_stride + column_bin * grad.pixel_stride, grad.channel_stride,
                               channels, values);
        add_channels(static_cast<A>(weight) * share, values, sums);
      }
    }
  }
};

template <typename T, typename Launch>
void with_regions(const char* op, const RotatedRoiArgs& args, void* stream, const Launch& fn) {
  const Grid grid = grid_for(args.tables.num_rois, kThreads);
  if (std::is_same_v<acc_t<T>, double> || args.wide) {
    launch(op, place_regions_kernel<double>, grid, stream, args);
    fn(double());
  } else {
    launch(op, place_regions_kernel<float>, grid, stream, args);
    fn(float());
  }
}
}  // namespace

template <typename T>
void roi_align_rotated_cuda(const RotatedRoiArgs& args, const Maps<const T>& input, const Maps<T>& output,
                            void* stream) {
  const char* op = "roi_align_rotated";
  with_regions<T>(op, args, stream, [&](auto geometry) {
    using G = decltype(geometry);
    dispatch_layout(
        [&](auto layout) {
          const int64_t vectors = (output.channels + kVector<layout(), T, 4> - 1) / kVector<layout(), T, 4>;
          launch(op, roi_align_rotated_kernel<layout(), T, G>,
                 grid_for(output.size * vectors * output.height * output.width, kThreads), stream,
                 {input, output, args.tables});
        },
        input, output);
  });
}

template <typename T>
void roi_align_rotated_backward_cuda(const RotatedRoiArgs& args, const Maps<const T>& grad, const Maps<T>& output,
                                     void* stream) {
  const char* op = "roi_align_rotated_backward";
  with_regions<T>(op, args, stream, [&](auto geometry) {
    using G = decltype(geometry);
    dispatch_layout(
        [&](auto layout) {
          launch_gather(op, RotatedGradient<layout(), T, G>{args.tables, grad, args.height, args.width}, output,
                        stream);
        },
        grad, output);
  });
}

#define INSTANTIATE(T)                                                                                         \
  template void roi_align_rotated_cuda<T>(const RotatedRoiArgs&, const Maps<const T>&, const Maps<T>&, void*); \
  template void roi_align_rotated_backward_cuda<T>(const RotatedRoiArgs&, const Maps<const T>&, const Maps<T>&, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
}  // namespace detops
