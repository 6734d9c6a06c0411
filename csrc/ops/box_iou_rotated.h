// Overlap of rotated boxes (math/rotated_box.h), every pair of two sets or pair by pair.
#pragma once
#include "../math/rotated_box.h"
#include "raw_boxes.h"

namespace detops {
// The rotated box i of `boxes` (images, size, 5).
DETOPS_HD RotatedBox<double> load_rotated(const RawBoxes& boxes, int64_t image, int64_t i, AngleConvention convention) {
  const int64_t first = image * boxes.image_stride + i * boxes.row_stride, step = boxes.column_stride;
  return boxes.visit([&](const auto* of) {
    const auto number = [&](int column) { return static_cast<double>(of[first + column * step]); };
    return rotated_box(number(0), number(1), number(2), number(3), number(4), convention);
  });
}

template <typename Out>
struct BoxIouRotatedArgs {
  RawBoxes boxes1, boxes2;  // (images, N, 5), (images, M, 5)
  Out* output;              // (images, N, M); pair by pair: (images, N)
  int64_t images;
  bool over_first;  // intersection over the area of the first box, not over the union
  AngleConvention convention;
};
template <typename Out>
void box_iou_rotated_cuda(const BoxIouRotatedArgs<Out>& args, void* stream);
template <typename Out>
void box_iou_rotated_aligned_cuda(const BoxIouRotatedArgs<Out>& args, void* stream);
}  // namespace detops
