#include "model/model.h"

#include <string.h>

#include "base/die.h"
#include "model/ops/table.h"

void model_record(Model *model, const ModelConfig *config, const Mesh *mesh) {
    memset(model, 0, sizeof(*model));
    model->config = *config;
    model->mesh = mesh;
    model->stem_values = goku_stem(&model->stem, config, &model->params, mesh);
    // Every block is recorded for its parameters; the last recording serves them all.
    for (int b = 0; b < config->layers; b++) {
        model->block_values = goku_block(&model->block, config, &model->params, mesh, b);
    }
    model->head_values = goku_head(&model->head, config, &model->params, mesh);
    model->stem.deterministic = config->deterministic;
    model->block.deterministic = config->deterministic;
    model->head.deterministic = config->deterministic;
    model->stem.lengths = model->block.lengths = model->head.lengths = model->lengths;
    model->units = model->params.units;
}

Cost model_cost(const Model *model) {
    Cost cost = {0}, block = {0};
    program_cost(&model->stem, &cost);
    program_cost(&model->head, &cost);
    program_cost(&model->block, &block);
    const int64_t L = model->config.layers;
    cost.token += L * block.token;
    cost.text += L * block.text;
    cost.segment += L * block.segment;
    cost.token_token += L * block.token_token;
    cost.token_text += L * block.token_text;
    return cost;
}

// The same lines measure and lay out.
static void lay_out(Model *model, Arena *arena) {
    const int64_t T = model->bound[ROWS_TOKENS], S = model->bound[ROWS_SEGMENTS];
    const int64_t X = model->bound[ROWS_TEXT], C = model_width(&model->config);
    const int64_t E = model_token_elements(&model->config), L = model->config.layers;
    const int64_t size = type_size(REAL_TYPE);
    model->patches = arena_take(arena, T * E * size);
    model->time = arena_take(arena, S * 4);
    model->text = arena_take(arena, X * model->config.text_width * size);
    model->out = arena_take(arena, T * E * size);
    model->dout = arena_take(arena, T * E * size);
    if (model->config.offload) {
        offload_lay_out(&model->offload, arena, (int)L + 1, T * C * size);
        model->bytes.host = offload_host_bytes(&model->offload);
    } else {
        model->x = arena_take(arena, (L + 1) * T * C * size);
    }
    model->dx = arena_take(arena, T * C * size);
    model->cond = arena_take(arena, S * C * size);
    model->dcond = arena_take(arena, S * C * 4);
    model->bytes.inputs = arena->used;
    model->bytes.kept = model->stem.plan.kept_bytes + L * model->block.plan.kept_bytes +
                        model->head.plan.kept_bytes;
    model->kept = arena_take(arena, model->bytes.kept);
    model->bytes.work = max_i64(model->stem.plan.work_bytes,
                                max_i64(model->block.plan.work_bytes, model->head.plan.work_bytes));
    model->work = arena_take(arena, model->bytes.work);
    model->bytes.total = arena->used + model->bytes.products;
}

static int64_t shared_bytes(const Program *p, const int64_t *bound) {
    int64_t most = 0;
    for (int c = 0; c < p->calls; c++) {
        const OpInfo *info = &op_table[p->call[c].op];
        if (info->shared != NULL) most = max_i64(most, info->shared(p, &p->call[c], bound));
    }
    return most;
}

void model_plan(Model *model, Recompute recompute, ModelBounds bounds) {
    CHECK(model->arena.memory == NULL, "planned after it was allocated");
    model->bounds = bounds;
    model->bound[ROWS_TOKENS] = div_up(bounds.tokens, model->mesh->sequences);
    model->bound[ROWS_PACK] = bounds.tokens;
    model->bound[ROWS_TEXT] = bounds.text;
    model->bound[ROWS_SEGMENTS] = bounds.segments;
    program_plan(&model->stem, recompute, model->bound);
    program_plan(&model->block, recompute, model->bound);
    program_plan(&model->head, recompute, model->bound);
    const Program *units[] = {&model->stem, &model->block, &model->head};
    model->bytes.products = 0;
    for (int i = 0; i < 3; i++) {
        model->bytes.products =
            max_i64(model->bytes.products, shared_bytes(units[i], model->bound));
    }
    Arena measure = {.name = "activations"};
    lay_out(model, &measure);
}

