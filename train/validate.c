#include "train/validate.h"

#include <stdlib.h>
#include <string.h>

#include "base/die.h"

bool validation_open(Validation *v, Trainer *t, Error *error) {
    memset(v, 0, sizeof(*v));
    if (t->config.train.validate == 0) return true;
    for (int64_t s = 0; s < t->config.stage_count; s++) {
        v->plans[s] = step_plan_create(t->planner);
        planner_validation(v->plans[s], t->planner, (int)s);
    }
    v->pack = loaded_pack_create(t->planner);
    v->reader = pack_reader_create(t->planner, t->config.data.cache_bytes, error);
    return v->reader != NULL;
}

void validation_close(Validation *v) {
    for (int s = 0; s < STAGES_MAX; s++) step_plan_free(v->plans[s]);
    pack_reader_free(v->reader);
    loaded_pack_free(v->pack);
}

static void run_pack(Validation *v, Trainer *t, const StepPlan *plan, int index) {
    Error error;
    if (!pack_reader_load(v->pack, v->reader, plan, index, &error)) DIE("%s", error.text);
    const FlowKeys keys = {.seed = (uint64_t)t->config.run.seed,
                           .noise = RNG_VALIDATE_NOISE,
                           .shift = t->config.stages[plan->stage].shift,
                           .fixed_times = true,
                           .flow = &t->config.flow,
                           .caption_dropout = 0};
    const PlanPack *place = &plan->packs[index];
    batch_fill(&t->batch, &t->model, v->pack, t->weights + place->first, &keys);
    model_forward(&t->model, t->fsdp, &t->batch.host->bind, NULL);
    step_losses_add(t, place, v->pack, false);
}

void validate(Validation *v, Trainer *t, Report *report) {
    const StepPlan *plan = v->plans[planner_stage_of(t->planner, t->state.step - 1)];
    const Mesh *mesh = &t->mesh;
    int packs = 0;  // Those that have samples come first.
    while (packs < plan->pack_count && plan->packs[packs].count > 0) packs++;
    if (packs == 0) return;
    const int64_t count = plan->sample_count * mesh->sequences;
    int64_t *losses = calloc((size_t)count, sizeof(*losses));
    CHECK(losses != NULL, "no memory for held-out samples");
    step_losses_clear(t);
    step_weights(t->weights, plan, &t->model, (LossMean)t->config.train.loss);
    fsdp_source(t->fsdp, t->optimizer.ema);
    for (int first = 0; first < packs; first += mesh->data_size) {
        if (first + mesh->data_index < packs) {
            run_pack(v, t, plan, first + mesh->data_index);
        } else {
            model_forward(&t->model, t->fsdp, NULL, NULL);
        }
    }
    fsdp_source(t->fsdp, NULL);
    step_losses_take(t, losses, plan->sample_count);
    comm_all_reduce_sum(t->world, losses, count);
    double loss = 0;
    for (int64_t i = 0; i < count; i++) {
        double part;
        memcpy(&part, &losses[i], sizeof(part));
        loss += part * t->weights[i / mesh->sequences];
    }
    free(losses);
    report_validation(report, t->state.step, loss);
}
