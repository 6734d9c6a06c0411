#include "match_boxes.h"

#include <algorithm>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "box_chunk.h"

// Blocks of 64 boxes meet the ground truths that touch the block's hull, one after the other; each box's maximum stays
// in registers. For low-quality matches each ground truth remembers its best overlap and the blocks between which
// boxes tie for it; those blocks are visited again once the best is known.
namespace detops {
namespace {
// The nearest number of the type that overlaps are returned in, where they are computed in a wider one.
template <typename Out, typename V>
DETOPS_HD V rounded(V overlap) {
  if constexpr (std::is_same_v<Out, element_t<V>>) return overlap;
  constexpr int kBytes = sizeof(V) / sizeof(element_t<V>) * sizeof(Out);
  return __builtin_convertvector(__builtin_convertvector(overlap, typename VecOf<Out, kBytes>::type), V);
}

template <typename A>
struct Targets {  // ground truths of an image
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
DETOPS_HD element_t<V> maximum(V v) {
  constexpr int n = sizeof(V) / sizeof(element_t<V>);
  decltype(V{} < V{}) lane;
  for (int i = 0; i < n; ++i) lane[i] = i;
#pragma GCC unroll 4
  for (int width = n / 2; width > 0; width /= 2) v = max(v, __builtin_shuffle(v, lane ^ width));
  return v[0];
}

// What is known of a ground truth: its best overlap, and the blocks between which boxes have it.
template <typename A>
struct Best {
  A overlap = 0;
  int64_t first = std::numeric_limits<int64_t>::max(), last = -1;

  DETOPS_HD void add(const Best& other) {
    if (other.overlap > overlap) *this = other;
    if (other.overlap == overlap) first = std::min(first, other.first), last = std::max(last, other.last);
  }
};

// Of each box in a block, the largest overlap and its ground truth, the first of equals; 0 and 0 where there is none.
// Calls top(j, V) with each ground truth met and its largest overlaps.
template <typename Out, typename V, typename Index, typename A, typename Top>
DETOPS_HD void best_of_block(const Chunk<A>& chunk, int64_t block, const Targets<A>& targets, V* best, Index* gt,
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
          rounded<Out>(iou_or_nan(target, chunk.template vector<V>(i), target_area, load<V>(chunk.area + i)));
      gt[k] = select(overlap > best[k], number, gt[k]);
      best[k] = max(best[k], overlap);
      largest = max(largest, overlap);
    }
    top(j, largest);
  });
}

template <typename A>
struct Thresholds {
  A high = 0, low = 0;  // as these are, a box always gets its best ground truth
};

template <typename A, typename Out>
struct Image {
  Targets<A> targets;
  Thresholds<A> thresholds;
  int64_t* matches;
  Out* ious;
};

