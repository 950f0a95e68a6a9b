#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/restore.h"

static bool is_listed(const char *key, const char *const *list, int count) {
    for (int i = 0; i < count; i++) {
        if (strcmp(key, list[i]) == 0) return true;
    }
    return false;
}

// A value as people write it; the caller frees.
static char *value_text(const json_t *value) {
    if (value == NULL) return strdup("not set");
    if (json_is_string(value)) return strdup(json_string_value(value));
    return json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
}

static void add_difference(Problems *problems, const char *key, const json_t *saved,
                           const json_t *now) {
    char *was = value_text(saved), *is = value_text(now);
    problems_add(problems,
                 "%s = %s: the checkpoint was made with %s; go back to that, or allow the change "
                 "with --override %s",
                 key, is, was, key);
    free(was);
    free(is);
}

void recipe_compare(const char *saved, const char *now, const char *const *overrides, int count,
                    Problems *problems) {
    json_t *was = json_loads(saved, JSON_REJECT_DUPLICATES, NULL);
    json_t *is = json_loads(now, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(was) || !json_is_object(is)) {
        problems_add(problems, "the recipe %s is not a JSON object of settings",
                     json_is_object(was) ? "of this run" : "in the checkpoint");
    } else {
        const char *key;
        json_t *value;
        json_object_foreach(is, key, value) {
            const json_t *old = json_object_get(was, key);
            if (is_listed(key, overrides, count) || json_equal(value, old)) continue;
            add_difference(problems, key, old, value);
        }
        json_object_foreach(was, key, value) {
            if (is_listed(key, overrides, count) || json_object_get(is, key) != NULL) continue;
            add_difference(problems, key, value, NULL);
        }
    }
    json_decref(was);
    json_decref(is);
}
