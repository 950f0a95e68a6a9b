#include "base/setting_value.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/utf8.h"

static bool is_auto(const Setting *s, const char *text) {
    return (s->flags & SETTING_MAY_AUTO) && strcmp(text, "auto") == 0;
}

static bool parse_number(const char **text, double min, double max, double *out) {
    // The characters are checked first: strtod also knows nan, infinity and hexadecimal.
    const size_t length = strspn(*text, "+-.0123456789eE");
    char *end;
    errno = 0;
    const double value = strtod(*text, &end);
    if (length == 0 || end != *text + length || errno != 0) return false;
    if (!isfinite(value) || value < min || value > max) return false;
    *text = end;
    *out = value;
    return true;
}

static bool parse_whole(const Setting *s, const char *text, int64_t *out) {
    const char *const digits = text + (*text == '-' || *text == '+');
    const size_t length = strspn(digits, "0123456789");
    errno = 0;
    const long long value = strtoll(text, NULL, 10);
    if (length == 0 || digits[length] != '\0' || errno != 0) return false;
    if ((double)value < s->min || (double)value > s->max) return false;
    *out = value;
    return true;
}

// "[0.9, 0.95]" or "0.9, 0.95".
static bool parse_numbers(const Setting *s, const char *text, SettingNumbers *out) {
    const bool bracket = *text == '[';
    text += bracket;
    out->count = 0;
    while (true) {
        text += strspn(text, " ");
        if (*text == '\0' || *text == ']') break;
        if (out->count == SETTING_NUMBERS_MAX) return false;
        if (!parse_number(&text, s->min, s->max, &out->values[out->count++])) return false;
        text += strspn(text, " ");
        if (*text == ',')
            text++;
        else if (*text != ']' && *text != '\0')
            return false;
    }
    return bracket ? strcmp(text, "]") == 0 : *text == '\0';
}

// The place of `text` in "a|b|c", or -1.
static int choice_of(const char *choices, const char *text) {
    const size_t length = strlen(text);
    for (int i = 0; choices != NULL; i++) {
        const char *const end = strchr(choices, '|');
        const size_t size = end == NULL ? strlen(choices) : (size_t)(end - choices);
        if (size == length && memcmp(choices, text, size) == 0) return i;
        choices = end == NULL ? NULL : end + 1;
    }
    return -1;
}

bool setting_parse(const Setting *s, const char *text, void *field) {
    switch (s->type) {
        case SETTING_WHOLE:
            if (!is_auto(s, text)) return parse_whole(s, text, field);
            *(int64_t *)field = SETTING_AUTO;
            return true;
        case SETTING_NUMBER:
            if (!is_auto(s, text)) {
                return parse_number(&text, s->min, s->max, field) && *text == '\0';
            }
            *(double *)field = SETTING_AUTO;
            return true;
        case SETTING_FLAG:
            *(bool *)field = strcmp(text, "true") == 0;
            return *(bool *)field || strcmp(text, "false") == 0;
        case SETTING_TEXT: {
            const size_t length = strlen(text);
            if ((double)length < s->min || (double)length >= s->max) return false;
            if (utf8_fault(text, (int64_t)length) >= 0) return false;
            memcpy(field, text, length + 1);
            return true;
        }
        case SETTING_CHOICE:
            *(int *)field = choice_of(s->choices, text);
            return *(int *)field >= 0;
        case SETTING_NUMBERS:
            return parse_numbers(s, text, field);
        case SETTING_ROWS:
            break;
    }
    DIE("%s: type %d has no value", s->key, (int)s->type);
}

// The fewest digits that give the same double back.
static void number_text(char text[32], double value) {
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, 32, "%.*g", digits, value);
        if (strtod(text, NULL) == value) return;
    }
}

