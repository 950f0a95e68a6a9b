// Our own attention in bf16 on tensor cores (sm_80 and later): FlashAttention-2 (arXiv 2307.08691),
// algorithms 1 and 2, without atomics: queries own out and, in a pass of their own, dq; keys own dk
// and dv. That costs two products more than a backward in one pass.
//
// The owner's rows are the left factor of every product. A warp has 16 M of them and all columns of
// a tile, so its softmax needs no shared memory, and its scores, rounded, are the left factor of
// the next product as they lie in registers. The other side streams by in tiles of N rows, through
// two slots of shared memory: while one is multiplied, the next tile is copied into the other.
//     shared memory: the owner's tiles; 2 x (the other side's tiles [; log-sum-exps; deltas])
// Rows lie DEPTH + 8 apart: an odd number of 16 bytes, so 8 rows of a load lie in different banks.
// Where registers allow M = 1 alone (dk and dv of long heads), loads take as long as products.
#include "model/ops/cuda/attention_own.cuh"

extern "C" {
#include "model/ops/cuda/attention_paths.h"
}

#ifdef REAL_BF16
#include "base/cuda/tensor.cuh"

enum { WARPS = 4, THREADS = WARPS * WARP, BYTES = (int)sizeof(real) };

// How a kernel cuts its work. depth: the largest D, to which tiles are filled up with zeros.
template <int depth, int sixteens, int columns>
struct Cut {
    static constexpr int DEPTH = depth, M = sixteens, N = columns;
    static constexpr int ROWS = 16 * M * WARPS, STRIDE = DEPTH + 8;
    static constexpr int OWN = ROWS * STRIDE, OTHER = N * STRIDE;  // Reals of a tile.
};

// Scores or weights of a warp's rows and a tile's; sums over D's channels of a warp's rows. For the
// last index see base/cuda/tensor.cuh.
template <class C>
struct Scores {
    float value[C::M][C::N / 8][4];
};
template <class C>
struct Sums {
    float value[C::M][C::DEPTH / 8][4];
};

// One float for each of a lane's rows: 16 m + 8 h + lane / 4 of its warp's.
template <class C>
struct OfRows {
    float value[C::M][2];
};

static __device__ __forceinline__ int lane_of() {
    return (int)threadIdx.x % WARP;
}

// The first of a warp's rows of the block's; a lane's; the first of its two columns of 8.
template <class C>
static __device__ __forceinline__ int warp_row() {
    return (int)threadIdx.x / WARP * 16 * C::M;
}
template <class C>
static __device__ __forceinline__ int lane_row(int m, int h) {
    return warp_row<C>() + 16 * m + 8 * h + lane_of() / 4;
}
static __device__ __forceinline__ int lane_column() {
    return 2 * (lane_of() % 4);
}

// Begins to copy: tile [ROWS, DEPTH] = rows [first, first + rows) of a head, and zeros.
template <class C, int ROWS>
static __device__ __forceinline__ void tile_copy(real *tile, const Arguments &a, const Rows &from,
                                                 int64_t first, int rows) {
    constexpr int PIECES = C::DEPTH / 8, ALL = ROWS * PIECES;
    const real *x = from.x + first * from.ld + (int64_t)blockIdx.y * a.D;
    const uint32_t to = tensor_address(tile);
#pragma unroll
    for (int j = 0; j < ALL; j += THREADS) {
        const int i = j + (int)threadIdx.x, row = i / PIECES, d = i % PIECES * 8;
        if (ALL % THREADS != 0 && i >= ALL) continue;
        const bool there = row < rows && d < a.D;
        tensor_copy_16(to + (row * C::STRIDE + d) * BYTES, there ? x + row * from.ld + d : x,
                       there);
    }
}

