// plan: a pure function of settings, data and cursor; every row once an epoch; packs within their
// limits, filled by the rule that plan.h states and balanced by work; few samples wait, none for
// long; the cursor survives JSON at any step; held-out rows are never drawn; settings that cannot
// be met are refused with the reason.
// ranks: 1
#include <stdio.h>
#include <stdlib.h>

#include "data/planner.h"
#include "tests/plan_maker.h"

static void same_cursor(const Cursor *a, const Cursor *b) {
    check_that(
        a->step == b->step && a->stage == b->stage && a->position == b->position &&
            a->dropped == b->dropped && a->deferred_count == b->deferred_count &&
            memcmp(a->places, b->places, sizeof(a->places)) == 0 &&
            memcmp(a->deferred, b->deferred, (size_t)a->deferred_count * sizeof(Deferred)) == 0,
        "cursors differ at step %lld", (long long)a->step);
}

static void same_plan(const StepPlan *a, const StepPlan *b) {
    check_that(a->step == b->step && a->stage == b->stage && a->pack_count == b->pack_count &&
                   a->sample_count == b->sample_count &&
                   memcmp(a->packs, b->packs, (size_t)a->pack_count * sizeof(PlanPack)) == 0 &&
                   plan_same_samples(a->samples, b->samples, a->sample_count),
               "plans differ at step %lld", (long long)a->step);
    same_cursor(&a->after, &b->after);
}

// Two planners, one of which starts anew from the JSON of the cursor before every step.
static void test_pure_and_resumable(void **state) {
    (void)state;
    Planner *planner = plan_open_default(), *other = plan_open_default();
    StepPlan *a = step_plan_create(planner), *b = step_plan_create(other);
    Cursor cursor, restored;
    cursor_init(&cursor, planner);
    check_that(planner_steps(planner) == 90, "steps");
    while (cursor.step < 90) {
        json_t *json = cursor_to_json(&cursor, planner);
        char *text = json_dumps(json, 0);
        json_decref(json);
        json = json_loads(text, 0, NULL);
        free(text);
        if (cursor.step % 20 == 7) {
            planner_free(other);
            other = plan_open_default();
        }
        Error error = {""};
        cursor_init(&restored, other);
        check_that(cursor_from_json(&restored, other, json, &error), "%s", error.text);
        json_decref(json);
        same_cursor(&cursor, &restored);
        plan_step(b, other, &restored);
        plan_step(a, planner, &cursor);
        same_plan(a, b);
        same_cursor(&cursor, &a->after);
        cursor_free(&restored);
    }
    cursor_free(&cursor);
    step_plan_free(a);
    step_plan_free(b);
    planner_free(planner);
    planner_free(other);
}

// ---- the rule

// A pack as the test fills it, by the words of plan.h.
typedef struct {
    int64_t tokens, count, text, work;
} Load;

static int64_t best_pack(const Load *loads, const StageData *stage, const PlanSample *s) {
    const int64_t text = s->text_length > 0 ? s->text_length : 1;
    int64_t best = -1;
    for (int64_t j = stage->packs - 1; j >= 0; j--) {
        const Load *load = &loads[j];
        if (load->tokens + s->tokens > stage->tokens || load->count + 1 > stage->segments ||
            load->text + text > stage->text_tokens) {
            continue;
        }
        if (best < 0 || load->work <= loads[best].work) best = j;
    }
    return best;
}

typedef struct {
    PlanSample sample;
    int64_t pack;
} Placed;

static int64_t drawn_from;  // Position of the first sample that the step drew.

// Deferred samples before drawn ones, by age; drawn ones by length.
static int placing_order(const void *left, const void *right) {
    const PlanSample *a = &((const Placed *)left)->sample, *b = &((const Placed *)right)->sample;
    const bool old_a = a->position < drawn_from, old_b = b->position < drawn_from;
    if (old_a != old_b) return old_a ? -1 : 1;
    if (!old_a && a->tokens != b->tokens) return a->tokens > b->tokens ? -1 : 1;
    return a->position < b->position ? -1 : 1;
}

static PlanSample sample_of(const Planner *planner, const Deferred *d) {
    const CatalogueRow *row = &planner_catalogue(planner, d->source)->rows[d->row];
    PlanSample sample = {.position = d->position, .source = d->source, .row = d->row};
    sample.tokens = (int64_t)row->shape.F * (row->shape.H / 2) * (row->shape.W / 2);
    sample.text_length = row->text_length;
    return sample;
}

