// Deformable convolution on CUDA, images at a time: a kernel writes their columns, or takes the gradient of these, and
// the platform's matrix product does the rest.
#pragma once
#include <algorithm>

#include "../core/matmul.h"
#include "../core/torch_sort.h"
#include "deform_fields.h"

namespace detops {
// Of columns in memory at a time: enough to keep a GPU busy. The emulation's is small, so that tests take every path.
#if defined(DETOPS_EMULATE_CUDA)
constexpr int64_t kColumnBytes = 8 << 10;
#else
constexpr int64_t kColumnBytes = int64_t{128} << 20;
#endif

template <typename T>
class DeformOnCuda {
 public:
  using A = acc_t<T>;

  DeformOnCuda(const DeformShape& shape, const Tensor& input, const Tensor& weight, const Tensor& offset,
               const std::optional<Tensor>& mask)
      : shape_(shape), input_(input), weight_(dense(weight)), depth_(shape.group_channels() * shape.points()) {
    inputs_ = {shape,
               {},
               data<T>(input),
               {input.stride(0), input.stride(1), input.stride(2), input.stride(3)},
               field_of(offset),
               field_of(mask)};
    const int64_t most = std::max<int64_t>(kColumnBytes / sizeof(T) / (shape.channels * shape.points()), 1);
    tile_pixels_ = std::min(shape.pixels(), most);
    tile_images_ = std::clamp<int64_t>(most / shape.pixels(), 1, shape.images);
    columns_ = new_tensor<1>(input, {tile_images_ * shape.channels * shape.points() * tile_pixels_}, scalar_type<T>);
  }

  void run(const Tensor* bias, Tensor& output, void* stream) {
    if (output.is_contiguous()) return run_dense(bias, output, stream);
    // The same bits in another layout: a matrix product's sums depend on it.
    Tensor rows = new_dense(output, scalar_type<T>);
    run_dense(bias, rows, stream);
    torch::stable::copy_(output, rows);
  }

  // Results that are not wanted are null.
  void backpropagate(const Tensor& grad_of_output, Tensor* input, Tensor* weight, Tensor* offset, Tensor* mask,
                     void* stream) {
    Tensor grad = dense(grad_of_output), sums;
    const bool rounds = !std::is_same_v<T, A>;
    if (input != nullptr) {
      sums = rounds ? new_dense(input_, scalar_type<A>) : *input;
      torch::stable::zero_(sums);
    }
    if (weight != nullptr) torch::stable::zero_(*weight);
    for_each_tile([&](const DeformTile& tile) {
      if (input != nullptr || offset != nullptr || mask != nullptr) {
        for_each_product(tile, grad, [&](const Matrices& of, const Matrices& columns, const Matrices& by) {
          multiply(columns, by.transposed(), of);
        });
        if (offset != nullptr || mask != nullptr) {
          const DeformResult d_offset = result_of(offset), d_mask = result_of(mask);
          deform_positions_cuda(DeformPositionsArgs<T>{inputs_of(tile), data<T>(columns_), d_offset, d_mask}, stream);
        }
        if (input != nullptr) add_to_input(tile, sums, stream);
      }
      if (weight == nullptr) return;
      sample(tile, stream);
      for_each_weight(tile, grad, *weight);
    });
    if (input != nullptr && rounds) torch::stable::copy_(*input, sums);
  }

 private:
  static Tensor new_dense(const Tensor& like, ScalarType dtype) {
    return new_tensor<4>(like, {like.size(0), like.size(1), like.size(2), like.size(3)}, dtype);
  }

  void run_dense(const Tensor* bias, Tensor& output, void* stream) {
    for_each_tile([&](const DeformTile& tile) {
      sample(tile, stream);
      for_each_product(tile, output, [&](const Matrices& to, const Matrices& columns, const Matrices& weight) {
        if (bias == nullptr) return multiply(to, weight, columns);
        Matrices start = on_device(data<T>(*bias), to.sizes, {0, bias->stride(0), 0});
        if (shape_.groups > 1) start.strides[0] = shape_.group_outputs() * bias->stride(0);
        multiply(to, weight, columns, &start);
      });
    });
  }

  template <typename Visit>
  void for_each_tile(const Visit& visit) const {
    for (int64_t n = 0; n < shape_.images; n += tile_images_) {
      for (int64_t pixel = 0; pixel < shape_.pixels(); pixel += tile_pixels_) {
        visit(DeformTile{n, std::min(tile_images_, shape_.images - n), pixel,
                         std::min(tile_pixels_, shape_.pixels() - pixel)});
      }
    }
  }

