// "Efficient Graph-Based Image Segmentation", Felzenszwalb and Huttenlocher, IJCV 2004.
#pragma once
#include "image.h"

namespace detops {
// A region per pixel, numbered from 0 in the order in which a scan by rows meets them.
struct Segmentation {
  int64_t height, width;
  std::vector<uint32_t> labels;  // (H, W)
  uint32_t count = 0;
};

// Pixels joined to their eight neighbours. An edge weighs the distance of the smoothed colours; weights are whole
// multiples of 1 / 64 grey level, so that one counting sort orders them and every machine finds the same regions.
class PixelGraph {
 public:
  static constexpr int64_t kMaxPixels = int64_t{1} << 28;

  // sigma: of the Gaussian, in pixels; 0: none.
  PixelGraph(const Planes<uint8_t>& image, double sigma);

  // Regions for one scale k (larger k, larger regions), each of at least min_size pixels (unless the image is smaller).
  Segmentation segment(double k, int64_t min_size) const;

 private:
  void sort_edges(const Planes<uint16_t>& weights);

  int64_t height_, width_;
  std::vector<uint32_t> edges_;          // 4 · pixel + direction, by ascending weight, then number
  std::vector<uint32_t> weight_begins_;  // where the edges of each weight begin
};
}  // namespace detops
