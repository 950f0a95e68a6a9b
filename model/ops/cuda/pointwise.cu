extern "C" {
#include "model/ops/pointwise.h"
}

#include <inttypes.h>

#include "model/ops/cuda/sums.cuh"

// ---- activations
// gelu(x) = x logistic(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3), since (1 + tanh u) / 2 =
// logistic(2 u): no cancellation for x < 0. As a power of two: t = 2 u log2(e) = x (A + B x^2).
// gelu'(x) = p + x p (1 - p) 2 u', p = logistic(2 u), where 2 x u' = (3 t - 2 A x) ln 2.
#define LOG2_E 1.44269504f
#define LOG_2 0.69314718f
#define GELU_A (2.0f * 0.79788456f * LOG2_E)
#define GELU_B (GELU_A * 0.044715f)

// 1 / (1 + 2^-t), |t| up to 120. The approximate instructions are off by 2 in the last place; the
// exact functions would take longer than memory does.
static __device__ __forceinline__ float logistic2(float t) {
#ifdef __CUDA_ARCH__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(-t));
    return __fdividef(1.0f, 1.0f + power);
#else
    return 1.0f / (1.0f + exp2f(-t));
#endif
}

// Keeps a product of 0 and infinity away. Of NaN it makes a number: callers multiply by x, too.
static __device__ __forceinline__ float limit120(float t) {
    return fminf(fmaxf(t, -120.0f), 120.0f);
}

static __device__ __forceinline__ float gelu_of(float x) {
    return x * logistic2(limit120(x * (GELU_A + GELU_B * x * x)));
}

static __device__ __forceinline__ float gelu_slope(float x) {
    const float t = limit120(x * (GELU_A + GELU_B * x * x)), p = logistic2(t);
    return p + p * (1.0f - p) * (LOG_2 * 3.0f * t - LOG_2 * 2.0f * GELU_A * x);
}

enum { THREADS = 256, GELU_PARTS = 4 };

// First element of part k of the GELU_PARTS that a thread of a block of THREADS owns.
static __device__ __forceinline__ int64_t flat_part(int k) {
    return ((blockIdx.x * (int64_t)GELU_PARTS + k) * THREADS + threadIdx.x) * REALS_16;
}

static unsigned flat_blocks(int64_t N) {
    return (unsigned)div_up(N, (int64_t)GELU_PARTS * THREADS * REALS_16);
}

// 4 bytes per element in bf16.
template <bool WIDE>
static __global__ void __launch_bounds__(THREADS)
    gelu_forward_kernel(real *out, const real *x, int64_t N) {
    uint4 raw[GELU_PARTS];
#pragma unroll
    for (int k = 0; k < GELU_PARTS; k++) raw[k] = part_load<WIDE>(x, flat_part(k), N);
#pragma unroll
    for (int k = 0; k < GELU_PARTS; k++) {
        float y[REALS_16];
        part_floats(y, raw[k]);
        for (int i = 0; i < REALS_16; i++) y[i] = gelu_of(y[i]);
        part_store<WIDE>(out, flat_part(k), N, y);
    }
}

// 6 bytes per element in bf16.
template <bool WIDE>
static __global__ void __launch_bounds__(THREADS)
    gelu_backward_kernel(real *dx, const real *dout, const real *x, int64_t N) {
    uint4 raw[GELU_PARTS], draw[GELU_PARTS];
#pragma unroll
    for (int k = 0; k < GELU_PARTS; k++) {
        raw[k] = part_load<WIDE>(x, flat_part(k), N);
        draw[k] = part_load<WIDE>(dout, flat_part(k), N);
    }
#pragma unroll
    for (int k = 0; k < GELU_PARTS; k++) {
        float y[REALS_16], d[REALS_16];
        part_floats(y, raw[k]);
        part_floats(d, draw[k]);
        for (int i = 0; i < REALS_16; i++) d[i] *= gelu_slope(y[i]);
        part_store<WIDE>(dx, flat_part(k), N, d);
    }
}

void gelu_forward(real *out, const real *x, int64_t N, Stream stream) {
    if (aligned_16(out, N) && aligned_16(x, N)) {
        LAUNCH(gelu_forward_kernel<true>, flat_blocks(N), THREADS, 0, stream, out, x, N);
    } else {
        LAUNCH(gelu_forward_kernel<false>, flat_blocks(N), THREADS, 0, stream, out, x, N);
    }
}