void setting_text(char text[SETTING_VALUE_MAX], const Setting *s, const void *field) {
    size_t used = 0;
    char number[32];
    const bool automatic = (s->flags & SETTING_MAY_AUTO) != 0;
    if (s->type == SETTING_WHOLE) {
        const int64_t value = *(const int64_t *)field;
        snprintf(text, SETTING_VALUE_MAX, "%lld", (long long)value);
        if (automatic && value == SETTING_AUTO) memcpy(text, "auto", 5);
    } else if (s->type == SETTING_NUMBER) {
        number_text(text, *(const double *)field);
        if (automatic && *(const double *)field == SETTING_AUTO) memcpy(text, "auto", 5);
    } else if (s->type == SETTING_FLAG) {
        snprintf(text, SETTING_VALUE_MAX, "%s", *(const bool *)field ? "true" : "false");
    } else if (s->type == SETTING_TEXT) {
        snprintf(text, SETTING_VALUE_MAX, "%s", (const char *)field);
    } else if (s->type == SETTING_CHOICE) {
        const char *word = s->choices;
        for (int i = *(const int *)field; i > 0; i--) word = strchr(word, '|') + 1;
        snprintf(text, SETTING_VALUE_MAX, "%.*s", (int)strcspn(word, "|"), word);
    } else {
        const SettingNumbers *const list = field;
        used += (size_t)snprintf(text, SETTING_VALUE_MAX, "[");
        for (int64_t i = 0; i < list->count; i++) {
            number_text(number, list->values[i]);
            used += (size_t)snprintf(text + used, SETTING_VALUE_MAX - used, "%s%s",
                                     i > 0 ? ", " : "", number);
        }
        snprintf(text + used, SETTING_VALUE_MAX - used, "]");
    }
}

// "a whole number from 1 to 1024".
void setting_describe(char text[SETTING_VALUE_MAX], const Setting *s) {
    char min[32], max[32];
    number_text(min, s->min);
    number_text(max, s->max);
    const char *const or_auto = s->flags & SETTING_MAY_AUTO ? ", or auto" : "";
    switch (s->type) {
        case SETTING_WHOLE:
            snprintf(text, SETTING_VALUE_MAX, "a whole number from %.0f to %.0f%s", s->min, s->max,
                     or_auto);
            return;
        case SETTING_NUMBER:
            snprintf(text, SETTING_VALUE_MAX, "a number from %s to %s%s", min, max, or_auto);
            return;
        case SETTING_FLAG:
            snprintf(text, SETTING_VALUE_MAX, "true or false");
            return;
        case SETTING_TEXT:
            snprintf(text, SETTING_VALUE_MAX, "text of %.0f to %.0f bytes in UTF-8", s->min,
                     s->max - 1);
            return;
        case SETTING_CHOICE:
            snprintf(text, SETTING_VALUE_MAX, "one of %s", s->choices);
            return;
        case SETTING_NUMBERS:
            snprintf(text, SETTING_VALUE_MAX, "a list of at most %d numbers from %s to %s",
                     SETTING_NUMBERS_MAX, min, max);
            return;
        case SETTING_ROWS:
            snprintf(text, SETTING_VALUE_MAX, "a list of %.0f to %.0f rows of settings", s->min,
                     s->max);
    }
}

// Letters to insert, delete, change or swap with their neighbour (Damerau) between two keys.
static int edit_distance(const char *a, const char *b) {
    enum { LONGEST = 64 };
    int rows[3][LONGEST + 1];
    const int n = (int)strlen(a), m = (int)strlen(b);
    if (n > LONGEST || m > LONGEST) return LONGEST;
    for (int j = 0; j <= m; j++) rows[0][j] = j;
    for (int i = 1; i <= n; i++) {
        const int *const above = rows[(i - 1) % 3], *const two_above = rows[(i + 1) % 3];
        int *const row = rows[i % 3];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int least = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < least) least = above[j] + 1;
            if (row[j - 1] + 1 < least) least = row[j - 1] + 1;
            const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && two_above[j - 2] + 1 < least) least = two_above[j - 2] + 1;
            row[j] = least;
        }
    }
    return rows[n % 3][m];
}

// The last word of a dotted key.
static const char *last_word(const char *key) {
    const char *const dot = strrchr(key, '.');
    return dot == NULL ? key : dot + 1;
}

// What the user may have meant by `key`, a setting or a section, in `text`; "" if nothing is near.
void setting_nearest(char text[SETTING_KEY_MAX], const Setting *table, const char *key) {
    int best = 1 + (int)strlen(key) / 4;
    text[0] = '\0';
    for (; table->key != NULL; table++) {
        char candidate[SETTING_KEY_MAX];
        snprintf(candidate, sizeof(candidate), "%s", table->key);
        while (true) {
            int distance = edit_distance(key, candidate);
            // The right word in another section.
            if (distance > 1 && strcmp(last_word(key), last_word(candidate)) == 0) distance = 1;
            if (distance <= best) {
                best = distance - 1;  // The first of equals stays.
                snprintf(text, SETTING_KEY_MAX, "%s", candidate);
            }
            char *const dot = strrchr(candidate, '.');
            if (dot == NULL) break;
            *dot = '\0';
        }
    }
}
