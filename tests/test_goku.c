// Goku against its PyTorch twin in float64: loss and gradients of a whole model of the demo's size,
// 2e-5 for every tensor; and parameter counts of the published sizes. As `test_goku FILE` it
// compares what `kintoun forward` wrote of tests/golden/goku_tiny (tests/test_forward.sh).
// ranks: 1
// backends: all
#include <math.h>
#include <stdio.h>

#include "base/safetensors.h"
#include "model/ops/flow.h"
#include "tests/model_case.h"

static const double TOLERANCE = 2e-5;
static const char *written;

// ---- what forward wrote
static void test_forward_agrees_with_the_twin(void **state) {
    (void)state;
    Safetensors got, want;
    Error error;
    check_that(safetensors_open(&got, written, &error), "%s", error.text);
    check_that(safetensors_open(&want, "tests/golden/goku_tiny/outputs.safetensors", &error), "%s",
               error.text);
    check_that(got.count == want.count, "%d tensors, not %d", got.count, want.count);
    for (int i = 0; i < want.count; i++) {
        const TensorInfo *tensor = NULL;
        const char *name = want.tensors[i].name;
        float *a = safetensors_load(&got, name, &tensor, &error);
        check_that(a != NULL, "%s", error.text);
        float *b = safetensors_load(&want, name, NULL, &error);
        check_that(b != NULL, "%s", error.text);
        check_that(tensor->dims == want.tensors[i].dims &&
                       memcmp(tensor->shape, want.tensors[i].shape,
                              (size_t)tensor->dims * sizeof(int64_t)) == 0,
                   "%s: another shape", name);
        check_close(name, a, b, tensor->count, TOLERANCE);
        free(a);
        free(b);
    }
    safetensors_close(&got);
    safetensors_close(&want);
}

// ---- the demo's size
typedef struct {
    Safetensors file;
    Segment segments[8];
    float *latent[8], *text[8], *target[8], *time[8];
    int64_t count;
} Golden;

static float *tensor_of(const Safetensors *file, const TensorInfo **info, const char *format,
                        const char *name) {
    char full[TENSOR_NAME_MAX];
    Error error;
    snprintf(full, sizeof(full), format, name);
    float *values = safetensors_load(file, full, info, &error);
    check_that(values != NULL, "%s", error.text);
    return values;
}

static void golden_read(Golden *g) {
    Error error;
    check_that(safetensors_open(&g->file, "tests/golden/goku_demo.safetensors", &error), "%s",
               error.text);
    for (g->count = 0; g->count < 8; g->count++) {
        const int64_t n = g->count;
        const TensorInfo *info;
        char number[16], name[32];
        snprintf(number, sizeof(number), "%d", (int)n);
        snprintf(name, sizeof(name), "%s.latent", number);
        if (safetensors_find(&g->file, name) == NULL) break;
        g->latent[n] = tensor_of(&g->file, &info, "%s.latent", number);
        g->segments[n].shape = (LatentShape){(int32_t)info->shape[0], (int32_t)info->shape[1],
                                             (int32_t)info->shape[2], (int32_t)info->shape[3]};
        g->target[n] = tensor_of(&g->file, &info, "%s.target", number);
        g->time[n] = tensor_of(&g->file, &info, "%s.time", number);
        g->text[n] = tensor_of(&g->file, &info, "%s.text", number);
        g->segments[n].text = info->shape[0];
    }
}

static void golden_free(Golden *g) {
    for (int64_t n = 0; n < g->count; n++) {
        free(g->latent[n]);
        free(g->target[n]);
        free(g->time[n]);
        free(g->text[n]);
    }
    safetensors_close(&g->file);
}

static float *shared(int64_t count) {
    return device_allocate_shared("test", count * (int64_t)sizeof(float));
}

// Forward, loss, backward. Returns the loss.
static double run(ModelCase *c, const Golden *g) {
    Model *m = &c->model;
    const PackBind *b = &c->bind;
    const int64_t E = model_token_elements(&m->config), width = m->config.text_width;
    float *target = shared(b->T * E), *rows = shared(b->T * E), *text = shared(b->X * width);
    float *weights = shared(8);
    void *scratch = device_allocate("scratch", flow_loss_scratch(b->T));
    double *losses = device_allocate_shared("losses", 8 * (int64_t)sizeof(double)), loss = 0;
    for (int64_t n = 0; n < g->count; n++) {
        const int64_t at = b->token_start[n], T = b->token_start[n + 1] - at;
        const PatchSize patch = model_patch(&m->config);
        patchify(rows + at * E, g->latent[n], g->segments[n].shape, patch, 0, T);
        patchify(target + at * E, g->target[n], g->segments[n].shape, patch, 0, T);
        memcpy(text + b->text_start[n] * width, g->text[n],
               (size_t)(g->segments[n].text * width) * sizeof(float));
        device_copy(m->time + n, g->time[n], sizeof(float), NULL);
        weights[n] = 1.0f / (float)(b->T * E);
    }
    vector_round(m->patches, REAL_TYPE, rows, b->T * E, NULL);
    vector_round(m->text, REAL_TYPE, text, b->X * width, NULL);
    fsdp_begin_step(c->fsdp, 1);
    model_forward(m, c->fsdp, b, NULL);
    flow_loss(losses, m->dout, m->out, target, weights, b->segment, b->token_start_device, b->T, E,
              b->S, scratch, NULL);
    model_backward(m, c->fsdp, b, 0, NULL);
    fsdp_end_step(c->fsdp);
    stream_wait(NULL);
    for (int64_t n = 0; n < g->count; n++) loss += losses[n] / (double)(b->T * E);
    free_all(target, rows, text, weights, losses, scratch);
    return loss;
}

