// Suppression of many boxes: each is tested against those kept boxes alone that are of like size and near.
//
// If the IoU of two boxes is above t, their intersection is at least t times as wide as the wider of them. So their
// widths differ by a factor of at most 1 / t, and their centres by at most (width_a + width_b) / 2 - t * max(width_a,
// width_b); likewise their heights. Kept boxes are filed by size class (octaves, or powers of two of them, of width and
// of height) and, within a class, by the cell that the centre is in; cells are as large as the class's largest boxes.
// A hash of class and cell gives the bucket. Boxes that share a bucket by chance are tested in vain, no more.
#pragma once
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>

#include "nms_list.h"

namespace detops {
// One dimension of the grid: which classes and cells can hold the partners of a box.
class GridAxis {
 public:
  static constexpr int kMaxCells = 64;  // at kLeastThreshold two classes of 11 cells and one of 3
  static constexpr double kLeastThreshold = 0.1;

  GridAxis(double threshold, uint64_t hash)
      : hash_(hash), threshold_(threshold * (1 - 1e-5)), inverse_(1 / threshold_), wide_(threshold_ < 0.5) {
    while ((1 << shift_) * 1.1 < 2 * std::log2(inverse_)) ++shift_;  // so that partners are of two classes, rarely three
  }

  // The cell that a kept box is filed under.
  DETOPS_HD uint64_t file(double begin, double end) {
    const uint64_t size_class = class_of(end - begin);
    used_[size_class] = true;
    return key(size_class, cell((begin + end) * 0.5 * cells_per_pixel(size_class)));
  }

  // The cells of the kept boxes that a box may overlap; returns their number.
  DETOPS_HD int find(double begin, double end, uint64_t* keys) const {
    const double side = end - begin, centre = (begin + end) * 0.5;
    const double rounding = std::fabs(centre) * 0x1p-48;
    const uint64_t last_class = class_of(side * inverse_);
    int found = 0;
    for (uint64_t size_class = class_of(side * threshold_); size_class <= last_class; ++size_class) {
      if (!used_[size_class]) continue;
      const double least = power_of_two(size_class << shift_), most = power_of_two((size_class + 1) << shift_);
      const double farthest = wide_ ? min(most, side * inverse_) : min(max(side, least), most);  // partner's side
      const double reach = (side + farthest) * 0.5 - threshold_ * max(side, farthest) + rounding;
      const double scale = cells_per_pixel(size_class);
      const int64_t last = cell((centre + reach) * scale);
      for (int64_t next = cell((centre - reach) * scale); next <= last; ++next) keys[found++] = key(size_class, next);
    }
    return found;
  }

 private:
  static DETOPS_HD double power_of_two(uint64_t biased_exponent) { return bit_cast<double>(biased_exponent << 52); }
  DETOPS_HD uint64_t class_of(double side) const { return bit_cast<uint64_t>(side) >> 52 >> shift_; }
  DETOPS_HD double cells_per_pixel(uint64_t size_class) const {
    return power_of_two(2046 - ((size_class + 1) << shift_));
  }
  static DETOPS_HD int64_t cell(double x) {
    const auto truncated = static_cast<int64_t>(x);
    return truncated - (x < static_cast<double>(truncated));
  }
  DETOPS_HD uint64_t key(uint64_t size_class, int64_t cell) const {
    return (static_cast<uint64_t>(cell) + (size_class << 40)) * hash_;
  }

  uint64_t hash_;
  double threshold_, inverse_;  // a little lower and higher than asked for: room for rounding
  bool wide_;
  int shift_ = 0;  // a class spans 2^shift octaves
  bool used_[2048] = {};
};

// Kept boxes by bucket, in blocks of one vector per coordinate; a block of zero lanes to spare is followed by another.
template <typename A, int kLanes>
class GridBuckets {
 public:
  struct Block {
    A x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes];
  };
  struct Bucket {
    uint32_t block, count;  // the newest block; boxes in all of them
  };

  explicit GridBuckets(int64_t boxes) {
    while (bits_ < 31 && (int64_t{1} << bits_) < boxes) ++bits_;
    buckets_.reset(static_cast<Bucket*>(std::calloc(size_t{1} << bits_, sizeof(Bucket))));
    grow(boxes / 8 + 64);
  }

  // Whether memory sufficed so far.
  bool valid() const { return buckets_ && blocks_ && next_; }

  DETOPS_HD const Bucket& operator[](uint64_t key) const { return buckets_.get()[key >> (64 - bits_)]; }
  DETOPS_HD const Block& block(uint32_t i) const { return blocks_.get()[i]; }
  DETOPS_HD uint32_t next(uint32_t block) const { return next_.get()[block]; }

