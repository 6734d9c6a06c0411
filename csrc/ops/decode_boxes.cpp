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

// x in the first lane, y in the next, and so on.
template <typename V>
DETOPS_HD V in_turn(element_t<V> x, element_t<V> y) {
  return interleave(broadcast<V>(x), broadcast<V>(y)).a;
}
template <typename V, typename A>
DETOPS_HD AxisEncoder<V> in_turn(const AxisEncoder<A>& x, const AxisEncoder<A>& y) {
  return {in_turn<V>(x.shift_weight, y.shift_weight), in_turn<V>(x.growth_weight, y.growth_weight)};
}
template <typename V, typename A>
DETOPS_HD AxisDecoder<V> in_turn(const AxisDecoder<A>& x, const AxisDecoder<A>& y) {
  return {in_turn<V>(x.shift_scale, y.shift_scale), in_turn<V>(x.growth_scale, y.growth_scale),
          in_turn<V>(x.most_growth, y.most_growth), in_turn<V>(x.least, y.least), in_turn<V>(x.most, y.most)};
}

// The numbers of both axes in turn, of rows that fill two vectors.
template <typename V>
DETOPS_HD OfAxis<V> split(V a, V b) {
  constexpr int n = sizeof(V) / sizeof(element_t<V>);
  decltype(V{} < V{}) first;
  for (int i = 0; i < n; ++i) first[i] = i / 2 * 4 + i % 2;
  return {__builtin_shuffle(a, b, first), __builtin_shuffle(a, b, first + 2)};
}
// And back.
template <typename V>
DETOPS_HD EndToEnd<V> join(const OfAxis<V>& of) {
  constexpr int n = sizeof(V) / sizeof(element_t<V>);
  decltype(V{} < V{}) front, back;
  for (int i = 0; i < n; ++i) {
    const auto lane = [](int place) { return place / 4 * 2 + place % 2 + place / 2 % 2 * n; };
    front[i] = lane(i), back[i] = lane(n + i);
  }
  return {__builtin_shuffle(of.first, of.second, front), __builtin_shuffle(of.first, of.second, back)};
}

