#include "region_hierarchy.h"

#include <algorithm>
#include <queue>

#include "core/simd.h"

namespace detops {
namespace {
// Sum over the bins of the lesser of two histograms scaled to the same size: a · size_b and b · size_a. Whole numbers,
// exact up to 2^53, whatever the order of summation; eight lanes everywhere, so that even beyond it is one order.
double shared_pixels(const int32_t* a, double size_a, const int32_t* b, double size_b, int64_t n) {
  using Counts = VecOf<int32_t, 32>::type;
  using Numbers = VecOf<double, 64>::type;
  double total = 0;
  simd([&](auto) DETOPS_INLINE {
    Numbers sums{};
    for (int64_t i = 0; i < n; i += 8) {
      const Numbers x = __builtin_convertvector(load<Counts>(a + i), Numbers) * size_b;
      const Numbers y = __builtin_convertvector(load<Counts>(b + i), Numbers) * size_a;
      sums += min(x, y);
    }
    total = sum(sums);
  });
  return total;
}

// Two neighbours; the best pair is at the top of a priority queue.
struct Candidate {
  double similarity;
  uint32_t a, b;  // a < b

  bool operator<(const Candidate& other) const {
    if (similarity != other.similarity) return similarity < other.similarity;
    return std::pair(a, b) > std::pair(other.a, other.b);
  }
};

// The regions while they merge. Numbers are never used twice; a merged region takes over the histogram of one of its
// parts.
class Grouping {
 public:
  Grouping(const Regions& regions, unsigned similarities)
      : given_(regions), similarities_(similarities), boxes_(regions.boxes), seen_(2 * regions.count(), kNone) {
    if (similarities & (kColor | kTexture)) histograms_ = regions.histograms;
    boxes_.reserve(2 * regions.count());
    sizes_.assign(regions.sizes.begin(), regions.sizes.end());
    sizes_.resize(2 * regions.count());
    neighbours_.resize(2 * regions.count());
    rows_.resize(2 * regions.count());
    alive_.resize(2 * regions.count());
    std::fill_n(alive_.begin(), regions.count(), true);
    for (int64_t region = 0; region < regions.count(); ++region) rows_[region] = static_cast<uint32_t>(region);
    std::vector<Candidate> candidates;
    candidates.reserve(regions.neighbours.size());
    for (const auto& [a, b] : regions.neighbours) {
      neighbours_[a].push_back(b);
      neighbours_[b].push_back(a);
      candidates.push_back({similarity(a, b), a, b});
    }
    queue_ = std::priority_queue<Candidate>({}, std::move(candidates));
  }

  std::vector<RegionBox> run() {
    while (!queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      if (alive_[best.a] && alive_[best.b]) merge(best.a, best.b);
    }
    return std::move(boxes_);
  }

 private:
  static constexpr uint32_t kNone = ~0u;

  double similarity(uint32_t a, uint32_t b) const {
    const double size_a = sizes_[a], size_b = sizes_[b], image_size = static_cast<double>(given_.image_size);
    const double scale = size_a * size_b * given_.channels;
    double result = 0;
    if (similarities_ & kColor) {
      result += shared_pixels(histogram(a), size_a, histogram(b), size_b, given_.color_stride) / scale;
    }
    if (similarities_ & kTexture) {
      const int64_t skip = given_.color_stride;
      const double shared =
          shared_pixels(histogram(a) + skip, size_a, histogram(b) + skip, size_b, given_.stride - skip);
      result += shared / (8 * scale);
    }
    if (similarities_ & kSize) result += 1 - (size_a + size_b) / image_size;
    if (similarities_ & kFill) {
      const double hull = static_cast<double>(join(boxes_[a], boxes_[b]).area());
      result += 1 - (hull - size_a - size_b) / image_size;
    }
    return result;
  }

  void merge(uint32_t a, uint32_t b) {
    const auto merged = static_cast<uint32_t>(boxes_.size());
    boxes_.push_back(join(boxes_[a], boxes_[b]));
    sizes_[merged] = sizes_[a] + sizes_[b];
    rows_[merged] = rows_[a];
    alive_[a] = alive_[b] = false;
    alive_[merged] = true;
    if (!histograms_.empty()) add(histogram(a), histogram(b));
    for (const uint32_t part : {a, b}) {
      for (const uint32_t other : neighbours_[part]) {
        if (!alive_[other] || seen_[other] == merged) continue;
        seen_[other] = merged;
        neighbours_[merged].push_back(other);
        neighbours_[other].push_back(merged);
        queue_.push({similarity(other, merged), other, merged});
      }
      std::vector<uint32_t>().swap(neighbours_[part]);
    }
  }

  static RegionBox join(const RegionBox& a, const RegionBox& b) {
    return {std::min(a.x1, b.x1), std::min(a.y1, b.y1), std::max(a.x2, b.x2), std::max(a.y2, b.y2)};
  }

  void add(int32_t* to, const int32_t* from) const {
    for (int64_t i = 0; i < given_.stride; ++i) to[i] += from[i];
  }

  int32_t* histogram(uint32_t region) { return histograms_.data() + rows_[region] * given_.stride; }
  const int32_t* histogram(uint32_t region) const { return histograms_.data() + rows_[region] * given_.stride; }

  const Regions& given_;
  unsigned similarities_;
  std::vector<RegionBox> boxes_;
  std::vector<int32_t> sizes_, histograms_;
  std::vector<std::vector<uint32_t>> neighbours_;  // with regions that have merged since
  std::vector<uint32_t> rows_;                     // where the histogram is
  std::vector<uint32_t> seen_;                     // the merged region that last had this one as a neighbour
  std::vector<bool> alive_;
  std::priority_queue<Candidate> queue_;
};
}  // namespace

std::vector<RegionBox> group_regions(const Regions& regions, unsigned similarities) {
  return Grouping(regions, similarities).run();
}
}  // namespace detops
