// Runs a kernel: blocks one after another, the threads of a block as fibers that take turns where they wait for each
// other. Every launch runs its threads in another order (forward, backward, shuffled), always the same from run to run.
#include "emulator.h"

#include <cstdarg>
#include <cstdio>
#include <deque>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace detops {
alignas(1024) unsigned char dynamic_shared_memory[emulation::kArena];
}

#if defined(__x86_64__)
asm(R"(
.text
.hidden emulation_switch
.globl emulation_switch
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size emulation_switch, . - emulation_switch
)");
#endif

namespace emulation {
Thread* current = nullptr;
Block block{};

namespace {
constexpr size_t kGap = 64, kStaticLimit = 48 << 10, kSharedLimit = 227 << 10;
constexpr int kUninitialised = 0xff, kGuard = 0xa5;  // a float of 0xff bytes is NaN

std::mutex one_launch;
Thread threads[kMaxThreads];
int thread_count, done_count;
Body body;
void* context;
int block_result;
bool failed;
std::string findings;
int finding_count;
cudaError_t last_error = cudaSuccess;
std::unordered_map<const void*, int> allowances;  // bytes of dynamic shared memory by kernel

// ---- Order ---------------------------------------------------------------------------------------------------------

uint32_t launches;
uint64_t random_state;

uint64_t next_random() {  // xorshift
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

std::vector<int> in_order(int n) {
  std::vector<int> order(n);
  for (int i = 0; i < n; ++i) order[i] = launches % 3 == 1 ? n - 1 - i : i;
  if (launches % 3 == 2) {
    for (int i = n - 1; i > 0; --i) std::swap(order[i], order[next_random() % (i + 1)]);
  }
  return order;
}

// ---- Fibers --------------------------------------------------------------------------------------------------------

void thread_main() {
  Fiber::arrived();
  while (true) {  // a fiber serves one thread after another
    body(context);
    current->state = State::kDone;
    current->fiber->leave();
  }
}

const Stacks& stacks() {
  static const Stacks all(kMaxThreads);
  return all;
}
std::vector<Fiber*>& idle_fibers() {
  static std::deque<Fiber> all;
  static std::vector<Fiber*> idle;
  for (int i = static_cast<int>(all.size()); i < kMaxThreads; ++i) {
    idle.push_back(&all.emplace_back(stacks()[i], Stacks::usable(i), thread_main));
  }
  return idle;
}

void resume(Thread& thread) {
  if (thread.state == State::kNew) {
    thread.fiber = idle_fibers().back();
    idle_fibers().pop_back();
  }
  thread.state = State::kReady;
  current = &thread;
  threadIdx = thread.index;
  thread.fiber->enter();
  current = nullptr;
  if (thread.state == State::kDone) {
    ++done_count;
    idle_fibers().push_back(thread.fiber);
    thread.fiber = nullptr;
  }
}

void drop_unfinished() {
  for (int i = 0; i < thread_count; ++i) {
    if (threads[i].fiber == nullptr) continue;
    threads[i].fiber->reset();
    idle_fibers().push_back(threads[i].fiber);
    threads[i].fiber = nullptr;
  }
}

// ---- Shared memory -------------------------------------------------------------------------------------------------

std::vector<Slot> slots;
size_t arena_used;

void set_accessible([[maybe_unused]] const void* begin, [[maybe_unused]] size_t size,
                    [[maybe_unused]] bool accessible) {
#if defined(__SANITIZE_ADDRESS__)
  accessible ? __asan_unpoison_memory_region(begin, size) : __asan_poison_memory_region(begin, size);
#endif
}

void clear_arena() {
  slots.clear();
  arena_used = 0;
  set_accessible(arena(), kArena, true);
  std::memset(arena(), kGuard, kArena);
  set_accessible(arena(), kArena, false);
}

Slot& add_slot(const void* key, const char* name, size_t size, size_t alignment) {
  // No better aligned than its type asks for, so that a wider access is seen to be misaligned.
  const size_t offset = slots.empty() ? 0 : (arena_used + kGap + 63) / 64 * 64 + alignment;
  arena_used = offset + size;
  slots.push_back({key, name, offset, size});
  set_accessible(arena() + offset, size, true);
  std::memset(arena() + offset, kUninitialised, size);
  return slots.back();
}

void check_guards() {
#if !defined(__SANITIZE_ADDRESS__)  // which sees the access itself
  for (size_t i = 0; i < slots.size(); ++i) {
    const size_t end = i + 1 < slots.size() ? slots[i + 1].offset : arena_used + kGap;
    for (size_t at = slots[i].offset + slots[i].size; at < end; ++at) {
      if (arena()[at] == kGuard) continue;
      const Slot* slot = nearest_slot(at);
      report("out of bounds: block (%u,%u,%u) wrote shared %s at byte %td of %zu", blockIdx.x, blockIdx.y, blockIdx.z,
             slot->name, static_cast<ptrdiff_t>(at - slot->offset), slot->size);
      return;
    }
  }
#endif
}

// ---- Meeting points ------------------------------------------------------------------------------------------------

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
  std::vector<Thread*> lanes;
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

// ---- Running -------------------------------------------------------------------------------------------------------

void run_block() {
  done_count = 0;
  for (int i = 0; i < thread_count; ++i) {
    const unsigned k = static_cast<unsigned>(i);
    threads[i] = Thread{};
    threads[i].linear = i;
    threads[i].index = {k % blockDim.x, k / blockDim.x % blockDim.y, k / blockDim.x / blockDim.y};
  }
  for (const Slot& slot : slots) std::memset(arena() + slot.offset, kUninitialised, slot.size);
  races_begin_block();
  const int warps = (thread_count + kWarpSize - 1) / kWarpSize;
  while (true) {
    for (const int warp : in_order(warps)) {
      const int first = warp * kWarpSize;
      do {
        for (const int lane : in_order(std::min(kWarpSize, thread_count - first))) {
          Thread& thread = threads[first + lane];
          if (thread.state == State::kNew || thread.state == State::kReady) resume(thread);
          if (failed) return;
        }
      } while (complete_warp_ops(warp));
      if (failed) return;
    }
    if (done_count == thread_count) break;
    complete_barrier();
    if (failed) return;
  }
  check_guards();
}

cudaError_t refuse(cudaError_t error, const char* format, size_t got) {
  char text[200];
  std::snprintf(text, sizeof text, format, got);
  findings = text;
  return last_error = error;
}
}  // namespace

unsigned char* arena() { return detops::dynamic_shared_memory; }

const Slot* find_slot(size_t offset, size_t size) {
  for (const Slot& slot : slots) {
    if (offset >= slot.offset && offset + size <= slot.offset + slot.size) return &slot;
  }
  return nullptr;
}

const Slot* nearest_slot(size_t offset) {
  const auto distance = [offset](const Slot& slot) {
    return offset < slot.offset               ? slot.offset - offset
           : offset < slot.offset + slot.size ? 0
                                              : offset - slot.offset - slot.size;
  };
  const Slot* nearest = &slots.front();
  for (const Slot& slot : slots) {
    if (distance(slot) < distance(*nearest)) nearest = &slot;
  }
  return nearest;
}

bool on_a_stack(const void* address) { return stacks().contains(address); }

std::string describe(const Thread& thread) {
  char text[120];
  std::snprintf(text, sizeof text, "thread (%u,%u,%u) of block (%u,%u,%u)", thread.index.x, thread.index.y,
                thread.index.z, blockIdx.x, blockIdx.y, blockIdx.z);
  return text;
}

void report(const char* format, ...) {
  failed = true;
  if (++finding_count > 10) return;
  char text[600];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  findings += (findings.empty() ? "" : "; ") + std::string(text);
}

void fail(const char* format, ...) {
  char text[500];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  report("%s in %s", text, describe(*current).c_str());
  while (true) current->fiber->leave();
}

int lane() { return current->lane(); }

void* shared(const void* key, const char* name, size_t size, size_t alignment) {
  size_t total = size;
  for (const Slot& slot : slots) {
    if (slot.key == key) return arena() + slot.offset;
    total += slot.size;
  }
  if (total - slots.front().size > kStaticLimit) fail("shared memory: more than 48 KiB of variables with %s", name);
  if (total > kSharedLimit) fail("shared memory: more than 227 KiB with %s", name);
  return arena() + add_slot(key, name, size, alignment).offset;
}

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

#if !defined(DETOPS_EMULATE_RACES)
void note_atomic(const void*, size_t, void*) {}
void fence() {}
#endif

int allow_shared(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > kSharedLimit) {
    return refuse(cudaErrorInvalidValue, "invalid argument: %zu bytes of shared memory", static_cast<size_t>(bytes));
  }
  allowances[kernel] = bytes;
  return cudaSuccess;
}

int run(dim3 grid, dim3 threads_of_block, size_t shared_bytes, const void* kernel, Body kernel_body,
        void* kernel_context) {
  const std::lock_guard<std::mutex> lock(one_launch);
  const size_t count = size_t{threads_of_block.x} * threads_of_block.y * threads_of_block.z;
  if (count == 0 || count > kMaxThreads || threads_of_block.z > 64) {
    return refuse(cudaErrorInvalidConfiguration, "invalid configuration argument: %zu threads in a block", count);
  }
  const size_t blocks = size_t{grid.x} * grid.y * grid.z;
  if (blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return refuse(cudaErrorInvalidConfiguration, "invalid configuration argument: %zu blocks", blocks);
  }
  const auto allowance = allowances.find(kernel);
  if (shared_bytes > (allowance == allowances.end() ? kStaticLimit : static_cast<size_t>(allowance->second))) {
    return refuse(cudaErrorInvalidValue, "invalid argument: %zu bytes of shared memory, not asked for", shared_bytes);
  }
  findings.clear();
  finding_count = 0;
  failed = false;
  random_state = 0x9e3779b97f4a7c15u + ++launches;
  gridDim = grid;
  blockDim = threads_of_block;
  thread_count = static_cast<int>(count);
  body = kernel_body;
  context = kernel_context;
  block.first_of_launch = block.serial + 1;
  races_begin_launch();
  clear_arena();
  add_slot(nullptr, "dynamic memory", shared_bytes, 16);
  const size_t shift = launches % 3 == 2 ? next_random() % blocks : 0;
  for (size_t i = 0; i < blocks && !failed; ++i) {
    const size_t b = launches % 3 == 1 ? blocks - 1 - i : (i + shift) % blocks;
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    ++block.serial;
    block.epoch = 1;
    run_block();
  }
  if (failed) drop_unfinished();
  return failed ? last_error = cudaErrorLaunchFailure : cudaSuccess;
}
}  // namespace emulation

cudaError_t cudaGetLastError() { return std::exchange(emulation::last_error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaSuccess ? "no error" : emulation::findings.c_str();
}
