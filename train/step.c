#include "train/step.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/die.h"

// Places in what the ranks add up: small counters, the exact norm, then the bits of every sample's
// loss, each written by one rank and zero elsewhere.
enum {
    AGREE_STOP,
    AGREE_SAVE,
    AGREE_CORRUPT,
    AGREE_NORM,
    AGREE_LOSSES = AGREE_NORM + sizeof(ExactSum) / sizeof(int64_t),
};

int64_t step_share(int64_t *packs, int64_t pack_count, int stage, const void *context) {
    (void)stage;
    const Mesh *mesh = context;
    int64_t count = 0;
    for (int round = 0; round < mesh_rounds(mesh, (int)pack_count); round++) {
        const int pack = mesh_pack(mesh, (int)pack_count, round);
        if (pack >= 0) packs[count++] = pack;
    }
    return count;
}

void step_create(Trainer *t) {
    const PlanBounds bounds = planner_bounds(t->planner);
    t->samples_max = bounds.packs * bounds.segments;
    const int64_t agreement = AGREE_LOSSES + t->samples_max * t->mesh.sequences;
    t->agreement = calloc((size_t)agreement, sizeof(*t->agreement));
    t->sample_losses = calloc((size_t)t->samples_max, sizeof(*t->sample_losses));
    t->weights = calloc((size_t)t->samples_max, sizeof(*t->weights));
    t->losses = device_allocate("losses", t->samples_max * (int64_t)sizeof(*t->losses));
    t->host_losses = host_allocate("losses", t->samples_max * (int64_t)sizeof(*t->losses));
    CHECK(t->agreement != NULL && t->sample_losses != NULL && t->weights != NULL,
          "no memory for %" PRId64 " samples a step", t->samples_max);
}

void step_free(Trainer *t) {
    device_free(t->losses);
    host_free(t->host_losses);
    free(t->agreement);
    free(t->sample_losses);
    free(t->weights);
}

void step_weights(double *weights, const StepPlan *plan, const Model *model, LossMean mean) {
    const double elements = (double)model_token_elements(&model->config);
    for (int64_t i = 0; i < plan->sample_count; i++) {
        weights[i] =
            mean == LOSS_TOKEN
                ? 1 / ((double)plan->tokens * elements)
                : 1 / ((double)plan->sample_count * (double)plan->samples[i].tokens * elements);
    }
}

double step_flops(const StepPlan *plan, const Model *model) {
    const Cost cost = model_cost(model);
    double flops = 0;
    for (int64_t i = 0; i < plan->sample_count; i++) {
        const double N = (double)plan->samples[i].tokens;
        const double L = (double)max_i64(plan->samples[i].text_length, 1);
        flops += (double)cost.segment + N * (double)cost.token + L * (double)cost.text +
                 N * N * (double)cost.token_token + N * L * (double)cost.token_text;
    }
    return 3 * flops;
}

static FlowKeys flow_keys(const Trainer *t, const StepPlan *plan) {
    return (FlowKeys){.seed = (uint64_t)t->config.run.seed,
                      .noise = RNG_NOISE,
                      .step = plan->step,
                      .shift = t->config.stages[plan->stage].shift,
                      .flow = &t->config.flow,
                      .caption_dropout = t->config.train.caption_dropout};
}

void step_losses_clear(Trainer *t) {
    device_zero(t->losses, t->samples_max * (int64_t)sizeof(*t->losses), NULL);
}

void step_losses_add(Trainer *t, const PlanPack *place, const LoadedPack *pack, bool gradient) {
    const PackBind *bind = &t->batch.host->bind;
    double *losses = t->losses + place->first + bind->segment_first;
    batch_loss(&t->batch, &t->model, losses, gradient);
    for (int64_t s = 0; s < bind->S; s++) {
        if (!pack->samples[bind->segment_first + s].corrupt) continue;
        device_zero(losses + s, sizeof(*losses), NULL);
    }
}

void step_losses_take(Trainer *t, int64_t *bits, int64_t samples) {
    device_copy(t->host_losses, t->losses, samples * (int64_t)sizeof(*t->losses), NULL);
    stream_wait(NULL);
    for (int64_t i = 0; i < samples; i++) {
        memcpy(&bits[i * t->mesh.sequences + t->mesh.sequence_index], &t->host_losses[i],
               sizeof(*bits));
    }
}

