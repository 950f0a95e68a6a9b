// Our own attention: FlashAttention-2 (arXiv 2307.08691), algorithms 1 and 2, on the fp32 pipes,
// without atomics. A block owns TILE rows of one head of one segment and walks over the other side
// in ascending order, so every sum has one owner and one order: queries own out and, in a pass of
// their own, dq; keys own dk and dv. That costs two products more than a backward in one pass.
//
// Shared memory holds the owner's tile, the tile that streams by and the weights between them, as
// floats. Of a tile's products a thread has 4 x 4 scores and 4 rows x 4 channels of each 64: for 16
// sums it reads 8 floats, by 16 bytes.
#include "model/ops/cuda/attention_own.cuh"

extern "C" {
#include "base/die.h"
#include "model/ops/cuda/attention_paths.h"
}

// Threads are SIDE x SIDE; thread (ty, tx) has rows ty + SIDE r, columns tx + SIDE c, r, c < PART.
enum {
    TILE = 64,
    SIDE = 16,
    PART = TILE / SIDE,
    THREADS = SIDE * SIDE,
    WEIGHT_STRIDE = TILE + 4,
    D_MAX = 256,
};

// tile [TILE, depth] = rows [first, first + rows) of a head, and zeros.
static __device__ __forceinline__ void tile_load(float *tile, const Arguments &a, const Rows &from,
                                                 int64_t first, int rows) {
    const real *x = from.x + first * from.ld + (int64_t)blockIdx.y * a.D;
    if (a.wide) {
        const int pieces = a.D / REALS_16;
        for (int i = (int)threadIdx.x; i < TILE * pieces; i += THREADS) {
            const int row = i / pieces, d = i % pieces * REALS_16;
            float value[REALS_16] = {};
            if (row < rows) load_16(value, x + row * from.ld + d);
            for (int j = 0; j < REALS_16; j += 4) {
                *(float4 *)(tile + row * a.stride + d + j) =
                    make_float4(value[j], value[j + 1], value[j + 2], value[j + 3]);
            }
        }
    } else {
        for (int i = (int)threadIdx.x; i < TILE * a.depth; i += THREADS) {
            const int row = i / a.depth, d = i % a.depth;
            const bool there = row < rows && d < a.D;
            tile[row * a.stride + d] = there ? to_float(x[row * from.ld + d]) : 0.0f;
        }
    }
}

// s = rows cols^T of two tiles.
static __device__ __forceinline__ void tile_scores(float s[PART][PART], const float *rows,
                                                   const float *cols, int stride, int depth) {
    const float *x = rows + threadIdx.x / SIDE * stride, *y = cols + threadIdx.x % SIDE * stride;
#pragma unroll
    for (int i = 0; i < PART * PART; i++) s[i / PART][i % PART] = 0;
    for (int d = 0; d < depth; d += 4) {
        float4 left[PART], right[PART];
#pragma unroll
        for (int i = 0; i < PART; i++) {
            left[i] = *(const float4 *)(x + i * SIDE * stride + d);
            right[i] = *(const float4 *)(y + i * SIDE * stride + d);
        }
#pragma unroll
        for (int r = 0; r < PART; r++) {
#pragma unroll
            for (int c = 0; c < PART; c++) {
                s[r][c] += left[r].x * right[c].x;
                s[r][c] += left[r].y * right[c].y;
                s[r][c] += left[r].z * right[c].z;
                s[r][c] += left[r].w * right[c].w;
            }
        }
    }
}

// Channels 64 g + 4 tx .. + 3 of a thread's rows, for all g.
template <int QUADS>
struct Sums {
    float value[PART][QUADS][4];
};

static __device__ __forceinline__ int quad_channel(int g) {
    return 4 * (int)(threadIdx.x % SIDE) + g * 4 * SIDE;
}

