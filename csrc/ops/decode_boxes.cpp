#include "decode_boxes.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <tuple>

#include "box_columns.h"

namespace detops {
namespace {
constexpr int64_t kRows = 256;  // that a task reads at a time

template <typename A>
struct alignas(64) Columns {
  A x1[kRows], y1[kRows], x2[kRows], y2[kRows];
};

// Rows [begin, begin + count) of (images, rows, 4), counted through all images; then zeros up to a multiple of 64.
template <typename V, typename A>
DETOPS_HD void read(const BoxView& from, int64_t begin, int64_t count, Columns<A>& to) {
  for (int64_t done = 0; done < count;) {
    const int64_t image = (begin + done) / from.size, row = (begin + done) % from.size;
    const int64_t run = std::min(count - done, from.size - row);
    BoxView rows = from;
    rows.data += image * from.image_stride * element_size(from.dtype);
    rows.template read_vectors<V>(row, run, to.x1 + done, to.y1 + done, to.x2 + done, to.y2 + done);
    done += run;
  }
  for (A* column : {to.x1, to.y1, to.x2, to.y2}) std::fill(column + count, column + (count + 63) / 64 * 64, A(0));
}

template <typename V, typename A>
DETOPS_HD Row<V> row(const Columns<A>& columns, int64_t i) {
  return {load<V>(columns.x1 + i), load<V>(columns.y1 + i), load<V>(columns.x2 + i), load<V>(columns.y2 + i)};
}
template <typename V, typename A>
DETOPS_HD void set_row(Columns<A>& columns, int64_t i, const Row<V>& row) {
  store(columns.x1 + i, row.x1);
  store(columns.y1 + i, row.y1);
  store(columns.x2 + i, row.x2);
  store(columns.y2 + i, row.y2);
}

template <typename A, typename Isa, typename Out, typename Fn>
DETOPS_HD void map_block(const BoxView (&inputs)[Fn::kInputs], Out* const (&outputs)[Fn::kOutputs], const Fn& fn,
                         int64_t begin, int64_t count) {
  using V = Vec<Isa, A>;
  Columns<A> in[Fn::kInputs], out[Fn::kOutputs];
  for (int k = 0; k < Fn::kInputs; ++k) read<V>(inputs[k], begin, count, in[k]);
  for (int64_t i = 0; i < count; i += lanes<Isa, A>) {
    Row<V> from[Fn::kInputs], to[Fn::kOutputs];
    for (int k = 0; k < Fn::kInputs; ++k) from[k] = row<V>(in[k], i);
    fn(from, to);
    for (int k = 0; k < Fn::kOutputs; ++k) set_row(out[k], i, to[k]);
  }
  for (int k = 0; k < Fn::kOutputs; ++k) {
    if (outputs[k] == nullptr) continue;
    join_rows<V>(out[k].x1, out[k].y1, out[k].x2, out[k].y2, count, outputs[k] + 4 * begin);
  }
}

template <typename A, typename Out, typename Fn>
void map_rows_cpu(const BoxView (&inputs)[Fn::kInputs], const RowsArgs<Out, Fn>& args) {
  parallel_for(args.images * args.rows, grain_for(2.0), [&](int64_t begin, int64_t end) {
    simd([&](auto isa) DETOPS_INLINE {
      for (int64_t i = begin; i < end; i += kRows) {
        map_block<A, decltype(isa)>(inputs, args.outputs, args.fn, i, std::min(kRows, end - i));
      }
    });
  });
}

// Runs fn over all rows of the first tensor, (rows, 4) or (images, rows, 4), to which the others broadcast.
template <typename Out, typename Fn>
void map_rows(const char* op, const std::array<const Tensor*, Fn::kInputs>& tensors,
              const std::array<Out*, Fn::kOutputs>& outputs, const Fn& fn) {
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
    RowsArgs<Out, Fn> args{{views[of_inputs]...}, {}, images, rows, fn};
    std::copy(outputs.begin(), outputs.end(), args.outputs);
    dispatch_device(
        first, [&] { map_rows_cpu<acc_t<Out>>(views, args); },
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
Tensor forward(const char* op, const Tensor& tensor, const Tensor& anchors, const Fn& fn) {
  Tensor output = new_rows(tensor, tensor.scalar_type());
  map_rows<Out, Fn>(op, {&tensor, &anchors}, {mutable_data<Out>(output)}, fn);
  return output;
}

// In the accumulator's dtype, of the shape of the first tensor both.
template <typename A, typename Fn>
std::tuple<Tensor, Tensor> backward(const char* op, const Tensor& grad, const Tensor& tensor, const Tensor& anchors,
                                    bool wants_first, bool wants_anchors, const Fn& fn) {
  const ScalarType dtype = torch::headeronly::CppTypeToScalarType<A>::value;
  Tensor first = new_rows(tensor, dtype, wants_first), of_anchors = new_rows(tensor, dtype, wants_anchors);
  map_rows<A, Fn>(
      op, {&tensor, &anchors, &grad},
      {wants_first ? mutable_data<A>(first) : nullptr, wants_anchors ? mutable_data<A>(of_anchors) : nullptr}, fn);
  return {first, of_anchors};
}

// Fn<A> for both axes.
template <template <typename> class Fn, typename A>
Fn<A> encoder(double wx, double wy, double ww, double wh) {
  return {{static_cast<A>(wx), static_cast<A>(ww)}, {static_cast<A>(wy), static_cast<A>(wh)}};
}
template <template <typename> class Fn, typename A>
Fn<A> decoder(double wx, double wy, double ww, double wh, double clip, std::optional<double> height,
              std::optional<double> width) {
  const auto axis = [&](double shift_weight, double growth_weight, std::optional<double> size) {
    constexpr A kInfinity = std::numeric_limits<A>::infinity();
    return AxisDecoder<A>{static_cast<A>(1 / shift_weight), static_cast<A>(1 / growth_weight), static_cast<A>(clip),
                          size ? A(0) : -kInfinity, size ? static_cast<A>(*size) : kInfinity};
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
