#include "match_boxes.h"

#include <algorithm>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "match_chunk.h"

namespace detops {
namespace {
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
void plan_visits(const BestOverlap<A>& best, std::vector<Visit>& visits) {
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
double nanoseconds(const std::vector<Group>& groups, const std::vector<MatchPlace<A, Out>>& images) {
  double time = 0;
  for (const Group& group : groups) {
    for (int64_t i = group.first; i < group.last; ++i) {
      time += static_cast<double>(group.boxes.size) * (1 + 0.03 * static_cast<double>(images[i].targets.boxes.size));
    }
  }
  return time;
}

template <typename A, typename Out>
void match_cpu(const std::vector<Group>& groups, const std::vector<MatchPlace<A, Out>>& images, bool low_quality) {
  const int64_t num_images = images.size();
  const int64_t pieces = std::clamp<int64_t>(nanoseconds(groups, images) / grain_for(1), 1, num_threads());
  if (!low_quality) {
    for_each_chunk(groups, pieces, [&](int64_t, const Group& group, int64_t begin) {
      simd([&](auto isa) DETOPS_INLINE {
        Chunk<A> chunk;
        read_chunk<decltype(isa)>(group.boxes, begin, chunk);
        for (int64_t i = group.first; i < group.last; ++i) {
          match_chunk<decltype(isa), false>(chunk, images[i], images[i].thresholds,
                                            static_cast<BestOverlap<A>*>(nullptr));
        }
      });
    });
    return;
  }
  std::vector<int64_t> first_target(num_images + 1);
  for (int64_t i = 0; i < num_images; ++i) first_target[i + 1] = first_target[i] + images[i].targets.boxes.size;
  const int64_t num_targets = first_target.back();
  std::vector<BestOverlap<A>> of_pieces(pieces * num_targets);
  for_each_chunk(groups, pieces, [&](int64_t piece, const Group& group, int64_t begin) {
    simd([&](auto isa) DETOPS_INLINE {
      Chunk<A> chunk;
      read_chunk<decltype(isa)>(group.boxes, begin, chunk);
      for (int64_t i = group.first; i < group.last; ++i) {
        BestOverlap<A>* of_image = of_pieces.data() + piece * num_targets + first_target[i];
        match_chunk<decltype(isa), true>(chunk, images[i], images[i].thresholds, of_image);
      }
    });
  });
  BestOverlap<A>* best = of_pieces.data();
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
          match_chunk<decltype(isa), false>(chunk, images[i], MatchThresholds<A>{},
                                            static_cast<BestOverlap<A>*>(nullptr));
        } else if (visit(i) == Visit::kTied) {
          restore_chunk<decltype(isa)>(chunk, images[i], best + first_target[i]);
        }
      }
    });
  });
}

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
          std::vector<MatchPlace<A, Out>> places;
          places.reserve(images);
          int64_t first = 0;
          for (int64_t i = 0; i < images; ++i) {
            MatchThresholds<A> thresholds{high, low};
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
