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

// Positive where a candidate may overlap a box, thresholds being 0 or more: settles nearly all without a division.
template <typename V>
DETOPS_HD V excess(const Box<V>& candidate, const Box<V>& other, V candidate_needed, V other_needed) {
  const V left = max_number(candidate.x1, other.x1), right = min_number(candidate.x2, other.x2);
  const V top = max_number(candidate.y1, other.y1), bottom = min_number(candidate.y2, other.y2);
  const V width = max_number(right - left, V{}), height = bottom - top;
  return width * height - (candidate_needed + other_needed);
}

// A rule says which boxes drop which. What a kernel asks of one:
//   Shape                 a box as it is compared
//   load(boxes, image, i) the shape of a box
//   nobody()              the shape of what drops no box and is dropped by none
//   may_drop(a, b)        whether a may drop b or b a, thresholds being 0 or more: settles nearly all pairs
//   drops(a, b)           whether it does, for any threshold
//   kResident, kUnroll    blocks that a multiprocessor must have registers for; tests at a time
template <typename A>
struct NmsRule {
  static constexpr A kMost = std::numeric_limits<A>::max();
  static constexpr A kLeastNormal = std::numeric_limits<A>::min();
  static constexpr A kNan = std::numeric_limits<A>::quiet_NaN();

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

  static constexpr int kResident = 32 / sizeof(A), kUnroll = sizeof(A) == 8 ? 4 : 8;

  struct alignas(16) Shape {
    Box<A> box;
    A needed;
  };
  DETOPS_HD static Shape nobody() { return {{kNan, kNan, kNan, kNan}, A(0)}; }
  DETOPS_HD Shape load(const RawBoxes& boxes, int64_t image, int64_t i) const {
    const Box<A> box = boxes.template load<A>(image, i);
    const A own_area = area(box);
    if (!concerns(box, own_area)) return nobody();
    return {box, iou_threshold < 0 ? A(0) : needed(own_area)};
  }
  DETOPS_HD bool may_drop(const Shape& a, const Shape& b) const { return excess(a.box, b.box, a.needed, b.needed) > 0; }
  DETOPS_HD bool drops(const Shape& a, const Shape& b) const {
    return overlaps(a.box, b.box, area(a.box), area(b.box), threshold);
  }
};

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

template <typename Rule>
struct NmsArgs {
  Rule rule;
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
// `scratch` has nms_scratch_bytes() bytes, aligned to 64.
template <typename Rule>
int64_t nms_scratch_bytes(int64_t images, int64_t size);
template <typename Rule>
void nms_cuda(const NmsArgs<Rule>& args, void* scratch, void* stream);
}  // namespace detops
