#include "../core/sort_key.h"
#include "nms.h"
#include "nms_kernels.h"

namespace detops {
namespace {
constexpr int kKeysThreads = 256;

template <typename Key>
__global__ void __launch_bounds__(kKeysThreads) keys_kernel(NmsKeys a) {
  Key* keys = static_cast<Key*>(a.keys);
  DETOPS_GRID_STRIDE(i, a.images * a.size) {
    const int64_t image = a.images == 1 ? 0 : i / a.size;
    const int64_t place = a.order ? a.order[i] : i - image * a.size;
    const int64_t at = image * a.numbers.image_stride + place * a.numbers.stride;
    a.numbers.visit([&](const auto* numbers) {
      using Number = sortable_t<std::decay_t<decltype(*numbers)>>;
      const auto key = ascending_key(static_cast<Number>(numbers[at]));
      using Unsigned = std::decay_t<decltype(key)>;
      keys[i] = static_cast<Key>(to_signed(a.descending ? static_cast<Unsigned>(~key) : key));
    });
  }
}
}  // namespace

void nms_keys_cuda(const NmsKeys& args, void* stream) {
  launch("nms", args.wide ? keys_kernel<int64_t> : keys_kernel<int32_t>,
         grid_for(args.images * args.size, kKeysThreads), stream, args);
}

#define INSTANTIATE(A)                                              \
  template int64_t nms_scratch_bytes<NmsRule<A>>(int64_t, int64_t); \
  template void nms_cuda<NmsRule<A>>(const NmsArgs<NmsRule<A>>&, void*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
}  // namespace detops
