// Soft-NMS on the CPU. Boxes lie in blocks of neighbours: each block knows its hull and its best score, so that a
// chosen box visits only blocks that it touches, and the next choice is made among blocks.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "../core/radix_sort.h"
#include "box_columns.h"
#include "soft_nms.h"

namespace detops {
// Boxes of similar size and place get keys next to each other.
template <typename A>
class PlaceKeys {
 public:
  explicit PlaceKeys(const BoxColumns<A>& boxes) {
    for (int64_t i = 0; i < boxes.size; ++i) hull_ = hull(hull_, boxes[i]);  // in this order it leaves NaN out
  }

  uint32_t operator()(const Box<A>& box) const {
    const A side = max(box.x2 - box.x1, box.y2 - box.y1), whole = max(hull_.x2 - hull_.x1, hull_.y2 - hull_.y1);
    uint32_t size_class = 0;  // 0 for the whole extent, one more for each half
    while (size_class < kClasses - 1 && side * static_cast<A>(2 << size_class) < whole) ++size_class;
    const uint32_t x = cell(box.x1 + box.x2, hull_.x1 + hull_.x2, whole);
    const uint32_t y = cell(box.y1 + box.y2, hull_.y1 + hull_.y2, whole);
    return size_class << 20 | spread(x) | spread(y) << 1;
  }

 private:
  static constexpr uint32_t kClasses = 16, kCells = 1024;

  // Of a sum of two coordinates, within `whole` of that of the hull.
  static uint32_t cell(A sum, A middle, A whole) {
    const A place = ((sum - middle) / whole + 1) * (kCells / 2);
    return place >= 0 ? static_cast<uint32_t>(min(place, static_cast<A>(kCells - 1))) : 0;  // 0 for NaN
  }
  // Ten bits to every second place.
  static uint32_t spread(uint32_t x) {
    x = (x | x << 8) & 0x00ff00ff;
    x = (x | x << 4) & 0x0f0f0f0f;
    x = (x | x << 2) & 0x33333333;
    return (x | x << 1) & 0x55555555;
  }

  static constexpr A kInfinity = std::numeric_limits<A>::infinity();
  Box<A> hull_ = {kInfinity, kInfinity, -kInfinity, -kInfinity};
};

template <typename A>
struct SoftDetection {
  Box<A> box;
  A score;
  uint32_t index;
};

template <typename A>
class SoftNms {
 public:
  // Scores of NaN or -infinity are of boxes that are not there. summarize() must follow.
  SoftNms(const BoxColumns<A>& boxes, const std::vector<A>& scores, const SoftNmsRule<A>& rule)
      : rule_(rule), size_(boxes.size), blocks_((size_ + kBlock - 1) / kBlock) {
    const int64_t pitch = blocks_ * kBlock;
    block_pitch_ = (blocks_ + kPadding - 1) / kPadding * kPadding;
    numbers_.resize(6 * pitch + 5 * block_pitch_, kGone);
    indices_.resize(pitch);
    A* next = numbers_.data();
    for (A** column : {&x1_, &y1_, &x2_, &y2_, &area_, &score_}) *column = next, next += pitch;
    for (A** column : {&hull_x1_, &hull_y1_, &hull_x2_, &hull_y2_, &best_}) *column = next, next += block_pitch_;
    const std::vector<uint32_t> order = by_place(boxes);
    for (int64_t i = 0; i < size_; ++i) {
      const uint32_t from = order[i];
      x1_[i] = boxes.x1[from], y1_[i] = boxes.y1[from], x2_[i] = boxes.x2[from], y2_[i] = boxes.y2[from];
      area_[i] = boxes.area[from];
      score_[i] = scores[from] == scores[from] ? scores[from] : kGone;
      indices_[i] = from;
    }
  }

  template <typename Isa>
  DETOPS_HD void summarize() {
    for (int64_t block = 0; block < blocks_; ++block) {
      constexpr A kInfinity = std::numeric_limits<A>::infinity();
      Box<A> around = {kInfinity, kInfinity, -kInfinity, -kInfinity};
      A best = kGone;
      for (int64_t i = block * kBlock; i < std::min((block + 1) * kBlock, size_); ++i) {
        around = hull(around, {x1_[i], y1_[i], x2_[i], y2_[i]});  // in this order it leaves NaN out
        best = max(best, score_[i]);
      }
      hull_x1_[block] = around.x1, hull_y1_[block] = around.y1, hull_x2_[block] = around.x2,
      hull_y2_[block] = around.y2;
      best_[block] = best;
    }
  }

  // Takes out the best box that is left, the one with the lowest index at equal scores, and lowers the scores of
  // others; returns whether there was one.
  template <typename Isa>
  DETOPS_HD bool take(SoftDetection<A>& taken) {
    const int64_t at = best<Isa>();
    if (at < 0) return false;
    taken = {{x1_[at], y1_[at], x2_[at], y2_[at]}, score_[at], indices_[at]};
    score_[at] = kGone;
    if (steps_++ == 0) {  // all are held against the least score but the first one taken
      for (int64_t i = 0; i < size_; ++i) score_[i] = rule_.admitted(score_[i]);
      summarize<Isa>();
    } else {
      best_[at / kBlock] = best_of_block<Isa>(at / kBlock);
    }
    lower<Isa>(taken.box, area_[at]);
    if (steps_ > kUnsorted / 2 && steps_ * 4 > size_) compact<Isa>();
    return true;
  }

 private:
  static constexpr int64_t kBlock = 64, kPadding = 64 / sizeof(A);
  static constexpr int64_t kUnsorted = 128;  // boxes that are not worth sorting
  static constexpr A kGone = SoftNmsRule<A>::kGone;

