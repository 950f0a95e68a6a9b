#include "model/ops/attention.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/die.h"
#include "model/ops/cpu/onednn.h"
#include "model/ops/cpu/softmax.h"

// FlashAttention-2 (arXiv 2307.08691), algorithms 1 and 2, as products of fixed tiles. A unit of
// work is one head of one segment (in the forward pass, of a range of its queries): one thread
// copies what it needs into dense blocks of its own and adds everything in ascending order, so bits
// do not depend on the number of threads. A length is cut into blocks of BLOCK; the last one is the
// smallest class that holds the rest, filled up with zeros.
enum { CLASSES = 4, BLOCK = 256, QUERY_RANGE = 2048 };
static const int64_t class_rows[CLASSES] = {16, 64, 128, BLOCK};

static const float log2_e = 1.44269504089f;

static int class_of(int64_t rows) {
    int kind = 0;
    while (class_rows[kind] < rows) kind++;
    return kind;
}

// Rows of block i of `length`, and their class.
typedef struct {
    int64_t first, rows, full;
    int kind;
} Block;

static Block block_of(int64_t length, int64_t i) {
    Block b = {.first = i * BLOCK, .rows = min_i64(BLOCK, length - i * BLOCK)};
    b.kind = class_of(b.rows);
    b.full = class_rows[b.kind];
    return b;
}

// Everything that depends on D alone. [query class][key class] where there are two.
typedef struct {
    int64_t D, depth;                      // depth: D filled up for products that sum over it.
    const Tile *scores[CLASSES][CLASSES];  // [rows, rows'] = a [rows, depth] b [depth, rows']
    const Tile *values[CLASSES][CLASSES];  // [rows, D] += a [rows, rows'] b [rows', D]
    const Tile *values_across[CLASSES][CLASSES];  // The same with a stored as [rows', rows].
    const Pack *across[CLASSES];                  // [rows, depth] as right factor [depth, rows]
    const Pack *along[CLASSES];                   // [rows, depth] as right factor [rows, D]
    int64_t across_size, along_size;              // Elements of a packed BLOCK.
} Tools;

static Tools tools_get(int64_t D) {
    Tools t = {.D = D, .depth = tile_depth(D)};
    for (int i = 0; i < CLASSES; i++) {
        const int64_t rows = class_rows[i];
        for (int j = 0; j < CLASSES; j++) {
            const int64_t other = class_rows[j];
            t.scores[i][j] = tile_get((TileShape){.M = rows, .N = other, .K = t.depth});
            t.values[i][j] = tile_get((TileShape){.M = rows, .N = D, .K = other, .add = true});
            t.values_across[i][j] = tile_get(
                (TileShape){.M = rows, .N = D, .K = other, .add = true, .a_transposed = true});
        }
        t.across[i] = pack_get(PACK_RIGHT_TRANSPOSED, rows, t.depth, t.depth);
        t.along[i] = pack_get(PACK_RIGHT, rows, D, t.depth);
        t.across_size = max_i64(t.across_size, packed_size(t.depth, rows));
        t.along_size = max_i64(t.along_size, packed_size(rows, D));
    }
    return t;
}

// The scratch of a thread is handed out by the same lines that measure it (base NULL).
typedef struct {
    char *base;
    int64_t used;
} Space;

static void *space_take(Space *space, int64_t bytes) {
    void *p = space->base ? space->base + space->used : NULL;
    space->used += round_up(bytes, 256);
    return p;
}
static real *space_real(Space *space, int64_t count) {
    return space_take(space, count * (int64_t)sizeof(real));
}
static float *space_float(Space *space, int64_t count) {
    return space_take(space, count * (int64_t)sizeof(float));
}

// to [full, depth] = rows of x and zeros.
static void block_copy(real *to, const Tools *tools, const Block *b, const real *x, int64_t ld) {
    rows_copy(to, b->full, tools->depth, x + b->first * ld, ld, b->rows, tools->D);
}

typedef struct {
    real *keys, *values, *query, *weights;  // Packed; packed; [BLOCK, depth]; [BLOCK, BLOCK]
    float *scores, *sum;                    // [BLOCK, BLOCK]; [BLOCK, D]
    float *top, *total;  // [BLOCK]: largest score * scale * log2 e, sum of 2^(..)
    real *stage;         // [BLOCK, depth]
} Forward;