// s = own other^T: the warp's rows of the block's, a tile of the other side.
template <class C>
static __device__ __forceinline__ void scores(Scores<C> &s, const real *own, const real *other) {
    const int lane = lane_of();
    const uint32_t left_at = tensor_address(own + warp_row<C>() * C::STRIDE) +
                             (lane % 16 * C::STRIDE + lane / 16 * 8) * BYTES;
    const uint32_t right_at =
        tensor_address(other) + ((lane % 8 + lane / 16 * 8) * C::STRIDE + lane / 8 % 2 * 8) * BYTES;
#pragma unroll
    for (int i = 0; i < C::M * C::N / 2; i++)
        s.value[i / (C::N / 2)][i / 4 % (C::N / 8)][i % 4] = 0;
#pragma unroll
    for (int d = 0; d < C::DEPTH; d += 16) {
        uint32_t left[C::M][4];
#pragma unroll
        for (int m = 0; m < C::M; m++) {
            tensor_load(left[m], left_at + (m * 16 * C::STRIDE + d) * BYTES);
        }
#pragma unroll
        for (int n = 0; n < C::N; n += 16) {
            uint32_t right[4];
            tensor_load(right, right_at + (n * C::STRIDE + d) * BYTES);
#pragma unroll
            for (int m = 0; m < C::M; m++) {
                tensor_product(s.value[m][n / 8], left[m], right);
                tensor_product(s.value[m][n / 8 + 1], left[m], right + 2);
            }
        }
    }
}

// sums += weights other, with the weights rounded.
template <class C>
static __device__ __forceinline__ void accumulate(Sums<C> &sums, const Scores<C> &weights,
                                                  const real *other) {
    const uint32_t right_at =
        tensor_address(other) + (lane_of() % 16 * C::STRIDE + lane_of() / 16 * 8) * BYTES;
#pragma unroll
    for (int n = 0; n < C::N; n += 16) {
        uint32_t left[C::M][4];
#pragma unroll
        for (int i = 0; i < C::M * 4; i++) {
            const float *two = weights.value[i / 4][n / 8 + i % 4 / 2] + i % 2 * 2;
            left[i / 4][i % 4] = tensor_pair(two[0], two[1]);
        }
#pragma unroll
        for (int d = 0; d < C::DEPTH; d += 16) {
            uint32_t right[4];
            tensor_load_transposed(right, right_at + (n * C::STRIDE + d) * BYTES);
#pragma unroll
            for (int m = 0; m < C::M; m++) {
                tensor_product(sums.value[m][d / 8], left[m], right);
                tensor_product(sums.value[m][d / 8 + 1], left[m], right + 2);
            }
        }
    }
}

// The owner's rows of a result = sums * factor.
template <class C>
static __device__ __forceinline__ void rows_write(real *to, int64_t ld, const Arguments &a,
                                                  const Item &item, const Sums<C> &sums,
                                                  const OfRows<C> &factor) {
#pragma unroll
    for (int i = 0; i < C::M * 2; i++) {
        const int m = i / 2, h = i % 2, row = lane_row<C>(m, h);
        real *x = to + (item.first + row) * ld + (int64_t)blockIdx.y * a.D + lane_column();
#pragma unroll
        for (int d = 0; d < C::DEPTH; d += 8) {
            const float *two = sums.value[m][d / 8] + 2 * h, f = factor.value[m][h];
            if (row < item.rows && d < a.D)
                *(uint32_t *)(x + d) = tensor_pair(two[0] * f, two[1] * f);
        }
    }
}

template <class C>
static __device__ __forceinline__ OfRows<C> of_rows(float x) {
    OfRows<C> all;
#pragma unroll
    for (int i = 0; i < C::M * 2; i++) all.value[i / 2][i % 2] = x;
    return all;
}

// What a [T, heads] array has for the owner's rows; behind the last, for its first.
template <class C>
static __device__ __forceinline__ OfRows<C> of_rows_read(const float *from, const Arguments &a,
                                                         const Item &item) {
    OfRows<C> all;
#pragma unroll
    for (int i = 0; i < C::M * 2; i++) {
        const int row = lane_row<C>(i / 2, i % 2);
        const int64_t t = item.first + (row < item.rows ? row : 0);
        all.value[i / 2][i % 2] = from[t * a.heads + blockIdx.y];
    }
    return all;
}

static __device__ __forceinline__ float quad_most(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

static __device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Columns from `here` on get `value`. The barrier keeps this a branch, which the last tile alone
// takes: without it the compiler computes both sides for every tile.
template <class C>
static __device__ __forceinline__ void scores_end(Scores<C> &s, int here, float value) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < C::M * C::N / 2; i++) {
        const int j = i / 4 % (C::N / 8), column = 8 * j + lane_column() + i % 2;
        if (column >= here) s.value[i / (C::N / 2)][j][i % 4] = value;
    }
}

