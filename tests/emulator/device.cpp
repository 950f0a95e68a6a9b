// The device that the emulator plays, an odd, small H100; and the launch of kernels on it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>

#include "tests/emulator/emulator.h"

using Guard = std::lock_guard<std::recursive_mutex>;

namespace emulator {

enum { PROCESSORS = 3, DEVICES = 8, THREADS_PER_PROCESSOR = 2048 };

// One for the program.
struct State {
    int device;
    std::map<const void *, int64_t> dynamic_max;  // Where a kernel asked for more than 48 KiB.
};
static State &state = *new State();  // Never destroyed: other threads may outlive main.

static int number_from(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? (int)strtol(text, NULL, 10) : otherwise;
}

static int device_count() {
    return number_from("EMULATOR_DEVICES", DEVICES);
}

// As CUDA writes it; 0: none is installed.
static int driver_version() {
    return number_from("EMULATOR_DRIVER", CUDART_VERSION);
}

static cudaError_t check(const cudaLaunchConfig_t &c, const void *kernel) {
    const auto asked = state.dynamic_max.find(kernel);
    const int64_t unasked = SHARED_DEFAULT - SHARED_STATIC;
    const uint64_t dynamic = (uint64_t)(asked == state.dynamic_max.end() ? unasked : asked->second);
    const uint64_t threads = (uint64_t)c.blockDim.x * c.blockDim.y * c.blockDim.z;
    if (threads == 0 || threads > THREADS_MAX || c.blockDim.z > 64) {
        return cudaErrorInvalidConfiguration;
    }
    if (c.gridDim.x == 0 || c.gridDim.y == 0 || c.gridDim.z == 0 || c.gridDim.x > 0x7fffffffu ||
        c.gridDim.y > 65535 || c.gridDim.z > 65535) {
        return cudaErrorInvalidConfiguration;
    }
    if (c.dynamicSmemBytes > dynamic) return cudaErrorInvalidValue;
    return c.numAttrs > 0 ? cudaErrorNotSupported : cudaSuccess;
}

struct Fact {
    cudaDeviceAttr attribute;
    int value;
};

static const Fact facts[] = {{cudaDevAttrMaxThreadsPerBlock, THREADS_MAX},
                             {cudaDevAttrMaxSharedMemoryPerBlock, SHARED_DEFAULT},
                             {cudaDevAttrWarpSize, 32},
                             {cudaDevAttrMultiProcessorCount, PROCESSORS},
                             {cudaDevAttrL2CacheSize, 50 << 20},
                             {cudaDevAttrMaxThreadsPerMultiProcessor, THREADS_PER_PROCESSOR},
                             {cudaDevAttrComputeCapabilityMinor, 0},
                             {cudaDevAttrMaxSharedMemoryPerMultiprocessor, SHARED_MAX + 1024},
                             {cudaDevAttrManagedMemory, 1},
                             {cudaDevAttrPageableMemoryAccess, 0},
                             {cudaDevAttrConcurrentManagedAccess, 1},
                             {cudaDevAttrMaxSharedMemoryPerBlockOptin, SHARED_MAX}};

static int capability_major() {
    return number_from("EMULATOR_CAPABILITY", 9);
}

struct ErrorText {
    cudaError_t error;
    const char *name, *text;
};

static const ErrorText texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorStubLibrary, "cudaErrorStubLibrary", "CUDA driver is a stub library"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"}};

}  // namespace emulator

using namespace emulator;

cudaError_t emulator_launch(const cudaLaunchConfig_t &config, const void *kernel,
                            std::function<void()> thread) {
    const Guard guard(lock());
    const cudaError_t status = check(config, kernel);
    if (status != cudaSuccess) return report(status);
    enqueue(config.stream,
            [launch = Launch{config.gridDim, config.blockDim, (int64_t)config.dynamicSmemBytes,
                             kernel, std::move(thread)}] { run_kernel(launch); });
    return cudaSuccess;
}

cudaError_t emulator_set_attribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    const Guard guard(lock());
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > SHARED_MAX) return report(cudaErrorInvalidValue);
    state.dynamic_max[kernel] = value;
    return cudaSuccess;
}

cudaError_t emulator_occupancy(int *blocks, int threads, size_t dynamic_bytes) {
    if (threads < 1 || threads > THREADS_MAX || dynamic_bytes > SHARED_MAX) {
        return report(cudaErrorInvalidValue);
    }
    const int by_memory = (int)((SHARED_MAX + 1024) / (dynamic_bytes + 1024));
    *blocks = min(min(THREADS_PER_PROCESSOR / threads, by_memory), 32);
    return cudaSuccess;
}

const char *cudaGetErrorName(cudaError_t error) {
    for (const ErrorText &t : texts) {
        if (t.error == error) return t.name;
    }
    return "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t error) {
    for (const ErrorText &t : texts) {
        if (t.error == error) return t.text;
    }
    return "unknown error";
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = driver_version();
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    if (driver_version() / 1000 < CUDART_VERSION / 1000) {
        return report(cudaErrorInsufficientDriver);
    }
    *count = device_count();
    return *count > 0 ? cudaSuccess : report(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
    const Guard guard(lock());
    if (device < 0 || device >= device_count()) return report(cudaErrorInvalidDevice);
    state.device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = state.device;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned) {
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    if (device < 0 || device >= device_count()) return report(cudaErrorInvalidDevice);
    *p = {};
    size_t free = 0;
    snprintf(p->name, sizeof(p->name), "CUDA emulator");
    for (int i = 0; i < 16; i++) p->uuid.bytes[i] = (char)((device + 1) * (29 + 2 * i));
    cudaMemGetInfo(&free, &p->totalGlobalMem);
    p->sharedMemPerBlock = SHARED_DEFAULT;
    p->sharedMemPerBlockOptin = SHARED_MAX;
    p->sharedMemPerMultiprocessor = SHARED_MAX + 1024;
    p->warpSize = 32;
    p->maxThreadsPerBlock = THREADS_MAX;
    p->maxThreadsPerMultiProcessor = THREADS_PER_PROCESSOR;
    p->multiProcessorCount = PROCESSORS;
    p->major = capability_major();
    p->l2CacheSize = 50 << 20;
    p->regsPerBlock = 65536;
    p->ECCEnabled = 1;
    p->pciBusID = device + 1;
    p->managedMemory = p->concurrentManagedAccess = p->unifiedAddressing = 1;
    p->asyncEngineCount = 3;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    if (device < 0 || device >= device_count()) return report(cudaErrorInvalidDevice);
    if (attribute == cudaDevAttrComputeCapabilityMajor) {
        *value = capability_major();
        return cudaSuccess;
    }
    for (const Fact &fact : facts) {
        if (fact.attribute == attribute) {
            *value = fact.value;
            return cudaSuccess;
        }
    }
    return report(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device) {
    if (device < 0 || device >= device_count()) return report(cudaErrorInvalidDevice);
    snprintf(text, (size_t)size, "ffff:%02x:00.0", (unsigned)device + 1u);
    return cudaSuccess;
}