// All boxes of a chunk: best overlap and verdict; with kTrack also what the ground truths' best is so far.
template <typename Isa, bool kTrack, typename A, typename Out>
DETOPS_HD void match_chunk(const Chunk<A>& chunk, const Image<A, Out>& image, Thresholds<A> thresholds,
                           Best<A>* of_targets) {
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
      Best<A>& most = of_targets[j];
      const V before = broadcast<V>(most.overlap);
      if (bits(largest > before) != 0) {
        most = {maximum(largest), at, at};
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
DETOPS_HD uint64_t tied_boxes(const Chunk<A>& chunk, int64_t block, const Targets<A>& targets, int64_t j, A wanted) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(A);
  const Box<V> target = broadcast<V>(targets.boxes[j]);
  const V target_area = broadcast<V>(targets.boxes.area[j]);
  uint64_t tied = 0;
  for (int64_t k = 0; k < kBlock / kLanes; ++k) {
    const int64_t i = block * kBlock + k * kLanes;
    const V overlap = iou_or_nan(target, chunk.template vector<V>(i), target_area, load<V>(chunk.area + i));
    tied |= uint64_t{bits(rounded<Out>(overlap) == broadcast<V>(wanted))} << (k * kLanes);
  }
  return tied;
}

// Boxes of a chunk that tie for the best overlap of a ground truth get their own best one back, however low.
template <typename Isa, typename A, typename Out>
DETOPS_HD void restore_chunk(const Chunk<A>& chunk, const Image<A, Out>& image, const Best<A>* of_targets) {
  using V = Vec<Isa, A>;
  using Index = decltype(V{} < V{});
  constexpr int64_t kLanes = lanes<Isa, A>, kVectors = kBlock / kLanes;
  const int64_t begin = chunk.begin / kBlock, end = begin + (chunk.size + kBlock - 1) / kBlock;
  uint64_t tied[kBlocks] = {};
  for (int64_t j = 0; j < image.targets.boxes.size; ++j) {
    const Best<A>& best = of_targets[j];
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

// Images [first, last) whose boxes are the same.
struct Group {
  BoxView boxes;
  int64_t first, last;
};

// Calls fn(piece, group, begin) for every chunk of every group, chunks going round the pieces; pieces run in parallel.
template <typename Fn>
void for_each_chunk(const std::vector<Group>& groups, int64_t pieces, const Fn& fn) {
  parallel_for(pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      int64_t turn = 0;
      for (const Group& group : groups) {
        for (int64_t begin = 0; begin < group.boxes.size; begin += kChunk) {
          if (turn++ % pieces == piece) fn(piece, group, begin);
        }
      }
    }
  });
}

// What is left to do for a chunk once the ground truths' best overlaps are known.
enum class Visit : char { kNone, kTied, kAll };

template <typename A>
void plan_visits(const Best<A>& best, std::vector<Visit>& visits) {
  if (best.overlap == 0) {  // no box overlaps it: it has its best with all of them, and all get their own best one back
    std::fill(visits.begin(), visits.end(), Visit::kAll);
    return;
  }
  for (int64_t chunk = best.first / kBlocks; chunk <= best.last / kBlocks; ++chunk) {
    visits[chunk] = std::max(visits[chunk], Visit::kTied);
  }
}

// Time to match the images' boxes, roughly.
template <typename A, typename Out>
double nanoseconds(const std::vector<Group>& groups, const std::vector<Image<A, Out>>& images) {
  double time = 0;
  for (const Group& group : groups) {
    for (int64_t i = group.first; i < group.last; ++i) {
      time += static_cast<double>(group.boxes.size) * (1 + 0.03 * static_cast<double>(images[i].targets.boxes.size));
    }
  }
  return time;
}

template <typename A, typename Out>
void match_cpu(const std::vector<Group>& groups, const std::vector<Image<A, Out>>& images, bool low_quality) {
  const int64_t num_images = images.size();
  const int64_t pieces = std::clamp<int64_t>(nanoseconds(groups, images) / grain_for(1), 1, num_threads());
  if (!low_quality) {
    for_each_chunk(groups, pieces, [&](int64_t, const Group& group, int64_t begin) {
      simd([&](auto isa) DETOPS_INLINE {
        Chunk<A> chunk;
        read_chunk<decltype(isa)>(group.boxes, begin, chunk);
        for (int64_t i = group.first; i < group.last; ++i) {
          match_chunk<decltype(isa), false>(chunk, images[i], images[i].thresholds, static_cast<Best<A>*>(nullptr));
        }
      });
    });
    return;
  }
  std::vector<int64_t> first_target(num_images + 1);
  for (int64_t i = 0; i < num_images; ++i) first_target[i + 1] = first_target[i] + images[i].targets.boxes.size;
  const int64_t num_targets = first_target.back();
  std::vector<Best<A>> of_pieces(pieces * num_targets);
  for_each_chunk(groups, pieces, [&](int64_t piece, const Group& group, int64_t begin) {
    simd([&](auto isa) DETOPS_INLINE {
      Chunk<A> chunk;
      read_chunk<decltype(isa)>(group.boxes, begin, chunk);
      for (int64_t i = group.first; i < group.last; ++i) {
        Best<A>* of_image = of_pieces.data() + piece * num_targets + first_target[i];
        match_chunk<decltype(isa), true>(chunk, images[i], images[i].thresholds, of_image);
      }
    });
  });
  Best<A>* best = of_pieces.data();
  for (int64_t piece = 1; piece < pieces; ++piece) {
    for (int64_t j = 0; j < num_targets; ++j) best[j].add(of_pieces[piece * num_targets + j]);
  }
  std::vector<std::vector<Visit>> visits;  // of each image's chunks
  for (const Group& group : groups) {
    for (int64_t i = group.first; i < group.last; ++i) {
      visits.emplace_back((group.boxes.size + kChunk - 1) / kChunk, Visit::kNone);
      for (int64_t j = first_target[i]; j < first_target[i + 1]; ++j) plan_visits(best[j], visits.back());
    }
  }
  for_each_chunk(groups, pieces, [&](int64_t, const Group& group, int64_t begin) {
    const auto visit = [&](int64_t i) { return visits[i][begin / kChunk]; };
    int64_t next = group.first;
    while (next < group.last && visit(next) == Visit::kNone) ++next;
    if (next == group.last) return;
    simd([&](auto isa) DETOPS_INLINE {
      Chunk<A> chunk;
      read_chunk<decltype(isa)>(group.boxes, begin, chunk);
      for (int64_t i = next; i < group.last; ++i) {
        if (visit(i) == Visit::kAll) {
          match_chunk<decltype(isa), false>(chunk, images[i], Thresholds<A>{}, static_cast<Best<A>*>(nullptr));
        } else if (visit(i) == Visit::kTied) {
          restore_chunk<decltype(isa)>(chunk, images[i], best + first_target[i]);
        }
      }
    });
  });
}

bool is_double(const Tensor& t) { return t.scalar_type() == ScalarType::Double; }

void check(const std::string& gt_name, const Tensor& gt_boxes, const std::string& name, const Tensor& boxes) {
  const char* op = "match_boxes";
  check_real(op, gt_name.c_str(), gt_boxes);
  check_real(op, name.c_str(), boxes);
  check_shape(op, gt_name.c_str(), gt_boxes, {kAny, 4});
  check_shape(op, name.c_str(), boxes, {kAny, 4});
  check_same_device(op, gt_name.c_str(), gt_boxes, name.c_str(), boxes);
  if (gt_boxes.size(0) > std::numeric_limits<int32_t>::max()) {
    fail(op, "expected at most 2^31 - 1 ", gt_name, ", got ", gt_boxes.size(0));
  }
}

// One image per entry of gt_boxes; the boxes of image i are boxes[i], or boxes[0] where there is but one.
std::tuple<Tensor, Tensor> match_host(const std::vector<Tensor>& gt_boxes, const std::vector<Tensor>& boxes,
                                      double high_threshold, double low_threshold, bool low_quality) {
  const int64_t images = gt_boxes.size();
  const bool shared = boxes.size() == 1;
  std::vector<Group> groups;
  bool wide = false, integers = false;
  int64_t total = 0;
  for (int64_t i = 0; i < images; ++i) {
    const Tensor& own = boxes[shared ? 0 : i];
    for (const Tensor* t : {&gt_boxes[i], &own}) {
      wide = wide || is_double(*t);
      integers = integers || is_integral(t->scalar_type());
    }
    total += own.size(0);
    if (!shared || i == 0) groups.push_back({BoxView(own), i, shared ? images : i + 1});
  }
  const ScalarType dtype = wide ? ScalarType::Double : ScalarType::Float;
  Tensor matches = new_tensor<1>(boxes[0], {total}, ScalarType::Long), ious = new_tensor<1>(boxes[0], {total}, dtype);
  const auto run = [&](auto accumulator, auto output) {
    using A = typename decltype(accumulator)::type;
    using Out = typename decltype(output)::type;
    int64_t* to_matches = mutable_data<int64_t>(matches);
    Out* to_ious = mutable_data<Out>(ious);
    const Out high = static_cast<Out>(high_threshold), low = static_cast<Out>(low_threshold);  // as torch compares
    dispatch_device(
        boxes[0],
        [&] {
          std::vector<Image<A, Out>> places;
          places.reserve(images);
          int64_t first = 0;
          for (int64_t i = 0; i < images; ++i) {
            Thresholds<A> thresholds{high, low};
            if (gt_boxes[i].size(0) == 0) thresholds.high = thresholds.low = std::numeric_limits<A>::infinity();
            places.push_back({{BoxColumns<A>(BoxView(gt_boxes[i]))}, thresholds, to_matches + first, to_ious + first});
            first += boxes[shared ? 0 : i].size(0);
          }
          match_cpu(groups, places, low_quality);
        },
        [&](void* stream) {
          std::vector<MatchImage> places;
          places.reserve(images);
          int64_t first = 0, first_target = 0;
          for (int64_t i = 0; i < images; ++i) {
            const Tensor& own = boxes[shared ? 0 : i];
            places.push_back({BoxView(gt_boxes[i]), BoxView(own), first, first_target});
            first += own.size(0);
            first_target += gt_boxes[i].size(0);
          }
          Tensor best = new_tensor<1>(boxes[0], {low_quality ? first_target : 0}, dtype);
          Out* to_best = low_quality ? mutable_data<Out>(best) : nullptr;
          match_boxes_cuda<A, Out>(places, {to_matches, to_ious, to_best, first_target}, high, low, stream);
        });
  };
  if (wide) {
    run(Type<double>{}, Type<double>{});
  } else if (integers) {  // exact in double where float would round large coordinates
    run(Type<double>{}, Type<float>{});
  } else {
    run(Type<float>{}, Type<float>{});
  }
  return {matches, ious};
}
}  // namespace