  DETOPS_HD bool insert(uint64_t key, const Box<A>& box) {
    Bucket& bucket = buckets_.get()[key >> (64 - bits_)];
    const uint32_t lane = bucket.count % kLanes;
    if (lane == 0) {
      if (size_ == capacity_ && !grow(2 * capacity_)) return false;
      next_.get()[size_] = bucket.block;
      bucket.block = static_cast<uint32_t>(size_++);
      Block& fresh = blocks_.get()[bucket.block];
      for (A* column : {fresh.x1, fresh.y1, fresh.x2, fresh.y2}) {
        for (int i = 0; i < kLanes; ++i) column[i] = std::numeric_limits<A>::quiet_NaN();
      }
    }
    ++bucket.count;
    Block& block = blocks_.get()[bucket.block];
    block.x1[lane] = box.x1, block.y1[lane] = box.y1, block.x2[lane] = box.x2, block.y2[lane] = box.y2;
    return true;
  }

 private:
  template <typename T>
  static T* moved(T* from, int64_t count, int64_t capacity) {
    const size_t bytes = (capacity * sizeof(T) + 63) / 64 * 64;
    auto* to = static_cast<T*>(std::aligned_alloc(64, bytes));
    if (to && count > 0) std::memcpy(to, from, count * sizeof(T));
    return to;
  }
  [[gnu::noinline]] bool grow(int64_t capacity) {
    blocks_.reset(moved(blocks_.get(), size_, capacity));
    next_.reset(moved(next_.get(), size_, capacity));
    capacity_ = capacity;
    return valid();
  }

  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  int bits_ = 8;
  int64_t size_ = 0, capacity_ = 0;
  std::unique_ptr<Bucket, Free> buckets_;
  std::unique_ptr<Block, Free> blocks_;
  std::unique_ptr<uint32_t, Free> next_;
};

// Whether the bounds above hold in spite of rounding: no subnormal areas, no coordinates that dwarf the sides.
template <typename A>
DETOPS_HD bool fits_grid(const Box<A>& box, A area) {
  const double width = static_cast<double>(box.x2) - box.x1, height = static_cast<double>(box.y2) - box.y1;
  const double x = max(std::fabs(static_cast<double>(box.x1)), std::fabs(static_cast<double>(box.x2)));
  const double y = max(std::fabs(static_cast<double>(box.y1)), std::fabs(static_cast<double>(box.y2)));
  return area > std::numeric_limits<A>::min() * 0x1p26 && x <= width * 0x1p40 && y <= height * 0x1p40 &&
         width > 0x1p-500 && height > 0x1p-500 && width < 0x1p500 && height < 0x1p500;
}

// As suppress_by_list(), for thresholds from kLeastThreshold to below 1; changes no boxes. Returns -1 where it cannot
// vouch for the result, or memory is short.
template <typename Isa, typename A>
DETOPS_HD int64_t suppress_by_grid(const SortedBoxes<A>& boxes, const NmsRule<A>& rule, int64_t limit, uint32_t* keep) {
  using V = Vec<Isa, A>;
  GridAxis horizontal(rule.iou_threshold, 0x9e3779b97f4a7c15u), vertical(rule.iou_threshold, 0xc2b2ae3d27d4eb4fu);
  GridBuckets<A, lanes<Isa, A>> buckets(boxes.size);
  if (!buckets.valid()) return -1;
  uint64_t columns[GridAxis::kMaxCells], rows[GridAxis::kMaxCells];
  int64_t kept = 0;
  for (int64_t i = 0; i < boxes.size && kept < limit; ++i) {
    const Box<A> box = boxes[i];
    const A area = detops::area(box);
    if (rule.concerns(box, area)) {
      if (!fits_grid(box, area)) return -1;
      const Box<V> candidate = broadcast<V>(box);
      const V candidate_area = broadcast<V>(area);
      const auto dropped = [&]() DETOPS_INLINE {
        const int width = horizontal.find(box.x1, box.x2, columns), height = vertical.find(box.y1, box.y2, rows);
        for (int row = 0; row < height; ++row) {
          for (int column = 0; column < width; ++column) {
            const auto bucket = buckets[columns[column] + rows[row]];
            uint32_t block = bucket.block;
            for (int64_t left = bucket.count; left > 0; left -= lanes<Isa, A>, block = buckets.next(block)) {
              const auto& kept_boxes = buckets.block(block);
              const Box<V> others = {load<V>(kept_boxes.x1), load<V>(kept_boxes.y1), load<V>(kept_boxes.x2),
                                     load<V>(kept_boxes.y2)};
              if (overlapping(candidate, others, candidate_area, detops::area(others), rule)) return true;
            }
          }
        }
        return false;
      };
      if (dropped()) continue;
      if (!buckets.insert(horizontal.file(box.x1, box.x2) + vertical.file(box.y1, box.y2), box)) return -1;
    }
    keep[kept++] = static_cast<uint32_t>(i);
  }
  return kept;
}
}  // namespace detops