static void check_rule(const Planner *planner, const StepPlan *plan) {
    const StageData *stage = planner_stage(planner, plan->stage);
    static Placed all[4096];
    int64_t n = 0, tokens = 0, text = 0;
    for (int64_t j = 0; j < plan->pack_count; j++) {
        check_that(plan->packs[j].count > 0, "pack %lld is empty", (long long)j);
        for (int64_t i = 0; i < plan->packs[j].count; i++) {
            all[n++] = (Placed){plan->samples[plan->packs[j].first + i], j};
        }
    }
    for (int64_t i = 0; i < plan->after.deferred_count; i++) {
        all[n++] = (Placed){sample_of(planner, &plan->after.deferred[i]), -1};
    }
    drawn_from = plan->after.position - plan->drawn;
    qsort(all, (size_t)n, sizeof(Placed), placing_order);
    Load loads[16] = {{0}};
    for (int64_t i = 0; i < n; i++) {
        const PlanSample *s = &all[i].sample;
        const int64_t L = s->text_length > 0 ? s->text_length : 1;
        const int64_t best = best_pack(loads, stage, s);
        check_that(best == all[i].pack, "step %lld: position %lld is in pack %lld, not %lld",
                   (long long)plan->step, (long long)s->position, (long long)all[i].pack,
                   (long long)best);
        tokens += s->tokens;
        text += L;
        if (best < 0) continue;
        const int64_t T = s->tokens;
        check_that(s->work == 1000 * T + 3 * T * T + 2 * T * L + 50 * L, "work");
        loads[best].tokens += T;
        loads[best].text += L;
        loads[best].work += s->work;
        loads[best].count++;
    }
    for (int64_t j = 0; j < plan->pack_count; j++) {
        const PlanPack *pack = &plan->packs[j];
        check_that(pack->tokens == loads[j].tokens && pack->text_tokens == loads[j].text &&
                       pack->work == loads[j].work && pack->count == loads[j].count,
                   "sums of pack %lld", (long long)j);
        check_that(pack->tokens <= stage->tokens && pack->count <= stage->segments &&
                       pack->text_tokens <= stage->text_tokens,
                   "pack %lld is beyond a limit", (long long)j);
    }
    // Drawing ended when a sum reached packs x limit, and not before.
    const bool reached = tokens >= stage->packs * stage->tokens ||
                         n >= stage->packs * stage->segments ||
                         text >= stage->packs * stage->text_tokens;
    check_that(reached || plan->drawn == 0, "step %lld drew too little", (long long)plan->step);
}

static void test_rule(void **state) {
    (void)state;
    Planner *planner = plan_open_default();
    StepPlan *plan = step_plan_create(planner);
    Cursor cursor;
    cursor_init(&cursor, planner);
    while (cursor.step < planner_steps(planner)) {
        const int64_t waiting = cursor.deferred_count, dropped = cursor.dropped;
        plan_step(plan, planner, &cursor);
        check_rule(planner, plan);
        const bool entered = plan->step == 30 || plan->step == 70;
        check_that(plan->stage == (plan->step < 30 ? 0 : plan->step < 70 ? 1 : 2), "stage");
        check_that(cursor.dropped == dropped + (entered ? waiting : 0), "dropped");
        check_that(plan->step != 70 || cursor.places[0][0].epoch == 0, "a stage starts at epoch 0");
        check_that(plan->step < 70 || cursor.places[0][0].place == 0,
                   "images in a stage of videos");
    }
    cursor_free(&cursor);
    step_plan_free(plan);
    planner_free(planner);
}

