#include "model/ops/product.h"

#include <omp.h>
#include <string.h>

#include "base/device.h"
#include "base/die.h"
#include "model/ops/cpu/onednn.h"
#include "model/ops/cpu/parts.h"
#include "model/ops/cpu/rows.h"

// A product is cut into tiles of fixed shapes: blocks of ROWS tokens (the last one is a smaller
// class, filled up with zeros) x `width` outputs, summed over chunks of `depth`. The right factor
// is packed once per call and shared by the threads; each thread packs its own left factor and
// writes whole tiles, so the order of every sum follows from the shape alone.
enum { ROWS = 256, WIDTH_MAX = 384, DEPTH_MAX = 576, TOKENS = 512, TOKENS_AT_ONCE = 4096 };

// The classes of a last block, which ends with the full one.
static const int64_t row_class[] = {16, 64, 128, ROWS};
static const int64_t token_class[] = {64, 128, 256, TOKENS};
enum { CLASSES = 4 };

// One piece of memory, in which the calls take turns; grown by linear_prepare, before step 0.
static struct {
    char *memory;
    int64_t bytes;
} scratch;

// A call's part of it: what its threads share, then what each has of its own.
typedef struct {
    real *shared;
    char *own;
    int64_t own_bytes;  // Of each thread.
} Room;

static int64_t room_bytes(int64_t shared, int64_t own) {
    return round_up(shared, 256) + onednn_threads() * round_up(own, 256);
}

// The first `begin` bytes are in use.
static Room room_take(int64_t begin, int64_t shared, int64_t own, int64_t N, int64_t K) {
    CHECK(begin + room_bytes(shared, own) <= scratch.bytes,
          "product of %lld x %lld was not prepared", (long long)N, (long long)K);
    Room room = {.own_bytes = round_up(own, 256)};
    room.shared = (real *)(void *)(scratch.memory + begin);
    room.own = scratch.memory + begin + round_up(shared, 256);
    return room;
}

static int team(void) {
    return (int)min_i64(omp_get_max_threads(), onednn_threads());
}

static int class_of(const int64_t *classes, int64_t count) {
    for (int i = 0; i < CLASSES - 1; i++) {
        if (count <= classes[i]) return i;
    }
    return CLASSES - 1;
}

// The tile width for N outputs: least zeros at the end, then the widest.
static int64_t tile_width(int64_t N, int64_t width_max) {
    if (N <= 64) return round_up(N, 16);
    int64_t best = 64;
    for (int64_t width = 128; width <= width_max; width += 64) {
        if (round_up(N, width) <= round_up(N, best)) best = width;
    }
    return best;
}

// A right factor [K, N] in packed tiles [columns, layers, size].
typedef struct {
    int64_t N, K, width, depth, columns, layers, size;
} Grid;

static Grid grid_make(int64_t N, int64_t K) {
    Grid g = {.N = N, .K = K, .width = tile_width(N, WIDTH_MAX)};
    g.depth = tile_depth(div_up(K, div_up(K, DEPTH_MAX)));
    g.columns = div_up(N, g.width);
    g.layers = div_up(K, g.depth);
    g.size = packed_size(g.depth, g.width);
    return g;
}

// What a thread has of its own, in one piece of grid_own bytes; `shared` is the packed right
// factor.
typedef struct {
    real *shared;
    real *left;   // Its left factor: [layers, rows, depth].
    real *stage;  // A block on its way to being packed.
    real *right;  // A packed tile.
    float *sums;  // [rows, width]
} Own;

static int64_t grid_left(const Grid *g) {
    return round_up(ROWS * g->layers * g->depth, 64);
}
static int64_t grid_stage(const Grid *g) {
    return round_up(g->width * g->depth, 64);
}
static int64_t grid_own(const Grid *g) {
    return (grid_left(g) + grid_stage(g) + g->size) * (int64_t)sizeof(real) +
           ROWS * g->width * (int64_t)sizeof(float);
}
static int64_t grid_shared(const Grid *g) {
    return g->columns * g->layers * g->size * (int64_t)sizeof(real);
}
static Own own_of(const Grid *g, const Room *room) {
    Own own = {.shared = room->shared};
    own.left = (real *)(void *)(room->own + omp_get_thread_num() * room->own_bytes);
    own.stage = own.left + grid_left(g);
    own.right = own.stage + grid_stage(g);
    own.sums = (float *)(void *)(own.right + g->size);
    return own;
}

