// Feature maps and pooled regions for CPU kernels that take a vector's worth of channels at a time: a pixel, or a bin,
// is one vector, whichever way the tensor keeps it.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "../core/tensor.h"
#include "../core/transpose.h"
#include "feature_maps.h"

namespace detops {
template <typename V>
constexpr bool is_vector = !std::is_arithmetic_v<V>;

template <typename V>
struct ChannelOf {
  using type = element_t<V>;
};
template <>
struct ChannelOf<float> {
  using type = float;
};
template <>
struct ChannelOf<double> {
  using type = double;
};
// A vector's elements, and how many; of a number, itself and 1.
template <typename V>
using channel_t = typename ChannelOf<V>::type;
template <typename V>
constexpr int64_t kChannels = sizeof(V) / sizeof(channel_t<V>);

// load, store and broadcast for a vector of channels or, where V is a number, for one channel.
template <typename V, typename T>
DETOPS_HD V load_channels(const T* from) {
  if constexpr (is_vector<V>) {
    return load<V>(from);
  } else {
    return static_cast<V>(*from);
  }
}
template <typename V, typename T>
DETOPS_HD void store_channels(T* to, V v) {
  if constexpr (is_vector<V>) {
    store(to, v);
  } else {
    *to = static_cast<T>(v);
  }
}
template <typename V, typename A>
DETOPS_HD V every_channel(A x) {
  if constexpr (is_vector<V>) {
    return broadcast<V>(x);
  } else {
    return x;
  }
}

template <typename T>
Maps<T> maps_of(const Tensor& t) {
  return {const_cast<T*>(data<T>(t)),
          t.size(0),
          t.size(1),
          t.size(2),
          t.size(3),
          t.stride(0),
          t.stride(1),
          t.stride(2),
          t.stride(3)};
}
template <typename T>
Pyramid<T> maps_of(const std::vector<Tensor>& levels) {
  Pyramid<T> pyramid;
  for (const Tensor& level : levels) pyramid.add(maps_of<T>(level));
  return pyramid;
}

inline bool is_empty(const Tensor& maps) { return maps.numel() == 0; }
inline bool is_empty(const std::vector<Tensor>& levels) {
  return std::all_of(levels.begin(), levels.end(), [](const Tensor& level) { return is_empty(level); });
}

inline bool is_channels_last(const Tensor& t) { return t.stride(1) == 1 && t.stride(3) != 1; }

// Uninitialised (N, C, H, W), contiguous or channels_last.
inline Tensor new_maps(const Tensor& like, const std::array<int64_t, 4>& sizes, bool channels_last, ScalarType dtype) {
  if (!channels_last) return new_tensor<4>(like, sizes, dtype);
  const auto [n, c, h, w] = sizes;
  const std::array<int64_t, 4> strides{h * w * c, 1, w * c, c};
  return new_tensor<4>(like, sizes, dtype, strides.data());
}
inline Tensor new_maps(const Tensor& like, const std::array<int64_t, 4>& sizes, bool channels_last) {
  return new_maps(like, sizes, channels_last, like.scalar_type());
}
// What K regions of `input` pool to, in its layout.
inline Tensor new_regions(const Tensor& input, int64_t num_rois, int64_t pooled_height, int64_t pooled_width) {
  return new_maps(input, {num_rois, input.size(1), pooled_height, pooled_width}, is_channels_last(input));
}

// Block by block of lanes x lanes, calls square(i) for items i, i + 1, ... and single(i) for each that is left where
// there are fewer items than lanes; the last block overlaps the one before it.
template <int64_t kLanes, typename Square, typename Single>
DETOPS_HD void for_each_square(int64_t begin, int64_t end, int64_t least, const Square& square, const Single& single) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) square(i);
  if (i == end) return;
  if (end - kLanes >= least) return square(end - kLanes);
  for (; i < end; ++i) single(i);
}

// Pixels [begin, end) of a row of planes into a row of a slab. Lanes beyond the last channel repeat it. What lies
// `ahead` is read next: these are more streams than a processor follows by itself.
template <typename V, typename T>
DETOPS_HD void pack_row(const Maps<const T>& map, const T* row, int64_t channels, int64_t begin, int64_t end, V* slab,
                        int64_t ahead) {
  constexpr int64_t kLanes = kChannels<V>;
  if constexpr (!is_vector<V>) {
    for (int64_t x = begin; x < end; ++x) slab[x] = load_channels<V>(row + x * map.pixel_stride);
  } else {
    if (map.channel_stride == 1 && channels == kLanes) {
      for (int64_t x = begin; x < end; ++x) slab[x] = load<V>(row + x * map.pixel_stride);
      return;
    }
    int64_t plane[kLanes];
    for (int64_t c = 0; c < kLanes; ++c) plane[c] = std::min(c, channels - 1) * map.channel_stride;
    const auto single = [&](int64_t x) DETOPS_INLINE {
      element_t<V> pixel[kLanes];
      for (int64_t c = 0; c < kLanes; ++c) {
        pixel[c] = static_cast<element_t<V>>(row[plane[c] + x * map.pixel_stride]);
      }
      slab[x] = load<V>(pixel);
    };
    if (map.pixel_stride != 1) {
      for (int64_t x = begin; x < end; ++x) single(x);
      return;
    }
    const auto square = [&](int64_t x) DETOPS_INLINE {
      V block[kLanes];
#pragma GCC unroll 16
      for (int64_t c = 0; c < kLanes; ++c) {
        block[c] = load<V>(row + plane[c] + x);
        __builtin_prefetch(row + plane[c] + x + ahead);
      }
      transpose(block);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) slab[x + i] = block[i];
    };
    for_each_square<kLanes>(begin, end, 0, square, single);
  }
}

