// The race detector. Kernels are compiled with -fsanitize=thread, which calls a function before every access to memory;
// these functions are here instead of the sanitizer's own library. An access conflicts with an earlier one of the same
// launch unless a barrier, a __syncwarp or, between blocks, a fence and an atomic lie between them.
#include <dlfcn.h>

#include <array>
#include <cstdio>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

#include "emulator.h"

namespace emulation {
namespace {
enum class Access { kRead, kWrite, kAtomic };

// When and where an access happened.
struct Stamp {
  uint32_t block = 0;  // serial; 0 is never
  uint32_t epoch = 0;  // barriers of the block before it
  uint32_t clock = 0;  // of its thread, as seen by __syncwarp
  uint16_t thread = 0;
  bool atomic = false;
  void* code = nullptr;
};

// What is remembered of one byte: its last write, and the reads since.
struct Cell {
  Stamp write, read;
  uint32_t warps = 0, lanes = 0;  // that read in the epoch, and at the clock, of `read`
  bool several_blocks = false;    // have read
};

constexpr uintptr_t kPage = 1024;
using Page = std::array<Cell, kPage>;
std::unordered_map<uintptr_t, std::unique_ptr<Page>> global_pages;
std::vector<Cell> shared_cells(kArena);

uint32_t clocks[kMaxThreads][kWarpSize];  // of every lane of the warp, as far as the thread knows
bool fenced[kMaxThreads];
std::set<std::pair<void*, void*>> reported;

// A thread that executes an atomic after a fence releases what it knows to those who come to the same address later.
struct Release {
  uint32_t epoch;
  int thread;
  size_t index;
};
struct Location {
  size_t count = 0;
  std::unordered_map<uint32_t, Release> of_block;
};
struct Acquired {
  const Location* location;
  size_t count;
  int thread;
  uint32_t epoch;
};
std::unordered_map<const void*, Location> locations;
std::vector<Acquired> acquired;  // by the block

std::string run(const std::string& command) {
  std::string text;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    for (int c; (c = std::fgetc(pipe)) != EOF;) text += static_cast<char>(c);
    pclose(pipe);
  }
  return text;
}

// "box_iou.cu:57", or the chain of inlined calls from the inside: "launch.h:80 < box_iou.cu:57".
std::string source_line(void* code) {
  Dl_info info;
  if (code == nullptr || dladdr(code, &info) == 0) return "?";
  char command[600];
  std::snprintf(command, sizeof command, "addr2line -i -s -e '%s' 0x%zx 2>/dev/null", info.dli_fname,
                static_cast<size_t>(static_cast<char*>(code) - static_cast<char*>(info.dli_fbase)) - 1);
  std::string lines = run(command), chain;
  for (size_t begin = 0, end; (end = lines.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string line = lines.substr(begin, end - begin);
    chain += (chain.empty() ? "" : " < ") + line.substr(0, line.find(' '));
  }
  return chain.empty() ? "?" : chain;
}

bool released_to_us(const Stamp& stamp) {
  for (const Acquired& a : acquired) {
    if (a.thread != current->linear && a.epoch == block.epoch) continue;
    const auto release = a.location->of_block.find(stamp.block);
    if (release == a.location->of_block.end() || release->second.index >= a.count) continue;
    if (stamp.epoch < release->second.epoch || stamp.thread == release->second.thread) return true;
  }
  return false;
}

bool happened_before_us(const Stamp& stamp) {
  if (stamp.block < block.first_of_launch) return true;
  if (stamp.block != block.serial) return released_to_us(stamp);
  if (stamp.epoch < block.epoch || stamp.thread == current->linear) return true;
  return stamp.thread / kWarpSize == current->warp() &&
         stamp.clock <= clocks[current->linear][stamp.thread % kWarpSize];
}

bool reads_happened_before_us(const Cell& cell) {
  if (cell.read.block < block.first_of_launch) return true;
  if (cell.several_blocks) return false;
  if (cell.read.block != block.serial || cell.read.epoch < block.epoch) return happened_before_us(cell.read);
  if ((cell.warps & ~(1u << current->warp())) != 0) return false;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (lane == current->lane() || (cell.lanes >> lane & 1) == 0) continue;
    if (cell.read.clock > clocks[current->linear][lane]) return false;
  }
  return true;
}

std::string place(const void* address) {
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(address) - arena());
  char text[100];
  if (offset < kArena) {
    const Slot* slot = nearest_slot(offset);
    std::snprintf(text, sizeof text, "shared %s at byte %td of %zu", slot->name,
                  static_cast<ptrdiff_t>(offset - slot->offset), slot->size);
  } else {
    std::snprintf(text, sizeof text, "global memory at %p", address);
  }
  return text;
}

void report_race(const char* what, const void* address, void* code, const Stamp& other) {
  if (!reported.insert({code, other.code}).second) return;
  report("race: %s %s, %s (%s) and thread %d of %s (%s)", what, place(address).c_str(), describe(*current).c_str(),
         source_line(code).c_str(), other.thread, other.block == block.serial ? "the same block" : "another block",
         source_line(other.code).c_str());
}

