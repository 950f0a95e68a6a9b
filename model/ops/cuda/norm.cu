extern "C" {
#include "model/ops/norm.h"
}

#include <inttypes.h>

#include "model/ops/cuda/sums.cuh"
#include "model/ops/cuda/walk.cuh"

static void check_channels(int64_t C) {
    CHECK(C > 0 && C <= CHANNELS_MAX, "%" PRId64 " channels; norms hold at most %d", C,
          CHANNELS_MAX);
}

// ---- forward
typedef struct {
    real *out;
    float *stats;
    const real *x, *weight, *shift, *scale;
    int64_t ldm;
    const int32_t *segment;
    float epsilon;
    int64_t T, C;
} NormForward;

// One row for blockDim.x threads, which keep it in registers, V parts each; up to 2,048 channels in
// bf16 or 1,024 in fp32 it has a warp to itself. x is read once, out written once: 4 bytes per
// element in bf16. The modulation's rows come from the caches.
template <bool WIDE, int V>
static __global__ void __launch_bounds__(256, V < 8 ? 3 : 2)
    norm_forward_kernel(NormForward a, bool centred) {
    __shared__ float partial[8];
    const int64_t t = (int64_t)blockIdx.x * blockDim.y + threadIdx.y, C = a.C;
    const bool here = t < a.T;
    const real *x = a.x + (here ? t : 0) * C;
    const int64_t row = a.scale != NULL && here ? a.segment[t] * a.ldm : 0;
    float y[REALS_16], sum = 0.0f;
    uint4 raw[V];
#pragma unroll
    for (int p = 0; p < V; p++) raw[p] = part_load<WIDE>(x, part_channel(p), C);
#pragma unroll
    for (int p = 0; p < V; p++) {
        part_floats(y, raw[p]);
        for (int i = 0; i < REALS_16; i++) sum += y[i];
    }
    const float mean = centred ? row_sum(sum, partial) / (float)C : 0.0f;
    sum = 0.0f;
#pragma unroll
    for (int p = 0; p < V; p++) {
        part_hold(&raw[p]);
        part_floats(y, raw[p]);
        for (int i = 0; i < REALS_16; i++) {
            const float d = part_channel(p) + i < C ? y[i] - mean : 0.0f;
            sum += d * d;
        }
    }
    const float inverse = 1.0f / sqrtf(row_sum(sum, partial) / (float)C + a.epsilon);
    if (here && threadIdx.x == 0) {
        a.stats[2 * t] = mean;
        a.stats[2 * t + 1] = inverse;
    }
#pragma unroll
    for (int p = 0; p < V && here; p++) {
        const int64_t c = part_channel(p);
        float weight[REALS_16], scale[REALS_16], shift[REALS_16];
        part_hold(&raw[p]);
        part_floats(y, raw[p]);
        part_read<WIDE>(weight, a.weight, c, C, 1.0f);
        part_read<WIDE>(scale, a.scale != NULL ? a.scale + row : NULL, c, C, 0.0f);
        part_read<WIDE>(shift, a.shift != NULL ? a.shift + row : NULL, c, C, 0.0f);
        for (int i = 0; i < REALS_16; i++) {
            y[i] = (y[i] - mean) * inverse * (weight[i] * (1.0f + scale[i])) + shift[i];
        }
        part_store<WIDE>(a.out + t * C, c, C, y);
    }
}

void norm_modulate_forward(real *out, float *stats, const real *x, const real *weight,
                           const real *shift, const real *scale, int64_t ldm,
                           const int32_t *segment, NormKind kind, float epsilon, int64_t T,
                           int64_t C, Stream stream) {
    check_channels(C);
    const NormForward a = {out, stats, x, weight, shift, scale, ldm, segment, epsilon, T, C};
    const bool wide = aligned_16(x, C) && aligned_16(out, C) && aligned_16(weight, C) &&
                      aligned_16(shift, ldm) && aligned_16(scale, ldm);
    const bool centred = kind == NORM_LAYER;
    const dim3 block = row_block(C);
    const int64_t parts = wide ? div_up(row_parts(C), block.x) : 8;
    const unsigned grid = (unsigned)div_up(T, block.y);
    if (!wide) {
        LAUNCH((norm_forward_kernel<false, 8>), grid, block, 0, stream, a, centred);
    } else if (parts <= 2) {
        LAUNCH((norm_forward_kernel<true, 2>), grid, block, 0, stream, a, centred);
    } else if (parts <= 5) {
        LAUNCH((norm_forward_kernel<true, 5>), grid, block, 0, stream, a, centred);
    } else if (parts <= 7) {
        LAUNCH((norm_forward_kernel<true, 7>), grid, block, 0, stream, a, centred);
    } else {
        LAUNCH((norm_forward_kernel<true, 8>), grid, block, 0, stream, a, centred);
    }
}

// ---- backward
// Where the sums wait: of dout and dout * n by run, of dout * n * (1 + scale) by chunk.
typedef struct {
    int32_t *start;
    float *shift, *product, *weight;
    Chunks chunks;
} NormSums;

