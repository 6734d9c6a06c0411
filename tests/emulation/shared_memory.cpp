// Shared memory: an arena in which every variable of the block has a place apart from the others.
#include <vector>

#include "emulator.h"

namespace detops {
alignas(1024) unsigned char dynamic_shared_memory[emulation::kArena];
}

namespace emulation {
namespace {
constexpr size_t kGap = 64;
constexpr int kUninitialised = 0xff, kGuard = 0xa5;  // a float of 0xff bytes is NaN
std::vector<Slot> slots;
size_t arena_used;

void set_accessible([[maybe_unused]] const void* begin, [[maybe_unused]] size_t size,
                    [[maybe_unused]] bool accessible) {
#if defined(__SANITIZE_ADDRESS__)
  accessible ? __asan_unpoison_memory_region(begin, size) : __asan_poison_memory_region(begin, size);
#endif
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

void begin_shared(size_t dynamic_bytes) {
  slots.clear();
  arena_used = 0;
  set_accessible(arena(), kArena, true);
  std::memset(arena(), kGuard, kArena);
  set_accessible(arena(), kArena, false);
  add_slot(nullptr, "dynamic memory", dynamic_bytes, 16);
}

void forget_shared() {
  for (const Slot& slot : slots) std::memset(arena() + slot.offset, kUninitialised, slot.size);
}

void check_shared() {
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

void* shared(const void* key, const char* name, size_t size, size_t alignment) {
  size_t total = size;
  for (const Slot& slot : slots) {
    if (slot.key == key) return arena() + slot.offset;
    total += slot.size;
  }
  if (total - slots.front().size > kVariablesLimit) fail("shared memory: more than 48 KiB of variables with %s", name);
  if (total > kSharedLimit) fail("shared memory: more than 227 KiB with %s", name);
  return arena() + add_slot(key, name, size, alignment).offset;
}
}  // namespace emulation
