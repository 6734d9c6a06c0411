// The largest value is found over a bin's rows first, then over its columns, for a vector of channels at a time
// (roi_tasks.h). Where it lies is not stored: the gradient finds it again in the input, which costs less than the
// memory.
#include "roi_pool.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "roi_tasks.h"

namespace detops {
namespace {
// outputs[j] = the largest of inputs(k)[j], k from 0 to count - 1, for j below n. NaN is passed over.
template <typename V, typename Input>
DETOPS_HD void largest(int64_t count, int64_t n, const Input& input, V* outputs, int64_t output_stride) {
  in_fours(count, [&](int64_t k0, auto number) DETOPS_INLINE {
    for (int64_t j = 0; j < n; ++j) {
      V most = k0 == 0 ? every_channel<V>(std::numeric_limits<channel_t<V>>::lowest()) : outputs[j * output_stride];
      for (int k = 0; k < decltype(number)::value; ++k) most = max(most, input(k0 + k, j));
      outputs[j * output_stride] = most;
    }
  });
}

struct PooledRegions {
  static constexpr bool kReadsInput = true;
  int64_t height, width;                   // bins
  std::vector<RoiPoolBin> y_bins, x_bins;  // of region k, from k * height, k * width
  RoiOrder order;

  const RoiPoolBin* y(int64_t roi) const { return y_bins.data() + roi * height; }
  const RoiPoolBin* x(int64_t roi) const { return x_bins.data() + roi * width; }
  static Band span(const RoiPoolBin* bins, int64_t count) {  // begins and ends ascend
    return bins[0].begin < bins[count - 1].end ? Band{bins[0].begin, bins[count - 1].end} : Band{0, 0};
  }
  Band rows(int64_t roi) const { return span(y(roi), height); }
  Band columns(int64_t roi) const { return span(x(roi), width); }
  static int64_t longest(const std::vector<RoiPoolBin>& bins, int64_t count) {
    int64_t result = 0;
    for (size_t i = 0; i < bins.size(); i += count) {
      const Band band = span(bins.data() + i, count);
      result = std::max(result, band.end - band.begin);
    }
    return result;
  }
  int64_t sums() const { return std::max<int64_t>(height, 3) * longest(x_bins, width); }
  void touch(int64_t roi, TouchedPixels& touched) const {
    const Band band = rows(roi), across = columns(roi);
    if (across.begin >= across.end) return;
    const uint64_t blocks = touched.blocks(across.begin, across.end - 1);
    for (int64_t row = band.begin; row < band.end; ++row) touched.add(row, blocks);
  }

  template <typename V, typename T>
  DETOPS_HD void pool(int64_t roi, const Rows<T>& map, V* sums, V* bins) const {
    const Band across = columns(roi);
    const int64_t columns = across.end - across.begin;
    const RoiPoolBin *rows = y(roi), *parts = x(roi);
    for (int64_t i = 0; i < height; ++i) {
      const auto pixel = [&](int64_t k, int64_t j) DETOPS_INLINE {
        return load_channels<V>(map[rows[i].begin + k] + (across.begin + j) * map.pixel_stride);
      };
      largest(rows[i].end - rows[i].begin, columns, pixel, sums + i * columns, 1);
    }
    for (int64_t j = 0; j < width; ++j) {
      const V* first = sums + parts[j].begin - across.begin;
      const auto sum = [&](int64_t k, int64_t i) DETOPS_INLINE { return first[i * columns + k]; };
      largest(parts[j].end - parts[j].begin, height, sum, bins + j, width);
    }
    for (int64_t i = 0; i < height; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        if (rows[i].begin >= rows[i].end || parts[j].begin >= parts[j].end) bins[i * width + j] = V{};
      }
    }
  }

