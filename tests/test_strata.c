// Timesteps: with explicit strata each pack's lie in its interval, their union is the configured
// distribution (Kolmogorov-Smirnov), whichever ranks run the packs, and they do not depend on
// medium and length. The normal quantile, the resolution shift and the schedules against their
// formulas.
// ranks: 1
#include <math.h>
#include <stdlib.h>

#include "tests/check.h"
#include "tests/plan_maker.h"
#include "train/objective.h"
#include "train/optimizer.h"

enum { STEPS = 600, PACKS = 4, TIMES_MAX = 200000 };

static const FlowConfig flows[] = {
    {.timesteps = TIMESTEPS_UNIFORM, .strata = PACKS},
    {.timesteps = TIMESTEPS_LOGIT_NORMAL, .logit_mean = 0.3, .logit_std = 1.2, .strata = 2},
    {.timesteps = TIMESTEPS_LOGIT_NORMAL, .logit_std = 1, .strata = PACKS},
    {.timesteps = TIMESTEPS_MODE, .mode_scale = 1.29, .strata = 0},
};

// The distribution's function: bisection over the increasing map u -> t.
static double distribution(const FlowConfig *flow, double t) {
    double low = 0, high = 1;
    for (int i = 0; i < 60; i++) {
        const double middle = 0.5 * (low + high);
        *(flow_time(flow, 1, middle) < t ? &low : &high) = middle;
    }
    return low;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The largest distance between the sample's steps and the line, times sqrt(n): above 1.95 with
// probability 0.001.
static double ks_uniform(double *u, int64_t n) {
    qsort(u, (size_t)n, sizeof(*u), ascending);
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, fmax((double)(i + 1) / (double)n - u[i], u[i] - (double)i / (double)n));
    }
    return worst * sqrt((double)n);
}

static double ks_two(double *a, int64_t n, double *b, int64_t m) {
    qsort(a, (size_t)n, sizeof(*a), ascending);
    qsort(b, (size_t)m, sizeof(*b), ascending);
    double worst = 0;
    for (int64_t i = 0, j = 0; i < n && j < m;) {
        *(a[i] <= b[j] ? &i : &j) += 1;
        worst = fmax(worst, fabs((double)i / (double)n - (double)j / (double)m));
    }
    return worst * sqrt((double)n * (double)m / (double)(n + m));
}

// The times of 600 planned steps, visited as `ranks` ranks would; *sum: a hash that has no order.
typedef struct {
    double *u, *image, *video, *light, *heavy;
    int64_t count, images, videos, lights, heavies;
    uint64_t sum;
} Times;

static void collect(Times *times, const FlowConfig *flow, int ranks) {
    const DataConfig config = plan_config();
    StageData stage = plan_stage(STEPS, 0.6);
    Planner *planner = plan_open(&config, &stage, 1);
    StepPlan *plan = step_plan_create(planner);
    Cursor cursor;
    cursor_init(&cursor, planner);
    times->count = times->images = times->videos = times->lights = times->heavies = 0;
    times->sum = 0;
    for (int step = 0; step < STEPS; step++) {
        plan_step(plan, planner, &cursor);
        for (int rank = 0; rank < ranks; rank++) {
            Mesh mesh;
            mesh_shape(&mesh, &(MeshConfig){.sequence = 1, .shard = ranks}, rank, ranks);
            for (int round = 0; round < mesh_rounds(&mesh, PACKS); round++) {
                const int pack = mesh_pack(&mesh, PACKS, round);
                if (pack < 0) continue;
                for (int64_t i = 0; i < plan->packs[pack].count; i++) {
                    const PlanSample *s = &plan->samples[plan->packs[pack].first + i];
                    const double u = flow_uniform(flow, 5, plan->step, pack, s->position);
                    const int64_t K = flow->strata;
                    if (K > 0) {
                        const int64_t turn = rng_bits(5, RNG_STRATA, (uint64_t)plan->step, 0) % K;
                        const int64_t stratum = (pack + turn) % K;
                        check_that(u >= (double)stratum / (double)K &&
                                       u < (double)(stratum + 1) / (double)K,
                                   "u = %.17g is not in interval %d of %d", u, (int)stratum,
                                   (int)K);
                    }
                    check_that(times->count < TIMES_MAX, "too many samples");
                    times->u[times->count++] = u;
                    *(s->medium == MEDIUM_IMAGE ? &times->image[times->images++]
                                                : &times->video[times->videos++]) = u;
                    *(s->tokens < 40 ? &times->light[times->lights++]
                                     : &times->heavy[times->heavies++]) = u;
                    times->sum += hash_bytes(&u, sizeof(u)) * (uint64_t)(s->position + 1);
                }
            }
        }
    }
    cursor_free(&cursor);
    step_plan_free(plan);
    planner_free(planner);
}

