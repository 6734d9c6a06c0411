// Suppression of upright boxes on the CPU: by a list of the boxes kept, then by a grid.
#pragma once
#include <memory>
#include <numeric>

#include "nms_cpu.h"
#include "nms_grid.h"
#include "nms_list.h"

namespace detops {
// Vectors of kept boxes from which on a grid is faster, as measured; it gains less at low thresholds.
constexpr int64_t longest_list(double iou_threshold) { return iou_threshold < 0.45 ? 200 : 90; }

template <typename A>
class Suppression<NmsRule<A>> {
 public:
  // There is room between pieces, which share no vector.
  Suppression(const NmsRule<A>& rule, const BoxView& boxes, int64_t n, int64_t pieces)
      : rule_(rule),
        boxes_(boxes),
        pitch_(n + pieces * KeptBoxes<A>::kStep),
        storage_(uninitialised<A>((4 + KeptBoxes<A>::kColumns) * pitch_)) {}

  template <typename Row>
  int64_t run(int64_t piece, int64_t begin, int64_t end, const Row& row, int64_t limit, uint32_t* keep) const {
    if (rule_.drops_nothing()) {
      const int64_t kept = std::min(limit, end - begin);
      std::iota(keep, keep + kept, 0u);
      return kept;
    }
    const SortedBoxes<A> boxes = gather(begin, end, row);
    KeptBoxes<A> list(storage_.get() + 4 * pitch_ + piece * KeptBoxes<A>::kStep + begin, pitch_);
    NmsProgress at;
    simd([&](auto isa) DETOPS_INLINE {
      using Isa = decltype(isa);
      const bool grid = rule_.iou_threshold >= GridAxis::kLeastThreshold;
      const int64_t longest = grid ? longest_list(rule_.iou_threshold) * lanes<Isa, A> : boxes.size;
      suppress_by_list<Isa>(boxes, rule_, limit, longest, list, at, keep);
      if (!grid || at.decided == boxes.size || at.kept == limit) return;
      if (suppress_by_grid<Isa>(boxes, rule_, limit, list, at, keep)) return;
      suppress_by_list<Isa>(boxes, rule_, limit, boxes.size, list, at, keep);
    });
    return at.kept;
  }

 private:
  template <typename Row>
  SortedBoxes<A> gather(int64_t begin, int64_t end, const Row& row) const {
    A* to = storage_.get() + begin;
    dispatch_type(boxes_.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      for (int64_t i = begin; i < end; ++i, ++to) {
        const T* box = reinterpret_cast<const T*>(boxes_.data) + row(i) * boxes_.row_stride;
        for (int column = 0; column < 4; ++column) {
          to[column * pitch_] = static_cast<A>(box[column * boxes_.column_stride]);
        }
      }
    });
    const A* x1 = storage_.get() + begin;
    return {x1, x1 + pitch_, x1 + 2 * pitch_, x1 + 3 * pitch_, end - begin};
  }

  NmsRule<A> rule_;
  BoxView boxes_;
  int64_t pitch_;
  std::unique_ptr<A[]> storage_;
};
}  // namespace detops
