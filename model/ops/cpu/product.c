#include "model/ops/product.h"

#include <omp.h>
#include <string.h>

#include "base/device.h"
#include "base/die.h"
#include "model/ops/cpu/onednn.h"

// A product is cut into tiles of fixed shapes: blocks of ROWS tokens (the last one is a smaller
// class, filled up with zeros) x `width` outputs, summed over chunks of `depth`. The right factor
// is packed once per call and shared by the threads; each thread packs its own left factor and
// writes whole tiles, so the order of every sum follows from the shape alone.
enum { ROWS = 256, WIDTH_MAX = 384, DEPTH_MAX = 576, TOKENS = 512, TOKENS_AT_ONCE = 4096 };

// The classes of a last block, which ends with the full one.
static const int64_t row_class[] = {16, 64, 128, ROWS};
static const int64_t token_class[] = {64, 128, 256, TOKENS};
enum { CLASSES = 4 };

// Grown by linear_prepare, before step 0.
static struct {
    real *shared;
    char *own;   // [threads, own_size]
    real *rows;  // Rounded gradients of linear_rows_backward.
    int64_t shared_size, own_size, rows_size;
} scratch;

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

// Bytes a thread needs: its left factor, a staging block, the tile's sums.
static int64_t grid_left(const Grid *g) {
    return round_up(ROWS * g->layers * g->depth, 64);
}
static int64_t grid_stage(const Grid *g) {
    return round_up(g->width * g->depth, 64);
}
static int64_t grid_own(const Grid *g) {
    return (grid_left(g) + grid_stage(g)) * (int64_t)sizeof(real) +
           ROWS * g->width * (int64_t)sizeof(float);
}

// to [rows_full, columns_full] = from [rows, columns] and zeros.
static void block_copy(real *to, int64_t rows_full, int64_t columns_full, const real *from,
                       int64_t ld, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++) {
        memcpy(to + r * columns_full, from + r * ld, (size_t)columns * sizeof(real));
        if (columns < columns_full) {
            memset(to + r * columns_full + columns, 0,
                   (size_t)(columns_full - columns) * sizeof(real));
        }
    }
    memset(to + rows * columns_full, 0, (size_t)((rows_full - rows) * columns_full) * sizeof(real));
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
    block_copy(stage, p->rows, p->columns, in, ld, rows, columns);
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
} Rows;

static Packer rows_packer(const Grid *g, bool transposed) {
    return transposed ? packer_make(PACK_RIGHT_TRANSPOSED, g->width, g->depth, g->K)
                      : packer_make(PACK_RIGHT, g->depth, g->width, g->N);
}

static void rows_pack(const Rows *r, const Grid *g, const Packer *packer, real *stage, int64_t i) {
    const int64_t n = i / g->layers * g->width, k = i % g->layers * g->depth;
    const int64_t width = min_i64(g->width, g->N - n), depth = min_i64(g->depth, g->K - k);
    real *out = scratch.shared + i * g->size;
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
        real *out = r->out + (t + i) * r->ldo + n;
        if (r->add) {
#pragma omp simd
            for (int64_t j = 0; j < columns; j++) out[j] = to_real(to_float(out[j]) + c[j]);
        } else if (r->bias) {
            const real *bias = r->bias + n;
#pragma omp simd
            for (int64_t j = 0; j < columns; j++) out[j] = to_real(c[j] + to_float(bias[j]));
        } else {
#pragma omp simd
            for (int64_t j = 0; j < columns; j++) out[j] = to_real(c[j]);
        }
    }
}

// The rows from t on, all columns of tiles [first, last).
static void rows_block(const Rows *r, const Grid *g, const Tile *const tile[2], real *left,
                       float *c, int64_t t, int64_t rows, int64_t rows_full, int64_t first,
                       int64_t last) {
    const real *a = r->x + t * r->ldx;
    if (g->layers > 1 || g->depth != r->ldx || rows < rows_full) {
        for (int64_t l = 0; l < g->layers; l++) {
            block_copy(left + l * rows_full * g->depth, rows_full, g->depth, a + l * g->depth,
                       r->ldx, rows, min_i64(g->depth, g->K - l * g->depth));
        }
        a = left;
    }
    for (int64_t j = first; j < last; j++) {
        for (int64_t l = 0; l < g->layers; l++) {
            tile_run(tile[l > 0], omp_get_thread_num(), c, a + l * rows_full * g->depth,
                     scratch.shared + (j * g->layers + l) * g->size);
        }
        rows_store(r, c, g->width, t, rows, j * g->width, min_i64(g->width, g->N - j * g->width));
    }
}