// Every row that passes is drawn once in each epoch of its list; every position is placed, waiting
// or dropped; nobody waits long.
static void test_epochs(void **state) {
    (void)state;
    StageData stage = plan_stage(100, 0.5);
    const DataConfig config = plan_config();
    Planner *planner = plan_open(&config, &stage, 1);
    StepPlan *plan = step_plan_create(planner);
    Cursor cursor;
    cursor_init(&cursor, planner);
    static int counts[2][MEDIUM_COUNT][300];
    memset(counts, 0, sizeof(counts));
    static int64_t drawn_at[20000];
    int64_t placed = 0, waited = 0;
    while (cursor.step < 100) {
        for (int64_t before = cursor.position, step = cursor.step; cursor.step == step;) {
            plan_step(plan, planner, &cursor);
            for (int64_t p = before; p < cursor.position; p++) drawn_at[p] = plan->step;
        }
        for (int64_t i = 0; i < plan->sample_count; i++) {
            const PlanSample *s = &plan->samples[i];
            counts[s->source][s->medium][s->row]++;
            const int64_t age = plan->step - drawn_at[s->position];
            if (age > waited) waited = age;
        }
        placed += plan->sample_count;
    }
    check_that(placed + cursor.deferred_count == cursor.position, "a position was lost");
    check_that(waited <= 2, "a sample waited %lld steps", (long long)waited);
    for (int64_t i = 0; i < cursor.deferred_count; i++) {
        const Deferred *d = &cursor.deferred[i];
        counts[d->source][planner_catalogue(planner, d->source)->rows[d->row].medium][d->row]++;
    }
    for (int s = 0; s < 2; s++) {
        for (Medium m = 0; m < MEDIUM_COUNT; m++) {
            const DrawPlace place = cursor.places[s][m];
            int64_t rows = 0, ahead = 0;
            for (int64_t r = 0; r < planner_catalogue(planner, s)->count; r++) {
                const int n = counts[s][m][r];
                if (n == 0) continue;
                rows++;
                check_that(n == place.epoch || n == place.epoch + 1,
                           "row %lld: %d draws in epoch %lld", (long long)r, n,
                           (long long)place.epoch);
                ahead += n == place.epoch + 1;
            }
            if (place.epoch > 0) {
                check_that(rows == planner_rows(planner, 0, s, m), "%lld rows were drawn",
                           (long long)rows);
            }
            check_that(ahead == place.place, "%lld rows ahead, place %lld", (long long)ahead,
                       (long long)place.place);
        }
    }
    check_that(cursor.places[1][MEDIUM_VIDEO].epoch > 2, "too few epochs to say anything");
    cursor_free(&cursor);
    step_plan_free(plan);
    planner_free(planner);
}

// Shares of media and sources; packs full and of equal work.
static void test_shares_and_balance(void **state) {
    (void)state;
    StageData stage = plan_stage(150, 0.7);
    stage.packs = 8;
    stage.tokens = 2000;
    stage.segments = 200;
    stage.text_tokens = 2000;
    const DataConfig config = plan_config();
    Planner *planner = plan_open(&config, &stage, 1);
    StepPlan *plan = step_plan_create(planner);
    Cursor cursor;
    cursor_init(&cursor, planner);
    double media[MEDIUM_COUNT] = {0}, sources[2] = {0}, fill = 0, balance = 0;
    while (cursor.step < 150) {
        plan_step(plan, planner, &cursor);
        int64_t work = 0, most = 0;
        for (int64_t j = 0; j < 8; j++) {
            work += plan->packs[j].work;
            if (plan->packs[j].work > most) most = plan->packs[j].work;
        }
        balance += (double)work / 8 / (double)most / 150;
        fill += (double)plan->tokens / (8 * 2000) / 150;
        for (int64_t i = 0; i < plan->sample_count; i++) {
            media[plan->samples[i].medium]++;
            if (plan->samples[i].medium == MEDIUM_IMAGE) sources[plan->samples[i].source]++;
        }
    }
    const double share = media[MEDIUM_IMAGE] / (media[MEDIUM_IMAGE] + media[MEDIUM_VIDEO]);
    const double weight = sources[0] / (sources[0] + sources[1]);
    check_that(share > 0.69 && share < 0.71, "image share %.4f, want 0.7", share);
    check_that(weight > 0.73 && weight < 0.77, "weight of source 0 %.4f, want 0.75", weight);
    check_that(fill > 0.98, "packs are %.4f full", fill);
    check_that(balance > 0.97, "mean over largest work %.4f", balance);
    cursor_free(&cursor);
    step_plan_free(plan);
    planner_free(planner);
}

// Samples of more than half a pack: one fits into each pack, and since what waits counts as drawn,
// no more than a few wait, none for long.
static void test_deferral_is_bounded(void **state) {
    (void)state;
    StageData stage = plan_stage(200, 0);
    stage.frames_min = 4;
    stage.height_min = stage.width_min = 10;
    stage.tokens = 5 * 6 * 6;
    DataConfig config = plan_config();
    config.sources[0].weight = 0;
    Planner *planner = plan_open(&config, &stage, 1);
    StepPlan *plan = step_plan_create(planner);
    Cursor cursor;
    cursor_init(&cursor, planner);
    int64_t most = 0, oldest = 0;
    while (cursor.step < 200) {
        plan_step(plan, planner, &cursor);
        check_rule(planner, plan);
        if (cursor.deferred_count > most) most = cursor.deferred_count;
        for (int64_t i = 0; i < plan->sample_count; i++) {
            const int64_t age = cursor.position - plan->samples[i].position;
            if (age > oldest) oldest = age;
        }
    }
    check_that(most >= 1 && most <= 8, "%lld deferred", (long long)most);
    check_that(oldest < 20, "a sample was overtaken by %lld", (long long)oldest);
    cursor_free(&cursor);
    step_plan_free(plan);
    planner_free(planner);
}

