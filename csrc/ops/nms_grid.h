// Suppression of many boxes: each is tested against those kept boxes alone that are of like size and near.
//
// If the IoU of two boxes is above t, so is that of their extents in x alone: the intersection is wider than t / (1 +
// t) times the sum of both widths. So the widths differ by a factor below 1 / t, and the centres by less than (width_a
// + width_b) / 2 * (1 - t) / (1 + t); likewise in y. Kept boxes are filed by size class (octaves, or powers of two of
// them, of width and of height) and, within a class, by the cell that the centre is in; cells are as large as the
// class's largest boxes. A hash of class and cell gives the bucket. Boxes that share a bucket by chance are tested in
// vain, no more.
//
// Against lists alone, 20,000 disjoint boxes take 40 ms instead of 0.9. Preparing eight boxes ahead, and branches for
// the rare cases alone, then gave a fifth: what costs most is a wrong guess about which cells are filled.
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
  static constexpr int kMaxCells = 32;  // at kLeastThreshold, where they are most: 11 of one class, 3 of another
  static constexpr double kLeastThreshold = 0.1;

  GridAxis(double threshold, uint64_t hash)
      : hash_(hash),
        threshold_(threshold * (1 - 1e-5)),
        inverse_(1 / threshold_),
        reach_((1 - threshold_) / (1 + threshold_) / 2) {
    while ((1 << shift_) * 1.1 < 2 * std::log2(inverse_))
      ++shift_;  // so that partners are of two classes, rarely three
  }

  struct Cells {
    uint64_t own, keys[kMaxCells + 3];
    int count;
  };

  // For a side of a box: its own cell, and those of the boxes that came before and may overlap it.
  DETOPS_HD void find(double begin, double end, Cells& cells) {
    const double side = end - begin, centre = (begin + end) * 0.5;
    const double rounding = std::fabs(centre) * 0x1p-48;
    const uint64_t own_class = class_of(side), last_class = class_of(side * inverse_);
    used_[own_class] = true;
    const int64_t own_cell = cell(centre * cells_per_pixel(own_class));
    cells.own = key(own_class, own_cell);
    int count = 0;
    int64_t own = 0;
    for (uint64_t size_class = class_of(side * threshold_); size_class <= last_class; ++size_class) {
      if (!used_[size_class]) continue;
      const double farthest = min(power_of_two((size_class + 1) << shift_), side * inverse_);  // partner's side
      const double reach = (side + farthest) * reach_ + rounding;
      const double scale = cells_per_pixel(size_class);
      const int64_t first = cell((centre - reach) * scale), last = cell((centre + reach) * scale);
      own = size_class == own_class ? count + own_cell - first : own;
      cells.keys[count] = key(size_class, first);  // mostly one or two cells: no branch that nothing could predict
      count += first <= last;
      cells.keys[count] = key(size_class, first + 1);
      count += first + 1 <= last;
      for (int64_t next = first + 2; next <= last; ++next) cells.keys[count++] = key(size_class, next);
    }
    cells.keys[own] = cells.keys[0];  // the box's own cell comes first: there it is dropped, if it is
    cells.keys[0] = cells.own;
    for (int i = count; i < count + 3; ++i) cells.keys[i] = 0;  // read in fours
    cells.count = count;
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
  double threshold_, inverse_, reach_;  // a little lower, higher and higher than asked for: room for rounding
  int shift_ = 0;                       // a class spans 2^shift octaves
  bool used_[2048] = {};
};

// Kept boxes by bucket, in chains of blocks of one vector per coordinate, empty lanes NaN.
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
    grow(boxes < kFewBlocks ? boxes : kFewBlocks + boxes / 8);
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
  static constexpr int64_t kFewBlocks = 1 << 16;  // reserved at once: what is not used costs nothing
  int bits_ = 8;
  int64_t size_ = 0, capacity_ = 0;
  std::unique_ptr<Bucket, Free> buckets_;
  std::unique_ptr<Block, Free> blocks_;
  std::unique_ptr<uint32_t, Free> next_;
};

// Whether the bounds above hold in spite of rounding: no subnormal areas, no coordinates that dwarf the sides.
template <typename A>
DETOPS_HD bool fits_grid(const Box<A>& box, A area) {
  if (!(area > std::numeric_limits<A>::min() * 0x1p26)) return false;
  if constexpr (sizeof(A) == 4) return true;  // in double, nothing about a float comes near the limits below
  const double width = static_cast<double>(box.x2) - box.x1, height = static_cast<double>(box.y2) - box.y1;
  const double x = max(std::fabs(static_cast<double>(box.x1)), std::fabs(static_cast<double>(box.x2)));
  const double y = max(std::fabs(static_cast<double>(box.y1)), std::fabs(static_cast<double>(box.y2)));
  return x <= width * 0x1p40 && y <= height * 0x1p40 && width > 0x1p-500 && height > 0x1p-500 && width < 0x1p500 &&
         height < 0x1p500;
}