static Forward forward_space(Space *space, const Tools *t, int64_t keys) {
    const int64_t blocks = div_up(keys, BLOCK);
    Forward f;
    f.keys = space_real(space, blocks * t->across_size);
    f.values = space_real(space, blocks * t->along_size);
    f.query = space_real(space, BLOCK * t->depth);
    f.weights = space_real(space, BLOCK * BLOCK);
    f.stage = space_real(space, BLOCK * t->depth);
    f.scores = space_float(space, BLOCK * BLOCK);
    f.sum = space_float(space, BLOCK * t->D);
    f.top = space_float(space, BLOCK);
    f.total = space_float(space, BLOCK);
    return f;
}

// One block of keys enters the softmax of all rows: weights = 2^(scores * c - top), sum and total
// rescaled where a row's top rises.
static void softmax_block(Forward *f, const Block *q, const Block *k, int64_t D, float c) {
    for (int64_t r = 0; r < q->rows; r++) {
        const float *s = f->scores + r * k->full;
        const float old = f->top[r], here = row_max(s, k->rows) * c, top = here > old ? here : old;
        const float total = row_exp2(f->weights + r * k->full, s, c, top, k->rows, k->full);
        if (top == old) {
            f->total[r] += total;
            continue;
        }
        f->top[r] = top;
        const float shrink = exp2f(old - top);
        f->total[r] = f->total[r] * shrink + total;
        if (k->first == 0) continue;  // The sum is zero.
        float *sum = f->sum + r * D;
#pragma omp simd
        for (int64_t d = 0; d < D; d++) sum[d] *= shrink;
    }
}

// Where a unit reads and writes: first elements of its head and segment.
typedef struct {
    real *out;
    float *lse;
    const real *q, *k, *v;
    int64_t ldo, ldq, ldk, ldv;
    int64_t queries, keys, heads;
    float scale;
} ForwardUnit;

static void forward_query_block(const ForwardUnit *u, const Tools *t, Forward *f, const Block *q) {
    const int thread = omp_get_thread_num();
    const int64_t D = t->D;
    block_copy(f->query, t, q, u->q, u->ldq);
    memset(f->sum, 0, (size_t)(q->full * D) * sizeof(float));
    for (int64_t r = 0; r < q->rows; r++) {
        f->top[r] = -1e30f;
        f->total[r] = 0;
    }
    for (int64_t j = 0; j < div_up(u->keys, BLOCK); j++) {
        const Block k = block_of(u->keys, j);
        tile_run(t->scores[q->kind][k.kind], thread, f->scores, f->query,
                 f->keys + j * t->across_size);
        softmax_block(f, q, &k, D, u->scale * log2_e);
        tile_run(t->values[q->kind][k.kind], thread, f->sum, f->weights,
                 f->values + j * t->along_size);
    }
    for (int64_t r = 0; r < q->rows; r++) {
        const float inverse = 1.0f / f->total[r];
        float *sum = f->sum + r * D;
#pragma omp simd
        for (int64_t d = 0; d < D; d++) sum[d] *= inverse;
        row_store(u->out + (q->first + r) * u->ldo, sum, NULL, false, D);
        u->lse[(q->first + r) * u->heads] = (f->top[r] + log2f(f->total[r])) / log2_e;
    }
}

static void forward_unit(const ForwardUnit *u, const Tools *t, Forward *f, int64_t first,
                         int64_t end) {
    const int thread = omp_get_thread_num();
    for (int64_t j = 0; j < div_up(u->keys, BLOCK); j++) {
        const Block k = block_of(u->keys, j);
        block_copy(f->stage, t, &k, u->k, u->ldk);
        pack_run(t->across[k.kind], thread, f->keys + j * t->across_size, f->stage);
        block_copy(f->stage, t, &k, u->v, u->ldv);
        pack_run(t->along[k.kind], thread, f->values + j * t->along_size, f->stage);
    }
    for (int64_t i = first / BLOCK; i < div_up(end, BLOCK); i++) {
        const Block q = block_of(u->queries, i);
        forward_query_block(u, t, f, &q);
    }
}

