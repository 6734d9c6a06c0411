// Matching a chunk of boxes on the CPU.
//
// Blocks of 64 boxes meet the ground truths that touch the block's hull, one after the other; each box's maximum stays
// in registers. For low-quality matches each ground truth remembers its best overlap and the blocks between which
// boxes tie for it; those blocks are visited again once the best is known.
#pragma once
#include <algorithm>
#include <limits>

#include "box_chunk.h"
#include "match_boxes.h"

namespace detops {
// The nearest number of the type that overlaps are returned in, where they are computed in a wider one.
template <typename Out, typename V>
DETOPS_HD V rounded_overlap(V overlap) {
  if constexpr (std::is_same_v<Out, element_t<V>>) return overlap;
  constexpr int kBytes = sizeof(V) / sizeof(element_t<V>) * sizeof(Out);
  return __builtin_convertvector(__builtin_convertvector(overlap, typename VecOf<Out, kBytes>::type), V);
}

template <typename A>
struct MatchTargets {  // ground truths of an image
  BoxColumns<A> boxes;

  // Calls fn(j) for those that may overlap a box within the hull, in ascending order.
  template <typename V, typename Fn>
  DETOPS_HD void for_each_near(const Box<A>& hull, const Fn& fn) const {
    constexpr int64_t kLanes = sizeof(V) / sizeof(A);
    const Box<V> around = broadcast<V>(hull);
    for (int64_t j = 0; j < boxes.size; j += kLanes) {
      uint32_t found = bits(least_reach(around, boxes.template vector<V>(j)) > V{});
      if (boxes.size - j < kLanes) found &= (uint32_t{1} << (boxes.size - j)) - 1;
      for (; found != 0; found &= found - 1) fn(j + __builtin_ctz(found));
    }
  }
};

template <typename V>
DETOPS_HD element_t<V> largest_lane(V v) {
  constexpr int n = sizeof(V) / sizeof(element_t<V>);
  decltype(V{} < V{}) lane;
  for (int i = 0; i < n; ++i) lane[i] = i;
#pragma GCC unroll 4
  for (int width = n / 2; width > 0; width /= 2) v = max(v, __builtin_shuffle(v, lane ^ width));
  return v[0];
}

// What is known of a ground truth: its best overlap, and the blocks between which boxes have it.
template <typename A>
struct BestOverlap {
  A overlap = 0;
  int64_t first = std::numeric_limits<int64_t>::max(), last = -1;

  DETOPS_HD void add(const BestOverlap& other) {
    if (other.overlap > overlap) *this = other;
    if (other.overlap == overlap) first = std::min(first, other.first), last = std::max(last, other.last);
  }
};

// Of each box in a block, the largest overlap and its ground truth, the first of equals; 0 and 0 where there is none.
// Calls top(j, V) with each ground truth met and its largest overlaps.
template <typename Out, typename V, typename Index, typename A, typename Top>
DETOPS_HD void best_of_block(const Chunk<A>& chunk, int64_t block, const MatchTargets<A>& targets, V* best, Index* gt,
                             const Top& top) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(A), kVectors = kBlock / kLanes;
  for (int64_t k = 0; k < kVectors; ++k) best[k] = V{}, gt[k] = Index{};
  targets.template for_each_near<V>(chunk.hull[block], [&](int64_t j) DETOPS_INLINE {
    const Box<V> target = broadcast<V>(targets.boxes[j]);
    const V target_area = broadcast<V>(targets.boxes.area[j]);
    Index number{};
    number[0] = j;
    number = __builtin_shuffle(number, Index{});
    V largest{};
#pragma GCC unroll 8
    for (int64_t k = 0; k < kVectors; ++k) {
      const int64_t i = block * kBlock + k * kLanes;
      const V overlap =
          rounded_overlap<Out>(iou_or_nan(target, chunk.template vector<V>(i), target_area, load<V>(chunk.area + i)));
      gt[k] = select(overlap > best[k], number, gt[k]);
      best[k] = max(best[k], overlap);
      largest = max(largest, overlap);
    }
    top(j, largest);
  });
}

template <typename A>
struct MatchThresholds {
  A high = 0, low = 0;  // as these are, a box always gets its best ground truth
};

template <typename A, typename Out>
struct MatchPlace {
  MatchTargets<A> targets;
  MatchThresholds<A> thresholds;
  int64_t* matches;
  Out* ious;
};

