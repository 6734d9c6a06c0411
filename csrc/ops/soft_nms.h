// Soft-NMS (arXiv:1704.04503): in order of score, a box lowers the scores of the boxes that overlap it, by which the
// next one is chosen; those that fall below a least score are dropped.
#pragma once
#include <limits>

#include "../math/box.h"
#include "../math/exponential.h"
#include "raw_boxes.h"

namespace detops {
enum class Decay { kNaive, kLinear, kGaussian };

template <typename A>
struct SoftNmsRule {
  Decay decay;
  A iou_threshold, sigma, min_score;

  // Scores of boxes that are not, or no longer, there.
  static constexpr A kGone = -std::numeric_limits<A>::infinity();

  // Whether only boxes that touch lower each other's scores.
  DETOPS_HD bool is_local() const { return decay != Decay::kNaive || iou_threshold > 0; }

  // What is left of the score of a box, given its overlap with one chosen: NaN, of boxes without area, is none.
  template <typename V>
  DETOPS_HD V remaining(V score, V iou) const {
    const V one = constant<V>(1);
    V weight;
    if (decay == Decay::kGaussian) {
      weight = select(iou == iou, exponential((V{} - iou * iou) / constant<V>(sigma)), one);
    } else {
      const V lowered = decay == Decay::kLinear ? one - iou : V{};
      weight = select(iou >= constant<V>(iou_threshold), lowered, one);
    }
    return admitted(score * weight);
  }

  // The score, or kGone if it is too low or NaN.
  template <typename V>
  DETOPS_HD V admitted(V score) const {
    return select(score >= constant<V>(min_score), score, constant<V>(kGone));
  }
};

// ---- CUDA ----------------------------------------------------------------------------------------------------------

template <typename A>
struct SoftNmsOutputs {
  A* dets;         // (images, limit, 5)
  int64_t* keep;   // (images, limit)
  int64_t* count;  // (images,)
  int64_t limit;
};

template <typename A>
struct SoftNmsArgs {
  RawBoxes boxes;
  RawNumbers scores;
  SoftNmsRule<A> rule;
  SoftNmsOutputs<A> to;
  A* columns;  // (images, 5, boxes): the corners and the scores, as they are lowered
  int64_t images;
};
template <typename A>
void soft_nms_cuda(const char* op, const SoftNmsArgs<A>& args, void* stream);
}  // namespace detops
