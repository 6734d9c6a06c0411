// Where threads wait for each other: barriers of the block, shuffles and votes of the warp.
#include <vector>

#include "emulator.h"

namespace emulation {
namespace {
int block_result;

bool same_place(const Thread& a, const Thread& b) { return a.site.line == b.site.line && a.site.file == b.site.file; }

bool all_arrived(const Thread& thread) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((thread.mask >> lane & 1) == 0) continue;
    const int other = thread.warp() * kWarpSize + lane;
    if (other >= thread_count || threads[other].state != State::kInWarpOp || threads[other].mask != thread.mask) {
      return false;
    }
  }
  return true;
}

// Gives every lane of thread's mask its result.
void complete(const Thread& thread) {
  const unsigned mask = thread.mask;
  static std::vector<Thread*> lanes;
  lanes.clear();
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (mask >> lane & 1) lanes.push_back(&threads[thread.warp() * kWarpSize + lane]);
  }
  uint64_t ballot = 0;
  for (const Thread* other : lanes) {
    if (other->warp_op != thread.warp_op || !same_place(*other, thread)) {
      return report("divergence: %s is at %s:%d, lane %d of the same mask at %s:%d", describe(thread).c_str(),
                    thread.site.file, thread.site.line, other->lane(), other->site.file, other->site.line);
    }
    ballot |= static_cast<uint64_t>(other->in != 0) << other->lane();
  }
  for (Thread* other : lanes) {
    other->out = ballot;
    if (thread.warp_op == WarpOp::kShuffle) {
      if (other->source < 0 || other->source >= kWarpSize || (mask >> other->source & 1) == 0) {
        return report("shuffle: %s reads lane %d, not one of mask %08x, at %s:%d", describe(*other).c_str(),
                      other->source, mask, other->site.file, other->site.line);
      }
      other->out = threads[thread.warp() * kWarpSize + other->source].in;
    } else if (thread.warp_op == WarpOp::kMatch) {
      other->out = 0;
      for (const Thread* third : lanes) other->out |= static_cast<uint64_t>(third->in == other->in) << third->lane();
    }
  }
  if (thread.warp_op == WarpOp::kSync) races_warp_sync(thread.warp(), mask);  // shuffles and votes order no memory
  for (Thread* other : lanes) other->state = State::kReady;
}
}  // namespace

bool complete_warp_ops(int warp) {
  bool any = false;
  for (int i = warp * kWarpSize; i < std::min((warp + 1) * kWarpSize, thread_count) && !failed; ++i) {
    if (threads[i].state != State::kInWarpOp || !all_arrived(threads[i])) continue;
    complete(threads[i]);
    any = true;
  }
  return any && !failed;
}

void complete_barrier() {
  const Thread* first = nullptr;
  int count = 0, votes = 0;
  for (int i = 0; i < thread_count; ++i) {
    const Thread& thread = threads[i];
    if (thread.state == State::kDone) continue;
    if (thread.state == State::kInWarpOp) {
      return report("deadlock: %s waits at %s:%d for lanes of mask %08x that do not come", describe(thread).c_str(),
                    thread.site.file, thread.site.line, thread.mask);
    }
    if (first == nullptr) first = &thread;
    if (!same_place(thread, *first)) {
      return report("divergent barrier: %s is at %s:%d, %s at %s:%d", describe(*first).c_str(), first->site.file,
                    first->site.line, describe(thread).c_str(), thread.site.file, thread.site.line);
    }
    ++count;
    votes += thread.in != 0;
  }
  if (count < thread_count) {
    return report("divergent barrier: %d of %d threads wait at %s:%d, the others have returned", count, thread_count,
                  first->site.file, first->site.line);
  }
  block_result = first->block_op == BlockOp::kAnd  ? votes == count
                 : first->block_op == BlockOp::kOr ? votes > 0
                                                   : votes;
  ++block.epoch;
  for (int i = 0; i < thread_count; ++i) threads[i].state = State::kReady;
}

int lane() { return current->lane(); }

int meet_block(BlockOp op, bool value, Site site) {
  Thread& self = *current;
  self.block_op = op;
  self.in = value;
  self.site = site;
  self.state = State::kAtBarrier;
  self.fiber->leave();
  return block_result;
}

uint64_t meet_warp(WarpOp op, unsigned mask, uint64_t value, int source, Site site) {
  Thread& self = *current;
  if ((mask >> self.lane() & 1) == 0) fail("mask %08x lacks the calling lane at %s:%d", mask, site.file, site.line);
  self.warp_op = op;
  self.mask = mask;
  self.in = value;
  self.source = source;
  self.site = site;
  self.state = State::kInWarpOp;
  self.fiber->leave();
  return self.out;
}
}  // namespace emulation
