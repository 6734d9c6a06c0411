// The boxes around masks: the first and last row and column with anything but zero.
#pragma once
#include "../core/device.h"

namespace detops {
struct RawMasks {  // (count, height, width)
  const char* data;
  int64_t count, height, width, mask_stride, row_stride, column_stride;  // strides in elements
};

// Elements as unsigned integers, of which `counted` bits make them other than zero: all but the sign of a floating one.
template <typename U>
DETOPS_HD bool is_set(U element, U counted) {
  return (element & counted) != 0;
}

// Pixels, the last ones included; none yet where x2 is negative.
struct MaskExtent {
  int64_t x1, y1, x2, y2;
};

// ---- CUDA ----------------------------------------------------------------------------------------------------------

// How the rows of a mask are divided among blocks.
struct MaskParts {
  int64_t parts, rows;  // of a mask; of a part

  explicit MaskParts(const RawMasks& masks) {
    constexpr int64_t kWorthwhile = 16384;  // pixels of a part
    const int64_t wanted = (kManyBlocks + masks.count - 1) / masks.count;
    rows = (masks.height + wanted - 1) / wanted;
    const int64_t least = kWorthwhile / masks.width + 1;
    rows = rows < least ? least : rows;
    parts = (masks.height + rows - 1) / rows;
  }
};

template <typename U>
struct MasksArgs {
  RawMasks masks;  // not empty
  U counted;
  MaskParts divided;
  MaskExtent* extents;  // (count, parts); null if there is one part only
  float* boxes;         // (count, 4)
};
template <typename U>
void masks_to_boxes_cuda(const MasksArgs<U>& args, void* stream);
}  // namespace detops
