// The objective: what one pack after the other leaves in the model's inputs, the target, the losses
// and the gradient is what the formulas say, though the host waits for none of them and the
// loader's memory is used again as soon as batch_fill returns.
// ranks: 1
// backends: all
// precision: fp32 bf16
#include "model/ops/flow.h"
#include "tests/op_check.h"
#include "train/objective.h"

// Two rooms take turns: every one is used several times.
enum { PACKS = 7, SEGMENTS = 3, TOKENS = 96, TEXT = 24, WIDTH = 24, E = 16 };

static const ModelConfig config = {.heads = 2,
                                   .head_dim = 16,
                                   .in_channels = 4,
                                   .patch = 2,
                                   .patch_t = 1,
                                   .text_width = WIDTH,
                                   .rope_theta = 1e4};
static const FlowConfig flow = {.timesteps = TIMESTEPS_LOGIT_NORMAL, .logit_std = 1};
static const FlowKeys keys = {
    .seed = 5, .noise = RNG_NOISE, .step = 3, .shift = 2, .flow = &flow, .caption_dropout = 0.3};

// What the device had for one pack, copied in the compute stream and read after the last.
typedef struct {
    real *x_t, *text, *dout;
    float *target, *time;
    double *losses;
} Seen;

// The loader's memory: nothing of the device's here, whose allocations wait.
static float *room(int64_t count) {
    float *memory = malloc((size_t)max_i64(count, 1) * sizeof(*memory));
    CHECK(memory != NULL, "no memory");
    return memory;
}

static LoadedSample sample_new(int pack, int i) {
    static const LatentShape shapes[] = {{4, 1, 6, 4}, {4, 3, 4, 6}, {4, 1, 2, 2}, {4, 2, 10, 4}};
    const int64_t position = 10 * pack + i;
    LoadedSample sample = {.position = position,
                           .shape = shapes[(pack + i) % 4],
                           .text_length = (pack + 2 * i) % 8,
                           .corrupt = pack == 2 && i == 1};
    const int64_t elements = latent_elements(sample.shape);
    sample.latent = room(elements);
    sample.text = room(sample.text_length * WIDTH);
    rng_normal(sample.latent, elements, 1, RNG_TEST, (uint64_t)position, 0);
    rng_normal(sample.text, sample.text_length * WIDTH, 2, RNG_TEST, (uint64_t)position, 0);
    return sample;
}

static void pack_new(LoadedPack *pack, LoadedSample samples[SEGMENTS], int n) {
    *pack = (LoadedPack){.pack = n, .count = SEGMENTS - n % 2, .samples = samples};
    for (int i = 0; i < pack->count; i++) samples[i] = sample_new(n, i);
}

static void pack_forget(LoadedPack *pack) {
    for (int i = 0; i < pack->count; i++) {
        LoadedSample *sample = &pack->samples[i];
        memset(sample->latent, 0xff, (size_t)latent_elements(sample->shape) * sizeof(float));
        memset(sample->text, 0xff, (size_t)(sample->text_length * WIDTH) * sizeof(float));
        free(sample->latent);
        free(sample->text);
    }
}

static void model_new(Model *model, const Mesh *mesh) {
    *model = (Model){.config = config, .mesh = mesh, .bounds = {TOKENS, TEXT, SEGMENTS}};
    model->bound[ROWS_TOKENS] = TOKENS;
    model->patches = device_allocate("patches", TOKENS * E * (int64_t)sizeof(real));
    model->text = device_allocate("text", TEXT * WIDTH * (int64_t)sizeof(real));
    model->time = device_allocate("time", SEGMENTS * (int64_t)sizeof(float));
    model->out = device_allocate("out", TOKENS * E * (int64_t)sizeof(real));
    model->dout = device_allocate("dout", TOKENS * E * (int64_t)sizeof(real));
}

static void seen_new(Seen *seen) {
    *seen = (Seen){.x_t = reals_new(TOKENS * E),
                   .text = reals_new(TEXT * WIDTH),
                   .dout = reals_new(TOKENS * E),
                   .target = floats_new(TOKENS * E),
                   .time = floats_new(SEGMENTS),
                   .losses = device_allocate_shared("losses", SEGMENTS * (int64_t)sizeof(double))};
}

static double weight_of(int pack, int64_t i) {
    return 1.0 / (double)(3 + pack + i);
}

