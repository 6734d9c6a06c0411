// What `detops info` asks of the CUDA runtime, read with ctypes. It answers without a GPU too: versions as CUDA counts
// them (13020 is 13.2; no driver is 0), and a device count of 0 where none can be used.
#include <cuda_runtime_api.h>

#define DETOPS_EXPORT extern "C" __attribute__((visibility("default")))

DETOPS_EXPORT int detops_cuda_runtime_version() {
  int version = 0;
  return cudaRuntimeGetVersion(&version) == cudaSuccess ? version : 0;
}

DETOPS_EXPORT int detops_cuda_driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

DETOPS_EXPORT int detops_cuda_device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) cudaGetLastError();  // not left behind for the next check of a launch
  return status == cudaSuccess ? count : 0;
}

// Separated by blanks, as in "8.0 9.0+PTX".
DETOPS_EXPORT const char* detops_cuda_architectures() { return DETOPS_CUDA_ARCHITECTURES; }