std::tuple<Tensor, Tensor> match_boxes(const Tensor& gt_boxes, const Tensor& boxes, double high_threshold,
                                       double low_threshold, bool allow_low_quality_matches) {
  check("gt_boxes", gt_boxes, "boxes", boxes);
  return match_host({gt_boxes}, {boxes}, high_threshold, low_threshold, allow_low_quality_matches);
}
DETOPS_OP(
    match_boxes,
    "(Tensor gt_boxes, Tensor boxes, float high_threshold, float low_threshold, bool allow_low_quality_matches) -> "
    "(Tensor, Tensor)")

// The images' results end to end; `boxes` of one image serve all.
std::tuple<Tensor, Tensor> match_boxes_of_images(const std::vector<Tensor>& gt_boxes, const std::vector<Tensor>& boxes,
                                                 double high_threshold, double low_threshold,
                                                 bool allow_low_quality_matches) {
  const size_t images = gt_boxes.size();
  if (images == 0) fail("match_boxes", "expected gt_boxes of at least one image, got none");
  if (boxes.size() != 1 && boxes.size() != images) {
    fail("match_boxes", "expected boxes of 1 or ", images, " images, got ", boxes.size());
  }
  for (size_t i = 0; i < images; ++i) {
    const std::string index = "[" + std::to_string(i) + "]";
    const bool shared = boxes.size() == 1;
    check("gt_boxes" + index, gt_boxes[i], shared ? "boxes" : "boxes" + index, boxes[shared ? 0 : i]);
    check_same_device("match_boxes", "boxes", boxes[0], ("gt_boxes" + index).c_str(), gt_boxes[i]);
  }
  return match_host(gt_boxes, boxes, high_threshold, low_threshold, allow_low_quality_matches);
}
DETOPS_OP(match_boxes_of_images,
          "(Tensor[] gt_boxes, Tensor[] boxes, float high_threshold, float low_threshold, bool "
          "allow_low_quality_matches) -> (Tensor, Tensor)")
}  // namespace detops