  // Each bin's gradient goes to the first pixel, row by row, that has its value: found per column first, as is the
  // value, so that every pixel is read once and the bins that share a column add up before they are spread over rows.
  template <typename V>
  DETOPS_HD void add(int64_t roi, Band band, const Rows<V>& input, V* sums, const V* bins, const Rows<V>& slab) const {
    using A = channel_t<V>;
    const V lowest = every_channel<V>(std::numeric_limits<A>::lowest());
    const V none = every_channel<V>(std::numeric_limits<A>::quiet_NaN());  // equal to nothing
    const V far = every_channel<V>(std::numeric_limits<A>::max());
    const Band across = columns(roi);
    const int64_t columns = across.end - across.begin;
    V *const most = sums, *const where = most + columns, *const taken = where + columns;  // of one row of bins
    for (int64_t i = 0; i < height; ++i) {
      const RoiPoolBin rows = y(roi)[i];
      in_fours(rows.end - rows.begin, [&](int64_t k0, auto number) DETOPS_INLINE {
        for (int64_t c = 0; c < columns; ++c) {
          V value = k0 == 0 ? lowest : most[c];
          V row = k0 == 0 ? V{} : where[c];
          for (int k = 0; k < decltype(number)::value; ++k) {
            const V pixel = input[rows.begin + k0 + k][across.begin + c];
            row = pixel > value ? every_channel<V>(static_cast<A>(k0 + k)) : row;
            value = max(value, pixel);
          }
          most[c] = value;
          where[c] = row;
        }
      });
      if (rows.begin >= rows.end) continue;
      std::fill(taken, taken + columns, V{});
      for (int64_t j = 0; j < width; ++j) {
        const int64_t begin = x(roi)[j].begin - across.begin, end = x(roi)[j].end - across.begin;
        const V grad = bins[i * width + j];
        V value = lowest, row = far;
        for (int64_t c = begin; c < end; ++c) value = max(value, most[c]);
        value = value > lowest ? value : none;
        for (int64_t c = begin; c < end; ++c) row = min(row, most[c] == value ? where[c] : far);
        row = row < far ? row : none;
        for (int64_t c = begin; c < end; ++c) {
          const V candidate = most[c] == value ? where[c] : far;
          taken[c] += candidate == row ? grad : V{};
          row = candidate == row ? none : row;  // the first column alone
        }
      }
      for (int64_t row = std::max(rows.begin, band.begin); row < std::min(rows.end, band.end); ++row) {
        const V number = every_channel<V>(static_cast<A>(row - rows.begin));
        V* to = slab[row] + across.begin;
        for (int64_t c = 0; c < columns; ++c) to[c] += where[c] == number ? taken[c] : V{};
      }
    }
  }
};

template <typename G>
PooledRegions make_regions(const char* op, const Tensor& rois_tensor, double spatial_scale, int64_t pooled_height,
                           int64_t pooled_width, int64_t images, int64_t height, int64_t width) {
  const std::vector<Roi<G>> rois = read_rois<G>(op, rois_tensor, images);
  const auto num_rois = static_cast<int64_t>(rois.size());
  const auto scale = static_cast<G>(spatial_scale);
  std::vector<RoiPoolBin> y_bins, x_bins;
  y_bins.reserve(num_rois * pooled_height);
  x_bins.reserve(num_rois * pooled_width);
  for (const Roi<G>& roi : rois) {
    const auto y = roi_pool_axis(roi.box.y1, roi.box.y2, scale, pooled_height);
    const auto x = roi_pool_axis(roi.box.x1, roi.box.x2, scale, pooled_width);
    for (int64_t i = 0; i < pooled_height; ++i) y_bins.push_back(roi_pool_bin(y, i, height));
    for (int64_t j = 0; j < pooled_width; ++j) x_bins.push_back(roi_pool_bin(x, j, width));
  }
  RoiOrder order(
      num_rois, [&](int64_t k) { return rois[k].image; },
      [&](int64_t k) { return PooledRegions::span(y_bins.data() + k * pooled_height, pooled_height).begin; });
  return {pooled_height, pooled_width, std::move(y_bins), std::move(x_bins), std::move(order)};
}

PooledRegions regions_of(const char* op, const Tensor& input, const Tensor& rois, double spatial_scale,
                         int64_t pooled_height, int64_t pooled_width) {
  const auto make = is_wide(input, rois) ? make_regions<double> : make_regions<float>;
  return make(op, rois, spatial_scale, pooled_height, pooled_width, input.size(0), input.size(2), input.size(3));
}

// For CUDA; the memory still missing.
RoiPoolTables tables_of(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width) {
  RoiPoolTables tables{raw_rois(rois), rois.size(0), input.size(0), nullptr, {}};
  tables.axes[0].num_bins = pooled_height;
  tables.axes[0].size = input.size(2);
  tables.axes[1].num_bins = pooled_width;
  tables.axes[1].size = input.size(3);
  return tables;
}

// Where the largest values of as many channels lie as fit into a GPU's second-level cache.
Tensor new_places(const Tensor& output, int64_t num_rois, int64_t pooled_height, int64_t pooled_width) {
#if defined(DETOPS_EMULATE_CUDA)
  constexpr int64_t kMostPlaces = 512;
#else
  constexpr int64_t kMostPlaces = int64_t{8} << 20;
#endif
  const int64_t of_channel = num_rois * pooled_height * pooled_width;
  const int64_t most = kMostPlaces / std::max<int64_t>(of_channel, 1) / 8 * 8;
  const int64_t channels = std::min(output.size(1), std::max<int64_t>(most, 8));
  const std::array<int64_t, 4> sizes{num_rois, channels, pooled_height, pooled_width};
  return new_maps(output, sizes, is_channels_last(output), ScalarType::Int);
}
}  // namespace

