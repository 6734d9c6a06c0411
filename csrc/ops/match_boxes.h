// Which ground truth each box answers for, by overlap: Faster R-CNN (arXiv:1506.01497, section 3.1.2).
#pragma once
#include <vector>

#include "../math/box.h"
#include "raw_boxes.h"

namespace detops {
// Above 0 if a and b can have an overlap other than 0; a may be the hull of many boxes.
template <typename V>
DETOPS_HD V least_reach(const Box<V>& a, const Box<V>& b) {
  return min(min(a.x2 - b.x1, b.x2 - a.x1), min(a.y2 - b.y1, b.y2 - a.y1));
}

// The box's best ground truth, -1 below both thresholds, -2 between them.
template <typename V, typename Index>
DETOPS_HD Index verdict(V overlap, Index gt, V high, V low) {
  return select(overlap < low, constant<Index>(-1), select(overlap < high, constant<Index>(-2), gt));
}

// ---- CUDA ----------------------------------------------------------------------------------------------------------

struct MatchImage {
  RawBoxes gt_boxes, boxes;
  int64_t first, first_target;  // of the image, among the boxes and ground truths of all
};

template <typename Out>
struct MatchOutputs {
  int64_t* matches;
  Out* ious;
  Out* best;  // of each ground truth, for low-quality matches; otherwise null
  int64_t num_targets;
};
// Computes in A; the thresholds are numbers of type Out.
template <typename A, typename Out>
void match_boxes_cuda(const std::vector<MatchImage>& images, const MatchOutputs<Out>& outputs, Out high, Out low,
                      void* stream);
}  // namespace detops