// Counts a pack's corrupt samples, and says which.
static void note_corrupt(Trainer *t, const StepPlan *plan, const LoadedPack *pack) {
    for (int64_t i = 0; i < pack->count && t->mesh.sequence_index == 0; i++) {
        if (!pack->samples[i].corrupt) continue;
        t->agreement[AGREE_CORRUPT]++;
        fprintf(stderr, "step %" PRId64 ": sample %s carries no loss: %s\n", plan->step + 1,
                pack->samples[i].id, pack->samples[i].reason);
    }
}

// Forward and backward of one round. False after an I/O error.
static bool run_round(Trainer *t, const StepPlan *plan, int round, Error *error) {
    const int index = mesh_pack(&t->mesh, (int)plan->pack_count, round);
    if (index < 0) {
        model_forward(&t->model, t->fsdp, NULL, NULL);
        model_backward(&t->model, t->fsdp, NULL, round, NULL);
        return true;
    }
    const LoadedPack *pack = loader_pack(t->loader, error);
    if (pack == NULL) return false;
    CHECK(pack->pack == index, "the loader gave pack %" PRId64 ", not %d", pack->pack, index);
    const FlowKeys keys = flow_keys(t, plan);
    const PlanPack *place = &plan->packs[index];
    batch_fill(&t->batch, &t->model, pack, t->weights + place->first, &keys);
    const PackBind *bind = &t->batch.host->bind;
    model_forward(&t->model, t->fsdp, bind, NULL);
    step_losses_add(t, place, pack, true);
    model_backward(&t->model, t->fsdp, bind, round, NULL);
    note_corrupt(t, plan, pack);
    return true;
}

// A sample's loss: the slices of its sequence group one by one.
static double sample_loss(const Trainer *t, int64_t i) {
    double sum = 0;
    for (int s = 0; s < t->mesh.sequences; s++) {
        double part;
        memcpy(&part, &t->agreement[AGREE_LOSSES + i * t->mesh.sequences + s], sizeof(part));
        sum += part;
    }
    return sum;
}

// For summing in the order of positions, which no layout changes.
typedef struct {
    int64_t position, index;
} Place;

static int by_position(const void *a, const void *b) {
    const int64_t x = ((const Place *)a)->position, y = ((const Place *)b)->position;
    return (x > y) - (x < y);
}

// Adds a sample's mean loss to those of its size.
static void add_size(StepReport *report, LatentShape shape, double mean) {
    int i = 0;
    while (i < report->size_count &&
           (report->sizes[i].F != shape.F || report->sizes[i].H != shape.H ||
            report->sizes[i].W != shape.W)) {
        i++;
    }
    if (i == SIZES_MAX) return;
    SizeLoss *size = &report->sizes[i];
    if (i == report->size_count) {
        *size = (SizeLoss){.F = shape.F, .H = shape.H, .W = shape.W};
        snprintf(size->key, sizeof(size->key), "loss_%dx%dx%d", shape.F, shape.H, shape.W);
        report->size_count++;
    }
    size->count++;
    size->loss += (mean - size->loss) / (double)size->count;
}

// The step's loss, and means by time, medium and size.
static void sum_losses(Trainer *t, const StepPlan *plan, StepReport *report) {
    const double elements = (double)model_token_elements(&t->model.config);
    Place *order = calloc((size_t)plan->sample_count, sizeof(*order));
    CHECK(order != NULL, "no memory for %" PRId64 " samples", plan->sample_count);
    double bin[TIME_BINS] = {0}, medium[MEDIUM_COUNT] = {0};
    int64_t bin_count[TIME_BINS] = {0}, medium_count[MEDIUM_COUNT] = {0};
    const FlowKeys keys = flow_keys(t, plan);
    for (int64_t pack = 0; pack < plan->pack_count; pack++) {
        const PlanPack *p = &plan->packs[pack];
        for (int64_t i = p->first; i < p->first + p->count; i++) {
            const PlanSample *sample = &plan->samples[i];
            order[i] = (Place){sample->position, i};
            t->sample_losses[i] = sample_loss(t, i);
            const double mean = t->sample_losses[i] / ((double)sample->tokens * elements);
            const int b = (int)min_i64(
                (int64_t)(sample_time(&keys, pack, sample->position) * TIME_BINS), TIME_BINS - 1);
            bin[b] += mean;
            bin_count[b]++;
            medium[sample->medium] += mean;
            medium_count[sample->medium]++;
            add_size(report, sample->shape, mean);
        }
    }
    qsort(order, (size_t)plan->sample_count, sizeof(*order), by_position);
    report->loss = 0;
    for (int64_t i = 0; i < plan->sample_count; i++) {
        report->loss += t->sample_losses[order[i].index] * t->weights[order[i].index];
    }
    free(order);
    for (int i = 0; i < TIME_BINS; i++) report->loss_bin[i] = bin[i] / (double)bin_count[i];
    for (int i = 0; i < MEDIUM_COUNT; i++) {
        report->loss_medium[i] = medium[i] / (double)medium_count[i];
    }
}

