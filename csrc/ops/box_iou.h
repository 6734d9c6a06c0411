// Overlap of every box of one set with every box of another: IoU; GIoU (arXiv:1902.09630); DIoU, CIoU
// (arXiv:1911.08287).
#pragma once
#include "../math/arctangent.h"
#include "../math/box.h"
#include "raw_boxes.h"

namespace detops {
enum class Overlap { kIou, kGeneralized, kDistance, kComplete };

// What a score needs of one box besides its corners.
template <typename V>
struct BoxTraits {
  V area;
  V aspect;  // arctangent of width / height; CIoU only
};

template <typename V>
DETOPS_HD V aspect(const Box<V>& a) {
  const V width = a.x2 - a.x1, height = a.y2 - a.y1;
  const V sides = max(width, V{} - width) + max(height, V{} - height);
  return select(sides == V{}, V{}, arctangent(width / height));
}

template <typename V>
DETOPS_HD V ratio(V numerator, V denominator) {  // 0 rather than 0 / 0
  return select(denominator == V{}, V{}, numerator / denominator);
}

constexpr double kAspectScale = 0.40528473456935109;  // 4 / pi^2

// The denominators of a score of a pair of boxes, from what they are without eps.
template <typename V>
struct ScoreDenominators {
  V eps;
  DETOPS_HD V joint(V x) const { return x; }
  DETOPS_HD V hull(V x) const { return x; }
  DETOPS_HD V diagonal(V x) const { return x + eps; }
  DETOPS_HD V trade_off(V x) const { return x + eps; }
};

template <Overlap kKind, typename V, typename Denominators>
DETOPS_HD V overlap(const Box<V>& a, const Box<V>& b, const BoxTraits<V>& of_a, const BoxTraits<V>& of_b,
                    const Denominators& of) {
  const V shared = intersection(a, b), joint = of_a.area + of_b.area - shared, iou = ratio(shared, of.joint(joint));
  if constexpr (kKind == Overlap::kIou) return iou;
  const Box<V> around = hull(a, b);
  const V width = max(around.x2 - around.x1, V{}), height = max(around.y2 - around.y1, V{});
  if constexpr (kKind == Overlap::kGeneralized) {
    return iou - ratio(width * height - joint, of.hull(width * height));
  }
  const V half = constant<V>(0.5);
  const V dx = (a.x1 + a.x2) * half - (b.x1 + b.x2) * half, dy = (a.y1 + a.y2) * half - (b.y1 + b.y2) * half;
  const V diou = iou - ratio(dx * dx + dy * dy, of.diagonal(width * width + height * height));
  if constexpr (kKind == Overlap::kDistance) return diou;
  const V turn = of_a.aspect - of_b.aspect, v = constant<V>(kAspectScale) * (turn * turn);
  return diou - ratio(v, of.trade_off(constant<V>(1) - iou + v)) * v;
}

// 1 where p is the lesser, 0 where q is, a half each at a tie: how min(p, q) shares its gradient.
template <typename V>
DETOPS_HD V share_of_min(V p, V q) {
  return select(p < q, constant<V>(1), select(p == q, constant<V>(0.5), V{}));
}

// Adds d(grad * overlap)/da and /db. CIoU's trade-off factor counts as a constant, as in the paper.
template <Overlap kKind, typename V, typename Denominators>
DETOPS_HD void overlap_backward(const Box<V>& a, const Box<V>& b, const BoxTraits<V>& of_a, const BoxTraits<V>& of_b,
                                const Denominators& of, V grad, Box<V>& da, Box<V>& db) {
  const V zero{}, half = constant<V>(0.5), two = constant<V>(2);
  const V wa = a.x2 - a.x1, ha = a.y2 - a.y1, wb = b.x2 - b.x1, hb = b.y2 - b.y1;
  const V raw_w = min(a.x2, b.x2) - max(a.x1, b.x1), raw_h = min(a.y2, b.y2) - max(a.y1, b.y1);
  const V w = max(raw_w, zero), h = max(raw_h, zero), shared = w * h, joint = of_a.area + of_b.area - shared;
  const V over = of.joint(joint), iou = ratio(shared, over);
  V d_joint = zero - grad * ratio(iou, over);  // through each intermediate value, from the last to the first
  V d_hull_w = zero, d_hull_h = zero;
  if constexpr (kKind != Overlap::kIou) {
    const Box<V> around = hull(a, b);
    const V hull_w = max(around.x2 - around.x1, zero), hull_h = max(around.y2 - around.y1, zero);
    if constexpr (kKind == Overlap::kGeneralized) {
      const V hull_area = of.hull(hull_w * hull_h), d_hull = zero - grad * ratio(ratio(over, hull_area), hull_area);
      d_joint = d_joint + ratio(grad, hull_area);
      d_hull_w = d_hull * hull_h;
      d_hull_h = d_hull * hull_w;
    } else {
      const V dx = (a.x1 + a.x2) * half - (b.x1 + b.x2) * half, dy = (a.y1 + a.y2) * half - (b.y1 + b.y2) * half;
      const V diagonal = of.diagonal(hull_w * hull_w + hull_h * hull_h), distance = ratio(dx * dx + dy * dy, diagonal);
      const V d_x = zero - grad * ratio(dx, diagonal), d_y = zero - grad * ratio(dy, diagonal);
      da.x1 += d_x, da.x2 += d_x, da.y1 += d_y, da.y2 += d_y;
      db.x1 -= d_x, db.x2 -= d_x, db.y1 -= d_y, db.y2 -= d_y;
      d_hull_w = two * grad * ratio(distance * hull_w, diagonal);
      d_hull_h = two * grad * ratio(distance * hull_h, diagonal);
      if constexpr (kKind == Overlap::kComplete) {
        const V turn = of_a.aspect - of_b.aspect, v = constant<V>(kAspectScale) * (turn * turn);
        const V alpha = ratio(v, of.trade_off(constant<V>(1) - iou + v));
        const V d_turn = zero - grad * alpha * (two * constant<V>(kAspectScale) * turn);
        const V wide_a = d_turn * ratio(ha, wa * wa + ha * ha), high_a = d_turn * ratio(wa, wa * wa + ha * ha);
        const V wide_b = d_turn * ratio(hb, wb * wb + hb * hb), high_b = d_turn * ratio(wb, wb * wb + hb * hb);
        da.x1 -= wide_a, da.x2 += wide_a, da.y1 += high_a, da.y2 -= high_a;
        db.x1 += wide_b, db.x2 -= wide_b, db.y1 -= high_b, db.y2 += high_b;
      }
    }
    const V left = d_hull_w * share_of_min(a.x1, b.x1), right = d_hull_w * share_of_min(b.x2, a.x2);
    const V top = d_hull_h * share_of_min(a.y1, b.y1), bottom = d_hull_h * share_of_min(b.y2, a.y2);
    da.x1 -= left, da.x2 += right, da.y1 -= top, da.y2 += bottom;
    db.x1 -= d_hull_w - left, db.x2 += d_hull_w - right, db.y1 -= d_hull_h - top, db.y2 += d_hull_h - bottom;
  }
  const V d_shared = ratio(grad, over) - d_joint;  // joint = area_a + area_b - shared
  const V d_w = select(raw_w > zero, d_shared * h, zero), d_h = select(raw_h > zero, d_shared * w, zero);
  const V left = d_w * share_of_min(b.x1, a.x1), right = d_w * share_of_min(a.x2, b.x2);
  const V top = d_h * share_of_min(b.y1, a.y1), bottom = d_h * share_of_min(a.y2, b.y2);
  da.x1 -= left + d_joint * ha, da.x2 += right + d_joint * ha;
  da.y1 -= top + d_joint * wa, da.y2 += bottom + d_joint * wa;
  db.x1 -= d_w - left + d_joint * hb, db.x2 += d_w - right + d_joint * hb;
  db.y1 -= d_h - top + d_joint * wb, db.y2 += d_h - bottom + d_joint * wb;
}

// ---- CUDA ----------------------------------------------------------------------------------------------------------

template <typename Out>
struct BoxIouArgs {
  RawBoxes boxes1, boxes2;  // (images, N, 4), (images, M, 4)
  Out* output;              // (images, N, M)
  int64_t images;
  double eps;
};
// Computes in A.
template <Overlap kKind, typename A, typename Out>
void box_iou_cuda(const char* op, const BoxIouArgs<Out>& args, void* stream);

// How the backward kernel divides the matrix of pairs: a tile's sums over its columns and over its rows are kept apart
// and added in a second step, always in the same order.
struct BoxIouTiles {
  static constexpr int kColumns = 32;
  int64_t rows, row_tiles, column_tiles;  // rows of a tile

  BoxIouTiles(int64_t images, int64_t n, int64_t m) {
    constexpr int64_t kWarps = 8;  // of a block
    column_tiles = (m + kColumns - 1) / kColumns;
    rows = (n * column_tiles * images / (kManyBlocks * kWarps) + 1) * kWarps;
    row_tiles = (n + rows - 1) / rows;
  }
};

template <typename A>
struct BoxIouBackwardArgs {
  RawBoxes boxes1, boxes2;
  const A* grad;  // (images, N, M)
  int64_t grad_image_stride, grad_row_stride, grad_column_stride;
  A *grad1, *grad2;  // (images, N, 4), (images, M, 4)
  A *sums1, *sums2;  // of tiles: (column_tiles, images, N, 4), (row_tiles, images, M, 4); grad1, grad2 if there is one
  BoxIouTiles tiles;
  int64_t images;
  double eps;
};
template <Overlap kKind, typename A>
void box_iou_backward_cuda(const char* op, const BoxIouBackwardArgs<A>& args, void* stream);
}  // namespace detops
