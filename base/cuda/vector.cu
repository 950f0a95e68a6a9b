// Element-wise work on flat buffers (vector.h), bound by memory: a thread moves 16 bytes and more
// at a time where the pointers allow it. The bits are those of base/cpu/vector.c.
#include <math.h>

#include "base/cuda/kernel.cuh"

extern "C" {
#include "base/adamw.h"
#include "base/exact.h"
#include "base/vector.h"
}

enum {
    THREADS = 256,
    BLOCKS_PER_PROCESSOR = 16,
    BANDS = 64,        // Of one launch.
    COPY_UNROLL = 4,   // Loads of a thread in flight.
    SUM_BLOCK = 1024,  // Elements of one double in the sum of squares.
    SUM_LANES = 16,    // Partial sums of a block: threads that add it.
    SUM_UNROLL = 8,    // Loads of a thread in flight.
};

// Blocks for `work` threads: no more than run at once a few times over.
static unsigned grid_for(int64_t work) {
    const int64_t most = (int64_t)cuda_processors() * BLOCKS_PER_PROCESSOR;
    return (unsigned)min_i64(div_up(work, THREADS), most);
}

static bool all_aligned_16(const void *a, const void *b) {
    return ((uintptr_t)a | (uintptr_t)b) % 16 == 0;
}

// ---- element by element
// A kernel runs an Op on U groups of N elements, `step` groups apart: all loads, then all stores. N
// is 1, or GROUP where all pointers are aligned: 16 bytes of float and 8 of bf16, so that the
// threads of a warp leave nothing out of what they touch.
enum { GROUP = 4 };

template <class Op>
static __global__ void __launch_bounds__(THREADS)
    each_kernel(const __grid_constant__ Op op, int64_t count, bool aligned) {
    const int64_t first = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t step = (int64_t)gridDim.x * THREADS;
    const int64_t groups = aligned ? count / GROUP : 0;
    int64_t i = first;
    if constexpr (Op::UNROLL > 1) {
        for (; i + (Op::UNROLL - 1) * step < groups; i += Op::UNROLL * step) {
            op.template run<GROUP, Op::UNROLL>(i, step);
        }
    }
    for (; i < groups; i += step) op.template run<GROUP, 1>(i, step);
    for (i = groups * GROUP + first; i < count; i += step) op.template run<1, 1>(i, step);
}

template <class Op>
static void each(Op op, int64_t count, bool aligned, Stream stream) {
    const int64_t work = aligned ? div_up(count, GROUP * Op::UNROLL) : count;
    LAUNCH(each_kernel<Op>, grid_for(work), THREADS, 0, stream, op, count, aligned);
}

// One element, or GROUP of them at a multiple of as many.
template <int N>
static __device__ __forceinline__ void load(float out[N], const float *x) {
    if constexpr (N == 1) {
        out[0] = x[0];
    } else {
        const float4 v = *(const float4 *)x;
        out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
    }
}

template <int N>
static __device__ __forceinline__ void store(float *x, const float in[N]) {
    if constexpr (N == 1) {
        x[0] = in[0];
    } else {
        *(float4 *)x = make_float4(in[0], in[1], in[2], in[3]);
    }
}

template <int N>
static __device__ __forceinline__ void load(float out[N], const uint16_t *x) {
    if constexpr (N == 1) {
        out[0] = bf16_to_float(x[0]);
    } else {
        const uint2 v = *(const uint2 *)x;
        const uint32_t word[2] = {v.x, v.y};
        for (int k = 0; k < 2; k++) {
            out[2 * k] = bf16_to_float((uint16_t)(word[k] & 0xffffu));
            out[2 * k + 1] = bf16_to_float((uint16_t)(word[k] >> 16));
        }
    }
}

template <int N>
static __device__ __forceinline__ void store(uint16_t *x, const float in[N]) {
    if constexpr (N == 1) {
        x[0] = float_to_bf16(in[0]);
    } else {
        uint32_t word[2];
        for (int k = 0; k < 2; k++) {
            word[k] = (uint32_t)float_to_bf16(in[2 * k]) | (uint32_t)float_to_bf16(in[2 * k + 1])
                                                               << 16;
        }
        *(uint2 *)x = make_uint2(word[0], word[1]);
    }
}