// Packing a block [rows, columns] of a matrix: from where it lies if its rows are ld apart and it
// is whole, else by way of a staging block.
typedef struct {
    const Pack *direct, *staged;
    int64_t rows, columns, ld;
} Packer;

static Packer packer_make(PackKind kind, int64_t rows, int64_t columns, int64_t ld) {
    ld = max_i64(ld, columns);  // A matrix narrower than a block has no whole one.
    return (Packer){pack_get(kind, rows, columns, ld), pack_get(kind, rows, columns, columns), rows,
                    columns, ld};
}

static void packer_run(const Packer *p, int thread, real *out, real *stage, const real *in,
                       int64_t ld, int64_t rows, int64_t columns) {
    if (ld == p->ld && rows == p->rows && columns == p->columns) {
        pack_run(p->direct, thread, out, in);
        return;
    }
    rows_copy(stage, p->rows, p->columns, in, ld, rows, columns);
    pack_run(p->staged, thread, out, stage);
}

// out [T, N] = x [T, K] times a right factor: w [K, N], or w [N, K] where transposed.
typedef struct {
    real *out;
    float *out_float;  // In place of out: += in float.
    int64_t ldo;
    bool add;
    const real *x;
    int64_t ldx;
    const real *w, *bias;
    bool transposed;
    int64_t T, N, K;
    int64_t begin;  // Bytes of scratch that are in use.
} Rows;

static Packer rows_packer(const Grid *g, bool transposed) {
    return transposed ? packer_make(PACK_RIGHT_TRANSPOSED, g->width, g->depth, g->K)
                      : packer_make(PACK_RIGHT, g->depth, g->width, g->N);
}

// Packs tile i = column * layers + layer of the right factor.
static void rows_pack(real *out, const Rows *r, const Grid *g, const Packer *packer, real *stage,
                      int64_t i) {
    const int64_t n = i / g->layers * g->width, k = i % g->layers * g->depth;
    const int64_t width = min_i64(g->width, g->N - n), depth = min_i64(g->depth, g->K - k);
    const int thread = omp_get_thread_num();
    if (r->transposed) {
        packer_run(packer, thread, out, stage, r->w + n * g->K + k, g->K, width, depth);
    } else {
        packer_run(packer, thread, out, stage, r->w + k * g->N + n, g->N, depth, width);
    }
}

// Writes the sums c [rows, ldc] of columns n.. to where they belong.
static void rows_store(const Rows *r, const float *c, int64_t ldc, int64_t t, int64_t rows,
                       int64_t n, int64_t columns) {
    for (int64_t i = 0; i < rows; i++, c += ldc) {
        if (r->out_float) {
            float *out = r->out_float + (t + i) * r->ldo + n;
#pragma omp simd
            for (int64_t j = 0; j < columns; j++) out[j] += c[j];
            continue;
        }
        row_store(r->out + (t + i) * r->ldo + n, c, r->bias ? r->bias + n : NULL, r->add, columns);
    }
}

// A block of rows, and which columns of tiles are wanted.
typedef struct {
    int64_t t, rows, full;  // First row, how many there are, how many the tiles have.
    int64_t first, last;    // Columns [first, last).
    const Tile *tile[2];    // The first layer's, which overwrites, and the others', which add.
} RowBlock;

// packer NULL: the right factor is packed already, for all.
static void rows_block(const Rows *r, const Grid *g, const RowBlock *b, const Own *own,
                       const Packer *packer) {
    const real *a = r->x + b->t * r->ldx;
    if (g->layers > 1 || g->depth != r->ldx || b->rows < b->full) {
        for (int64_t l = 0; l < g->layers; l++) {
            rows_copy(own->left + l * b->full * g->depth, b->full, g->depth, a + l * g->depth,
                      r->ldx, b->rows, min_i64(g->depth, g->K - l * g->depth));
        }
        a = own->left;
    }
    for (int64_t j = b->first; j < b->last; j++) {
        for (int64_t l = 0; l < g->layers; l++) {
            const real *right = own->shared + (j * g->layers + l) * g->size;
            if (packer != NULL) {
                rows_pack(own->right, r, g, packer, own->stage, j * g->layers + l);
                right = own->right;
            }
            tile_run(b->tile[l > 0], omp_get_thread_num(), own->sums, a + l * b->full * g->depth,
                     right);
        }
        rows_store(r, own->sums, g->width, b->t, b->rows, j * g->width,
                   min_i64(g->width, g->N - j * g->width));
    }
}

