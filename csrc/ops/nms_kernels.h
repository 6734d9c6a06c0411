// The CUDA kernels of non-maximum suppression, for any rule (nms.h).
//
// Boxes lie sorted by class, then by score, in tiles of 64. A block decides a tile: it tests its boxes against those
// kept of the earlier tiles of the class, in order, then among themselves, and publishes which it keeps. So all tiles
// of all classes and images run in one launch and in linear memory, and a box is tested against kept boxes alone, until
// one drops it.
//
// Blocks wait for tiles before their own, which is safe: a block takes the number of its tile from a counter as it
// starts, so that earlier tiles have blocks that run already, and the first undecided tile waits for none. (A scan with
// decoupled look-back rests on the same: Merrill and Garland, NVR-2016-002.) What is published of half a tile is one
// word, the boxes kept and the mark that they are decided; nothing else goes from block to block, so that no fence is
// needed. Where a tile is yet undecided, a block does not idle: it tests against all boxes of that tile, and looks
// afterwards which of the tests count. The wait for one tile is then some polling and a few votes, not its tests.
#pragma once
#include "../core/launch.h"
#include "nms.h"

namespace detops {
namespace {
constexpr int kTile = 64;      // boxes
constexpr int kThreads = 128;  // two for a box, each testing it against half of another tile
constexpr int kGatherThreads = 256;
constexpr int kFlagsOfThread = 8;  // read at once
constexpr uint64_t kDecided = uint64_t{1} << 32;
#if defined(DETOPS_EMULATE_CUDA)
constexpr int kCompactThreads = 64;
constexpr bool kLooksTooEarly = true;  // every other time: blocks that run one by one never have to wait
#else
constexpr int kCompactThreads = 1024;
constexpr bool kLooksTooEarly = false;
#endif

template <typename Rule>
struct Candidate {
  typename Rule::Shape shape;
  int64_t group;  // its class
};

// The two words of a tile: boxes kept of its first and second half, a bit each, and kDecided.
using TileWords = uint64_t[2];

template <typename Rule>
struct KernelArgs : NmsArgs<Rule> {
  int64_t tiles, flags_pitch;   // of an image
  Candidate<Rule>* candidates;  // (images, size): by class and score
  TileWords* words;             // (images, tiles)
  uint64_t* tickets;            // taken so far
  uint8_t* flags;               // (images, flags_pitch), by score: 1 if above the score threshold, in the end if kept
};

template <typename Rule>
__global__ void __launch_bounds__(kGatherThreads) gather_kernel(KernelArgs<Rule> a) {
  DETOPS_GRID_STRIDE(i, a.images * a.flags_pitch) {
    const int64_t image = a.images == 1 ? 0 : i / a.flags_pitch, position = i - image * a.flags_pitch;
    if (i == 0) *a.tickets = 0;
    if (position >= a.size) {
      a.flags[i] = 0;
      continue;
    }
    const int64_t first = image * a.size, at = first + position;
    const int64_t place = a.by_class ? a.by_class[at] : position, index = a.by_score[first + place];
    bool counts = true;
    if (a.has_score_threshold) {
      const int64_t of_score = image * a.scores.image_stride + index * a.scores.stride;
      counts =
          a.scores.visit([&](const auto* scores) { return static_cast<double>(scores[of_score]); }) > a.score_threshold;
    }
    a.flags[image * a.flags_pitch + place] = counts;
    a.candidates[at] = {a.rule.load(a.boxes, image, index), a.by_class ? a.classes[at] : 0};
    if (position % kTile == 0) {
      TileWords& words = a.words[image * a.tiles + position / kTile];
      words[0] = words[1] = 0;
    }
  }
}

// ---- Suppression ---------------------------------------------------------------------------------------------------

template <typename Rule>
struct Shared {
  uint64_t ticket;
  Candidate<Rule> listed[kTile];
  unsigned earlier[2][kTile];  // by box: those of the tile's halves, before it, that it overlaps
  TileWords seen;
  unsigned votes[kThreads / kWarp];
};

// Of a box's two threads, the one of the lower half of the block has half 0.
DETOPS_D int slot() { return static_cast<int>(threadIdx.x) % kTile; }
DETOPS_D int half() { return static_cast<int>(threadIdx.x) / kTile; }

// A bit for each box: whether one of its threads says yes. The block must meet before it votes again.
template <typename Rule>
DETOPS_D uint64_t vote(Shared<Rule>& shared, bool yes) {
  const unsigned bits = ballot(yes);
  if (lane_id() == 0) shared.votes[warp_id()] = bits;
  __syncthreads();
  const unsigned* votes = shared.votes;
  return (votes[0] | votes[2]) | static_cast<uint64_t>(votes[1] | votes[3]) << kWarp;
}

// Bit k: the box overlaps the k-th of `count`, at most 32, and is of its class.
template <typename Rule>
DETOPS_D unsigned overlapping(const Rule& rule, const Candidate<Rule>& own, const Candidate<Rule>* others, int count) {
  unsigned possible = 0, bits = 0;
#pragma unroll Rule::kUnroll
  for (int k = 0; k < count; ++k) {
    possible |= static_cast<unsigned>(rule.may_drop(others[k].shape, own.shape)) << k;
  }
  if (rule.iou_threshold < 0) possible = count == kWarp ? kAllLanes : (1u << count) - 1;
  for (; possible != 0; possible &= possible - 1) {
    const int k = __ffs(static_cast<int>(possible)) - 1;
    if (own.group == others[k].group && rule.drops(others[k].shape, own.shape)) bits |= 1u << k;
  }
  return bits;
}

DETOPS_D bool both_decided(const TileWords& words) { return (words[0] & words[1] & kDecided) != 0; }
DETOPS_D uint64_t kept_of(const TileWords& words) { return (words[0] & (kDecided - 1)) | words[1] << kWarp; }

struct Verdict {
  uint64_t dropped;  // of the block's boxes
  uint64_t kept;     // of the other tile's
};

// Tests the block's boxes, those whose threads say so, against the ones kept of a tile `ahead` of theirs.
template <typename Rule>
DETOPS_D Verdict meet(Shared<Rule>& shared, const Rule& rule, const Candidate<Rule>& own, bool tests,
                      const Candidate<Rule>& theirs, const TileWords& words, int64_t ahead) {
  __syncthreads();  // what is shared is done with
  const bool looks = !kLooksTooEarly || ahead % 2 == 0;
  if (threadIdx.x < 2) shared.seen[threadIdx.x] = looks ? atomic_load(&words[threadIdx.x]) : 0;
  __syncthreads();
  const bool decided = both_decided(shared.seen);
  uint64_t kept = kept_of(shared.seen);
  const uint64_t chosen = decided ? kept : ~uint64_t{0}, below = (uint64_t{1} << slot()) - 1;
  if (half() == 0 && (chosen >> slot() & 1) != 0) shared.listed[__popcll(chosen & below)] = theirs;
  __syncthreads();
  const int count = __popcll(chosen), share = (count + 1) / 2;  // of a box's first thread
  unsigned hits = 0;
  if (tests) hits = overlapping(rule, own, shared.listed + half() * share, half() == 0 ? share : count - share);
  if (!decided) {
    const auto nap = static_cast<unsigned>(min<int64_t>(ahead - 1, 64)) * 16;  // ns; the next in line stays awake
    if (threadIdx.x < 2) {
      while (((shared.seen[threadIdx.x] = atomic_load(&words[threadIdx.x])) & kDecided) == 0) __nanosleep(nap);
    }
    __syncthreads();
    kept = kept_of(shared.seen);
    hits &= static_cast<unsigned>(kept >> (kWarp * half()));
  }
  return {vote(shared, hits != 0), kept};
}

// Of the `open` boxes of a warp, those that overlap none kept before them. Bits of `earlier`: the lower lanes that this
// lane's overlaps. Each round settles all boxes that only settled ones could drop.
DETOPS_D unsigned keep_greedily(unsigned open, unsigned earlier) {
  unsigned kept = 0;
  while (open != 0) {
    kept |= ballot((open >> lane_id() & 1) != 0 && (earlier & open) == 0);
    open &= ~(kept | ballot((earlier & kept) != 0));
  }
  return kept;
}

// The first tile with boxes of a class, up to `tile`, which has some. Boxes are sorted by class.
template <typename Rule>
DETOPS_D int64_t first_tile(const Candidate<Rule>* candidates, int64_t tile, int64_t group) {
  const auto ends_in_group = [&](int64_t t) { return candidates[t * kTile + kTile - 1].group == group; };
  if (tile == 0 || ends_in_group(0)) return 0;
  int64_t before = 0, last = tile;
  while (last - before > 1) {
    const int64_t middle = before + (last - before) / 2;
    (ends_in_group(middle) ? last : before) = middle;
  }
  return last;
}

template <typename Rule>
__global__ void __launch_bounds__(kThreads, Rule::kResident) suppress_kernel(KernelArgs<Rule> a) {
  DETOPS_SHARED(shared, Shared<Rule>);
  if (threadIdx.x == 0) shared.ticket = atomic_add(a.tickets, uint64_t{1});
  __syncthreads();
  const auto ticket = static_cast<int64_t>(shared.ticket);
  const int64_t image = ticket % a.images, tile = ticket / a.images, position = tile * kTile + slot();
  const Candidate<Rule>* candidates = a.candidates + image * a.size;
  TileWords* words = a.words + image * a.tiles;
  const bool exists = position < a.size;
  const Candidate<Rule> nobody{Rule::nobody(), 0};
  const Candidate<Rule> own = exists ? candidates[position] : nobody;
  const int64_t place = exists && a.by_class ? a.by_class[image * a.size + position] : position;
  uint8_t* flag = a.flags + image * a.flags_pitch + place;

  // Of the tile's boxes those not dropped yet, and those that go on with the class of the tile before.
  uint64_t open = vote(shared, half() == 0 && exists && *flag != 0);
  if (half() == 0) shared.listed[slot()] = own;
  __syncthreads();
  const int64_t group = shared.listed[0].group;
  const uint64_t following = vote(shared, exists && own.group == group);
  if (half() <= slot() / kWarp) {
    const unsigned before = slot() / kWarp > half() ? kAllLanes : (1u << lane_id()) - 1;
    shared.earlier[half()][slot()] = overlapping(a.rule, own, shared.listed + half() * kWarp, kWarp) & before;
  }

  const int64_t first = first_tile(candidates, tile, group);
  int64_t kept_before = 0;  // of the class, at least
  for (int64_t other = first; other < tile && (open & following) != 0; ++other) {
    const bool tests = ((open & following) >> slot() & 1) != 0;
    const Candidate<Rule> theirs = half() == 0 ? candidates[other * kTile + slot()] : nobody;
    const Verdict verdict = meet(shared, a.rule, own, tests, theirs, words[other], tile - other);
    open &= ~verdict.dropped;
    if (other > first) kept_before += __popcll(verdict.kept);
    if (kept_before >= a.limit) open &= ~following;
  }
  __syncthreads();

  if (warp_id() == 0) {
    const auto& earlier = shared.earlier;
    const int lane = lane_id(), upper = lane + kWarp;
    const unsigned kept = keep_greedily(static_cast<unsigned>(open), earlier[0][lane]);
    const unsigned upper_open = static_cast<unsigned>(open >> kWarp) & ~ballot((earlier[0][upper] & kept) != 0);
    const unsigned upper_kept = keep_greedily(upper_open, earlier[1][upper]);
    if (lane < 2) {
      shared.votes[lane] = lane == 0 ? kept : upper_kept;
      atomic_exchange(&words[tile][lane], shared.votes[lane] | kDecided);
    }
  }
  __syncthreads();
  if (half() == 0 && exists) *flag = shared.votes[warp_id()] >> lane_id() & 1;
}

// ---- The answer ----------------------------------------------------------------------------------------------------

// A block has an image, all of whose flags it passes over in the order of score.
template <typename Rule>
__global__ void __launch_bounds__(kCompactThreads) compact_kernel(KernelArgs<Rule> a) {
  const int64_t image = blockIdx.x;
  const uint8_t* flags = a.flags + image * a.flags_pitch;
  const int64_t* by_score = a.by_score + image * a.size;
  int64_t* keep = a.keep + image * a.limit;
  int64_t kept = 0;
  for (int64_t begin = 0; begin < a.flags_pitch && kept < a.limit; begin += kCompactThreads * kFlagsOfThread) {
    const int64_t mine = begin + threadIdx.x * kFlagsOfThread;
    const uint64_t set = mine < a.flags_pitch ? *reinterpret_cast<const uint64_t*>(flags + mine) : 0;
    const Scanned<int> found = block_scan(__popcll(set));
    int64_t at = kept + found.before;
    for (int k = 0; k < kFlagsOfThread; ++k) {
      if ((set >> 8 * k & 1) != 0 && at < a.limit) keep[at++] = by_score[mine + k];
    }
    kept += found.total;
  }
  kept = min(kept, a.limit);
  for (int64_t at = kept + threadIdx.x; at < a.limit; at += kCompactThreads) keep[at] = -1;
  if (threadIdx.x == 0) a.count[image] = kept;
}

template <typename Rule>
KernelArgs<Rule> with_scratch(const NmsArgs<Rule>& args, void* scratch) {
  KernelArgs<Rule> a{args,
                     (args.size + kTile - 1) / kTile,
                     (args.size + kFlagsOfThread - 1) / kFlagsOfThread * kFlagsOfThread,
                     nullptr,
                     nullptr,
                     nullptr,
                     nullptr};
  a.candidates = static_cast<Candidate<Rule>*>(scratch);
  a.words = reinterpret_cast<TileWords*>(a.candidates + a.images * a.size);
  a.tickets = reinterpret_cast<uint64_t*>(a.words + a.images * a.tiles);
  a.flags = reinterpret_cast<uint8_t*>(a.tickets + 1);
  return a;
}
}  // namespace

template <typename Rule>
int64_t nms_scratch_bytes(int64_t images, int64_t size) {
  const int64_t tiles = (size + kTile - 1) / kTile, flags = (size + kFlagsOfThread - 1) / kFlagsOfThread;
  return images * (size * static_cast<int64_t>(sizeof(Candidate<Rule>)) + tiles * 16 + flags * 8) + 8;
}

template <typename Rule>
void nms_cuda(const NmsArgs<Rule>& args, void* scratch, void* stream) {
  const KernelArgs<Rule> a = with_scratch(args, scratch);
  launch("nms", gather_kernel<Rule>, grid_for(a.images * a.flags_pitch, kGatherThreads), stream, a);
  if (!a.rule.drops_nothing()) launch("nms", suppress_kernel<Rule>, {a.images * a.tiles, kThreads}, stream, a);
  launch("nms", compact_kernel<Rule>, {a.images, kCompactThreads}, stream, a);
}

}  // namespace detops
