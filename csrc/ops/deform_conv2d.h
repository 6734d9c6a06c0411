// Deformable convolution: a convolution whose kernel points are moved, each at each output pixel, by an offset of its
// own, "Deformable Convolutional Networks" (arXiv:1703.06211, equations 2 to 4), and weighed by a mask, "Deformable
// ConvNets v2" (arXiv:1811.11168, equation 1). A matrix product of the weight and of columns, the samples that an
// output pixel's kernel points take of each channel.
#pragma once
#include <torch/headeronly/core/ScalarType.h>

#include "../math/bilinear.h"

namespace detops {
using torch::headeronly::ScalarType;

struct DeformAxis {
  int64_t size, output_size, kernel_size, stride, padding, dilation;

  // Where a kernel point lies before it is moved, in pixels of the input.
  DETOPS_HD int64_t position(int64_t output, int64_t point) const {
    return output * stride - padding + point * dilation;
  }
};

struct DeformShape {
  DeformAxis y, x;
  int64_t images, channels, out_channels;
  int64_t groups;         // of channels that the weight connects
  int64_t offset_groups;  // of channels that are sampled at the same places

  DETOPS_HD int64_t points() const { return y.kernel_size * x.kernel_size; }
  DETOPS_HD int64_t pixels() const { return y.output_size * x.output_size; }
  DETOPS_HD int64_t group_channels() const { return channels / groups; }
  DETOPS_HD int64_t group_outputs() const { return out_channels / groups; }
  DETOPS_HD int64_t offset_channels() const { return channels / offset_groups; }

  // Cells lie between pixels: that to the left and above pixel (y, x) is cell (y, x) of (H + 1, W + 1).
  DETOPS_HD int64_t cells() const { return (y.size + 1) * (x.size + 1); }
  DETOPS_HD int64_t cell(int64_t plane, int64_t row, int64_t column) const {
    return plane * cells() + row * (x.size + 1) + column;
  }
};

// A place in the plane, between four pixels.
template <typename A>
struct DeformSample {
  PaddedTaps<A> y, x;

  DETOPS_HD bool on_map() const { return y.on_map && x.on_map; }
};

template <typename A>
DETOPS_HD DeformSample<A> deform_sample(const DeformShape& shape, int64_t y, int64_t x, int64_t point, A y_offset,
                                        A x_offset) {
  const int64_t row = shape.y.position(y, point / shape.x.kernel_size);
  const int64_t column = shape.x.position(x, point % shape.x.kernel_size);
  return {padded_taps(static_cast<A>(row) + y_offset, shape.y.size),
          padded_taps(static_cast<A>(column) + x_offset, shape.x.size)};
}

// The weights of the four pixels, or a sum for each; by row, then column.
template <typename A>
struct Corners {
  A low_low, low_high, high_low, high_high;
};

template <typename A>
DETOPS_HD Corners<A> bilinear_weights(A y, A x, A factor) {
  const A low = (A(1) - y) * factor, high = y * factor;
  return {low * (A(1) - x), low * x, high * (A(1) - x), high * x};
}

// Derivatives of mask * sample with respect to these, where `sums` are the four pixels times the gradient of the
// column, summed over the channels. Between two cells, that of the cell to the right and below.
template <typename A>
struct DeformGradient {
  A y, x, mask;
};
template <typename A>
DETOPS_HD DeformGradient<A> deform_gradient(A y, A x, A mask, const Corners<A>& sums) {
  const A upper = (A(1) - x) * sums.low_low + x * sums.low_high,
          lower = (A(1) - x) * sums.high_low + x * sums.high_high;
  const A left = (A(1) - y) * sums.low_low + y * sums.high_low, right = (A(1) - y) * sums.low_high + y * sums.high_high;
  return {mask * (lower - upper), mask * (right - left), (A(1) - y) * upper + y * lower};
}

// A tensor (N, *, H, W) of any floating dtype and any strides.
struct DeformField {
  const char* data;  // null if there is none
  ScalarType dtype;
  int64_t strides[4];