static RowBlock row_block_of(const Grid *g, int64_t T, int64_t t) {
    RowBlock b = {.t = t, .rows = min_i64(ROWS, T - t)};
    b.full = row_class[class_of(row_class, b.rows)];
    for (int add = 0; add < 2; add++) {
        b.tile[add] = tile_get((TileShape){.M = b.full, .N = g->width, .K = g->depth, .add = add});
    }
    return b;
}

static void rows_product(const Rows *r) {
    if (r->T == 0) return;
    const Grid g = grid_make(r->N, r->K);
    const Packer packer = rows_packer(&g, r->transposed);
    const int64_t blocks = div_up(r->T, ROWS);
    const RowBlock full = row_block_of(&g, ROWS, 0);
    const RowBlock tail = row_block_of(&g, r->T, (blocks - 1) * ROWS);
    const Room room = room_take(r->begin, grid_shared(&g), grid_own(&g), r->N, r->K);
    const int threads = team();
    // Few blocks: their columns are shared out too. A single one: who needs a tile packs it. No sum
    // is split by this.
    const bool single = blocks == 1 && g.columns >= 2 * threads;
    const int64_t groups = single ? g.columns : min_i64(g.columns, div_up(4 * threads, blocks));
#pragma omp parallel num_threads(threads)
    {
        const Own own = own_of(&g, &room);
        if (!single) {
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < g.columns * g.layers; i++) {
                rows_pack(own.shared + i * g.size, r, &g, &packer, own.stage, i);
            }
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < blocks * groups; i++) {
            RowBlock b = i / groups == blocks - 1 ? tail : full;
            b.t = i / groups * ROWS;
            b.first = i % groups * g.columns / groups;
            b.last = (i % groups + 1) * g.columns / groups;
            rows_block(r, &g, &b, &own, single ? &packer : NULL);
        }
    }
}

void linear_forward(real *out, int64_t ldo, const real *x, int64_t ldx, const real *w,
                    const real *b, int64_t T, int64_t N, int64_t K, Stream stream) {
    (void)stream;
    rows_product(&(Rows){.out = out,
                         .ldo = ldo,
                         .x = x,
                         .ldx = ldx,
                         .w = w,
                         .bias = b,
                         .transposed = true,
                         .T = T,
                         .N = N,
                         .K = K});
}

void linear_backward_input(real *dx, int64_t lddx, bool add_dx, const real *dout, int64_t lddo,
                           const real *w, int64_t T, int64_t N, int64_t K, Stream stream) {
    (void)stream;
    if (dx == NULL) return;
    rows_product(&(Rows){.out = dx,
                         .ldo = lddx,
                         .add = add_dx,
                         .x = dout,
                         .ldx = lddo,
                         .w = w,
                         .T = T,
                         .N = K,
                         .K = N});
}

// dw [N, K] = dout^T x: blocks of `height` whole rows of dw, summed over chunks of TOKENS tokens,
// in place where dw is float, else in scratch. x is packed once for all blocks where that pays.
// (Packing dout as well and keeping the sums of 384 x 384 tiles was slower by a quarter on AMX:
// what is packed leaves the cache before it is used.) In fp32 rows that are long and not packed are
// cut into tiles of `width` columns, whose sums each thread keeps: an AVX2 core does whole rows of
// 1,024 at 42 GFLOP/s, tiles of 256 at 60.
typedef struct {
    Gradient to;  // dw.
    float *dw;    // Its sums, but in tiles.
    bool add;     // They start from what is there.
    float *db;    // The sums of the bias, from zero on; NULL: not wanted.
    const real *dout, *x;
    int64_t lddo, ldx, N, K, height, blocks;
    int64_t width;  // Columns of a tile where it is not whole rows, else 0.
    bool packed;
    int64_t packed_chunk;  // Elements.
    Room room;
} Weight;

static Weight weight_shape(int64_t N, int64_t K) {
    Weight s = {.N = N, .K = K, .height = tile_width(N, N <= 512 ? 128 : 256)};
    s.blocks = div_up(N, s.height);
    s.packed = s.blocks >= 4 && K <= 4 * TOKENS;
    if (s.packed) s.packed_chunk = packed_size(TOKENS, K);
    if (REAL_TYPE == TYPE_F32 && !s.packed && K > TOKENS) s.width = tile_width(K, WIDTH_MAX);
    return s;
}

