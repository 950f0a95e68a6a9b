// Rectified flow: patches and back, noise with the bits of rng_normal and patchify on any backend,
// noising and the loss with its gradient as PyTorch has them in float64; what is added is added,
// the same bits for any number of threads and wherever segments are cut, no tokens at all.
// ranks: 1
// backends: all
// orders: up down
// precision: fp32 bf16
// sanitize: bf16
#include "model/ops/flow.h"
#include "tests/op_check.h"

static const char PATH[] = "tests/golden/flow.safetensors";

static void test_patches(void **state) {
    (void)state;
    const char *const cases[] = {"image", "video", "token"};
    for (int i = 0; i < 3; i++) {
        Golden g = golden_open(PATH, cases[i]);
        const TensorInfo *info = golden_find(&g, "latent");
        const LatentShape shape = {(int32_t)info->shape[0], (int32_t)info->shape[1],
                                   (int32_t)info->shape[2], (int32_t)info->shape[3]};
        int32_t *sizes = golden_integers(&g, "patch");
        const PatchSize patch = {sizes[0], sizes[1], sizes[2]};
        const int64_t T = golden_size(&g, "tokens", 0), E = golden_size(&g, "tokens", 1);
        float *latent = golden_floats(&g, "latent"), *want = golden_floats(&g, "tokens");
        float *tokens = floats_new(T * E), *back = floats_new(T * E);
        patchify(tokens, latent, shape, patch, 0, T / 2);  // As two ranks would.
        patchify(tokens + T / 2 * E, latent, shape, patch, T / 2, T - T / 2);
        check_equal("tokens", tokens, want, T * E);
        unpatchify(back, tokens, shape, patch, 0, T / 2);
        unpatchify(back, tokens + T / 2 * E, shape, patch, T / 2, T - T / 2);
        check_equal("latent", back, latent, T * E);
        free_all(sizes, latent, want, tokens, back);
        safetensors_close(&g.file);
    }
}

// The third case is no multiple of four elements; tokens of the last one have an odd number, so
// that a later segment's rows start anywhere. Tokens from the middle, as a slice has them.
static void test_noise(void **state) {
    (void)state;
    static const struct {
        LatentShape shape;
        PatchSize patch;
    } cases[] = {
        {{16, 5, 12, 20}, {1, 2, 2}},
        {{4, 1, 2, 2}, {1, 2, 2}},
        {{3, 2, 3, 3}, {2, 1, 3}},
        {{3, 1, 3, 3}, {1, 1, 1}},
    };
    const NoiseKey key = {0x123456789abcdef, RNG_NOISE, 0xfedcba987};
    for (int i = 0; i < 4; i++) {
        const LatentShape shape = cases[i].shape;
        const PatchSize patch = cases[i].patch;
        const int64_t elements = latent_elements(shape), tokens = latent_tokens(shape, patch);
        const int64_t width = elements / tokens, from = tokens / 3;
        float *latent = floats_new(elements), *want = floats_new(elements);
        float *got = floats_new(elements), *scratch = floats_new(elements);
        rng_normal(latent, elements, key.seed, key.purpose, key.position, 0);
        patchify(want, latent, shape, patch, 0, tokens);
        flow_noise(got, &key, shape, patch, 0, tokens, scratch, NULL);
        check_equal("all tokens", got, want, elements);
        memset(got, 0, (size_t)elements * sizeof(*got));
        float *const slice = got + from * width, *const end = got + (tokens - 1) * width;
        flow_noise(slice, &key, shape, patch, from, tokens - from - 1, scratch, NULL);
        check_equal("a slice", slice, want + from * width, (tokens - from - 1) * width);
        check_that(from == 0 || slice[-1] == 0.0f, "less than the slice");
        check_that(*end == 0.0f, "more than the slice");
        flow_noise(got, &key, shape, patch, from, 0, scratch, NULL);
        free_all(latent, want, got, scratch);
    }
}