// 16 x packs samples wait, though they are small: nothing is drawn until fewer do.
static void test_many_deferred(void **state) {
    (void)state;
    StageData stage = plan_stage(20, 1);
    stage.tokens = 20 * 36;
    const DataConfig config = plan_config();
    Planner *planner = plan_open(&config, &stage, 1);
    StepPlan *plan = step_plan_create(planner);
    Cursor cursor;
    cursor_init(&cursor, planner);
    plan_step(plan, planner, &cursor);
    const int64_t start = cursor.position - cursor.deferred_count - plan->sample_count;
    check_that(start == 0 && plan->sample_count > 40, "%lld samples",
               (long long)plan->sample_count);
    for (int64_t i = 0; i < 65; i++) {  // As if the first ones had all waited, in turns.
        const PlanSample *s = &plan->samples[i % plan->sample_count];
        cursor.deferred[i] = (Deferred){i, s->source, s->row};
    }
    cursor.deferred_count = 65;
    for (int64_t waiting = 63; waiting <= 65; waiting++) {
        Cursor now;
        cursor_init(&now, planner);
        cursor_copy(&now, &cursor);
        now.deferred_count = waiting;
        now.position = 1000;
        plan_step(plan, planner, &now);
        check_that((plan->drawn == 0) == (waiting >= 64), "%lld wait, %lld drawn",
                   (long long)waiting, (long long)plan->drawn);
        check_rule(planner, plan);
        cursor_free(&now);
    }
    cursor_free(&cursor);
    step_plan_free(plan);
    planner_free(planner);
}

// ---- held-out rows

static void test_holdout(void **state) {
    (void)state;
    Planner *planner = plan_open_default();
    const PlanSample *held;
    const int64_t count = planner_held_out(planner, &held);
    check_that(count == 6 * 3, "%lld held out", (long long)count);
    StepPlan *plan = step_plan_create(planner);
    Cursor cursor;
    cursor_init(&cursor, planner);
    while (cursor.step < planner_steps(planner)) {
        plan_step(plan, planner, &cursor);
        for (int64_t i = 0; i < plan->sample_count; i++) {
            for (int64_t k = 0; k < count; k++) {
                check_that(plan->samples[i].source != held[k].source ||
                               plan->samples[i].row != held[k].row,
                           "a held-out row was drawn");
            }
        }
    }
    // Cut into other shards, the same samples are held out.
    DataConfig config = plan_config();
    Maker maker = plan_makers[1];
    maker.size_limit = 50000;
    char path[512];
    maker_build(&maker, check_path(path, "resharded"));
    memcpy(config.sources[1].path, path, sizeof(path));
    StageData stages[3];
    plan_stages(stages);
    Planner *other = plan_open(&config, stages, 3);
    const PlanSample *again;
    check_that(planner_held_out(other, &again) == count, "count");
    for (int64_t k = 0; k < count; k++) {
        check_that(again[k].row == held[k].row && again[k].source == held[k].source, "other rows");
    }
    check_that(planner_checksum(other) != planner_checksum(planner), "checksum");
    cursor_free(&cursor);
    step_plan_free(plan);
    planner_free(planner);
    planner_free(other);
}

static void test_validation(void **state) {
    (void)state;
    Planner *planner = plan_open_default();
    StepPlan *a = step_plan_create(planner), *b = step_plan_create(planner);
    const PlanSample *held;
    const int64_t count = planner_held_out(planner, &held);
    for (int stage = 0; stage < 3; stage++) {
        planner_validation(a, planner, stage);
        planner_validation(b, planner, stage);
        same_plan(a, b);
        check_that(a->sample_count > 0 && a->stage == stage, "%lld samples",
                   (long long)a->sample_count);
        for (int64_t i = 0; i < a->sample_count; i++) {
            const PlanSample *s = &a->samples[i];
            check_that(s->position < count && held[s->position].row == s->row, "not held out");
            check_that(stage == 1 || s->medium == (stage == 0 ? MEDIUM_IMAGE : MEDIUM_VIDEO),
                       "medium");
        }
        for (int64_t j = 0; j < a->pack_count; j++) {
            check_that(a->packs[j].tokens <= planner_stage(planner, stage)->tokens, "tokens");
        }
    }
    step_plan_free(a);
    step_plan_free(b);
    planner_free(planner);
}

