#include "decode_boxes.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <tuple>

#include "decode_boxes_cpu.h"

namespace detops {
namespace {
// Runs Fn over all rows of the first tensor, (rows, 4) or (images, rows, 4), to which the others broadcast.
template <typename Out, typename Fn>
void map_rows(const char* op, const std::array<const Tensor*, Fn::kInputs>& tensors,
              const std::array<Out*, Fn::kOutputs>& outputs, const std::array<Fn, 2>& axes) {
  const Tensor& first = *tensors[0];
  int64_t images = first.dim() == 3 ? first.size(0) : 1, rows = first.size(first.dim() - 2);
  if (images * rows == 0) return;
  const auto view = [&](const Tensor& tensor) {
    BoxView boxes(tensor);
    if (tensor.dim() == 3 && tensor.size(0) == 1) boxes.image_stride = 0;
    if (tensor.size(tensor.dim() - 2) == 1) boxes.row_stride = rows == 1 ? boxes.image_stride : 0;
    return boxes;
  };
  const auto run = [&](auto... of_inputs) {
    BoxView views[] = {view(*tensors[of_inputs])...};
    bool evenly = true;  // from the last row of an image to the first of the next as from row to row
    for (const BoxView& boxes : views) {
      evenly = evenly && (images == 1 || rows == 1 || boxes.image_stride == rows * boxes.row_stride);
    }
    if (evenly) rows *= images, images = 1;
    for (BoxView& boxes : views) boxes.size = rows;
    RowsArgs<Out, Fn> args{{views[of_inputs]...}, {}, images, rows, axes[0], axes[1]};
    std::copy(outputs.begin(), outputs.end(), args.outputs);
    dispatch_device(
        first, [&] { map_rows_cpu<acc_t<Out>>(args); },
        [&](void* stream) { map_rows_cuda<Out, Fn>(op, args, stream); });
  };
  if constexpr (Fn::kInputs == 2) {
    run(0, 1);
  } else {
    run(0, 1, 2);
  }
}

void check(const char* op, const char* name, const Tensor& tensor, const Tensor& anchors) {
  check_floating(op, name, tensor);
  check_floating(op, "anchors", anchors);
  if (tensor.dim() == 3) {
    check_shape(op, name, tensor, {kAny, kAny, 4});
  } else {
    check_shape(op, name, tensor, {kAny, 4});
  }
  bool fits = anchors.dim() == tensor.dim() && anchors.size(anchors.dim() - 1) == 4;
  for (int64_t d = 0; fits && d < tensor.dim(); ++d) fits = anchors.size(d) == 1 || anchors.size(d) == tensor.size(d);
  if (!fits) {
    fail(op, "expected anchors of a shape that broadcasts to that of ", name, ", ", shape_of(tensor), ", got ",
         shape_of(anchors));
  }
  check_same_device(op, name, tensor, "anchors", anchors);
}

void check_grad(const char* op, const char* name, const Tensor& tensor, const Tensor& grad) {
  check_floating(op, "grad", grad);
  bool same = grad.dim() == tensor.dim();
  for (int64_t d = 0; same && d < tensor.dim(); ++d) same = grad.size(d) == tensor.size(d);
  if (!same) fail(op, "expected grad of the shape of ", name, ", ", shape_of(tensor), ", got ", shape_of(grad));
  check_same_device(op, name, tensor, "grad", grad);
}

// Of the shape of `like`; without elements if not wanted.
Tensor new_rows(const Tensor& like, ScalarType dtype, bool wanted = true) {
  if (!wanted) return new_tensor<1>(like, {0}, dtype);
  return like.dim() == 3 ? new_tensor<3>(like, {like.size(0), like.size(1), 4}, dtype)
                         : new_tensor<2>(like, {like.size(0), 4}, dtype);
}

template <typename Out, typename Fn>
Tensor forward(const char* op, const Tensor& tensor, const Tensor& anchors, const std::array<Fn, 2>& axes) {
  Tensor output = new_rows(tensor, tensor.scalar_type());
  map_rows<Out, Fn>(op, {&tensor, &anchors}, {mutable_data<Out>(output)}, axes);
  return output;
}

// In the accumulator's dtype, of the shape of the first tensor both.
template <typename A, typename Fn>
std::tuple<Tensor, Tensor> backward(const char* op, const Tensor& grad, const Tensor& tensor, const Tensor& anchors,
                                    bool wants_first, bool wants_anchors, const std::array<Fn, 2>& axes) {
  const ScalarType dtype = torch::headeronly::CppTypeToScalarType<A>::value;
  Tensor first = new_rows(tensor, dtype, wants_first), of_anchors = new_rows(tensor, dtype, wants_anchors);
  map_rows<A, Fn>(
      op, {&tensor, &anchors, &grad},
      {wants_first ? mutable_data<A>(first) : nullptr, wants_anchors ? mutable_data<A>(of_anchors) : nullptr}, axes);
  return {first, of_anchors};
}

// Fn<A> for x and for y.
template <template <typename> class Fn, typename A>
std::array<Fn<A>, 2> encoder(double wx, double wy, double ww, double wh) {
  return {Fn<A>{{static_cast<A>(wx), static_cast<A>(ww)}}, Fn<A>{{static_cast<A>(wy), static_cast<A>(wh)}}};
}
template <template <typename> class Fn, typename A>
std::array<Fn<A>, 2> decoder(double wx, double wy, double ww, double wh, double clip, std::optional<double> height,
                             std::optional<double> width) {
  const auto axis = [&](double shift_weight, double growth_weight, std::optional<double> size) {
    constexpr A kInfinity = std::numeric_limits<A>::infinity();
    return Fn<A>{{static_cast<A>(1 / shift_weight), static_cast<A>(1 / growth_weight), static_cast<A>(clip),
                  size ? A(0) : -kInfinity, size ? static_cast<A>(*size) : kInfinity}};
  };
  return {axis(wx, ww, width), axis(wy, wh, height)};
}
}  // namespace

Tensor encode_boxes(const Tensor& boxes, const Tensor& anchors, double wx, double wy, double ww, double wh) {
  check("encode_boxes", "boxes", boxes, anchors);
  Tensor offsets;
  dispatch_floating("encode_boxes", boxes, [&](auto type) {
    using T = typename decltype(type)::type;
    offsets = forward<T>("encode_boxes", boxes, anchors, encoder<EncodeRows, acc_t<T>>(wx, wy, ww, wh));
  });
  return offsets;
}
DETOPS_OP(encode_boxes, "(Tensor boxes, Tensor anchors, float wx, float wy, float ww, float wh) -> Tensor")

std::tuple<Tensor, Tensor> encode_boxes_backward(const Tensor& grad, const Tensor& boxes, const Tensor& anchors,
                                                 double wx, double wy, double ww, double wh, bool wants_boxes,
                                                 bool wants_anchors) {
  const char* op = "encode_boxes_backward";
  check(op, "boxes", boxes, anchors);
  check_grad(op, "boxes", boxes, grad);
  const auto run = [&](auto type) {
    using A = typename decltype(type)::type;
    return backward<A>(op, grad, boxes, anchors, wants_boxes, wants_anchors,
                       encoder<EncodeRowsBackward, A>(wx, wy, ww, wh));
  };
  return is_double(boxes) ? run(Type<double>{}) : run(Type<float>{});
}
DETOPS_OP(encode_boxes_backward,
          "(Tensor grad, Tensor boxes, Tensor anchors, float wx, float wy, float ww, float wh, bool wants_boxes, "
          "bool wants_anchors) -> (Tensor, Tensor)")

Tensor decode_boxes(const Tensor& deltas, const Tensor& anchors, double wx, double wy, double ww, double wh,
                    double clip, std::optional<double> height, std::optional<double> width) {
  check("decode_boxes", "deltas", deltas, anchors);
  Tensor boxes;
  dispatch_floating("decode_boxes", deltas, [&](auto type) {
    using T = typename decltype(type)::type;
    boxes =
        forward<T>("decode_boxes", deltas, anchors, decoder<DecodeRows, acc_t<T>>(wx, wy, ww, wh, clip, height, width));
  });
  return boxes;
}
DETOPS_OP(decode_boxes,
          "(Tensor deltas, Tensor anchors, float wx, float wy, float ww, float wh, float clip, float? height, "
          "float? width) -> Tensor")

std::tuple<Tensor, Tensor> decode_boxes_backward(const Tensor& grad, const Tensor& deltas, const Tensor& anchors,
                                                 double wx, double wy, double ww, double wh, double clip,
                                                 std::optional<double> height, std::optional<double> width,
                                                 bool wants_deltas, bool wants_anchors) {
  const char* op = "decode_boxes_backward";
  check(op, "deltas", deltas, anchors);
  check_grad(op, "deltas", deltas, grad);
  const auto run = [&](auto type) {
    using A = typename decltype(type)::type;
    return backward<A>(op, grad, deltas, anchors, wants_deltas, wants_anchors,
                       decoder<DecodeRowsBackward, A>(wx, wy, ww, wh, clip, height, width));
  };
  return is_double(deltas) ? run(Type<double>{}) : run(Type<float>{});
}
DETOPS_OP(decode_boxes_backward,
          "(Tensor grad, Tensor deltas, Tensor anchors, float wx, float wy, float ww, float wh, float clip, "
          "float? height, float? width, bool wants_deltas, bool wants_anchors) -> (Tensor, Tensor)")
}  // namespace detops