// The norm of a tensor's gradient, and chosen elements of it, the largest among them.
static void check_gradient(const Golden *g, const Param *row, const float *gradient) {
    const TensorInfo *info;
    float *norm = tensor_of(&g->file, &info, "norm.%s", row->name);
    float *want = tensor_of(&g->file, &info, "grad.%s", row->name);
    char index_name[TENSOR_NAME_MAX];
    snprintf(index_name, sizeof(index_name), "index.%s", row->name);
    const TensorInfo *index = safetensors_find(&g->file, index_name);
    check_that(index != NULL && index->dtype == DTYPE_I32 && index->count == info->count, "%s",
               index_name);
    int32_t *where = case_room(info->count * 4);
    float *got = case_room(info->count * 4);
    Error error;
    check_that(safetensors_read(&g->file, index, 0, index->count, where, &error), "%s", error.text);
    for (int64_t i = 0; i < info->count; i++) {
        CHECK(where[i] >= 0 && where[i] < row->count, "%s: element %d", row->name, where[i]);
        got[i] = gradient[where[i]];
    }
    check_close(row->name, got, want, info->count, TOLERANCE);
    double squares = 0;
    for (int64_t i = 0; i < row->count; i++) squares += (double)gradient[i] * (double)gradient[i];
    const float length = (float)sqrt(squares);
    check_close(row->name, &length, norm, 1, TOLERANCE);
    free(norm);
    free(want);
    free(where);
    free(got);
}

static void test_demo_agrees_with_the_twin(void **state) {
    (void)state;
    const ModelConfig config = {.layers = 4,
                                .heads = 3,
                                .head_dim = 64,
                                .in_channels = 32,
                                .patch = 2,
                                .patch_t = 1,
                                .text_width = 64,
                                .mlp_ratio = 4,
                                .rope_theta = 1e4,
                                .time_factor = 1000};
    Golden g = {.count = 0};
    golden_read(&g);
    check_that(g.count > 1, "%d samples in the golden file", (int)g.count);
    ModelCase *c = case_room(sizeof(*c));
    case_open(c, world, (MeshConfig){1, 1}, &config, g.segments, g.count, RECOMPUTE_CHEAP);
    const float loss = (float)run(c, &g);
    const TensorInfo *info;
    float *want = tensor_of(&g.file, &info, "%s", "loss");
    check_close("loss", &loss, want, 1, TOLERANCE);
    int64_t count;
    float *const gradients = case_gradients(c, &count), *gradient = gradients;
    const ParamTable *table = &c->model.params;
    for (int unit = 0; unit < table->units; unit++) {
        for (int r = param_unit_first(table, unit); r < param_unit_first(table, unit + 1); r++) {
            check_gradient(&g, &table->rows[r], gradient + table->rows[r].offset);
        }
        gradient += table->unit_elements[unit];
    }
    free(gradients);
    free(want);
    case_close(c);
    free(c);
    golden_free(&g);
}

// ---- sizes
// Parameters of the blocks, in millions: from the paper's table 1 and the
// released block (arXiv 2502.04896; Saiyan-World/goku, goku/model.py).
static void check_size(int64_t layers, int64_t heads, int64_t head_dim, double millions) {
    const ModelConfig config = {.layers = layers,
                                .heads = heads,
                                .head_dim = head_dim,
                                .in_channels = 16,
                                .patch = 2,
                                .patch_t = 1,
                                .text_width = 2048,
                                .mlp_ratio = 4,
                                .rope_theta = 1e4,
                                .time_factor = 1000};
    Mesh mesh;
    Model *model = case_room(sizeof(*model));
    mesh_shape(&mesh, &(MeshConfig){1, 1}, 0, 1);
    model_record(model, &config, &mesh);
    int64_t count = 0;
    for (int r = 0; r < model->params.count; r++) {
        const Param *row = &model->params.rows[r];
        if (strncmp(row->name, "blocks.", 7) == 0) count += row->count;
    }
    check_that(fabs((double)count * 1e-6 - millions) < 0.05, "%d heads: %.2f M, not %.1f M",
               (int)heads, (double)count * 1e-6, millions);
    model_free(model);
    free(model);
}

static void test_published_sizes(void **state) {
    (void)state;
    check_size(28, 16, 72, 875.8);
    check_size(28, 28, 64, 2004.7);
    check_size(40, 48, 64, 8055.2);
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    const struct CMUnitTest whole[] = {
        cmocka_unit_test(test_demo_agrees_with_the_twin),
        cmocka_unit_test(test_published_sizes),
    };
    const struct CMUnitTest file[] = {cmocka_unit_test(test_forward_agrees_with_the_twin)};
    int failed = 0;
    if (argc > 1) {
        written = argv[1];
        failed = cmocka_run_group_tests(file, NULL, NULL);
    } else {
        failed = cmocka_run_group_tests(whole, NULL, NULL);
    }
    comm_stop(world);
    return failed;
}
