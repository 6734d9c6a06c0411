// Regions (K, 5) as a tensor has them, of any floating dtype and any strides.
#pragma once
#include "raw_boxes.h"

namespace detops {
template <typename G>
struct Roi {
  int64_t image;  // -1 if there is no such image
  Box<G> box;     // in image pixels
};

// A fraction is cut off.
template <typename G>
DETOPS_HD int64_t image_index(G value, int64_t images) {
  return value > G(-1) && value < static_cast<G>(images) ? static_cast<int64_t>(value) : -1;
}

struct RawRois {
  RawBoxes rows;

  template <typename G>
  DETOPS_HD Roi<G> load(int64_t k, int64_t images) const {
    return rows.visit([&](const auto* first) {
      const auto* row = first + k * rows.row_stride;
      const auto value = [&](int column) { return static_cast<G>(row[column * rows.column_stride]); };
      return Roi<G>{image_index(value(0), images), {value(1), value(2), value(3), value(4)}};
    });
  }
};
}  // namespace detops
