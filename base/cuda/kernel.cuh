// What kernels are written with: how they start, 16-byte accesses, sums over warps and blocks.
// The same sources are compiled by nvcc and, for tests without a GPU, by g++ against
// tests/emulator/: no <<<>>>, no inline PTX without a plain twin, no return before a barrier, no
// cooperative groups, and one name for the dynamic shared array: extern __shared__ char
// dynamic_shared[].
#ifndef BASE_CUDA_KERNEL_CUH
#define BASE_CUDA_KERNEL_CUH

#include <cuda_runtime.h>
#include <stdlib.h>
#include <string.h>

#include <utility>

extern "C" {
#include "base/cuda/cuda.h"
#include "base/real.h"
}

enum { WARP = 32 };

// A block has 48 KiB of shared memory unless it asks for more. A kernel's own arrays, 8 KiB at most
// here, count; LAUNCH is told of the dynamic one alone.
enum { SHARED_UNASKED = 40 * 1024 };

// LAUNCH(kernel, grid, block, shared bytes, stream, arguments...): starts a kernel. With SYNC=1 in
// the environment it waits and names the faulty one. An empty grid starts nothing.
#define LAUNCH(kernel, grid, block, shared, stream, ...)                                  \
    launch_kernel(#kernel, __FILE__, __LINE__, kernel, dim3(grid), dim3(block), (shared), \
                  (stream), __VA_ARGS__)

template <class... P, class... A>
static void launch_kernel(const char *name, const char *file, int line, void (*kernel)(P...),
                          dim3 grid, dim3 block, int64_t shared, Stream stream, A &&...arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = (size_t)shared;
    config.stream = cuda_stream(stream);
    cudaError_t status = cudaSuccess;
    if (shared > SHARED_UNASKED) {
        status =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    }
    if (status == cudaSuccess) {
        status = cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
    }
    static const bool sync = cuda_sync();
    if (sync && status == cudaSuccess) status = cudaStreamSynchronize(config.stream);
    if (status == cudaSuccess) return;
    die_at(file, line, name, "kernel of %u x %u x %u blocks of %u x %u threads: %s", grid.x, grid.y,
           grid.z, block.x, block.y, cudaGetErrorString(status));
}

// How many reals one 16-byte access moves.
enum { REALS_16 = 16 / (int)sizeof(real) };

// Whether p may be read by 16-byte accesses, row after row of `ld` reals.
static inline bool aligned_16(const void *p, int64_t ld) {
    return (uintptr_t)p % 16 == 0 && ld % REALS_16 == 0;
}

static __device__ __forceinline__ void load_16(float out[REALS_16], const real *from) {
    const uint4 raw = *(const uint4 *)from;
    const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#ifdef REAL_BF16
    for (int i = 0; i < 4; i++) {
        out[2 * i] = bf16_to_float((uint16_t)(word[i] & 0xffffu));
        out[2 * i + 1] = bf16_to_float((uint16_t)(word[i] >> 16));
    }
#else
    for (int i = 0; i < 4; i++) {
        union {
            uint32_t bits;
            float value;
        } u;
        u.bits = word[i];
        out[i] = u.value;
    }
#endif
}

static __device__ __forceinline__ void store_16(real *to, const float in[REALS_16]) {
    uint32_t word[4];
    for (int i = 0; i < 4; i++) {
#ifdef REAL_BF16
        word[i] = (uint32_t)to_real(in[2 * i]) | (uint32_t)to_real(in[2 * i + 1]) << 16;
#else
        union {
            float value;
            uint32_t bits;
        } u;
        u.value = in[i];
        word[i] = u.bits;
#endif
    }
    *(uint4 *)to = make_uint4(word[0], word[1], word[2], word[3]);
}

// The sum over a warp's 32 lanes, on all of them, in a fixed order.
static __device__ __forceinline__ float warp_sum(float x) {
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
    return x;
}

// The sum over a block of blockDim.x threads (a multiple of 32), on all of them, in a fixed order.
// `partial` is shared memory for blockDim.x / 32 floats; it is free again when the call returns.
static __device__ __forceinline__ float block_sum(float x, float *partial) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0;
    for (unsigned w = 0; w < blockDim.x / WARP; w++) sum += partial[w];
    __syncthreads();
    return sum;
}

#endif