Tensor roi_pool(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                int64_t pooled_width) {
  const char* op = "roi_pool";
  check_pooling(op, input, rois, pooled_height, pooled_width);
  Tensor output = new_regions(input, rois.size(0), pooled_height, pooled_width);
  dispatch_floating(op, input, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_device(
        input,
        [&] {
          const PooledRegions regions = regions_of(op, input, rois, spatial_scale, pooled_height, pooled_width);
          if (output.numel() == 0) return;
          pool_regions<acc_t<T>>(regions, maps_of<const T>(input), maps_of<T>(output));
        },
        [&](void* stream) {
          check_tables(op, rois, input.size(2), input.size(3));
          if (output.numel() == 0) return;
          RoiPoolTables tables = tables_of(input, rois, pooled_height, pooled_width);
          const Tensor memory = place_tables(tables, input, false);
          roi_pool_cuda<T>(spatial_scale, is_wide(input, rois), tables, maps_of<const T>(input), maps_of<T>(output),
                           stream);
        });
  });
  return output;
}
DETOPS_OP(roi_pool,
          "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) -> Tensor")

Tensor roi_pool_backward(const Tensor& grad, const Tensor& input, const Tensor& rois, double spatial_scale,
                         int64_t pooled_height, int64_t pooled_width) {
  const char* op = "roi_pool_backward";
  check_pooling_backward(op, grad, input, rois, pooled_height, pooled_width);
  Tensor output =
      new_maps(input, {input.size(0), input.size(1), input.size(2), input.size(3)}, is_channels_last(input));
  dispatch_floating(op, input, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_device(
        input,
        [&] {
          const PooledRegions regions = regions_of(op, input, rois, spatial_scale, pooled_height, pooled_width);
          if (input.numel() == 0) return;
          backpropagate_regions<acc_t<T>>(regions, maps_of<const T>(grad), maps_of<const T>(input), maps_of<T>(output));
        },
        [&](void* stream) {
          check_tables(op, rois, input.size(2), input.size(3));
          constexpr int64_t kMostPixels = std::numeric_limits<uint32_t>::max();
          if (input.size(2) > 0 && input.size(3) > kMostPixels / input.size(2)) {
            fail(op, "expected input of less than 2^32 pixels, got ", input.size(2), " x ", input.size(3));
          }
          if (input.numel() == 0) return;
          RoiPoolTables tables = tables_of(input, rois, pooled_height, pooled_width);
          const Tensor memory = place_tables(tables, input, true);
          const Tensor places = new_places(output, rois.size(0), pooled_height, pooled_width);
          roi_pool_backward_cuda<T>(spatial_scale, is_wide(input, rois), tables, maps_of<const T>(grad),
                                    maps_of<const T>(input), maps_of<uint32_t>(places), maps_of<T>(output), stream);
        });
  });
  return output;
}
DETOPS_OP(roi_pool_backward,
          "(Tensor grad, Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) "
          "-> Tensor")
}  // namespace detops
