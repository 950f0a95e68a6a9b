// Attention over segments of very different lengths, in which a backend may group them: some rows
// of each segment against plain sums in double, forward and backward. Whatever lies around the
// tensors (other columns, rows behind the pack, scratch) is NaN: it is neither read nor written.
// ranks: 1
// backends: all
// orders: up down
// precision: fp32 bf16
// sanitize: no
#include "model/ops/attention.h"
#include "tests/op_check.h"

enum { TAIL = 300, SAMPLES = 4, SEGMENTS_MAX = 64 };

// Columns of a wider tensor [rows + TAIL, ld].
typedef struct {
    real *all, *at;
    int64_t rows, ld;
} Columns;

typedef struct {
    int64_t S, heads, D;
    int queries[SEGMENTS_MAX], keys[SEGMENTS_MAX];
    int64_t lengths[LENGTHS_MAX];
} Case;

typedef struct {
    AttentionShape shape;
    int64_t T, X, C;
    int32_t *q_start, *k_start;
    Columns q, k, v, out, dout, dq, dk, dv;
    float *lse;
    void *scratch;
} Attention;

static real *nan_new(int64_t n) {
    real *all = reals_new(n);
    memset(all, 0xff, (size_t)n * sizeof(real));
    return all;
}

static Columns columns_new(int64_t rows, int64_t ld, int64_t first, real *all) {
    if (all == NULL) all = nan_new((rows + TAIL) * ld);
    return (Columns){all, all + first, rows, ld};
}

static void columns_fill(const Columns *c, int64_t C, uint64_t number) {
    real *x = reals_random(c->rows * C, number, 0.0f, 1.0f);
    for (int64_t r = 0; r < c->rows; r++) {
        memcpy(c->at + r * c->ld, x + r * C, (size_t)C * sizeof(real));
    }
    device_free(x);
}

// Self-attention has q, k, v in one tensor, cross-attention k and v.
static Attention attention_new(const Case *c) {
    const bool cross = memcmp(c->queries, c->keys, sizeof(c->queries)) != 0;
    Attention a = {.C = c->heads * c->D, .q_start = integers_new(c->S + 1)};
    a.k_start = cross ? integers_new(c->S + 1) : a.q_start;
    for (int64_t s = 0; s < c->S; s++) {
        a.q_start[s + 1] = a.q_start[s] + c->queries[s];
        a.k_start[s + 1] = a.k_start[s] + c->keys[s];
    }
    a.T = a.q_start[c->S], a.X = a.k_start[c->S];
    a.shape = (AttentionShape){.q_start = a.q_start,
                               .k_start = a.k_start,
                               .q_start_device = a.q_start,
                               .k_start_device = a.k_start,
                               .S = c->S,
                               .heads = c->heads,
                               .D = c->D,
                               .scale = 1.0f / sqrtf((float)c->D)};
    const int64_t C = a.C, ldq = cross ? C : 3 * C, ldk = cross ? 2 * C : 3 * C, ldo = C + 40;
    Columns *const of[2][3] = {{&a.q, &a.k, &a.v}, {&a.dq, &a.dk, &a.dv}};
    for (int i = 0; i < 2; i++) {
        *of[i][0] = columns_new(a.T, ldq, 0, NULL);
        *of[i][1] = columns_new(a.X, ldk, cross ? 0 : C, cross ? NULL : of[i][0]->all);
        *of[i][2] = columns_new(a.X, ldk, cross ? C : 2 * C, of[i][1]->all);
    }
    a.out = columns_new(a.T, ldo, 0, NULL);
    a.dout = columns_new(a.T, ldo, 0, NULL);
    columns_fill(&a.q, C, 1);
    columns_fill(&a.k, C, 2);
    columns_fill(&a.v, C, 3);
    columns_fill(&a.dout, C, 4);
    a.lse = floats_new((a.T + TAIL) * c->heads);
    memset(a.lse, 0xff, (size_t)((a.T + TAIL) * c->heads) * sizeof(float));
    const AttentionBounds bounds = {.T = a.T,
                                    .X = a.X,
                                    .S = c->S,
                                    .heads = c->heads,
                                    .D = c->D,
                                    .cross = cross,
                                    .lengths = c->lengths};
    attention_prepare(&bounds, ldq, ldk, ldk, ldo);
    a.scratch =
        scratch_new(max_i64(attention_scratch(&bounds, false), attention_scratch(&bounds, true)));
    return a;
}

static void attention_free(Attention *a) {
    if (a->k_start != a->q_start) free_all(a->k_start, a->k.all, a->dk.all);
    free_all(a->q_start, a->q.all, a->dq.all, a->out.all, a->dout.all, a->lse, a->scratch);
}

