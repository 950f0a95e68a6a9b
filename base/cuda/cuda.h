// What C and CUDA sources of the backend share: streams as CUDA knows them, checked calls.
#ifndef BASE_CUDA_CUDA_H
#define BASE_CUDA_CUDA_H

#include <cuda_runtime.h>
#include <stdlib.h>
#include <string.h>

#include "base/device.h"
#include "base/die.h"

static inline cudaStream_t cuda_stream(Stream stream) {
    return (cudaStream_t)stream;
}

// Multiprocessors of this rank's device: how many blocks fill it.
int cuda_processors(void);

// SYNC=1 in the environment: what starts work on the device waits for it, so that a fault shows
// where it was made.
static inline bool cuda_sync(void) {
    const char *sync = getenv("SYNC");
    return sync != NULL && strcmp(sync, "1") == 0;
}

// Dies with the call and CUDA's reason.
#define CUDA_CHECK(call)                                                                 \
    do {                                                                                 \
        const cudaError_t status_ = (call);                                              \
        CHECK(status_ == cudaSuccess, "%s: %s (%s)", #call, cudaGetErrorString(status_), \
              cudaGetErrorName(status_));                                                \
    } while (0)

// 10 * major + minor of this process's device, by which libraries are chosen; that of an H100 or
// H200 where there is none: to plan a run needs no device.
static inline int cuda_capability(void) {
    int device = 0, major = 0, minor = 0;
    if (cudaGetDevice(&device) != cudaSuccess) {
        cudaGetLastError();  // Taken back.
        return 90;
    }
    CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    return 10 * major + minor;
}

#endif
