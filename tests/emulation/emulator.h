// What the scheduler (emulator.cpp) and the race detector (races.cpp) share.
#pragma once
#include <string>

#include "cuda_runtime.h"
#include "fiber.h"

namespace emulation {
constexpr int kWarpSize = 32, kMaxThreads = 1024;

enum class State { kNew, kReady, kAtBarrier, kInWarpOp, kDone };

struct Thread {
  int linear;
  uint3 index;
  State state;
  Fiber* fiber;
  // What it waits for.
  Site site;
  BlockOp block_op;
  WarpOp warp_op;
  unsigned mask;
  int source;
  uint64_t in, out;

  int lane() const { return linear % kWarpSize; }
  int warp() const { return linear / kWarpSize; }
};
extern Thread threads[kMaxThreads];  // of the block that runs
extern int thread_count;
extern Thread* current;  // null outside kernels

struct Block {
  uint32_t serial;           // never the same again, not in the next launch either
  uint32_t first_of_launch;  // serial of the launch's first
  uint32_t epoch;            // barriers passed
};
extern Block block;

extern bool failed;  // something was reported: the launch is to end
void report(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string describe(const Thread& thread);  // "thread (3,0,0) of block (0,0,0)"
bool on_a_stack(const void* address);

// Gives lanes whose partners are there what they wait for; whether there were any.
bool complete_warp_ops(int warp);
// Lets all threads pass the barrier that they are at.
void complete_barrier();

// Shared memory: variables in an arena, apart from each other.
struct Slot {
  const void* key;  // of the variable; null for dynamic memory
  const char* name;
  size_t offset, size;
};
constexpr size_t kArena = 512 << 10;
constexpr size_t kVariablesLimit = 48 << 10, kSharedLimit = 227 << 10;  // bytes of a block
unsigned char* arena();
const Slot* find_slot(size_t offset, size_t size);
const Slot* nearest_slot(size_t offset);
void begin_shared(size_t dynamic_bytes);  // for a launch
void forget_shared();                     // what the block before left there
void check_shared();                      // that nothing was written between the variables

#if defined(DETOPS_EMULATE_RACES)
void races_begin_launch();
void races_begin_block();
void races_warp_sync(int warp, unsigned mask);
#else
inline void races_begin_launch() {}
inline void races_begin_block() {}
inline void races_warp_sync(int, unsigned) {}
#endif
}  // namespace emulation
