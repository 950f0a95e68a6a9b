#include "base/settings.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/die.h"
#include "base/setting_value.h"
#include "base/utf8.h"

enum { PLACE_MAX = 256, REPORT_MAX = 400, DEPTH_MAX = 64 };

// A key that was set, and where: its line, or 0 for the command line.
typedef struct {
    char key[SETTING_KEY_MAX];
    int line;
} SetKey;

typedef struct {
    const char *name, *text;
    int64_t bytes;
    Problems *problems;
    bool broken;  // A syntax error, or more problems than are kept: nothing follows.
    int depth;    // Of the sections and lists that the present event is in.
    yaml_parser_t parser;
    yaml_event_t event;
    SetKey *set;
    int64_t set_count, set_capacity;
} Reader;

// ---- Keys

static const Setting *find(const Setting *table, const char *key) {
    for (; table->key != NULL; table++) {
        if (strcmp(table->key, key) == 0) return table;
    }
    return NULL;
}

// Whether `key` is the start of a setting's: "model" of "model.layers".
static bool is_section(const Setting *table, const char *key) {
    const size_t length = strlen(key);
    for (; table->key != NULL; table++) {
        if (strncmp(table->key, key, length) == 0 && table->key[length] == '.') return true;
    }
    return false;
}

static SetKey *find_set(const Reader *r, const char *key) {
    for (int64_t i = 0; i < r->set_count; i++) {
        if (strcmp(r->set[i].key, key) == 0) return &r->set[i];
    }
    return NULL;
}

static void remember(Reader *r, const char *key, int line) {
    if (r->set_count == r->set_capacity) {
        r->set_capacity = r->set_capacity * 2 + 64;
        r->set = realloc(r->set, (size_t)r->set_capacity * sizeof(SetKey));
        CHECK(r->set != NULL, "no memory for %lld settings", (long long)r->set_capacity);
    }
    SetKey *const entry = &r->set[r->set_count++];
    snprintf(entry->key, sizeof(entry->key), "%s", key);
    entry->line = line;
}

// ---- Problems

static int line_of(const Reader *r) {
    return (int)r->event.start_mark.line + 1;
}

static void place_text(char place[PLACE_MAX], const Reader *r, int line) {
    if (line == 0)
        snprintf(place, PLACE_MAX, "command line");
    else
        snprintf(place, PLACE_MAX, "%.200s:%d", r->name, line);
}

