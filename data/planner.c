#include "data/planner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/real.h"
#include "base/rng.h"

static void *allocate(int64_t count, size_t bytes) {
    void *memory = calloc((size_t)max_i64(count, 1), bytes);
    CHECK(memory != NULL, "no memory for %lld x %zu bytes of the plan", (long long)count, bytes);
    return memory;
}

// ---- checks of the settings

static void check_range(Problems *problems, int stage, const char *name, int64_t min, int64_t max) {
    if (min <= max && min >= 1) return;
    problems_add(problems, "stage %d: %s from %lld to %lld admits nothing", stage, name,
                 (long long)min, (long long)max);
}

static double work_of(const WorkCost *cost, double tokens, double text) {
    return (double)cost->tokens * tokens + (double)cost->tokens_squared * tokens * tokens +
           (double)cost->tokens_text * tokens * text + (double)cost->text * text;
}

static void check_stage(Problems *problems, const StageData *stage, int i,
                        const ModelNeeds *needs) {
    if (stage->steps < 1 || stage->packs < 1 || stage->tokens < 1 || stage->segments < 1 ||
        stage->text_tokens < 1) {
        problems_add(problems, "stage %d: steps, packs, tokens, segments, text_tokens must be > 0",
                     i);
    }
    if (!(stage->image_share >= 0 && stage->image_share <= 1)) {
        problems_add(problems, "stage %d: image_share = %g must be from 0 to 1", i,
                     stage->image_share);
    }
    check_range(problems, i, "frames", stage->frames_min, stage->frames_max);
    check_range(problems, i, "height", stage->height_min, stage->height_max);
    check_range(problems, i, "width", stage->width_min, stage->width_max);
    if (work_of(&needs->cost, (double)stage->tokens, (double)stage->text_tokens) > 0x1p62) {
        problems_add(problems, "stage %d: the work of a pack exceeds 64 bits", i);
    }
}

static void check_config(Problems *problems, const DataConfig *config) {
    double sum = 0;
    if (config->source_count < 1 || config->source_count > SOURCES_MAX) {
        problems_add(problems, "data.sources: %lld of them; 1 to %d are possible",
                     (long long)config->source_count, SOURCES_MAX);
        return;
    }
    for (int s = 0; s < config->source_count; s++) {
        const double weight = config->sources[s].weight;
        if (!(weight >= 0 && weight <= 1e9)) {
            problems_add(problems, "data.sources[%d].weight = %g must be from 0 to 1e9", s, weight);
        }
        sum += weight;
    }
    if (!(sum > 0)) problems_add(problems, "data.sources: all weights are 0");
    if (config->holdout < 0) problems_add(problems, "data.holdout must not be negative");
    if (config->window < 1) problems_add(problems, "data.window must be > 0 shards");
}

static void open_catalogues(Planner *planner, Problems *problems) {
    for (int s = 0; s < planner->config.source_count; s++) {
        Error error;
        planner->catalogues[s] = catalogue_open(planner->config.sources[s].path, &error);
        if (planner->catalogues[s] == NULL) {
            problems_add(problems, "data.sources[%d]: %s", s, error.text);
        }
    }
}

static void check_filters(Planner *planner, Problems *problems) {
    for (int stage = 0; stage < planner->stage_count; stage++) {
        for (int64_t i = 0; i < planner->stages[stage].filter_count; i++) {
            const QualityFilter *filter = &planner->stages[stage].filters[i];
            for (int s = 0; s < planner->config.source_count; s++) {
                if (catalogue_quality(planner->catalogues[s], filter->name) >= 0) continue;
                problems_add(problems, "stage %d: filter '%s': %s has no such column of numbers",
                             stage, filter->name, planner->config.sources[s].path);
            }
            if (!(filter->min <= filter->max)) {
                problems_add(problems, "stage %d: filter '%s' from %g to %g admits nothing", stage,
                             filter->name, filter->min, filter->max);
            }
        }
    }
}

// ---- held-out rows

typedef struct {
    uint64_t hash;
    uint32_t row;
} Lot;

