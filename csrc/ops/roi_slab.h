// Slabs, for CPU kernels that pool regions: a vector's worth of channels of one image, interleaved, so that a pixel is
// one vector. Only what the regions touch is packed, row by row, as the regions come down the image.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "../core/parallel.h"
#include "../core/tensor.h"
#include "../core/transpose.h"

namespace detops {
template <typename V>
constexpr bool is_vector = !std::is_arithmetic_v<V>;

template <typename V>
struct LanesOf {
  static constexpr int64_t value = sizeof(V) / sizeof(element_t<V>);
};
template <>
struct LanesOf<float> {
  static constexpr int64_t value = 1;
};
template <>
struct LanesOf<double> {
  static constexpr int64_t value = 1;
};

// How many numbers the vectors of the active instruction set hold.
template <typename A>
int64_t active_lanes() {
  switch (active_instruction_set) {
    case InstructionSet::kAvx512:
      return lanes<Avx512, A>;
    case InstructionSet::kAvx2:
      return lanes<Avx2, A>;
    default:
      return lanes<Baseline, A>;
  }
}

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

// A tensor (N, C, H, W), or (K, C, PH, PW), of any strides.
template <typename T>
struct Maps {
  T* data;
  int64_t size, channels, height, width;
  int64_t stride, channel_stride, row_stride, pixel_stride;  // in elements

  explicit Maps(const Tensor& t)
      : data(const_cast<T*>(detops::data<T>(t))),
        size(t.size(0)),
        channels(t.size(1)),
        height(t.size(2)),
        width(t.size(3)),
        stride(t.stride(0)),
        channel_stride(t.stride(1)),
        row_stride(t.stride(2)),
        pixel_stride(t.stride(3)) {}

  T* at(int64_t n, int64_t c) const { return data + n * stride + c * channel_stride; }
  bool interleaved() const { return channel_stride == 1 && pixel_stride != 1; }  // channels_last
};

inline bool is_channels_last(const Tensor& t) { return t.stride(1) == 1 && t.stride(3) != 1; }

// Uninitialised (N, C, H, W), contiguous or channels_last.
inline Tensor new_maps(const Tensor& like, const std::array<int64_t, 4>& sizes, bool channels_last) {
  if (!channels_last) return new_tensor<4>(like, sizes, like.scalar_type());
  const auto [n, c, h, w] = sizes;
  const std::array<int64_t, 4> strides{h * w * c, 1, w * c, c};
  return new_tensor<4>(like, sizes, like.scalar_type(), strides.data());
}
// What K regions of `input` pool to, in its layout.
inline Tensor new_regions(const Tensor& input, int64_t num_rois, int64_t pooled_height, int64_t pooled_width) {
  return new_maps(input, {num_rois, input.size(1), pooled_height, pooled_width}, is_channels_last(input));
}

// Memory that no constructor runs over, aligned to a cache line.
template <typename V>
class Scratch {
 public:
  explicit Scratch(int64_t size = 0) {
    if (size <= 0) return;
    data_.reset(static_cast<V*>(std::aligned_alloc(64, (size * sizeof(V) + 63) / 64 * 64)));
    if (!data_) throw std::bad_alloc();
  }
  V* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(V* p) const { std::free(p); }
  };
  std::unique_ptr<V, Free> data_;
};

// The pixels that some region of an image touches: per row a bit for each block of columns, at most 64 of them.
class TouchedPixels {
 public:
  TouchedPixels(int64_t height, int64_t width)
      : block_(((width + 63) / 64 + 15) / 16 * 16), width_(width), rows_(height) {}

  // The bits of columns first to last, both included.
  uint64_t blocks(int64_t first, int64_t last) const {
    return ~uint64_t{0} >> (63 - last / block_) & ~uint64_t{0} << (first / block_);
  }
  void add(int64_t row, uint64_t blocks) { rows_[row] |= blocks; }

  // Calls fn(begin, end, touched) for the runs of columns, touched and untouched, that a row falls into.
  template <typename Fn>
  DETOPS_HD void for_each_run(int64_t row, const Fn& fn) const {
    const uint64_t blocks = rows_[row];
    for (int64_t begin = 0; begin < width_;) {
      const int64_t block = begin / block_;
      const bool touched = blocks >> block & 1;
      const uint64_t others = (touched ? ~blocks : blocks) >> block;
      const int64_t run = others == 0 ? 64 - block : __builtin_ctzll(others);
      const int64_t end = std::min(width_, (block + run) * block_);
      fn(begin, end, touched);
      begin = end;
    }
  }

 private:
  int64_t block_, width_;
  std::vector<uint64_t> rows_;
};

// Runs task(index, worker) for every index, workers in parallel; what a worker needs is made before.
template <typename Task>
void run_tasks(int64_t tasks, int64_t workers, const Task& task) {
  std::atomic<int64_t> next{0};
  parallel_for(workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) task(i, worker);
    }
  });
}

// How many threads it is worth to pool regions of so many channels into so many bins.
inline int64_t workers_for(int64_t rois, int64_t channels, int64_t bins) {
  constexpr double kNanosecondsPerBin = 0.1, kWorthwhile = 250e3;
  const double work = kNanosecondsPerBin * static_cast<double>(rois) * static_cast<double>(channels * bins);
  return std::clamp<int64_t>(static_cast<int64_t>(work / kWorthwhile), 1, num_threads());
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

// Pixels [begin, end) of a row of planes into a row of a slab. Lanes beyond the last channel repeat it.
template <typename V, typename T>
DETOPS_HD void pack_row(const Maps<const T>& map, const T* row, int64_t channels, int64_t begin, int64_t end, V* slab) {
  constexpr int64_t kLanes = LanesOf<V>::value;
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
      for (int64_t c = 0; c < kLanes; ++c) block[c] = load<V>(row + plane[c] + x);
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
  constexpr int64_t kLanes = LanesOf<V>::value;
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
        if (c < channels) store(row + c * map.channel_stride + x, block[c]);
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
template <typename V, typename T>
DETOPS_HD void store_bins(const Maps<T>& regions, int64_t region, int64_t channel, int64_t channels, const V* bins) {
  for_each_bin_row<V>(regions, [&](int64_t offset, int64_t first, int64_t count) DETOPS_INLINE {
    unpack_row<V, T>(regions, regions.at(region, channel) + offset, channels, 0, count, bins + first);
  });
}
template <typename V, typename T>
DETOPS_HD void load_bins(const Maps<const T>& regions, int64_t region, int64_t channel, int64_t channels, V* bins) {
  for_each_bin_row<V>(regions, [&](int64_t offset, int64_t first, int64_t count) DETOPS_INLINE {
    pack_row<V, T>(regions, regions.at(region, channel) + offset, channels, 0, count, bins + first);
  });
}
}  // namespace detops