static void report(const Reader *r, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void report(const Reader *r, int line, const char *format, ...) {
    char place[PLACE_MAX], text[REPORT_MAX];
    place_text(place, r, line);
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    problems_add(r->problems, "%s: %s", place, text);
}

// `text` cut short, what cannot be printed as '?'.
static const char *shown(char out[64], const char *text) {
    const int64_t bytes = (int64_t)strlen(text);
    int64_t i = 0;
    while (i < bytes) {
        uint32_t c;
        const int length = utf8_read(&c, text + i, bytes - i);
        const int step = length == 0 ? 1 : length;
        if (i + step > 60) break;
        memcpy(out + i, length == 0 || utf8_is_control(c) ? "??" : text + i, (size_t)step);
        i += step;
    }
    snprintf(out + i, (size_t)(64 - i), "%s", i == bytes ? "" : "...");
    return out;
}

static void report_unknown(const Reader *r, int line, const Setting *table, const char *prefix,
                           const char *key) {
    char near[SETTING_KEY_MAX], word[64];
    setting_nearest(near, table, key);
    report(r, line, "unknown setting '%s%s'; %s%s%s", prefix, shown(word, key),
           near[0] == '\0' ? "--help lists all" : "did you mean '", near,
           near[0] == '\0' ? "" : "'?");
}

static void report_value(const Reader *r, int line, const Setting *s, const char *key,
                         const char *found) {
    char what[SETTING_VALUE_MAX];
    setting_describe(what, s);
    report(r, line, "%s = %s must be %s (%s)", key, found, what, s->help);
}

static void set_value(const Reader *r, int line, const Setting *s, const char *key,
                      const char *text, void *field) {
    if (setting_parse(s, text, field)) return;
    char word[64], found[72];
    snprintf(found, sizeof(found), "'%s'", shown(word, text));
    report_value(r, line, s, key, found);
}

static void set_defaults(const Setting *table, char *base) {
    for (const Setting *s = table; s->key != NULL; s++) {
        CHECK(s->min <= s->max && s->help != NULL, "%s: a range and a help text are missing",
              s->key);
        if (s->type == SETTING_ROWS)
            *(int64_t *)(void *)(base + s->count_offset) = 0;
        else if (s->standard != NULL)
            CHECK(setting_parse(s, s->standard, base + s->offset), "%s: illegal default '%s'",
                  s->key, s->standard);
    }
}

// ---- The YAML text, event by event

// What the parser cannot read, and where.
static void report_syntax(const Reader *r) {
    const yaml_parser_t *const p = &r->parser;
    const bool encoding = p->error == YAML_READER_ERROR;  // Has an offset in bytes, no mark.
    int64_t line = 1, start = 0;
    for (int64_t i = 0; i < r->bytes; i++) {
        if (encoding ? i >= (int64_t)p->problem_offset : line > (int64_t)p->problem_mark.line)
            break;
        if (r->text[i] != '\n') continue;
        line++;
        start = i + 1;
    }
    while (start < r->bytes && r->text[start] == ' ') start++;
    if (!encoding && start < r->bytes && r->text[start] == '\t') {
        report(r, (int)line, "a tab; settings are indented by spaces");
        return;
    }
    report(r, (int)line, "%s%s%s", p->problem, p->context == NULL ? "" : " ",
           p->context == NULL ? "" : p->context);
    if (p->context != NULL && p->context_mark.line != p->problem_mark.line) {
        report(r, (int)p->context_mark.line + 1, "the text in question begins here");
    }
}

static void read_event(Reader *r) {
    yaml_event_delete(&r->event);
    if (r->problems->count >= PROBLEMS_MAX) r->broken = true;
    if (r->broken) return;
    if (!yaml_parser_parse(&r->parser, &r->event)) {
        r->broken = true;
        CHECK(r->parser.error != YAML_MEMORY_ERROR, "no memory for the settings' text");
        report_syntax(r);
        return;
    }
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (r->event.type == YAML_SCALAR_EVENT) {
        anchor = r->event.data.scalar.anchor;
        tag = r->event.data.scalar.tag;
    } else if (r->event.type == YAML_MAPPING_START_EVENT) {
        anchor = r->event.data.mapping_start.anchor;
        tag = r->event.data.mapping_start.tag;
    } else if (r->event.type == YAML_SEQUENCE_START_EVENT) {
        anchor = r->event.data.sequence_start.anchor;
        tag = r->event.data.sequence_start.tag;
    }
    const yaml_event_type_t type = r->event.type;
    r->depth += type == YAML_MAPPING_START_EVENT || type == YAML_SEQUENCE_START_EVENT;
    r->depth -= type == YAML_MAPPING_END_EVENT || type == YAML_SEQUENCE_END_EVENT;
    if (r->depth > DEPTH_MAX) {  // The parser takes time by the square of the depth.
        report(r, line_of(r), "sections and lists in each other, more than %d of them", DEPTH_MAX);
        r->broken = true;
    }
    if (anchor != NULL)
        report(r, line_of(r), "anchors (&%s) are not supported", (const char *)anchor);
    if (tag != NULL) report(r, line_of(r), "tags (%s) are not supported", (const char *)tag);
}

// Passes over the rest of the value whose first event is the present one.
static void skip_value(Reader *r) {
    int depth = 0;
    while (!r->broken) {
        const yaml_event_type_t type = r->event.type;
        if (type == YAML_MAPPING_START_EVENT || type == YAML_SEQUENCE_START_EVENT) depth++;
        if (type == YAML_MAPPING_END_EVENT || type == YAML_SEQUENCE_END_EVENT) depth--;
        if (depth == 0) return;
        read_event(r);
    }
}

static const char *event_name(const Reader *r) {
    switch (r->event.type) {
        case YAML_MAPPING_START_EVENT:
            return "a section";
        case YAML_SEQUENCE_START_EVENT:
            return "a list";
        case YAML_ALIAS_EVENT:
            return "an alias, which is not supported,";
        default:
            return "a value";
    }
}

// The present event as text: a scalar without NUL bytes, not quoted unless `quotes`.
static const char *scalar(const Reader *r, bool quotes) {
    if (r->event.type != YAML_SCALAR_EVENT) return NULL;
    const char *const text = (const char *)r->event.data.scalar.value;
    if (strlen(text) != r->event.data.scalar.length) return NULL;
    return quotes || r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? text : NULL;
}

static void read_table(Reader *r, const Setting *table, char *base, const char *prefix,
                       const char *section);

// Rows: prefix is "stages.", the present event starts the list.
static void read_rows(Reader *r, const Setting *s, char *base, const char *key) {
    int64_t *const count = (int64_t *)(void *)(base + s->count_offset);
    const int line = line_of(r);
    read_event(r);
    for (; !r->broken && r->event.type != YAML_SEQUENCE_END_EVENT; read_event(r)) {
        if (r->event.type != YAML_MAPPING_START_EVENT) {
            report(r, line_of(r), "%s: a row must hold settings ('- key: value'), not %s", key,
                   event_name(r));
            skip_value(r);
        } else if ((double)*count >= s->max) {
            report(r, line_of(r), "%s: more than %.0f rows", key, s->max);
            skip_value(r);
            while (!r->broken && r->event.type != YAML_SEQUENCE_END_EVENT) {
                read_event(r);
                if (r->event.type != YAML_SEQUENCE_END_EVENT) skip_value(r);
            }
            return;
        } else {
            char prefix[SETTING_KEY_MAX];
            snprintf(prefix, sizeof(prefix), "%.120s.%lld.", key, (long long)*count);
            remember(r, prefix, line_of(r));
            char *const row = base + s->offset + (size_t)(*count)++ * s->row_bytes;
            set_defaults(s->rows, row);
            read_table(r, s->rows, row, prefix, "");
        }
    }
    if ((double)*count < s->min) {
        report(r, line, "%s has %lld rows, must have at least %.0f (%s)", key, (long long)*count,
               s->min, s->help);
    }
}

// A list of numbers as its text: the present event starts it.
static void read_numbers(Reader *r, const Setting *s, char *base, const char *key) {
    char text[SETTING_VALUE_MAX];
    size_t used = 0;
    bool legal = true;
    const int line = line_of(r);
    read_event(r);
    for (; !r->broken && r->event.type != YAML_SEQUENCE_END_EVENT; read_event(r)) {
        const char *const value = scalar(r, false);
        legal = legal && value != NULL && used + strlen(value) + 2 < sizeof(text);
        if (legal) used += (size_t)snprintf(text + used, sizeof(text) - used, "%s,", value);
        skip_value(r);
    }
    if (r->broken) return;
    if (used > 0) used--;
    text[used] = '\0';
    if (!legal)
        report_value(r, line, s, key, "this list");
    else
        set_value(r, line, s, key, text, base + s->offset);
}

// The value of a setting; the present event starts it.
static void read_value(Reader *r, const Setting *s, char *base, const char *key) {
    const int line = line_of(r);
    const yaml_event_type_t type = r->event.type;
    const bool words = s->type == SETTING_TEXT || s->type == SETTING_CHOICE;
    if (s->type == SETTING_ROWS && type == YAML_SEQUENCE_START_EVENT) {
        read_rows(r, s, base, key);
        return;
    }
    if (s->type == SETTING_NUMBERS && type == YAML_SEQUENCE_START_EVENT) {
        read_numbers(r, s, base, key);
        return;
    }
    const char *const text = scalar(r, true);
    if (type != YAML_SCALAR_EVENT || s->type == SETTING_ROWS) {
        report_value(r, line, s, key, event_name(r));
    } else if (text == NULL) {
        report_value(r, line, s, key, "text with a NUL byte");
    } else if (!words && scalar(r, false) == NULL) {
        report(r, line, "%s = '%.60s' is quoted; numbers, true and false stand without quotes", key,
               text);
    } else if (text[0] == '\0' && scalar(r, false) != NULL) {
        report_value(r, line, s, key, "nothing");
    } else {
        set_value(r, line, s, key, text, base + s->offset);
    }
    skip_value(r);
}

// One "key: value" of a mapping; the present event is the key. `prefix` leads to the table
// ("stages.0."), `section` from there to here ("parallel.").
static void read_entry(Reader *r, const Setting *table, char *base, const char *prefix,
                       const char *section) {
    const int line = line_of(r);
    char word[64], local[SETTING_KEY_MAX], key[SETTING_KEY_MAX];
    const char *const name = scalar(r, true);
    const bool merge = name != NULL && strcmp(name, "<<") == 0;
    const bool legal = name != NULL && !merge && strlen(name) < 60;
    if (merge)
        report(r, line, "merge keys (<<) are not supported; write the settings out");
    else if (!legal)
        report(r, line, "a setting's name must be short plain text");
    snprintf(local, sizeof(local), "%s%s", section, legal ? name : "");
    snprintf(key, sizeof(key), "%s%s", prefix, local);
    skip_value(r);
    read_event(r);
    const Setting *const s = find(table, local);
    const SetKey *const before = find_set(r, key);
    if (r->broken || !legal) {
        skip_value(r);
    } else if (before != NULL) {
        report(r, line, "%s is already set in line %d", shown(word, key), before->line);
        skip_value(r);
    } else if (s != NULL) {
        remember(r, key, line);
        read_value(r, s, base, key);
    } else if (!is_section(table, local)) {
        report_unknown(r, line, table, prefix, local);
        skip_value(r);
    } else if (r->event.type == YAML_MAPPING_START_EVENT) {
        remember(r, key, line);
        snprintf(key, sizeof(key), "%.150s.", local);
        read_table(r, table, base, prefix, key);
    } else {
        const char *const text = scalar(r, false);
        if (text == NULL || text[0] != '\0') {  // An empty section is fine.
            report(r, line, "%s must hold settings ('key: value' lines), not %s", key,
                   event_name(r));
        }
        skip_value(r);
    }
}

// The present event starts a mapping of settings; the last one read is its end.
static void read_table(Reader *r, const Setting *table, char *base, const char *prefix,
                       const char *section) {
    read_event(r);
    for (; !r->broken && r->event.type != YAML_MAPPING_END_EVENT; read_event(r)) {
        read_entry(r, table, base, prefix, section);
    }
}

static void read_text(Reader *r, const Setting *table, char *base) {
    CHECK(yaml_parser_initialize(&r->parser), "no memory for the YAML parser");
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)r->text, (size_t)r->bytes);
    do {
        read_event(r);
    } while (r->event.type == YAML_STREAM_START_EVENT ||
             r->event.type == YAML_DOCUMENT_START_EVENT);
    if (r->event.type == YAML_MAPPING_START_EVENT) {
        read_table(r, table, base, "", "");
    } else if (r->event.type != YAML_STREAM_END_EVENT && !r->broken) {
        const char *const empty = scalar(r, false);
        if (empty == NULL || empty[0] != '\0') {
            report(r, line_of(r), "must hold sections of settings, not %s", event_name(r));
        }
        skip_value(r);
    }
    while (!r->broken && r->event.type != YAML_STREAM_END_EVENT) {
        read_event(r);
        if (r->event.type != YAML_DOCUMENT_START_EVENT) continue;
        report(r, line_of(r), "a second document begins; there can be only one");
        break;
    }
    yaml_event_delete(&r->event);
    yaml_parser_delete(&r->parser);
}

