// Deformable convolution on the CPU, tile by tile: columns that stay in the cache, and the platform's matrix product
// on each.
#pragma once
#include <atomic>
#include <numeric>

#include "../core/matmul.h"
#include "../core/parallel.h"
#include "../core/scratch.h"
#include "deform_columns.h"
#include "deform_fields.h"

namespace detops {
template <typename A>
int64_t lanes_of_simd() {
  int64_t result = 0;
  simd([&](auto isa) DETOPS_INLINE { result = lanes<decltype(isa), A>; });
  return result;
}

// parallel_for, with threads that may run out of memory.
template <typename Fn>
void parallel_or_fail(const char* op, int64_t n, int64_t grain, const Fn& fn) {
  std::atomic<bool> failed{false};
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    try {
      fn(begin, end);
    } catch (...) {  // nothing may be thrown from another thread
      failed = true;
    }
  });
  if (failed) fail(op, "out of memory");
}

// Output pixels whose columns of some channels fill half of a cache, but so many that the product is worth packing the
// weight for, and so few that there are some tiles.
template <typename A>
int64_t tile_pixels(const DeformShape& shape, const DeformSection& section, int64_t tiles) {
  constexpr int64_t kBytes = 512 << 10, kLeast = 224, kMost = 1024;
  const int64_t in_cache = std::clamp<int64_t>(kBytes / (section.columns() * sizeof(A)), kLeast, kMost);
  const int64_t for_all = std::max<int64_t>(shape.images * shape.pixels() / tiles, 32);
  return std::min({in_cache, for_all, shape.pixels()});
}

// Nanoseconds for the columns of a pixel and their product with the weight.
inline double pixel_cost(const DeformShape& shape, const DeformSection& section) {
  return static_cast<double>(section.columns()) * (0.2 + 0.02 * static_cast<double>(shape.group_outputs()));
}

// Offsets down and across, and mask, of a kernel point: rows of a tile's pixels. No mask: the row stays.
template <typename V, typename A>
DETOPS_HD void load_positions(const DeformShape& shape, const DeformField& offset, const DeformField& mask, int64_t n,
                              int64_t begin, int64_t end, int64_t group, int64_t point, A* rows) {
  const int64_t channel = group * shape.points() + point, width = shape.x.output_size, count = end - begin;
  load_pixels<V>(offset, n, 2 * channel, width, begin, end, rows);
  load_pixels<V>(offset, n, 2 * channel + 1, width, begin, end, rows + count);
  if (mask.data != nullptr) load_pixels<V>(mask, n, channel, width, begin, end, rows + 2 * count);
}
// Where the kernel points of a tile's pixels sample, (pixels, points, offset groups). `rows` has room for three.
template <typename A>
void find_samples(const DeformShape& shape, const DeformSection& section, const SlabLayout& layout,
                  const DeformField& offset, const DeformField& mask, int64_t n, int64_t begin, int64_t end, A* rows,
                  SlabSample<A>* samples) {
  const int64_t count = end - begin, groups = section.offset_groups();
  if (mask.data == nullptr) std::fill(rows + 2 * count, rows + 3 * count, A(1));
  for (int64_t k = 0; k < section.points; ++k) {
    for (int64_t group = 0; group < groups; ++group) {
      simd([&](auto isa) DETOPS_INLINE {
        using V = Vec<decltype(isa), A>;
        load_positions<V>(shape, offset, mask, n, begin, end, section.first_offset_group() + group, k, rows);
      });
      SlabSample<A>* to = samples + k * groups + group;
      int64_t y = begin / shape.x.output_size, x = begin % shape.x.output_size;
      for (int64_t i = 0; i < count; ++i, to += section.points * groups) {
        const auto at = deform_sample(shape, y, x, k, rows[i], rows[count + i]);
        if (at.on_map()) {
          *to = {layout.place(at.y.low, at.x.low), at.y.fraction, at.x.fraction, rows[2 * count + i]};
        } else {
          *to = {layout.place(shape.y.size, 0), A(0), A(0), A(0)};
        }
        if (++x == shape.x.output_size) x = 0, ++y;
      }
    }
  }
}

// The weight of a section's channels, as for_each_weight() orders it.
template <typename T, typename A>
void order_weight(const DeformShape& shape, const DeformSection& section, const Maps<const T>& weight, A* ordered) {
  section.for_each_weight(shape, [&](int64_t o, int64_t first, int64_t k, int64_t count, int64_t at) {
    const T* from = weight.at(o, first) + k / weight.width * weight.row_stride + k % weight.width * weight.pixel_stride;
    for (int64_t c = 0; c < count; ++c) ordered[at + c] = static_cast<A>(from[c * weight.channel_stride]);
  });
}

// What a tile of a section needs.
template <typename A>
struct TileScratch {
  Scratch<A> columns, rows, outputs;
  Scratch<SlabSample<A>> samples;

  TileScratch(const DeformShape& shape, const DeformSection& section, int64_t pixels)
      : columns(pixels * section.columns()),
        rows(3 * pixels),
        outputs(pixels * shape.out_channels),
        samples(pixels * section.points * section.offset_groups()) {}
};

