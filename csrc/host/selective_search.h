// "Selective Search for Object Recognition", Uijlings et al., IJCV 2013: boxes of all regions of many hierarchies.
#pragma once
#include "color_spaces.h"
#include "proposals.h"

namespace detops {
// Every colour space with every scale is a segmentation, each grouped with every set of similarities.
struct SearchSettings {
  std::vector<ColorSpace> color_spaces;
  std::vector<double> scales;          // k of the segmentation
  std::vector<unsigned> similarities;  // sets of Similarity
  double sigma;                        // of the segmentation's Gaussian, in pixels
  int64_t min_size;                    // of a segment, in pixels; negative: that of its scale
  uint64_t seed;
};

// Different boxes, best first; none if the image is empty.
std::vector<Proposal> selective_search(const ImageView& image, const SearchSettings& settings);
}  // namespace detops