static void rows_tiles(const Tile *tile[2], const Grid *g, int64_t rows) {
    for (int add = 0; add < 2; add++) {
        tile[add] = tile_get((TileShape){.M = rows, .N = g->width, .K = g->depth, .add = add});
    }
}

static void rows_product(const Rows *r) {
    if (r->T == 0) return;
    const Grid g = grid_make(r->N, r->K);
    const Packer packer = rows_packer(&g, r->transposed);
    const int64_t blocks = div_up(r->T, ROWS), last_rows = r->T - (blocks - 1) * ROWS;
    const int64_t last_full = row_class[class_of(row_class, last_rows)];
    const Tile *full[2], *tail[2];
    rows_tiles(full, &g, ROWS);
    rows_tiles(tail, &g, last_full);
    CHECK(g.columns * g.layers * g.size <= scratch.shared_size && grid_own(&g) <= scratch.own_size,
          "product of %lld x %lld was not prepared", (long long)r->N, (long long)r->K);
    const int threads = team();
    // Few blocks: their columns are shared out too. No sum is split by this.
    const int64_t groups = min_i64(g.columns, div_up(4 * threads, blocks));
#pragma omp parallel num_threads(threads)
    {
        real *left = (real *)(void *)(scratch.own + omp_get_thread_num() * scratch.own_size);
        real *stage = left + grid_left(&g);
        float *c = (float *)(void *)(stage + grid_stage(&g));
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < g.columns * g.layers; i++) rows_pack(r, &g, &packer, stage, i);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < blocks * groups; i++) {
            const int64_t b = i / groups, j = i % groups;
            const bool is_last = b == blocks - 1;
            rows_block(r, &g, is_last ? tail : full, left, c, b * ROWS, is_last ? last_rows : ROWS,
                       is_last ? last_full : ROWS, j * g.columns / groups,
                       (j + 1) * g.columns / groups);
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

// dw [N, K] += dout^T x. Tiles of `height` x `width`, summed over chunks of TOKENS tokens.
typedef struct {
    float *dw, *db;
    const real *dout, *x;
    int64_t lddo, ldx, N, K;
    int64_t height, width, tall, wide;  // Tiles along N and K.
    int64_t left_size, right_size;      // Elements of a packed chunk.
    real *left, *right;                 // [chunks, tall or wide, size]
    float *sums;                        // [chunks, N] of dout
} Weight;

static void weight_shape(Weight *s) {
    s->height = tile_width(s->N, WIDTH_MAX);
    s->width = tile_width(s->K, WIDTH_MAX);
    // Small matrices: smaller tiles, so that there are several for the threads.
    while (div_up(s->N, s->height) * div_up(s->K, s->width) < 8 &&
           max_i64(s->height, s->width) > 64) {
        if (s->height >= s->width) {
            s->height = tile_width(s->N, round_up(s->height / 2, 64));
        } else {
            s->width = tile_width(s->K, round_up(s->width / 2, 64));
        }
    }
    s->tall = div_up(s->N, s->height);
    s->wide = div_up(s->K, s->width);
    s->left_size = s->height * TOKENS;
    s->right_size = packed_size(TOKENS, s->width);
}

static int64_t weight_shared(const Weight *s, int64_t T) {
    const int64_t chunks = div_up(min_i64(T, TOKENS_AT_ONCE), TOKENS);
    return chunks * (s->tall * s->left_size + s->wide * s->right_size +
                     round_up(s->N, 64) * (int64_t)(sizeof(float) / sizeof(real)));
}
static int64_t weight_stage(const Weight *s) {
    return TOKENS * round_up(max_i64(s->height, s->width), 64);
}
static int64_t weight_own(const Weight *s) {
    return weight_stage(s) * (int64_t)sizeof(real) + s->height * s->width * (int64_t)sizeof(float);
}

typedef struct {
    Packer left, right;
    const Tile *tile[2];
} WeightTools;

static WeightTools weight_tools(const Weight *s, int64_t tokens) {
    WeightTools tools = {packer_make(PACK_TRANSPOSE, tokens, s->height, s->N),
                         packer_make(PACK_RIGHT, tokens, s->width, s->K),
                         {NULL, NULL}};
    for (int add = 0; add < 2; add++) {
        tools.tile[add] = tile_get((TileShape){s->height, s->width, tokens, add, false});
    }
    return tools;
}

// Packs block i of a chunk: the left ones (with the sums of dout's columns), then the right ones.
static void weight_pack(const Weight *s, const WeightTools *tools, real *stage, int64_t chunk,
                        int64_t i, int64_t t, int64_t tokens) {
    const int thread = omp_get_thread_num();
    if (i >= s->tall) {
        const int64_t j = i - s->tall, k = j * s->width;
        packer_run(&tools->right, thread, s->right + (chunk * s->wide + j) * s->right_size, stage,
                   s->x + t * s->ldx + k, s->ldx, tokens, min_i64(s->width, s->K - k));
        return;
    }
    const int64_t n = i * s->height, rows = min_i64(s->height, s->N - n);
    const real *dout = s->dout + t * s->lddo + n;
    packer_run(&tools->left, thread, s->left + (chunk * s->tall + i) * s->left_size, stage, dout,
               s->lddo, tokens, rows);
    if (s->db == NULL) return;
    float *sum = s->sums + chunk * s->N + n;
    memset(sum, 0, (size_t)rows * sizeof(float));
    for (int64_t u = 0; u < tokens; u++) {
#pragma omp simd
        for (int64_t j = 0; j < rows; j++) sum[j] += to_float(dout[u * s->lddo + j]);
    }
}

static void weight_tile(const Weight *s, const WeightTools *full, const WeightTools *tail, float *c,
                        int64_t chunks, int64_t i) {
    const int64_t n = i / s->wide, k = i % s->wide;
    for (int64_t h = 0; h < chunks; h++) {
        const WeightTools *tools = h == chunks - 1 ? tail : full;
        tile_run(tools->tile[h > 0], omp_get_thread_num(), c,
                 s->left + (h * s->tall + n) * s->left_size,
                 s->right + (h * s->wide + k) * s->right_size);
    }
    const int64_t rows = min_i64(s->height, s->N - n * s->height);
    const int64_t columns = min_i64(s->width, s->K - k * s->width);
    for (int64_t r = 0; r < rows; r++) {
        float *dw = s->dw + (n * s->height + r) * s->K + k * s->width;
        const float *from = c + r * s->width;
#pragma omp simd
        for (int64_t j = 0; j < columns; j++) dw[j] += from[j];
    }
}

// At most TOKENS_AT_ONCE tokens from t on.
static void weight_product(const Weight *s, int64_t t, int64_t T) {
    const int64_t chunks = div_up(T, TOKENS), last = T - (chunks - 1) * TOKENS;
    const WeightTools full = weight_tools(s, TOKENS);
    const WeightTools tail = weight_tools(s, token_class[class_of(token_class, last)]);
#pragma omp parallel num_threads(team())
    {
        real *stage = (real *)(void *)(scratch.own + omp_get_thread_num() * scratch.own_size);
        float *c = (float *)(void *)(stage + weight_stage(s));
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < chunks * (s->tall + s->wide); i++) {
            const int64_t h = i / (s->tall + s->wide);
            const bool is_last = h == chunks - 1;
            weight_pack(s, is_last ? &tail : &full, stage, h, i % (s->tall + s->wide),
                        t + h * TOKENS, is_last ? last : TOKENS);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s->tall * s->wide; i++) weight_tile(s, &full, &tail, c, chunks, i);
        if (s->db != NULL) {
#pragma omp for schedule(static)
            for (int64_t n = 0; n < s->N; n++) {
                float sum = 0;
                for (int64_t h = 0; h < chunks; h++) sum += s->sums[h * s->N + n];
                s->db[n] += sum;
            }
        }
    }
}