template <typename T>
class DeformForward {
 public:
  using A = acc_t<T>;

  DeformForward(const DeformShape& shape, const Tensor& input, const Tensor& weight, const DeformField& offset,
                const DeformField& mask, const Tensor* bias, Tensor& output)
      : shape_(shape),
        section_(shape, 0, shape.channels, lanes_of_simd<A>()),
        layout_(shape, section_),
        input_(maps_of<const T>(input)),
        offset_(offset),
        mask_(mask),
        output_(maps_of<T>(output)),
        weight_(section_.weights(shape)) {
    order_weight(shape, section_, maps_of<const T>(weight), weight_.get());
    if (bias == nullptr) return;
    bias_ = Scratch<A>(shape.out_channels);
    for (int64_t o = 0; o < shape.out_channels; ++o) {
      bias_.get()[o] = static_cast<A>(data<T>(*bias)[o * bias->stride(0)]);
    }
  }

  void run() {
    constexpr int64_t kSlabBytes = int64_t{32} << 20;
    const int64_t image_size = layout_.size * lanes_of_simd<A>();
    const auto bytes = static_cast<int64_t>(image_size * sizeof(A));
    const int64_t batch = std::clamp<int64_t>(kSlabBytes / bytes, 1, shape_.images);
    const Scratch<A> slabs(batch * image_size);
    const int64_t tile = tile_pixels<A>(shape_, section_, 2 * num_threads()),
                  tiles = (shape_.pixels() + tile - 1) / tile;
    for (int64_t first = 0; first < shape_.images; first += batch) {
      const int64_t images = std::min(batch, shape_.images - first), height = shape_.y.size;
      parallel_for(images * (height + 1), grain_for(0.2 * layout_.row), [&](int64_t begin, int64_t end) {
        simd([&](auto isa) DETOPS_INLINE {
          using V = Vec<decltype(isa), A>;
          for (int64_t i = begin; i < end; ++i) {
            V* slab = reinterpret_cast<V*>(slabs.get() + i / (height + 1) * image_size);
            const int64_t y = i % (height + 1);
            y == height ? clear_border(layout_, slab)
                        : pack_slab<V, T>(section_, layout_, input_, first + i / (height + 1), y, y + 1, slab);
          }
        });
      });
      const int64_t grain = grain_for(static_cast<double>(tile) * pixel_cost(shape_, section_));
      parallel_or_fail("deform_conv2d", images * tiles, grain, [&](int64_t begin, int64_t end) {
        const TileScratch<A> scratch(shape_, section_, tile);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t pixel = i % tiles * tile;
          run_tile(first + i / tiles, slabs.get() + i / tiles * image_size, pixel,
                   std::min(pixel + tile, shape_.pixels()), scratch);
        }
      });
    }
  }

 private:
  void run_tile(int64_t n, const A* slab, int64_t begin, int64_t end, const TileScratch<A>& scratch) const {
    const int64_t count = end - begin;
    A* columns = scratch.columns.get();
    find_samples(shape_, section_, layout_, offset_, mask_, n, begin, end, scratch.rows.get(), scratch.samples.get());
    simd_fused([&](auto isa) DETOPS_INLINE {
      using V = Vec<decltype(isa), A>;
      sample_columns(section_, layout_, reinterpret_cast<const V*>(slab), scratch.samples.get(), count, columns);
    });
    A* outputs = scratch.outputs.get();
    int64_t stride = count;
    if constexpr (std::is_same_v<T, A>) {  // straight to its place
      if (in_place()) outputs = output_.at(n, 0) + begin, stride = output_.channel_stride;
    }
    const int64_t group_outputs = shape_.group_outputs();
    int64_t at = 0;
    for (const WeightPiece& piece : section_.pieces) {
      const int64_t depth = piece.count * section_.points, first = piece.group * group_outputs;
      const Matrices to = matrix(outputs + first * stride, group_outputs, count, stride);
      const Matrices weight = matrix(weight_.get() + at, group_outputs, depth, depth);
      const Matrices samples = matrix(columns + piece.column, count, depth, section_.columns()).transposed();
      if (bias_.get() != nullptr) {
        const Matrices bias = matrix(bias_.get() + first, group_outputs, count, 1, 0);
        multiply(to, weight, samples, &bias);
      } else {
        multiply(to, weight, samples);
      }
      at += group_outputs * depth;
    }
    if (outputs != scratch.outputs.get()) return;
    simd([&](auto isa) DETOPS_INLINE {
      using V = Vec<decltype(isa), A>;
      for (int64_t o = 0; o < shape_.out_channels; ++o) {
        store_pixels<V>(outputs + o * count, output_, n, o, begin, end);
      }
    });
  }

  bool in_place() const {
    return std::is_same_v<T, A> && output_.pixel_stride == 1 && output_.row_stride == output_.width;
  }

  const DeformShape& shape_;
  DeformSection section_;
  SlabLayout layout_;
  Maps<const T> input_;
  DeformField offset_, mask_;
  Maps<T> output_;
  Scratch<A> weight_, bias_;
};
}  // namespace detops