static void run(const Attention *a) {
    attention_forward(a->out.at, a->out.ld, a->lse, a->q.at, a->q.ld, a->k.at, a->k.ld, a->v.at,
                      a->v.ld, &a->shape, a->scratch, NULL);
    const AttentionBackward arguments = {.dq = a->dq.at,
                                         .dk = a->dk.at,
                                         .dv = a->dv.at,
                                         .lddq = a->dq.ld,
                                         .lddk = a->dk.ld,
                                         .lddv = a->dv.ld,
                                         .dout = a->dout.at,
                                         .out = a->out.at,
                                         .q = a->q.at,
                                         .k = a->k.at,
                                         .v = a->v.at,
                                         .lddo = a->dout.ld,
                                         .ldo = a->out.ld,
                                         .ldq = a->q.ld,
                                         .ldk = a->k.ld,
                                         .ldv = a->v.ld,
                                         .lse = a->lse};
    attention_backward(&arguments, &a->shape, a->scratch, NULL);
    stream_wait(NULL);
}

// Element `first` on of row r.
static const real *row(const Columns *c, int64_t r, int64_t first) {
    return c->at + r * c->ld + first;
}

static double dot(const real *a, const real *b, int64_t D) {
    double sum = 0.0;
    for (int64_t d = 0; d < D; d++) sum += (double)to_float(a[d]) * (double)to_float(b[d]);
    return sum;
}
static void add(double *sum, double factor, const real *x, int64_t D) {
    for (int64_t d = 0; d < D; d++) sum[d] += factor * (double)to_float(x[d]);
}

// Rows of one segment and head that are looked at.
typedef struct {
    float got[SAMPLES * 256], want[SAMPLES * 256];
    int64_t n;
} Rows;

static void rows_add(Rows *rows, const real *got, const double *want, int64_t D) {
    for (int64_t d = 0; d < D; d++) {
        rows->got[rows->n] = to_float(got[d]);
        rows->want[rows->n++] = (float)want[d];
    }
}
// Where all is zero but for rounding (gradients of the score of a single key), it counts as zero.
static void rows_check(Rows *rows, const char *name) {
    float most = 0.0f;
    for (int64_t i = 0; i < rows->n; i++) most = fmaxf(most, fabsf(rows->want[i]));
    for (int64_t i = 0; i < rows->n && most < 1e-6f; i++) rows->want[i] = 0.0f;
    check_close(name, rows->got, rows->want, rows->n, REAL_TYPE == TYPE_F32 ? 2e-5 : 2e-2);
    rows->n = 0;
}

static int64_t sample(int64_t i, int64_t count) {
    return count < SAMPLES ? i : i * (count - 1) / (SAMPLES - 1);
}

static void check_queries(const Attention *a, int64_t s, int64_t first) {
    static Rows out, dq, lse;
    const int64_t D = a->shape.D, k0 = a->k_start[s], keys = a->k_start[s + 1] - k0;
    const int64_t count = a->q_start[s + 1] - a->q_start[s];
    double *weight = calloc((size_t)keys, sizeof(*weight));
    check_that(weight != NULL, "memory");
    for (int64_t i = 0; i < min_i64(SAMPLES, count); i++) {
        const int64_t q = a->q_start[s] + sample(i, count), h = first / D;
        double top = -INFINITY, total = 0.0, o[256] = {0}, g[256] = {0};
        for (int64_t k = 0; k < keys; k++) {
            weight[k] =
                dot(row(&a->q, q, first), row(&a->k, k0 + k, first), D) * (double)a->shape.scale;
            top = fmax(top, weight[k]);
        }
        for (int64_t k = 0; k < keys; k++) total += weight[k] = exp(weight[k] - top);
        const double sum = dot(row(&a->dout, q, first), row(&a->out, q, first), D);
        for (int64_t k = 0; k < keys; k++) {
            const real *v = row(&a->v, k0 + k, first);
            const double p = weight[k] / total, dp = dot(row(&a->dout, q, first), v, D);
            add(o, p, v, D);
            add(g, p * (dp - sum) * (double)a->shape.scale, row(&a->k, k0 + k, first), D);
        }
        lse.got[lse.n] = a->lse[q * a->shape.heads + h];
        lse.want[lse.n++] = (float)(top + log(total));
        rows_add(&out, row(&a->out, q, first), o, D);
        rows_add(&dq, row(&a->dq, q, first), g, D);
    }
    free(weight);
    rows_check(&lse, "lse");
    rows_check(&out, "out");
    rows_check(&dq, "dq");
}