// The online softmax of one tile: s becomes 2^((s - top) c2), and what was summed before shrinks
// where a row's top rises. total: of a lane's own columns.
template <class C>
static __device__ __forceinline__ void softmax_tile(Scores<C> &s, OfRows<C> &top, OfRows<C> &total,
                                                    Sums<C> &sums, float c2) {
#pragma unroll
    for (int i = 0; i < C::M * 2; i++) {
        const int m = i / 2, h = i % 2;
        float most = top.value[m][h];
#pragma unroll
        for (int j = 0; j < C::N / 4; j++) {
            most = fmaxf(most, s.value[m][j / 2][2 * h + j % 2]);
        }
        most = quad_most(most);
        const float shrink = tensor_exp2((top.value[m][h] - most) * c2), offset = most * c2;
        top.value[m][h] = most;
        float sum = total.value[m][h] * shrink;
#pragma unroll
        for (int j = 0; j < C::N / 4; j++) {
            float *x = &s.value[m][j / 2][2 * h + j % 2];
            *x = tensor_exp2(*x * c2 - offset);
            sum += *x;
        }
        total.value[m][h] = sum;
#pragma unroll
        for (int j = 0; j < C::DEPTH / 4; j++) sums.value[m][j / 2][2 * h + j % 2] *= shrink;
    }
}

static __device__ __forceinline__ int tile_rows(int64_t first, int64_t end, int most) {
    return end - first < most ? (int)(end - first) : most;
}

// A slot's two tiles of the other side, x and y; begins to copy them.
template <class C>
static __device__ __forceinline__ void slot_copy(real *slot, const Arguments &a, const Rows &x,
                                                 const Rows &y, int64_t first, int64_t end) {
    const int rows = tile_rows(first, end, C::N);
    tile_copy<C, C::N>(slot, a, x, first, rows);
    tile_copy<C, C::N>(slot + C::OTHER, a, y, first, rows);
}

// Every copy of the block has come, and nobody reads the slot that is to be filled next.
static __device__ __forceinline__ void slot_wait() {
    tensor_copies_wait();
    __syncthreads();
}

template <class C>
static constexpr int64_t forward_bytes = (C::OWN + 4 * C::OTHER) * (int64_t)sizeof(real);

// Grid: tiles of queries x heads.
template <class C>
static __global__ void __launch_bounds__(THREADS) tensor_forward(const Arguments a) {
    extern __shared__ char dynamic_shared[];
    real *const own = (real *)dynamic_shared, *slot = own + C::OWN, *next = slot + 2 * C::OTHER;
    const Item item = item_find(a.q_start, a.k_start, a.S, C::ROWS);
    if (item.rows > 0) {
        Sums<C> sums = {};
        OfRows<C> top = of_rows<C>(-INFINITY), total = of_rows<C>(0), factor;
        const float c2 = a.scale * LOG2_E;
        tile_copy<C, C::ROWS>(own, a, a.q, item.first, item.rows);
        slot_copy<C>(slot, a, a.k, a.v, item.other, item.other_end);
        for (int64_t first = item.other; first < item.other_end; first += C::N) {
            slot_wait();
            if (first + C::N < item.other_end) {
                slot_copy<C>(next, a, a.k, a.v, first + C::N, item.other_end);
            }
            Scores<C> s;
            scores<C>(s, own, slot);
            const int here = tile_rows(first, item.other_end, C::N);
            if (here < C::N) scores_end<C>(s, here, -INFINITY);
            softmax_tile<C>(s, top, total, sums, c2);
            accumulate<C>(sums, s, slot + C::OTHER);
            real *const last = slot;
            slot = next;
            next = last;
        }
#pragma unroll
        for (int i = 0; i < C::M * 2; i++) {
            const int m = i / 2, h = i % 2, row = lane_row<C>(m, h);
            const float whole = quad_sum(total.value[m][h]);
            factor.value[m][h] = 1.0f / whole;
            if (lane_of() % 4 == 0 && row < item.rows) {
                a.lse[(item.first + row) * a.heads + blockIdx.y] =
                    (top.value[m][h] * c2 + log2f(whole)) * LN_2;
            }
        }
        rows_write<C>(a.out, a.ldo, a, item, sums, factor);
    }
}

// The keys' pass: a slot is q, dout, then log-sum-exps and deltas of its queries, N floats each.
template <class C>
static constexpr int SLOT_KEYS = 2 * C::OTHER + 4 * C::N;
template <class C>
static constexpr int64_t keys_bytes = (2 * C::OWN + 2 * SLOT_KEYS<C>)*(int64_t)sizeof(real);

