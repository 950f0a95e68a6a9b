// Settings: one table row per setting drives parsing, ranges, help and dump, so nothing is said
// twice. The text is YAML (sections of `key: value`) plus overrides `section.key=value`; types come
// from the table, never from YAML. Unknown or repeated keys, quoted numbers, values out of range
// and what else a user may get wrong are problems, each with file and line, all shown at once.
//
//     static const Setting table[] = {
//         {"model.layers", SETTING_WHOLE, offsetof(Config, model.layers), "28", 1, 1024,
//          .help = "transformer blocks", .flags = SETTING_RECIPE},
//         {"stages", SETTING_ROWS, offsetof(Config, stages), .min = 1, .max = STAGES_MAX,
//          .rows = stage_table, .row_bytes = sizeof(Stage),
//          .count_offset = offsetof(Config, stage_count), .help = "in the order they run"},
//         {0}};
//
// Keys of one section stand next to each other. Rows are numbered from 0; a row may also be called
// by the value of its setting "name": stages.1.steps=20, stages.images.steps=20. On the
// command line the number behind the last row adds a row.
#ifndef BASE_SETTINGS_H
#define BASE_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef enum {
    SETTING_WHOLE = 1,  // int64_t, from min to max.
    SETTING_NUMBER,     // double, finite, from min to max.
    SETTING_FLAG,       // bool: true or false.
    SETTING_TEXT,       // char[max], UTF-8 of at least min bytes; max counts the final NUL.
    SETTING_CHOICE,     // int: the place of the word in `choices`.
    SETTING_NUMBERS,    // SettingNumbers, each from min to max: "[0.9, 0.95]".
    SETTING_ROWS,       // An array of structs, from min to max of them, each read by `rows`.
} SettingType;

enum {
    SETTING_RECIPE = 1,    // Changes the numbers of a run: kept and compared by checkpoints.
    SETTING_MAY_AUTO = 2,  // A whole or a number may be the word "auto", kept as SETTING_AUTO.
    SETTING_AUTO = -1,     // min must be above it.
    SETTING_NUMBERS_MAX = 16,
    SETTING_KEY_MAX = 160,     // Bytes of a full key ("stages.0.filters.1.name"), NUL included.
    SETTING_VALUE_MAX = 1024,  // Bytes of a value as text, NUL included.
};

typedef struct {
    int64_t count;
    double values[SETTING_NUMBERS_MAX];
} SettingNumbers;

typedef struct Setting Setting;
struct Setting {
    const char *key;  // "train.lr"; NULL ends the table.
    SettingType type;
    size_t offset;         // Of the field in the caller's struct.
    const char *standard;  // The default, as text. NULL: must be set (rows: there are none).
    double min, max;
    const char *choices;  // "none|cheap|linear".
    const char *help;
    int flags;
    const Setting *rows;  // SETTING_ROWS: the table of one row, offsets from the row's start,
    size_t row_bytes;     // the size of a row,
    size_t count_offset;  // and where the int64_t number of rows is kept.
};

// Fills the struct at `base`: defaults, then the YAML text (called `name` in messages; NULL: none),
// then the overrides. False, with all problems added, if there is any; what was wrong then
// has any value (a choice: -1). Local: rank 0 reads the file and broadcasts its text.
bool settings_parse(void *base, const Setting *table, const char *text, int64_t bytes,
                    const char *name, const char *const *overrides, int override_count,
                    Problems *problems);

// Every value as canonical text, in the order of the table: key ("stages.0.steps"), value (numbers
// by the fewest digits that give the same double back), flags of its row.
void settings_each(const Setting *table, const void *base,
                   void (*visit)(void *context, const char *key, const char *value, int flags),
                   void *context);

// All settings as YAML that parses to identical values. The caller frees it.
char *settings_dump(const Setting *table, const void *base);

// All settings with type, range, default and meaning, for people. The caller frees it.
char *settings_help(const Setting *table);

#endif