// ---- The command line

// The row of `s` that `word` names by number or by its setting "name", or -1. The number behind the
// last row adds one, whose name in messages is `prefix`, `s` and the number.
static int64_t find_row(Reader *r, const Setting *s, char *base, const char *prefix,
                        const char *word) {
    int64_t *const count = (int64_t *)(void *)(base + s->count_offset);
    const Setting *const name = find(s->rows, "name");
    for (int64_t i = 0; i <= *count && (double)i < s->max; i++) {
        char number[32], key[SETTING_KEY_MAX];
        char *const row = base + s->offset + (size_t)i * s->row_bytes;
        snprintf(number, sizeof(number), "%lld", (long long)i);
        if (strcmp(number, word) == 0 && i == *count) {
            snprintf(key, sizeof(key), "%.60s%.60s.%s.", prefix, s->key, number);
            remember(r, key, 0);
            set_defaults(s->rows, row);
            (*count)++;
        }
        if (strcmp(number, word) == 0) return i;
        if (i < *count && name != NULL && strcmp(row + name->offset, word) == 0) return i;
    }
    return -1;
}

// Sets `path` of `table`. `prefix` leads to the table.
static void override(Reader *r, const Setting *table, char *base, const char *prefix,
                     const char *path, const char *text) {
    char key[SETTING_KEY_MAX], word[64];
    snprintf(key, sizeof(key), "%s%s", prefix, path);
    const Setting *const whole = find(table, path);
    if (whole != NULL && whole->type == SETTING_ROWS) {
        report(r, 0, "%s has rows; set one as %s.0.key=value", key, key);
        return;
    }
    if (whole != NULL) {
        SetKey *const before = find_set(r, key);
        if (before != NULL && before->line == 0) report(r, 0, "%s is set twice", key);
        if (before != NULL)
            before->line = 0;
        else
            remember(r, key, 0);
        set_value(r, 0, whole, key, text, base + whole->offset);
        return;
    }
    for (const Setting *s = table; s->key != NULL; s++) {
        const size_t length = strlen(s->key);
        if (s->type != SETTING_ROWS || strncmp(s->key, path, length) != 0) continue;
        if (path[length] != '.') continue;
        const char *const row_name = path + length + 1;
        const char *const dot = strchr(row_name, '.');
        if (dot == NULL || dot - row_name >= (int)sizeof(word)) continue;
        snprintf(word, sizeof(word), "%.*s", (int)(dot - row_name), row_name);
        const int64_t row = find_row(r, s, base, prefix, word);
        if (row < 0) {
            report(r, 0, "%s: %s%s has no row '%s'; it has %lld, counted from 0, of at most %.0f",
                   key, prefix, s->key, word,
                   (long long)*(int64_t *)(void *)(base + s->count_offset), s->max);
            return;
        }
        snprintf(key, sizeof(key), "%.60s%.60s.%lld.", prefix, s->key, (long long)row);
        override(r, s->rows, base + s->offset + (size_t)row * s->row_bytes, key, dot + 1, text);
        return;
    }
    report_unknown(r, 0, table, prefix, path);
}

