#include "train/budget.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/die.h"
#include "base/files.h"
#include "parallel/agree.h"
#include "train/trainer.h"

// The share of the budget that steps get; pictures, checkpoints and start-up take the rest.
static const double STEPS_SHARE = 0.85;
enum { TRIAL_STEPS = 3 };

// Seconds of one step: the fastest of a few, the slowest rank's.
static double trial(Trainer *t, int64_t steps) {
    int64_t best = INT64_MAX;
    for (int64_t i = 0; i < min_i64(TRIAL_STEPS, steps); i++) {
        const int64_t start = (int64_t)(clock_seconds() * 1e6);
        StepReport report;
        Error error;
        if (!step_run(t, false, false, &report, &error)) DIE("%s", error.text);
        int64_t micros = (int64_t)(clock_seconds() * 1e6) - start;
        comm_all_reduce_max(t->world, &micros, 1);
        best = min_i64(best, micros);
    }
    return (double)best * 1e-6;
}

// Runs a few steps of each stage with weights that are then thrown away.
static bool measure(double *seconds, const Config *config, Comm *world, Problems *problems) {
    Trainer *t = calloc(1, sizeof(*t));
    CHECK(t != NULL, "no memory");
    bool ok = trainer_create(t, config, world, problems);
    int64_t first = 0;
    for (int64_t s = 0; s < config->stage_count && ok; s++) {
        Error error;
        t->state.cursor.step = first;
        ok = agree(world, trainer_load(t, &error), &error);
        if (!ok) {
            problems_add(problems, "%s", error.text);
            break;
        }
        seconds[s] = trial(t, config->stages[s].data.steps);
        loader_free(t->loader);
        t->loader = NULL;
        first += config->stages[s].data.steps;
    }
    trainer_free(t);
    free(t);
    return ok;
}

// The file's text: the budget, the steps as written, and what they became.
static char *budget_text(const Config *config, const int64_t *written) {
    json_t *before = json_array(), *steps = json_array();
    for (int64_t s = 0; s < config->stage_count; s++) {
        json_array_append_new(before, json_integer(written[s]));
        json_array_append_new(steps, json_integer(config->stages[s].data.steps));
    }
    json_t *json = json_pack("{s:f, s:o, s:o}", "minutes", config->run.minutes, "written", before,
                             "steps", steps);
    char *text = json_dumps(json, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    json_decref(json);
    CHECK(text != NULL, "no memory for the budget");
    return text;
}

// Takes the steps from the file. It must be this recipe's: put back together it is the same text.
static bool read_budget(Config *config, const char *path, Error *error) {
    int64_t bytes, written[STAGES_MAX];
    char *text = file_read(path, 1 << 16, &bytes, error);
    if (text == NULL) return false;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const json_t *steps = json_object_get(json, "steps");
    bool ok = json_array_size(steps) == (size_t)config->stage_count;
    for (int64_t s = 0; s < config->stage_count && ok; s++) {
        const json_int_t n = json_integer_value(json_array_get(steps, (size_t)s));
        ok = n >= 1 && n <= 1000000000;
        written[s] = config->stages[s].data.steps;
        config->stages[s].data.steps = n;
    }
    json_decref(json);
    char *same = ok ? budget_text(config, written) : NULL;
    ok = ok && strcmp(same, text) == 0;
    free(same);
    free(text);
    return ok || error_set(error,
                           "%s: not made for this run.minutes and these steps of the stages; set "
                           "them back, or remove the folder to start again",
                           path);
}

static bool write_budget(const Config *config, const int64_t *written, const char *path,
                         Error *error) {
    char *text = budget_text(config, written);
    const bool ok = folder_create(config->run.dir, error) &&
                    file_write(path, text, (int64_t)strlen(text), error);
    free(text);
    return ok;
}

// Scales the steps to the measured seconds, and says so.
static void scale(Config *config, const double *seconds, bool speaks) {
    double whole = 0;
    for (int64_t s = 0; s < config->stage_count; s++) {
        whole += seconds[s] * (double)config->stages[s].data.steps;
    }
    const double factor = STEPS_SHARE * 60 * config->run.minutes / whole;
    if (speaks) {
        printf("%g minutes are %s the recipe as written: steps x %.3f\n", config->run.minutes,
               factor < 1 ? "too few for" : "enough for", factor);
    }
    for (int64_t s = 0; s < config->stage_count; s++) {
        int64_t *steps = &config->stages[s].data.steps;
        const int64_t written = *steps;
        *steps = max_i64(1, llround(factor * (double)written));
        if (!speaks) continue;
        printf("  stage %-10s %6.0f ms a step: %" PRId64 " steps%s\n", config->stages[s].name,
               1e3 * seconds[s], *steps, factor < 1 ? " (fewer samples seen than written)" : "");
    }
}

bool budget_apply(Config *config, Comm *world, Problems *problems) {
    if (config->run.minutes == 0) return true;
    Error error = {""};
    char path[PATH_BYTES_MAX];
    const int rank = comm_rank(world);
    if (!path_join(path, config->run.dir, "budget.json", &error)) {
        problems_add(problems, "%s", error.text);
        return false;
    }
    int64_t known = rank == 0 && path_exists(path);
    comm_broadcast(world, &known, sizeof(known), 0);
    bool ok = true;
    if (known) {
        ok = rank != 0 || read_budget(config, path, &error);
    } else {
        double seconds[STAGES_MAX];
        if (!measure(seconds, config, world, problems)) return false;
        int64_t written[STAGES_MAX];
        for (int64_t s = 0; s < config->stage_count; s++) {
            written[s] = config->stages[s].data.steps;
        }
        scale(config, seconds, rank == 0);
        ok = rank != 0 || write_budget(config, written, path, &error);
    }
    if (!agree(world, ok, &error)) {
        problems_add(problems, "%s", error.text);
        return false;
    }
    for (int64_t s = 0; s < config->stage_count; s++) {
        comm_broadcast(world, &config->stages[s].data.steps, sizeof(int64_t), 0);
    }
    return true;
}
