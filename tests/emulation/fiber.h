// Fibers: several stacks taking turns on one CPU thread.
#pragma once
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#include <cstddef>
#include <cstdlib>

namespace emulation {
#if defined(__x86_64__)
// Pushes the registers that a function must keep, stores the stack pointer in *from, and goes on at the stack `to`.
extern "C" void emulation_switch(void** from, void* to);

struct Context {
  void* stack_pointer = nullptr;

  void prepare(char* stack, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + size) - 2;  // aligned as after a call
    top[0] = reinterpret_cast<void*>(entry);
    top[1] = nullptr;
    for (int i = 1; i <= 6; ++i) top[-i] = nullptr;
    stack_pointer = top - 6;
  }
  static void go(Context& from, Context& to) { emulation_switch(&from.stack_pointer, to.stack_pointer); }
};
#else
struct Context {  // portable, but with two system calls per switch
  ucontext_t context;

  void prepare(char* stack, size_t size, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  static void go(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
};
#endif

// A stack that runs entry(), a function that never returns. The sanitizer is told of every change of stacks.
class Fiber {
 public:
  Fiber(char* stack, size_t size, void (*entry)()) : stack_(stack), size_(size), entry_(entry) { reset(); }

  // From the scheduler's stack: runs until the fiber calls leave().
  void enter() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack_, size_);
#endif
    Context::go(scheduler_, context_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  // From the fiber's stack: back to the scheduler, which may enter() again.
  void leave() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake_, scheduler_stack_, scheduler_size_);
#endif
    Context::go(context_, scheduler_);
    arrived(fake_);
  }

  // First thing in entry().
  static void arrived([[maybe_unused]] void* fake = nullptr) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &scheduler_stack_, &scheduler_size_);
#endif
  }

  // Drops what the fiber was doing; the next enter() starts at entry().
  void reset() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack_, size_);
    fake_ = nullptr;
#endif
    context_.prepare(stack_, size_, entry_);
  }

 private:
  char* stack_;
  size_t size_;
  void (*entry_)();
  Context context_;
  void* fake_ = nullptr;
  static inline Context scheduler_;
  static inline const void* scheduler_stack_ = nullptr;
  static inline size_t scheduler_size_ = 0;
};

// Memory for the stacks of `count` fibers, each above a page that must not be touched.
class Stacks {
 public:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kSize = 256 << 10;
#else
  static constexpr size_t kSize = 64 << 10;
#endif
  static constexpr size_t kPage = 4096;

  explicit Stacks(size_t count) : size_(count * (kSize + kPage)) {
    void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    begin_ = static_cast<char*>(memory);
    for (size_t i = 0; i < count; ++i) mprotect(begin_ + i * (kSize + kPage), kPage, PROT_NONE);
  }
  char* operator[](size_t i) const { return begin_ + i * (kSize + kPage) + kPage; }
  // Stacks of one length would have their tops in the same few sets of the cache.
  static size_t usable(size_t i) { return kSize - i % 32 * 320; }
  bool contains(const void* address) const {
    return address >= begin_ && static_cast<const char*>(address) < begin_ + size_;
  }

 private:
  char* begin_;
  size_t size_;
};
}  // namespace emulation