static void test_golden(void **state) {
    (void)state;
    const char *const cases[] = {"one", "goku", "many"};
    for (int i = 0; i < 3; i++) {
        Golden g = golden_open(PATH, cases[i]);
        const int64_t T = golden_size(&g, "data", 0), E = golden_size(&g, "data", 1);
        const int64_t S = golden_size(&g, "time", 0);
        float *data = golden_floats(&g, "data"), *noise = golden_floats(&g, "noise");
        float *time = golden_floats(&g, "time"), *weight = golden_floats(&g, "weight");
        int32_t *segment = golden_integers(&g, "segment"), *start = starts_of(segment, T, S);
        real *prediction = golden_reals(&g, "prediction");
        real *x_t = reals_new(T * E), *dout = reals_new(T * E);
        float *target = floats_new(T * E), *found = floats_new(S);
        double *loss = device_allocate_shared("losses", S * (int64_t)sizeof(double));
        void *scratch = floats_new(div_up(flow_loss_scratch(T), (int64_t)sizeof(float)));
        flow_mix(x_t, target, data, noise, time, segment, T, E, NULL);
        golden_check_reals(&g, "x_t", x_t);
        golden_check_floats(&g, "target", target);
        flow_loss(loss, dout, prediction, target, weight, segment, start, T, E, S, scratch, NULL);
        golden_check_reals(&g, "dout", dout);
        stream_wait(NULL);
        for (int64_t s = 0; s < S; s++) found[s] = (float)loss[s];
        golden_check_floats(&g, "loss", found);
        flow_loss(loss, NULL, prediction, target, NULL, segment, start, T, E, S, scratch, NULL);
        stream_wait(NULL);
        for (int64_t s = 0; s < S; s++) found[s] = (float)(loss[s] / 2.0);
        golden_check_floats(&g, "loss", found);
        free_all(data, noise, time, weight, segment, start, prediction, x_t, dout, target, found,
                 loss, scratch);
        safetensors_close(&g.file);
    }
}

enum { T = 1000, E = 16, S = 9, FEW = 6 };
typedef struct {
    real out[T * E], dout[T * E], x_t[T * E];
    float target[T * E], weight[S];
    double loss[S], scratch[2 * T];
    int32_t segment[T], start[S + 1], start_few[S + 1];  // Of all tokens; of the first FEW.
} Flow;

static Flow *flow_random(void) {
    Flow *f = device_allocate_shared("flow", sizeof(*f));
    CHECK(flow_loss_scratch(T) <= (int64_t)sizeof(f->scratch), "too little scratch");
    real *out = reals_random(T * E, 1, 0.0f, 1.0f);
    int32_t *segment = segments_new(T, S), *start = starts_of(segment, T, S),
            *few = starts_of(segment, FEW, S);
    memcpy(f->start, start, sizeof(f->start));
    memcpy(f->start_few, few, sizeof(f->start_few));
    memcpy(f->out, out, sizeof(f->out));
    memcpy(f->segment, segment, sizeof(f->segment));
    rng_normal(f->target, T * E, 1, RNG_TEST, 2, 0);
    for (int s = 0; s < S; s++) f->weight[s] = 1.0f / (float)(s + 1);
    free_all(out, segment, start, few);
    return f;
}

static double loss_of(void *context) {
    Flow *f = context;
    double sum = 0.0;
    memset(f->loss, 0, sizeof(f->loss));
    flow_loss(f->loss, NULL, f->out, f->target, NULL, f->segment, f->start_few, FEW, E, S,
              f->scratch, NULL);
    stream_wait(NULL);
    for (int s = 0; s < S; s++) sum += (double)f->weight[s] * f->loss[s];
    return sum;
}

static void test_slopes(void **state) {
    (void)state;
    if (REAL_TYPE == TYPE_BF16) skip();
    Flow *f = flow_random();
    flow_loss(f->loss, f->dout, f->out, f->target, f->weight, f->segment, f->start_few, FEW, E, S,
              f->scratch, NULL);
    check_slopes("out", f->out, (const float *)f->dout, FEW * E, loss_of, f);
    device_free(f);
}

