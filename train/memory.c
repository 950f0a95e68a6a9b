#include "train/memory.h"

#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "checkpoint/save.h"
#include "train/optimizer.h"
#include "train/sampler.h"

ModelNeeds model_needs(const ModelConfig *config) {
    Mesh alone;
    mesh_shape(&alone, &(MeshConfig){.sequence = 1, .shard = 1}, 0, 1);
    Model *model = calloc(1, sizeof(*model));
    CHECK(model != NULL, "no memory");
    model_record(model, config, &alone);
    const Cost cost = model_cost(model);
    model_free(model);
    free(model);
    return (ModelNeeds){.channels = (int32_t)config->in_channels,
                        .patch = model_patch(config),
                        .text_width = (int32_t)config->text_width,
                        .cost = {.tokens = cost.token,
                                 .tokens_squared = cost.token_token,
                                 .tokens_text = cost.token_text,
                                 .text = cost.text}};
}

FsdpConfig fsdp_settings(const Config *config) {
    int64_t packs = 0;
    for (int64_t s = 0; s < config->stage_count; s++) {
        packs = max_i64(packs, config->stages[s].data.packs);
    }
    return (FsdpConfig){.wire = config_wire(config),
                        .reshard_after_forward = config->parallel.reshard_after_forward,
                        .packs_max = (int)packs};
}

ModelBounds stage_bounds(const Config *config) {
    ModelBounds bounds = {0};
    for (int64_t s = 0; s < config->stage_count; s++) {
        const StageData *stage = &config->stages[s].data;
        bounds.tokens = max_i64(bounds.tokens, stage->tokens);
        bounds.text = max_i64(bounds.text, stage->text_tokens);
        bounds.segments = max_i64(bounds.segments, stage->segments);
    }
    return bounds;
}

MemoryPlan memory_plan(Model *model, const Mesh *mesh, const Config *config, int64_t data,
                       Recompute recompute) {
    const FsdpConfig sharding = fsdp_settings(config);
    model_plan(model, recompute, stage_bounds(config));
    // The first rank has the largest slices and the most heads.
    Mesh first;
    mesh_shape(&first, &(MeshConfig){mesh->sequences, mesh->shards}, 0, mesh->size);
    MemoryPlan plan = {.fsdp = fsdp_plan(&model->params, &first, &sharding),
                       .model = model->bytes,
                       .batch = batch_bytes(model),
                       .saving = checkpoint_bytes(&model->params, config->checkpoint.file_bytes,
                                                  first.shard_index, first.shards, first.replicas),
                       .optimizer = optimizer_plan(&model->params, &first),
                       .data = data};
    if (config->sample.prompt_count > 0) plan.sampling = sampler_bytes(model);
    plan.host = plan.data + plan.model.host + plan.batch.host +
                max_i64(plan.sampling.host, plan.saving.host);
    plan.total = plan.fsdp.total + plan.model.total + plan.optimizer + plan.batch.device +
                 max_i64(plan.sampling.device, plan.saving.device);
    if (strcmp(device_backend(), "cpu") == 0) plan.total += plan.host;
    return plan;
}

Recompute choose_recompute(Model *model, const Mesh *mesh, const Config *config, int64_t data,
                           int64_t available) {
    if (config->model.recompute != RECOMPUTE_AUTO) return (Recompute)config->model.recompute;
    for (Recompute policy = RECOMPUTE_NONE; policy < RECOMPUTE_BLOCK; policy++) {
        if (memory_plan(model, mesh, config, data, policy).total <= available) return policy;
    }
    return RECOMPUTE_BLOCK;
}

void check_layout(const Config *config, int ranks, Problems *problems) {
    int packs[STAGES_MAX];
    for (int64_t s = 0; s < config->stage_count; s++) packs[s] = (int)config->stages[s].data.packs;
    const MeshConfig mesh = {(int)config->parallel.sequence, (int)config->parallel.shard};
    mesh_check(&mesh, ranks, packs, (int)config->stage_count, problems);
}

// Whether a layout is legal and its plan, with as much recomputation as allowed, fits.
static bool layout_fits(const Config *config, int ranks, int shard, int64_t data,
                        int64_t available) {
    Config changed = *config;
    changed.parallel.shard = shard;
    Problems *problems = calloc(1, sizeof(*problems));
    Model *model = calloc(1, sizeof(*model));
    CHECK(problems != NULL && model != NULL, "no memory");
    check_layout(&changed, ranks, problems);
    bool fits = problems->count == 0;
    if (fits) {
        Mesh mesh;
        const MeshConfig layout = {(int)config->parallel.sequence, shard};
        mesh_shape(&mesh, &layout, 0, ranks);
        model_record(model, &config->model, &mesh);
        const Recompute most = config->model.recompute == RECOMPUTE_AUTO
                                   ? RECOMPUTE_BLOCK
                                   : (Recompute)config->model.recompute;
        fits = memory_plan(model, &mesh, config, data, most).total <= available;
        model_free(model);
    }
    free(model);
    free(problems);
    return fits;
}

MeshConfig choose_layout(const Config *config, int ranks, int node, int64_t data,
                         int64_t available) {
    int shard = (int)config->parallel.shard;
    for (int tried = node; shard == 0 && tried < ranks; tried += node) {
        if (layout_fits(config, ranks, tried, data, available)) shard = tried;
    }
    return (MeshConfig){(int)config->parallel.sequence, shard};
}