// sums += weights tile, over the tile's first `count` rows. The weights behind them are zero.
template <int QUADS>
static __device__ __forceinline__ void tile_accumulate(Sums<QUADS> &sums, const float *weights,
                                                       const float *tile, int stride, int depth,
                                                       int count) {
    const float *w = weights + threadIdx.x / SIDE * WEIGHT_STRIDE;
    for (int j = 0; j < count; j += 4) {
        float4 four[PART];
#pragma unroll
        for (int r = 0; r < PART; r++)
            four[r] = *(const float4 *)(w + r * SIDE * WEIGHT_STRIDE + j);
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int g = 0; g < QUADS; g++) {
                if (quad_channel(g) >= depth) continue;
                const float4 y = *(const float4 *)(tile + (j + i) * stride + quad_channel(g));
#pragma unroll
                for (int r = 0; r < PART; r++) {
                    const float x = i == 0   ? four[r].x
                                    : i == 1 ? four[r].y
                                    : i == 2 ? four[r].z
                                             : four[r].w;
                    sums.value[r][g][0] += x * y.x;
                    sums.value[r][g][1] += x * y.y;
                    sums.value[r][g][2] += x * y.z;
                    sums.value[r][g][3] += x * y.w;
                }
            }
        }
    }
}

static __device__ __forceinline__ void weights_write(float *weights, const float s[PART][PART]) {
    float *w = weights + threadIdx.x / SIDE * WEIGHT_STRIDE + threadIdx.x % SIDE;
#pragma unroll
    for (int r = 0; r < PART; r++) {
#pragma unroll
        for (int c = 0; c < PART; c++) w[r * SIDE * WEIGHT_STRIDE + c * SIDE] = s[r][c];
    }
}

// The owner's rows of a result = sums * factor[r].
template <int QUADS>
static __device__ __forceinline__ void rows_write(real *to, int64_t ld, const Arguments &a,
                                                  const Item &item, const Sums<QUADS> &sums,
                                                  const float factor[PART]) {
#pragma unroll
    for (int r = 0; r < PART; r++) {
        const int row = (int)threadIdx.x / SIDE + r * SIDE;
        real *x = to + (item.first + row) * ld + (int64_t)blockIdx.y * a.D;
#pragma unroll
        for (int g = 0; g < QUADS; g++) {
            const int d = quad_channel(g);
            union {
                real four[4];
                uint2 words[sizeof(real) / 2];
            } value;
#pragma unroll
            for (int i = 0; i < 4; i++) value.four[i] = to_real(sums.value[r][g][i] * factor[r]);
            if (row >= item.rows) continue;
            if (a.wide && d < a.D) {
#pragma unroll
                for (int i = 0; i < (int)sizeof(real) / 2; i++) {
                    *((uint2 *)(x + d) + i) = value.words[i];
                }
            }
            for (int i = 0; i < 4 && !a.wide; i++) {
                if (d + i < a.D) x[d + i] = value.four[i];
            }
        }
    }
}

static __device__ __forceinline__ int64_t row_at(const Item &item, int r) {
    const int row = (int)threadIdx.x / SIDE + r * SIDE;
    return item.first + (row < item.rows ? row : 0);
}

static __device__ __forceinline__ int tile_rows(int64_t first, int64_t end) {
    return end - first < TILE ? (int)(end - first) : TILE;
}

// The online softmax of one tile of `here` keys: s becomes 2^(s * c - top), and what was summed
// before shrinks where a row's top rises.
template <int QUADS>
static __device__ __forceinline__ void softmax_tile(float s[PART][PART], float top[PART],
                                                    float total[PART], Sums<QUADS> &sums, int here,
                                                    float c2) {
#pragma unroll
    for (int r = 0; r < PART; r++) {
        float most = top[r];
#pragma unroll
        for (int c = 0; c < PART; c++) {
            const bool there = (int)threadIdx.x % SIDE + c * SIDE < here;
            s[r][c] = there ? s[r][c] * c2 : -INFINITY;
            most = fmaxf(most, s[r][c]);
        }
        for (int lanes = SIDE / 2; lanes > 0; lanes /= 2) {
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lanes));
        }
        const float shrink = exp2f(top[r] - most);
        top[r] = most;
        total[r] *= shrink;
#pragma unroll
        for (int c = 0; c < PART; c++) {
            s[r][c] = exp2f(s[r][c] - most);
            total[r] += s[r][c];
        }
#pragma unroll
        for (int i = 0; i < QUADS * 4; i++) sums.value[r][i / 4][i % 4] *= shrink;
    }
}

