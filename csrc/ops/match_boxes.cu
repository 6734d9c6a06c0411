#include <algorithm>

#include "../core/launch.h"
#include "match_boxes.h"

// A thread has a box, which meets all ground truths of its image; these go through shared memory. Where no box of a
// warp touches a ground truth, which is nearly everywhere, its lanes skip the division together. Low-quality matches
// take a second pass, once each ground truth's best overlap is known.
namespace detops {
namespace {
constexpr int kThreads = 256;
constexpr int kImages = 32;  // of a launch

enum class Pass { kMatch, kMatchAndTrack, kRestore };

template <typename Out>
struct PassArgs {
  MatchImage images[kImages];
  int num_images;
  MatchOutputs<Out> to;
  Out high, low;
};

template <typename A>
struct Target {
  Box<A> box;
  A area;
};

// Unsigned numbers are in the order of the floating ones of 0 or more that have the same bits.
template <typename Out>
using bits_t = std::conditional_t<sizeof(Out) == 8, uint64_t, uint32_t>;

template <typename Out>
DETOPS_D bits_t<Out> bits_of(Out x) {
  bits_t<Out> bits;
  memcpy(&bits, &x, sizeof x);
  return bits;
}

template <Pass kPass, typename A, typename Out>
__global__ void __launch_bounds__(kThreads, 4) match_kernel(PassArgs<Out> a) {
  DETOPS_SHARED(targets, Target<A>[kThreads]);
  DETOPS_SHARED(best_of_targets, bits_t<Out>[kThreads]);
  const MatchImage& image = a.images[blockIdx.x % a.num_images];
  const int64_t num_boxes = image.boxes.size, num_targets = image.gt_boxes.size;
  const int64_t first = static_cast<int64_t>(blockIdx.x / a.num_images) * kThreads, i = first + threadIdx.x;
  if (first >= num_boxes) return;  // another image has more
  const Box<A> box = i < num_boxes ? image.boxes.load<A>(0, i) : Box<A>{};
  const A box_area = area(box);
  const int thread = static_cast<int>(threadIdx.x);
  Out best = 0;
  int32_t gt = 0;
  bool tied = false;
  for (int64_t begin = 0; begin < num_targets; begin += kThreads) {
    const int count = static_cast<int>(min<int64_t>(kThreads, num_targets - begin));
    __syncthreads();  // the targets before are done with
    if (thread < count) {
      const Box<A> target = image.gt_boxes.load<A>(0, begin + thread);
      targets[thread] = {target, area(target)};
      const Out known = kPass == Pass::kRestore ? a.to.best[image.first_target + begin + thread] : Out(0);
      best_of_targets[thread] = bits_of(known);
    }
    __syncthreads();
    for (int j = 0; j < count; ++j) {
      const Target<A> target = targets[j];
      const bool touches = intersection(target.box, box) > 0;
      if (kPass == Pass::kRestore) tied = tied || best_of_targets[j] == 0;  // no box touches it
      if (ballot(touches) == 0) continue;
      const Out overlap = touches ? static_cast<Out>(iou_or_nan(target.box, box, target.area, box_area)) : Out(0);
      if (overlap > best) best = overlap, gt = static_cast<int32_t>(begin) + j;
      if (kPass == Pass::kRestore) tied = tied || (overlap > 0 && bits_of(overlap) == best_of_targets[j]);
      if (kPass == Pass::kMatchAndTrack) {
        const Out most = warp_reduce(overlap > 0 ? overlap : Out(0), [](Out x, Out y) { return max(x, y); });
        if (lane_id() == 0 && most > 0) atomic_max(&best_of_targets[j], bits_of(most));
      }
    }
    if (kPass == Pass::kMatchAndTrack) {
      __syncthreads();
      if (thread < count && best_of_targets[thread] > 0) {
        auto* known = reinterpret_cast<bits_t<Out>*>(a.to.best + image.first_target + begin + thread);
        atomic_max(known, best_of_targets[thread]);
      }
    }
  }
  if (i >= num_boxes) return;
  if (kPass == Pass::kRestore) {
    if (tied) a.to.matches[image.first + i] = gt;
    return;
  }
  a.to.matches[image.first + i] = num_targets == 0 ? -1 : verdict(best, gt, a.high, a.low);
  a.to.ious[image.first + i] = best;
}

template <Pass kPass, typename A, typename Out>
void launch_pass(const std::vector<MatchImage>& images, const MatchOutputs<Out>& outputs, Out high, Out low,
                 void* stream) {
  for (size_t begin = 0; begin < images.size(); begin += kImages) {
    const size_t count = std::min<size_t>(kImages, images.size() - begin);
    PassArgs<Out> args{{}, static_cast<int>(count), outputs, high, low};
    int64_t tiles = 0;
    for (size_t k = 0; k < count; ++k) {
      args.images[k] = images[begin + k];
      tiles = std::max(tiles, (args.images[k].boxes.size + kThreads - 1) / kThreads);
    }
    launch("match_boxes", match_kernel<kPass, A, Out>, {tiles * args.num_images, kThreads}, stream, args);
  }
}
}  // namespace

template <typename A, typename Out>
void match_boxes_cuda(const std::vector<MatchImage>& images, const MatchOutputs<Out>& outputs, Out high, Out low,
                      void* stream) {
  if (outputs.best == nullptr) return launch_pass<Pass::kMatch, A>(images, outputs, high, low, stream);
  clear("match_boxes", outputs.best, outputs.num_targets * static_cast<int64_t>(sizeof(Out)), stream);
  launch_pass<Pass::kMatchAndTrack, A>(images, outputs, high, low, stream);
  launch_pass<Pass::kRestore, A>(images, outputs, high, low, stream);
}

#define INSTANTIATE(A, OUT) \
  template void match_boxes_cuda<A>(const std::vector<MatchImage>&, const MatchOutputs<OUT>&, OUT, OUT, void*);
INSTANTIATE(float, float)
INSTANTIATE(double, double)
INSTANTIATE(double, float)
}  // namespace detops