// The other way: pixels [begin, end) of a row of a slab into a row of planes.
template <typename V, typename T>
DETOPS_HD void unpack_row(const Maps<T>& map, T* row, int64_t channels, int64_t begin, int64_t end, const V* slab) {
  constexpr int64_t kLanes = kChannels<V>;
  if constexpr (!is_vector<V>) {
    for (int64_t x = begin; x < end; ++x) store_channels(row + x * map.pixel_stride, slab[x]);
  } else {
    if (map.channel_stride == 1 && channels == kLanes) {
      for (int64_t x = begin; x < end; ++x) store(row + x * map.pixel_stride, slab[x]);
      return;
    }
    const auto single = [&](int64_t x) DETOPS_INLINE {
      element_t<V> pixel[kLanes];
      store(pixel, slab[x]);
      for (int64_t c = 0; c < channels; ++c) {
        row[c * map.channel_stride + x * map.pixel_stride] = static_cast<T>(pixel[c]);
      }
    };
    if (map.pixel_stride != 1) {
      for (int64_t x = begin; x < end; ++x) single(x);
      return;
    }
    const auto square = [&](int64_t x) DETOPS_INLINE {
      V block[kLanes];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) block[i] = slab[x + i];
      transpose(block);
#pragma GCC unroll 16
      for (int64_t c = 0; c < kLanes; ++c) {
        if (c < channels) detops::store(row + c * map.channel_stride + x, block[c]);
      }
    };
    for_each_square<kLanes>(begin, end, begin, square, single);
  }
}

template <typename T>
DETOPS_HD void zero_row(const Maps<T>& map, T* row, int64_t channels, int64_t begin, int64_t end) {
  for (int64_t c = 0; c < channels; ++c) {
    T* plane = row + c * map.channel_stride;
    for (int64_t x = begin; x < end; ++x) plane[x * map.pixel_stride] = static_cast<T>(0.0f);
  }
}

// A region's bins, a vector each, to its place in the output, and a gradient's from there: a (PH, PW) map as one row of
// PH * PW pixels where its memory is that, else row by row.
template <typename V, typename T, typename Row>
DETOPS_HD void for_each_bin_row(const Maps<T>& regions, const Row& row) {
  if (regions.row_stride == regions.width * regions.pixel_stride) {
    row(int64_t{0}, int64_t{0}, regions.height * regions.width);
  } else {
    for (int64_t y = 0; y < regions.height; ++y) row(y * regions.row_stride, y * regions.width, regions.width);
  }
}
// `stage` has room for the bins once more.
template <typename V, typename T>
DETOPS_HD void store_bins(const Maps<T>& regions, int64_t region, int64_t channel, int64_t channels, const V* bins,
                          V* stage) {
  constexpr int64_t kLanes = kChannels<V>;
  const int64_t count = regions.height * regions.width;
  const bool dense =
      regions.pixel_stride == 1 && regions.row_stride == regions.width && regions.channel_stride == count;
  if (is_vector<V> && dense && channels == kLanes) {  // lines of the output in order, each whole
    T* staged = reinterpret_cast<T*>(stage);
    unpack_row<V, T>(regions, staged, channels, 0, count, bins);
    std::memcpy(regions.at(region, channel), staged, count * kLanes * sizeof(T));
    return;
  }
  for_each_bin_row<V>(regions, [&](int64_t offset, int64_t first, int64_t count) DETOPS_INLINE {
    unpack_row<V, T>(regions, regions.at(region, channel) + offset, channels, 0, count, bins + first);
  });
}
template <typename V, typename T>
DETOPS_HD void load_bins(const Maps<const T>& regions, int64_t region, int64_t next, int64_t channel, int64_t channels,
                         V* bins) {
  for_each_bin_row<V>(regions, [&](int64_t offset, int64_t first, int64_t count) DETOPS_INLINE {
    pack_row<V, T>(regions, regions.at(region, channel) + offset, channels, 0, count, bins + first,
                   (next - region) * regions.stride);
  });
}
}  // namespace detops