// Grid: tiles of queries x heads.
template <int QUADS>
static __global__ void __launch_bounds__(THREADS) own_forward(const Arguments a) {
    extern __shared__ char dynamic_shared[];
    float *const own = (float *)dynamic_shared, *const other = own + TILE * a.stride;
    float *const weights = other + TILE * a.stride;
    const Item item = item_find(a.q_start, a.k_start, a.S, TILE);
    if (item.rows > 0) {
        Sums<QUADS> sums = {};
        float top[PART], total[PART] = {};
        for (int r = 0; r < PART; r++) top[r] = -INFINITY;
        tile_load(own, a, a.q, item.first, item.rows);
        for (int64_t first = item.other; first < item.other_end; first += TILE) {
            const int here = tile_rows(first, item.other_end);
            float s[PART][PART];
            __syncthreads();
            tile_load(other, a, a.k, first, here);
            __syncthreads();
            tile_scores(s, own, other, a.stride, a.depth);
            softmax_tile<QUADS>(s, top, total, sums, here, a.scale * LOG2_E);
            weights_write(weights, s);
            __syncthreads();
            tile_load(other, a, a.v, first, here);
            __syncthreads();
            tile_accumulate<QUADS>(sums, weights, other, a.stride, a.depth, here);
        }
        float inverse[PART];
        for (int r = 0; r < PART; r++) {
            for (int lanes = SIDE / 2; lanes > 0; lanes /= 2) {
                total[r] += __shfl_xor_sync(0xffffffffu, total[r], lanes);
            }
            inverse[r] = 1.0f / total[r];
            const int row = (int)threadIdx.x / SIDE + r * SIDE;
            if (threadIdx.x % SIDE == 0 && row < item.rows) {
                a.lse[(item.first + row) * a.heads + blockIdx.y] =
                    (top[r] + log2f(total[r])) * LN_2;
            }
        }
        rows_write<QUADS>(a.out, a.ldo, a, item, sums, inverse);
    }
}

// delta [T, heads] = sum over D of dout * out: DELTA_LANES lanes each. wide: by 16 bytes.
enum { DELTA_LANES = 8, DELTA_ROWS = THREADS / DELTA_LANES };
static __global__ void own_delta(float *delta, Rows dout, Rows out, int64_t count, int heads, int D,
                                 bool wide) {
    const int lane = (int)threadIdx.x % DELTA_LANES, step = wide ? REALS_16 : 1;
    const int64_t last = round_up(count, DELTA_ROWS), rows = (int64_t)gridDim.x * DELTA_ROWS;
    int64_t i = (int64_t)blockIdx.x * DELTA_ROWS + threadIdx.x / DELTA_LANES;
    for (; i < last; i += rows) {  // All lanes of a warp, to the same end.
        const int64_t t = i / heads, column = i % heads * D;
        const real *x = dout.x + t * dout.ld + column, *y = out.x + t * out.ld + column;
        float sum = 0;
        for (int d = lane * step; d < D && i < count; d += DELTA_LANES * step) {
            if (wide) {
                float left[REALS_16], right[REALS_16];
                load_16(left, x + d);
                load_16(right, y + d);
                for (int j = 0; j < REALS_16; j++) sum += left[j] * right[j];
            } else {
                sum += to_float(x[d]) * to_float(y[d]);
            }
        }
        for (int lanes = DELTA_LANES / 2; lanes > 0; lanes /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
        }
        if (lane == 0 && i < count) delta[i] = sum;
    }
}

// P = 2^(s * c - lse), from scores and a query's log-sum-exp.
static __device__ __forceinline__ float weight_of(float score, float lse, float scale) {
    return exp2f(score * (scale * LOG2_E) - lse * LOG2_E);
}

