// Anchors of every location of a feature pyramid: Faster R-CNN (arXiv:1506.01497, section 3.1.1).
#pragma once
#include <vector>

#include "../math/box.h"
#include "raw_boxes.h"

namespace detops {
struct AnchorLevel {
  RawBoxes cell;  // the anchors of one location, about its centre
  int64_t height, width, stride_y, stride_x;
  int64_t first;  // of the level, among the anchors of all

  int64_t row_size() const { return width * cell.size; }
  int64_t size() const { return height * row_size(); }
};

// How far the centre of a location is from that of the first, along one axis. T is the dtype of the anchors, to which
// it is rounded before it is added.
template <typename T>
DETOPS_HD acc_t<T> anchor_shift(int64_t location, int64_t stride) {
  return static_cast<acc_t<T>>(static_cast<T>(static_cast<acc_t<T>>(location * stride)));
}

// ---- CUDA ----------------------------------------------------------------------------------------------------------

template <typename T>
void anchor_grid_cuda(const std::vector<AnchorLevel>& levels, T* anchors, void* stream);
}  // namespace detops
