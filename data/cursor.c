// The cursor in a checkpoint: all of it, checked against the data when it comes back.
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "data/planner.h"

static const char *const media[MEDIUM_COUNT] = {"image", "video"};

void cursor_init(Cursor *cursor, const Planner *planner) {
    *cursor = (Cursor){0};
    cursor->deferred = calloc((size_t)planner->bounds.deferred, sizeof(Deferred));
    CHECK(cursor->deferred != NULL, "no memory for %lld deferred samples",
          (long long)planner->bounds.deferred);
}

void cursor_copy(Cursor *to, const Cursor *from) {
    Deferred *deferred = to->deferred;
    *to = *from;
    to->deferred = deferred;
    memcpy(deferred, from->deferred, (size_t)from->deferred_count * sizeof(Deferred));
}

void cursor_free(Cursor *cursor) {
    free(cursor->deferred);
    *cursor = (Cursor){0};
}

json_t *cursor_to_json(const Cursor *cursor, const Planner *planner) {
    json_t *places = json_array(), *deferred = json_array();
    for (int s = 0; s < planner_sources(planner); s++) {
        json_t *source = json_object();
        for (int m = 0; m < MEDIUM_COUNT; m++) {
            const DrawPlace *p = &cursor->places[s][m];
            json_object_set_new(source, media[m],
                                json_pack("[I, I]", (json_int_t)p->epoch, (json_int_t)p->place));
        }
        json_array_append_new(places, source);
    }
    for (int64_t i = 0; i < cursor->deferred_count; i++) {
        const Deferred *d = &cursor->deferred[i];
        json_array_append_new(deferred, json_pack("[I, i, I]", (json_int_t)d->position, d->source,
                                                  (json_int_t)d->row));
    }
    json_t *json =
        json_pack("{s:I, s:I, s:I, s:I, s:o, s:o}", "step", (json_int_t)cursor->step, "stage",
                  (json_int_t)cursor->stage, "position", (json_int_t)cursor->position, "dropped",
                  (json_int_t)cursor->dropped, "places", places, "deferred", deferred);
    CHECK(json != NULL, "no memory for the cursor");
    return json;
}

static bool whole(int64_t *out, const json_t *value, const char *what, int64_t max, Error *error) {
    *out = json_integer_value(value);
    if (json_is_integer(value) && *out >= 0 && *out <= max) return true;
    return error_set(error, "cursor: %s must be a whole number from 0 to %lld", what,
                     (long long)max);
}

static bool read_places(Cursor *cursor, const Planner *planner, const json_t *places,
                        Error *error) {
    const int sources = planner_sources(planner);
    if (!json_is_array(places) || json_array_size(places) != (size_t)sources) {
        return error_set(error, "cursor: places of %zu sources; the settings have %d",
                         json_array_size(places), sources);
    }
    for (int s = 0; s < sources; s++) {
        for (int m = 0; m < MEDIUM_COUNT; m++) {
            const json_t *pair = json_object_get(json_array_get(places, (size_t)s), media[m]);
            DrawPlace *place = &cursor->places[s][m];
            const int64_t rows = planner->lists[cursor->stage][s][m].count;
            if (json_array_size(pair) != 2 ||
                !whole(&place->epoch, json_array_get(pair, 0), "an epoch", CURSOR_COUNT_MAX,
                       error) ||
                !whole(&place->place, json_array_get(pair, 1), "a place", INT64_MAX, error) ||
                place->place > (rows > 0 ? rows - 1 : 0)) {
                return error_set(error,
                                 "cursor: places[%d].%s must be [epoch, place below %lld rows]", s,
                                 media[m], (long long)rows);
            }
        }
    }
    return true;
}

static bool read_deferred(Cursor *cursor, const Planner *planner, const json_t *list,
                          Error *error) {
    const size_t count = json_array_size(list);
    if (!json_is_array(list) || count > (size_t)planner->bounds.deferred) {
        return error_set(error, "cursor: deferred must be a list of at most %lld samples",
                         (long long)planner->bounds.deferred);
    }
    int64_t before = -1;
    for (size_t i = 0; i < count; i++) {
        const json_t *entry = json_array_get(list, i);
        int64_t position, source, row;
        if (json_array_size(entry) != 3 ||
            !whole(&position, json_array_get(entry, 0), "a position", cursor->position - 1,
                   error) ||
            !whole(&source, json_array_get(entry, 1), "a source", planner_sources(planner) - 1,
                   error) ||
            !whole(&row, json_array_get(entry, 2), "a row", planner->catalogues[source]->count - 1,
                   error) ||
            position <= before ||
            planner_judge(planner, (int)cursor->stage, (int)source, (uint32_t)row) != ROW_PASSES) {
            return error_set(error,
                             "cursor: deferred[%zu] must be [position, source, row], ascending, of "
                             "a row that stage %lld draws",
                             i, (long long)cursor->stage);
        }
        before = position;
        cursor->deferred[i] = (Deferred){position, (int32_t)source, (uint32_t)row};
    }
    cursor->deferred_count = (int64_t)count;
    return true;
}

bool cursor_from_json(Cursor *cursor, const Planner *planner, const json_t *json, Error *error) {
    const int64_t steps = planner_steps(planner), last = planner->stage_count - 1;
    return whole(&cursor->step, json_object_get(json, "step"), "step", steps, error) &&
           whole(&cursor->stage, json_object_get(json, "stage"), "stage", last, error) &&
           whole(&cursor->position, json_object_get(json, "position"), "position", CURSOR_COUNT_MAX,
                 error) &&
           whole(&cursor->dropped, json_object_get(json, "dropped"), "dropped", CURSOR_COUNT_MAX,
                 error) &&
           read_places(cursor, planner, json_object_get(json, "places"), error) &&
           read_deferred(cursor, planner, json_object_get(json, "deferred"), error);
}
