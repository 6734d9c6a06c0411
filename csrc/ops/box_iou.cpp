#include "box_iou.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "box_columns.h"

namespace detops {
namespace {
// One image's boxes with what the kind of overlap needs of each; `aspect` is empty but for CIoU.
template <typename A>
struct Side {
  BoxColumns<A> boxes;
  std::vector<A> aspects;

  Side(const Tensor& tensor, int64_t image, Overlap kind) : boxes(BoxView(tensor, image)) {
    if (kind != Overlap::kComplete) return;
    aspects.resize(boxes.size + BoxColumns<A>::kPadding);
    parallel_for(boxes.size, grain_for(2.0), [&](int64_t begin, int64_t end) {
      if constexpr (std::is_same_v<A, double>) {
        for (int64_t i = begin; i < end; ++i) aspects[i] = aspect(boxes[i]);
      } else {
        simd([&](auto isa) DETOPS_INLINE {
          using V = Vec<decltype(isa), A>;
          int64_t i = begin;
          for (; i + lanes<decltype(isa), A> <= end; i += lanes<decltype(isa), A>) {
            store(aspects.data() + i, aspect(boxes.template vector<V>(i)));
          }
          for (; i < end; ++i) aspects[i] = aspect(boxes[i]);
        });
      }
    });
  }

  template <typename V>
  DETOPS_HD BoxTraits<V> every(int64_t i) const {  // of box i, in every lane
    return {broadcast<V>(boxes.area[i]), aspects.empty() ? V{} : broadcast<V>(aspects[i])};
  }
  template <typename V>
  DETOPS_HD BoxTraits<V> vector(int64_t i) const {  // of boxes i, i + 1, ...
    return {load<V>(boxes.area + i), aspects.empty() ? V{} : load<V>(aspects.data() + i)};
  }
};

template <Overlap kKind, typename Isa, typename A, typename Out>
DETOPS_HD void overlap_rows(const Side<A>& a, const Side<A>& b, A eps, int64_t begin, int64_t end, Out* output) {
  using V = Vec<Isa, A>;
  constexpr int64_t kLanes = lanes<Isa, A>;
  const int64_t m = b.boxes.size;
  const ScoreDenominators<V> denominators{broadcast<V>(eps)};
  for (int64_t i = begin; i < end; ++i) {
    const Box<V> row = broadcast<V>(a.boxes[i]);
    const BoxTraits<V> of_row = a.template every<V>(i);
    Out* out = output + i * m;
    for (int64_t next = 0; next < m; next += kLanes) {
      // The last vector overlaps the one before it; fewer boxes than lanes go through a buffer.
      const int64_t j = std::max<int64_t>(std::min(next, m - kLanes), 0);
      const V score = overlap<kKind>(row, b.boxes.template vector<V>(j), of_row, b.template vector<V>(j), denominators);
      const auto cast = __builtin_convertvector(score, typename VecOf<Out, kLanes * sizeof(Out)>::type);
      if (m >= kLanes) {
        std::memcpy(out + j, &cast, sizeof cast);
      } else {
        std::memcpy(out, &cast, m * sizeof(Out));
      }
    }
  }
}

template <Overlap kKind, typename A, typename Out>
void overlap_cpu(const Tensor& boxes1, const Tensor& boxes2, int64_t image, double eps, Out* output) {
  const Side<A> a(boxes1, image, kKind), b(boxes2, image, kKind);
  parallel_for(a.boxes.size, grain_for(0.2 * b.boxes.size + 2), [&](int64_t begin, int64_t end) {
    simd([&](auto isa)
             DETOPS_INLINE { overlap_rows<kKind, decltype(isa)>(a, b, static_cast<A>(eps), begin, end, output); });
  });
}

// Row sums go straight to grad1; column sums are kept per piece of rows and added in the pieces' order, so that the
// result depends on the number of threads alone.
template <Overlap kKind, typename Isa, typename A>
DETOPS_HD void overlap_backward_rows(const Side<A>& a, const Side<A>& b, A eps, const A* grad, int64_t begin,
                                     int64_t end, Box<A>* grad1, Box<A*> column_sums) {
  using V = Vec<Isa, A>;
  constexpr int64_t kLanes = lanes<Isa, A>;
  const int64_t m = b.boxes.size;
  const ScoreDenominators<V> denominators{broadcast<V>(eps)};
  for (int64_t i = begin; i < end; ++i) {
    const Box<V> row = broadcast<V>(a.boxes[i]);
    const BoxTraits<V> of_row = a.template every<V>(i);
    Box<V> d_row{};
    for (int64_t j = 0; j < m; j += kLanes) {
      A tail[kLanes] = {};
      const A* from = grad + i * m + j;
      if (m - j < kLanes) {
        std::memcpy(tail, from, (m - j) * sizeof(A));
        from = tail;
      }
      Box<V> d_column = {load<V>(column_sums.x1 + j), load<V>(column_sums.y1 + j), load<V>(column_sums.x2 + j),
                         load<V>(column_sums.y2 + j)};
      overlap_backward<kKind>(row, b.boxes.template vector<V>(j), of_row, b.template vector<V>(j), denominators,
                              load<V>(from), d_row, d_column);
      store(column_sums.x1 + j, d_column.x1);
      store(column_sums.y1 + j, d_column.y1);
      store(column_sums.x2 + j, d_column.x2);
      store(column_sums.y2 + j, d_column.y2);
    }
    grad1[i] = {sum(d_row.x1), sum(d_row.y1), sum(d_row.x2), sum(d_row.y2)};
  }
}

template <Overlap kKind, typename A>
void overlap_backward_cpu(const Tensor& boxes1, const Tensor& boxes2, int64_t image, double eps, const A* grad,
                          Box<A>* grad1, Box<A>* grad2) {
  const Side<A> a(boxes1, image, kKind), b(boxes2, image, kKind);
  const int64_t n = a.boxes.size, m = b.boxes.size, pitch = m + BoxColumns<A>::kPadding;
  const int64_t pieces = std::clamp<int64_t>(n / grain_for(1.5 * m + 2), 1, num_threads());
  std::vector<A> sums(pieces * 4 * pitch);
  parallel_for(pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      A* x1 = sums.data() + piece * 4 * pitch;
      simd([&](auto isa) DETOPS_INLINE {
        overlap_backward_rows<kKind, decltype(isa)>(a, b, static_cast<A>(eps), grad, piece * n / pieces,
                                                    (piece + 1) * n / pieces, grad1,
                                                    Box<A*>{x1, x1 + pitch, x1 + 2 * pitch, x1 + 3 * pitch});
      });
    }
  });
  for (int64_t j = 0; j < m; ++j) {
    Box<A> total{};
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const A* x1 = sums.data() + piece * 4 * pitch + j;
      total.x1 += x1[0], total.y1 += x1[pitch], total.x2 += x1[2 * pitch], total.y2 += x1[3 * pitch];
    }
    grad2[j] = total;
  }
}

