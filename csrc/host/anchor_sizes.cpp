#include "anchor_sizes.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "core/parallel.h"
#include "core/simd.h"

namespace detops {
namespace {
using Numbers = VecOf<double, 64>::type;  // the same eight lanes on every machine, so that sums are the same, too
constexpr int64_t kLanes = 8;
constexpr int64_t kChunk = 1 << 14;  // sums of chunks are added in their order, whatever thread made them

// Members of each cluster while their mean is found.
struct ClusterSum {
  double width = 0, height = 0;
  int64_t count = 0;
};

// The anchor most like a size so far. Likenesses are compared as fractions: one division a size, not one an anchor.
template <Likeness kLikeness, typename V>
struct Nearest {
  V width, height, numerator{}, denominator = constant<V>(1), index{};

  DETOPS_HD Nearest(V width, V height) : width(width), height(height) {}

  DETOPS_HD void consider(const Size& anchor, double number) {
    const V w = constant<V>(anchor.width), h = constant<V>(anchor.height);
    V above, below;
    if constexpr (kLikeness == Likeness::kIou) {
      above = min(width, w) * min(height, h);
      below = width * height + w * h - above;
    } else {
      const V narrow = min(width, w), wide = max(width, w), low = min(height, h), high = max(height, h);
      const auto by_width = narrow * high < low * wide;
      above = select(by_width, narrow, low);
      below = select(by_width, wide, high);
    }
    const auto better = above * denominator > numerator * below;
    numerator = select(better, above, numerator);
    denominator = select(better, below, denominator);
    index = select(better, constant<V>(number), index);
  }
  DETOPS_HD V likeness() const { return numerator / denominator; }
};

// Calls visit(nearest, i) for vectors of eight sizes and, at the end, single ones.
template <Likeness kLikeness, typename Visit>
DETOPS_HD void visit_nearest(const SizeColumns& sizes, const std::vector<Size>& anchors, int64_t begin, int64_t end,
                             const Visit& visit) {
  const auto find = [&](auto nearest) DETOPS_INLINE {
    for (size_t a = 0; a < anchors.size(); ++a) nearest.consider(anchors[a], static_cast<double>(a));
    return nearest;
  };
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    visit(find(Nearest<kLikeness, Numbers>(load<Numbers>(sizes.widths + i), load<Numbers>(sizes.heights + i))), i);
  }
  for (; i < end; ++i) visit(find(Nearest<kLikeness, double>(sizes.widths[i], sizes.heights[i])), i);
}

DETOPS_HD double lane(double value, int64_t) { return value; }
DETOPS_HD double lane(Numbers value, int64_t i) { return value[i]; }
template <typename V>
constexpr int64_t kLanesOf = sizeof(V) / sizeof(double);

// One chunk at a time, on torch's threads.
template <typename Fn>
void for_chunks(int64_t count, const Fn& fn) {
  parallel_for((count + kChunk - 1) / kChunk, 4, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) fn(c, c * kChunk, std::min(count, (c + 1) * kChunk));
  });
}

template <Likeness kLikeness>
class KMeans {
 public:
  KMeans(const SizeColumns& sizes, int64_t k) : sizes_(sizes), k_(k), nearest_(sizes.count), likeness_(sizes.count) {
    if (!kGeometric) return;
    logarithms_.resize(sizes.count);
    for (int64_t i = 0; i < sizes.count; ++i) logarithms_[i] = {std::log(sizes.widths[i]), std::log(sizes.heights[i])};
  }

  std::vector<Size> run(uint64_t seed, int64_t max_iterations) {
    std::vector<Size> centres = choose(seed);
    for (int64_t i = 0; i < max_iterations && assign(centres); ++i) move(centres);
    return centres;
  }

 private:
  // k-means++ (Arthur and Vassilvitskii 2007): the further from the centres so far, the likelier the next.
  std::vector<Size> choose(uint64_t seed) {
    std::mt19937_64 random(seed);
    const auto uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
    const auto pick = [&](int64_t i) { return Size{sizes_.widths[i], sizes_.heights[i]}; };
    std::vector<Size> centres = {pick(static_cast<int64_t>(uniform() * static_cast<double>(sizes_.count)))};
    std::vector<double> farness(sizes_.count, 1);
    while (static_cast<int64_t>(centres.size()) < k_) {
      assign({centres.back()});
      double total = 0;
      for (int64_t i = 0; i < sizes_.count; ++i) {
        farness[i] = std::min(farness[i], (1 - likeness_[i]) * (1 - likeness_[i]));
        total += farness[i];
      }
      double left = uniform() * total;
      int64_t chosen = 0;
      while (chosen + 1 < sizes_.count && (left -= farness[chosen]) >= 0) ++chosen;
      centres.push_back(pick(chosen));
    }
    std::fill(nearest_.begin(), nearest_.end(), -1);
    return centres;
  }