  DeformInputs<T> inputs_of(const DeformTile& tile) const {
    DeformInputs<T> inputs = inputs_;
    inputs.tile = tile;
    return inputs;
  }

  void sample(const DeformTile& tile, void* stream) {
    deform_columns_cuda(DeformColumnsArgs<T>{inputs_of(tile), mutable_data<T>(columns_)}, stream);
  }

  void add_to_input(const DeformTile& tile, Tensor& sums, void* stream) {
    const DeformInputs<T> inputs = inputs_of(tile);
    const int64_t samples = inputs.samples(), num_cells = inputs.cells();
    Tensor cells = new_tensor<1>(input_, {samples}, ScalarType::Long);
    Tensor weights = new_tensor<2>(input_, {samples, 4}, scalar_type<A>);
    Tensor starts = new_tensor<1>(input_, {num_cells + 1}, ScalarType::Long);
    deform_cells_cuda(DeformCellsArgs<T>{inputs, mutable_data<int64_t>(cells), mutable_data<Corners<A>>(weights)},
                      stream);
    const auto [sorted, order] = stable_sort(cells);
    deform_starts_cuda({data<int64_t>(sorted), samples, num_cells, mutable_data<int64_t>(starts)}, stream);
    DeformGatherArgs<T> args{shape_,
                             tile,
                             data<T>(columns_),
                             data<int64_t>(order),
                             data<int64_t>(starts),
                             data<Corners<A>>(weights),
                             mutable_data<A>(sums),
                             {}};
    for (int axis = 0; axis < 4; ++axis) args.strides[axis] = sums.stride(axis);
    deform_gather_cuda(args, stream);
  }

  // Calls visit(outputs, columns, weight) for batches of products: of the images, or of the groups of each.
  template <typename Visit>
  void for_each_product(const DeformTile& tile, const Tensor& outputs, const Visit& visit) {
    const int64_t o = shape_.group_outputs(), step = outputs.stride(1);
    if (shape_.groups == 1) {
      return visit(outputs_of(tile, outputs, 0, {tile.images, o, tile.pixels}, outputs.stride(0)),
                   columns_of(tile, 0, tile.images), weights_of(weight_, tile.images, 0));
    }
    for (int64_t i = 0; i < tile.images; ++i) {
      visit(outputs_of(tile, outputs, i, {shape_.groups, o, tile.pixels}, o * step), columns_of(tile, i, shape_.groups),
            weights_of(weight_, shape_.groups, o * depth_));
    }
  }
  // Adds to the gradient of the weight, image by image.
  void for_each_weight(const DeformTile& tile, const Tensor& grad, const Tensor& weight) {
    const int64_t o = shape_.group_outputs();
    for (int64_t i = 0; i < tile.images; ++i) {
      const Matrices of = outputs_of(tile, grad, i, {shape_.groups, o, tile.pixels}, o * grad.stride(1));
      const Matrices to = weights_of(weight, shape_.groups, o * depth_);
      multiply(to, of, columns_of(tile, i, shape_.groups).transposed(), &to);
    }
  }

  Matrices on_device(const T* data, const std::array<int64_t, 3>& sizes, const std::array<int64_t, 3>& strides) const {
    Matrices m{const_cast<T*>(data), scalar_type<T>, sizes, strides};
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(input_.get(), &m.device_type));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(input_.get(), &m.device_index));
    return m;
  }
  Matrices outputs_of(const DeformTile& tile, const Tensor& t, int64_t image, const std::array<int64_t, 3>& sizes,
                      int64_t batch_stride) const {
    const T* first = data<T>(t) + (tile.image + image) * t.stride(0) + tile.pixel * t.stride(3);
    return on_device(first, sizes, {batch_stride, t.stride(1), t.stride(3)});
  }
  Matrices columns_of(const DeformTile& tile, int64_t image, int64_t batch) const {
    const T* first = data<T>(columns_) + image * shape_.channels * shape_.points() * tile.pixels;
    return on_device(first, {batch, depth_, tile.pixels}, {depth_ * tile.pixels, tile.pixels, 1});
  }
  Matrices weights_of(const Tensor& weight, int64_t batch, int64_t batch_stride) const {
    return on_device(data<T>(weight), {batch, shape_.group_outputs(), depth_}, {batch_stride, depth_, 1});
  }

  const DeformShape& shape_;
  const Tensor& input_;
  Tensor weight_;
  int64_t depth_;  // of a product: the columns that an output has
  DeformInputs<T> inputs_;
  int64_t tile_images_, tile_pixels_;
  Tensor columns_;
};
}  // namespace detops