// Boxes kept, filed in a grid.
template <typename Isa, typename A>
class KeptGrid {
 public:
  // A box and where its partners are. Prepared some boxes ahead: one's arithmetic overlaps with another's tests.
  struct Candidate {
    Box<A> box;
    A area;
    bool concerned;
    GridAxis::Cells columns, rows;
  };

  KeptGrid(const NmsRule<A>& rule, int64_t boxes)
      : rule_(rule),
        horizontal_(rule.iou_threshold, 0x9e3779b97f4a7c15u),
        vertical_(rule.iou_threshold, 0xc2b2ae3d27d4eb4fu),
        buckets_(boxes) {}

  bool valid() const { return buckets_.valid(); }

  // Whether the grid can take the box. To be called for every box in its turn, kept or not.
  DETOPS_HD bool prepare(const Box<A>& box, Candidate& candidate) {
    candidate.box = box;
    candidate.area = area(box);
    candidate.concerned = rule_.concerns(box, candidate.area);
    if (!candidate.concerned) return true;
    if (!fits_grid(box, candidate.area)) return false;
    horizontal_.find(box.x1, box.x2, candidate.columns);
    vertical_.find(box.y1, box.y2, candidate.rows);
    return true;
  }

  // Whether memory sufficed.
  DETOPS_HD bool add(const Candidate& candidate) {
    return buckets_.insert(candidate.columns.own + candidate.rows.own, candidate.box);
  }

  DETOPS_HD bool overlap(const Candidate& a) const {
    const Box<V> box = broadcast<V>(a.box);
    const V area_of_box = broadcast<V>(a.area), needed = broadcast<V>(rule_.needed(a.area));
    for (int row = 0; row < a.rows.count; row += 2) {
      typename Buckets::Bucket filled[2 * GridAxis::kMaxCells + 6];
      int count = 0;
      for (int column = 0; column < a.columns.count; column += 4) {
        for (int i = 0; i < 8; ++i) {
          filled[count] = buckets_[a.columns.keys[column + i % 4] + a.rows.keys[row + i / 4]];
          count += (filled[count].count > 0) & (column + i % 4 < a.columns.count) & (row + i / 4 < a.rows.count);
        }
      }
      for (int i = 0; i < count; ++i) {
        uint32_t block = filled[i].block;
        for (int64_t left = filled[i].count; left > 0; left -= kLanes, block = buckets_.next(block)) {
          const auto& kept = buckets_.block(block);
          const Box<V> others = {load<V>(kept.x1), load<V>(kept.y1), load<V>(kept.x2), load<V>(kept.y2)};
          const V area_of_others = detops::area(others);
          if (!bits(excess(box, others, needed, area_of_others * broadcast<V>(rule_.share)) > V{})) continue;
          if (bits(overlaps(box, others, area_of_box, area_of_others, broadcast<V>(rule_.threshold)))) return true;
        }
      }
    }
    return false;
  }

 private:
  // Buckets are thinly filled: wider vectors would mostly move empty lanes through the cache.
  using V = typename VecOf<A, (Isa::bytes < 32 ? Isa::bytes : 32)>::type;
  static constexpr int kLanes = sizeof(V) / sizeof(A);
  using Buckets = GridBuckets<A, kLanes>;

  NmsRule<A> rule_;
  GridAxis horizontal_, vertical_;
  Buckets buckets_;
};

// Decides what a list has left, from kLeastThreshold to below 1: until `limit` boxes are kept or all are decided.
// Returns false where it cannot vouch for the result, or memory is short.
template <typename Isa, typename A>
DETOPS_HD bool suppress_by_grid(const SortedBoxes<A>& boxes, const NmsRule<A>& rule, int64_t limit,
                                const KeptBoxes<A>& list, NmsProgress& at, uint32_t* keep) {
  constexpr int64_t kAhead = 8;
  KeptGrid<Isa, A> grid(rule, boxes.size);
  typename KeptGrid<Isa, A>::Candidate candidates[kAhead];
  if (!grid.valid()) return false;
  for (int64_t i = 0; i < list.size(); ++i) {
    if (!grid.prepare(list[i], candidates[0]) || !grid.add(candidates[0])) return false;
  }
  int64_t kept = at.kept;
  for (int64_t begin = at.decided; begin < boxes.size && kept < limit; begin += kAhead) {
    const int64_t end = std::min(begin + kAhead, boxes.size);
    for (int64_t i = begin; i < end; ++i) {
      if (!grid.prepare(boxes[i], candidates[i - begin])) return false;
    }
    for (int64_t i = begin; i < end && kept < limit; ++i) {
      const auto& candidate = candidates[i - begin];
      if (candidate.concerned) {
        if (grid.overlap(candidate)) continue;
        if (!grid.add(candidate)) return false;
      }
      keep[kept++] = static_cast<uint32_t>(i);
    }
  }
  at = {boxes.size, kept};
  return true;
}
}  // namespace detops