// The lengths with the most pairs of tokens, each once, counted here over all rows that pass.
static void test_lengths(void **state) {
    (void)state;
    enum { MOST = 4096 };
    Planner *planner = plan_open_default();
    static int64_t pairs[MOST];
    memset(pairs, 0, sizeof(pairs));
    for (int stage = 0; stage < 3; stage++) {
        for (int s = 0; s < 2; s++) {
            for (int64_t r = 0; r < planner_catalogue(planner, s)->count; r++) {
                if (planner_judge(planner, stage, s, (uint32_t)r) != ROW_PASSES) continue;
                const int64_t T = planner_sample(planner, 0, s, (uint32_t)r).tokens;
                check_that(T < MOST, "%lld tokens", (long long)T);
                pairs[T] += T * T;
            }
        }
    }
    for (int64_t i = 0; i < planner->held_count; i++) {
        for (int stage = 0; stage < 3; stage++) {
            const PlanSample *held = &planner->held[i];
            if (planner_judge(planner, stage, held->source, held->row) == ROW_PASSES) {
                pairs[held->tokens] -= held->tokens * held->tokens;
            }
        }
    }
    int64_t lengths[LENGTHS_MAX], kinds = 0;
    planner_lengths(planner, lengths);
    for (int64_t T = 1; T < MOST; T++) kinds += pairs[T] > 0;
    check_that(kinds > 2, "%lld lengths", (long long)kinds);
    for (int i = 0; i < LENGTHS_MAX; i++) {
        int64_t best = 0;
        for (int64_t T = 1; T < MOST; T++) best = pairs[T] > pairs[best] ? T : best;
        check_that(lengths[i] == best, "number %d: %lld, want %lld", i, (long long)lengths[i],
                   (long long)best);
        pairs[best] = 0;
    }
    planner_free(planner);
}

// Each row of each source has one verdict in each stage.
static void test_verdicts(void **state) {
    (void)state;
    Planner *planner = plan_open_default();
    for (int stage = 0; stage < 3; stage++) {
        for (int s = 0; s < 2; s++) {
            const int64_t *verdicts = planner_verdicts(planner, stage, s);
            int64_t sum = 0;
            for (int v = 0; v < ROW_VERDICTS; v++) sum += verdicts[v];
            check_that(sum == planner_catalogue(planner, s)->count, "%lld verdicts",
                       (long long)sum);
            check_that(verdicts[ROW_PASSES] == planner_rows(planner, stage, s, MEDIUM_IMAGE) +
                                                   planner_rows(planner, stage, s, MEDIUM_VIDEO),
                       "rows that pass");
        }
    }
    check_that(planner_verdicts(planner, 0, 0)[ROW_PATCH] == 5, "odd heights");
    check_that(planner_verdicts(planner, 0, 0)[ROW_HELD_OUT] >= 5, "held out");
    check_that(planner_verdicts(planner, 0, 1)[ROW_SHARE] == 80, "videos in a stage of images");
    check_that(planner_verdicts(planner, 2, 1)[ROW_QUALITY] > 10, "quality");
    planner_free(planner);
}

// ---- refusals

static void refuse(const DataConfig *config, const StageData *stage, int problem_count,
                   const char *part) {
    static Problems problems;
    problems.count = 0;
    Planner *planner = planner_create(config, stage, 1, &plan_needs, 1, &problems);
    check_that(planner == NULL, "accepted, not refused with '%s'", part);
    check_that(problems.count == problem_count, "%d problems: %s", problems.count,
               problems.text[0]);
    check_contains(problems.text[0], part);
}

