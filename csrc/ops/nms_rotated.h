// Non-maximum suppression of rotated boxes: the order, the classes and the kernels are those of nms.h.
#pragma once
#include "box_iou_rotated.h"
#include "nms.h"

namespace detops {
struct RotatedNmsRule {
  AngleConvention convention;
  double iou_threshold;
  double threshold;  // rotated_threshold(): what box_iou_rotated() gives is above iou_threshold, or not
  double share;      // of the sum of two areas that an intersection must exceed, or there is no overlap

  RotatedNmsRule(double t, bool in_double, bool clockwise)
      : convention{clockwise, /*degrees=*/false},
        iou_threshold(t),
        threshold(in_double ? rotated_threshold<double>(t) : rotated_threshold<float>(t)),
        // A little less, for the rounding of each step; float rounds a score up by up to its 2^-24th.
        share(t / (1 + t) * (1 - 1e-6)) {}

  bool drops_nothing() const { return iou_threshold >= 1; }  // no overlap is above 1

  static constexpr int kResident = 3, kUnroll = 4;

  using Shape = RotatedBox<double>;
  DETOPS_HD static Shape nobody() { return no_rotated_box(); }
  DETOPS_HD Shape load(const RawBoxes& boxes, int64_t image, int64_t i) const {
    return load_rotated(boxes, image, i, convention);
  }
  DETOPS_HD bool may_drop(const Shape& a, const Shape& b) const {
    const double area_a = a.area(), area_b = b.area();
    const double most =
        shared_area_bound(b.x - a.x, b.y - a.y, a.reach_x, a.reach_y, area_a, b.reach_x, b.reach_y, area_b);
    return most > (area_a + area_b) * share;
  }
  DETOPS_HD bool drops(const Shape& a, const Shape& b) const {
    return a.half_width > 0 && b.half_width > 0 && rotated_overlap(a, b, /*over_a=*/false) > threshold;
  }
};
}  // namespace detops