void linear_backward_weight(float *dw, float *db, const real *dout, int64_t lddo, const real *x,
                            int64_t ldx, int64_t T, int64_t N, int64_t K, Stream stream) {
    (void)stream;
    Weight s = {.dw = dw, .db = db, .dout = dout, .x = x, .lddo = lddo, .ldx = ldx, .N = N, .K = K};
    weight_shape(&s);
    CHECK(weight_shared(&s, T) <= scratch.shared_size && weight_own(&s) <= scratch.own_size,
          "weight gradient %lld x %lld of %lld tokens was not prepared", (long long)N, (long long)K,
          (long long)T);
    const int64_t chunks = div_up(min_i64(T, TOKENS_AT_ONCE), TOKENS);
    s.left = scratch.shared;
    s.right = s.left + chunks * s.tall * s.left_size;
    s.sums = (float *)(void *)(s.right + chunks * s.wide * s.right_size);
    for (int64_t t = 0; t < T; t += TOKENS_AT_ONCE) {
        weight_product(&s, t, min_i64(T - t, TOKENS_AT_ONCE));
    }
}

void linear_rows_backward(float *dx, float *dw, float *db, const float *dout, const real *x,
                          const real *w, int64_t S, int64_t N, int64_t K, Stream stream) {
    CHECK(S * N <= scratch.rows_size, "rows %lld x %lld were not prepared", (long long)S,
          (long long)N);
    real *rounded = scratch.rows;
#pragma omp parallel for num_threads(team()) schedule(static)
    for (int64_t n = 0; n < N; n += 64) {
        const int64_t end = min_i64(n + 64, N);
        for (int64_t s = 0; s < S; s++) {
#pragma omp simd
            for (int64_t j = n; j < end; j++) {
                rounded[s * N + j] = to_real(dout[s * N + j]);
                if (db != NULL) db[j] += dout[s * N + j];
            }
        }
    }
    linear_backward_weight(dw, NULL, rounded, N, x, K, S, N, K, stream);
    if (dx == NULL) return;
    rows_product(
        &(Rows){.out_float = dx, .ldo = K, .x = rounded, .ldx = N, .w = w, .T = S, .N = K, .K = N});
}