// Applies the update, or not: by numbers that all ranks have alike.
static void update(Trainer *t, const StepPlan *plan, StepReport *report) {
    const Config *config = &t->config;
    RunState *state = &t->state;
    report->lr = schedule_lr(&config->train, config->stages[plan->stage].lr, plan->step,
                             config_steps(config));
    if (plan->step > 0 && plan->stage != state->cursor.stage) {
        state_restart_norms(state);  // Another stage's norms say nothing about this one's.
    }
    if (!isfinite(report->loss) || !isfinite(report->norm)) {
        report->skipped = "loss or gradient not finite";
    } else if (state_is_spike(state, &config->train, report->norm)) {
        report->skipped = "gradient norm spiked";
    }
    state->step = plan->step + 1;
    state->corrupt += report->corrupt;
    cursor_copy(&state->cursor, &plan->after);
    if (report->skipped != NULL) {
        state->skipped++;
        state->skipped_in_row++;
        return;
    }
    state->skipped_in_row = 0;
    const double clip = config->train.clip;
    const double scale = clip > 0 && report->norm > clip ? clip / report->norm : 1;
    optimizer_update(&t->optimizer, t->fsdp, &t->model.params, &config->train, report->lr, scale,
                     state->updates);
    state->updates++;
    state_add_norm(state, &config->train, report->norm);
}

static double seconds_in_comm(const Mesh *mesh) {
    return comm_seconds(mesh->world) + comm_seconds(mesh->sequence) + comm_seconds(mesh->shard) +
           comm_seconds(mesh->exchange) + comm_seconds(mesh->replica);
}

bool step_run(Trainer *t, bool stop, bool save, StepReport *report, Error *error) {
    const double start = clock_seconds(), waited = loader_waited_seconds(t->loader);
    const double communicated = seconds_in_comm(&t->mesh);
    *report = (StepReport){0};
    const StepPlan *plan = loader_step(t->loader, error);
    if (plan == NULL) return false;
    report->plan = plan;
    step_weights(t->weights, plan, &t->model, (LossMean)t->config.train.loss);
    const int64_t agreement = AGREE_LOSSES + plan->sample_count * t->mesh.sequences;
    memset(t->agreement, 0, (size_t)agreement * sizeof(int64_t));
    t->agreement[AGREE_STOP] = stop;
    t->agreement[AGREE_SAVE] = save && t->mesh.rank == 0;

    step_losses_clear(t);
    fsdp_begin_step(t->fsdp, (int)plan->pack_count);
    for (int round = 0; round < mesh_rounds(&t->mesh, (int)plan->pack_count); round++) {
        if (!run_round(t, plan, round, error)) return false;
    }
    fsdp_end_step(t->fsdp);

    ExactSum norm;
    fsdp_square_sum(t->fsdp, &norm);
    step_losses_take(t, t->agreement + AGREE_LOSSES, plan->sample_count);
    memcpy(t->agreement + AGREE_NORM, &norm, sizeof(norm));
    comm_all_reduce_sum(t->world, t->agreement, agreement);
    memcpy(&norm, t->agreement + AGREE_NORM, sizeof(norm));
    report->norm = sqrt(exact_value(&norm));
    report->stop = t->agreement[AGREE_STOP] > 0;
    report->save = t->agreement[AGREE_SAVE] > 0;
    report->corrupt = t->agreement[AGREE_CORRUPT];
    sum_losses(t, plan, report);
    update(t, plan, report);
    report->seconds = clock_seconds() - start;
    report->data_seconds = loader_waited_seconds(t->loader) - waited;
    report->comm_seconds = seconds_in_comm(&t->mesh) - communicated;
    return true;
}
