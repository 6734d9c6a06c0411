#include "deform_conv2d.h"

#include <optional>
#include <tuple>

#include "deform_batches.h"
#include "deform_gradients.h"

namespace detops {
namespace {
struct Pair {
  int64_t y, x;
};

void check_at_least(const char* op, const char* name, Pair pair, int64_t least) {
  if (pair.y < least || pair.x < least) {
    fail(op, "expected ", name, " of at least ", least, ", got (", pair.y, ", ", pair.x, ")");
  }
}

DeformShape check(const char* op, const Tensor& input, const Tensor& weight, const Tensor& offset, const Tensor* mask,
                  const Tensor* bias, Pair stride, Pair padding, Pair dilation) {
  check_floating(op, "input", input);
  check_shape(op, "input", input, {kAny, kAny, kAny, kAny});
  check_same_dtype(op, "input", input, "weight", weight);
  check_shape(op, "weight", weight, {kAny, kAny, kAny, kAny});
  check_same_device(op, "input", input, "weight", weight);
  check_at_least(op, "stride", stride, 1);
  check_at_least(op, "padding", padding, 0);
  check_at_least(op, "dilation", dilation, 1);
  const int64_t channels = input.size(1), out_channels = weight.size(0), connected = weight.size(1);
  const Pair kernel{weight.size(2), weight.size(3)};
  check_at_least(op, "weight with a kernel", kernel, 1);
  if (connected == 0 || channels == 0 || channels % connected != 0) {
    fail(op, "expected weight of shape (*, ", channels, " / groups, *, *), got ", shape_of(weight));
  }
  const int64_t groups = channels / connected;
  if (out_channels % groups != 0) {
    fail(op, "expected weight with output channels that ", groups, " groups divide, got ", shape_of(weight));
  }
  const Pair reach{dilation.y * (kernel.y - 1) + 1, dilation.x * (kernel.x - 1) + 1};
  const Pair padded{input.size(2) + 2 * padding.y, input.size(3) + 2 * padding.x};
  if (padded.y < reach.y || padded.x < reach.x) {
    fail(op, "expected input with padding no smaller than the kernel, (", reach.y, ", ", reach.x, "), got (", padded.y,
         ", ", padded.x, ")");
  }
  const DeformAxis y{input.size(2), (padded.y - reach.y) / stride.y + 1, kernel.y, stride.y, padding.y, dilation.y};
  const DeformAxis x{input.size(3), (padded.x - reach.x) / stride.x + 1, kernel.x, stride.x, padding.x, dilation.x};
  const int64_t points = kernel.y * kernel.x;
  check_floating(op, "offset", offset);
  check_shape(op, "offset", offset, {kAny, kAny, kAny, kAny});
  const int64_t offset_groups = std::max<int64_t>(offset.size(1) / (2 * points), 1);
  check_shape(op, "offset", offset, {input.size(0), 2 * offset_groups * points, y.output_size, x.output_size});
  if (channels % offset_groups != 0) {
    fail(op, "expected offset with groups that divide the ", channels, " channels of input, got ", offset_groups);
  }
  check_same_device(op, "input", input, "offset", offset);
  if (mask != nullptr) {
    check_floating(op, "mask", *mask);
    check_shape(op, "mask", *mask, {input.size(0), offset_groups * points, y.output_size, x.output_size});
    check_same_device(op, "input", input, "mask", *mask);
  }
  if (bias != nullptr) {
    check_same_dtype(op, "input", input, "bias", *bias);
    check_shape(op, "bias", *bias, {out_channels});
    check_same_device(op, "input", input, "bias", *bias);
  }
  return {y, x, input.size(0), channels, out_channels, groups, offset_groups};
}

const Tensor* pointer(const std::optional<Tensor>& t) { return t ? &*t : nullptr; }

std::array<int64_t, 4> sizes_of(const Tensor& t) { return {t.size(0), t.size(1), t.size(2), t.size(3)}; }

Tensor new_result(const Tensor& like, bool wanted, bool channels_last = false) {
  return wanted ? new_maps(like, sizes_of(like), channels_last) : new_tensor<1>(like, {0}, like.scalar_type());
}
}  // namespace

Tensor deform_conv2d(const Tensor& input, const Tensor& weight, const Tensor& offset, const std::optional<Tensor>& mask,
                     const std::optional<Tensor>& bias, int64_t stride_y, int64_t stride_x, int64_t padding_y,
                     int64_t padding_x, int64_t dilation_y, int64_t dilation_x) {
  const char* op = "deform_conv2d";
  const DeformShape shape = check(op, input, weight, offset, pointer(mask), pointer(bias), {stride_y, stride_x},
                                  {padding_y, padding_x}, {dilation_y, dilation_x});
  Tensor output = new_maps(input, {shape.images, shape.out_channels, shape.y.output_size, shape.x.output_size},
                           is_channels_last(input));
  if (shape.images == 0 || shape.out_channels == 0) return output;
  dispatch_floating(op, input, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_device(
        input,
        [&] { DeformForward<T>(shape, input, weight, field_of(offset), field_of(mask), pointer(bias), output).run(); },
        [&](void* stream) { DeformOnCuda<T>(shape, input, weight, offset, mask).run(pointer(bias), output, stream); });
  });
  return output;
}
DETOPS_OP(deform_conv2d,
          "(Tensor input, Tensor weight, Tensor offset, Tensor? mask, Tensor? bias, int stride_y, int stride_x, "
          "int padding_y, int padding_x, int dilation_y, int dilation_x) -> Tensor")