// One pack through the device; its x_t stands for the model's output.
static void see(const Seen *seen, Batch *batch, Model *model, int n) {
    LoadedSample samples[SEGMENTS];
    LoadedPack pack;
    double weights[SEGMENTS];
    pack_new(&pack, samples, n);
    for (int i = 0; i < SEGMENTS; i++) weights[i] = weight_of(n, i);
    batch_fill(batch, model, &pack, weights, &keys);
    pack_forget(&pack);
    const PackBind *bind = &batch->host->bind;
    const int64_t reals = bind->T * E * (int64_t)sizeof(real);
    device_copy(model->out, model->patches, reals, NULL);
    batch_loss(batch, model, seen->losses, true);
    device_copy(seen->x_t, model->patches, reals, NULL);
    device_copy(seen->dout, model->dout, reals, NULL);
    device_copy(seen->target, batch->target, bind->T * E * (int64_t)sizeof(float), NULL);
    device_copy(seen->text, model->text, bind->X * WIDTH * (int64_t)sizeof(real), NULL);
    device_copy(seen->time, model->time, bind->S * (int64_t)sizeof(float), NULL);
}

// Sample i of pack n, by the formulas: all of its rows of x_t, target and dout; returns its loss.
static double expect(real *x_t, float *target, real *dout, const LoadedSample *sample, float t,
                     double weight, int64_t first, int64_t count) {
    const int64_t elements = latent_elements(sample->shape);
    const PatchSize patch = model_patch(&config);
    float *noise = floats_new(elements), *data = floats_new(elements), *rows = floats_new(elements);
    double loss = 0;
    rng_normal(noise, elements, keys.seed, RNG_NOISE, (uint64_t)sample->position, 0);
    patchify(rows, noise, sample->shape, patch, first, count);
    patchify(data, sample->latent, sample->shape, patch, first, count);
    for (int64_t i = 0; i < count * E; i++) {
        x_t[i] = to_real(fmaf(t, data[i], (1.0f - t) * rows[i]));
        target[i] = data[i] - rows[i];
        const float error = to_float(x_t[i]) - target[i];
        dout[i] = to_real(2.0f * (sample->corrupt ? 0.0f : (float)weight) * error);
        loss += (double)error * (double)error;
    }
    free_all(noise, data, rows);
    return loss;
}

// Compares pack n on slice `index` of `slices`.
static void check_pack(const Seen *seen, int n, int index, int slices) {
    LoadedSample samples[SEGMENTS];
    LoadedPack pack;
    pack_new(&pack, samples, n);
    int64_t P = 0, T = 0, X = 0, S = 0, start = 0;
    for (int i = 0; i < pack.count; i++) P += latent_elements(samples[i].shape) / E;
    const int64_t begin = P * index / slices, end = P * (index + 1) / slices;
    for (int i = 0; i < pack.count; i++) {
        const LoadedSample *sample = &samples[i];
        const int64_t from = max_i64(begin, start);
        start += latent_elements(sample->shape) / E;
        const int64_t count = min_i64(end, start) - from;
        if (count <= 0) continue;
        const float t = (float)sample_time(&keys, n, sample->position);
        real *x_t = reals_new(count * E), *dout = reals_new(count * E);
        float *target = floats_new(count * E);
        const double loss = expect(x_t, target, dout, sample, t, weight_of(n, i),
                                   from - (start - latent_elements(sample->shape) / E), count);
        check_equal("x_t", seen->x_t + T * E, x_t, count * E);
        check_equal("target", seen->target + T * E, target, count * E);
        check_equal("dout", seen->dout + T * E, dout, count * E);
        check_equal("time", seen->time + S, &t, 1);
        check_that(fabs(seen->losses[S] - loss) <= 1e-13 * loss,
                   "pack %d, sample %d: %.17g, not "
                   "%.17g",
                   n, i, seen->losses[S], loss);
        const bool bare = sample->text_length == 0 ||
                          rng_uniform(keys.seed, RNG_CAPTION, (uint64_t)sample->position, 0) <
                              keys.caption_dropout;
        const int64_t rows = bare ? 1 : sample->text_length;
        real *text = bare ? reals_new(WIDTH) : reals_of(sample->text, rows * WIDTH);
        check_equal("text", seen->text + X * WIDTH, text, rows * WIDTH);
        free_all(x_t, dout, target, text);
        T += count, X += rows, S++;
    }
    pack_forget(&pack);
}

static void test_packs_in_turn(void **state) {
    (void)state;
    for (int slices = 1; slices <= 2; slices++) {
        Mesh mesh;
        Model model;
        Batch batch;
        Seen seen[PACKS];
        mesh_shape(&mesh, &(MeshConfig){slices, slices}, slices - 1, slices);
        model_new(&model, &mesh);
        batch_create(&batch, &model);
        for (int n = 0; n < PACKS; n++) seen_new(&seen[n]);
        for (int n = 0; n < PACKS; n++) see(&seen[n], &batch, &model, n);
        stream_wait(NULL);
        for (int n = 0; n < PACKS; n++) {
            check_pack(&seen[n], n, slices - 1, slices);
            free_all(seen[n].x_t, seen[n].text, seen[n].dout, seen[n].target, seen[n].time,
                     seen[n].losses);
        }
        batch_free(&batch);
        free_all(model.patches, model.text, model.time, model.out, model.dout);
    }
}

int main(void) {
    check_device(0);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_packs_in_turn)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