  // Finds the nearest centre of every size; whether any is another than before.
  bool assign(const std::vector<Size>& centres) {
    std::vector<uint8_t> changed((sizes_.count + kChunk - 1) / kChunk);
    for_chunks(sizes_.count, [&](int64_t chunk, int64_t begin, int64_t end) {
      bool any = false;
      simd([&](auto) DETOPS_INLINE {
        visit_nearest<kLikeness>(sizes_, centres, begin, end, [&](const auto& nearest, int64_t i) DETOPS_INLINE {
          using V = std::decay_t<decltype(nearest.index)>;
          const V likeness = nearest.likeness();
          for (int64_t j = 0; j < kLanesOf<V>; ++j) {
            const auto index = static_cast<int32_t>(lane(nearest.index, j));
            any |= nearest_[i + j] != index;
            nearest_[i + j] = index;
            likeness_[i + j] = lane(likeness, j);
          }
        });
      });
      changed[chunk] = any;
    });
    return std::find(changed.begin(), changed.end(), 1) != changed.end();
  }

  // To the mean of its members; a centre without any stays.
  void move(std::vector<Size>& centres) const {
    std::vector<ClusterSum> sums(k_);
    for (int64_t i = 0; i < sizes_.count; ++i) {
      ClusterSum& sum = sums[nearest_[i]];
      sum.width += kGeometric ? logarithms_[i].width : sizes_.widths[i];
      sum.height += kGeometric ? logarithms_[i].height : sizes_.heights[i];
      ++sum.count;
    }
    for (int64_t c = 0; c < k_; ++c) {
      if (sums[c].count == 0) continue;
      const auto n = static_cast<double>(sums[c].count);
      centres[c] = {sums[c].width / n, sums[c].height / n};
      if (kGeometric) centres[c] = {std::exp(centres[c].width), std::exp(centres[c].height)};
    }
  }

  static constexpr bool kGeometric = kLikeness == Likeness::kRatio;  // means of logarithms

  SizeColumns sizes_;
  std::vector<Size> logarithms_;
  int64_t k_;
  std::vector<int32_t> nearest_;
  std::vector<double> likeness_;
};
}  // namespace

std::vector<Size> cluster_sizes(const SizeColumns& sizes, int64_t k, Likeness likeness, uint64_t seed,
                                int64_t max_iterations) {
  if (likeness == Likeness::kIou) return KMeans<Likeness::kIou>(sizes, k).run(seed, max_iterations);
  return KMeans<Likeness::kRatio>(sizes, k).run(seed, max_iterations);
}

AnchorFit fit_anchors(const SizeColumns& sizes, const std::vector<Size>& anchors, double threshold) {
  const double least = 1 / threshold;
  std::vector<AnchorFit> sums((sizes.count + kChunk - 1) / kChunk);
  for_chunks(sizes.count, [&](int64_t chunk, int64_t begin, int64_t end) {
    simd([&](auto) DETOPS_INLINE {
      Numbers fitness{}, recall{};
      AnchorFit rest{};
      visit_nearest<Likeness::kRatio>(sizes, anchors, begin, end, [&](const auto& nearest, int64_t) DETOPS_INLINE {
        using V = std::decay_t<decltype(nearest.index)>;
        const V likeness = nearest.likeness();
        const auto counted = likeness > constant<V>(least);
        const V value = select(counted, likeness, V{}), one = select(counted, constant<V>(1), V{});
        if constexpr (kLanesOf<V> == kLanes) {
          fitness += value;
          recall += one;
        } else {
          rest.fitness += value;
          rest.recall += one;
        }
      });
      sums[chunk] = {sum(fitness) + rest.fitness, sum(recall) + rest.recall};
    });
  });
  AnchorFit total{};
  for (const AnchorFit& part : sums) {
    total.fitness += part.fitness;
    total.recall += part.recall;
  }
  const auto n = static_cast<double>(sizes.count);
  return {total.fitness / n, total.recall / n};
}
}  // namespace detops