// The chunks of x that are not dense or not whole, then those packed; a thread's copy of its
// columns of dout.
static int64_t weight_copies(const Weight *s, int64_t T) {
    return round_up(min_i64(T, TOKENS_AT_ONCE), TOKENS) * s->K;
}
static int64_t weight_shared(const Weight *s, int64_t T) {
    if (s->width) return 0;
    const int64_t chunks = div_up(min_i64(T, TOKENS_AT_ONCE), TOKENS);
    return (weight_copies(s, T) + chunks * s->packed_chunk) * (int64_t)sizeof(real);
}
static int64_t weight_own(const Weight *s) {
    return TOKENS * (s->height + s->width) * (int64_t)sizeof(real) +
           s->height * s->width * (int64_t)sizeof(float);
}

// The sums that all threads share: of dw, which only one that is not float needs, and of db.
static int64_t weight_sums(const Weight *s) {
    const int64_t dw = s->width ? 0 : s->N * s->K;
    return round_up((dw + s->N) * (int64_t)sizeof(float), 256);
}

// For a chunk of this many tokens. tile [0]: of blocks, [1]: of the last block, which may be lower
// where rows are whole; [.][0] of the first chunk, which overwrites, [.][1] of others, which add.
typedef struct {
    int64_t tokens;
    const Pack *pack;
    const Tile *tile[2][2];
} WeightTools;

static WeightTools weight_tools(const Weight *s, int64_t tokens) {
    WeightTools tools = {.tokens = tokens};
    if (s->packed) tools.pack = pack_get(PACK_RIGHT, tokens, s->K, s->K);
    TileShape shape = {.N = s->K, .K = tokens, .a_transposed = true, .b_plain = !s->packed};
    if (s->width) shape.N = s->width;
    for (int last = 0; last < 2; last++) {
        const int64_t first = last ? (s->blocks - 1) * s->height : 0;
        shape.M = s->width ? s->height : min_i64(s->height, s->N - first);
        for (int add = 0; add < 2; add++) {
            shape.add = add;
            tools.tile[last][add] = tile_get(shape);
        }
    }
    return tools;
}

static void weight_block(const Weight *s, const WeightTools *tools, bool last, const real *x,
                         real *stage, int64_t n, int64_t t, int64_t tokens) {
    const int64_t rows = min_i64(s->height, s->N - n);
    const real *dout = s->dout + t * s->lddo + n;
    if (s->lddo != rows || tokens < tools->tokens) {
        rows_copy(stage, tools->tokens, rows, dout, s->lddo, tokens, rows);
        dout = stage;
    }
    const bool add = s->add || t > 0;
    tile_run(tools->tile[last][add], omp_get_thread_num(), s->dw + n * s->K, dout, x);
    if (s->db == NULL) return;
    rows_sum(s->db + n, dout, tokens, rows);
}

// The tile at row n and column k of dw, summed beside it: both factors' chunks are copied first.
static void weight_tile(const Weight *s, const WeightTools *full, const WeightTools *tail,
                        int64_t n, int64_t k, int64_t T) {
    const int64_t rows = min_i64(s->height, s->N - n), columns = min_i64(s->width, s->K - k);
    const int thread = omp_get_thread_num();
    real *left = (real *)(void *)(s->room.own + thread * s->room.own_bytes);
    real *right = left + TOKENS * s->height;
    float *sums = (float *)(void *)(right + TOKENS * s->width);
    for (int64_t t = 0; t < T; t += TOKENS) {
        const WeightTools *tools = T - t > TOKENS ? full : tail;
        const int64_t tokens = min_i64(TOKENS, T - t);
        rows_copy(left, tools->tokens, s->height, s->dout + t * s->lddo + n, s->lddo, tokens, rows);
        rows_copy(right, tools->tokens, s->width, s->x + t * s->ldx + k, s->ldx, tokens, columns);
        tile_run(tools->tile[0][t > 0], thread, sums, left, right);
        if (s->db == NULL || k > 0) continue;
        for (int64_t u = 0; u < tokens; u++) {
#pragma omp simd
            for (int64_t j = 0; j < rows; j++) s->db[n + j] += to_float(left[u * s->height + j]);
        }
    }
    for (int64_t i = 0; i < rows; i++) {
        gradient_row(gradient_from(s->to, (n + i) * s->K + k), sums + i * s->width, columns);
    }
}

