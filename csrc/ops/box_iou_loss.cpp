#include "box_iou_loss.h"

#include <algorithm>
#include <array>
#include <tuple>

#include "box_columns.h"
#include "loss_host.h"

namespace detops {
namespace {
constexpr int64_t kPiece = 256;         // rows read at a time
constexpr int64_t kBlock = 8 * kPiece;  // rows whose losses are summed apart, whoever does it

// Boxes by coordinate, a piece of them.
template <typename A>
struct alignas(64) Piece {
  A x1[kPiece], y1[kPiece], x2[kPiece], y2[kPiece], aspect[kPiece];

  // The rows beyond `count` are boxes of no area.
  template <Overlap kKind, typename V>
  DETOPS_HD void read(const BoxView& boxes, int64_t begin, int64_t count) {
    boxes.read_vectors<V>(begin, count, x1, y1, x2, y2);
    for (A* column : {x1, y1, x2, y2}) std::fill(column + count, column + kPiece, A(0));
    if constexpr (kKind != Overlap::kComplete) return;
    if constexpr (std::is_same_v<A, double>) {
      for (int64_t i = 0; i < kPiece; ++i) aspect[i] = detops::aspect(Box<A>{x1[i], y1[i], x2[i], y2[i]});
    } else {
      for (int64_t i = 0; i < kPiece; i += sizeof(V) / sizeof(A)) store(aspect + i, detops::aspect(vector<V>(i)));
    }
  }