int64_t norm_modulate_scratch(int64_t T, int64_t C, int64_t S) {
    const int64_t chunks = chunks_bound(T, C, WALK_BLOCKS);
    return starts_bytes(S) + 2 * sums_bytes(chunks + S, C) + sums_bytes(chunks, C);
}

static NormSums sums_lay_out(void *scratch, int64_t T, int64_t C, int64_t S) {
    NormSums sums;
    char *next = (char *)scratch;
    sums.chunks = chunks_of(T, C, WALK_BLOCKS);
    sums.start = (int32_t *)next;
    next += starts_bytes(S);
    sums.shift = (float *)next;
    next += sums_bytes(sums.chunks.count + S, C);
    sums.product = (float *)next;
    next += sums_bytes(sums.chunks.count + S, C);
    sums.weight = (float *)next;
    return sums;
}

// What a row comes with; read one row ahead.
typedef struct {
    int segment;
    float mean, inverse;
} RowFacts;

static __device__ __forceinline__ RowFacts row_facts(const NormBackward &a, int64_t t) {
    const RowFacts facts = {a.scale != NULL ? a.segment[t] : 0, a.stats[2 * t], a.stats[2 * t + 1]};
    return facts;
}

// Row t, where it is before `last`, sets out for `slot`: x, dout and, where added to, dx.
template <bool WIDE, int V>
static __device__ __forceinline__ void fetch_row(const NormBackward &a, uint4 *slot, int64_t t,
                                                 int64_t last, int64_t C) {
#pragma unroll
    for (int p = 0; p < V && t < last; p++) {
        const int64_t c = part_channel(p);
        uint4 *to = slot + p * blockDim.x + threadIdx.x;
        part_fetch<WIDE>(to, a.x + t * C, c, C);
        part_fetch<WIDE>(to + V * blockDim.x, a.dout + t * C, c, C);
        if (a.add_dx) part_fetch<WIDE>(to + 2 * V * blockDim.x, a.dx + t * C, c, C);
    }
    fetch_end();
}

// A run's sums go to scratch; those for the weight are the chunk's, of all its runs.
template <bool WIDE>
static __device__ __forceinline__ void end_run(const NormBackward &a, const NormSums &sums, int s,
                                               bool first_run, const float shift[REALS_16],
                                               const float product[REALS_16], int64_t c,
                                               int64_t C) {
    const int64_t ld = sum_ld(C), chunk = blockIdx.x;
    if (a.scale != NULL) {
        sums_store(sums.shift + (chunk + s) * ld, c, C, shift);
        sums_store(sums.product + (chunk + s) * ld, c, C, product);
    }
    if (a.weight == NULL || c >= C) return;
    float scale[REALS_16], weight[REALS_16];
    part_read<WIDE>(scale, a.scale != NULL ? a.scale + s * a.ldm : NULL, c, C, 0.0f);
    for (int i = 0; i < REALS_16; i++) {
        weight[i] = product[i] * (1.0f + scale[i]);
        if (!first_run) weight[i] += sums.weight[chunk * ld + c + i];
    }
    sums_store(sums.weight + chunk * ld, c, C, weight);
}