  template <typename A>
  DETOPS_HD A load(int64_t n, int64_t c, int64_t y, int64_t x) const {
    const int64_t at = n * strides[0] + c * strides[1] + y * strides[2] + x * strides[3];
    switch (dtype) {
      case ScalarType::Float:
        return static_cast<A>(reinterpret_cast<const float*>(data)[at]);
      case ScalarType::Double:
        return static_cast<A>(reinterpret_cast<const double*>(data)[at]);
      case ScalarType::Half:
        return static_cast<A>(reinterpret_cast<const Half*>(data)[at]);
      default:
        return static_cast<A>(reinterpret_cast<const BFloat16*>(data)[at]);
    }
  }
};

// A tensor without gaps, of any floating dtype, to be written; null: not wanted.
struct DeformResult {
  char* data;
  ScalarType dtype;

  template <typename A>
  DETOPS_HD void store(int64_t at, A value) const {
    if (data == nullptr) return;
    switch (dtype) {
      case ScalarType::Float:
        reinterpret_cast<float*>(data)[at] = static_cast<float>(value);
        return;
      case ScalarType::Double:
        reinterpret_cast<double*>(data)[at] = static_cast<double>(value);
        return;
      case ScalarType::Half:
        reinterpret_cast<Half*>(data)[at] = static_cast<Half>(static_cast<float>(value));
        return;
      default:
        reinterpret_cast<BFloat16*>(data)[at] = static_cast<BFloat16>(static_cast<float>(value));
    }
  }
};

// Output pixels of consecutive images whose columns are in memory together.
struct DeformTile {
  int64_t image, images, pixel, pixels;
};

template <typename T>
struct DeformInputs {
  DeformShape shape;
  DeformTile tile;
  const T* input;
  int64_t strides[4];  // of input
  DeformField offset, mask;

  // One for all channels of an offset group: (images, offset groups, points, pixels) of the tile.
  DETOPS_HD int64_t samples() const { return tile.images * shape.offset_groups * shape.points() * tile.pixels; }
  // Of all images and offset groups.
  DETOPS_HD int64_t cells() const { return tile.images * shape.offset_groups * shape.cells(); }
};

template <typename T>
struct DeformColumnsArgs {
  DeformInputs<T> from;
  T* columns;  // (images, channels, points, pixels) of the tile
};

// Gradients of offset and mask by that of the columns.
template <typename T>
struct DeformPositionsArgs {
  DeformInputs<T> from;
  const T* columns;
  DeformResult offset, mask;
};

// The cell of each sample, the number of cells off the map, and its weights.
template <typename T>
struct DeformCellsArgs {
  DeformInputs<T> from;
  int64_t* cells;
  Corners<acc_t<T>>* weights;
};

// Where in the sorted cells of samples each cell begins.
struct DeformStartsArgs {
  const int64_t* sorted;
  int64_t num_samples, num_cells;
  int64_t* starts;  // (num_cells + 1,)
};

// Gradient of the input by that of the columns.
template <typename T>
struct DeformGatherArgs {
  DeformShape shape;
  DeformTile tile;
  const T* columns;
  const int64_t *order, *starts;  // samples by cell
  const Corners<acc_t<T>>* weights;
  acc_t<T>* input;  // to be added to
  int64_t strides[4];
};

template <typename T>
void deform_columns_cuda(const DeformColumnsArgs<T>& args, void* stream);
template <typename T>
void deform_positions_cuda(const DeformPositionsArgs<T>& args, void* stream);
template <typename T>
void deform_cells_cuda(const DeformCellsArgs<T>& args, void* stream);
void deform_starts_cuda(const DeformStartsArgs& args, void* stream);
template <typename T>
void deform_gather_cuda(const DeformGatherArgs<T>& args, void* stream);
}  // namespace detops