  static std::vector<uint32_t> by_place(const BoxColumns<A>& boxes) {
    std::vector<uint32_t> order(boxes.size);
    if (boxes.size <= kUnsorted) {
      for (int64_t i = 0; i < boxes.size; ++i) order[i] = static_cast<uint32_t>(i);
      return order;
    }
    const PlaceKeys<A> key(boxes);
    std::vector<Ranked<uint32_t>> items(2 * boxes.size);
    for (int64_t i = 0; i < boxes.size; ++i) items[i] = {key(boxes[i]), static_cast<uint32_t>(i)};
    const Ranked<uint32_t>* sorted = radix_sort(items.data(), items.data() + boxes.size, boxes.size);
    for (int64_t i = 0; i < boxes.size; ++i) order[i] = sorted[i].index;
    return order;
  }

  template <typename V>
  DETOPS_HD static A largest(V v) {
    A most = v[0];
    for (size_t i = 1; i < sizeof(V) / sizeof(A); ++i) most = max(most, static_cast<A>(v[i]));
    return most;
  }

  template <typename Isa>
  DETOPS_HD A best_of_block(int64_t block) const {
    using V = Vec<Isa, A>;
    V most = load<V>(score_ + block * kBlock);
    for (int64_t i = lanes<Isa, A>; i < kBlock; i += lanes<Isa, A>) {
      most = max(most, load<V>(score_ + block * kBlock + i));
    }
    return largest(most);
  }

  // Where the best box lies; -1 if none is left.
  template <typename Isa>
  DETOPS_HD int64_t best() const {
    using V = Vec<Isa, A>;
    V most = load<V>(best_);
    for (int64_t i = lanes<Isa, A>; i < block_pitch_; i += lanes<Isa, A>) most = max(most, load<V>(best_ + i));
    const A score = largest(most);
    if (score == kGone) return -1;
    int64_t at = -1;
    for (int64_t first = 0; first < block_pitch_; first += lanes<Isa, A>) {
      for (uint32_t blocks = bits(load<V>(best_ + first) == broadcast<V>(score)); blocks != 0; blocks &= blocks - 1) {
        const int64_t begin = (first + __builtin_ctz(blocks)) * kBlock;
        for (int64_t i = begin; i < begin + kBlock; i += lanes<Isa, A>) {
          for (uint32_t equal = bits(load<V>(score_ + i) == broadcast<V>(score)); equal != 0; equal &= equal - 1) {
            const int64_t lane = i + __builtin_ctz(equal);
            if (at < 0 || indices_[lane] < indices_[at]) at = lane;
          }
        }
      }
    }
    return at;
  }

  // Lowers the scores of what overlaps the box.
  template <typename Isa>
  DETOPS_HD void lower(const Box<A>& box, A area) {
    using V = Vec<Isa, A>;
    const Box<V> taken = broadcast<V>(box);
    const bool local = rule_.is_local();
    for (int64_t first = 0; first < block_pitch_; first += lanes<Isa, A>) {
      const V width = min(taken.x2, load<V>(hull_x2_ + first)) - max(taken.x1, load<V>(hull_x1_ + first));
      const V height = min(taken.y2, load<V>(hull_y2_ + first)) - max(taken.y1, load<V>(hull_y1_ + first));
      uint32_t blocks = bits(load<V>(best_ + first) > broadcast<V>(kGone));
      if (local) blocks &= bits(min(width, height) > V{});
      for (; blocks != 0; blocks &= blocks - 1) {
        lower_block<Isa>(taken, broadcast<V>(area), first + __builtin_ctz(blocks), local);
      }
    }
  }

  template <typename Isa, typename V>
  DETOPS_HD void lower_block(const Box<V>& taken, V area, int64_t block, bool local) {
    V most = broadcast<V>(kGone);
    for (int64_t i = block * kBlock; i < (block + 1) * kBlock; i += lanes<Isa, A>) {
      const Box<V> others = {load<V>(x1_ + i), load<V>(y1_ + i), load<V>(x2_ + i), load<V>(y2_ + i)};
      V scores = load<V>(score_ + i);
      if (!local || bits(intersection(taken, others) > V{})) {
        scores = rule_.remaining(scores, iou_or_nan(taken, others, area, load<V>(area_ + i)));
        store(score_ + i, scores);
      }
      most = max(most, scores);
    }
    best_[block] = largest(most);
  }

  // Moves what is left together, in its order.
  template <typename Isa>
  DETOPS_HD void compact() {
    int64_t left = 0;
    for (int64_t i = 0; i < size_; ++i) {
      if (score_[i] == kGone) continue;
      for (A* column : {x1_, y1_, x2_, y2_, area_, score_}) column[left] = column[i];
      indices_[left++] = indices_[i];
    }
    std::fill(score_ + left, score_ + blocks_ * kBlock, kGone);
    std::fill(best_ + (left + kBlock - 1) / kBlock, best_ + blocks_, kGone);
    size_ = left;
    blocks_ = (size_ + kBlock - 1) / kBlock;
    block_pitch_ = std::max((blocks_ + kPadding - 1) / kPadding, int64_t{1}) * kPadding;
    steps_ = 1;
    summarize<Isa>();
  }

  SoftNmsRule<A> rule_;
  int64_t size_, blocks_, block_pitch_, steps_ = 0;  // steps since boxes were last moved together, and the first one
  std::vector<A> numbers_;
  std::vector<uint32_t> indices_;
  A *x1_, *y1_, *x2_, *y2_, *area_, *score_;             // of boxes
  A *hull_x1_, *hull_y1_, *hull_x2_, *hull_y2_, *best_;  // of blocks
};
}  // namespace detops