// Behind `end` log-sum-exps and deltas are zero, as q and dout are: weights of 1 on rows of zeros.
template <class C>
static __device__ __forceinline__ void slot_copy_keys(real *slot, const Arguments &a, int64_t first,
                                                      int64_t end) {
    slot_copy<C>(slot, a, a.q, a.dout, first, end);
    static_assert(2 * C::N <= THREADS, "one each");
    const int i = (int)threadIdx.x;
    if (i < 2 * C::N) {
        const bool there = first + i % C::N < end;
        const float *from = i < C::N ? a.lse : a.delta;
        const int64_t t = there ? first + i % C::N : first;
        tensor_copy_4(tensor_address(slot + 2 * C::OTHER) + 4 * i, from + t * a.heads + blockIdx.y,
                      there);
    }
}

// dk, dv. Grid: tiles of keys x heads.
template <class C>
static __global__ void __launch_bounds__(THREADS) tensor_backward_keys(const Arguments a) {
    extern __shared__ char dynamic_shared[];
    real *const k = (real *)dynamic_shared, *const v = k + C::OWN;
    real *slot = v + C::OWN, *next = slot + SLOT_KEYS<C>;
    const Item item = item_find(a.k_start, a.q_start, a.S, C::ROWS);
    if (item.rows > 0) {
        Sums<C> dk = {}, dv = {};
        tile_copy<C, C::ROWS>(k, a, a.k, item.first, item.rows);
        tile_copy<C, C::ROWS>(v, a, a.v, item.first, item.rows);
        if (item.other < item.other_end) slot_copy_keys<C>(slot, a, item.other, item.other_end);
        for (int64_t first = item.other; first < item.other_end; first += C::N) {
            slot_wait();
            if (first + C::N < item.other_end) {
                slot_copy_keys<C>(next, a, first + C::N, item.other_end);
            }
            const float *const lse = (const float *)(slot + 2 * C::OTHER) + lane_column();
            const float *const delta = lse + C::N;
            Scores<C> p, s;
            scores<C>(p, k, slot);
#pragma unroll
            for (int i = 0; i < C::M * C::N / 2; i++) {
                const int j = i / 4 % (C::N / 8);
                float *x = &p.value[i / (C::N / 2)][j][i % 4];
                *x = tensor_exp2(*x * (a.scale * LOG2_E) - lse[8 * j + i % 2] * LOG2_E);
            }
            accumulate<C>(dv, p, slot + C::OTHER);
            scores<C>(s, v, slot + C::OTHER);
#pragma unroll
            for (int i = 0; i < C::M * C::N / 2; i++) {
                const int m = i / (C::N / 2), j = i / 4 % (C::N / 8), e = i % 4;
                s.value[m][j][e] = p.value[m][j][e] * (s.value[m][j][e] - delta[8 * j + e % 2]);
            }
            accumulate<C>(dk, s, slot);
            real *const last = slot;
            slot = next;
            next = last;
        }
        tensor_copies_wait();
        rows_write<C>(a.dk, a.lddk, a, item, dk, of_rows<C>(a.scale));
        rows_write<C>(a.dv, a.lddv, a, item, dv, of_rows<C>(1));
    }
}

template <class C>
static constexpr int64_t queries_bytes = (2 * C::OWN + 4 * C::OTHER) * (int64_t)sizeof(real);

// dq. Grid: tiles of queries x heads.
template <class C>
static __global__ void __launch_bounds__(THREADS) tensor_backward_queries(const Arguments a) {
    extern __shared__ char dynamic_shared[];
    real *const q = (real *)dynamic_shared, *const dout = q + C::OWN;
    real *slot = dout + C::OWN, *next = slot + 2 * C::OTHER;
    const Item item = item_find(a.q_start, a.k_start, a.S, C::ROWS);
    if (item.rows > 0) {
        Sums<C> dq = {};
        tile_copy<C, C::ROWS>(q, a, a.q, item.first, item.rows);
        tile_copy<C, C::ROWS>(dout, a, a.dout, item.first, item.rows);
        slot_copy<C>(slot, a, a.k, a.v, item.other, item.other_end);
        const OfRows<C> lse = of_rows_read<C>(a.lse, a, item);
        const OfRows<C> delta = of_rows_read<C>(a.delta, a, item);
        for (int64_t first = item.other; first < item.other_end; first += C::N) {
            slot_wait();
            if (first + C::N < item.other_end) {
                slot_copy<C>(next, a, a.k, a.v, first + C::N, item.other_end);
            }
            Scores<C> p, s;
            scores<C>(p, q, slot);
            scores<C>(s, dout, slot + C::OTHER);
#pragma unroll
            for (int i = 0; i < C::M * C::N / 2; i++) {
                const int m = i / (C::N / 2), j = i / 4 % (C::N / 8), e = i % 4;
                const float weight = tensor_exp2(p.value[m][j][e] * (a.scale * LOG2_E) -
                                                 lse.value[m][e / 2] * LOG2_E);
                s.value[m][j][e] = weight * (s.value[m][j][e] - delta.value[m][e / 2]);
            }
            // A key that is not there has the score 0, whose weight may be infinite.
            const int here = tile_rows(first, item.other_end, C::N);
            if (here < C::N) scores_end<C>(s, here, 0);
            accumulate<C>(dq, s, slot);
            real *const last = slot;
            slot = next;
            next = last;
        }
        rows_write<C>(a.dq, a.lddq, a, item, dq, of_rows<C>(a.scale));
    }
}