  template <typename V>
  DETOPS_HD Box<V> vector(int64_t i) const {
    return {load<V>(x1 + i), load<V>(y1 + i), load<V>(x2 + i), load<V>(y2 + i)};
  }
  template <Overlap kKind, typename V>
  DETOPS_HD V aspects(int64_t i) const {
    return kKind == Overlap::kComplete ? load<V>(aspect + i) : V{};
  }
};

template <typename A>
struct Outputs {
  A* losses = nullptr;          // of each row, if wanted
  Box<A>* gradients = nullptr;  // with respect to the first boxes
  const A* grad = nullptr;      // of each row's loss, if that is not the same for all
  int64_t grad_stride = 0;
  A factor = 1;  // of all gradients
};

// Rows [begin, end); returns the sum of their losses.
template <Overlap kKind, Pass kPass, typename Isa, typename A>
DETOPS_HD double run_rows(const BoxView& boxes1, const BoxView& boxes2, const LossEps& eps, const Outputs<A>& out,
                          int64_t begin, int64_t end) {
  using V = Vec<Isa, A>;
  constexpr int64_t kLanes = lanes<Isa, A>;
  const LossDenominators<V> denominators = eps.denominators<V>();
  Piece<A> a, b;
  alignas(64) A losses[kPiece], grads[kPiece], gradients[4 * kPiece];
  const bool alike = out.grad == nullptr || out.grad_stride == 0;
  if (kPass != Pass::kLosses && alike) {
    std::fill(grads, grads + kPiece, out.factor * (out.grad != nullptr ? *out.grad : A(1)));
  }
  double total = 0;
  for (; begin < end; begin += kPiece) {
    const int64_t count = std::min(kPiece, end - begin);
    a.template read<kKind, V>(boxes1, begin, count);
    b.template read<kKind, V>(boxes2, begin, count);
    if (kPass != Pass::kLosses && !alike) {
      const A* grad = out.grad + begin * out.grad_stride;
      for (int64_t i = 0; i < count; ++i) grads[i] = out.factor * grad[i * out.grad_stride];
      std::fill(grads + count, grads + kPiece, A(0));
    }
    A* const to = reinterpret_cast<A*>(out.gradients + begin);
    for (int64_t i = 0; i < count; i += kLanes) {
      const Box<V> box1 = a.template vector<V>(i), box2 = b.template vector<V>(i);
      const V aspect1 = a.template aspects<kKind, V>(i), aspect2 = b.template aspects<kKind, V>(i);
      if constexpr (kPass != Pass::kGradients) {
        store(losses + i, box_loss<kKind>(box1, box2, aspect1, aspect2, denominators));
      }
      if constexpr (kPass != Pass::kLosses) {
        const Box<V> gradient =
            box_loss_gradient<kKind>(box1, box2, aspect1, aspect2, load<V>(grads + i), denominators);
        store_rows(gradient, count - i >= kLanes ? to + 4 * i : gradients);
        if (count - i < kLanes) std::copy(gradients, gradients + 4 * (count - i), to + 4 * i);
      }
    }
    if constexpr (kPass == Pass::kGradients) continue;
    if (out.losses != nullptr) std::copy(losses, losses + count, out.losses + begin);
    std::fill(losses + count, losses + (count + kLanes - 1) / kLanes * kLanes, A(0));
    V sums{};
    for (int64_t i = 0; i < count; i += kLanes) sums += load<V>(losses + i);
    total += sum(sums);
  }
  return total;
}

template <Overlap kKind, Pass kPass, typename A>
double run_cpu(const BoxView& boxes1, const BoxView& boxes2, const LossEps& eps, const Outputs<A>& out) {
  return sum_of_blocks(boxes1.size, kBlock, 1.0, [&](auto isa, int64_t begin, int64_t end) DETOPS_INLINE {
    return run_rows<kKind, kPass, decltype(isa)>(boxes1, boxes2, eps, out, begin, end);
  });
}

const char* name_of(Overlap kind) {
  return kind == Overlap::kGeneralized ? "generalized_box_iou_loss"
         : kind == Overlap::kDistance  ? "distance_box_iou_loss"
                                       : "complete_box_iou_loss";
}

void check_pairs(const char* op, const Tensor& boxes1, const Tensor& boxes2) {
  check_real(op, "boxes1", boxes1);
  check_real(op, "boxes2", boxes2);
  check_shape(op, "boxes1", boxes1, {kAny, 4});
  check_shape(op, "boxes2", boxes2, {boxes1.size(0), 4});
  check_same_device(op, "boxes1", boxes1, "boxes2", boxes2);
}

Overlap checked_kind(const char* op, int64_t kind) {
  if (kind < 1 || kind > 3) fail(op, "expected kind from 1 to 3, got ", kind);
  return static_cast<Overlap>(kind);
}

ScalarType loss_dtype(const Tensor& boxes1, const Tensor& boxes2) {
  const bool wide = boxes1.scalar_type() == ScalarType::Double || boxes2.scalar_type() == ScalarType::Double;
  return wide ? ScalarType::Double : ScalarType::Float;
}

// torchvision's mean of no losses is 0.
double row_divisor(Reduction reduction, int64_t rows) { return divisor(reduction, std::max<int64_t>(rows, 1)); }

// fn(kind as a constant, type that losses are computed in)
template <typename Fn>
void dispatch_loss(Overlap kind, ScalarType dtype, const Fn& fn) {
  const auto typed = [&](auto constant) {
    dtype == ScalarType::Double ? fn(constant, Type<double>{}) : fn(constant, Type<float>{});
  };
  switch (kind) {
    case Overlap::kGeneralized:
      return typed(std::integral_constant<Overlap, Overlap::kGeneralized>{});
    case Overlap::kDistance:
      return typed(std::integral_constant<Overlap, Overlap::kDistance>{});
    default:
      return typed(std::integral_constant<Overlap, Overlap::kComplete>{});
  }
}

BoxLossArgs arguments(const BoxView& boxes1, const BoxView& boxes2, const LossEps& eps) {
  const auto in_packs = [](const BoxView& boxes) {
    return boxes.dtype == ScalarType::Float && boxes.row_stride == 4 && boxes.column_stride == 1 &&
           reinterpret_cast<uintptr_t>(boxes.data) % 16 == 0;
  };
  return {boxes1, boxes2, in_packs(boxes1) && in_packs(boxes2), eps};
}

Tensor loss(Overlap kind, const Tensor& boxes1, const Tensor& boxes2, double eps, int64_t reduction_number) {
  const char* op = name_of(kind);
  check_pairs(op, boxes1, boxes2);
  const Reduction reduction = checked_reduction(op, reduction_number);
  const bool reduces = reduction != Reduction::kNone;
  const ScalarType dtype = loss_dtype(boxes1, boxes2);
  const int64_t rows = boxes1.size(0);
  Tensor output = reduces ? new_tensor<0>(boxes1, {}, dtype) : new_tensor<1>(boxes1, {rows}, dtype);
  if (!reduces && rows == 0) return output;
  dispatch_loss(kind, dtype, [&](auto overlap, auto type) {
    constexpr Overlap kKind = decltype(overlap)::value;
    using A = typename decltype(type)::type;
    A* to = mutable_data<A>(output);
    const BoxView view1(boxes1), view2(boxes2);
    const double by = row_divisor(reduction, rows);
    dispatch_device(
        boxes1,
        [&] {
          Outputs<A> out;
          if (!reduces) out.losses = to;
          const double total = run_cpu<kKind, Pass::kLosses>(view1, view2, LossEps(kind, eps), out);
          if (reduces) *to = static_cast<A>(total / by);
        },
        [&](void* stream) {
          Tensor sums = new_tensor<1>(boxes1, {reduces ? loss_blocks(rows, kRowsOfBlock) : 0}, ScalarType::Double);
          box_iou_loss_cuda<kKind, A>(op, arguments(view1, view2, LossEps(kind, eps)), reduces ? nullptr : to,
                                      {mutable_data<double>(sums), by, to}, stream);
        });
  });
  return output;
}
}  // namespace

Tensor generalized_box_iou_loss(const Tensor& boxes1, const Tensor& boxes2, double eps, int64_t reduction) {
  return loss(Overlap::kGeneralized, boxes1, boxes2, eps, reduction);
}
DETOPS_OP(generalized_box_iou_loss, "(Tensor boxes1, Tensor boxes2, float eps, int reduction) -> Tensor")

Tensor distance_box_iou_loss(const Tensor& boxes1, const Tensor& boxes2, double eps, int64_t reduction) {
  return loss(Overlap::kDistance, boxes1, boxes2, eps, reduction);
}
DETOPS_OP(distance_box_iou_loss, "(Tensor boxes1, Tensor boxes2, float eps, int reduction) -> Tensor")

Tensor complete_box_iou_loss(const Tensor& boxes1, const Tensor& boxes2, double eps, int64_t reduction) {
  return loss(Overlap::kComplete, boxes1, boxes2, eps, reduction);
}
DETOPS_OP(complete_box_iou_loss, "(Tensor boxes1, Tensor boxes2, float eps, int reduction) -> Tensor")

// Gradient with respect to boxes1, in the dtype of the loss; the losses are symmetric. kind 1 to 3 as in Overlap.
Tensor box_iou_loss_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2, int64_t kind_number,
                             double eps, int64_t reduction_number) {
  const char* op = "box_iou_loss_backward";
  check_pairs(op, boxes1, boxes2);
  const Overlap kind = checked_kind(op, kind_number);
  const Reduction reduction = checked_reduction(op, reduction_number);
  const ScalarType dtype = loss_dtype(boxes1, boxes2);
  const int64_t rows = boxes1.size(0);
  const bool reduces = reduction != Reduction::kNone;
  if (reduces) {
    check_shape(op, "grad", grad, {});
  } else {
    check_shape(op, "grad", grad, {rows});
  }
  if (grad.scalar_type() != dtype) fail(op, "expected grad of the dtype of the loss, got ", dtype_of(grad));
  check_same_device(op, "boxes1", boxes1, "grad", grad);
  Tensor output = new_tensor<2>(boxes1, {rows, 4}, dtype);
  if (rows == 0) return output;
  dispatch_loss(kind, dtype, [&](auto overlap, auto type) {
    constexpr Overlap kKind = decltype(overlap)::value;
    using A = typename decltype(type)::type;
    auto* to = reinterpret_cast<Box<A>*>(mutable_data<A>(output));
    const A mean = static_cast<A>(1 / row_divisor(reduction, rows));
    const int64_t stride = reduces ? 0 : grad.stride(0);
    const BoxView view1(boxes1), view2(boxes2);
    dispatch_device(
        boxes1,
        [&] {
          run_cpu<kKind, Pass::kGradients>(view1, view2, LossEps(kind, eps),
                                           Outputs<A>{nullptr, to, data<A>(grad), stride, mean});
        },
        [&](void* stream) {
          box_iou_loss_backward_cuda<kKind, A>(op, arguments(view1, view2, LossEps(kind, eps)),
                                               {data<A>(grad), stride, mean, to}, stream);
        });
  });
  return output;
}
DETOPS_OP(box_iou_loss_backward,
          "(Tensor grad, Tensor boxes1, Tensor boxes2, int kind, float eps, int reduction) -> Tensor")

