#include "nms_kernels.h"
#include "nms_rotated.h"

namespace detops {
template int64_t nms_scratch_bytes<RotatedNmsRule>(int64_t, int64_t);
template void nms_cuda<RotatedNmsRule>(const NmsArgs<RotatedNmsRule>&, void*, void*);
}  // namespace detops