// Gradients with respect to input, weight, offset and mask; (0,) where not wanted.
std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight, const Tensor& offset,
    const std::optional<Tensor>& mask, int64_t stride_y, int64_t stride_x, int64_t padding_y, int64_t padding_x,
    int64_t dilation_y, int64_t dilation_x, bool wants_input, bool wants_weight, bool wants_offset, bool wants_mask) {
  const char* op = "deform_conv2d_backward";
  const DeformShape shape = check(op, input, weight, offset, pointer(mask), nullptr, {stride_y, stride_x},
                                  {padding_y, padding_x}, {dilation_y, dilation_x});
  check_same_dtype(op, "input", input, "grad", grad);
  check_shape(op, "grad", grad, {shape.images, shape.out_channels, shape.y.output_size, shape.x.output_size});
  check_same_device(op, "input", input, "grad", grad);
  wants_mask = wants_mask && mask;
  std::tuple<Tensor, Tensor, Tensor, Tensor> result{new_result(input, wants_input, is_channels_last(input)),
                                                    new_result(weight, wants_weight), new_result(offset, wants_offset),
                                                    new_result(mask ? *mask : input, wants_mask)};
  auto& [d_input, d_weight, d_offset, d_mask] = result;
  if (shape.images == 0 || shape.out_channels == 0) {
    for (Tensor* t : {&d_input, &d_weight, &d_offset, &d_mask}) torch::stable::zero_(*t);
    return result;
  }
  const auto wanted = [](Tensor& t, bool wants) { return wants ? &t : nullptr; };
  dispatch_floating(op, input, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_device(
        input,
        [&] {
          DeformBackward<T>(shape, grad, input, weight, field_of(offset), field_of(mask), wanted(d_input, wants_input),
                            wanted(d_weight, wants_weight), wanted(d_offset, wants_offset), wanted(d_mask, wants_mask))
              .run();
        },
        [&](void* stream) {
          DeformOnCuda<T>(shape, input, weight, offset, mask)
              .backpropagate(grad, wanted(d_input, wants_input), wanted(d_weight, wants_weight),
                             wanted(d_offset, wants_offset), wanted(d_mask, wants_mask), stream);
        });
  });
  return result;
}
DETOPS_OP(deform_conv2d_backward,
          "(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor? mask, int stride_y, int stride_x, "
          "int padding_y, int padding_x, int dilation_y, int dilation_x, bool wants_input, bool wants_weight, "
          "bool wants_offset, bool wants_mask) -> (Tensor, Tensor, Tensor, Tensor)")
}  // namespace detops