// A kernel in the version for some D.
typedef struct {
    void (*kernel)(const Arguments);
    int rows;
    int64_t bytes;
} Version;

// The first whose DEPTH, 64, 80, 96 and 128, holds D.
static const Version *version_of(const Version version[4], int D) {
    return &version[D <= 64 ? 0 : D <= 80 ? 1 : D <= 96 ? 2 : 3];
}

bool attention_own_tensor(int64_t D) {
    return D % 8 == 0 && D <= 128;
}

static bool serves(const Arguments *a) {
    return a->wide && attention_own_tensor(a->D);
}

// The owners are `rows` rows in S segments.
static void start(const Version *v, const Arguments *a, int64_t rows, Stream stream) {
    const dim3 grid((unsigned)(rows / v->rows + a->S), (unsigned)a->heads);
    LAUNCH(v->kernel, grid, THREADS, v->bytes, stream, *a);
}

// What a block may have on every device from sm_80 on; A100, H100 and B200 have more.
enum { SHARED_MOST = 99 * 1024 };

template <class C, int64_t bytes>
static constexpr Version version(void (*kernel)(const Arguments)) {
    static_assert(bytes <= SHARED_MOST, "more shared memory than a GeForce has");
    return {kernel, C::ROWS, bytes};
}
#define VERSION(kernel, bytes, ...) version<__VA_ARGS__, bytes<__VA_ARGS__>>(kernel<__VA_ARGS__>)

bool attention_tensor_forward(const Arguments *a, int64_t T, Stream stream) {
    static const Version versions[4] = {VERSION(tensor_forward, forward_bytes, Cut<64, 2, 64>),
                                        VERSION(tensor_forward, forward_bytes, Cut<80, 2, 64>),
                                        VERSION(tensor_forward, forward_bytes, Cut<96, 2, 64>),
                                        VERSION(tensor_forward, forward_bytes, Cut<128, 2, 32>)};
    if (!serves(a)) return false;
    start(version_of(versions, a->D), a, T, stream);
    return true;
}

bool attention_tensor_backward(const Arguments *a, int64_t T, int64_t X, Stream stream) {
    static const Version keys[4] = {VERSION(tensor_backward_keys, keys_bytes, Cut<64, 2, 32>),
                                    VERSION(tensor_backward_keys, keys_bytes, Cut<80, 1, 64>),
                                    VERSION(tensor_backward_keys, keys_bytes, Cut<96, 1, 64>),
                                    VERSION(tensor_backward_keys, keys_bytes, Cut<128, 1, 32>)};
    static const Version queries[4] = {
        VERSION(tensor_backward_queries, queries_bytes, Cut<64, 2, 32>),
        VERSION(tensor_backward_queries, queries_bytes, Cut<80, 2, 32>),
        VERSION(tensor_backward_queries, queries_bytes, Cut<96, 2, 32>),
        VERSION(tensor_backward_queries, queries_bytes, Cut<128, 2, 16>)};
    if (!serves(a)) return false;
    start(version_of(keys, a->D), a, X, stream);
    start(version_of(queries, a->D), a, T, stream);
    return true;
}

#else

// fp32 has no such products: TF32 would round to 11 bits.
bool attention_own_tensor(int64_t D) {
    (void)D;
    return false;
}

bool attention_tensor_forward(const Arguments *a, int64_t T, Stream stream) {
    (void)a, (void)T, (void)stream;
    return false;
}

bool attention_tensor_backward(const Arguments *a, int64_t T, int64_t X, Stream stream) {
    (void)a, (void)T, (void)X, (void)stream;
    return false;
}

#endif