void gelu_backward(real *dx, const real *dout, const real *x, int64_t N, Stream stream) {
    if (aligned_16(dx, N) && aligned_16(dout, N) && aligned_16(x, N)) {
        LAUNCH(gelu_backward_kernel<true>, flat_blocks(N), THREADS, 0, stream, dx, dout, x, N);
    } else {
        LAUNCH(gelu_backward_kernel<false>, flat_blocks(N), THREADS, 0, stream, dx, dout, x, N);
    }
}

// One thread per element: rows of segments are few.
static __global__ void silu_forward_kernel(real *out, const real *x, int64_t N) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= N) return;  // No barrier follows.
    const float v = to_float(x[i]);
    out[i] = to_real(v * logistic2(limit120(v * LOG2_E)));
}

static __global__ void silu_rows_backward_kernel(float *dx, const float *dout, const real *x,
                                                 int64_t N) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= N) return;  // No barrier follows.
    const float v = to_float(x[i]), p = logistic2(limit120(v * LOG2_E));
    dx[i] += dout[i] * p * (1.0f + v * (1.0f - p));
}

void silu_forward(real *out, const real *x, int64_t N, Stream stream) {
    LAUNCH(silu_forward_kernel, (unsigned)div_up(N, THREADS), THREADS, 0, stream, out, x, N);
}

void silu_rows_backward(float *dx, const float *dout, const real *x, int64_t N, Stream stream) {
    LAUNCH(silu_rows_backward_kernel, (unsigned)div_up(N, THREADS), THREADS, 0, stream, dx, dout, x,
           N);
}

// ---- rows of two tensors
enum { ROWS = 4 };  // That a thread treats at once.

// Threads that share a row: whole rows where a block holds them.
static int row_lanes(int64_t C) {
    const int64_t parts = row_parts(C);
    return parts <= THREADS ? (int)round_up(parts, WARP) : 128;
}

static unsigned row_columns(int64_t C) {
    return (unsigned)div_up(row_parts(C), row_lanes(C));
}

// Blocks whose threads own one part of ROWS rows, blockDim.y groups of rows to a block, columns by
// blockIdx.y.
static dim3 rows_block(int64_t C) {
    const int lanes = row_lanes(C);
    return dim3((unsigned)lanes, (unsigned)max_i64(1, 128 / lanes));
}

static dim3 rows_grid(int64_t T, int64_t C) {
    return dim3((unsigned)div_up(T, ROWS * (int64_t)rows_block(C).y), row_columns(C));
}

static __device__ __forceinline__ int64_t rows_first(void) {
    return ((int64_t)blockIdx.x * blockDim.y + threadIdx.y) * ROWS;
}

// First channel of the part that a thread owns of each row.
static __device__ __forceinline__ int64_t column_channel(void) {
    return (blockIdx.y * (int64_t)blockDim.x + threadIdx.x) * REALS_16;
}

// 6 bytes per element of out in bf16.
template <bool WIDE>
static __global__ void __launch_bounds__(THREADS)
    swiglu_forward_kernel(real *out, const real *gate, const real *up, int64_t ld, int64_t T,
                          int64_t F) {
    const int64_t first = rows_first(), c = column_channel();
    uint4 raw[ROWS], uraw[ROWS];
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        const int64_t t = first + k, columns = t < T ? F : 0;  // 0: nothing is read.
        raw[k] = part_load<WIDE>(gate + t * ld, c, columns);
        uraw[k] = part_load<WIDE>(up + t * ld, c, columns);
    }
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        const int64_t t = first + k;
        if (t >= T) continue;
        float y[REALS_16], u[REALS_16];
        part_floats(y, raw[k]);
        part_floats(u, uraw[k]);
        for (int i = 0; i < REALS_16; i++) y[i] *= logistic2(limit120(y[i] * LOG2_E)) * u[i];
        part_store<WIDE>(out + t * F, c, F, y);
    }
}

// With p = sigmoid(g): (g p)' = p + g p (1 - p). Reads 6, writes 4 bytes per element in bf16.
template <bool WIDE>
static __global__ void __launch_bounds__(THREADS)
    swiglu_backward_kernel(real *dgate, real *dup, const real *dout, const real *gate,
                           const real *up, int64_t ld, int64_t T, int64_t F) {
    const int64_t first = rows_first(), c = column_channel();
    uint4 draw[ROWS], raw[ROWS], uraw[ROWS];
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        const int64_t t = first + k, columns = t < T ? F : 0;
        draw[k] = part_load<WIDE>(dout + t * F, c, columns);
        raw[k] = part_load<WIDE>(gate + t * ld, c, columns);
        uraw[k] = part_load<WIDE>(up + t * ld, c, columns);
    }
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        const int64_t t = first + k;
        if (t >= T) continue;
        float d[REALS_16], g[REALS_16], u[REALS_16];
        part_floats(d, draw[k]);
        part_floats(g, raw[k]);
        part_floats(u, uraw[k]);
        for (int i = 0; i < REALS_16; i++) {
            const float v = g[i], p = logistic2(limit120(v * LOG2_E));
            g[i] = d[i] * u[i] * p * (1.0f + v * (1.0f - p));
            u[i] = d[i] * v * p;
        }
        part_store<WIDE>(dgate + t * ld, c, F, g);
        part_store<WIDE>(dup + t * ld, c, F, u);
    }
}