static void weight_tiles(const Weight *s, int64_t T) {
    const int64_t last = T - (div_up(T, TOKENS) - 1) * TOKENS, columns = div_up(s->K, s->width);
    const WeightTools full = weight_tools(s, TOKENS);
    const WeightTools tail = weight_tools(s, token_class[class_of(token_class, last)]);
#pragma omp parallel for num_threads(team()) schedule(dynamic)
    for (int64_t i = 0; i < s->blocks * columns; i++) {
        weight_tile(s, &full, &tail, i / columns * s->height, i % columns * s->width, T);
    }
}

// At most TOKENS_AT_ONCE tokens from t on.
static void weight_chunks(const Weight *s, int64_t t, int64_t T) {
    const int64_t chunks = div_up(T, TOKENS), last = T - (chunks - 1) * TOKENS;
    const WeightTools full = weight_tools(s, TOKENS);
    const WeightTools tail = weight_tools(s, token_class[class_of(token_class, last)]);
    // Chunks from here on are copied first.
    const int64_t copied = s->ldx != s->K ? 0 : last < tail.tokens ? chunks - 1 : chunks;
    const real *right[TOKENS_AT_ONCE / TOKENS];
    real *shared = s->room.shared, *packed = shared + weight_copies(s, T);
#pragma omp parallel num_threads(team())
    {
        real *stage = (real *)(void *)(s->room.own + omp_get_thread_num() * s->room.own_bytes);
#pragma omp for schedule(static)
        for (int64_t u = copied * TOKENS; u < (chunks - 1) * TOKENS + tail.tokens; u++) {
            rows_copy(shared + u * s->K, 1, s->K, s->x + (t + u) * s->ldx, s->ldx, u < T, s->K);
        }
#pragma omp for schedule(dynamic)
        for (int64_t h = 0; h < chunks; h++) {
            const int64_t first = h * TOKENS;
            right[h] = h < copied ? s->x + (t + first) * s->ldx : shared + first * s->K;
            if (!s->packed) continue;
            real *to = packed + h * s->packed_chunk;
            pack_run((h < chunks - 1 ? &full : &tail)->pack, omp_get_thread_num(), to, right[h]);
            right[h] = to;
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s->blocks; i++) {
            for (int64_t h = 0; h < chunks; h++) {
                weight_block(s, h < chunks - 1 ? &full : &tail, i == s->blocks - 1, right[h], stage,
                             i * s->height, t + h * TOKENS, min_i64(TOKENS, T - h * TOKENS));
            }
        }
    }
}

// In whole rows of dw.
static void weight_rows(Weight *s, float *sums, int64_t T) {
    const bool in_place = s->to.type == TYPE_F32;
    s->dw = in_place ? s->to.at : sums;
    s->add = in_place && s->to.add;
    for (int64_t t = 0; t < T; t += TOKENS_AT_ONCE) {
        weight_chunks(s, t, min_i64(T - t, TOKENS_AT_ONCE));
    }
    if (in_place) return;
#pragma omp parallel for num_threads(team()) schedule(static)
    for (int64_t n = 0; n < s->N; n++) {
        gradient_row(gradient_from(s->to, n * s->K), sums + n * s->K, s->K);
    }
}

// `begin`: bytes of scratch that are in use. db at NULL: not wanted.
static void weight_product(Weight s, Gradient db, int64_t T, int64_t begin) {
    float *sums = (float *)(void *)(scratch.memory + begin);
    begin += weight_sums(&s);
    s.room = room_take(begin, weight_shared(&s, T), weight_own(&s), s.N, s.K);
    if (db.at != NULL) {
        s.db = sums + (s.width ? 0 : s.N * s.K);
        memset(s.db, 0, (size_t)s.N * sizeof(float));
    }
    if (T == 0) {
        if (!s.to.add) memset(s.to.at, 0, (size_t)(s.N * s.K * type_size(s.to.type)));
    } else if (s.width) {
        weight_tiles(&s, T);
    } else {
        weight_rows(&s, sums, T);
    }
    if (db.at != NULL) gradient_row(db, s.db, s.N);
}

