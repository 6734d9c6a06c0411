// Rotated boxes for the CPU kernels: one after the other to be looked up, and what tells at a glance that two are far
// apart as one array per number. Pairs that are not go through rotated_overlap() a vector at a time.
#pragma once
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "../core/parallel.h"
#include "../core/transpose.h"
#include "box_columns.h"
#include "box_iou_rotated.h"

namespace detops {
using Rotated = RotatedBox<double>;

// Of doubles. Wider ones are slower here, as measured: lining boxes up in them takes too long.
template <typename Isa>
using PairVec = typename VecOf<double, (Isa::bytes < 32 ? Isa::bytes : 32)>::type;

// A vectorful of boxes.
template <typename V>
DETOPS_HD RotatedBox<V> gather(const Rotated* const (&boxes)[sizeof(V) / sizeof(double)]) {
  constexpr int kLanes = sizeof(V) / sizeof(double);
  V fields[Rotated::kFields];
#pragma GCC unroll 8
  for (int first = 0; first < Rotated::kFields; first += kLanes) {
    V block[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; ++i) block[i] = load<V>(&boxes[i]->x + first);
    transpose(block);
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; ++i) fields[first + i] = block[i];
  }
  return {fields[0], fields[1], fields[2], fields[3], fields[4], fields[5], fields[6], fields[7]};
}

class RotatedColumns {
 public:
  static constexpr int64_t kPadding = 8;  // boxes after the last that are far from all others

  explicit RotatedColumns(int64_t size) : size(size), boxes_(size), columns_(kColumns * (size + kPadding)) {
    std::fill(columns_.begin(), columns_.end(), no_rotated_box().reach_x);
  }
  RotatedColumns(const RawBoxes& boxes, int64_t image, AngleConvention convention) : RotatedColumns(boxes.size) {
    parallel_for(size, grain_for(25), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) set(i, load_rotated(boxes, image, i, convention));
    });
  }

  void set(int64_t i, const Rotated& box) {
    boxes_[i] = box;
    int64_t column = i;
    for (const double number : {box.x, box.y, box.reach_x, box.reach_y, box.area()}) {
      columns_[column] = number;
      column += size + kPadding;
    }
  }

  DETOPS_HD const Rotated& operator[](int64_t i) const { return boxes_.data()[i]; }

  // One bit for each of the boxes j, j + 1, ... that `box` may overlap.
  template <typename V>
  DETOPS_HD uint32_t near(const Rotated& box, int64_t j) const {
    const int64_t pitch = size + kPadding;
    const double* column = columns_.data() + j;
    return bits(near_each_other(broadcast<V>(box.x), broadcast<V>(box.y), broadcast<V>(box.reach_x),
                                broadcast<V>(box.reach_y), load<V>(column), load<V>(column + pitch),
                                load<V>(column + 2 * pitch), load<V>(column + 3 * pitch)));
  }

  // The same where they may share more than `share` of the sum of both areas.
  template <typename V>
  DETOPS_HD uint32_t alike(const Rotated& box, int64_t j, double share) const {
    const int64_t pitch = size + kPadding;
    const double* column = columns_.data() + j;
    const V area = broadcast<V>(box.area()), others = load<V>(column + 4 * pitch);
    const V most = shared_area_bound(
        load<V>(column) - broadcast<V>(box.x), load<V>(column + pitch) - broadcast<V>(box.y), broadcast<V>(box.reach_x),
        broadcast<V>(box.reach_y), area, load<V>(column + 2 * pitch), load<V>(column + 3 * pitch), others);
    return bits(most > (area + others) * broadcast<V>(share));
  }

  int64_t size;

 private:
  static constexpr int64_t kColumns = 5;  // x, y, reach_x, reach_y, area
  std::vector<Rotated> boxes_;
  std::vector<double> columns_;
};
}  // namespace detops
