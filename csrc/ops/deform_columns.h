// The passes over columns on the CPU: samples of vectors of channels, and their gradients.
#pragma once
#include <cstring>

#include "../core/simd.h"
#include "deform_section.h"
#include "roi_maps.h"

namespace detops {
template <typename V, typename T>
DETOPS_HD void pack_slab(const DeformSection& section, const SlabLayout& layout, const Maps<const T>& input, int64_t n,
                         int64_t begin, int64_t end, V* slab) {
  for (int64_t y = begin; y < end; ++y) {
    V* line = slab + layout.place(y, -1);
    for (const ChannelBlock& block : section.blocks) {
      line[0] = V{};
      pack_row<V, T>(input, input.at(n, block.channel) + y * input.row_stride, block.count, 0, input.width, line + 1,
                     input.row_stride);
      for (int64_t x = input.width + 1; x < layout.line; ++x) line[x] = V{};
      line += layout.line;
    }
  }
}
// The rows above and below the map.
template <typename V>
DETOPS_HD void clear_border(const SlabLayout& layout, V* slab) {
  std::memset(static_cast<void*>(slab), 0, layout.row * sizeof(V));
  std::memset(static_cast<void*>(slab + layout.size - 2 * layout.row), 0, 2 * layout.row * sizeof(V));
}
template <typename V, typename T>
DETOPS_HD void unpack_slab(const DeformSection& section, const SlabLayout& layout, const V* slab, const Maps<T>& output,
                           int64_t n) {
  for (int64_t y = 0; y < output.height; ++y) {
    const V* line = slab + layout.place(y, 0);
    for (const ChannelBlock& block : section.blocks) {
      unpack_row<V, T>(output, output.at(n, block.channel) + y * output.row_stride, block.count, 0, output.width, line);
      line += layout.line;
    }
  }
}

// ---- Rows of consecutive output pixels. ----------------------------------------------------------------------------

template <typename A, typename T>
constexpr bool converts_by_vector = std::is_same_v<A, T> || (std::is_same_v<A, float> && sizeof(T) == 2);

template <typename V, typename T>
DETOPS_HD void load_run(const T* from, int64_t stride, int64_t count, element_t<V>* to) {
  int64_t i = 0;
  if constexpr (converts_by_vector<element_t<V>, T>) {
    constexpr int64_t kLanes = kChannels<V>;
    if (stride == 1) {
      for (; i + kLanes <= count; i += kLanes) store(to + i, load<V>(from + i));
    }
  }
  for (; i < count; ++i) to[i] = static_cast<element_t<V>>(from[i * stride]);
}
template <typename V, typename T>
DETOPS_HD void store_run(const element_t<V>* from, T* to, int64_t stride, int64_t count) {
  int64_t i = 0;
  if constexpr (converts_by_vector<element_t<V>, T>) {
    constexpr int64_t kLanes = kChannels<V>;
    if (stride == 1) {
      for (; i + kLanes <= count; i += kLanes) store(to + i, load<V>(from + i));
    }
  }
  for (; i < count; ++i) to[i * stride] = static_cast<T>(from[i]);
}

// Calls run(place, stride, first, count) for the runs of pixels of a plane whose places are `stride` apart.
template <typename Run>
DETOPS_HD void for_each_run(int64_t row_stride, int64_t stride, int64_t width, int64_t begin, int64_t end,
                            const Run& run) {
  if (row_stride == width * stride) return run(begin * stride, stride, int64_t{0}, end - begin);
  for (int64_t pixel = begin; pixel < end;) {
    const int64_t y = pixel / width, x = pixel % width, count = std::min(width - x, end - pixel);
    run(y * row_stride + x * stride, stride, pixel - begin, count);
    pixel += count;
  }
}

// Output pixels of a channel of a field.
template <typename V>
DETOPS_HD void load_pixels(const DeformField& field, int64_t n, int64_t c, int64_t width, int64_t begin, int64_t end,
                           element_t<V>* to) {
  const int64_t plane = n * field.strides[0] + c * field.strides[1];
  for_each_run(field.strides[2], field.strides[3], width, begin, end,
               [&](int64_t at, int64_t stride, int64_t first, int64_t count) DETOPS_INLINE {
                 at += plane;
                 switch (field.dtype) {
                   case ScalarType::Float:
                     return load_run<V>(reinterpret_cast<const float*>(field.data) + at, stride, count, to + first);
                   case ScalarType::Double:
                     return load_run<V>(reinterpret_cast<const double*>(field.data) + at, stride, count, to + first);
                   case ScalarType::Half:
                     return load_run<V>(reinterpret_cast<const Half*>(field.data) + at, stride, count, to + first);
                   default:
                     return load_run<V>(reinterpret_cast<const BFloat16*>(field.data) + at, stride, count, to + first);
                 }
               });
}
template <typename V, typename T>
DETOPS_HD void store_pixels(const element_t<V>* from, const Maps<T>& map, int64_t n, int64_t c, int64_t begin,
                            int64_t end) {
  for_each_run(map.row_stride, map.pixel_stride, map.width, begin, end,
               [&](int64_t at, int64_t stride, int64_t first, int64_t count)
                   DETOPS_INLINE { store_run<V>(from + first, map.at(n, c) + at, stride, count); });
}

// ---- Columns -------------------------------------------------------------------------------------------------------

// One kernel point of one pixel, a vector of channels.
template <typename V>
DETOPS_HD V load_column(const ChannelBlock& block, const element_t<V>* columns, int64_t point) {
  if (block.runs.size() == 1 && block.count == kChannels<V>) {
    return load<V>(columns + block.runs[0].column + point * block.runs[0].step);
  }
  element_t<V> lane[kChannels<V>] = {};
  for (const ColumnRun& run : block.runs) {
    const element_t<V>* from = columns + run.column + point * run.step;
    for (int64_t i = 0; i < run.count; ++i) lane[run.lane + i] = from[i];
  }
  return load<V>(lane);
}
template <typename V>
DETOPS_HD void store_column(const ChannelBlock& block, V value, element_t<V>* columns, int64_t point) {
  if (block.runs.size() == 1 && block.count == kChannels<V>) {
    return store(columns + block.runs[0].column + point * block.runs[0].step, value);
  }
  element_t<V> lane[kChannels<V>];
  store(lane, value);
  for (const ColumnRun& run : block.runs) {
    element_t<V>* to = columns + run.column + point * run.step;
    for (int64_t i = 0; i < run.count; ++i) to[i] = lane[run.lane + i];
  }
}

// The four pixels round a sample.
template <typename V>
struct Corner {
  const V *low, *high;

