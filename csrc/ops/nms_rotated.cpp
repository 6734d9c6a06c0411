#include "nms_rotated.h"

#include <algorithm>
#include <numeric>

#include "nms_host.h"
#include "rotated_columns.h"

namespace detops {
// Each box is tested against all those kept before it: at a glance against a vector of them, then those that are near
// and alike enough a vectorful at a time.
template <>
class Suppression<RotatedNmsRule> {
 public:
  Suppression(const RotatedNmsRule& rule, const BoxView& boxes, int64_t, int64_t) : rule_(rule), boxes_(boxes) {}

  template <typename Row>
  int64_t run(int64_t, int64_t begin, int64_t end, const Row& row, int64_t limit, uint32_t* keep) const {
    int64_t kept = 0;
    if (rule_.drops_nothing()) {
      kept = std::min(limit, end - begin);
      std::iota(keep, keep + kept, 0u);
      return kept;
    }
    RotatedColumns list(end - begin);
    simd([&](auto isa) DETOPS_INLINE {
      int64_t size = 0;
      for (int64_t i = begin; i < end && kept < limit; ++i) {
        const Rotated box = rule_.load(boxes_, 0, row(i));
        if (box.half_width > 0) {  // others neither drop nor are dropped
          if (is_dropped<PairVec<decltype(isa)>>(box, list, size)) continue;
          list.set(size++, box);
        }
        keep[kept++] = static_cast<uint32_t>(i - begin);
      }
    });
    return kept;
  }

 private:
  template <typename V>
  DETOPS_HD bool is_dropped(const Rotated& box, const RotatedColumns& list, int64_t size) const {
    constexpr int64_t kLanes = sizeof(V) / sizeof(double);
    if (rule_.iou_threshold < 0) return size > 0;
    const Rotated* waiting[2 * kLanes];
    int64_t count = 0;
    for (int64_t j = 0; j < size; j += kLanes) {
      for (uint32_t near = list.alike<V>(box, j, rule_.share); near != 0; near &= near - 1) {
        waiting[count++] = &list[j + __builtin_ctz(near)];
      }
      while (count >= kLanes || (count > 0 && j + kLanes >= size)) {
        const Rotated *others[kLanes], *own[kLanes];
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          others[lane] = waiting[std::min(lane, count - 1)];
          own[lane] = &box;
        }
        if (bits(rotated_overlap(gather<V>(others), gather<V>(own), false) > broadcast<V>(rule_.threshold))) {
          return true;
        }
        count = std::max<int64_t>(count - kLanes, 0);
        std::copy_n(waiting + kLanes, count, waiting);
      }
    }
    return false;
  }

  RotatedNmsRule rule_;
  BoxView boxes_;
};

namespace {
auto with_rule(double iou_threshold, bool clockwise) {
  return [=](const Tensor& dets, const auto& fn) { fn(RotatedNmsRule(iou_threshold, is_double(dets), clockwise)); };
}
}  // namespace

Tensor nms_rotated(const Tensor& dets, const Tensor& scores, double iou_threshold, const std::optional<Tensor>& labels,
                   bool clockwise) {
  return nms_host({"nms_rotated", "dets", 5, "labels"}, dets, scores, labels ? &*labels : nullptr, iou_threshold,
                  with_rule(iou_threshold, clockwise));
}
DETOPS_OP(nms_rotated,
          "(Tensor dets, Tensor scores, float iou_threshold, Tensor? labels=None, bool clockwise=True) -> Tensor")

std::tuple<Tensor, Tensor> nms_rotated_padded(const Tensor& dets, const Tensor& scores, double iou_threshold,
                                              int64_t max_output, const std::optional<Tensor>& labels, bool clockwise,
                                              std::optional<double> score_threshold) {
  return nms_padded_host({"nms_rotated_padded", "dets", 5, "labels"}, dets, scores, labels ? &*labels : nullptr,
                         iou_threshold, max_output, score_threshold, with_rule(iou_threshold, clockwise));
}
DETOPS_OP(nms_rotated_padded,
          "(Tensor dets, Tensor scores, float iou_threshold, SymInt max_output, Tensor? labels=None, "
          "bool clockwise=True, float? score_threshold=None) -> (Tensor, Tensor)")
}  // namespace detops
