// Gradients of deformable convolution on the CPU. A task has some of the channels, so that it owns their part of the
// gradients of input and weight: no atomics. Those of offset and mask are sums over channels: each task writes its
// part, and they are added up in order.
#pragma once
#include "deform_tiles.h"

namespace detops {
template <typename T>
class DeformBackward {
 public:
  using A = acc_t<T>;

  // Results that are not wanted are null.
  DeformBackward(const DeformShape& shape, const Tensor& grad, const Tensor& input, const Tensor& weight,
                 const DeformField& offset, const DeformField& mask, Tensor* d_input, Tensor* d_weight,
                 Tensor* d_offset, Tensor* d_mask)
      : shape_(shape),
        grad_(field_of(grad)),
        input_(maps_of<const T>(input)),
        weight_(maps_of<const T>(weight)),
        offset_(offset),
        mask_(mask),
        d_input_(d_input),
        d_weight_(d_weight),
        d_offset_(d_offset),
        d_mask_(d_mask) {
    constexpr int64_t kSections = 8, kLeast = 32;
    const int64_t each = std::max((shape.channels / kSections + 15) / 16 * 16, kLeast);
    for (int64_t c = 0; c < shape.channels; c += each) {
      sections_.emplace_back(shape, c, std::min(each, shape.channels - c), lanes_of_simd<A>());
      positions_at_.push_back(positions_size_);
      positions_size_ += sections_.back().offset_groups() * position_rows() * shape.images;
      weights_at_.push_back(weights_size_);
      weights_size_ += sections_.back().weights(shape);
    }
    // More threads than sections: images in parts, each with a gradient of the weight of its own.
    const auto sections = static_cast<int64_t>(sections_.size());
    parts_ = std::clamp<int64_t>((num_threads() + sections - 1) / sections, 1, shape.images);
  }

