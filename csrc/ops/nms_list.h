// Suppression by testing each box against all those kept before it.
#pragma once
#include <algorithm>
#include <limits>

#include "../core/simd.h"
#include "nms.h"

namespace detops {
// Boxes in order of score, one array per coordinate.
template <typename A>
struct SortedBoxes {
  const A *x1, *y1, *x2, *y2;
  int64_t size;

  DETOPS_HD Box<A> operator[](int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }
};

// Boxes kept, one array per coordinate, filled up with NaN to a whole number of steps of kUnroll vectors.
template <typename A>
class KeptBoxes {
 public:
  static constexpr int64_t kUnroll = 4, kColumns = 5, kStep = kUnroll * 64 / sizeof(A);

  // Uses kColumns arrays of `pitch` elements; room for pitch - kStep boxes.
  KeptBoxes(A* arrays, int64_t pitch)
      : x1_(arrays), y1_(x1_ + pitch), x2_(y1_ + pitch), y2_(x2_ + pitch), needed_(y2_ + pitch) {}

  DETOPS_HD int64_t size() const { return size_; }
  DETOPS_HD Box<A> operator[](int64_t i) const { return {x1_[i], y1_[i], x2_[i], y2_[i]}; }

  DETOPS_HD void add(const Box<A>& box, A needed) {
    if (size_ % kStep == 0) {
      for (A* column : {x1_, y1_, x2_, y2_, needed_}) {
        for (int64_t i = 0; i < kStep; ++i) column[size_ + i] = std::numeric_limits<A>::quiet_NaN();
      }
    }
    x1_[size_] = box.x1, y1_[size_] = box.y1, x2_[size_] = box.x2, y2_[size_] = box.y2, needed_[size_] = needed;
    ++size_;
  }

  template <typename V>
  DETOPS_HD bool overlap(const Box<A>& box, A area, A needed, const NmsRule<A>& rule) const {
    constexpr int64_t kLanes = sizeof(V) / sizeof(A);
    const Box<V> candidate = broadcast<V>(box);
    const V candidate_needed = broadcast<V>(needed);
    for (int64_t i = 0; i < size_; i += kUnroll * kLanes) {
      V most = excess(candidate, vector<V>(i), candidate_needed, load<V>(needed_ + i));
      for (int64_t j = i + kLanes; j < i + kUnroll * kLanes; j += kLanes) {
        most = max(most, excess(candidate, vector<V>(j), candidate_needed, load<V>(needed_ + j)));
      }
      if (rule.iou_threshold >= 0 && !bits(most > V{})) continue;
      for (int64_t j = i; j < i + kUnroll * kLanes; j += kLanes) {
        const Box<V> others = vector<V>(j);
        const V area_of_others = detops::area(others), area_of_candidate = broadcast<V>(area);
        if (bits(overlaps(candidate, others, area_of_candidate, area_of_others, broadcast<V>(rule.threshold)))) {
          return true;
        }
      }
    }
    return false;
  }

 private:
  template <typename V>
  DETOPS_HD Box<V> vector(int64_t i) const {
    return {load<V>(x1_ + i), load<V>(y1_ + i), load<V>(x2_ + i), load<V>(y2_ + i)};
  }

  int64_t size_ = 0;
  A *x1_, *y1_, *x2_, *y2_, *needed_;
};

// How far a suppression has come: boxes decided, and how many of them were kept.
struct NmsProgress {
  int64_t decided = 0, kept = 0;
};

// Decides boxes until `limit` are kept; writes their positions. Stops where the list has `longest` or more and, at
// twice that, boxes are left enough to be worth filing the list in a grid.
template <typename Isa, typename A>
DETOPS_HD void suppress_by_list(const SortedBoxes<A>& boxes, const NmsRule<A>& rule, int64_t limit, int64_t longest,
                                KeptBoxes<A>& list, NmsProgress& at, uint32_t* keep) {
  KeptBoxes<A> kept_boxes = list;
  int64_t kept = at.kept, i = at.decided;
  for (; i < boxes.size && kept < limit; ++i) {
    if (kept_boxes.size() >= longest && boxes.size - i >= 2 * kept_boxes.size()) break;
    const Box<A> box = boxes[i];
    const A area = detops::area(box), needed = rule.needed(area);
    if (rule.concerns(box, area)) {
      if (kept_boxes.template overlap<Vec<Isa, A>>(box, area, needed, rule)) continue;
      kept_boxes.add(box, needed);
    }
    keep[kept++] = static_cast<uint32_t>(i);
  }
  list = kept_boxes;
  at = {i, kept};
}
}  // namespace detops
