// Losses of pairs of boxes, row by row: 1 - GIoU (arXiv:1902.09630), 1 - DIoU and 1 - CIoU (arXiv:1911.08287).
#pragma once
#include "box_iou.h"
#include "loss.h"

namespace detops {
// The denominators of torchvision's losses.
template <typename V>
struct LossDenominators {
  V eps, trade_off_eps;
  DETOPS_HD V joint(V x) const { return x + eps; }
  DETOPS_HD V hull(V x) const { return x + eps; }
  DETOPS_HD V diagonal(V x) const { return x + eps; }
  DETOPS_HD V trade_off(V x) const { return x + trade_off_eps; }
};

struct LossEps {
  double eps, trade_off;

  // As torchvision's: CIoU's argument goes into the trade-off factor alone.
  LossEps(Overlap kind, double given) : eps(kind == Overlap::kComplete ? 1e-7 : given), trade_off(given) {}

  template <typename V>
  DETOPS_HD LossDenominators<V> denominators() const {
    return {constant<V>(eps), constant<V>(trade_off)};
  }
};

template <Overlap kKind, typename V>
DETOPS_HD V box_loss(const Box<V>& a, const Box<V>& b, V aspect_a, V aspect_b, const LossDenominators<V>& of) {
  return constant<V>(1) - overlap<kKind>(a, b, {area(a), aspect_a}, {area(b), aspect_b}, of);
}

// d(grad * loss)/da; that with respect to b is the same with the boxes exchanged.
template <Overlap kKind, typename V>
DETOPS_HD Box<V> box_loss_gradient(const Box<V>& a, const Box<V>& b, V aspect_a, V aspect_b, V grad,
                                   const LossDenominators<V>& of) {
  Box<V> da{}, db{};
  overlap_backward<kKind>(a, b, {area(a), aspect_a}, {area(b), aspect_b}, of, V{} - grad, da, db);
  return da;
}

// ---- CUDA ----------------------------------------------------------------------------------------------------------

struct BoxLossArgs {
  RawBoxes boxes1, boxes2;  // (N, 4)
  bool in_packs;            // both float, 16 bytes a row
  LossEps eps;
};
constexpr int64_t kRowsOfBlock = 256;
// One loss each, or their sum if `losses` is null; `sum.of_blocks` has room for loss_blocks(N, kRowsOfBlock).
template <Overlap kKind, typename A>
void box_iou_loss_cuda(const char* op, const BoxLossArgs& args, A* losses, const LossSum<A>& sum, void* stream);

template <typename A>
struct RowGradients {
  const A* grad;        // of each row's loss, or with stride 0 of the sum
  int64_t grad_stride;  // in elements
  A factor;             // of all: 1 / N for a mean
  Box<A>* output;       // (N, 4)
};
template <Overlap kKind, typename A>
void box_iou_loss_backward_cuda(const char* op, const BoxLossArgs& args, const RowGradients<A>& of, void* stream);
}  // namespace detops
