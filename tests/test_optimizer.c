// The optimizer on slices: masters, moments and average after some updates against AdamW in double,
// element by element: matrices decay, biases do not, gaps stay zero; the weights that are gathered
// next are the new ones; schedule and decay of the average. On 1 to 4 ranks.
// ranks: 1 2 3 4
// backends: all
// device: 1 2
// precision: fp32 bf16
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "tests/ranks.h"
#include "train/optimizer.h"

enum { UNITS = 3, UPDATES = 3, ELEMENTS_MAX = 1 << 14 };

static ParamTable table;

static void fill(void) {
    static const struct {
        int unit;
        int64_t rows, columns;  // 0: a bias.
    } tensors[] = {{0, 30, 50},  {0, 30, 0},  {1, 70, 64}, {1, 1000, 0}, {1, 9, 0},
                   {1, 40, 101}, {1, 20, 64}, {1, 65, 0},  {2, 7, 0},    {2, 64, 64}};
    for (size_t i = 0; i < sizeof(tensors) / sizeof(*tensors); i++) {
        if (i == 0 || tensors[i].unit != tensors[i - 1].unit) param_unit_begin(&table);
        char name[16];
        snprintf(name, sizeof(name), "tensor.%d", (int)i);
        const int64_t shape[] = {tensors[i].rows, tensors[i].columns};
        const int dims = tensors[i].columns > 0 ? 2 : 1;
        param_add(&table, name, dims, shape, INIT_NORMAL, dims == 2);
    }
}

// Values of a whole unit; the gaps are zero.
static void numbers(float *out, int unit, uint64_t position) {
    memset(out, 0, (size_t)table.unit_elements[unit] * sizeof(*out));
    for (int r = 0; r < table.count; r++) {
        const Param *row = &table.rows[r];
        if (row->unit != unit) continue;
        rng_normal(out + row->offset, row->count, 9, RNG_TEST, position, (uint64_t)row->offset);
    }
}

// The gradient of as many packs as there are ranks, all alike.
static void reduce_gradient(Fsdp *f, int unit, const float *gradient) {
    const Gradient leaf = fsdp_leaf(f, unit);
    for (int r = 0; r < table.count; r++) {
        const Param *row = &table.rows[r];
        if (row->unit != unit) continue;
        device_copy(gradient_from(leaf, row->offset).at, gradient + row->offset,
                    row->count * (int64_t)sizeof(float), NULL);
    }
    fsdp_reduce(f, unit, 0);
}

static const TrainConfig config = {
    .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.3, .ema_decay = 0.5};

// What is expected of one unit, in double.
typedef struct {
    double w[ELEMENTS_MAX], m[ELEMENTS_MAX], v[ELEMENTS_MAX], ema[ELEMENTS_MAX];
} Want;

static void want_update(Want *x, int unit, const float *g, int64_t updates, double lr,
                        double scale) {
    const double n = (double)updates + 1, keep = fmin(0.5, n / (n + 9));
    for (int r = 0; r < table.count; r++) {
        const Param *row = &table.rows[r];
        for (int64_t i = row->offset; row->unit == unit && i < row->offset + row->count; i++) {
            const double gi = (double)g[i] * scale;
            x->m[i] = 0.9 * x->m[i] + 0.1 * gi;
            x->v[i] = 0.95 * x->v[i] + 0.05 * gi * gi;
            const double step =
                x->m[i] / (1 - pow(0.9, n)) / (sqrt(x->v[i] / (1 - pow(0.95, n))) + 1e-8);
            x->w[i] -= lr * (step + (row->decay ? 0.3 * x->w[i] : 0));
            x->ema[i] = keep * x->ema[i] + (1 - keep) * x->w[i];
        }
    }
}

static void check_slices(Fsdp *f, const char *name, int unit, const float *slice,
                         const double *want) {
    static float got[ELEMENTS_MAX], wide[ELEMENTS_MAX];
    const int64_t elements = table.unit_elements[unit];
    fsdp_gather(f, got, unit, slice);
    for (int64_t i = 0; i < elements; i++) wide[i] = (float)want[i];
    check_close(name, got, wide, elements, 2e-6);
}

// The weights as the next forward gets them: what was just checked, rounded.
static void check_fetched(Fsdp *f, int unit) {
    static float masters[ELEMENTS_MAX];
    const int64_t elements = table.unit_elements[unit];
    fsdp_gather(f, masters, unit, fsdp_master(f, unit));
    real *const seen = device_allocate_shared("seen", elements * (int64_t)sizeof(real));
    fsdp_fetch(f, unit);
    device_copy(seen, fsdp_wait(f, unit), elements * (int64_t)sizeof(real), NULL);
    fsdp_release(f, unit);
    stream_wait(NULL);
    int64_t wrong = 0;
    for (int64_t i = 0; i < elements; i++) wrong += seen[i] != to_real(masters[i]);
    check_that(wrong == 0, "unit %d: %d weights are stale", unit, (int)wrong);
    device_free(seen);
}