static int64_t longest(const int32_t *start, int64_t S) {
    int64_t most = 0;
    for (int64_t s = 0; s < S; s++) most = max_i64(most, start[s + 1] - start[s]);
    return most;
}

static int team(void) {
    return (int)min_i64(omp_get_max_threads(), onednn_threads());
}

void attention_forward(real *out, int64_t ldo, float *lse, const real *q, int64_t ldq,
                       const real *k, int64_t ldk, const real *v, int64_t ldv,
                       const AttentionShape *shape, void *scratch, Stream stream) {
    (void)stream;
    if (shape->heads == 0 || shape->S == 0) return;
    const Tools tools = tools_get(shape->D);
    const int64_t D = shape->D;
    const int64_t keys_max = longest(shape->k_start, shape->S);
    // Long segments are shared out by ranges of queries; each packs the keys anew.
    const int64_t ranges = div_up(longest(shape->q_start, shape->S), QUERY_RANGE);
#pragma omp parallel num_threads(team())
    {
        Space measure = {0};
        forward_space(&measure, &tools, keys_max);
        Space space = {.base = (char *)scratch + omp_get_thread_num() * measure.used};
        Forward f = forward_space(&space, &tools, keys_max);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < shape->heads * shape->S * ranges; i++) {
            const int64_t h = i / ranges / shape->S, s = i / ranges % shape->S;
            const int64_t q0 = shape->q_start[s], k0 = shape->k_start[s];
            const ForwardUnit unit = {.out = out + q0 * ldo + h * D,
                                      .ldo = ldo,
                                      .lse = lse + q0 * shape->heads + h,
                                      .q = q + q0 * ldq + h * D,
                                      .ldq = ldq,
                                      .k = k + k0 * ldk + h * D,
                                      .ldk = ldk,
                                      .v = v + k0 * ldv + h * D,
                                      .ldv = ldv,
                                      .queries = shape->q_start[s + 1] - q0,
                                      .keys = shape->k_start[s + 1] - k0,
                                      .heads = shape->heads,
                                      .scale = shape->scale};
            const int64_t first = i % ranges * QUERY_RANGE;
            if (first >= unit.queries) continue;
            forward_unit(&unit, &tools, &f, first, min_i64(first + QUERY_RANGE, unit.queries));
        }
    }
}

typedef struct {
    real *k, *v, *k_along;                                // Keys: rows, rows, packed. [blocks]
    real *q_across, *q_along, *dout_across, *dout_along;  // Queries, packed. [blocks]
    float *lse, *delta;                                   // [blocks, BLOCK]; lse times log2 e
    float *dq;                                            // [blocks, BLOCK, D]
    float *dk, *dv;                                       // [BLOCK, D]
    float *scores, *dweights;                             // [BLOCK, BLOCK], keys x queries
    real *weights, *dscores;                              // The same.
    real *stage;                                          // [BLOCK, depth]
} Backward;

static Backward backward_space(Space *space, const Tools *t, int64_t queries, int64_t keys) {
    const int64_t query_blocks = div_up(queries, BLOCK), key_blocks = div_up(keys, BLOCK);
    Backward b;
    b.k = space_real(space, key_blocks * BLOCK * t->depth);
    b.v = space_real(space, key_blocks * BLOCK * t->depth);
    b.k_along = space_real(space, key_blocks * t->along_size);
    b.q_across = space_real(space, query_blocks * t->across_size);
    b.q_along = space_real(space, query_blocks * t->along_size);
    b.dout_across = space_real(space, query_blocks * t->across_size);
    b.dout_along = space_real(space, query_blocks * t->along_size);
    b.weights = space_real(space, BLOCK * BLOCK);
    b.dscores = space_real(space, BLOCK * BLOCK);
    b.stage = space_real(space, BLOCK * t->depth);
    b.lse = space_float(space, query_blocks * BLOCK);
    b.delta = space_float(space, query_blocks * BLOCK);
    b.dq = space_float(space, query_blocks * BLOCK * t->D);
    b.dk = space_float(space, BLOCK * t->D);
    b.dv = space_float(space, BLOCK * t->D);
    b.scores = space_float(space, BLOCK * BLOCK);
    b.dweights = space_float(space, BLOCK * BLOCK);
    return b;
}