void check_box_sets(const char* op, const Tensor& boxes1, const Tensor& boxes2) {
  check_real(op, "boxes1", boxes1);
  check_real(op, "boxes2", boxes2);
  if (boxes1.dim() == 3) {
    check_shape(op, "boxes1", boxes1, {kAny, kAny, 4});
    check_shape(op, "boxes2", boxes2, {boxes1.size(0), kAny, 4});
  } else {
    check_shape(op, "boxes1", boxes1, {kAny, 4});
    check_shape(op, "boxes2", boxes2, {kAny, 4});
  }
  check_same_device(op, "boxes1", boxes1, "boxes2", boxes2);
}

template <Overlap kKind>
Tensor overlap_host(const char* op, const Tensor& boxes1, const Tensor& boxes2, double eps) {
  check_box_sets(op, boxes1, boxes2);
  const bool batched = boxes1.dim() == 3, wide = is_double(boxes1) || is_double(boxes2);
  const int64_t images = batched ? boxes1.size(0) : 1;
  const int64_t n = boxes1.size(boxes1.dim() - 2), m = boxes2.size(boxes2.dim() - 2);
  const ScalarType dtype = wide ? ScalarType::Double : ScalarType::Float;
  Tensor output = batched ? new_tensor<3>(boxes1, {images, n, m}, dtype) : new_tensor<2>(boxes1, {n, m}, dtype);
  if (n == 0 || m == 0) return output;
  const auto run = [&](auto accumulator, auto element) {
    using A = typename decltype(accumulator)::type;
    using Out = typename decltype(element)::type;
    Out* scores = mutable_data<Out>(output);
    dispatch_device(
        boxes1,
        [&] {
          for (int64_t image = 0; image < images; ++image) {
            overlap_cpu<kKind, A>(boxes1, boxes2, image, eps, scores + image * n * m);
          }
        },
        [&](void* stream) {
          box_iou_cuda<kKind, A, Out>(op, {BoxView(boxes1), BoxView(boxes2), scores, images, eps}, stream);
        });
  };
  if (wide) {
    run(Type<double>{}, Type<double>{});
  } else if (is_integral(boxes1.scalar_type()) || is_integral(boxes2.scalar_type())) {
    run(Type<double>{}, Type<float>{});  // exact where float would round large coordinates
  } else {
    run(Type<float>{}, Type<float>{});
  }
  return output;
}
}  // namespace

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  return overlap_host<Overlap::kIou>("box_iou", boxes1, boxes2, 0);
}
DETOPS_OP(box_iou, "(Tensor boxes1, Tensor boxes2) -> Tensor")

