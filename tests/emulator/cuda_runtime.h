// Stand-in for the CUDA runtime: gcc and g++ compile the sources of the CUDA backend with it, and
// they run on a CPU. What differs from a device makes faults show:
// - What is queued on streams runs in a random order that streams and events allow, late: when the
//   host waits, and now and then before. A missing event or wait shows as wrong data.
// - A block's threads run one after the other to their next barrier, upwards or downwards, so do
//   blocks. All shared memory starts as NaN in every block, device memory as NaN.
// - Copies into shared memory beside their thread come at once or when it waits, as drawn.
// - Threads that wait at different barriers, or left before one, end the program with a message,
//   so do shuffles with a wrong mask, and a host that touches memory from cudaMalloc.
// - The address sanitizer sees what is outside of an allocation or of dynamic shared memory.
// - Copies from pageable memory take a snapshot at the call; those from pinned memory read late.
//   Streams beside the default one (0) have to be cudaStreamNonBlocking.
// - Floating-point atomics, blocking streams, cooperative groups, textures are not there.
// Environment: EMULATOR_ORDER=up|down|random (random; of threads and blocks), EMULATOR_SEED=N (1),
// EMULATOR_DEVICES=N (8) per node, EMULATOR_DRIVER=VERSION (that of the runtime; 0: none),
// EMULATOR_CAPABILITY=MAJOR (9), EMULATOR_NCCL_FAULT=FILE (communicators report a fault of the
// network once it is there). One process runs the same with the same seed; several do up to the
// time at which messages arrive. A program that fails prints its seed.
// All thread-local variables of the program (not of its libraries) are taken for shared memory.
//
// A library's stand-in puts its work into a stream by emulator_enqueue(stream, run, context) in C,
// in C++ by emulator::enqueue(stream, closure) of tests/emulator/emulator.h. Memory of the device
// may be touched inside of it alone; what the host gave (scalars, descriptors) is copied before.
#ifndef TESTS_EMULATOR_CUDA_RUNTIME_H
#define TESTS_EMULATOR_CUDA_RUNTIME_H

#include "tests/emulator/cuda_runtime_api.h"

#ifdef __cplusplus
#include <functional>

#include "tests/emulator/device_functions.h"
#include "tests/emulator/device_math.h"
#include "tests/emulator/tensor_functions.h"

cudaError_t emulator_launch(const cudaLaunchConfig_t &config, const void *kernel,
                            std::function<void()> thread);
cudaError_t emulator_set_attribute(const void *kernel, cudaFuncAttribute attribute, int value);

template <class... P, class... A>
static cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...),
                                      A &&...arguments) {
    return emulator_launch(*config, (const void *)kernel,
                           [=] { kernel(static_cast<P>(arguments)...); });
}

template <class T>
static cudaError_t cudaFuncSetAttribute(T *kernel, cudaFuncAttribute attribute, int value) {
    return emulator_set_attribute((const void *)kernel, attribute, value);
}

template <class T>
static cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, T, int threads,
                                                                 size_t dynamic_bytes) {
    return emulator_occupancy(blocks, threads, dynamic_bytes);
}

template <class T>
static cudaError_t cudaMalloc(T **memory, size_t bytes) {
    return cudaMalloc((void **)memory, bytes);
}

template <class T>
static cudaError_t cudaMallocManaged(T **memory, size_t bytes,
                                     unsigned flags = cudaMemAttachGlobal) {
    return cudaMallocManaged((void **)memory, bytes, flags);
}

template <class T>
static cudaError_t cudaMallocHost(T **memory, size_t bytes) {
    return cudaMallocHost((void **)memory, bytes);
}

template <class T>
static cudaError_t cudaHostAlloc(T **memory, size_t bytes, unsigned flags) {
    return cudaHostAlloc((void **)memory, bytes, flags);
}
#endif

#endif
