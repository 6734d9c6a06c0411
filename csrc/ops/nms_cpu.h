// Non-maximum suppression on the CPU: of one image, on the threads there are for its classes.
#pragma once
#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "../core/radix_sort.h"
#include "../core/sort_key.h"
#include "box_columns.h"
#include "nms_grid.h"
#include "nms_list.h"

namespace detops {
// Vectors of kept boxes from which on a grid is faster, as measured; it gains less at low thresholds.
constexpr int64_t longest_list(double iou_threshold) { return iou_threshold < 0.45 ? 200 : 90; }

template <typename T>
std::unique_ptr<T[]> uninitialised(int64_t n) {
  return std::unique_ptr<T[]>(new T[n]);
}

struct NmsImage {
  BoxView boxes;
  RawNumbers scores;  // of this image
  std::optional<RawNumbers> classes;
  std::optional<double> score_threshold;
};

struct Indices {
  std::unique_ptr<uint32_t[]> data;
  int64_t size;
};

// The boxes above the score threshold, highest score first.
inline Indices by_score(const NmsImage& image) {
  const int64_t n = image.boxes.size;
  Indices order{uninitialised<uint32_t>(n), 0};
  dispatch_type(image.scores.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using Key = decltype(ascending_key(sortable_t<S>()));
    const auto items = uninitialised<Ranked<Key>>(2 * n);
    const S* scores = reinterpret_cast<const S*>(image.scores.data);
    const double least = image.score_threshold.value_or(0);
    int64_t size = 0;
    for (int64_t i = 0; i < n; ++i) {
      const auto score = static_cast<sortable_t<S>>(scores[i * image.scores.stride]);
      items[size] = {static_cast<Key>(~ascending_key(score)), static_cast<uint32_t>(i)};
      size += !image.score_threshold || static_cast<double>(score) > least;
    }
    const Ranked<Key>* sorted = radix_sort(items.get(), items.get() + n, size);
    for (int64_t i = 0; i < size; ++i) order.data[i] = sorted[i].index;
    order.size = size;
  });
  return order;
}

// Positions in the order of score, class by class.
struct Segments {
  std::unique_ptr<uint32_t[]> positions;
  std::vector<int64_t> begins;  // and the end of the last

  template <typename Key>
  Segments(const Key* keys, int64_t n) : positions(uninitialised<uint32_t>(n)) {
    const auto items = uninitialised<Ranked<Key>>(2 * n);
    for (int64_t i = 0; i < n; ++i) items[i] = {keys[i], static_cast<uint32_t>(i)};
    const Ranked<Key>* sorted = radix_sort(items.get(), items.get() + n, n);
    for (int64_t i = 0; i < n; ++i) {
      if (i == 0 || sorted[i].key != sorted[i - 1].key) begins.push_back(i);
      positions[i] = sorted[i].index;
    }
    begins.push_back(n);
  }

  // The first segment that begins at a position or after it.
  std::vector<int64_t>::const_iterator at(int64_t position) const {
    return std::lower_bound(begins.begin(), begins.end(), position);
  }
};

inline std::optional<Segments> by_class(const RawNumbers& classes, const Indices& order) {
  std::optional<Segments> segments;
  dispatch_type(classes.dtype, [&](auto type) {
    using I = typename decltype(type)::type;
    using Key = decltype(ascending_key(sortable_t<I>()));
    const auto keys = uninitialised<Key>(order.size);
    Key least = ~Key{0}, most = 0;
    for (int64_t i = 0; i < order.size; ++i) {
      const I of_box = reinterpret_cast<const I*>(classes.data)[order.data[i] * classes.stride];
      keys[i] = ascending_key(static_cast<sortable_t<I>>(of_box));
      least = std::min(least, keys[i]);
      most = std::max(most, keys[i]);
    }
    if (sizeof(Key) > 4 && most - least <= ~uint32_t{0}) {
      const auto small = uninitialised<uint32_t>(order.size);
      for (int64_t i = 0; i < order.size; ++i) small[i] = static_cast<uint32_t>(keys[i] - least);
      segments.emplace(small.get(), order.size);
    } else {
      segments.emplace(keys.get(), order.size);
    }
  });
  return segments;
}

// Memory for the boxes of all segments and for those kept of each, with room between pieces, which share no vector.
template <typename A>
class NmsArena {
 public:
  NmsArena(int64_t n, int64_t pieces)
      : pitch_(n + pieces * KeptBoxes<A>::kStep), storage_(uninitialised<A>((4 + KeptBoxes<A>::kColumns) * pitch_)) {}

