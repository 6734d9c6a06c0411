// Regions of many hierarchies as one list of boxes, best first.
#pragma once
#include "regions.h"

namespace detops {
struct Proposal {
  RegionBox box;
  double rank;  // smaller is better
};

// Different boxes by rank: the place of the region in its hierarchy, counted from the whole image, times a
// pseudo-random number in [0, 1); the best for a box of several regions (Uijlings et al., IJCV 2013, section 4.3).
// Then, so that the first boxes cover more of what there is, those that overlap a better one with an IoU above 0.8
// move, in their order, behind all others.
std::vector<Proposal> rank_boxes(const std::vector<std::vector<RegionBox>>& hierarchies, uint64_t seed);
}  // namespace detops