static void test_refused(void **state) {
    (void)state;
    const DataConfig good = plan_config();
    const StageData fine = plan_stage(5, 0.5);
    StageData stage = fine;
    DataConfig config = good;
    stage.packs = 0;
    stage.image_share = 1.5;
    refuse(&config, &stage, 2, "must be > 0");
    stage = fine;
    stage.height_min = 13;
    refuse(&config, &stage, 1, "height from 13 to 12 admits nothing");
    stage = fine;
    stage.height_min = stage.height_max = 100;
    refuse(&config, &stage, 4, "no image passes");
    stage = fine;
    stage.filter_count = 1;
    stage.filters[0] = (QualityFilter){"motion", 0, 1};
    refuse(&config, &stage, 2, "filter 'motion'");
    stage = fine;
    stage.image_share = 0;
    refuse(&config, &stage, 1, "has weight 3, but no row passes any stage");
    stage = fine;
    stage.tokens = (int64_t)1 << 40;
    refuse(&config, &stage, 1, "exceeds 64 bits");
    config.sources[1].weight = -1;
    refuse(&config, &fine, 1, "weight = -1");
    config = good;
    config.sources[0].weight = config.sources[1].weight = 0;
    refuse(&config, &fine, 1, "all weights are 0");
    config = good;
    config.source_count = 0;
    refuse(&config, &fine, 1, "0 of them");
    config = good;
    config.holdout = 60;
    refuse(&config, &fine, 1, "more than half of the 80 videos");
    config = good;
    snprintf(config.sources[1].path, 512, "nowhere");
    refuse(&config, &fine, 1, "data.sources[1]: nowhere/index.json");
}

static void refuse_cursor(const Planner *planner, const char *text, const char *part) {
    json_t *json = json_loads(text, 0, NULL);
    check_that(json != NULL, "not JSON: %s", text);
    Cursor cursor;
    cursor_init(&cursor, planner);
    Error error = {""};
    check_that(!cursor_from_json(&cursor, planner, json, &error), "accepted: %s", text);
    check_contains(error.text, part);
    cursor_free(&cursor);
    json_decref(json);
}

#define HEAD "{\"step\": 3, \"stage\": 1, \"position\": 50, \"dropped\": 0, "
#define PLACES                                                                                 \
    "\"places\": [{\"image\": [0, 3], \"video\": [0, 0]}, {\"image\": [1, 2], \"video\": [0, " \
    "1]}], "

static void test_cursor_refused(void **state) {
    (void)state;
    Planner *planner = plan_open_default();
    refuse_cursor(planner, "[]", "step must be");
    refuse_cursor(planner, "{\"step\": 91, \"stage\": 0}", "step must be");
    refuse_cursor(planner, "{\"step\": 3, \"stage\": 3}", "stage must be");
    refuse_cursor(planner, "{\"step\": 3, \"stage\": 1, \"position\": -1}", "position must be");
    refuse_cursor(planner, "{\"step\": 3, \"stage\": 1, \"position\": 9223372036854775807}",
                  "position must be");
    refuse_cursor(planner, HEAD "\"places\": [{\"image\": [9223372036854775807, 0]}, {}]}",
                  "places[0].image");
    refuse_cursor(planner, HEAD "\"places\": []}", "places of 0 sources");
    refuse_cursor(planner, HEAD "\"places\": [{}, {}]}", "places[0].image");
    refuse_cursor(planner,
                  HEAD
                  "\"places\": [{\"image\": [0, 300], \"video\": [0, 0]}, {}], \"deferred\": []}",
                  "places[0].image");
    refuse_cursor(planner, HEAD PLACES "\"deferred\": 5}", "deferred must be a list");
    refuse_cursor(planner, HEAD PLACES "\"deferred\": [[7, 0]]}", "deferred[0]");
    refuse_cursor(planner, HEAD PLACES "\"deferred\": [[50, 0, 0]]}", "deferred[0]");
    refuse_cursor(planner, HEAD PLACES "\"deferred\": [[7, 2, 0]]}", "deferred[0]");
    refuse_cursor(planner, HEAD PLACES "\"deferred\": [[7, 0, 150]]}", "deferred[0]");
    refuse_cursor(planner, HEAD PLACES "\"deferred\": [[7, 0, 0], [7, 0, 1]]}", "deferred[1]");
    refuse_cursor(planner, HEAD PLACES "\"deferred\": [[7, 0, 28]]}", "deferred[0]");
    planner_free(planner);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pure_and_resumable),
        cmocka_unit_test(test_rule),
        cmocka_unit_test(test_epochs),
        cmocka_unit_test(test_shares_and_balance),
        cmocka_unit_test(test_deferral_is_bounded),
        cmocka_unit_test(test_many_deferred),
        cmocka_unit_test(test_holdout),
        cmocka_unit_test(test_validation),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cursor_refused),
    };
    return cmocka_run_group_tests(tests, plan_data, NULL);
}