  // Boxes [begin, end) of an image, gathered as boxes row(begin), row(begin + 1), ...
  template <typename Row>
  SortedBoxes<A> boxes(const BoxView& from, int64_t begin, int64_t end, const Row& row) const {
    A* to = storage_.get() + begin;
    dispatch_type(from.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      for (int64_t i = begin; i < end; ++i, ++to) {
        const T* box = reinterpret_cast<const T*>(from.data) + row(i) * from.row_stride;
        for (int column = 0; column < 4; ++column) {
          to[column * pitch_] = static_cast<A>(box[column * from.column_stride]);
        }
      }
    });
    const A* x1 = storage_.get() + begin;
    return {x1, x1 + pitch_, x1 + 2 * pitch_, x1 + 3 * pitch_, end - begin};
  }

  // An empty list for the boxes kept of [begin, ...) in a piece.
  KeptBoxes<A> list(int64_t piece, int64_t begin) const {
    return KeptBoxes<A>(storage_.get() + 4 * pitch_ + piece * KeptBoxes<A>::kStep + begin, pitch_);
  }

 private:
  int64_t pitch_;
  std::unique_ptr<A[]> storage_;
};

// Positions of the first `limit` boxes kept; returns their number.
template <typename A>
int64_t suppress(const SortedBoxes<A>& boxes, const NmsRule<A>& rule, int64_t limit, KeptBoxes<A> list,
                 uint32_t* keep) {
  if (rule.drops_nothing()) {
    const int64_t kept = std::min(limit, boxes.size);
    std::iota(keep, keep + kept, 0u);
    return kept;
  }
  NmsProgress at;
  simd([&](auto isa) DETOPS_INLINE {
    using Isa = decltype(isa);
    const bool grid = rule.iou_threshold >= GridAxis::kLeastThreshold;
    const int64_t longest = grid ? longest_list(rule.iou_threshold) * lanes<Isa, A> : boxes.size;
    suppress_by_list<Isa>(boxes, rule, limit, longest, list, at, keep);
    if (!grid || at.decided == boxes.size || at.kept == limit) return;
    if (suppress_by_grid<Isa>(boxes, rule, limit, list, at, keep)) return;
    suppress_by_list<Isa>(boxes, rule, limit, boxes.size, list, at, keep);
  });
  return at.kept;
}

// The first `limit` boxes of one image that are kept, highest score first.
template <typename A>
Indices nms_cpu(const NmsImage& image, double iou_threshold, int64_t limit) {
  const NmsRule<A> rule(iou_threshold);
  const Indices order = by_score(image);
  Indices keep{uninitialised<uint32_t>(order.size), 0};
  const std::optional<Segments> segments = image.classes ? by_class(*image.classes, order) : std::nullopt;
  if (!segments) {
    const NmsArena<A> arena(order.size, 1);
    const auto boxes = arena.boxes(image.boxes, 0, order.size, [&](int64_t i) { return order.data[i]; });
    keep.size = suppress(boxes, rule, limit, arena.list(0, 0), keep.data.get());
    for (int64_t i = 0; i < keep.size; ++i) keep.data[i] = order.data[keep.data[i]];
    return keep;
  }
  const int64_t pieces = std::clamp<int64_t>(order.size / grain_for(60), 1, num_threads());
  const NmsArena<A> arena(order.size, pieces);
  const auto is_kept = std::make_unique<bool[]>(order.size);
  parallel_for(pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const auto from = segments->at(order.size * piece / pieces);
      const auto to = segments->at(order.size * (piece + 1) / pieces);
      for (auto segment = from; segment != to; ++segment) {
        const int64_t begin = segment[0], end = segment[1];
        const uint32_t* positions = segments->positions.get();
        const auto boxes = arena.boxes(image.boxes, begin, end, [&](int64_t i) { return order.data[positions[i]]; });
        uint32_t* kept_here = keep.data.get() + begin;
        const int64_t kept = suppress(boxes, rule, limit, arena.list(piece, begin), kept_here);
        for (int64_t i = 0; i < kept; ++i) is_kept[positions[begin + kept_here[i]]] = true;
      }
    }
  });
  for (int64_t i = 0; i < order.size && keep.size < limit; ++i) {
    keep.data[keep.size] = order.data[i];
    keep.size += is_kept[i];
  }
  return keep;
}

inline Indices nms_cpu(const NmsImage& image, double iou_threshold, int64_t limit) {
  return in_double(image.boxes.dtype) ? nms_cpu<double>(image, iou_threshold, limit)
                                      : nms_cpu<float>(image, iou_threshold, limit);
}
}  // namespace detops