static void test_threads(void **state) {
    (void)state;
    const int before = omp_get_max_threads();
    Flow *one = NULL;
    for (int threads = 1; threads <= 4; threads++) {
        omp_set_num_threads(threads);
        Flow *f = flow_random();
        flow_loss(f->loss, f->dout, f->out, f->target, f->weight, f->segment, f->start, T, E, S,
                  f->scratch, NULL);
        if (threads == 1) {
            one = f;
            continue;
        }
        check_equal("loss", f->loss, one->loss, S);
        check_equal("dout", f->dout, one->dout, T * E);
        device_free(f);
    }
    device_free(one);
    omp_set_num_threads(before);
}

// Rows of E = 3 from an address that is no multiple of 16, segments of all lengths: the same bits
// as the formulas here, the loss as its sum in plain order.
static void test_narrow(void **state) {
    (void)state;
    enum { ROWS = 333, WIDTH = 3, SEGMENTS = 12 };
    const int64_t n = ROWS * WIDTH;
    real *out = reals_random(n + 1, 7, 0.0f, 1.0f), *dout = reals_new(n + 1), *want = reals_new(n);
    float *target = floats_new(n + 1), *weight = floats_new(SEGMENTS);
    int32_t *segment = segments_new(ROWS, SEGMENTS), *start = starts_of(segment, ROWS, SEGMENTS);
    double *loss = device_allocate_shared("loss", SEGMENTS * 8);
    void *scratch = device_allocate_shared("scratch", flow_loss_scratch(ROWS));
    double sums[SEGMENTS] = {0};
    rng_normal(target, n + 1, 1, RNG_TEST, 8, 0);
    for (int s = 0; s < SEGMENTS; s++) weight[s] = 0.5f + (float)s;
    for (int64_t i = 0; i < n; i++) {
        const float error = to_float(out[i + 1]) - target[i + 1];
        sums[segment[i / WIDTH]] += (double)error * (double)error;
        want[i] = to_real(2.0f * weight[segment[i / WIDTH]] * error);
    }
    float *data = floats_new(n + 1), *noise = floats_new(n + 1), *difference = floats_new(n + 1);
    real *x_t = reals_new(n + 1), *mixed = reals_new(n);
    rng_normal(data, n + 1, 1, RNG_TEST, 9, 0);
    rng_normal(noise, n + 1, 1, RNG_TEST, 10, 0);
    flow_mix(x_t + 1, difference + 1, data + 1, noise + 1, weight, segment, ROWS, WIDTH, NULL);
    for (int64_t i = 0; i < n; i++) {
        const float t = weight[segment[i / WIDTH]];
        mixed[i] = to_real(fmaf(t, data[i + 1], (1.0f - t) * noise[i + 1]));
    }
    check_equal("x_t", x_t + 1, mixed, n);
    for (int64_t i = 1; i <= n; i++) data[i] -= noise[i];
    check_equal("target", difference + 1, data + 1, n);
    flow_loss(loss, dout + 1, out + 1, target + 1, weight, segment, start, ROWS, WIDTH, SEGMENTS,
              scratch, NULL);
    check_equal("dout", dout + 1, want, n);
    for (int s = 0; s < SEGMENTS; s++) {
        check_that(fabs(loss[s] - sums[s]) <= 1e-13 * sums[s], "segment %d: %.17g, not %.17g", s,
                   loss[s], sums[s]);
    }
    free_all(out, dout, want, target, weight, segment, start, loss, scratch, data, noise,
             difference, x_t, mixed);
}

static void test_no_tokens(void **state) {
    (void)state;
    double *loss = device_allocate_shared("loss", sizeof(*loss));
    loss[0] = 5.0;
    flow_mix(NULL, NULL, NULL, NULL, NULL, NULL, 0, 8, NULL);
    flow_loss(loss, NULL, NULL, NULL, NULL, NULL, NULL, 0, 8, 1, NULL, NULL);
    stream_wait(NULL);
    check_that(loss[0] == 5.0, "no tokens, but a loss of %g", loss[0]);
    device_free(loss);
}

int main(void) {
    check_device(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patches),   cmocka_unit_test(test_noise),
        cmocka_unit_test(test_golden),    cmocka_unit_test(test_slopes),
        cmocka_unit_test(test_threads),   cmocka_unit_test(test_narrow),
        cmocka_unit_test(test_no_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