// All boxes of a chunk: best overlap and verdict; with kTrack also what the ground truths' best is so far.
template <typename Isa, bool kTrack, typename A, typename Out>
DETOPS_HD void match_chunk(const Chunk<A>& chunk, const MatchPlace<A, Out>& image, MatchThresholds<A> thresholds,
                           BestOverlap<A>* of_targets) {
  using V = Vec<Isa, A>;
  using Index = decltype(V{} < V{});
  constexpr int64_t kLanes = lanes<Isa, A>, kVectors = kBlock / kLanes;
  const V high = broadcast<V>(thresholds.high), low = broadcast<V>(thresholds.low);
  for (int64_t block = 0; block * kBlock < chunk.size; ++block) {
    V best[kVectors];
    Index gt[kVectors];
    const int64_t at = chunk.begin / kBlock + block;
    best_of_block<Out>(chunk, block, image.targets, best, gt, [&](int64_t j, V largest) DETOPS_INLINE {
      if constexpr (!kTrack) return;
      BestOverlap<A>& most = of_targets[j];
      const V before = broadcast<V>(most.overlap);
      if (bits(largest > before) != 0) {
        most = {largest_lane(largest), at, at};
      } else {  // a task's blocks ascend; no branch, since ties come and go
        most.last = bits(largest == before) != 0 ? at : most.last;
      }
    });
    int64_t matches[kBlock];
    Out ious[kBlock];
    const int64_t size = std::min(kBlock, chunk.size - block * kBlock);
    int64_t* to_matches = size == kBlock ? image.matches + at * kBlock : matches;
    Out* to_ious = size == kBlock ? image.ious + at * kBlock : ious;
    for (int64_t k = 0; k < kVectors; ++k) {
      const Index chosen = verdict(best[k], gt[k], high, low);
      const auto wide = __builtin_convertvector(chosen, typename VecOf<int64_t, kLanes * 8>::type);
      const auto narrow = __builtin_convertvector(best[k], typename VecOf<Out, kLanes * sizeof(Out)>::type);
      std::memcpy(to_matches + k * kLanes, &wide, sizeof wide);
      std::memcpy(to_ious + k * kLanes, &narrow, sizeof narrow);
    }
    if (size == kBlock) continue;
    std::copy_n(matches, size, image.matches + at * kBlock);
    std::copy_n(ious, size, image.ious + at * kBlock);
  }
}

// One bit per box of a block: whether its overlap with a ground truth is `wanted`.
template <typename Out, typename V, typename A>
DETOPS_HD uint64_t tied_boxes(const Chunk<A>& chunk, int64_t block, const MatchTargets<A>& targets, int64_t j,
                              A wanted) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(A);
  const Box<V> target = broadcast<V>(targets.boxes[j]);
  const V target_area = broadcast<V>(targets.boxes.area[j]);
  uint64_t tied = 0;
  for (int64_t k = 0; k < kBlock / kLanes; ++k) {
    const int64_t i = block * kBlock + k * kLanes;
    const V overlap = iou_or_nan(target, chunk.template vector<V>(i), target_area, load<V>(chunk.area + i));
    tied |= uint64_t{bits(rounded_overlap<Out>(overlap) == broadcast<V>(wanted))} << (k * kLanes);
  }
  return tied;
}

// Boxes of a chunk that tie for the best overlap of a ground truth get their own best one back, however low.
template <typename Isa, typename A, typename Out>
DETOPS_HD void restore_chunk(const Chunk<A>& chunk, const MatchPlace<A, Out>& image, const BestOverlap<A>* of_targets) {
  using V = Vec<Isa, A>;
  using Index = decltype(V{} < V{});
  constexpr int64_t kLanes = lanes<Isa, A>, kVectors = kBlock / kLanes;
  const int64_t begin = chunk.begin / kBlock, end = begin + (chunk.size + kBlock - 1) / kBlock;
  uint64_t tied[kBlocks] = {};
  for (int64_t j = 0; j < image.targets.boxes.size; ++j) {
    const BestOverlap<A>& best = of_targets[j];
    for (int64_t at = std::max(best.first, begin); at < std::min(best.last + 1, end); ++at) {
      if (!(least_reach(chunk.hull[at - begin], image.targets.boxes[j]) > 0)) continue;
      tied[at - begin] |= tied_boxes<Out, V>(chunk, at - begin, image.targets, j, best.overlap);
    }
  }
  for (int64_t block = 0; block < end - begin; ++block) {
    if (tied[block] == 0) continue;
    V best[kVectors];
    Index gt[kVectors];
    best_of_block<Out>(chunk, block, image.targets, best, gt, [](int64_t, V) DETOPS_INLINE {});
    for (int64_t i = 0; i < std::min(kBlock, chunk.size - block * kBlock); ++i) {
      if (tied[block] >> i & 1) image.matches[(begin + block) * kBlock + i] = gt[i / kLanes][i % kLanes];
    }
  }
}
}  // namespace detops
