// Runs a kernel: blocks one after another, the threads of a block as fibers that take turns where they wait for each
// other. Every launch runs its threads in another order (forward, backward, shuffled), always the same from run to run.
#include "emulator.h"

#include <cstdarg>
#include <cstdio>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

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
Thread threads[kMaxThreads];
int thread_count;
Thread* current = nullptr;
Block block{};
bool failed;

namespace {
std::mutex one_launch;
int done_count;
Body body;
void* context;
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

// ---- Running -------------------------------------------------------------------------------------------------------

void run_block() {
  done_count = 0;
  for (int i = 0; i < thread_count; ++i) {
    const unsigned k = static_cast<unsigned>(i);
    threads[i] = Thread{};
    threads[i].linear = i;
    threads[i].index = {k % blockDim.x, k / blockDim.x % blockDim.y, k / blockDim.x / blockDim.y};
  }
  forget_shared();
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
  check_shared();
}

cudaError_t refuse(cudaError_t error, const char* format, size_t got) {
  char text[200];
  std::snprintf(text, sizeof text, format, got);
  findings = text;
  return last_error = error;
}
}  // namespace

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
  if (shared_bytes > (allowance == allowances.end() ? kVariablesLimit : static_cast<size_t>(allowance->second))) {
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
  begin_shared(shared_bytes);
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
