// Rows in parts: a part is the REALS_16 channels from c on, none of them beyond C, 16 bytes. WIDE:
// by 16-byte accesses, which need aligned rows and C to be a multiple of REALS_16.
#ifndef MODEL_OPS_CUDA_PARTS_CUH
#define MODEL_OPS_CUDA_PARTS_CUH

#include "base/cuda/kernel.cuh"

enum { CHANNELS_MAX = 8192 };

// First channel of a thread's part p. Neighbours own neighbours, so accesses are coalesced.
static __device__ __forceinline__ int64_t part_channel(int p) {
    return (int64_t)(threadIdx.x + (unsigned)p * blockDim.x) * REALS_16;
}

// Zeros beyond C. For what is read once: it leaves the caches to rows that are shared.
template <bool WIDE>
static __device__ __forceinline__ uint4 part_load(const real *row, int64_t c, int64_t C) {
    union {
        real value[REALS_16];
        uint4 raw;
    } part;
    if (!WIDE) {
        for (int i = 0; i < REALS_16; i++) part.value[i] = c + i < C ? row[c + i] : to_real(0.0f);
    } else if (c < C) {
#ifdef __CUDA_ARCH__
        part.raw = __ldcs((const uint4 *)(row + c));
#else
        part.raw = *(const uint4 *)(row + c);
#endif
    } else {
        part.raw = make_uint4(0, 0, 0, 0);
    }
    return part.raw;
}

static __device__ __forceinline__ void part_floats(float out[REALS_16], uint4 raw) {
    load_16(out, (const real *)&raw);
}

// Keeps the compiler from holding the floats of `raw` in registers until they are needed again:
// bf16 takes half as many.
static __device__ __forceinline__ void part_hold(uint4 *raw) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(raw->x), "+r"(raw->y), "+r"(raw->z), "+r"(raw->w));
#else
    (void)raw;
#endif
}

// Of a row that many blocks read: weights, modulation. NULL: `otherwise` throughout.
template <bool WIDE>
static __device__ __forceinline__ void part_read(float out[REALS_16], const real *row, int64_t c,
                                                 int64_t C, float otherwise) {
    if (WIDE && row != NULL && c < C) {
        load_16(out, row + c);
    } else {
        for (int i = 0; i < REALS_16; i++) {
            out[i] = WIDE || row == NULL || c + i >= C ? otherwise : to_float(row[c + i]);
        }
    }
}

template <bool WIDE>
static __device__ __forceinline__ void part_store(real *row, int64_t c, int64_t C,
                                                  const float in[REALS_16]) {
    if (WIDE) {
        if (c < C) store_16(row + c, in);
    } else {
        for (int i = 0; i < REALS_16; i++) {
            if (c + i < C) row[c + i] = to_real(in[i]);
        }
    }
}

static inline int64_t row_parts(int64_t C) {
    return div_up(C, REALS_16);
}

// Blocks that hold a row in registers, at most 8 parts a thread: a warp per row and four of
// them, or one row.
static inline dim3 row_block(int64_t C) {
    const unsigned threads = (unsigned)round_up(div_up(row_parts(C), 8), WARP);
    return dim3(threads, threads == WARP ? 4 : 1);
}

// A row's sum: of a warp where a row has one, else of the block.
static __device__ __forceinline__ float row_sum(float x, float *partial) {
    return blockDim.x == WARP ? warp_sum(x) : block_sum(x, partial);
}

#endif
