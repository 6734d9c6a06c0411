#include "proposals.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace detops {
namespace {
// SplitMix64 (Steele, Lea and Flood, 2014) as a hash.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// In [0, 1), of 53 bits.
double random_number(uint64_t seed, uint64_t hierarchy, uint64_t place) {
  return static_cast<double>(mix(mix(mix(seed) + hierarchy) + place) >> 11) * 0x1p-53;
}

auto corners(const RegionBox& box) { return std::tie(box.x1, box.y1, box.x2, box.y2); }

// Whether the IoU is above 0.8.
bool nearly_same(const RegionBox& a, const RegionBox& b) {
  const int64_t width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
  const int64_t height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  if (width <= 0 || height <= 0) return false;
  const int64_t intersection = width * height;
  return 5 * intersection > 4 * (a.area() + b.area() - intersection);
}

// Boxes by width and height, each in classes that grow by a quarter: nearly the same ones are at most one class apart.
class SizeClasses {
 public:
  bool has_nearly_same(const RegionBox& box) const {
    const int64_t column = size_class(box.x2 - box.x1), row = size_class(box.y2 - box.y1);
    for (int64_t r = row - 1; r <= row + 1; ++r) {
      for (int64_t c = column - 1; c <= column + 1; ++c) {
        for (const RegionBox& other : boxes_[r * kClasses + c]) {
          if (nearly_same(box, other)) return true;
        }
      }
    }
    return false;
  }

  void add(const RegionBox& box) {
    boxes_[size_class(box.y2 - box.y1) * kClasses + size_class(box.x2 - box.x1)].push_back(box);
  }

 private:
  static constexpr int64_t kClasses = 90;  // 1.25^87 pixels and more, an empty class on either side

  static int64_t size_class(int32_t length) { return 1 + static_cast<int64_t>(std::log(length) / std::log(1.25)); }

  std::vector<std::vector<RegionBox>> boxes_{kClasses * kClasses};
};

std::vector<Proposal> different_boxes(const std::vector<std::vector<RegionBox>>& hierarchies, uint64_t seed) {
  std::vector<Proposal> proposals;
  for (size_t h = 0; h < hierarchies.size(); ++h) {
    const size_t n = hierarchies[h].size();
    for (size_t i = 0; i < n; ++i) {
      const size_t place = n - i;  // 1: the whole image
      proposals.push_back({hierarchies[h][i], random_number(seed, h, place) * static_cast<double>(place)});
    }
  }
  std::sort(proposals.begin(), proposals.end(), [](const Proposal& a, const Proposal& b) {
    return corners(a.box) != corners(b.box) ? corners(a.box) < corners(b.box) : a.rank < b.rank;
  });
  const auto repeated = [](const Proposal& a, const Proposal& b) { return corners(a.box) == corners(b.box); };
  proposals.erase(std::unique(proposals.begin(), proposals.end(), repeated), proposals.end());
  return proposals;
}
}  // namespace

std::vector<Proposal> rank_boxes(const std::vector<std::vector<RegionBox>>& hierarchies, uint64_t seed) {
  std::vector<Proposal> proposals = different_boxes(hierarchies, seed);
  std::stable_sort(proposals.begin(), proposals.end(),
                   [](const Proposal& a, const Proposal& b) { return a.rank < b.rank; });
  SizeClasses chosen;
  const auto behind = std::stable_partition(proposals.begin(), proposals.end(), [&](const Proposal& proposal) {
    if (chosen.has_nearly_same(proposal.box)) return false;
    chosen.add(proposal.box);
    return true;
  });
  if (behind != proposals.end()) {
    const double last = (behind - 1)->rank;
    for (auto proposal = behind; proposal != proposals.end(); ++proposal) proposal->rank += last;
  }
  return proposals;
}
}  // namespace detops