// dk, dv. Grid: tiles of keys x heads.
template <int QUADS>
static __global__ void __launch_bounds__(THREADS) own_backward_keys(const Arguments a) {
    extern __shared__ char dynamic_shared[];
    float *const own = (float *)dynamic_shared, *const other = own + TILE * a.stride;
    float *const weights = other + TILE * a.stride;
    const Item item = item_find(a.k_start, a.q_start, a.S, TILE);
    if (item.rows > 0) {
        Sums<QUADS> dk = {}, dv = {};
        for (int64_t first = item.other; first < item.other_end; first += TILE) {
            const int here = tile_rows(first, item.other_end);
            float s[PART][PART], p[PART][PART], delta[PART];
            __syncthreads();
            tile_load(own, a, a.k, item.first, item.rows);
            tile_load(other, a, a.q, first, here);
            __syncthreads();
            tile_scores(s, own, other, a.stride, a.depth);
#pragma unroll
            for (int c = 0; c < PART; c++) {
                const int column = (int)threadIdx.x % SIDE + c * SIDE;
                const int64_t at = (first + (column < here ? column : 0)) * a.heads + blockIdx.y;
                const float lse = a.lse[at];
                delta[c] = a.delta[at];
#pragma unroll
                for (int r = 0; r < PART; r++) {
                    p[r][c] = column < here ? weight_of(s[r][c], lse, a.scale) : 0.0f;
                }
            }
            weights_write(weights, p);
            __syncthreads();
            tile_load(own, a, a.v, item.first, item.rows);
            tile_load(other, a, a.dout, first, here);
            __syncthreads();
            tile_scores(s, own, other, a.stride, a.depth);
#pragma unroll
            for (int i = 0; i < PART * PART; i++) {
                const int r = i / PART, c = i % PART;
                s[r][c] = p[r][c] * (s[r][c] - delta[c]) * a.scale;
            }
            tile_accumulate<QUADS>(dv, weights, other, a.stride, a.depth, here);
            __syncthreads();
            weights_write(weights, s);
            tile_load(other, a, a.q, first, here);
            __syncthreads();
            tile_accumulate<QUADS>(dk, weights, other, a.stride, a.depth, here);
        }
        const float one[PART] = {1, 1, 1, 1};
        rows_write<QUADS>(a.dk, a.lddk, a, item, dk, one);
        rows_write<QUADS>(a.dv, a.lddv, a, item, dv, one);
    }
}

// dq. Grid: tiles of queries x heads.
template <int QUADS>
static __global__ void __launch_bounds__(THREADS) own_backward_queries(const Arguments a) {
    extern __shared__ char dynamic_shared[];
    float *const own = (float *)dynamic_shared, *const other = own + TILE * a.stride;
    float *const weights = other + TILE * a.stride;
    const Item item = item_find(a.q_start, a.k_start, a.S, TILE);
    if (item.rows > 0) {
        Sums<QUADS> dq = {};
        float lse[PART], delta[PART];
#pragma unroll
        for (int r = 0; r < PART; r++) {
            const int64_t at = row_at(item, r) * a.heads + blockIdx.y;
            lse[r] = a.lse[at];
            delta[r] = a.delta[at];
        }
        for (int64_t first = item.other; first < item.other_end; first += TILE) {
            const int here = tile_rows(first, item.other_end);
            float s[PART][PART], p[PART][PART];
            __syncthreads();
            tile_load(own, a, a.q, item.first, item.rows);
            tile_load(other, a, a.k, first, here);
            __syncthreads();
            tile_scores(s, own, other, a.stride, a.depth);
#pragma unroll
            for (int i = 0; i < PART * PART; i++) {
                const int r = i / PART, c = i % PART;
                const bool there = (int)threadIdx.x % SIDE + c * SIDE < here;
                p[r][c] = there ? weight_of(s[r][c], lse[r], a.scale) : 0.0f;
            }
            __syncthreads();
            tile_load(own, a, a.dout, item.first, item.rows);
            tile_load(other, a, a.v, first, here);
            __syncthreads();
            tile_scores(s, own, other, a.stride, a.depth);
#pragma unroll
            for (int i = 0; i < PART * PART; i++) {
                const int r = i / PART, c = i % PART;
                s[r][c] = p[r][c] * (s[r][c] - delta[r]) * a.scale;
            }
            weights_write(weights, s);
            __syncthreads();
            tile_load(other, a, a.k, first, here);
            __syncthreads();
            tile_accumulate<QUADS>(dq, weights, other, a.stride, a.depth, here);
        }
        const float one[PART] = {1, 1, 1, 1};
        rows_write<QUADS>(a.dq, a.lddq, a, item, dq, one);
    }
}