void swiglu_forward(real *out, const real *gate, const real *up, int64_t ld, int64_t T, int64_t F,
                    Stream stream) {
    const dim3 grid = rows_grid(T, F), block = rows_block(F);
    if (aligned_16(out, F) && aligned_16(gate, ld) && aligned_16(up, ld)) {
        LAUNCH(swiglu_forward_kernel<true>, grid, block, 0, stream, out, gate, up, ld, T, F);
    } else {
        LAUNCH(swiglu_forward_kernel<false>, grid, block, 0, stream, out, gate, up, ld, T, F);
    }
}

void swiglu_backward(real *dgate, real *dup, const real *dout, const real *gate, const real *up,
                     int64_t ld, int64_t T, int64_t F, Stream stream) {
    const dim3 grid = rows_grid(T, F), block = rows_block(F);
    const bool wide = aligned_16(dgate, ld) && aligned_16(dup, ld) && aligned_16(dout, F) &&
                      aligned_16(gate, ld) && aligned_16(up, ld);
    if (wide) {
        LAUNCH(swiglu_backward_kernel<true>, grid, block, 0, stream, dgate, dup, dout, gate, up, ld,
               T, F);
    } else {
        LAUNCH(swiglu_backward_kernel<false>, grid, block, 0, stream, dgate, dup, dout, gate, up,
               ld, T, F);
    }
}

// ---- gated residual
// 6 bytes per element in bf16; the gate's rows come from the caches.
template <bool WIDE>
static __global__ void __launch_bounds__(THREADS)
    gate_residual_forward_kernel(real *out, const real *x, const real *h, const real *gate,
                                 int64_t ldm, const int32_t *segment, int64_t T, int64_t C) {
    const int64_t first = rows_first(), c = column_channel();
    uint4 raw[ROWS], hraw[ROWS];
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        const int64_t t = first + k, columns = t < T ? C : 0;  // 0: nothing is read.
        raw[k] = part_load<WIDE>(x + t * C, c, columns);
        hraw[k] = part_load<WIDE>(h + t * C, c, columns);
    }
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        const int64_t t = first + k;
        if (t >= T) continue;
        float y[REALS_16], z[REALS_16], g[REALS_16];
        part_floats(y, raw[k]);
        part_floats(z, hraw[k]);
        part_read<WIDE>(g, gate != NULL ? gate + segment[t] * ldm : NULL, c, C, 1.0f);
        for (int i = 0; i < REALS_16; i++) y[i] += g[i] * z[i];
        part_store<WIDE>(out + t * C, c, C, y);
    }
}

void gate_residual_forward(real *out, const real *x, const real *h, const real *gate, int64_t ldm,
                           const int32_t *segment, int64_t T, int64_t C, Stream stream) {
    const dim3 grid = rows_grid(T, C), block = rows_block(C);
    const bool wide = aligned_16(out, C) && aligned_16(x, C) && aligned_16(h, C) &&
                      aligned_16(gate, gate != NULL ? ldm : 0);
    if (wide) {
        LAUNCH(gate_residual_forward_kernel<true>, grid, block, 0, stream, out, x, h, gate, ldm,
               segment, T, C);
    } else {
        LAUNCH(gate_residual_forward_kernel<false>, grid, block, 0, stream, out, x, h, gate, ldm,
               segment, T, C);
    }
}

int64_t gate_residual_scratch(int64_t T, int64_t S, int64_t C) {
    return starts_bytes(S) + sums_bytes(chunks_bound(T, C, 1) + S, C);
}

typedef struct {
    real *dh;
    const real *dout, *h, *gate;
    int64_t ldm;
    const int32_t *segment;
    int64_t T, S, C;
    int32_t *start;
    float *sums;  // By run, of dout * h.
    Chunks chunks;
} GateBackward;

