// What selective search knows of a region: its size, bounding box, colours, texture and neighbours.
#pragma once
#include <utility>

#include "pixel_graph.h"

namespace detops {
// The bin of each pixel in each histogram: 25 bins for a channel's values; for its texture ten bins for each of eight
// directions of the derivative.
struct PixelBins {
  static constexpr int64_t kColorBins = 25, kTextureBins = 10;

  explicit PixelBins(const Planes<uint8_t>& image);

  int64_t channels() const { return color.count; }

  Planes<uint8_t> color;    // one plane per channel
  Planes<uint8_t> texture;  // four per channel, each for a direction and its opposite: see sort_derivative
};

struct RegionBox {
  int32_t x1, y1, x2, y2;  // x2 and y2 are one past the last pixel

  int64_t area() const { return int64_t{x2 - x1} * (y2 - y1); }
};

struct Regions {
  Regions(const Segmentation& segmentation, const PixelBins& bins);

  int64_t count() const { return static_cast<int64_t>(sizes.size()); }
  int32_t* histogram(int64_t region) { return histograms.data() + region * stride; }
  const int32_t* histogram(int64_t region) const { return histograms.data() + region * stride; }

  int64_t image_size, channels;
  int64_t color_stride, stride;  // numbers in a region's colour histogram, and in both; padded with zeros
  std::vector<int32_t> sizes;    // in pixels
  std::vector<RegionBox> boxes;
  std::vector<int32_t> histograms;                        // pixels per bin: colour, then texture
  std::vector<std::pair<uint32_t, uint32_t>> neighbours;  // regions that share an edge or a corner, first < second
};
}  // namespace detops
