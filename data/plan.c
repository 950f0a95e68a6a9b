#include "data/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/real.h"
#include "base/rng.h"
#include "data/planner.h"

enum { DEFERRED_PACKS = 16 };

static int64_t text_room(const PlanSample *sample) {
    return max_i64(sample->text_length, 1);
}

StepPlan *step_plan_create(const Planner *planner) {
    const PlanBounds b = planner_bounds(planner);
    StepPlan *plan = calloc(1, sizeof(*plan));
    CHECK(plan != NULL, "no memory for a plan");
    plan->packs = calloc((size_t)b.packs, sizeof(PlanPack));
    plan->samples = calloc((size_t)b.deferred, sizeof(PlanSample));
    CHECK(plan->packs != NULL && plan->samples != NULL, "no memory for %lld packs",
          (long long)b.packs);
    cursor_init(&plan->after, planner);
    return plan;
}

void step_plan_free(StepPlan *plan) {
    if (plan == NULL) return;
    free(plan->packs);
    free(plan->samples);
    cursor_free(&plan->after);
    free(plan);
}

// The sample at `position`: medium, then source, by the position alone; then the next of its order.
static PlanSample draw(Planner *planner, Cursor *cursor, int stage) {
    const int64_t position = cursor->position++;
    const double share = planner->stages[stage].image_share;
    const double u = rng_uniform(planner->seed, RNG_MEDIUM, (uint64_t)position, 0);
    const Medium medium = u < share ? MEDIUM_IMAGE : MEDIUM_VIDEO;
    const int sources = (int)planner->config.source_count;
    const double *below = planner->weight_below[stage][medium];
    const double at =
        rng_uniform(planner->seed, RNG_MEDIUM, (uint64_t)position, 1) * below[sources];
    int source = sources - 1;  // The last one with a weight, were `at` rounded up to the sum.
    while (source > 0 && below[source + 1] == below[source]) source--;
    for (int s = sources - 1; s >= 0; s--) {
        if (at < below[s + 1] && below[s + 1] > below[s]) source = s;
    }
    RowList *list = &planner->lists[stage][source][medium];
    DrawPlace *place = &cursor->places[source][medium];
    const uint32_t row = order_row(&list->order, place->epoch, place->place);
    if (++place->place == list->count) *place = (DrawPlace){place->epoch + 1, 0};
    return planner_sample(planner, position, source, row);
}

static int longest_first(const void *left, const void *right) {
    const PlanSample *a = left, *b = right;
    if (a->tokens != b->tokens) return a->tokens > b->tokens ? -1 : 1;
    return a->position < b->position ? -1 : 1;
}

static int oldest_first(const void *left, const void *right) {
    const Deferred *a = left, *b = right;
    return a->position < b->position ? -1 : 1;
}

// Puts candidates into packs, in their order: each into the pack with the least work that has room.
// pack_of[i] = -1 when there is none. plan->samples gets them pack by pack.
static void fill_packs(StepPlan *plan, int64_t *pack_of, const StageData *stage,
                       const PlanSample *candidates, int64_t count) {
    plan->pack_count = stage->packs;
    memset(plan->packs, 0, (size_t)stage->packs * sizeof(PlanPack));
    for (int64_t i = 0; i < count; i++) {
        const PlanSample *sample = &candidates[i];
        int64_t best = -1;
        for (int64_t j = 0; j < stage->packs; j++) {
            const PlanPack *pack = &plan->packs[j];
            if (pack->tokens + sample->tokens <= stage->tokens && pack->count < stage->segments &&
                pack->text_tokens + text_room(sample) <= stage->text_tokens &&
                (best < 0 || pack->work < plan->packs[best].work)) {
                best = j;
            }
        }
        pack_of[i] = best;
        if (best < 0) continue;
        PlanPack *pack = &plan->packs[best];
        pack->count++;
        pack->tokens += sample->tokens;
        pack->text_tokens += text_room(sample);
        pack->work += sample->work;
    }
    plan->sample_count = plan->tokens = 0;
    for (int64_t j = 0; j < stage->packs; j++) {
        plan->packs[j].first = plan->sample_count;
        plan->sample_count += plan->packs[j].count;
        plan->tokens += plan->packs[j].tokens;
        plan->packs[j].count = 0;
    }
    for (int64_t i = 0; i < count; i++) {
        if (pack_of[i] < 0) continue;
        PlanPack *pack = &plan->packs[pack_of[i]];
        plan->samples[pack->first + pack->count++] = candidates[i];
    }
}

static void enter_stage(Cursor *cursor, int stage) {
    cursor->stage = stage;
    cursor->dropped += cursor->deferred_count;
    cursor->deferred_count = 0;
    memset(cursor->places, 0, sizeof(cursor->places));
}

void plan_step(StepPlan *plan, Planner *planner, Cursor *cursor) {
    CHECK(cursor->step < planner_steps(planner), "step %lld of %lld", (long long)cursor->step,
          (long long)planner_steps(planner));
    const int stage_index = planner_stage_of(planner, cursor->step);
    if (stage_index != cursor->stage) enter_stage(cursor, stage_index);
    const StageData *stage = &planner->stages[stage_index];
    PlanSample *candidates = planner->candidates;
    int64_t tokens = 0, text = 0, count = cursor->deferred_count;
    for (int64_t i = 0; i < count; i++) {
        const Deferred *d = &cursor->deferred[i];
        candidates[i] = planner_sample(planner, d->position, d->source, d->row);
        tokens += candidates[i].tokens;
        text += text_room(&candidates[i]);
    }
    if (cursor->deferred_count < DEFERRED_PACKS * stage->packs) {
        while (tokens < stage->packs * stage->tokens && count < stage->packs * stage->segments &&
               text < stage->packs * stage->text_tokens) {
            candidates[count] = draw(planner, cursor, stage_index);
            tokens += candidates[count].tokens;
            text += text_room(&candidates[count]);
            count++;
        }
    }
    plan->step = cursor->step++;
    plan->stage = stage_index;
    plan->drawn = count - cursor->deferred_count;
    qsort(candidates + cursor->deferred_count, (size_t)plan->drawn, sizeof(*candidates),
          longest_first);
    fill_packs(plan, planner->pack_of, stage, candidates, count);
    cursor->deferred_count = 0;
    for (int64_t i = 0; i < count; i++) {
        const PlanSample *s = &candidates[i];
        if (planner->pack_of[i] >= 0) continue;
        cursor->deferred[cursor->deferred_count++] = (Deferred){s->position, s->source, s->row};
    }
    qsort(cursor->deferred, (size_t)cursor->deferred_count, sizeof(Deferred), oldest_first);
    cursor_copy(&plan->after, cursor);
}

void planner_validation(StepPlan *plan, const Planner *planner, int stage) {
    PlanSample *candidates = malloc((size_t)(planner->held_count + 1) * sizeof(PlanSample));
    int64_t *pack_of = malloc((size_t)(planner->held_count + 1) * sizeof(int64_t));
    CHECK(candidates != NULL && pack_of != NULL, "no memory for %lld held-out samples",
          (long long)planner->held_count);
    int64_t count = 0;
    for (int64_t i = 0; i < planner->held_count; i++) {
        const PlanSample *held = &planner->held[i];
        if (planner_judge(planner, stage, held->source, held->row) == ROW_PASSES) {
            candidates[count++] = *held;
        }
    }
    plan->step = 0;
    plan->stage = stage;
    plan->drawn = 0;
    fill_packs(plan, pack_of, &planner->stages[stage], candidates, count);
    free(candidates);
    free(pack_of);
}