// The `want` rows of a medium with the lowest hash of their content's hash: fixed by the data
// alone.
static int64_t lowest_lots(Lot *lots, int64_t want, int64_t *rows, const Catalogue *catalogue,
                           Medium medium) {
    int64_t count = 0;
    *rows = 0;
    for (int64_t i = 0; i < catalogue->count; i++) {
        if (catalogue->rows[i].medium != (uint32_t)medium) continue;
        ++*rows;
        const uint64_t hash = hash_bytes(&catalogue->rows[i].hash, 8);
        if (want == 0 || (count == want && hash >= lots[count - 1].hash)) continue;
        int64_t at = count < want ? count++ : count - 1;
        for (; at > 0 && lots[at - 1].hash > hash; at--) lots[at] = lots[at - 1];
        lots[at] = (Lot){hash, (uint32_t)i};
    }
    return count;
}

static void hold_out(Planner *planner, Problems *problems) {
    const int64_t want = planner->config.holdout, sources = planner->config.source_count;
    Lot *lots = allocate(sources * MEDIUM_COUNT * want, sizeof(Lot));
    int64_t counts[SOURCES_MAX][MEDIUM_COUNT];
    planner->held = allocate(sources * MEDIUM_COUNT * want, sizeof(PlanSample));
    for (int s = 0; s < sources; s++) {
        for (Medium m = 0; m < MEDIUM_COUNT; m++) {
            int64_t rows;
            counts[s][m] = lowest_lots(lots + (s * MEDIUM_COUNT + (int64_t)m) * want, want, &rows,
                                       planner->catalogues[s], m);
            if (rows > 0 && 2 * want > rows) {
                problems_add(problems, "data.holdout = %lld is more than half of the %lld %s of %s",
                             (long long)want, (long long)rows,
                             m == MEDIUM_IMAGE ? "images" : "videos",
                             planner->config.sources[s].path);
            }
        }
    }
    for (int64_t k = 0; k < want; k++) {  // Sources and media take turns.
        for (int s = 0; s < sources; s++) {
            for (int m = 0; m < MEDIUM_COUNT; m++) {
                if (k >= counts[s][m]) continue;
                const Lot *lot = &lots[(s * MEDIUM_COUNT + m) * want + k];
                planner->held[planner->held_count] =
                    planner_sample(planner, planner->held_count, s, lot->row);
                planner->held_count++;
            }
        }
    }
    free(lots);
}

// ---- lists of rows

static void quality_indexes(int out[QUALITIES_MAX], const Planner *planner, int stage, int source) {
    for (int64_t i = 0; i < planner->stages[stage].filter_count; i++) {
        out[i] =
            catalogue_quality(planner->catalogues[source], planner->stages[stage].filters[i].name);
    }
}

// Verdicts of all rows of one source in one stage, held-out ones included.
static uint8_t *judge_all(Planner *planner, int stage, int source) {
    const Catalogue *catalogue = planner->catalogues[source];
    uint8_t *verdicts = allocate(catalogue->count, 1);
    int quality[QUALITIES_MAX];
    quality_indexes(quality, planner, stage, source);
    for (int64_t i = 0; i < catalogue->count; i++) {
        verdicts[i] = (uint8_t)row_judge(&catalogue->rows[i], &planner->stages[stage],
                                         &planner->needs, quality);
    }
    for (int64_t i = 0; i < planner->held_count; i++) {
        const PlanSample *held = &planner->held[i];
        if (held->source == source && verdicts[held->row] == ROW_PASSES) {
            verdicts[held->row] = ROW_HELD_OUT;
        }
    }
    return verdicts;
}

static void list_rows(RowList *list, const Catalogue *catalogue, const uint8_t *verdicts,
                      Medium medium) {
    for (int pass = 0; pass < 2; pass++) {  // Counting, then writing.
        list->count = list->shards = 0;
        int64_t shard = -1;
        for (int64_t i = 0; i < catalogue->count; i++) {
            const CatalogueRow *row = &catalogue->rows[i];
            if (verdicts[i] != ROW_PASSES || row->medium != (uint32_t)medium) continue;
            if (row->shard != shard) {
                if (pass == 1) list->starts[list->shards] = list->count;
                list->shards++;
                shard = row->shard;
            }
            if (pass == 1) list->rows[list->count] = (uint32_t)i;
            list->count++;
        }
        if (pass == 1) break;
        list->rows = allocate(list->count, sizeof(uint32_t));
        list->starts = allocate(list->shards + 1, sizeof(int64_t));
    }
    list->starts[list->shards] = list->count;
}

