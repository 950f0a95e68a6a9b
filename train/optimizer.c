#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"

static int64_t slice_bytes(const ParamTable *table, int unit, int index, int size) {
    const int64_t elements = table->unit_elements[unit];
    return (slice_cut(elements, index + 1, size) - slice_cut(elements, index, size)) *
           (int64_t)sizeof(float);
}

static void lay_out(Optimizer *o, Arena *arena, const ParamTable *table, int index, int size) {
    for (int unit = 0; unit < table->units; unit++) {
        const int64_t bytes = slice_bytes(table, unit, index, size);
        float *const exp_avg = arena_take(arena, bytes);
        float *const exp_avg_sq = arena_take(arena, bytes);
        float *const ema = arena_take(arena, bytes);
        if (o == NULL) continue;
        o->exp_avg[unit] = exp_avg;
        o->exp_avg_sq[unit] = exp_avg_sq;
        o->ema[unit] = ema;
    }
}

int64_t optimizer_plan(const ParamTable *table, const Mesh *mesh) {
    Arena arena = {.name = "optimizer"};
    lay_out(NULL, &arena, table, 0, mesh->shards);
    return arena.used;
}

void optimizer_create(Optimizer *o, const ParamTable *table, const Mesh *mesh) {
    memset(o, 0, sizeof(*o));
    o->arena.name = "optimizer";
    o->units = table->units;
    float **slices = calloc((size_t)(3 * table->units), sizeof(*slices));
    CHECK(slices != NULL, "no memory for %d units", table->units);
    o->exp_avg = slices;
    o->exp_avg_sq = slices + table->units;
    o->ema = slices + 2 * table->units;
    o->edges = calloc((size_t)table->count, sizeof(*o->edges));
    CHECK(o->edges != NULL, "no memory for %d tensors", table->count);
    lay_out(o, &o->arena, table, mesh->shard_index, mesh->shards);
    arena_commit(&o->arena);
    lay_out(o, &o->arena, table, mesh->shard_index, mesh->shards);
}

void optimizer_free(Optimizer *o) {
    arena_free(&o->arena);
    free(o->exp_avg);
    free(o->edges);
    *o = (Optimizer){0};
}

void optimizer_start(Optimizer *o, Fsdp *fsdp) {
    for (int unit = 0; unit < o->units; unit++) {
        const int64_t count = fsdp_slice_end(fsdp, unit) - fsdp_slice_begin(fsdp, unit);
        device_copy(o->ema[unit], fsdp_master(fsdp, unit), count * (int64_t)sizeof(float), NULL);
    }
}

// Where in this rank's slice of a unit weight decay begins and ends, by turns. Gaps behind what
// decays are part of it: they are zero and stay so.
static int decay_edges(int64_t *edges, const ParamTable *table, int unit, int64_t begin,
                       int64_t end) {
    int count = 0;
    const int last = param_unit_first(table, unit + 1);
    for (int r = param_unit_first(table, unit); r < last; r++) {
        const Param *row = &table->rows[r];
        if (row->decay == (count % 2 == 1)) continue;
        edges[count++] = min_i64(max_i64(row->offset, begin), end) - begin;
    }
    return count;
}

void optimizer_update(Optimizer *o, Fsdp *fsdp, const ParamTable *table, const TrainConfig *config,
                      double lr, double gradient_scale, int64_t updates) {
    const double n = (double)(updates + 1);
    const AdamW adamw = {.lr = (float)lr,
                         .beta1 = (float)config->beta1,
                         .beta2 = (float)config->beta2,
                         .epsilon = (float)config->epsilon,
                         .decay = (float)config->weight_decay,
                         .correction1 = (float)(1 - pow(config->beta1, n)),
                         .correction2 = (float)(1 - pow(config->beta2, n)),
                         .gradient_scale = (float)gradient_scale,
                         .ema_keep = (float)ema_decay(config, updates)};
    bool stale = false;
    for (int unit = 0; unit < o->units; unit++) {
        const int64_t begin = fsdp_slice_begin(fsdp, unit), end = fsdp_slice_end(fsdp, unit);
        const AdamWState state = {.w = fsdp_master(fsdp, unit),
                                  .m = o->exp_avg[unit],
                                  .v = o->exp_avg_sq[unit],
                                  .ema = o->ema[unit],
                                  .rounded = fsdp_rounded(fsdp, unit)};
        const int edges = decay_edges(o->edges, table, unit, begin, end);
        vector_adamw(&state, fsdp_gradient(fsdp, unit), end - begin, o->edges, edges, &adamw, NULL);
        stale = stale || state.rounded == NULL;
    }
    if (stale) fsdp_invalidate(fsdp);
}

double schedule_lr(const TrainConfig *config, double lr, int64_t step, int64_t steps) {
    if (step < config->warmup) return lr * (double)(step + 1) / (double)config->warmup;
    const double length = (double)max_i64(steps - config->warmup, 1);
    const double x = fmin((double)(step - config->warmup + 1) / length, 1);
    switch ((Schedule)config->schedule) {
        case SCHEDULE_CONSTANT:
            return lr;
        case SCHEDULE_COSINE:
            return lr *
                   (config->lr_end + (1 - config->lr_end) * 0.5 * (1 + cos(3.141592653589793 * x)));
        case SCHEDULE_LINEAR:
            return lr * (1 + (config->lr_end - 1) * x);
    }
    DIE("unknown schedule %d", config->schedule);
}

double ema_decay(const TrainConfig *config, int64_t updates) {
    return fmin(config->ema_decay, (1 + (double)updates) / (10 + (double)updates));
}