// The arguments moved to one head and segment.
typedef struct {
    AttentionBackward a;
    int64_t queries, keys, heads;
    float scale;
} BackwardUnit;

static void backward_pack(const BackwardUnit *u, const Tools *t, Backward *b) {
    const int thread = omp_get_thread_num();
    const AttentionBackward *a = &u->a;
    for (int64_t j = 0; j < div_up(u->keys, BLOCK); j++) {
        const Block k = block_of(u->keys, j);
        real *rows = b->k + j * BLOCK * t->depth;
        block_copy(rows, t, &k, a->k, a->ldk);
        pack_run(t->along[k.kind], thread, b->k_along + j * t->along_size, rows);
        block_copy(b->v + j * BLOCK * t->depth, t, &k, a->v, a->ldv);
    }
    for (int64_t i = 0; i < div_up(u->queries, BLOCK); i++) {
        const Block q = block_of(u->queries, i);
        block_copy(b->stage, t, &q, a->q, a->ldq);
        pack_run(t->across[q.kind], thread, b->q_across + i * t->across_size, b->stage);
        pack_run(t->along[q.kind], thread, b->q_along + i * t->along_size, b->stage);
        block_copy(b->stage, t, &q, a->dout, a->lddo);
        pack_run(t->across[q.kind], thread, b->dout_across + i * t->across_size, b->stage);
        pack_run(t->along[q.kind], thread, b->dout_along + i * t->along_size, b->stage);
        float *lse = b->lse + i * BLOCK, *delta = b->delta + i * BLOCK;
        for (int64_t r = 0; r < q.full; r++) {
            const real *out = a->out + (q.first + r) * a->ldo;
            if (r + AHEAD < q.rows) row_fetch(out + AHEAD * a->ldo, t->D);
            // The rows that fill up get no weight. The stage still holds dout.
            lse[r] = r < q.rows ? a->lse[(q.first + r) * u->heads] * log2_e : 1e30f;
            delta[r] = r < q.rows ? row_dot(b->stage + r * t->depth, out, t->D) : 0.0f;
        }
        memset(b->dq + i * BLOCK * t->D, 0, (size_t)(q.full * t->D) * sizeof(float));
    }
}

// P = exp(S scale - lse), dS = P (dP - delta) scale, both [keys, queries].
static void backward_pointwise(Backward *b, const Block *k, const Block *q, int64_t i,
                               float scale) {
    const float *lse = b->lse + i * BLOCK, *delta = b->delta + i * BLOCK;
    const float c = scale * log2_e;
    for (int64_t r = 0; r < k->rows; r++) {
        const int64_t at = r * q->full;
        row_gradient(b->weights + at, b->dscores + at, b->scores + at, b->dweights + at, lse, delta,
                     c, scale, q->full);
    }
    const size_t rest = (size_t)((k->full - k->rows) * q->full) * sizeof(real);
    memset(b->weights + k->rows * q->full, 0, rest);
    memset(b->dscores + k->rows * q->full, 0, rest);
}

static void rows_write(real *to, int64_t ld, const Block *b, const float *from, int64_t D) {
    to += b->first * ld;
    for (int64_t r = 0; r < b->rows; r++) {
        if (r + AHEAD < b->rows) row_fetch(to + (r + AHEAD) * ld, D);
        row_store(to + r * ld, from + r * D, NULL, false, D);
    }
}

