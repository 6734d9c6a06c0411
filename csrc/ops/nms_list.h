// Suppression by testing each box against all those kept before it.
#pragma once
#include <memory>

#include "../core/simd.h"
#include "nms.h"

namespace detops {
// Boxes in order of score, one array per coordinate, with as many more elements as a vector has.
template <typename A>
struct SortedBoxes {
  A *x1, *y1, *x2, *y2, *area;
  int64_t size;

  DETOPS_HD Box<A> operator[](int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }
  template <typename V>
  DETOPS_HD Box<V> vector(int64_t i) const {
    return {load<V>(x1 + i), load<V>(y1 + i), load<V>(x2 + i), load<V>(y2 + i)};
  }
  DETOPS_HD void move(int64_t from, int64_t to) const {
    for (A* column : {x1, y1, x2, y2, area}) column[to] = column[from];
  }
};

// The lanes in which a candidate overlaps a vector of kept boxes. The product settles nearly all without a division.
template <typename V, typename A>
DETOPS_HD uint32_t overlapping(const Box<V>& candidate, const Box<V>& kept, V candidate_area, V kept_area,
                               const NmsRule<A>& rule) {
  const V width = max(min(candidate.x2, kept.x2) - max(candidate.x1, kept.x1), V{});
  const V height = min(candidate.y2, kept.y2) - max(candidate.y1, kept.y1);
  if (rule.iou_threshold >= 0 &&
      bits(width * height * broadcast<V>(rule.reach) >= candidate_area + kept_area) == 0) {
    return 0;
  }
  return bits(overlaps(candidate, kept, candidate_area, kept_area, broadcast<V>(rule.threshold)));
}

// Writes the positions of the first `limit` boxes kept and returns their number. Kept boxes are moved to the front of
// the arrays, over others already decided.
template <typename Isa, typename A>
DETOPS_HD int64_t suppress_by_list(const SortedBoxes<A>& boxes, const NmsRule<A>& rule, int64_t limit, uint32_t* keep) {
  using V = Vec<Isa, A>;
  constexpr int64_t kLanes = lanes<Isa, A>;
  int64_t kept = 0, listed = 0;
  for (int64_t i = 0; i < boxes.size && kept < limit; ++i) {
    const Box<A> box = boxes[i];
    const A area = detops::area(box);
    if (rule.concerns(box, area)) {
      const Box<V> candidate = broadcast<V>(box);
      const V candidate_area = broadcast<V>(area);
      bool dropped = false;
      for (int64_t j = 0; j < listed && !dropped; j += kLanes) {
        const uint32_t hits =
            overlapping(candidate, boxes.template vector<V>(j), candidate_area, load<V>(boxes.area + j), rule);
        dropped = listed - j < kLanes ? hits & ((1u << (listed - j)) - 1) : hits;
      }
      if (dropped) continue;
      boxes.area[i] = area;
      boxes.move(i, listed++);
    }
    keep[kept++] = static_cast<uint32_t>(i);
  }
  return kept;
}
}  // namespace detops