// A thread walks the rows of chunk blockIdx.x, ROWS at once; it owns one part of each, columns
// by blockIdx.y, and the sums over them. Reads 4, writes 2 bytes per element in bf16, and writes 4
// bytes per channel and run.
template <bool WIDE>
static __global__ void __launch_bounds__(THREADS, 4) gate_residual_backward_kernel(GateBackward a) {
    const int64_t c = column_channel(), C = a.C;
    const int64_t first = blockIdx.x * a.chunks.rows, last = min_i64(a.T, first + a.chunks.rows);
    const int64_t ld = sum_ld(C), chunk = blockIdx.x;
    const bool notes = threadIdx.x == 0 && blockIdx.y == 0;
    float gate[REALS_16] = {}, sum[REALS_16] = {};
    int s = first > 0 ? a.segment[first - 1] : -1;
    for (int64_t four = first; four < last; four += ROWS) {
        uint4 draw[ROWS], hraw[ROWS];
        int segment[ROWS];
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            const int64_t t = four + k, columns = t < last ? C : 0;
            draw[k] = part_load<WIDE>(a.dout + t * C, c, columns);
            hraw[k] = part_load<WIDE>(a.h + t * C, c, columns);
            segment[k] = t < last ? a.segment[t] : 0;
        }
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            const int64_t t = four + k;
            if (t >= last) continue;
            if (t == first || segment[k] != s) {
                if (t > first) sums_store(a.sums + (chunk + s) * ld, c, C, sum);
                if (notes) starts_note(a.start, s, segment[k], t);
                s = segment[k];
                part_read<WIDE>(gate, a.gate + s * a.ldm, c, C, 0.0f);
                for (int i = 0; i < REALS_16; i++) sum[i] = 0.0f;
            }
            float d[REALS_16], y[REALS_16];
            part_floats(d, draw[k]);
            part_floats(y, hraw[k]);
            for (int i = 0; i < REALS_16; i++) {
                sum[i] += d[i] * y[i];
                d[i] *= gate[i];
            }
            part_store<WIDE>(a.dh + t * C, c, C, d);
        }
    }
    sums_store(a.sums + (chunk + s) * ld, c, C, sum);
    if (notes && last == a.T) starts_note(a.start, s, (int)a.S, a.T);
}

void gate_residual_backward(real *dh, float *dgate, const real *dout, const real *h,
                            const real *gate, int64_t ldm, const int32_t *segment, int64_t T,
                            int64_t S, int64_t C, void *scratch, Stream stream) {
    if (gate == NULL) {
        device_copy(dh, dout, T * C * (int64_t)sizeof(real), stream);
        return;
    }
    CHECK(C <= CHANNELS_MAX, "%" PRId64 " channels; the gate holds at most %d", C, CHANNELS_MAX);
    if (T == 0) return;
    GateBackward a = {
        dh, dout, h, gate, ldm, segment, T, S, C, (int32_t *)scratch, NULL, chunks_of(T, C, 1)};
    a.sums = (float *)((char *)scratch + starts_bytes(S));
    const dim3 grid((unsigned)a.chunks.count, row_columns(C));
    const bool wide =
        aligned_16(dh, C) && aligned_16(dout, C) && aligned_16(h, C) && aligned_16(gate, ldm);
    if (wide) {
        LAUNCH(gate_residual_backward_kernel<true>, grid, row_lanes(C), 0, stream, a);
    } else {
        LAUNCH(gate_residual_backward_kernel<false>, grid, row_lanes(C), 0, stream, a);
    }
    const RowSum sum = {segment_rows(dgate), a.sums, NULL};
    sums_add(&sum, NULL, ldm, a.start, a.chunks, S, C, stream);
}

// ---- time
// A thread makes one cosine and sine, in double: angles reach 1,000, and there are few.
static __global__ void timestep_embedding_kernel(real *out, const float *time, float factor,
                                                 int64_t S, int64_t width) {
    const int64_t n = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, half = width / 2;
    if (n >= S * half) return;  // No barrier follows.
    const int64_t s = n / half, i = n % half;
    const double frequency = exp(-log(1e4) * (double)i / (double)half);
    const double angle = (double)time[s] * (double)factor * frequency;
    out[s * width + i] = to_real((float)cos(angle));
    out[s * width + half + i] = to_real((float)sin(angle));
}

void timestep_embedding(real *out, const float *time, float factor, int64_t S, int64_t width,
                        Stream stream) {
    const int64_t half = width / 2;
    LAUNCH(timestep_embedding_kernel, (unsigned)div_up(S * half, THREADS), THREADS, 0, stream, out,
           time, factor, S, width);
}
