#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/die.h"
#include "base/setting_value.h"
#include "base/settings.h"
#include "base/utf8.h"

static void each_row(const Setting *table, const char *base, const char *prefix,
                     void (*visit)(void *context, const char *key, const char *value, int flags),
                     void *context) {
    for (const Setting *s = table; s->key != NULL; s++) {
        char key[SETTING_KEY_MAX], value[SETTING_VALUE_MAX];
        snprintf(key, sizeof(key), "%s%s", prefix, s->key);
        if (s->type != SETTING_ROWS) {
            setting_text(value, s, base + s->offset);
            visit(context, key, value, s->flags);
            continue;
        }
        const int64_t count = *(const int64_t *)(const void *)(base + s->count_offset);
        for (int64_t i = 0; i < count; i++) {
            char row[SETTING_KEY_MAX];
            snprintf(row, sizeof(row), "%.120s.%lld.", key, (long long)i);
            each_row(s->rows, base + s->offset + (size_t)i * s->row_bytes, row, visit, context);
        }
    }
}

void settings_each(const Setting *table, const void *base,
                   void (*visit)(void *context, const char *key, const char *value, int flags),
                   void *context) {
    each_row(table, base, "", visit, context);
}

// Text as a double-quoted YAML scalar. What YAML does not allow as it is, or takes for the end of a
// line (U+0085, U+2028, U+2029), is escaped.
static void print_quoted(FILE *out, const char *text) {
    int64_t left = (int64_t)strlen(text);
    putc('"', out);
    while (left > 0) {
        uint32_t c;
        const int length = utf8_read(&c, text, left);
        CHECK(length > 0, "a setting that is no UTF-8");
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", (char)c);
        else if (utf8_is_control(c))
            fprintf(out, "\\x%02" PRIX32, c);
        else if (c == 0x2028 || c == 0x2029 || c == 0xfeff || (c & 0xfffe) == 0xfffe)
            fprintf(out, "\\U%08" PRIX32, c);
        else
            fwrite(text, 1, (size_t)length, out);
        text += length;
        left -= length;
    }
    putc('"', out);
}

// Prints the words of `key` that `last`, the key before it, does not begin with, a line each except
// for the final word; the first line of a row starts with "- ".
static void print_key(FILE *out, const char *key, const char *last, int indent, bool *row) {
    size_t same = 0;  // Where the first word begins that differs.
    for (size_t i = 0; key[i] != '\0' && key[i] == last[i]; i++) {
        if (key[i] == '.') same = i + 1;
    }
    for (size_t i = 0; i < same; i++) indent += key[i] == '.' ? 2 : 0;
    while (true) {
        const int length = (int)strcspn(key + same, ".");
        fprintf(out, "%*s%s%.*s:", *row ? indent - 2 : indent, "", *row ? "- " : "", length,
                key + same);
        *row = false;
        if (key[same + (size_t)length] == '\0') return;
        putc('\n', out);
        same += (size_t)length + 1;
        indent += 2;
    }
}

static void dump_table(FILE *out, const Setting *table, const char *base, int indent, bool row) {
    const char *last = "";
    for (const Setting *s = table; s->key != NULL; s++) {
        char value[SETTING_VALUE_MAX];
        print_key(out, s->key, last, indent, &row);
        last = s->key;
        if (s->type != SETTING_ROWS) {
            setting_text(value, s, base + s->offset);
            putc(' ', out);
            if (s->type == SETTING_TEXT)
                print_quoted(out, value);
            else
                fputs(value, out);
            putc('\n', out);
            continue;
        }
        const int64_t count = *(const int64_t *)(const void *)(base + s->count_offset);
        fputs(count == 0 ? " []\n" : "\n", out);
        int deeper = indent + 4;
        for (const char *c = s->key; *c != '\0'; c++) deeper += *c == '.' ? 2 : 0;
        for (int64_t i = 0; i < count; i++) {
            dump_table(out, s->rows, base + s->offset + (size_t)i * s->row_bytes, deeper, true);
        }
    }
}

char *settings_dump(const Setting *table, const void *base) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *const out = open_memstream(&text, &bytes);
    CHECK(out != NULL, "no memory for the settings' text");
    dump_table(out, table, base, 0, false);
    CHECK(fclose(out) == 0, "no memory for the settings' text");
    return text;
}

static void help_table(FILE *out, const Setting *table, const char *prefix) {
    for (const Setting *s = table; s->key != NULL; s++) {
        char key[SETTING_KEY_MAX], what[SETTING_VALUE_MAX];
        snprintf(key, sizeof(key), "%s%s", prefix, s->key);
        setting_describe(what, s);
        const bool rows = s->type == SETTING_ROWS;
        const char *const standard = s->standard == NULL ? "must be set" : s->standard;
        fprintf(out, "%-30s %s\n%30s %s", key, s->help, "", what);
        if (!rows) fprintf(out, "; default: %s", standard[0] == '\0' ? "empty" : standard);
        putc('\n', out);
        if (!rows) continue;
        char row[SETTING_KEY_MAX];
        snprintf(row, sizeof(row), "%.120s.N.", key);
        help_table(out, s->rows, row);
    }
}

char *settings_help(const Setting *table) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *const out = open_memstream(&text, &bytes);
    CHECK(out != NULL, "no memory for the help text");
    help_table(out, table, "");
    CHECK(fclose(out) == 0, "no memory for the help text");
    return text;
}