// The sum or mean and its gradient with respect to boxes1: on the CPU of one pass.
std::tuple<Tensor, Tensor> box_iou_loss_with_gradient(const Tensor& boxes1, const Tensor& boxes2, int64_t kind_number,
                                                      double eps, int64_t reduction_number) {
  const Overlap kind = checked_kind("box_iou_loss_with_gradient", kind_number);
  const char* op = name_of(kind);  // what the caller called
  check_pairs(op, boxes1, boxes2);
  const Reduction reduction = checked_reduction(op, reduction_number);
  check_reduces(op, reduction);
  std::tuple<Tensor, Tensor> result;
  auto& [output, gradient] = result;
  const ScalarType dtype = loss_dtype(boxes1, boxes2);
  const int64_t rows = boxes1.size(0);
  dispatch_device(
      boxes1,
      [&] {
        output = new_tensor<0>(boxes1, {}, dtype);
        gradient = new_tensor<2>(boxes1, {rows, 4}, dtype);
        dispatch_loss(kind, dtype, [&](auto overlap, auto type) {
          constexpr Overlap kKind = decltype(overlap)::value;
          using A = typename decltype(type)::type;
          const double by = row_divisor(reduction, rows);
          Outputs<A> out;
          out.gradients = reinterpret_cast<Box<A>*>(mutable_data<A>(gradient));
          out.factor = static_cast<A>(1 / by);
          const double total = run_cpu<kKind, Pass::kBoth>(BoxView(boxes1), BoxView(boxes2), LossEps(kind, eps), out);
          *mutable_data<A>(output) = static_cast<A>(total / by);
        });
      },
      [&](void*) {
        Tensor one = new_tensor<0>(boxes1, {}, dtype);
        torch::stable::fill_(one, 1);
        output = loss(kind, boxes1, boxes2, eps, reduction_number);
        gradient = box_iou_loss_backward(one, boxes1, boxes2, kind_number, eps, reduction_number);
      });
  return result;
}
DETOPS_OP(box_iou_loss_with_gradient,
          "(Tensor boxes1, Tensor boxes2, int kind, float eps, int reduction) -> (Tensor, Tensor)")
}  // namespace detops