template <class Out, class In>
struct Cast {
    enum { UNROLL = 4 };
    Out *out;
    const In *in;
    template <int N, int U>
    __device__ void run(int64_t i, int64_t step) const {
        float x[U][N];
        for (int u = 0; u < U; u++) load<N>(x[u], in + (i + u * step) * N);
        for (int u = 0; u < U; u++) store<N>(out + (i + u * step) * N, x[u]);
    }
};

template <class In>
struct Add {
    enum { UNROLL = 4 };
    float *sum;
    const In *in;
    template <int N, int U>
    __device__ void run(int64_t i, int64_t step) const {
        float s[U][N], x[U][N];
        for (int u = 0; u < U; u++) {
            load<N>(s[u], sum + (i + u * step) * N);
            load<N>(x[u], in + (i + u * step) * N);
        }
        for (int u = 0; u < U; u++) {
            for (int j = 0; j < N; j++) s[u][j] += x[u][j];
            store<N>(sum + (i + u * step) * N, s[u]);
        }
    }
};

struct Update {
    enum { UNROLL = 1, EDGES = 64 };  // Five loads are enough.
    AdamWState x;
    const float *g;
    AdamW adamw;
    int64_t edge[EDGES];
    int edges;

    // Edges up to i: an odd number begins what decays. The same for the groups of nearly all warps.
    __device__ bool decays(int64_t i) const {
        int low = 0, high = edges;
        while (low < high) {
            const int middle = (low + high) / 2;
            if (edge[middle] <= i) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return low % 2 == 1;
    }

    template <int N, int U>
    __device__ void run(int64_t group, int64_t) const {
        const int64_t i = group * N;
        float w[N], m[N], v[N], ema[N], gradient[N];
        load<N>(w, x.w + i);
        load<N>(m, x.m + i);
        load<N>(v, x.v + i);
        load<N>(ema, x.ema + i);
        load<N>(gradient, g + i);
        AdamW a = adamw;
        if (!decays(i)) a.decay = 0.0f;
        for (int j = 0; j < N; j++) adamw_element(&w[j], &m[j], &v[j], &ema[j], gradient[j], &a);
        store<N>(x.w + i, w);
        store<N>(x.m + i, m);
        store<N>(x.v + i, v);
        store<N>(x.ema + i, ema);
        if (x.rounded != NULL) store<N>(x.rounded + i, w);
    }
};

void vector_round(void *out, Type type, const float *x, int64_t count, Stream stream) {
    if (type == TYPE_F32) {
        device_copy(out, x, count * 4, stream);
        return;
    }
    const Cast<uint16_t, float> cast = {(uint16_t *)out, x};
    each(cast, count, all_aligned_16(out, x), stream);
}

void vector_widen(float *out, const void *x, Type type, int64_t count, Stream stream) {
    if (type == TYPE_F32) {
        device_copy(out, x, count * 4, stream);
        return;
    }
    const Cast<float, uint16_t> cast = {out, (const uint16_t *)x};
    each(cast, count, all_aligned_16(out, x), stream);
}

void vector_add(float *sum, const void *x, Type type, int64_t count, Stream stream) {
    if (type == TYPE_F32) {
        const Add<float> add = {sum, (const float *)x};
        each(add, count, all_aligned_16(sum, x), stream);
    } else {
        const Add<uint16_t> add = {sum, (const uint16_t *)x};
        each(add, count, all_aligned_16(sum, x), stream);
    }
}

// As many edges as a launch takes: from the first of them, or from 0, to the one behind them.
static void update(const AdamWState *x, const float *g, int64_t begin, int64_t end,
                   const int64_t *edges, int edge_count, const AdamW *adamw, Stream stream) {
    Update op = {};
    op.x = {x->w + begin, x->m + begin, x->v + begin, x->ema + begin,
            x->rounded == NULL ? NULL : x->rounded + begin};
    op.g = g + begin;
    op.adamw = *adamw;
    op.edges = edge_count;
    int64_t unaligned = 0;
    for (int i = 0; i < edge_count; i++) {
        op.edge[i] = edges[i] - begin;
        unaligned |= op.edge[i] % GROUP;
    }
    each(op, end - begin,
         unaligned == 0 && all_aligned_16(op.x.w, op.x.m) && all_aligned_16(op.x.v, op.x.ema) &&
             all_aligned_16(op.g, op.x.rounded),
         stream);
}

void vector_adamw(const AdamWState *state, const float *g, int64_t count, const int64_t *edges,
                  int edge_count, const AdamW *adamw, Stream stream) {
    CHECK(adamw->correction1 > 0.0f && adamw->correction2 > 0.0f, "bias corrections %g, %g",
          (double)adamw->correction1, (double)adamw->correction2);
    static_assert(Update::EDGES % 2 == 0, "a launch begins with what does not decay");
    int first = 0;
    do {
        const int next = first + (int)min_i64(Update::EDGES, edge_count - first);
        update(state, g, first == 0 ? 0 : edges[first], next == edge_count ? count : edges[next],
               edges + first, next - first, adamw, stream);
        first = next;
    } while (first < edge_count);
}

// ---- ordered sums
// The top of the stack is in registers, what lies below it in shared memory, a thread's own places;
// what was there before stays in memory until it is merged. Reads every vector once and writes
// every sum once. A launch takes as many vectors as find room; a tree over 32 of them does.
enum { SUMS_VECTORS = 32, SUMS_HELD = 6, SUMS_AHEAD = 8, SUMS_LEVEL = THREADS * GROUP };

typedef struct {
    float *sum[VECTOR_SUMS];
    const void *x;
    int64_t stride, count;
    int n, depth;
    bool aligned;
    uint8_t merges[SUMS_VECTORS];
} Sums;

// Of N elements from i on; mine[level * SUMS_LEVEL] are this thread's.
template <class In, int N>
static __device__ __forceinline__ void sum_stack(const Sums *s, float *mine, int64_t i) {
    float top[N] = {};
    int held = 0, depth = s->depth;
    for (int first = 0; first < s->n; first += SUMS_AHEAD) {
        float x[SUMS_AHEAD][N];
#pragma unroll
        for (int k = 0; k < SUMS_AHEAD; k++) {
            if (first + k < s->n) load<N>(x[k], (const In *)s->x + (first + k) * s->stride + i);
        }
#pragma unroll
        for (int k = 0; k < SUMS_AHEAD; k++) {
            if (first + k >= s->n) break;
            if (held > 0) store<N>(mine + (held - 1) * SUMS_LEVEL, top);
            for (int j = 0; j < N; j++) top[j] = x[k][j];
            held++;
#pragma unroll 1
            for (int m = s->merges[first + k]; m > 0; m--) {
                float lower[N];
                if (held > 1) {
                    load<N>(lower, mine + (--held - 1) * SUMS_LEVEL);
                } else {
                    load<N>(lower, s->sum[--depth] + i);
                }
                for (int j = 0; j < N; j++) top[j] += lower[j];
            }
        }
    }
    for (int level = 0; level < held - 1; level++) {
        float sum[N];
        load<N>(sum, mine + level * SUMS_LEVEL);
        store<N>(s->sum[depth + level] + i, sum);
    }
    store<N>(s->sum[depth + held - 1] + i, top);
}

template <class In>
static __global__ void __launch_bounds__(THREADS)
    sum_stack_kernel(const __grid_constant__ Sums sums) {
    static __shared__ __align__(16) float held[(SUMS_HELD - 1) * SUMS_LEVEL];
    float *const mine = held + threadIdx.x * GROUP;
    const int64_t first = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t step = (int64_t)gridDim.x * THREADS;
    const int64_t groups = sums.aligned ? sums.count / GROUP : 0;
    for (int64_t i = first; i < groups; i += step) sum_stack<In, GROUP>(&sums, mine, i * GROUP);
    for (int64_t i = groups * GROUP + first; i < sums.count; i += step) {
        sum_stack<In, 1>(&sums, mine, i);
    }
}

int vector_sum_stack(float *const *sum, int depth, const Vectors *v, const uint8_t *merges,
                     int64_t count, Stream stream) {
    for (int first = 0, next = 0; first < v->n; first = next) {
        Sums s = {};
        s.x = (const char *)v->x + first * v->stride * type_size(v->type);
        s.stride = v->stride, s.count = count;
        s.depth = depth;
        int held = 0, low = depth;  // Of the launch's own sums; of those before it that stay.
        for (; next < v->n && s.n < SUMS_VECTORS && held < SUMS_HELD; next++) {
            held++;
            for (int m = merges[next]; m > 0; m--) {
                if (held > 1) {
                    held--;
                } else {
                    low--;
                }
            }
            s.merges[s.n++] = merges[next];
            depth = low + held;
            CHECK(low >= 0 && depth <= VECTOR_SUMS, "%d sums behind vector %d", depth, next);
        }
        s.aligned = all_aligned_16(s.x, (const void *)(v->stride * type_size(v->type)));
        for (int i = low; i < s.depth || i < depth; i++) {
            s.sum[i] = sum[i];
            s.aligned = s.aligned && all_aligned_16(sum[i], NULL);
        }
        const unsigned grid = grid_for(s.aligned ? div_up(count, GROUP) : count);
        if (v->type == TYPE_F32) {
            LAUNCH(sum_stack_kernel<float>, grid, THREADS, 0, stream, s);
        } else {
            LAUNCH(sum_stack_kernel<uint16_t>, grid, THREADS, 0, stream, s);
        }
    }
    return depth;
}

// ---- bands
typedef struct {
    char *out;
    const char *in;
    int64_t out_stride, in_stride;
    int64_t row_words, words;  // Of a row, and of all.
    int word;                  // Bytes that all its addresses and sizes are multiples of, up to 16.
} Band;

typedef struct {
    Band band[BANDS];
} Bands;

template <class Word, class Index>
static __device__ void copy_words(const Band *b) {
    const Index words = (Index)b->words, row_words = (Index)b->row_words;
    const Index step = (Index)gridDim.x * THREADS;
    Index i = (Index)blockIdx.x * THREADS + threadIdx.x;
    for (; i < words; i += COPY_UNROLL * step) {
        Word some[COPY_UNROLL] = {};  // gcc does not see that both loops end alike.
        for (int k = 0; k < COPY_UNROLL; k++) {
            const Index at = i + k * step;
            if (at >= words) break;
            some[k] = ((const Word *)(b->in + at / row_words * b->in_stride))[at % row_words];
        }
        for (int k = 0; k < COPY_UNROLL; k++) {
            const Index at = i + k * step;
            if (at >= words) break;
            ((Word *)(b->out + at / row_words * b->out_stride))[at % row_words] = some[k];
        }
    }
}

template <class Word>
static __device__ void copy_band(const Band *b) {
    if (b->words < (1ll << 31)) {  // Divisions of 32 bits cost a third.
        copy_words<Word, uint32_t>(b);
    } else {
        copy_words<Word, int64_t>(b);
    }
}

// gridDim.y bands; the blocks of a row of the grid share one.
static __global__ void __launch_bounds__(THREADS)
    copy_bands_kernel(const __grid_constant__ Bands bands) {
    const Band *const b = &bands.band[blockIdx.y];
    switch (b->word) {
        case 16:
            copy_band<uint4>(b);
            break;
        case 8:
            copy_band<uint2>(b);
            break;
        case 4:
            copy_band<uint32_t>(b);
            break;
        case 2:
            copy_band<uint16_t>(b);
            break;
        default:
            copy_band<uint8_t>(b);
            break;
    }
}

static Band band_of(const CopyBand *b) {
    uintptr_t all = 16 | (uintptr_t)b->out | (uintptr_t)b->in | (uintptr_t)b->row_bytes;
    if (b->rows > 1) all |= (uintptr_t)b->out_stride | (uintptr_t)b->in_stride;
    const int word = (int)(all & (~all + 1));  // The lowest bit that is set.
    return (Band){(char *)b->out,      (const char *)b->in,           b->out_stride, b->in_stride,
                  b->row_bytes / word, b->row_bytes / word * b->rows, word};
}

void vector_copy_bands(const CopyBand *bands, int count, Stream stream) {
    for (int first = 0; first < count; first += BANDS) {
        Bands some;
        int used = 0;
        int64_t most = 0;
        for (int i = first; i < count && i < first + BANDS; i++) {
            if (bands[i].rows * bands[i].row_bytes == 0) continue;
            some.band[used] = band_of(&bands[i]);
            most = max_i64(most, some.band[used++].words);
        }
        const unsigned blocks = grid_for(div_up(most, COPY_UNROLL));
        LAUNCH(copy_bands_kernel, dim3(blocks, (unsigned)used), THREADS, 0, stream, some);
    }
}

// ---- the sum of squares
// 16 threads add a block of 1,024 elements: thread j adds elements j, j + 16, ... in double, where
// a square is exact; then pairs, as on the CPU. The digits go to shared memory first. Reads 4 bytes
// per element, 64 in a row.
static __global__ void __launch_bounds__(THREADS)
    square_sum_kernel(unsigned long long *sum, const float *x, int64_t count) {
    static __shared__ unsigned long long mine[EXACT_LIMBS + 1];
    const int lane = threadIdx.x % SUM_LANES;
    const int64_t blocks = div_up(count, SUM_BLOCK),
                  step = (int64_t)gridDim.x * THREADS / SUM_LANES;
    if (threadIdx.x <= EXACT_LIMBS) mine[threadIdx.x] = 0;
    __syncthreads();
    // All threads of the grid's block go round equally often, for they exchange values.
    for (int64_t base = (int64_t)blockIdx.x * (THREADS / SUM_LANES); base < blocks; base += step) {
        const int64_t block = base + threadIdx.x / SUM_LANES;
        const int64_t begin = block * SUM_BLOCK, end = min_i64(count, begin + SUM_BLOCK);
        double s = 0;
        int64_t i = begin + lane;
        for (; i + (SUM_UNROLL - 1) * SUM_LANES < end; i += SUM_UNROLL * SUM_LANES) {
            float v[SUM_UNROLL];
            for (int k = 0; k < SUM_UNROLL; k++) v[k] = x[i + k * SUM_LANES];
            for (int k = 0; k < SUM_UNROLL; k++) s += (double)v[k] * (double)v[k];
        }
        for (; i < end; i += SUM_LANES) s += (double)x[i] * (double)x[i];
        for (int width = SUM_LANES / 2; width > 0; width /= 2) {
            s += __shfl_down_sync(0xffffffffu, s, width, SUM_LANES);
        }
        if (lane == 0 && block < blocks) {
            const ExactTerm t = exact_term(s);
            if (t.limb < 0) atomicAdd(&mine[EXACT_LIMBS], 1ull);
            for (int k = 0; k < 3 && t.limb >= 0; k++) {
                if (t.digit[k] != 0) atomicAdd(&mine[t.limb + k], (unsigned long long)t.digit[k]);
            }
        }
    }
    __syncthreads();
    if (threadIdx.x <= EXACT_LIMBS && mine[threadIdx.x] != 0) {
        atomicAdd(&sum[threadIdx.x], mine[threadIdx.x]);
    }
}

void vector_square_sum(ExactSum *sum, const float *x, int64_t count, Stream stream) {
    static_assert(offsetof(ExactSum, bad) == EXACT_LIMBS * 8, "bad follows the limbs");
    const int64_t work = div_up(count, SUM_BLOCK) * SUM_LANES;
    LAUNCH(square_sum_kernel, grid_for(work), THREADS, 0, stream, (unsigned long long *)sum, x,
           count);
}