  DETOPS_HD Corner(const V* pixel, int64_t row) : low(pixel), high(pixel + row) {}
  template <typename Weights>
  DETOPS_HD V weighted(const Weights& w) const {
    return (w.low_low * low[0] + w.low_high * low[1]) + (w.high_low * high[0] + w.high_high * high[1]);
  }
};
template <typename V, typename A>
DETOPS_HD Corners<V> in_every_lane(const Corners<A>& w) {
  return {broadcast<V>(w.low_low), broadcast<V>(w.low_high), broadcast<V>(w.high_low), broadcast<V>(w.high_high)};
}

// columns (pixels, points, channels) of a section; samples (pixels, points, offset groups).
template <typename V, typename A>
DETOPS_HD void sample_columns(const DeformSection& section, const SlabLayout& layout, const V* slab,
                              const SlabSample<A>* samples, int64_t pixels, A* columns) {
  const int64_t first_group = section.first_offset_group(), groups = section.offset_groups();
  for (int64_t pixel = 0; pixel < pixels; ++pixel, columns += section.columns()) {
    for (int64_t k = 0; k < section.points; ++k, samples += groups) {
      int64_t group = -1, line = 0;
      Corners<V> weights{};
      const V* from = nullptr;
      for (const ChannelBlock& block : section.blocks) {
        if (block.offset_group != group) {
          group = block.offset_group;
          const SlabSample<A>& sample = samples[group - first_group];
          weights = in_every_lane<V>(bilinear_weights(sample.y, sample.x, sample.mask));
          from = slab + sample.place;
        }
        store_column(block, Corner<V>(from + line, layout.row).weighted(weights), columns, k);
        line += layout.line;
      }
    }
  }
}

// What backpropagate_columns() reads and writes; null: not wanted.
template <typename V>
struct SlabGradients {
  const V* slab;            // of the input
  V* input;                 // slab to be added to
  element_t<V>* positions;  // (offset groups, points, 3, image's pixels): to y, to x, to the mask
};

// From the columns' gradient, which the columns themselves replace.
template <typename V, typename A>
DETOPS_HD void backpropagate_columns(const DeformSection& section, const SlabLayout& layout, const SlabGradients<V>& to,
                                     const SlabSample<A>* samples, int64_t first, int64_t pixels, int64_t image_pixels,
                                     A* columns) {
  const int64_t first_group = section.first_offset_group(), groups = section.offset_groups();
  const auto num_blocks = static_cast<int64_t>(section.blocks.size());
  for (int64_t pixel = first; pixel < first + pixels; ++pixel, columns += section.columns()) {
    for (int64_t k = 0; k < section.points; ++k, samples += groups) {
      int64_t b = 0;
      for (int64_t group = 0; group < groups; ++group) {
        const SlabSample<A>& sample = samples[group];
        const auto weights = in_every_lane<V>(bilinear_weights(sample.y, sample.x, sample.mask));
        Corners<V> sums{};
        for (; b < num_blocks && section.blocks[b].offset_group == first_group + group; ++b) {
          const ChannelBlock& block = section.blocks[b];
          const int64_t place = sample.place + b * layout.line;
          const V grad = load_column<V>(block, columns, k);
          if (to.slab != nullptr) {
            const Corner<V> corner(to.slab + place, layout.row);
            sums.low_low += grad * corner.low[0];
            sums.low_high += grad * corner.low[1];
            sums.high_low += grad * corner.high[0];
            sums.high_high += grad * corner.high[1];
            store_column(block, corner.weighted(weights), columns, k);
          }
          if (to.input != nullptr) {
            V *low = to.input + place, *high = low + layout.row;
            low[0] += weights.low_low * grad;
            low[1] += weights.low_high * grad;
            high[0] += weights.high_low * grad;
            high[1] += weights.high_high * grad;
          }
        }
        if (to.positions == nullptr) continue;
        const Corners<A> total{sum(sums.low_low), sum(sums.low_high), sum(sums.high_low), sum(sums.high_high)};
        const DeformGradient<A> gradient = deform_gradient(sample.y, sample.x, sample.mask, total);
        A* position = to.positions + (group * section.points + k) * 3 * image_pixels + pixel;
        position[0] = gradient.y;
        position[image_pixels] = gradient.x;
        position[2 * image_pixels] = gradient.mask;
      }
    }
  }
}
}  // namespace detops
