// Working space of CPU kernels.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace detops {
// Memory that no constructor runs over, aligned to a cache line.
template <typename V>
class Scratch {
 public:
  explicit Scratch(int64_t size = 0) {
    if (size <= 0) return;
    data_.reset(static_cast<V*>(std::aligned_alloc(64, (size * sizeof(V) + 63) / 64 * 64)));
    if (!data_) throw std::bad_alloc();
  }
  V* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(V* p) const { std::free(p); }
  };
  std::unique_ptr<V, Free> data_;
};
}  // namespace detops
