// Which map a region is pooled from: of a feature pyramid by "Feature Pyramid Networks for Object Detection"
// (arXiv:1612.03144), equation 1.
#pragma once
#include <cstdint>

#include "feature_maps.h"
#include "raw_rois.h"

namespace detops {
// A region of area A belongs to level floor(k0 + log2(sqrt(A) / s0) + 1e-6), as torchvision computes it, in float32 or,
// for float64 regions, float64, each step rounded correctly; so a region a rounding error below s0 counts as being it.
// A map of scale s, feature pixels per image pixel, is that of level -log2(s), rounded. The first map, from the finest,
// whose level is not below the region's is its own, or else the last.
//
// Regions themselves are only compared: with the least areas at which the maps begin, found once, on the host.
template <int kMost>
struct RoiLevels {
  int count;
  bool wide;                 // regions are float64
  double least_area[kMost];  // ascending, from 0; NaN if the map before is of the last level already

  // The map's index; -1 if the area is negative or NaN, unless there is but one map.
  template <typename G>
  DETOPS_HD int of(const Box<G>& box) const {
    if (kMost == 1 || count == 1) return 0;
    const double size = wide ? area(Box<double>{box.x1, box.y1, box.x2, box.y2}) : area(as_float(box));
    int i = -1;
    for (int next = 0; next < count; ++next) i += size >= least_area[next];
    return i;
  }

 private:
  template <typename G>
  DETOPS_HD static Box<float> as_float(const Box<G>& box) {
    return {static_cast<float>(box.x1), static_cast<float>(box.y1), static_cast<float>(box.x2),
            static_cast<float>(box.y2)};
  }
};

struct ScaledMap {
  double spatial_scale;  // feature pixels per image pixel
  int64_t height, width;
};
// The maps that regions are pooled from, at most so many.
template <int kMost>
struct ScaledMaps {
  ScaledMap maps[kMost];
  RoiLevels<kMost> levels;
  int64_t images;  // of each map

  struct Place {
    int map;
    int64_t image;  // counted as feature_maps.h says; -1 if there is none, and the region takes no pixels
  };
  template <typename G>
  DETOPS_HD Place place(const Roi<G>& roi) const {
    const int map = levels.of(roi.box);
    return {max(map, 0), map < 0 || roi.image < 0 ? -1 : map * images + roi.image};
  }
};
using ScaledPyramid = ScaledMaps<Pyramid<float>::kMostLevels>;

struct ScaledMapAlone : ScaledMaps<1> {
  ScaledMapAlone(double spatial_scale, int64_t images, int64_t height, int64_t width)
      : ScaledMaps<1>{{{spatial_scale, height, width}}, {1, false, {0}}, images} {}

  DETOPS_HD double spatial_scale() const { return maps[0].spatial_scale; }
};
}  // namespace detops