// Rows of one image to rows of A without gaps.
template <typename V, typename T, typename A>
DETOPS_HD void copy_run(const RawBoxes& from, int64_t first, int64_t count, A* to) {
  const T* row = reinterpret_cast<const T*>(from.data) + first;
  const int64_t column = from.column_stride;
  if (from.row_stride == 4 && column == 1) {
    int64_t i = 0;
    if constexpr (std::is_same_v<acc_t<T>, A>) {
      constexpr int64_t kLanes = sizeof(V) / sizeof(A);
      for (; i + kLanes <= 4 * count; i += kLanes) store(to + i, load<V>(row + i));
    }
    for (; i < 4 * count; ++i) to[i] = static_cast<A>(row[i]);
    return;
  }
  if (from.row_stride == 0) {  // one row for many
    constexpr int64_t kPattern = 64 / sizeof(A);
    alignas(64) A pattern[kPattern];
    for (int64_t i = 0; i < kPattern; ++i) pattern[i] = static_cast<A>(row[i % 4 * column]);
    for (int64_t i = 0; i < 4 * count; i += kPattern) {
      const int64_t size = std::min(kPattern, 4 * count - i);
      if (size == kPattern) {
        std::memcpy(to + i, pattern, sizeof pattern);
      } else {
        std::copy(pattern, pattern + size, to + i);
      }
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i, row += from.row_stride, to += 4) {
    to[0] = static_cast<A>(row[0]), to[1] = static_cast<A>(row[column]);
    to[2] = static_cast<A>(row[2 * column]), to[3] = static_cast<A>(row[3 * column]);
  }
}

// Rows [begin, begin + count) of (images, rows, 4), counted through all images; then zeros up to kRows. Compiled once,
// with its own switch of instruction sets: inlined into every kernel it would take minutes.
template <typename A>
[[gnu::noinline]] void copy_rows(const RawBoxes& from, int64_t begin, int64_t count, A* to) {
  simd([&](auto isa) DETOPS_INLINE {
    using V = Vec<decltype(isa), A>;
    for (int64_t done = 0; done < count;) {
      const int64_t image = (begin + done) / from.size, row = (begin + done) % from.size;
      const int64_t run = std::min(count - done, from.size - row);
      const int64_t first = image * from.image_stride + row * from.row_stride;
      switch (from.dtype) {
        case ScalarType::Float:
          copy_run<V, float>(from, first, run, to + 4 * done);
          break;
        case ScalarType::Double:
          copy_run<V, double>(from, first, run, to + 4 * done);
          break;
        case ScalarType::Half:
          copy_run<V, Half>(from, first, run, to + 4 * done);
          break;
        default:
          copy_run<V, BFloat16>(from, first, run, to + 4 * done);
      }
      done += run;
    }
  });
  std::fill(to + 4 * count, to + 4 * kRows, A(0));
}

// The same in place if possible, else in the buffer.
template <typename A>
DETOPS_HD const A* read(const RawBoxes& from, int64_t begin, int64_t count, A* buffer) {
  const bool in_place = from.dtype == torch::headeronly::CppTypeToScalarType<A>::value && from.row_stride == 4 &&
                        from.column_stride == 1 && begin + count <= from.size;
  if (in_place && count == kRows) return reinterpret_cast<const A*>(from.data) + 4 * begin;
  copy_rows(from, begin, count, buffer);
  return buffer;
}

template <typename A, typename Isa, typename Out, typename Fn, typename Both>
DETOPS_HD void map_block(const RowsArgs<Out, Fn>& args, const Both& both, int64_t begin, int64_t count) {
  using V = Vec<Isa, A>;
  constexpr int64_t kLanes = lanes<Isa, A>;
  alignas(64) A buffers[Fn::kInputs][4 * kRows];
  alignas(64) Out last[2 * kLanes];
  const A* from[Fn::kInputs];
  for (int k = 0; k < Fn::kInputs; ++k) from[k] = read(args.inputs[k], begin, count, buffers[k]);
  for (int64_t i = 0; i < 4 * count; i += 2 * kLanes) {
    OfAxis<V> in[Fn::kInputs], out[Fn::kOutputs];
    for (int k = 0; k < Fn::kInputs; ++k) in[k] = split(load<V>(from[k] + i), load<V>(from[k] + i + kLanes));
    both(in, out);
    const int64_t left = std::min(4 * count - i, 2 * kLanes);
    for (int k = 0; k < Fn::kOutputs; ++k) {
      if (args.outputs[k] == nullptr) continue;
      Out* const end = args.outputs[k] + 4 * begin + i;
      Out* const to = left == 2 * kLanes ? end : last;
      const EndToEnd<V> rows = join(out[k]);
      store(to, rows.a);
      store(to + kLanes, rows.b);
      if (left < 2 * kLanes) std::copy(last, last + left, end);
    }
  }
}

// Fn for vectors V of both axes.
template <typename Fn, typename V>
struct BothOf;
template <template <typename> class Fn, typename A, typename V>
struct BothOf<Fn<A>, V> {
  using type = Fn<V>;
};
template <typename Fn, typename V>
using Both = typename BothOf<Fn, V>::type;

template <typename A, typename Out, typename Fn>
void map_rows_cpu(const RowsArgs<Out, Fn>& args) {
  parallel_for(args.images * args.rows, grain_for(2.0), [&](int64_t begin, int64_t end) {
    simd([&](auto isa) DETOPS_INLINE {
      const Both<Fn, Vec<decltype(isa), A>> both{in_turn<Vec<decltype(isa), A>>(args.x, args.y)};
      for (int64_t i = begin; i < end; i += kRows) {
        map_block<A, decltype(isa)>(args, both, i, std::min(kRows, end - i));
      }
    });
  });
}

// Runs Fn, for both axes, over all rows of the first tensor, (rows, 4) or (images, rows, 4), to which the others broadcast.
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
