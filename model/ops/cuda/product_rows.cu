#include "base/cuda/kernel.cuh"

extern "C" {
#include "model/ops/cuda/product_rows.h"
}

// Rows are cut into at most 256 chunks of at least 64. A block sums one chunk of 32 V columns: each
// of its 8 warps takes every eighth row, a lane V columns; x is read once, by 16 bytes. A second
// kernel adds the chunks' sums.
enum { CHUNKS_MAX = 256, CHUNK_MIN = 64, SLICES = 8, AHEAD = 8, PARTS = 32 };

static int64_t chunk_rows(int64_t T) {
    return round_up(max_i64(div_up(T, CHUNKS_MAX), CHUNK_MIN), SLICES);
}

static int64_t chunk_count(int64_t T) {
    return div_up(T, chunk_rows(T));
}

int64_t column_sums_partials(int64_t T, int64_t N) {
    return min_i64(CHUNKS_MAX, div_up(T, CHUNK_MIN)) * N;  // Grows with T, as the count does not.
}

template <int V>
static __device__ __forceinline__ void load_columns(float out[V], const real *from) {
    if (V == 1) {
        out[0] = to_float(from[0]);
    } else {
        load_16(out, from);
    }
}

// Grid (blocks of columns, chunks), block (32, SLICES). partial [chunks, N].
template <int V>
static __global__ void chunk_sums_kernel(float *__restrict__ partial, const real *__restrict__ x,
                                         int64_t ld, int64_t T, int64_t N, int64_t rows) {
    __shared__ float slice[SLICES][WARP * V];
    const int64_t first = (int64_t)blockIdx.x * WARP * V, mine = first + threadIdx.x * V;
    const int64_t begin = (int64_t)blockIdx.y * rows, end = min_i64(begin + rows, T);
    float sum[V] = {};
    if (mine < N) {
        int64_t t = begin + threadIdx.y;
        for (; t + (AHEAD - 1) * SLICES < end; t += AHEAD * SLICES) {
            float value[AHEAD][V];
            for (int i = 0; i < AHEAD; i++) {
                load_columns<V>(value[i], x + (t + i * SLICES) * ld + mine);
            }
            for (int i = 0; i < AHEAD; i++) {
                for (int j = 0; j < V; j++) sum[j] += value[i][j];
            }
        }
        for (; t < end; t += SLICES) {
            float value[V];
            load_columns<V>(value, x + t * ld + mine);
            for (int j = 0; j < V; j++) sum[j] += value[j];
        }
    }
    for (int j = 0; j < V; j++) slice[threadIdx.y][threadIdx.x * V + j] = sum[j];
    __syncthreads();
    for (int c = threadIdx.y * WARP + threadIdx.x; c < WARP * V; c += SLICES * WARP) {
        if (first + c >= N) continue;
        float whole = 0;
        for (int i = 0; i < SLICES; i++) whole += slice[i][c];
        partial[blockIdx.y * N + first + c] = whole;
    }
}

// Block (32 columns, PARTS): a thread adds every PARTS-th chunk of a column, then one thread the
// parts.
static __global__ void add_chunks_kernel(Gradient db, const float *partial, int64_t chunks,
                                         int64_t N) {
    __shared__ float part[PARTS][WARP + 1];
    const int64_t c = (int64_t)blockIdx.x * WARP + threadIdx.x;
    float sum = 0;
    if (c < N) {
        for (int64_t i = threadIdx.y; i < chunks; i += PARTS) sum += partial[i * N + c];
    }
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= N) return;
    float whole = 0;
    for (int i = 0; i < PARTS; i++) whole += part[i][threadIdx.x];
    gradient_put(db, c, whole);
}

void column_sums(Gradient db, float *partial, const real *x, int64_t ld, int64_t T, int64_t N,
                 Stream stream) {
    const int64_t rows = chunk_rows(T), chunks = chunk_count(T);
    const bool wide = aligned_16(x, ld) && N % REALS_16 == 0;
    const int64_t columns = WARP * (wide ? REALS_16 : 1);
    if (T > 0) {
        LAUNCH(wide ? chunk_sums_kernel<REALS_16> : chunk_sums_kernel<1>,
               dim3((unsigned)div_up(N, columns), (unsigned)chunks), dim3(WARP, SLICES), 0, stream,
               partial, x, ld, T, N, rows);
    }
    LAUNCH(add_chunks_kernel, (unsigned)div_up(N, WARP), dim3(WARP, PARTS), 0, stream, db, partial,
           chunks, N);
}

// A thread per column walks the rows, few as they are.
static __global__ void rows_round_kernel(real *__restrict__ out, Gradient db,
                                         const float *__restrict__ x, int64_t S, int64_t N) {
    const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= N) return;
    float sum = 0;
    for (int64_t s = 0; s < S; s += AHEAD) {
        float value[AHEAD];
        for (int i = 0; i < AHEAD; i++) value[i] = s + i < S ? x[(s + i) * N + c] : 0;
        for (int i = 0; i < AHEAD; i++) {
            if (s + i < S) out[(s + i) * N + c] = to_real(value[i]);
            sum += value[i];
        }
    }
    if (db.at != NULL) gradient_put(db, c, sum);
}

void rows_round(real *out, Gradient db, const float *x, int64_t S, int64_t N, Stream stream) {
    enum { THREADS = 64 };
    LAUNCH(rows_round_kernel, (unsigned)div_up(N, THREADS), THREADS, 0, stream, out, db, x, S, N);
}