static void run_layout(int shard, bool reshard) {
    static Want want[UNITS];
    static float gradient[ELEMENTS_MAX], start[ELEMENTS_MAX];
    const int packs = comm_size(world);
    Mesh mesh;
    mesh_init(&mesh, world, &(MeshConfig){.sequence = 1, .shard = shard});
    Fsdp *f =
        fsdp_create(&table, &mesh,
                    &(FsdpConfig){TYPE_F32, .reshard_after_forward = reshard, .packs_max = packs});
    Optimizer optimizer;
    optimizer_create(&optimizer, &table, &mesh);
    memset(want, 0, sizeof(want));
    for (int u = 0; u < UNITS; u++) {
        numbers(start, u, (uint64_t)u);
        const int64_t begin = fsdp_slice_begin(f, u), end = fsdp_slice_end(f, u);
        device_copy(fsdp_master(f, u), start + begin, (end - begin) * (int64_t)sizeof(float), NULL);
        stream_wait(NULL);
        for (int64_t i = 0; i < table.unit_elements[u]; i++) {
            want[u].w[i] = want[u].ema[i] = (double)start[i];
        }
    }
    optimizer_start(&optimizer, f);
    for (int n = 0; n < UPDATES; n++) {
        const double lr = 0.1 / (n + 1), scale = 0.5 + n;
        fsdp_begin_step(f, packs);
        for (int u = UNITS - 1; u >= 0; u--) {
            check_fetched(f, u);
            numbers(gradient, u, (uint64_t)(10 * (n + 1) + u));
            reduce_gradient(f, u, gradient);
            stream_wait(NULL);
            want_update(&want[u], u, gradient, n, lr, scale * packs);
        }
        fsdp_end_step(f);
        optimizer_update(&optimizer, f, &table, &config, lr, scale, n);
        for (int u = 0; u < UNITS; u++) {
            check_slices(f, "masters", u, fsdp_master(f, u), want[u].w);
            check_slices(f, "exp_avg", u, optimizer.exp_avg[u], want[u].m);
            check_slices(f, "exp_avg_sq", u, optimizer.exp_avg_sq[u], want[u].v);
            check_slices(f, "average", u, optimizer.ema[u], want[u].ema);
        }
    }
    for (int u = 0; u < UNITS; u++) check_fetched(f, u);
    optimizer_free(&optimizer);
    fsdp_free(f);
    mesh_free(&mesh);
}

static void test_updates(void **state) {
    (void)state;
    for (int shard = 1; shard <= comm_size(world); shard++) {
        if (comm_size(world) % shard != 0) continue;
        run_layout(shard, true);
        run_layout(shard, false);
    }
}

static void test_schedule(void **state) {
    (void)state;
    TrainConfig c = {.warmup = 4, .schedule = SCHEDULE_CONSTANT, .lr_end = 0.1, .ema_decay = 0.9};
    check_that(schedule_lr(&c, 2, 0, 12) == 0.5 && schedule_lr(&c, 2, 3, 12) == 2 &&
                   schedule_lr(&c, 2, 11, 12) == 2,
               "constant");
    c.schedule = SCHEDULE_COSINE;
    check_that(fabs(schedule_lr(&c, 2, 7, 12) - 1.1) < 1e-12 &&
                   fabs(schedule_lr(&c, 2, 11, 12) - 0.2) < 1e-12,
               "cosine: %g, %g", schedule_lr(&c, 2, 7, 12), schedule_lr(&c, 2, 11, 12));
    c.schedule = SCHEDULE_LINEAR;
    check_that(fabs(schedule_lr(&c, 2, 5, 12) - 1.55) < 1e-12 &&
                   fabs(schedule_lr(&c, 2, 20, 12) - 0.2) < 1e-12,
               "linear: %g, %g", schedule_lr(&c, 2, 5, 12), schedule_lr(&c, 2, 20, 12));
    check_that(fabs(ema_decay(&c, 0) - 0.1) < 1e-12 && ema_decay(&c, 1000) == 0.9,
               "decay of the average");
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    fill();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_updates),
        cmocka_unit_test(test_schedule),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    param_free(&table);
    comm_stop(world);
    return failed;
}
