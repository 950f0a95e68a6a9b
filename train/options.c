#include "train/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"

enum { OPTION_BYTES = 1200 };  // Of "name=value": more than any TEXT row holds.

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

bool options_parse(void *base, const Setting *table, int argc, char **argv, Words *words,
                   Problems *problems) {
    const int before = problems->count;
    CHECK(argc <= OPTIONS_WORDS_MAX, "%d arguments, at most %d", argc, OPTIONS_WORDS_MAX);
    char(*text)[OPTION_BYTES] = calloc((size_t)argc + 1, sizeof(*text));
    const char *pairs[OPTIONS_WORDS_MAX];
    int count = 0;
    CHECK(text != NULL, "no memory for %d arguments", argc);
    words->count = 0;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) != 0) {
            words->word[words->count++] = argv[i];
            continue;
        }
        const char *name = argv[i] + 2, *value = "true";
        if (!is_flag(table, name)) {
            if (i + 1 == argc) {
                problems_add(problems, "command line: %s needs a value behind it", argv[i]);
                break;
            }
            value = argv[++i];
        }
        snprintf(text[count], OPTION_BYTES, "%.100s=%.1000s", name, value);
        pairs[count] = text[count];
        count++;
    }
    settings_parse(base, table, NULL, 0, "command line", pairs, count, problems);
    free(text);
    return problems->count == before;
}