// A block walks the rows of chunk blockIdx.x; a thread owns V parts of each and the sums over them.
// With g = dout * factor, the gradient of n: dx = inverse (g - mean(g) - n mean(g n)), where the
// layer norm alone subtracts mean(g). Reads 4, writes 2 bytes per element in bf16 (reads 6 where
// dx is added to), and 8 bytes per channel and run.
template <bool WIDE, int V>
static __global__ void __launch_bounds__(Walk<V>::THREADS_MAX, Walk<V>::BLOCKS_MIN)
    norm_backward_kernel(NormBackward a, NormSums sums, bool centred, int rows, int64_t T,
                         int64_t C) {
    extern __shared__ char dynamic_shared[];
    __shared__ float row_sums[2][2][WARPS_MAX];
    const int row_uint4 = (a.add_dx ? 3 : 2) * V * (int)blockDim.x;
    uint4 *slots = (uint4 *)dynamic_shared;
    const int64_t first = blockIdx.x * sums.chunks.rows;
    const int64_t last = min_i64(T, first + sums.chunks.rows);
    for (int r = 0; r < rows; r++) {
        fetch_row<WIDE, V>(a, slots + r * row_uint4, first + r, last, C);
    }
    int slot = 0;
    float factor[V][REALS_16] = {}, shift[V][REALS_16] = {}, product[V][REALS_16] = {};
    RowFacts next = row_facts(a, first);
    int s = a.scale != NULL && first > 0 ? a.segment[first - 1] : -1;
    bool first_run = true;
    for (int64_t t = first; t < last; t++) {
        const RowFacts row = next;
        if (t + 1 < last) next = row_facts(a, t + 1);
        if (t == first || row.segment != s) {
#pragma unroll
            for (int p = 0; p < V; p++) {
                const int64_t c = part_channel(p);
                if (t > first) {
                    end_run<WIDE>(a, sums, s, first_run, shift[p], product[p], c, C);
                }
                float scale[REALS_16];
                part_read<WIDE>(factor[p], a.weight, c, C, 1.0f);
                part_read<WIDE>(scale, a.scale != NULL ? a.scale + row.segment * a.ldm : NULL, c, C,
                                0.0f);
                for (int i = 0; i < REALS_16; i++) {
                    factor[p][i] *= 1.0f + scale[i];
                    shift[p][i] = product[p][i] = 0.0f;
                }
            }
            if (threadIdx.x == 0 && a.scale != NULL) starts_note(sums.start, s, row.segment, t);
            first_run = t == first;
            s = row.segment;
        }
        const uint4 *mine = slots + slot * row_uint4 + threadIdx.x;
        fetch_wait(rows - 1);
        float d[REALS_16], n[REALS_16], old[REALS_16], g = 0.0f, gn = 0.0f;
#pragma unroll
        for (int p = 0; p < V; p++) {
            part_floats(n, mine[p * blockDim.x]);
            part_floats(d, mine[(V + p) * blockDim.x]);
            for (int i = 0; i < REALS_16; i++) {
                n[i] = (n[i] - row.mean) * row.inverse;
                shift[p][i] += d[i];
                product[p][i] += d[i] * n[i];
                g += d[i] * factor[p][i];
                gn += d[i] * factor[p][i] * n[i];
            }
        }
        block_sum_2(&g, &gn, row_sums[(t - first) % 2]);
        const float mean_g = centred ? g / (float)C : 0.0f, mean_gn = gn / (float)C;
#pragma unroll
        for (int p = 0; p < V; p++) {
            part_floats(n, mine[p * blockDim.x]);
            part_floats(d, mine[(V + p) * blockDim.x]);
            if (a.add_dx) part_floats(old, mine[(2 * V + p) * blockDim.x]);
            for (int i = 0; i < REALS_16; i++) {
                n[i] = (n[i] - row.mean) * row.inverse;
                d[i] = row.inverse * (d[i] * factor[p][i] - mean_g - n[i] * mean_gn);
                if (a.add_dx) d[i] += old[i];
            }
            part_store<WIDE>(a.dx + t * C, part_channel(p), C, d);
        }
        fetch_row<WIDE, V>(a, slots + slot * row_uint4, t + rows, last, C);
        slot = slot + 1 < rows ? slot + 1 : 0;
    }
#pragma unroll
    for (int p = 0; p < V; p++) {
        end_run<WIDE>(a, sums, s, first_run, shift[p], product[p], part_channel(p), C);
    }
    if (threadIdx.x == 0 && a.scale != NULL && last == T) {
        starts_note(sums.start, s, (int)a.S, T);
    }
}

// All rows: dx, and the sums of the chunks.
static void backward_rows(const NormBackward &a, const NormSums &sums, bool centred, int64_t T,
                          int64_t C, Stream stream) {
    const bool wide = aligned_16(a.x, C) && aligned_16(a.dout, C) && aligned_16(a.dx, C) &&
                      aligned_16(a.weight, C) && aligned_16(a.scale, a.ldm);
    const int threads = walk_threads(C), parts = wide ? walk_parts(C) : 4;
    const int64_t row = (int64_t)sizeof(uint4) * (a.add_dx ? 3 : 2) * parts * threads;
    const int rows = walk_rows(row);
    const unsigned grid = (unsigned)sums.chunks.count;
    if (!wide) {
        LAUNCH((norm_backward_kernel<false, 4>), grid, threads, rows * row, stream, a, sums,
               centred, rows, T, C);
    } else if (parts == 1) {
        LAUNCH((norm_backward_kernel<true, 1>), grid, threads, rows * row, stream, a, sums, centred,
               rows, T, C);
    } else if (parts == 2) {
        LAUNCH((norm_backward_kernel<true, 2>), grid, threads, rows * row, stream, a, sums, centred,
               rows, T, C);
    } else {
        LAUNCH((norm_backward_kernel<true, 4>), grid, threads, rows * row, stream, a, sums, centred,
               rows, T, C);
    }
}

void norm_modulate_backward(const NormBackward *arguments, NormKind kind, int64_t T, int64_t C,
                            Stream stream) {
    check_channels(C);
    const NormBackward a = *arguments;
    const NormSums sums = sums_lay_out(a.scratch, T, C, a.S);
    if (T > 0) backward_rows(a, sums, kind == NORM_LAYER, T, C, stream);
    if (T > 0 && a.scale != NULL) {
        const RowSum shift = {segment_rows(a.dshift), sums.shift, NULL},
                     scale = {segment_rows(a.dscale), sums.product, a.weight};
        sums_add(&shift, &scale, a.ldm, sums.start, sums.chunks, a.S, C, stream);
    }
    if (a.weight != NULL) {
        const RowSum weight = {a.dweight, sums.weight, NULL};
        sums_add(&weight, NULL, C, NULL, sums.chunks, 1, C, stream);
    }
}