static void test_strata(void **state) {
    (void)state;
    Times times;
    double *room = calloc(5 * TIMES_MAX, sizeof(*room));
    check_that(room != NULL, "no memory");
    times = (Times){room,
                    room + TIMES_MAX,
                    room + 2 * TIMES_MAX,
                    room + 3 * TIMES_MAX,
                    room + 4 * TIMES_MAX,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0};
    for (size_t f = 0; f < sizeof(flows) / sizeof(flows[0]); f++) {
        uint64_t sum = 0;
        for (int ranks = 1; ranks <= 3; ranks++) {
            collect(&times, &flows[f], ranks);
            if (ranks == 1) sum = times.sum;
            check_that(times.sum == sum, "%d ranks see other times", ranks);
        }
        check_that(times.images > 1000 && times.videos > 1000, "%d images, %d videos",
                   (int)times.images, (int)times.videos);
        const double media = ks_two(times.image, times.images, times.video, times.videos);
        const double length = ks_two(times.light, times.lights, times.heavy, times.heavies);
        check_that(media < 1.95, "times depend on the medium: KS %g", media);
        check_that(length < 1.95, "times depend on the length: KS %g", length);
        // The union, mapped through the distribution and back, is uniform.
        for (int64_t i = 0; i < times.count; i++) {
            times.u[i] = distribution(&flows[f], flow_time(&flows[f], 1, times.u[i]));
        }
        const double all = ks_uniform(times.u, times.count);
        check_that(all < 1.95, "flow %d: KS %g over %d times", (int)f, all, (int)times.count);
    }
    free(room);
}

static void test_distributions(void **state) {
    (void)state;
    for (double u = 1e-12; u < 1; u = u < 0.01 ? u * 3 : u + 0.0137) {
        const double back = 0.5 * erfc(-normal_quantile(u) / sqrt(2));
        check_that(fabs(back - u) <= 1e-14 + 1e-12 * u, "quantile of %g gives %g back", u, back);
        const double t = flow_time(&flows[2], 1, u);
        check_that(fabs(log(t / (1 - t)) - normal_quantile(u)) < 1e-6, "logit-normal at %g", u);
        // SD3, equation 23: its t is our 1 - t.
        const double noise = 1 - t, shifted = 3 * noise / (1 + 2 * noise);
        check_that(fabs(1 - flow_time(&flows[2], 3, u) - shifted) < 1e-14, "shift at %g", u);
        const double c = cos(1.5707963267948966 * u);
        check_that(fabs(flow_time(&flows[3], 1, u) - (u + 1.29 * (c * c - 1 + u))) < 1e-14,
                   "mode at %g", u);
    }
    check_that(flow_time(&flows[2], 1, 0) >= 0 && flow_time(&flows[2], 1, 0) < 1e-3, "u = 0");
}

static void test_schedules(void **state) {
    (void)state;
    TrainConfig config = {.schedule = SCHEDULE_COSINE, .warmup = 10, .lr_end = 0.1};
    check_that(fabs(schedule_lr(&config, 2, 4, 110) - 1) < 1e-12, "half of the warm-up");
    check_that(fabs(schedule_lr(&config, 2, 59, 110) - 2 * 0.55) < 1e-12, "half of the cosine");
    check_that(fabs(schedule_lr(&config, 2, 109, 110) - 0.2) < 1e-12, "the end");
    config.schedule = SCHEDULE_LINEAR;
    check_that(fabs(schedule_lr(&config, 2, 34, 110) - 2 * 0.775) < 1e-12, "a quarter");
    config.schedule = SCHEDULE_CONSTANT;
    check_that(schedule_lr(&config, 2, 90, 110) == 2, "constant");
    config.ema_decay = 0.999;
    check_that(fabs(ema_decay(&config, 0) - 0.1) < 1e-12, "the average starts at 1 / 10");
    check_that(ema_decay(&config, 100000) == 0.999, "and ends at its decay");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strata),
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_schedules),
    };
    return cmocka_run_group_tests(tests, plan_data, NULL);
}