  void run() {
    const bool wants_positions = d_offset_ != nullptr || d_mask_ != nullptr;
    positions_ = Scratch<A>(wants_positions ? positions_size_ : 0);
    weights_ = Scratch<A>(d_weight_ != nullptr ? parts_ * weights_size_ : 0);
    const auto sections = static_cast<int64_t>(sections_.size());
    const double cost = static_cast<double>(shape_.images * shape_.pixels()) * 3 * pixel_cost(shape_, sections_[0]);
    parallel_or_fail("deform_conv2d_backward", sections * parts_, grain_for(cost / static_cast<double>(parts_)),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t i = begin; i < end; ++i) run_task(i % sections, i / sections);
                     });
    if (d_weight_ != nullptr) add_weights();
    if (wants_positions) add_positions();
  }

 private:
  struct Workspace {
    TileScratch<A> tile;
    Scratch<A> weight, input, d_input;
  };

  int64_t position_rows() const { return shape_.points() * 3 * shape_.pixels(); }

  void run_task(int64_t index, int64_t part) {
    const DeformSection& section = sections_[index];
    const SlabLayout layout(shape_, section);
    const int64_t tile = tile_pixels<A>(shape_, section, 1), slab_size = layout.size * lanes_of_simd<A>();
    const bool wants_samples = positions_.get() != nullptr || d_weight_ != nullptr;
    const Workspace work{{shape_, section, tile},
                         Scratch<A>(section.weights(shape_)),
                         Scratch<A>(wants_samples ? slab_size : 0),
                         Scratch<A>(d_input_ != nullptr ? slab_size : 0)};
    order_weight(shape_, section, weight_, work.weight.get());
    if (d_weight_ != nullptr) std::fill_n(d_weight(index, part), section.weights(shape_), A(0));
    const int64_t first = shape_.images * part / parts_, last = shape_.images * (part + 1) / parts_;
    for (int64_t n = first; n < last; ++n) run_image(index, part, n, layout, tile, work);
  }

  void run_image(int64_t index, int64_t part, int64_t n, const SlabLayout& layout, int64_t tile,
                 const Workspace& work) {
    const DeformSection& section = sections_[index];
    simd([&](auto isa) DETOPS_INLINE {
      using V = Vec<decltype(isa), A>;
      if (V* slab = reinterpret_cast<V*>(work.input.get())) {
        clear_border(layout, slab);
        pack_slab<V, T>(section, layout, input_, n, 0, shape_.y.size, slab);
      }
      if (A* slab = work.d_input.get()) std::memset(slab, 0, layout.size * sizeof(V));
    });
    for (int64_t begin = 0; begin < shape_.pixels(); begin += tile) {
      run_tile(index, part, n, layout, begin, std::min(begin + tile, shape_.pixels()), work);
    }
    if (d_input_ == nullptr) return;
    simd([&](auto isa) DETOPS_INLINE {
      using V = Vec<decltype(isa), A>;
      unpack_slab<V, T>(section, layout, reinterpret_cast<const V*>(work.d_input.get()), maps_of<T>(*d_input_), n);
    });
  }

  void run_tile(int64_t index, int64_t part, int64_t n, const SlabLayout& layout, int64_t begin, int64_t end,
                const Workspace& work) {
    const DeformSection& section = sections_[index];
    const TileScratch<A>& tile = work.tile;
    const int64_t count = end - begin;
    A *columns = tile.columns.get(), *grad = tile.outputs.get();
    find_samples(shape_, section, layout, offset_, mask_, n, begin, end, tile.rows.get(), tile.samples.get());
    simd([&](auto isa) DETOPS_INLINE {
      using V = Vec<decltype(isa), A>;
      const int64_t first = section.pieces.front().group * shape_.group_outputs();
      const int64_t last = (section.pieces.back().group + 1) * shape_.group_outputs();
      for (int64_t o = first; o < last; ++o) {
        load_pixels<V>(grad_, n, o, shape_.x.output_size, begin, end, grad + o * count);
      }
    });
    // One matrix product per piece turns the gradient of the outputs into that of the columns.
    for_each_piece(section, work.weight.get(), columns, grad, count,
                   [](const Matrices& of_outputs, const Matrices& of_columns, const Matrices& weight) {
                     multiply(of_columns, of_outputs.transposed(), weight);
                   });
    simd_fused([&](auto isa) DETOPS_INLINE {
      using V = Vec<decltype(isa), A>;
      const int64_t of_image = section.offset_groups() * position_rows() * n;
      A* positions = positions_.get() != nullptr ? positions_.get() + positions_at_[index] + of_image : nullptr;
      backpropagate_columns<V>(
          section, layout,
          {reinterpret_cast<const V*>(work.input.get()), reinterpret_cast<V*>(work.d_input.get()), positions},
          tile.samples.get(), begin, count, shape_.pixels(), columns);
    });
    if (d_weight_ == nullptr) return;
    for_each_piece(section, d_weight(index, part), columns, grad, count,
                   [](const Matrices& of_outputs, const Matrices& of_columns, const Matrices& weight) {
                     multiply(weight, of_outputs, of_columns, &weight);
                   });
  }

  // Calls visit((outputs, pixels), (pixels, columns), (outputs, columns)) for each group of the weight.
  template <typename Visit>
  void for_each_piece(const DeformSection& section, A* weight, A* columns, A* grad, int64_t count,
                      const Visit& visit) const {
    const int64_t outputs = shape_.group_outputs();
    for (const WeightPiece& piece : section.pieces) {
      const int64_t depth = piece.count * section.points;
      visit(matrix(grad + piece.group * outputs * count, outputs, count, count),
            matrix(columns + piece.column, count, depth, section.columns()), matrix(weight, outputs, depth, depth));
      weight += outputs * depth;
    }
  }

  A* d_weight(int64_t index, int64_t part) const { return weights_.get() + part * weights_size_ + weights_at_[index]; }

  // The parts' gradients of the weight, into a tensor without gaps.
  void add_weights() {
    T* to = mutable_data<T>(*d_weight_);
    for (size_t s = 0; s < sections_.size(); ++s) {
      sections_[s].for_each_weight(shape_, [&](int64_t o, int64_t first, int64_t k, int64_t count, int64_t at) {
        const A* from = d_weight(s, 0) + at;
        for (int64_t c = 0; c < count; ++c) {
          A total = from[c];
          for (int64_t part = 1; part < parts_; ++part) total += from[part * weights_size_ + c];
          to[(o * shape_.group_channels() + first + c) * shape_.points() + k] = static_cast<T>(total);
        }
      });
    }
  }

  // The sections' gradients of offset and mask, into tensors without gaps.
  void add_positions() {
    const int64_t points = shape_.points(), pixels = shape_.pixels(), groups = shape_.offset_groups;
    const auto grain = grain_for(static_cast<double>(3 * pixels * sections_.size()));
    parallel_for(shape_.images * groups * points, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t k = i % points, group = i / points % groups, n = i / points / groups;
        A* total = nullptr;
        for (size_t s = 0; s < sections_.size(); ++s) {
          const int64_t first = sections_[s].first_offset_group(), count = sections_[s].offset_groups();
          if (group < first || group >= first + count) continue;
          A* rows = positions_.get() + positions_at_[s] + ((n * count + group - first) * points + k) * 3 * pixels;
          if (total == nullptr) {
            total = rows;
          } else {
            for (int64_t j = 0; j < 3 * pixels; ++j) total[j] += rows[j];
          }
        }
        store_position(total, 2 * pixels, 2 * i * pixels, d_offset_);
        store_position(total + 2 * pixels, pixels, i * pixels, d_mask_);
      }
    });
  }

  static void store_position(const A* from, int64_t count, int64_t at, Tensor* to) {
    if (to == nullptr) return;
    dispatch_floating("deform_conv2d_backward", *to, [&](auto type) {
      using To = typename decltype(type)::type;
      To* data = mutable_data<To>(*to) + at;
      for (int64_t j = 0; j < count; ++j) data[j] = static_cast<To>(from[j]);
    });
  }

  const DeformShape& shape_;
  DeformField grad_;
  Maps<const T> input_, weight_;
  DeformField offset_, mask_;
  Tensor *d_input_, *d_weight_, *d_offset_, *d_mask_;
  std::vector<DeformSection> sections_;
  std::vector<int64_t> positions_at_, weights_at_;  // where a section's part begins
  int64_t positions_size_ = 0, weights_size_ = 0, parts_ = 1;
  Scratch<A> positions_, weights_;
};
}  // namespace detops
