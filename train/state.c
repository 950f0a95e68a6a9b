#include "train/state.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/real.h"

void state_init(RunState *state, const Planner *planner) {
    memset(state, 0, sizeof(*state));
    cursor_init(&state->cursor, planner);
}

void state_free(RunState *state) {
    cursor_free(&state->cursor);
}

json_t *recipe_json(const Config *config, const Planner *planner) {
    char catalogues[32];
    snprintf(catalogues, sizeof(catalogues), "%016" PRIx64, planner_checksum(planner));
    json_t *recipe = config_recipe(config, config_wire(config));
    json_object_set_new(recipe, "catalogues", json_string(catalogues));
    return recipe;
}

char *state_to_text(const RunState *state, const Planner *planner, const Config *config) {
    json_t *norms = json_array();
    for (int64_t i = 0; i < state->norms_held; i++) {
        json_array_append_new(norms, json_real(state->norms[i]));
    }
    json_t *json = json_pack(
        "{s:i, s:I, s:I, s:I, s:o, s:{s:I, s:o}, s:{s:I, s:I, s:I}, s:o}", "version", STATE_VERSION,
        "step", (json_int_t)state->step, "updates", (json_int_t)state->updates, "seed",
        (json_int_t)config->run.seed, "cursor", cursor_to_json(&state->cursor, planner), "spike",
        "count", (json_int_t)state->norm_count, "norms", norms, "faults", "skipped",
        (json_int_t)state->skipped, "skipped_in_row", (json_int_t)state->skipped_in_row, "corrupt",
        (json_int_t)state->corrupt, "recipe", recipe_json(config, planner));
    CHECK(json != NULL, "state.json could not be made");
    char *text = json_dumps(json, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    json_decref(json);
    CHECK(text != NULL, "no memory for state.json");
    return text;
}

static bool read_state(RunState *state, const Planner *planner, json_t *json, Error *error) {
    json_t *cursor, *norms, *faults;
    json_int_t step, updates, count, skipped, in_row, corrupt;
    json_error_t where;
    if (json_unpack_ex(json, &where, 0, "{s:I, s:I, s:o, s:{s:I, s:o}, s:o}", "step", &step,
                       "updates", &updates, "cursor", &cursor, "spike", "count", &count, "norms",
                       &norms, "faults", &faults) != 0 ||
        json_unpack_ex(faults, &where, 0, "{s:I, s:I, s:I}", "skipped", &skipped, "skipped_in_row",
                       &in_row, "corrupt", &corrupt) != 0) {
        return error_set(error, "state.json: %s", where.text);
    }
    const size_t size = json_array_size(norms);  // 0 where it is no array.
    if (step < 0 || updates < 0 || updates > step || !json_is_array(norms) || size > NORMS_MAX ||
        count < (json_int_t)size || count > step || (size == 0 && count > 0)) {
        return error_set(error,
                         "state.json: step %lld, updates %lld, %zu norms of %lld make no sense",
                         (long long)step, (long long)updates, size, (long long)count);
    }
    if (skipped < 0 || skipped > step || in_row < 0 || in_row > skipped || corrupt < 0 ||
        corrupt > CURSOR_COUNT_MAX) {
        return error_set(error,
                         "state.json: %lld steps skipped, %lld in a row, %lld corrupt samples in "
                         "%lld steps make no sense",
                         (long long)skipped, (long long)in_row, (long long)corrupt,
                         (long long)step);
    }
    state->step = step;
    state->updates = updates;
    state->norm_count = count;
    state->skipped = skipped;
    state->skipped_in_row = in_row;
    state->corrupt = corrupt;
    state->norms_held = (int64_t)size;
    for (size_t i = 0; i < size; i++) {
        const json_t *norm = json_array_get(norms, i);
        if (!json_is_number(norm)) {
            return error_set(error, "state.json: norm %zu is no number", i);
        }
        state->norms[i] = json_number_value(norm);
    }
    if (!cursor_from_json(&state->cursor, planner, cursor, error)) return false;
    return state->cursor.step == step ||
           error_set(error, "state.json: step %lld, but its cursor is at step %lld",
                     (long long)step, (long long)state->cursor.step);
}

bool state_from_text(RunState *state, const Planner *planner, const char *text, Error *error) {
    json_error_t where;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &where);
    if (json == NULL) return error_set(error, "state.json:%d: %s", where.line, where.text);
    const bool ok = read_state(state, planner, json, error);
    json_decref(json);
    return ok;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int64_t count) {
    qsort(values, (size_t)count, sizeof(*values), ascending);
    return count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]);
}

bool state_is_spike(const RunState *state, const TrainConfig *config, double norm) {
    const int64_t count = config->spike_window;
    if (config->spike == 0 || state->norms_held != count) return false;
    double values[NORMS_MAX];
    memcpy(values, state->norms, (size_t)count * sizeof(*values));
    const double middle = median(values, count);
    for (int64_t i = 0; i < count; i++) values[i] = fabs(state->norms[i] - middle);
    return norm > middle + config->spike * median(values, count);
}

void state_add_norm(RunState *state, const TrainConfig *config, double norm) {
    const int64_t window = config->spike_window;
    if (state->norms_held != min_i64(state->norm_count, window)) state->norm_count = 0;
    state->norms[state->norm_count++ % window] = norm;
    state->norms_held = min_i64(state->norm_count, window);
}

void state_restart_norms(RunState *state) {
    state->norm_count = state->norms_held = 0;
}