static void check_keys(const Attention *a, int64_t s, int64_t first) {
    static Rows dk, dv;
    const int64_t D = a->shape.D, heads = a->shape.heads, h = first / D;
    const int64_t count = a->k_start[s + 1] - a->k_start[s];
    for (int64_t i = 0; i < min_i64(SAMPLES, count); i++) {
        const int64_t k = a->k_start[s] + sample(i, count);
        double gk[256] = {0}, gv[256] = {0};
        for (int64_t q = a->q_start[s]; q < a->q_start[s + 1]; q++) {
            const real *dout = row(&a->dout, q, first);
            const double score = dot(row(&a->q, q, first), row(&a->k, k, first), D),
                         p = exp(score * (double)a->shape.scale - (double)a->lse[q * heads + h]),
                         dp = dot(dout, row(&a->v, k, first), D),
                         sum = dot(dout, row(&a->out, q, first), D);
            add(gv, p, dout, D);
            add(gk, p * (dp - sum) * (double)a->shape.scale, row(&a->q, q, first), D);
        }
        rows_add(&dk, row(&a->dk, k, first), gk, D);
        rows_add(&dv, row(&a->dv, k, first), gv, D);
    }
    rows_check(&dk, "dk");
    rows_check(&dv, "dv");
}

// Nothing was written behind the last row, nor in columns [used, ld) of any.
static void check_around(const char *name, const Columns *c, int64_t used) {
    const real *all = c->all;
    for (int64_t r = 0; r < c->rows + TAIL; r++) {
        for (int64_t i = r < c->rows ? used : 0; i < c->ld; i++) {
            check_that(isnan(to_float(all[r * c->ld + i])), "%s: row %d, column %d was written",
                       name, (int)r, (int)i);
        }
    }
}

static void check_case(const Case *c) {
    Attention a = attention_new(c);
    run(&a);
    check_around("out", &a.out, a.C);
    check_around("dq", &a.dq, a.dq.ld);
    check_around("dk", &a.dk, a.dk.ld);
    for (int64_t i = a.T * c->heads; i < (a.T + TAIL) * c->heads; i++) {
        check_that(isnan(a.lse[i]), "lse: %d was written", (int)i);
    }
    for (int64_t s = 0; s < c->S; s++) {
        for (int64_t h = 0; h < c->heads; h++) {
            if (c->queries[s] > 0) check_queries(&a, s, h * c->D);
            check_keys(&a, s, h * c->D);
        }
    }
    attention_free(&a);
}

static bool emulated(void) {
    char text[256];
    device_describe(text, sizeof(text));
    return strstr(text, "emulator") != NULL;
}

// The emulator is slow: shorter segments there, and fewer.
static void check_lengths(Case c) {
    if (emulated()) {
        c.S = min_i64(c.S, 4);
        for (int64_t s = 0; s < c.S; s++) {
            c.queries[s] = c.queries[s] < 150 ? c.queries[s] : 150;
            c.keys[s] = c.keys[s] < 150 ? c.keys[s] : 150;
        }
        for (int64_t s = c.S; s < SEGMENTS_MAX; s++) c.queries[s] = c.keys[s] = 0;
    }
    for (int i = 0; i < 3; i++) {
        c.D = (int64_t[]){64, 72, 128}[i];
        c.heads = 3 - i;
        check_case(&c);
    }
}

static void test_self(void **state) {
    (void)state;
    const int lengths[] = {16, 5000, 1, 257, 1024, 300, 256, 1, 4097, 700, 2, 1025};
    Case c = {.S = 12};
    memcpy(c.queries, lengths, sizeof(lengths));
    memcpy(c.keys, lengths, sizeof(lengths));
    check_lengths(c);
}

// Lengths that were said beforehand: alone in their class, once beside others there, and where no
// row is at 16 bytes of the log-sum-exp.
static void test_expected(void **state) {
    (void)state;
    const int lengths[2][6] = {{1152, 1152, 64, 31, 17, 5120}, {7, 5120, 1152, 2000, 5120, 33}};
    for (int i = 0; i < 2; i++) {
        Case c = {.S = 6, .lengths = {5120, 1152, 64, 2000}};
        memcpy(c.queries, lengths[i], sizeof(lengths[i]));
        memcpy(c.keys, lengths[i], sizeof(lengths[i]));
        check_lengths(c);
    }
}

// More segments of one class than a pack usually has.
static void test_equal(void **state) {
    (void)state;
    Case c = {.S = 40};
    for (int s = 0; s < 40; s++) c.queries[s] = c.keys[s] = 260 + s;
    check_lengths(c);
}

// One key, a key for each query, more keys than queries; segments that have keys alone.
static void test_cross(void **state) {
    (void)state;
    check_lengths((Case){.S = 9,
                         .queries = {300, 0, 5000, 17, 1, 2000, 0, 64, 1030},
                         .keys = {1, 4, 77, 512, 1030, 513, 600, 64, 20}});
}

int main(void) {
    check_device(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_self),
        cmocka_unit_test(test_expected),
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_cross),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
