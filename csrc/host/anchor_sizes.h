// Anchors' widths and heights learned from those of boxes.
#pragma once
#include <cstdint>
#include <vector>

namespace detops {
struct Size {
  double width, height;
};

// Widths and heights of boxes, all positive and finite, that someone else owns.
struct SizeColumns {
  const double *widths, *heights;
  int64_t count;
};

// How alike two sizes are, in (0, 1].
enum class Likeness {
  kIou,   // overlap of boxes of these sizes with the same corner
  kRatio  // the smaller of the ratios of widths and of heights, each at most 1
};

// k-means from centres chosen by k-means++ with distance 1 - likeness. Centres are means of their members, geometric
// ones for ratios. Ends when no size changes its centre, or after max_iterations.
std::vector<Size> cluster_sizes(const SizeColumns& sizes, int64_t k, Likeness likeness, uint64_t seed,
                                int64_t max_iterations);

// Of the ratio of each size to the anchor most like it, counted if above 1 / threshold.
struct AnchorFit {
  double fitness;  // mean, 0 where not counted
  double recall;   // share of the sizes counted
};
AnchorFit fit_anchors(const SizeColumns& sizes, const std::vector<Size>& anchors, double threshold);
}  // namespace detops