static void backward_key_block(const BackwardUnit *u, const Tools *t, Backward *b, int64_t j) {
    const int thread = omp_get_thread_num();
    const Block k = block_of(u->keys, j);
    const real *k_rows = b->k + j * BLOCK * t->depth, *v_rows = b->v + j * BLOCK * t->depth;
    memset(b->dk, 0, (size_t)(k.full * t->D) * sizeof(float));
    memset(b->dv, 0, (size_t)(k.full * t->D) * sizeof(float));
    for (int64_t i = 0; i < div_up(u->queries, BLOCK); i++) {
        const Block q = block_of(u->queries, i);
        tile_run(t->scores[k.kind][q.kind], thread, b->scores, k_rows,
                 b->q_across + i * t->across_size);
        tile_run(t->scores[k.kind][q.kind], thread, b->dweights, v_rows,
                 b->dout_across + i * t->across_size);
        backward_pointwise(b, &k, &q, i, u->scale);
        tile_run(t->values[k.kind][q.kind], thread, b->dv, b->weights,
                 b->dout_along + i * t->along_size);
        tile_run(t->values[k.kind][q.kind], thread, b->dk, b->dscores,
                 b->q_along + i * t->along_size);
        tile_run(t->values_across[q.kind][k.kind], thread, b->dq + i * BLOCK * t->D, b->dscores,
                 b->k_along + j * t->along_size);
    }
    rows_write(u->a.dk, u->a.lddk, &k, b->dk, t->D);
    rows_write(u->a.dv, u->a.lddv, &k, b->dv, t->D);
}

static void backward_unit(const BackwardUnit *u, const Tools *t, Backward *b) {
    backward_pack(u, t, b);
    for (int64_t j = 0; j < div_up(u->keys, BLOCK); j++) backward_key_block(u, t, b, j);
    for (int64_t i = 0; i < div_up(u->queries, BLOCK); i++) {
        const Block q = block_of(u->queries, i);
        rows_write(u->a.dq, u->a.lddq, &q, b->dq + i * BLOCK * t->D, t->D);
    }
}

static BackwardUnit unit_of(const AttentionBackward *a, const AttentionShape *shape, int64_t h,
                            int64_t s) {
    const int64_t q0 = shape->q_start[s], k0 = shape->k_start[s], column = h * shape->D;
    BackwardUnit u = {.a = *a, .heads = shape->heads, .scale = shape->scale};
    u.queries = shape->q_start[s + 1] - q0;
    u.keys = shape->k_start[s + 1] - k0;
    u.a.dq += q0 * a->lddq + column;
    u.a.dk += k0 * a->lddk + column;
    u.a.dv += k0 * a->lddv + column;
    u.a.dout += q0 * a->lddo + column;
    u.a.out += q0 * a->ldo + column;
    u.a.q += q0 * a->ldq + column;
    u.a.k += k0 * a->ldk + column;
    u.a.v += k0 * a->ldv + column;
    u.a.lse += q0 * shape->heads + h;
    return u;
}

void attention_backward(const AttentionBackward *arguments, const AttentionShape *shape,
                        void *scratch, Stream stream) {
    (void)stream;
    if (shape->heads == 0 || shape->S == 0) return;
    const Tools tools = tools_get(shape->D);
    const int64_t queries_max = longest(shape->q_start, shape->S);
    const int64_t keys_max = longest(shape->k_start, shape->S);
#pragma omp parallel num_threads(team())
    {
        Space measure = {0};
        backward_space(&measure, &tools, queries_max, keys_max);
        Space space = {.base = (char *)scratch + omp_get_thread_num() * measure.used};
        Backward b = backward_space(&space, &tools, queries_max, keys_max);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < shape->heads * shape->S; i++) {
            const BackwardUnit u = unit_of(arguments, shape, i / shape->S, i % shape->S);
            backward_unit(&u, &tools, &b);
        }
    }
}

int64_t attention_scratch(const AttentionBounds *bounds, bool backward) {
    if (bounds->heads == 0) return 0;
    const Tools tools = tools_get(bounds->D);
    Space space = {0};
    if (backward) {
        backward_space(&space, &tools, bounds->T, bounds->X);
    } else {
        forward_space(&space, &tools, bounds->X);
    }
    return onednn_threads() * space.used;
}

void attention_prepare(const AttentionBounds *bounds, int64_t ldq, int64_t ldk, int64_t ldv,
                       int64_t ldo) {
    (void)ldq;
    (void)ldk;
    (void)ldv;
    (void)ldo;
    tools_get(bounds->D);
}

const char *attention_describe(int64_t D, bool deterministic) {
    (void)D;
    (void)deterministic;
    return "oneDNN's products in tiles";
}