void touch(Cell& cell, const void* address, bool is_shared, Access access, void* code) {
  if (is_shared && cell.write.block != block.serial) cell.write = Stamp{};  // another block's variable
  if (is_shared && cell.read.block != block.serial) cell.read = Stamp{};
  const bool atomic = access == Access::kAtomic;
  if (!(atomic && cell.write.atomic) && !happened_before_us(cell.write)) {
    report_race(access == Access::kRead ? "read after write of" : "two writes of", address, code, cell.write);
  }
  const Stamp now{
      block.serial, block.epoch, clocks[current->linear][current->lane()], static_cast<uint16_t>(current->linear),
      atomic,       code};
  if (access == Access::kRead) {
    if (is_shared && cell.write.block == 0 && reported.insert({code, nullptr}).second) {
      report("uninitialised: %s reads %s (%s)", describe(*current).c_str(), place(address).c_str(),
             source_line(code).c_str());
    }
    const bool same_block = cell.read.block == now.block, same_epoch = same_block && cell.read.epoch == now.epoch;
    const bool same_clock = same_epoch && cell.warps == 1u << current->warp() && cell.read.clock == now.clock;
    cell.several_blocks = !same_block && cell.read.block >= block.first_of_launch;
    cell.warps = (same_epoch ? cell.warps : 0) | 1u << current->warp();
    cell.lanes = (same_clock ? cell.lanes : 0) | 1u << current->lane();
    cell.read = now;
    return;
  }
  if (!reads_happened_before_us(cell)) report_race("write after read of", address, code, cell.read);
  cell.write = now;
  cell.read = Stamp{};
  cell.several_blocks = false;
}

void touch_all(const void* pointer, size_t size, Access access, void* code) {
  if (current == nullptr || on_a_stack(pointer)) return;
  const auto* bytes = static_cast<const unsigned char*>(pointer);
  const auto offset = static_cast<size_t>(bytes - arena());
  if (offset < kArena) {
    if (find_slot(offset, size) == nullptr) {
      if (reported.insert({code, code}).second) {
        report("out of bounds: %s, %zu bytes of %s (%s)", describe(*current).c_str(), size, place(pointer).c_str(),
               source_line(code).c_str());
      }
      return;
    }
    for (size_t i = 0; i < size; ++i) touch(shared_cells[offset + i], bytes + i, true, access, code);
    return;
  }
  for (size_t i = 0; i < size; ++i) {
    const auto address = reinterpret_cast<uintptr_t>(bytes + i);
    std::unique_ptr<Page>& page = global_pages[address / kPage];
    if (!page) page = std::make_unique<Page>();
    touch((*page)[address % kPage], bytes + i, false, access, code);
  }
}
}  // namespace

void races_begin_launch() {
  global_pages.clear();
  locations.clear();
  reported.clear();
}

void races_begin_block() {
  std::memset(clocks, 0, sizeof clocks);
  for (int i = 0; i < kMaxThreads; ++i) clocks[i][i % kWarpSize] = 1;
  std::memset(fenced, 0, sizeof fenced);
  acquired.clear();
}

void races_warp_sync(int warp, unsigned mask) {
  uint32_t joined[kWarpSize] = {};
  auto* of_warp = clocks + warp * kWarpSize;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    for (int other = 0; other < kWarpSize; ++other) joined[other] = std::max(joined[other], of_warp[lane][other]);
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    std::memcpy(of_warp[lane], joined, sizeof joined);
    ++of_warp[lane][lane];
  }
}

void note_atomic(const void* address, size_t size, void* code) {
  touch_all(address, size, Access::kAtomic, code);
  Location& location = locations[address];
  if (location.count > 0) acquired.push_back({&location, location.count, current->linear, block.epoch});
  if (fenced[current->linear]) {
    location.of_block[block.serial] = {block.epoch, current->linear, location.count++};
  }
}

void fence() { fenced[current->linear] = true; }
}  // namespace emulation

// What g++ calls.
#define HOOK extern "C" __attribute__((visibility("hidden")))
#define HOOKS(SIZE)                                                                        \
  HOOK void __tsan_read##SIZE(void* p) {                                                   \
    emulation::touch_all(p, SIZE, emulation::Access::kRead, __builtin_return_address(0));  \
  }                                                                                        \
  HOOK void __tsan_write##SIZE(void* p) {                                                  \
    emulation::touch_all(p, SIZE, emulation::Access::kWrite, __builtin_return_address(0)); \
  }                                                                                        \
  HOOK void __tsan_unaligned_read##SIZE(void* p) {                                         \
    emulation::touch_all(p, SIZE, emulation::Access::kRead, __builtin_return_address(0));  \
  }                                                                                        \
  HOOK void __tsan_unaligned_write##SIZE(void* p) {                                        \
    emulation::touch_all(p, SIZE, emulation::Access::kWrite, __builtin_return_address(0)); \
  }
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16) HOOK void __tsan_read_range(void* p, size_t size) {
  emulation::touch_all(p, size, emulation::Access::kRead, __builtin_return_address(0));
}
HOOK void __tsan_write_range(void* p, size_t size) {
  emulation::touch_all(p, size, emulation::Access::kWrite, __builtin_return_address(0));
}
HOOK void __tsan_vptr_update(void**, void*) {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}
HOOK void __tsan_init() {}
