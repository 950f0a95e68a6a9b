// Blocks that walk over rows, one after the other, with the next ones on their way: a thread copies
// its parts ahead into shared memory and reads them back itself, so that bytes are under way
// without registers that wait and without barriers.
#ifndef MODEL_OPS_CUDA_WALK_CUH
#define MODEL_OPS_CUDA_WALK_CUH

#include "model/ops/cuda/parts.cuh"

// Starts copying a part. What is started between two calls of fetch_end is a group.
template <bool WIDE>
static __device__ __forceinline__ void part_fetch(uint4 *to, const real *row, int64_t c,
                                                  int64_t C) {
#ifdef __CUDA_ARCH__
    if (WIDE && c < C) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         (unsigned)__cvta_generic_to_shared(to)),
                     "l"(row + c)
                     : "memory");
    }
    if (!WIDE || c >= C) *to = part_load<WIDE>(row, c, C);
#else
    *to = part_load<WIDE>(row, c, C);
#endif
}

static __device__ __forceinline__ void fetch_end(void) {
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all but the last `groups` (0 to 3) of this thread are there.
static __device__ __forceinline__ void fetch_wait(int groups) {
#ifdef __CUDA_ARCH__
    if (groups == 0) asm volatile("cp.async.wait_group 0;" ::: "memory");
    if (groups == 1) asm volatile("cp.async.wait_group 1;" ::: "memory");
    if (groups == 2) asm volatile("cp.async.wait_group 2;" ::: "memory");
    if (groups == 3) asm volatile("cp.async.wait_group 3;" ::: "memory");
#else
    (void)groups;
#endif
}

// Blocks whose threads own V parts each. Registers are bounded so that two blocks fit on a
// multiprocessor; of 512 threads with 4 parts, which only fp32 needs, one.
template <int V>
struct Walk {
    enum { THREADS_MAX = V == 2 ? 320 : 512, BLOCKS_MIN = V == 4 ? 1 : 2 };
};

enum { WALK_BLOCKS = 2 };  // To a multiprocessor at least.

static inline int walk_parts(int64_t C) {
    const int64_t parts = row_parts(C);
    return parts <= Walk<1>::THREADS_MAX ? 1 : parts <= 2 * Walk<2>::THREADS_MAX ? 2 : 4;
}

static inline int walk_threads(int64_t C) {
    return (int)round_up(div_up(row_parts(C), walk_parts(C)), WARP);
}

// Rows in shared memory at once: as many as 64 KiB hold, but two if 96 KiB do, and one in any case.
// A block has 99 KiB at most on the smallest devices (8.6, 8.9), and the largest row takes 96.
static inline int walk_rows(int64_t row_bytes) {
    const int64_t least = 2 * row_bytes <= 96 * 1024 ? 2 : 1;
    return (int)min_i64(4, max_i64(least, 64 * 1024 / row_bytes));
}

// The sums of a and b over the block, on all threads, in a fixed order. One barrier: rows take
// turns with two `sums`, and a thread writes to one again only after a barrier that all reach when
// they have read it.
enum { WARPS_MAX = 16 };
static __device__ __forceinline__ void block_sum_2(float *a, float *b, float sums[2][WARPS_MAX]) {
    const float x = warp_sum(*a), y = warp_sum(*b);
    if (threadIdx.x % WARP == 0) {
        sums[0][threadIdx.x / WARP] = x;
        sums[1][threadIdx.x / WARP] = y;
    }
    __syncthreads();
    *a = *b = 0.0f;
    for (unsigned w = 0; w < blockDim.x / WARP; w++) {
        *a += sums[0][w];
        *b += sums[1][w];
    }
}

#endif