static void prepare(const Program *p, const int64_t *bound) {
    for (int c = 0; c < p->calls; c++) {
        const OpInfo *info = &op_table[p->call[c].op];
        if (info->prepare != NULL) info->prepare(p, &p->call[c], bound);
    }
}

void model_allocate(Model *model) {
    model->arena = (Arena){.name = "activations"};
    lay_out(model, &model->arena);
    arena_commit(&model->arena);
    lay_out(model, &model->arena);
    CHECK(model->arena.used == model->arena.size, "activations: planned %lld, used %lld bytes",
          (long long)model->arena.size, (long long)model->arena.used);
    if (model->config.offload) offload_create(&model->offload);
    prepare(&model->stem, model->bound);
    prepare(&model->block, model->bound);
    prepare(&model->head, model->bound);
}

void model_free(Model *model) {
    offload_free(&model->offload);
    arena_free(&model->arena);
    param_free(&model->params);
}

// Input number i of the blocks and the head.
static void *input_of(const Model *model, int i) {
    if (model->config.offload) return offload_slot(&model->offload, i);
    return model->x + i * model->bound[ROWS_TOKENS] * model_width(&model->config);
}

static int64_t input_bytes(const Model *model, const PackBind *bind) {
    return bind->T * model_width(&model->config) * type_size(REAL_TYPE);
}

// Which program, and everything it touches, for one unit.
static const Program *unit_run(const Model *model, int unit, const PackBind *bind,
                               ProgramRun *run) {
    const bool stem = unit == 0, head = unit == model->units - 1;
    const Program *p = stem ? &model->stem : head ? &model->head : &model->block;
    const UnitValues *v = stem   ? &model->stem_values
                          : head ? &model->head_values
                                 : &model->block_values;
    *run = (ProgramRun){.bind = bind, .work = model->work, .op_times = model->op_times};
    run->kept = model->kept;
    if (!stem) run->kept += model->stem.plan.kept_bytes + (unit - 1) * model->block.plan.kept_bytes;
    run->external[v->x] = stem ? model->patches : input_of(model, unit - 1);
    run->external[v->out_x] = head ? model->out : input_of(model, unit);
    run->external_gradient[v->out_x] = head ? model->dout : model->dx;
    if (!stem) run->external_gradient[v->x] = model->dx;
    const Value cond = stem ? v->out_cond : v->cond;
    run->external[cond] = model->cond;
    run->external_gradient[cond] = model->dcond;
    if (v->text != NO_VALUE) run->external[v->text] = model->text;
    if (v->time != NO_VALUE) run->external[v->time] = model->time;
    return p;
}

void model_forward(Model *model, Fsdp *fsdp, const PackBind *bind, Stream stream) {
    fsdp_fetch(fsdp, 0);
    for (int unit = 0; unit < model->units; unit++) {
        if (unit + 1 < model->units) fsdp_fetch(fsdp, unit + 1);
        ProgramRun run;
        const real *weights = fsdp_wait(fsdp, unit);
        if (bind != NULL) {
            const Program *p = unit_run(model, unit, bind, &run);
            run.weights = weights;
            const bool away = model->config.offload && unit < model->units - 1;
            if (away) offload_write(&model->offload, unit, stream);
            program_forward(p, &run, stream);
            if (away) {
                offload_written(&model->offload, unit, input_bytes(model, bind), stream);
            }
        }
        fsdp_release(fsdp, unit);
    }
}

void model_backward(Model *model, Fsdp *fsdp, const PackBind *bind, int round, Stream stream) {
    fsdp_fetch(fsdp, model->units - 1);
    if (bind != NULL) {
        device_zero(model->dcond, bind->S * model_width(&model->config) * 4, stream);
    }
    for (int unit = model->units - 1; unit >= 0; unit--) {
        if (unit > 0) fsdp_fetch(fsdp, unit - 1);
        ProgramRun run;
        const real *weights = fsdp_wait(fsdp, unit);
        if (bind != NULL) {
            const Program *p = unit_run(model, unit, bind, &run);
            run.weights = weights;
            run.gradient = fsdp_leaf(fsdp, unit);
            const bool away = model->config.offload && unit > 0;
            if (away) offload_read(&model->offload, unit - 1, stream);
            program_backward(p, &run, stream);
            if (away) {
                offload_done(&model->offload, unit - 1, input_bytes(model, bind), stream);
            }
        }
        fsdp_release(fsdp, unit);
        fsdp_reduce(fsdp, unit, round);
    }
}