static void make_lists(Planner *planner) {
    for (int stage = 0; stage < planner->stage_count; stage++) {
        for (int s = 0; s < planner->config.source_count; s++) {
            uint8_t *verdicts = judge_all(planner, stage, s);
            for (int64_t i = 0; i < planner->catalogues[s]->count; i++) {
                planner->verdicts[stage][s][verdicts[i]]++;
            }
            for (Medium m = 0; m < MEDIUM_COUNT; m++) {
                RowList *list = &planner->lists[stage][s][m];
                list_rows(list, planner->catalogues[s], verdicts, m);
                order_init(&list->order, list->rows, list->starts, list->shards,
                           planner->config.window, planner->seed, stage, s, (int)m);
            }
            free(verdicts);
        }
    }
}

// Says why a stage finds nothing of a medium: the verdicts that took rows away.
static void report_empty(const Planner *planner, int stage, Medium medium, Problems *problems) {
    char text[320] = "";
    for (int v = ROW_PASSES + 1; v < ROW_VERDICTS; v++) {
        int64_t count = 0;
        for (int s = 0; s < planner->config.source_count; s++) {
            count += planner->verdicts[stage][s][v];
        }
        const size_t used = strlen(text);
        if (count > 0 && used < sizeof(text)) {
            snprintf(text + used, sizeof(text) - used, "; %lld: %s", (long long)count,
                     row_verdict_names[v]);
        }
    }
    problems_add(problems, "stage %d: image_share = %g, but no %s passes%s", stage,
                 planner->stages[stage].image_share, medium == MEDIUM_IMAGE ? "image" : "video",
                 text);
}

static void weigh_sources(Planner *planner, Problems *problems) {
    bool used[SOURCES_MAX] = {false};
    for (int stage = 0; stage < planner->stage_count; stage++) {
        for (Medium m = 0; m < MEDIUM_COUNT; m++) {
            double *below = planner->weight_below[stage][m];
            for (int s = 0; s < planner->config.source_count; s++) {
                const bool has_rows = planner->lists[stage][s][m].count > 0;
                below[s + 1] = below[s] + (has_rows ? planner->config.sources[s].weight : 0.0);
                used[s] = used[s] || has_rows;
            }
            const double share = planner->stages[stage].image_share;
            const bool wanted = m == MEDIUM_IMAGE ? share > 0 : share < 1;
            if (wanted && !(below[planner->config.source_count] > 0)) {
                report_empty(planner, stage, m, problems);
            }
        }
    }
    for (int s = 0; s < planner->config.source_count; s++) {
        if (used[s] || planner->config.sources[s].weight == 0) continue;
        problems_add(problems, "data.sources[%d] (%s) has weight %g, but no row passes any stage",
                     s, planner->config.sources[s].path, planner->config.sources[s].weight);
    }
}

// ---- the planner

static void find_bounds(Planner *planner) {
    PlanBounds *b = &planner->bounds;
    for (int i = 0; i < planner->stage_count; i++) {
        const StageData *stage = &planner->stages[i];
        b->packs = max_i64(b->packs, stage->packs);
        b->tokens = max_i64(b->tokens, stage->tokens);
        b->segments = max_i64(b->segments, stage->segments);
        b->text_tokens = max_i64(b->text_tokens, stage->text_tokens);
        // Drawing stops at packs x segments, and does not begin at 16 x packs deferred ones.
        b->deferred = max_i64(b->deferred, stage->packs * max_i64(16, stage->segments));
    }
    planner->candidates = allocate(b->deferred, sizeof(PlanSample));
    planner->pack_of = allocate(b->deferred, sizeof(int64_t));
}

Planner *planner_create(const DataConfig *config, const StageData stages[], int stage_count,
                        const ModelNeeds *needs, uint64_t seed, Problems *problems) {
    const int before = problems->count;
    CHECK(stage_count >= 1 && stage_count <= STAGES_MAX, "%d stages", stage_count);
    check_config(problems, config);
    for (int i = 0; i < stage_count; i++) check_stage(problems, &stages[i], i, needs);
    if (problems->count > before) return NULL;
    Planner *planner = allocate(1, sizeof(*planner));
    planner->config = *config;
    memcpy(planner->stages, stages, (size_t)stage_count * sizeof(StageData));
    planner->stage_count = stage_count;
    planner->needs = *needs;
    planner->seed = seed;
    open_catalogues(planner, problems);
    if (problems->count == before) check_filters(planner, problems);
    if (problems->count == before) hold_out(planner, problems);
    if (problems->count == before) {
        make_lists(planner);
        weigh_sources(planner, problems);
        find_bounds(planner);
    }
    if (problems->count == before) return planner;
    planner_free(planner);
    return NULL;
}