// ---- All of it

// Settings that have no default and were not set.
static void report_missing(const Reader *r, const Setting *table, const char *base,
                           const char *prefix, int line) {
    for (const Setting *s = table; s->key != NULL; s++) {
        char key[SETTING_KEY_MAX], what[SETTING_VALUE_MAX];
        snprintf(key, sizeof(key), "%s%s", prefix, s->key);
        const bool rows = s->type == SETTING_ROWS;
        const int64_t count = rows ? *(const int64_t *)(const void *)(base + s->count_offset) : 0;
        const bool needed = rows ? (double)count < s->min : s->standard == NULL;
        if (needed && find_set(r, key) == NULL) {
            setting_describe(what, s);
            if (line > 0)
                report(r, line, "%s is not set; it must be %s (%s)", key, what, s->help);
            else
                problems_add(r->problems, "%s is not set; it must be %s (%s)", key, what, s->help);
        }
        for (int64_t i = 0; i < count; i++) {
            char row[SETTING_KEY_MAX];
            snprintf(row, sizeof(row), "%.120s.%lld.", key, (long long)i);
            report_missing(r, s->rows, base + s->offset + (size_t)i * s->row_bytes, row,
                           find_set(r, row)->line);
        }
    }
}

bool settings_parse(void *base, const Setting *table, const char *text, int64_t bytes,
                    const char *name, const char *const *overrides, int override_count,
                    Problems *problems) {
    Reader reader = {.name = name, .text = text, .bytes = bytes, .problems = problems};
    Reader *const r = &reader;
    const int before = problems->count;
    set_defaults(table, base);
    if (text != NULL) read_text(r, table, base);
    for (int i = 0; i < override_count; i++) {
        char path[SETTING_KEY_MAX];
        const char *const equals = strchr(overrides[i], '=');
        if (equals == NULL || equals - overrides[i] >= 120) {
            report(r, 0, "'%.100s' is not section.key=value", overrides[i]);
            continue;
        }
        snprintf(path, sizeof(path), "%.*s", (int)(equals - overrides[i]), overrides[i]);
        override(r, table, base, "", path, equals + 1);
    }
    if (!r->broken) report_missing(r, table, base, "", 0);
    free(r->set);
    return problems->count == before;
}
