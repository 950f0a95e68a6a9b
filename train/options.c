#include "train/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"

bool options_help(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) return true;
    }
    return false;
}

static bool is_flag(const Setting *table, const char *name) {
    for (const Setting *s = table; s->key != NULL; s++) {
        if (strcmp(s->key, name) == 0) return s->type == SETTING_FLAG;
    }
    return false;
}

// "name=value", malloc'd.
static char *pair_of(const char *name, const char *value) {
    const size_t bytes = strlen(name) + strlen(value) + 2;
    char *pair = malloc(bytes);
    CHECK(pair != NULL, "no memory for an option of %zu bytes", bytes);
    snprintf(pair, bytes, "%s=%s", name, value);
    return pair;
}

bool options_parse(void *base, const Setting *table, int argc, char **argv, Words *words,
                   Problems *problems) {
    const int before = problems->count;
    char *pairs[OPTIONS_WORDS_MAX] = {0};
    int count = 0;
    words->count = 0;
    if (argc > OPTIONS_WORDS_MAX) {
        problems_add(problems, "command line: %d words; at most %d are read", argc,
                     OPTIONS_WORDS_MAX);
        return false;
    }
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) != 0) {
            words->word[words->count++] = argv[i];
            continue;
        }
        const char *name = argv[i] + 2, *value = "true", *equals = strchr(name, '=');
        if (equals != NULL) {
            problems_add(problems,
                         "command line: %.100s: the value stands behind it: --%.*s %.100s", argv[i],
                         (int)(equals - name), name, equals + 1);
            continue;
        }
        if (!is_flag(table, name)) {
            if (i + 1 == argc) {
                problems_add(problems, "command line: %s needs a value behind it", argv[i]);
                break;
            }
            value = argv[++i];
        }
        pairs[count++] = pair_of(name, value);
    }
    settings_parse(base, table, NULL, 0, "command line", (const char *const *)pairs, count,
                   problems);
    for (int i = 0; i < count; i++) free(pairs[i]);
    return problems->count == before;
}