static void grow(void **memory, int64_t *size, int64_t wanted, int64_t unit) {
    if (wanted <= *size) return;
    device_free(*memory);
    *memory = device_allocate("products", wanted * unit);
    *size = wanted;
}

void linear_prepare(int64_t T_max, int64_t N, int64_t K, bool rows) {
    int64_t shared = 0, own = 0;
    for (int transposed = 0; transposed < 2; transposed++) {
        const Grid g = transposed ? grid_make(N, K) : grid_make(K, N);
        rows_packer(&g, transposed);
        for (int i = 0; i < CLASSES; i++) {
            const Tile *tile[2];
            rows_tiles(tile, &g, row_class[i]);
        }
        shared = max_i64(shared, g.columns * g.layers * g.size);
        own = max_i64(own, grid_own(&g));
    }
    Weight s = {.N = N, .K = K};
    weight_shape(&s);
    for (int i = 0; i < CLASSES; i++) weight_tools(&s, token_class[i]);
    shared = max_i64(shared, weight_shared(&s, T_max));
    own = round_up(max_i64(own, weight_own(&s)), 256);
    void *memory = scratch.shared;
    grow(&memory, &scratch.shared_size, shared, (int64_t)sizeof(real));
    scratch.shared = memory;
    memory = scratch.own;
    grow(&memory, &scratch.own_size, own, onednn_threads());
    scratch.own = memory;
    if (!rows) return;
    memory = scratch.rows;
    grow(&memory, &scratch.rows_size, T_max * N, (int64_t)sizeof(real));
    scratch.rows = memory;
}
