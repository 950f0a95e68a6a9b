// Builds every plan of cuDNN's attention that a run by a configuration would make before step 0, on
// a GPU that is only described: settings, recording, bounds and row strides are the run's own.
//   plans DEVICE.json CONFIG...
// Without any it builds small ones for heads at the limits of what is said to be supported.
// Prints a line per plan, after what the stand-in of the driver says about its kernels, and the
// scratch of each kind of call. Dies where an engine is missing or wants more than was planned.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/files.h"
#include "model/model.h"
#include "model/ops/cuda/attention_cudnn.h"
#include "model/ops/cuda/attention_paths.h"
#include "model/ops/table.h"
#include "train/config.h"
#include "train/memory.h"

enum { CAPABILITY = 90, TEXT_BYTES = 1 << 20, SHAPES_MAX = 1024 };

static const char *device;
static struct {
    PlanShape shape[SHAPES_MAX];
    int count;
} built;

// Stands in for the op, so that recording and planning bring the bounds of its calls here.
void attention_forward(real *out, int64_t ldo, float *lse, const real *q, int64_t ldq,
                       const real *k, int64_t ldk, const real *v, int64_t ldv,
                       const AttentionShape *shape, void *scratch, Stream stream) {
    (void)out, (void)ldo, (void)lse, (void)q, (void)ldq, (void)k, (void)ldk, (void)v, (void)ldv;
    (void)shape, (void)scratch, (void)stream;
    DIE("nothing runs here");
}
void attention_backward(const AttentionBackward *arguments, const AttentionShape *shape,
                        void *scratch, Stream stream) {
    (void)arguments, (void)shape, (void)scratch, (void)stream;
    DIE("nothing runs here");
}

int64_t attention_scratch(const AttentionBounds *bounds, bool backward) {
    return attention_cudnn_scratch(bounds, backward);
}

static void build(const PlanShape *s) {
    for (int i = 0; i < built.count; i++) {
        if (memcmp(&built.shape[i], s, sizeof(*s)) == 0) return;
    }
    CHECK(built.count < SHAPES_MAX, "more than %d plans", SHAPES_MAX);
    built.shape[built.count++] = *s;
    AttentionPlan *plan = plan_create(s, device);
    printf("plan %s D %" PRId64 ": %" PRId64 "%s segments x %" PRId64 " heads, %" PRId64
           " queries, %" PRId64 " keys: workspace %" PRId64 " of %" PRId64 " bytes\n",
           s->backward ? "backward" : "forward", s->D, s->batch, s->even ? " even" : "", s->heads,
           s->queries, s->keys, plan_workspace(plan), attention_cudnn_workspace(s->batch));
    fflush(stdout);
    CHECK(plan_workspace(plan) <= attention_cudnn_workspace(s->batch), "more than was planned");
    plan_free(plan);
}

void attention_prepare(const AttentionBounds *bounds, int64_t ldq, int64_t ldk, int64_t ldv,
                       int64_t ldo) {
    if (!plan_supported(CAPABILITY, bounds->D)) {
        printf("none D %" PRId64 ": our own kernel\n", bounds->D);
        return;
    }
    for (int backward = 0; backward < 2; backward++) {
        PlanShape list[PLAN_SHAPES_MAX];
        const int count = attention_cudnn_shapes(list, bounds, ldq, ldk, ldv, ldo, backward != 0);
        for (int i = 0; i < count; i++) build(&list[i]);
    }
    // Every class takes room for its segments, and floats for dq and the sum of each query and head
    // for up to three times as many queries. Nothing grows with queries x keys.
    const int64_t scratch = attention_cudnn_scratch(bounds, true),
                  sums = bounds->T * bounds->heads * (bounds->D + 1) * (int64_t)sizeof(float),
                  most = 3 * sums + (1 << 20) + 2048 * bounds->S;
    printf("scratch D %" PRId64 ": %" PRId64 " tokens, %" PRId64 " keys, %" PRId64
           " segments, %" PRId64 " heads: %.1f MiB, sums alone %.1f\n",
           bounds->D, bounds->T, bounds->X, bounds->S, bounds->heads, (double)scratch / (1 << 20),
           (double)sums / (1 << 20));
    CHECK(scratch <= most, "%" PRId64 " bytes, more than %" PRId64, scratch, most);
}

// As the first rank of a sequence group, which has the most heads.
static void build_all(const Config *config) {
    const int sequences = (int)config->parallel.sequence;
    Mesh mesh;
    mesh_shape(&mesh, &(MeshConfig){sequences, sequences}, 0, sequences);
    Model model = {0};
    model_record(&model, &config->model, &mesh);
    model_plan(&model, RECOMPUTE_NONE, stage_bounds(config));
    model.lengths[0] = model.bounds.tokens / 128 * 128;  // Where that is long enough.
    const Program *block = &model.block;
    for (int c = 0; c < block->calls; c++) {
        if (block->call[c].op != OP_ATTENTION) continue;
        op_table[OP_ATTENTION].prepare(block, &block->call[c], model.bound);
    }
    model_free(&model);
}

static void build_heads(void) {
    const int64_t D[] = {8, 40, 104, 128, 136, 256};
    for (int i = 0; i < 6; i++) {
        CHECK(plan_supported(CAPABILITY, D[i]), "D %" PRId64 " is not supported", D[i]);
        const AttentionBounds bounds = {
            .T = 200, .X = 300, .S = 3, .heads = 2, .D = D[i], .cross = true};
        attention_prepare(&bounds, 2 * D[i], 4 * D[i], 4 * D[i], 2 * D[i]);
    }
    // Rows of the largest model: more than 2^32 elements, and more than 2^31 sums in float.
    const AttentionBounds wide = {
        .T = 180000, .X = 180000, .S = 90, .heads = 64, .D = 128, .cross = false};
    attention_prepare(&wide, 3 * 8192, 3 * 8192, 3 * 8192, 8192);
}

int main(int argc, char **argv) {
    CHECK(argc >= 2, "usage: plans DEVICE.json CONFIG...");
    Error error;
    int64_t bytes;
    char *text = file_read(argv[1], TEXT_BYTES, &bytes, &error);
    CHECK(text != NULL, "%s", error.text);
    while (bytes > 0 && text[bytes - 1] == '\n') text[--bytes] = '\0';
    device = text;
    Config *config = calloc(1, sizeof(*config));
    Problems *problems = calloc(1, sizeof(*problems));
    CHECK(config != NULL && problems != NULL, "no memory");
    printf("cuDNN %" PRId64 "\n", plan_library_version());
    if (argc == 2) build_heads();
    for (int i = 2; i < argc; i++) {
        char *yaml = file_read(argv[i], TEXT_BYTES, &bytes, &error);
        CHECK(yaml != NULL, "%s", error.text);
        CHECK(config_parse(config, yaml, bytes, argv[i], NULL, 0, problems), "%s: %s", argv[i],
              problems->text[0]);
        printf("config %s\n", argv[i]);
        build_all(config);
        free(yaml);
    }
    free(config);
    free(problems);
    free(text);
    return 0;
}
