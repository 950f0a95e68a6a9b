// Sums over the rows of a segment, in an order that depends on shapes alone. The rows are cut into
// chunks, by T and C. A block walks its chunk's rows and leaves the sums of each run of one segment
// in a row of scratch of its own, number chunk + segment: both only ascend, so no two runs share
// one. A second kernel adds up each segment's rows.
#ifndef MODEL_OPS_CUDA_SUMS_CUH
#define MODEL_OPS_CUDA_SUMS_CUH

#include "base/gradient.h"
#include "model/ops/cuda/parts.cuh"

typedef struct {
    int64_t rows, count;
} Chunks;

// As many chunks as an H100 or H200 (132 multiprocessors) works on at once, with 1,024 threads each
// and at least `least` chunks. Other devices differ in speed, not in results.
enum { CHUNK_ROWS_MIN = 8 };
static inline int64_t chunks_max(int64_t C, int64_t least) {
    const int64_t threads = round_up(row_parts(C), WARP);
    return 132 * min_i64(16, max_i64(least, 1024 / max_i64(threads, 1)));
}

static inline Chunks chunks_of(int64_t T, int64_t C, int64_t least) {
    const int64_t rows = max_i64(CHUNK_ROWS_MIN, div_up(T, chunks_max(C, least)));
    const Chunks chunks = {rows, div_up(T, rows)};
    return chunks;
}

// For at most T rows: it grows with T, which the count itself does not.
static inline int64_t chunks_bound(int64_t T, int64_t C, int64_t least) {
    return min_i64(chunks_max(C, least), div_up(T, CHUNK_ROWS_MIN));
}

// A row of scratch holds whole parts.
static __host__ __device__ inline int64_t sum_ld(int64_t C) {
    return (C + REALS_16 - 1) / REALS_16 * REALS_16;
}

// Bytes of scratch, at multiples of 256: of `rows` rows of sums, of the starts of S segments.
static inline int64_t sums_bytes(int64_t rows, int64_t C) {
    return round_up(rows * sum_ld(C) * (int64_t)sizeof(float), 256);
}

static inline int64_t starts_bytes(int64_t S) {
    return round_up((S + 1) * (int64_t)sizeof(int32_t), 256);
}

static __device__ __forceinline__ void sums_store(float *row, int64_t c, int64_t C,
                                                  const float in[REALS_16]) {
    for (int i = 0; i < REALS_16 && c < C; i += 4) {
        *(float4 *)(row + c + i) = make_float4(in[i], in[i + 1], in[i + 2], in[i + 3]);
    }
}

// Notes that segments (before, now] begin at row t: all but `now` without rows.
static __device__ inline void starts_note(int32_t *start, int before, int now, int64_t t) {
    for (int s = before + 1; s <= now; s++) start[s] = (int32_t)t;
}

// To out [S, C], rows ld apart: factor [C] (NULL: 1) * the sums of the rows of each segment. start
// [S + 1]: where segments begin; NULL: S = 1, all rows.
typedef struct {
    Gradient out;
    const float *sums;
    const real *factor;
} RowSum;

// Gradients of segment rows are added up.
static inline Gradient segment_rows(float *at) {
    const Gradient g = {at, TYPE_F32, true};
    return g;
}

enum { ADD_THREADS = 256 };

// Block (x, y) owns columns 4 blockDim.x y.. of segment x, z picks the sum. Its blockDim.y groups
// of threads take turns with the segment's rows of sums; what they have is added group by group.
static __global__ void __launch_bounds__(ADD_THREADS)
    sums_add_kernel(RowSum first, RowSum second, int64_t ld, const int32_t *start, Chunks chunks,
                    int64_t C) {
    __shared__ float shared[4][ADD_THREADS];
    const RowSum a = blockIdx.z == 0 ? first : second;
    const int64_t s = blockIdx.x, groups = blockDim.y, lanes = blockDim.x;
    int64_t begin = 0, end = chunks.count;
    if (start != NULL) {
        begin = start[s] / chunks.rows;
        end = start[s + 1] > start[s] ? (start[s + 1] - 1) / chunks.rows + 1 : begin;
    }
    const int64_t c = (blockIdx.y * lanes + threadIdx.x) * 4;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (c < sum_ld(C)) {
        const float *row = a.sums + s * sum_ld(C) + c;
#pragma unroll 4
        for (int64_t i = begin + threadIdx.y; i < end; i += groups) {
            const float4 x = *(const float4 *)(row + i * sum_ld(C));
            sum[0] += x.x;
            sum[1] += x.y;
            sum[2] += x.z;
            sum[3] += x.w;
        }
    }
    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (int i = 0; i < 4; i++) shared[i][thread] = sum[i];
    __syncthreads();
    const int64_t column = blockIdx.y * lanes * 4 + thread;
    if (thread < 4 * lanes && column < C) {
        float total = 0.0f;
        for (int64_t g = 0; g < groups; g++) total += shared[thread % 4][g * lanes + thread / 4];
        const float factor = a.factor != NULL ? to_float(a.factor[column]) : 1.0f;
        gradient_put(a.out, s * ld + column, factor * total);
    }
}

// `second` may be NULL. Reads 4 bytes per column of each run, twice with `second`.
static inline void sums_add(const RowSum *first, const RowSum *second, int64_t ld,
                            const int32_t *start, Chunks chunks, int64_t S, int64_t C,
                            Stream stream) {
    // Twice as many groups as there are rows in the mean, since segments differ.
    int64_t groups = 4;
    while (groups < 32 && groups < 2 * (chunks.count + S) / S) groups *= 2;
    const int64_t lanes = ADD_THREADS / groups;
    const dim3 grid((unsigned)S, (unsigned)div_up(C, 4 * lanes), second != NULL ? 2 : 1);
    LAUNCH(sums_add_kernel, grid, dim3((unsigned)lanes, (unsigned)groups), 0, stream, *first,
           second != NULL ? *second : *first, ld, start, chunks, C);
}

#endif