void planner_free(Planner *planner) {
    if (planner == NULL) return;
    for (int stage = 0; stage < planner->stage_count; stage++) {
        for (int s = 0; s < SOURCES_MAX; s++) {
            for (int m = 0; m < MEDIUM_COUNT; m++) {
                order_free(&planner->lists[stage][s][m].order);
                free(planner->lists[stage][s][m].rows);
                free(planner->lists[stage][s][m].starts);
            }
        }
    }
    for (int s = 0; s < SOURCES_MAX; s++) catalogue_close(planner->catalogues[s]);
    free(planner->held);
    free(planner->candidates);
    free(planner->pack_of);
    free(planner);
}

void planner_lengths(const Planner *planner, int64_t lengths[LENGTHS_MAX]) {
    int64_t most = 0;
    for (int stage = 0; stage < planner->stage_count; stage++) {
        most = max_i64(most, planner->stages[stage].tokens);
    }
    int64_t *pairs = allocate(most + 1, sizeof(*pairs));
    for (int stage = 0; stage < planner->stage_count; stage++) {
        for (int s = 0; s < planner->config.source_count; s++) {
            for (Medium m = 0; m < MEDIUM_COUNT; m++) {
                const RowList *list = &planner->lists[stage][s][m];
                for (int64_t i = 0; i < list->count; i++) {
                    const LatentShape shape = planner->catalogues[s]->rows[list->rows[i]].shape;
                    const int64_t T = latent_tokens(shape, planner->needs.patch);
                    pairs[T] += T * T;
                }
            }
        }
    }
    for (int i = 0; i < LENGTHS_MAX; i++) {
        int64_t best = 0;
        for (int64_t T = 1; T <= most; T++) {
            if (pairs[T] > pairs[best]) best = T;
        }
        lengths[i] = best;
        pairs[best] = 0;
    }
    free(pairs);
}

PlanSample planner_sample(const Planner *planner, int64_t position, int source, uint32_t row) {
    const CatalogueRow *r = &planner->catalogues[source]->rows[row];
    const WorkCost *cost = &planner->needs.cost;
    const int64_t T = latent_tokens(r->shape, planner->needs.patch), L = r->text_length;
    return (PlanSample){
        .position = position,
        .source = source,
        .row = row,
        .medium = (Medium)r->medium,
        .shape = r->shape,
        .tokens = T,
        .text_length = L,
        .work = cost->tokens * T + cost->tokens_squared * T * T +
                cost->tokens_text * T * max_i64(L, 1) + cost->text * max_i64(L, 1),
    };
}

RowVerdict planner_judge(const Planner *planner, int stage, int source, uint32_t row) {
    int quality[QUALITIES_MAX];
    quality_indexes(quality, planner, stage, source);
    return row_judge(&planner->catalogues[source]->rows[row], &planner->stages[stage],
                     &planner->needs, quality);
}

int64_t planner_held_out(const Planner *planner, const PlanSample **samples) {
    *samples = planner->held;
    return planner->held_count;
}

int64_t planner_steps(const Planner *planner) {
    int64_t steps = 0;
    for (int i = 0; i < planner->stage_count; i++) steps += planner->stages[i].steps;
    return steps;
}

int planner_stage_of(const Planner *planner, int64_t step) {
    int stage = 0;
    for (; stage < planner->stage_count - 1; stage++) {
        step -= planner->stages[stage].steps;
        if (step < 0) break;
    }
    return stage;
}

int planner_sources(const Planner *planner) {
    return (int)planner->config.source_count;
}

const Catalogue *planner_catalogue(const Planner *planner, int source) {
    return planner->catalogues[source];
}

const StageData *planner_stage(const Planner *planner, int stage) {
    return &planner->stages[stage];
}

const ModelNeeds *planner_needs(const Planner *planner) {
    return &planner->needs;
}

const int64_t *planner_verdicts(const Planner *planner, int stage, int source) {
    return planner->verdicts[stage][source];
}

int64_t planner_rows(const Planner *planner, int stage, int source, Medium medium) {
    return planner->lists[stage][source][medium].count;
}

PlanBounds planner_bounds(const Planner *planner) {
    return planner->bounds;
}

uint64_t planner_checksum(const Planner *planner) {
    uint64_t sums[SOURCES_MAX];
    for (int s = 0; s < planner->config.source_count; s++) {
        sums[s] = catalogue_checksum(planner->catalogues[s]);
    }
    return hash_bytes(sums, planner->config.source_count * 8);
}