Tensor generalized_box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  return overlap_host<Overlap::kGeneralized>("generalized_box_iou", boxes1, boxes2, 0);
}
DETOPS_OP(generalized_box_iou, "(Tensor boxes1, Tensor boxes2) -> Tensor")

Tensor distance_box_iou(const Tensor& boxes1, const Tensor& boxes2, double eps) {
  return overlap_host<Overlap::kDistance>("distance_box_iou", boxes1, boxes2, eps);
}
DETOPS_OP(distance_box_iou, "(Tensor boxes1, Tensor boxes2, float eps) -> Tensor")

Tensor complete_box_iou(const Tensor& boxes1, const Tensor& boxes2, double eps) {
  return overlap_host<Overlap::kComplete>("complete_box_iou", boxes1, boxes2, eps);
}
DETOPS_OP(complete_box_iou, "(Tensor boxes1, Tensor boxes2, float eps) -> Tensor")

// Gradients with respect to both sets, in the dtype of the scores; kind 0 to 3 as in Overlap.
std::tuple<Tensor, Tensor> box_iou_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2,
                                            int64_t kind, double eps) {
  const char* op = "box_iou_backward";
  check_box_sets(op, boxes1, boxes2);
  const bool batched = boxes1.dim() == 3, wide = is_double(boxes1) || is_double(boxes2);
  const int64_t images = batched ? boxes1.size(0) : 1;
  const int64_t n = boxes1.size(boxes1.dim() - 2), m = boxes2.size(boxes2.dim() - 2);
  const ScalarType dtype = wide ? ScalarType::Double : ScalarType::Float;
  if (batched) {
    check_shape(op, "grad", grad, {images, n, m});
  } else {
    check_shape(op, "grad", grad, {n, m});
  }
  if (grad.scalar_type() != dtype) fail(op, "expected grad of the dtype of the scores, got ", dtype_of(grad));
  if (kind < 0 || kind > 3) fail(op, "expected kind from 0 to 3, got ", kind);
  Tensor grad1 = batched ? new_tensor<3>(boxes1, {images, n, 4}, dtype) : new_tensor<2>(boxes1, {n, 4}, dtype);
  Tensor grad2 = batched ? new_tensor<3>(boxes1, {images, m, 4}, dtype) : new_tensor<2>(boxes1, {m, 4}, dtype);
  const auto run = [&](auto overlap, auto type) {
    constexpr Overlap kKind = decltype(overlap)::value;
    using A = typename decltype(type)::type;
    A *to1 = mutable_data<A>(grad1), *to2 = mutable_data<A>(grad2);
    dispatch_device(
        boxes1,
        [&] {
          const Tensor dense_grad = dense(grad);
          for (int64_t image = 0; image < images; ++image) {
            overlap_backward_cpu<kKind, A>(boxes1, boxes2, image, eps, data<A>(dense_grad) + image * n * m,
                                           reinterpret_cast<Box<A>*>(to1) + image * n,
                                           reinterpret_cast<Box<A>*>(to2) + image * m);
          }
        },
        [&](void* stream) {
          const BoxIouTiles tiles(images, n, m);
          Tensor sums1 =
              tiles.column_tiles == 1 ? grad1 : new_tensor<4>(grad1, {tiles.column_tiles, images, n, 4}, dtype);
          Tensor sums2 = tiles.row_tiles == 1 ? grad2 : new_tensor<4>(grad2, {tiles.row_tiles, images, m, 4}, dtype);
          box_iou_backward_cuda<kKind, A>(
              op,
              {BoxView(boxes1), BoxView(boxes2), data<A>(grad), batched ? grad.stride(0) : 0,
               grad.stride(grad.dim() - 2), grad.stride(grad.dim() - 1), to1, to2, mutable_data<A>(sums1),
               mutable_data<A>(sums2), tiles, images, eps},
              stream);
        });
  };
  const auto run_kind = [&](auto overlap) { wide ? run(overlap, Type<double>{}) : run(overlap, Type<float>{}); };
  switch (static_cast<Overlap>(kind)) {
    case Overlap::kIou:
      run_kind(std::integral_constant<Overlap, Overlap::kIou>{});
      break;
    case Overlap::kGeneralized:
      run_kind(std::integral_constant<Overlap, Overlap::kGeneralized>{});
      break;
    case Overlap::kDistance:
      run_kind(std::integral_constant<Overlap, Overlap::kDistance>{});
      break;
    case Overlap::kComplete:
      run_kind(std::integral_constant<Overlap, Overlap::kComplete>{});
      break;
  }
  return {grad1, grad2};
}
DETOPS_OP(box_iou_backward, "(Tensor grad, Tensor boxes1, Tensor boxes2, int kind, float eps) -> (Tensor, Tensor)")
}  // namespace detops
