// Non-maximum suppression: in order of score, a box is dropped if one kept before it overlaps it by more than a
// threshold. What the CPU and CUDA kernels share; the decision itself is overlaps() in math/box.h.
#pragma once
#include "../math/box.h"
#include "raw_boxes.h"

namespace detops {
// Whether boxes are compared in double: integers are exact there where float would round large coordinates.
inline bool in_double(ScalarType boxes) {
  return boxes != ScalarType::Float && boxes != ScalarType::Half && boxes != ScalarType::BFloat16;
}

template <typename A>
struct NmsRule {
  static constexpr A kMost = std::numeric_limits<A>::max();
  static constexpr A kLeastNormal = std::numeric_limits<A>::min();

  double iou_threshold;
  A threshold;  // as overlaps() takes it
  A share;      // of the sum of two areas that an intersection must exceed, or there is no overlap

  explicit NmsRule(double t)
      : iou_threshold(t),
        threshold(overlap_threshold<A>(t)),
        // shared / (sum - shared) > t where shared > sum * t / (1 + t); a little less, for the rounding of each step.
        share(static_cast<A>(t / (1 + t) * (1 - 16 * static_cast<double>(std::numeric_limits<A>::epsilon())))) {}

  bool drops_nothing() const { return iou_threshold >= 1; }  // no quotient is above 1

  // Whether a box can overlap any other at all. At thresholds of 0 or more only proper boxes do: those of a NaN or
  // infinite area, of none or of a reversed side give a quotient of NaN or 0.
  DETOPS_HD bool concerns(const Box<A>& a, A area) const {
    if (iou_threshold < 0) return area == area;
    return area > 0 && area <= kMost && a.x2 > a.x1;
  }

  // This box's part of what an intersection must exceed. Products that may be subnormal round too coarsely.
  DETOPS_HD A needed(A area) const { return area > kLeastNormal * 0x1p26 ? area * share : A(0); }
};
// Positive where a candidate may overlap a box, thresholds being 0 or more: settles nearly all without a division.
template <typename V>
DETOPS_HD V excess(const Box<V>& candidate, const Box<V>& other, V candidate_needed, V other_needed) {
  const V left = max_number(candidate.x1, other.x1), right = min_number(candidate.x2, other.x2);
  const V top = max_number(candidate.y1, other.y1), bottom = min_number(candidate.y2, other.y2);
  const V width = max_number(right - left, V{}), height = bottom - top;
  return width * height - (candidate_needed + other_needed);
}

// ---- CUDA ----------------------------------------------------------------------------------------------------------

// What numbers are sorted as, one image after another: int64, or int32 where that holds their sortable_t.
struct NmsKeys {
  RawNumbers numbers;
  int64_t images, size;
  const int64_t* order;  // of an image's numbers, as they are to be written; null: as they are
  bool descending;
  void* keys;  // (images, size)
  bool wide;   // int64
};
void nms_keys_cuda(const NmsKeys& args, void* stream);

template <typename A>
struct NmsArgs {
  NmsRule<A> rule;
  RawBoxes boxes;
  RawNumbers scores;
  bool has_score_threshold;
  double score_threshold;  // boxes whose score is not above it are left out
  int64_t images, size, limit;
  const int64_t* by_score;  // (images, size): boxes, best first
  const int64_t* by_class;  // places in that order, class by class; null: one class
  const int64_t* classes;   // of those places
  int64_t* keep;            // (images, limit)
  int64_t* count;           // (images,)
};
// `scratch` has nms_scratch_bytes() bytes, aligned to 16.
template <typename A>
int64_t nms_scratch_bytes(int64_t images, int64_t size);
template <typename A>
void nms_cuda(const NmsArgs<A>& args, void* scratch, void* stream);
}  // namespace detops