static Arguments arguments_of(const AttentionShape *shape) {
    CHECK(shape->D <= D_MAX, "heads of %lld, at most %d", (long long)shape->D, D_MAX);
    Arguments a = {};
    a.q_start = shape->q_start_device;
    a.k_start = shape->k_start_device;
    a.S = (int)shape->S;
    a.heads = (int)shape->heads;
    a.D = (int)shape->D;
    a.depth = (int)round_up(shape->D, 4);
    a.stride = a.depth / 4 % 2 == 1 ? a.depth : a.depth + 4;
    a.scale = shape->scale;
    return a;
}

// Starts a kernel, whose owners are `rows` rows in S segments, in the version for D.
typedef void (*Kernel)(const Arguments);
static void start(const Kernel kernel[4], const Arguments *a, int64_t rows, Stream stream) {
    const dim3 grid((unsigned)(rows / TILE + a->S), (unsigned)a->heads);
    const int64_t bytes = (2 * TILE * a->stride + TILE * WEIGHT_STRIDE) * (int64_t)sizeof(float);
    LAUNCH(kernel[(a->D - 1) / 64], grid, THREADS, bytes, stream, *a);
}

void attention_own_forward(real *out, int64_t ldo, float *lse, const real *q, int64_t ldq,
                           const real *k, int64_t ldk, const real *v, int64_t ldv,
                           const AttentionShape *shape, Stream stream) {
    static const Kernel kernel[4] = {own_forward<1>, own_forward<2>, own_forward<3>,
                                     own_forward<4>};
    if (shape->heads == 0 || shape->S == 0) return;
    Arguments a = arguments_of(shape);
    a.q = (Rows){q, ldq};
    a.k = (Rows){k, ldk};
    a.v = (Rows){v, ldv};
    a.out = out;
    a.ldo = ldo;
    a.lse = lse;
    a.wide = a.D % REALS_16 == 0 && aligned_16(q, ldq) && aligned_16(k, ldk) &&
             aligned_16(v, ldv) && aligned_16(out, ldo);
    if (attention_tensor_forward(&a, shape->q_start[shape->S], stream)) return;
    start(kernel, &a, shape->q_start[shape->S], stream);
}

void attention_own_backward(const AttentionBackward *b, const AttentionShape *shape, void *scratch,
                            Stream stream) {
    static const Kernel keys[4] = {own_backward_keys<1>, own_backward_keys<2>, own_backward_keys<3>,
                                   own_backward_keys<4>};
    static const Kernel queries[4] = {own_backward_queries<1>, own_backward_queries<2>,
                                      own_backward_queries<3>, own_backward_queries<4>};
    if (shape->heads == 0 || shape->S == 0) return;
    const int64_t T = shape->q_start[shape->S], X = shape->k_start[shape->S];
    float *const delta = (float *)scratch;
    Arguments a = arguments_of(shape);
    a.q = (Rows){b->q, b->ldq};
    a.k = (Rows){b->k, b->ldk};
    a.v = (Rows){b->v, b->ldv};
    a.dout = (Rows){b->dout, b->lddo};
    a.lse = (float *)b->lse;
    a.delta = delta;
    a.dq = b->dq;
    a.dk = b->dk;
    a.dv = b->dv;
    a.lddq = b->lddq;
    a.lddk = b->lddk;
    a.lddv = b->lddv;
    a.wide = a.D % REALS_16 == 0 && aligned_16(b->q, b->ldq) && aligned_16(b->k, b->ldk) &&
             aligned_16(b->v, b->ldv) && aligned_16(b->dout, b->lddo) &&
             aligned_16(b->dq, b->lddq) && aligned_16(b->dk, b->lddk) && aligned_16(b->dv, b->lddv);
    const unsigned blocks = (unsigned)min_i64(div_up(T * shape->heads, DELTA_ROWS), 4096);
    const Rows out = {b->out, b->ldo};
    const bool wide =
        a.D % REALS_16 == 0 && aligned_16(b->dout, b->lddo) && aligned_16(b->out, b->ldo);
    LAUNCH(own_delta, blocks, THREADS, 0, stream, delta, a.dout, out, T * shape->heads, a.heads,
           a.D, wide);
    if (attention_tensor_backward(&a, T, X, stream)) return;
    start(keys, &a, X, stream);
    start(queries, &a, T, stream);
}

int64_t attention_own_scratch(const AttentionBounds *bounds, bool backward) {
    return backward ? bounds->T * bounds->heads * (int64_t)sizeof(float) : 0;
}