void linear_backward_weight(Gradient dw, Gradient db, const real *dout, int64_t lddo, const real *x,
                            int64_t ldx, int64_t T, int64_t N, int64_t K, Stream stream) {
    (void)stream;
    Weight s = weight_shape(N, K);
    s.to = dw;
    s.dout = dout;
    s.x = x;
    s.lddo = lddo;
    s.ldx = ldx;
    weight_product(s, db, T, 0);
}

// What linear_rows_backward rounds first: [S, N] real, at the start of the scratch.
static int64_t rounded_bytes(int64_t S, int64_t N) {
    return round_up(S * N * (int64_t)sizeof(real), 256);
}

void linear_rows_backward(float *dx, Gradient dw, Gradient db, const float *dout, const real *x,
                          const real *w, int64_t S, int64_t N, int64_t K, Stream stream) {
    (void)stream;
    const int64_t begin = rounded_bytes(S, N);
    CHECK(begin <= scratch.bytes, "rows %lld x %lld were not prepared", (long long)S, (long long)N);
    real *rounded = (real *)(void *)scratch.memory;
#pragma omp parallel for num_threads(team()) schedule(static)
    for (int64_t n = 0; n < N; n += 64) {
        const int64_t end = min_i64(n + 64, N);
        float sums[64] = {0};
        for (int64_t s = 0; s < S; s++) {
#pragma omp simd
            for (int64_t j = n; j < end; j++) {
                rounded[s * N + j] = to_real(dout[s * N + j]);
                sums[j - n] += dout[s * N + j];
            }
        }
        if (db.at != NULL) gradient_row(gradient_from(db, n), sums, end - n);
    }
    Weight weight = weight_shape(N, K);
    weight.to = dw;
    weight.dout = rounded;
    weight.x = x;
    weight.lddo = N;
    weight.ldx = K;
    weight_product(weight, (Gradient){0}, S, begin);
    if (dx == NULL) return;
    rows_product(&(Rows){.out_float = dx,
                         .ldo = K,
                         .x = rounded,
                         .ldx = N,
                         .w = w,
                         .T = S,
                         .N = K,
                         .K = N,
                         .begin = begin});
}

// The plans, and the bytes of scratch.
static int64_t make_plans(int64_t T_max, int64_t N, int64_t K, bool rows) {
    int64_t most = 0;
    for (int transposed = 0; transposed < 2; transposed++) {
        const Grid g = transposed ? grid_make(N, K) : grid_make(K, N);
        rows_packer(&g, transposed);
        for (int i = 0; i < CLASSES; i++) row_block_of(&g, row_class[i], 0);
        most = max_i64(most, room_bytes(grid_shared(&g), grid_own(&g)));
    }
    const Weight s = weight_shape(N, K);
    for (int i = 0; i < CLASSES; i++) weight_tools(&s, token_class[i]);
    most = max_i64(most, weight_sums(&s) + room_bytes(weight_shared(&s, T_max), weight_own(&s)));
    return most + (rows ? rounded_bytes(T_max, N) : 0);
}

void linear_prepare(int64_t T_max, int64_t N, int64_t K, bool rows) {
    const int64_t bytes = make_plans(T_max, N, K, rows);
    if (bytes <= scratch.bytes) return;
    device_free(scratch.memory);
    scratch.memory = device_allocate("products", bytes);
    scratch.bytes = bytes;
}

int64_t linear_shared_bytes(int64_t T_max, int64_t N, int64_t K, bool rows) {
    const int64_t bytes = make_plans(T_max, N, K, rows);
    return bytes + onednn_scratch_bytes();
}

double linear_plain_flops(int64_t T, int64_t N, int64_t K) {
    return 1e9 * onednn_plain_gflops(T, N, K);
}

// On this backend one call would save next to nothing (bench/RESULTS.md).
bool linear_gelu_fused(int64_t N, int64_t K) {
    (void)N, (void)K;
    return false;
}

bool linear_gelu_backward_input(real *dz, const real *z, const real *dout, int64_t lddo,
                                const real *w, int64_t T, int64_t N, int64_t K, Stream stream) {
    (void)dz, (void)z, (void)dout, (void)lddo, (void)w, (void)T, (void)N, (void)K, (void)stream;
    return false;
}

void linear_gelu_prepare(int64_t T_max, int64_t N, int64_t K) {
    (void)T_max, (void)N, (void)K;
}

void linear_time(int64_t T_max, int64_t N, int64_t K) {
    (void)T_max, (void)N, (void)K;  // Of oneDNN's one algorithm.
}
