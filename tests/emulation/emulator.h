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
extern Thread* current;  // the thread that runs; null outside kernels

struct Block {
  uint32_t serial;           // never the same again, not in the next launch either
  uint32_t first_of_launch;  // serial of the launch's first
  uint32_t epoch;            // barriers passed
};
extern Block block;

void report(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string describe(const Thread& thread);  // "thread (3,0,0) of block (0,0,0)"
bool on_a_stack(const void* address);

// Shared memory: slots in an arena, apart from each other.
struct Slot {
  const void* key;  // of the variable; null for dynamic memory
  const char* name;
  size_t offset, size;
};
constexpr size_t kArena = 512 << 10;
unsigned char* arena();
const Slot* find_slot(size_t offset, size_t size);
const Slot* nearest_slot(size_t offset);

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
