// RoIAlign (arXiv:1703.06870, section 3) of rotated regions (arXiv:1703.01086): the mean of bilinear samples on a
// regular grid in each bin, the grid turned with the box.
#pragma once
#include "../math/rotated_roi.h"
#include "feature_maps.h"
#include "roi_tables.h"

namespace detops {
template <typename G>
struct RotatedRoiOfImage {
  int64_t image;  // -1 if there is no such image
  RotatedRoi<G> region;
};

// Regions (K, 6) as (image, cx, cy, w, h, angle).
template <typename G>
DETOPS_HD RotatedRoiOfImage<G> load_rotated_roi(const RawBoxes& rows, int64_t k, int64_t images,
                                                const RotatedRoiGrid& grid) {
  return rows.visit([&](const auto* first) {
    const auto number = [&](int column) {
      return static_cast<G>(first[k * rows.row_stride + column * rows.column_stride]);
    };
    return RotatedRoiOfImage<G>{image_index(number(0), images),
                                rotated_roi(number(1), number(2), number(3), number(4), number(5), grid)};
  });
}

// ---- CUDA ----------------------------------------------------------------------------------------------------------

struct RoiSpans {
  RoiSpan* spans;
};
// Where regions lie: image, and the rows and columns that a region may touch.
struct RotatedRoiTables {
  int64_t num_rois;
  int64_t* images;
  RoiSpans axes[2];  // y, x
  void* regions;     // RotatedRoi of double if the geometry is `wide`, else of float

  DETOPS_HD const RoiSpans& y() const { return axes[0]; }
  DETOPS_HD const RoiSpans& x() const { return axes[1]; }

  void place(Arena& arena, bool) {
    images = arena.take<int64_t>(num_rois);
    for (RoiSpans& axis : axes) axis.spans = arena.take<RoiSpan>(num_rois);
    regions = arena.take<RotatedRoi<double>>(num_rois);
  }
};

struct RotatedRoiArgs {
  RotatedRoiGrid grid;
  RawBoxes rois;
  int64_t images, height, width;  // of the maps
  bool wide;
  RotatedRoiTables tables;  // memory for these calls to fill
};
template <typename T>
void roi_align_rotated_cuda(const RotatedRoiArgs& args, const Maps<const T>& input, const Maps<T>& output,
                            void* stream);
template <typename T>
void roi_align_rotated_backward_cuda(const RotatedRoiArgs& args, const Maps<const T>& grad, const Maps<T>& output,
                                     void* stream);
}  // namespace detops
