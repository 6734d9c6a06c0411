// Hierarchical grouping of "Selective Search for Object Recognition", Uijlings et al., IJCV 2013, section 3.
#pragma once
#include "regions.h"

namespace detops {
// Which similarities, each in 0 ... 1, add up to that of two regions.
enum Similarity : unsigned { kColor = 1, kTexture = 2, kSize = 4, kFill = 8 };

// Merges the two most similar neighbours (the oldest of equally similar ones) until none are left. The bounding boxes
// of all regions on the way: the given ones in their order, then the merged ones in theirs, up to the whole image.
std::vector<RegionBox> group_regions(const Regions& regions, unsigned similarities);
}  // namespace detops
