// settings: every type is read with its range, every mistake is reported with its line and what is
// allowed, all at once, and a dump parses back to identical values.
// ranks: 1
#include <float.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/settings.h"
#include "tests/check.h"

typedef struct {
    char name[16];
    double min;
} Filter;

typedef struct {
    char name[32];
    int64_t steps;
    double lr;
    int64_t sequence;
    Filter filters[3];
    int64_t filter_count;
} Stage;

typedef struct {
    int64_t layers, heads, seed;
    double lr;
    SettingNumbers betas;
    bool ema;
    int recompute;
    char folder[24];
    Stage stages[3];
    int64_t stage_count;
} Config;

static const Setting filter_table[] = {
    {"name", SETTING_TEXT, offsetof(Filter, name), NULL, 1, 16, .help = "column"},
    {"min", SETTING_NUMBER, offsetof(Filter, min), "0", -1e9, 1e9, .help = "least value"},
    {.key = NULL}};

static const Setting stage_table[] = {
    {"name", SETTING_TEXT, offsetof(Stage, name), NULL, 1, 32, .help = "for the log"},
    {"steps", SETTING_WHOLE, offsetof(Stage, steps), "10", 1, 1e9, .help = "optimizer updates",
     .flags = SETTING_RECIPE},
    {"lr", SETTING_NUMBER, offsetof(Stage, lr), "auto", 0, 1, .help = "peak learning rate",
     .flags = SETTING_MAY_AUTO},
    {"parallel.sequence", SETTING_WHOLE, offsetof(Stage, sequence), "auto", 1, 64,
     .help = "ranks per pack", .flags = SETTING_MAY_AUTO},
    {"filters", SETTING_ROWS, offsetof(Stage, filters), NULL, 0, 3, .help = "bounds on quality",
     .rows = filter_table, .row_bytes = sizeof(Filter),
     .count_offset = offsetof(Stage, filter_count)},
    {.key = NULL}};

#define AT(field) offsetof(Config, field)
static const Setting table[] = {
    {"model.layers", SETTING_WHOLE, AT(layers), "28", 1, 1024, .help = "transformer blocks",
     .flags = SETTING_RECIPE},
    {"model.heads", SETTING_WHOLE, AT(heads), NULL, 1, 256, .help = "attention heads"},
    {"model.recompute", SETTING_CHOICE, AT(recompute), "none", .choices = "none|cheap|linear",
     .help = "what is computed again"},
    {"train.lr", SETTING_NUMBER, AT(lr), "1e-4", 0, 1, .help = "peak learning rate"},
    {"train.betas", SETTING_NUMBERS, AT(betas), "[0.9, 0.95]", 0, 1, .help = "AdamW"},
    {"train.ema.on", SETTING_FLAG, AT(ema), "true", .help = "keep an average"},
    {"train.seed", SETTING_WHOLE, AT(seed), "0", 0, 9007199254740992.,
     .help = "of all random numbers"},
    {"run.folder", SETTING_TEXT, AT(folder), "runs/x", 1, 24, .help = "where it all goes"},
    {"stages", SETTING_ROWS, AT(stages), NULL, 0, 3, .help = "in the order they run",
     .rows = stage_table, .row_bytes = sizeof(Stage), .count_offset = AT(stage_count)},
    {.key = NULL}};

static Problems problems;

static bool parse(Config *config, const char *text, int count, const char *const *overrides) {
    memset(config, 0, sizeof(*config));
    problems.count = 0;
    return settings_parse(config, table, text, (int64_t)strlen(text), "a.yaml", overrides, count,
                          &problems);
}

// The text gives just this one problem.
static void check_problem(const char *text, const char *want) {
    Config config;
    const bool passed = parse(&config, text, 0, NULL);
    check_that(!passed && problems.count == 1, "%s: %d problems: %s | %s", text, problems.count,
               problems.text[0], problems.count > 1 ? problems.text[1] : "");
    check_that(strcmp(problems.text[0], want) == 0, "got  %s\nwant %s", problems.text[0], want);
}

static void check_override(const char *override, const char *want) {
    Config config;
    const char *const overrides[] = {"model.heads=2", override};
    const bool passed = parse(&config, "stages: [{name: a}, {name: b}]", 2, overrides);
    check_that(!passed && problems.count == 1, "%s: %d problems: %s", override, problems.count,
               problems.text[0]);
    check_that(strcmp(problems.text[0], want) == 0, "got  %s\nwant %s", problems.text[0], want);
}

static const char everything[] =
    "# A comment.\n"
    "model:\n"
    "  heads: 7\n"
    "  recompute: linear\n"
    "train:\n"
    "  lr: 3e-4\n"
    "  betas: [0.8, .5, 1]\n"
    "  ema:\n"
    "    on: false\n"
    "  seed: 9007199254740992\n"
    "run: {folder: \"a \\\"b\\\"\\n\\x01: #\"}\n"
    "stages:\n"
    "  - name: images\n"
    "    steps: 20\n"
    "    parallel: {sequence: 4}\n"
    "    filters:\n"
    "      - {name: fps, min: -2.5}\n"
    "      - {name: motion}\n"
    "  - name: joint\n"
    "    lr: 0.1\n";

static void test_reads_every_type(void **state) {
    (void)state;
    Config c;
    check_that(parse(&c, everything, 0, NULL), "%s", problems.text[0]);
    check_that(c.layers == 28 && c.heads == 7 && c.recompute == 2 && !c.ema, "wholes");
    check_that(c.lr == 3e-4 && c.seed == INT64_C(9007199254740992), "numbers");
    check_that(c.betas.count == 3 && c.betas.values[1] == 0.5, "list");
    check_that(strcmp(c.folder, "a \"b\"\n\x01: #") == 0, "text '%s'", c.folder);
    check_that(c.stage_count == 2 && c.stages[0].steps == 20 && c.stages[1].steps == 10, "rows");
    check_that(c.stages[0].lr == SETTING_AUTO && c.stages[1].lr == 0.1, "auto");
    check_that(c.stages[0].sequence == 4 && c.stages[1].sequence == SETTING_AUTO, "section in row");
    check_that(c.stages[0].filter_count == 2 && c.stages[0].filters[0].min == -2.5, "rows in rows");
}

static void test_overrides(void **state) {
    (void)state;
    Config c;
    const char *const overrides[] = {"model.heads=3",      "stages.1.steps=5",
                                     "stages.images.lr=1", "train.betas=0.1,0.2",
                                     "run.folder=a=b",     "stages.0.filters.motion.min=7",
                                     "train.lr=0"};
    check_that(parse(&c, everything, 7, overrides), "%s", problems.text[0]);
    check_that(c.heads == 3 && c.lr == 0 && c.stages[1].steps == 5, "values");
    check_that(c.stages[0].lr == 1 && c.stages[0].filters[1].min == 7, "rows by name");
    const char *const rows[] = {"model.heads=3", "stages.0.name=first", "stages.first.steps=4",
                                "stages.0.filters.0.name=fps"};
    Config added;
    check_that(parse(&added, "", 4, rows), "%s", problems.text[0]);
    check_that(added.stage_count == 1 && added.stages[0].steps == 4, "a row is added");
    check_that(added.stages[0].lr == SETTING_AUTO && added.stages[0].filter_count == 1, "its row");
    check_that(c.betas.count == 2 && strcmp(c.folder, "a=b") == 0, "list, text");
    check_override(
        "stages.2.steps=1",
        "stages.2.name is not set; it must be text of 1 to 31 bytes in UTF-8 (for the log)");
    check_override("stages.3.steps=1",
                   "command line: stages.3.steps: stages has no row '3'; it has 2, counted from 0, "
                   "of at most 3");
    check_override("stages.a.step=1",
                   "command line: unknown setting 'stages.0.step'; did you mean 'steps'?");
    check_override("stages=1", "command line: stages has rows; set one as stages.0.key=value");
    check_override("model.heads=2", "command line: model.heads is set twice");
    check_override("heads", "command line: 'heads' is not section.key=value");
    check_override("train.lr=nan",
                   "command line: train.lr = 'nan' must be a number from 0 to 1 (peak learning "
                   "rate)");
    check_override("stages.b.lr=-1",
                   "command line: stages.1.lr = '-1' must be a number from 0 to 1, or auto (peak "
                   "learning rate)");
}

#define HEADS "model:\n  heads: 4\n"  // Lines 1 and 2.

static void test_refuses_values(void **state) {
    (void)state;
    const char *const wholes[] = {"-3",   "0",   "1025", "1.0", "1e2",
                                  "0x10", "12k", "1_0",  "nan", "99999999999999999999",
                                  "two",  "~",   "+"};
    for (size_t i = 0; i < sizeof(wholes) / sizeof(wholes[0]); i++) {
        char text[100], want[200];
        snprintf(text, sizeof(text), HEADS "  layers: %s\n", wholes[i]);
        snprintf(want, sizeof(want),
                 "a.yaml:3: model.layers = '%s' must be a whole number from 1 "
                 "to 1024 (transformer blocks)",
                 wholes[i]);
        check_problem(text, want);
    }
    const char *const numbers[] = {"nan", ".inf", "inf", "1e999", "-1e-9", "1.5",
                                   "1e",  "0x1",  "1 2", "--1",   "1e-4s"};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        char text[100], want[200];
        snprintf(text, sizeof(text), HEADS "train:\n  lr: %s\n", numbers[i]);
        snprintf(want, sizeof(want),
                 "a.yaml:4: train.lr = '%s' must be a number from 0 to 1 "
                 "(peak learning rate)",
                 numbers[i]);
        check_problem(text, want);
    }
    check_problem(HEADS "  layers: '3'\n",
                  "a.yaml:3: model.layers = '3' is quoted; numbers, true and false stand without "
                  "quotes");
    check_problem(HEADS "  layers:\n",
                  "a.yaml:3: model.layers = nothing must be a whole number from 1 to 1024 "
                  "(transformer blocks)");
    check_problem(HEADS "  layers: [1]\n",
                  "a.yaml:3: model.layers = a list must be a whole number from 1 to 1024 "
                  "(transformer blocks)");
    check_problem(HEADS "  recompute: all\n",
                  "a.yaml:3: model.recompute = 'all' must be one of none|cheap|linear (what is "
                  "computed again)");
    check_problem(HEADS "train: {ema: {on: yes}}\n",
                  "a.yaml:3: train.ema.on = 'yes' must be true or false (keep an average)");
    check_problem(
        HEADS "train: {betas: [0.5, 2]}\n",
        "a.yaml:3: train.betas = '0.5,2' must be a list of at most 16 numbers from 0 to 1 "
        "(AdamW)");
    check_problem(
        HEADS "train: {betas: [0.5, [1]]}\n",
        "a.yaml:3: train.betas = this list must be a list of at most 16 numbers from 0 to "
        "1 (AdamW)");
    check_problem(
        HEADS "run: {folder: ''}\n",
        "a.yaml:3: run.folder = '' must be text of 1 to 23 bytes in UTF-8 (where it all goes)");
    check_problem(
        HEADS "run: {folder: \"a\\0b\"}\n",
        "a.yaml:3: run.folder = text with a NUL byte must be text of 1 to 23 bytes in UTF-8 (where "
        "it all goes)");
    check_problem(
        HEADS "run: {folder: 123456789012345678901234}\n",
        "a.yaml:3: run.folder = '123456789012345678901234' must be text of 1 to 23 bytes in UTF-8 "
        "(where it all goes)");
}

static void test_refuses_keys(void **state) {
    (void)state;
    check_problem(HEADS "  layrs: 3\n",
                  "a.yaml:3: unknown setting 'model.layrs'; did you mean 'model.layers'?");
    check_problem(HEADS "trian: {lr: 1}\n",
                  "a.yaml:3: unknown setting 'trian'; did you mean 'train'?");
    check_problem(HEADS "  lr: 3\n",
                  "a.yaml:3: unknown setting 'model.lr'; did you mean 'train.lr'?");
    check_problem(HEADS "optimizer: {a: [1, {b: 2}], c: 3}\n",
                  "a.yaml:3: unknown setting 'optimizer'; --help lists all");
    check_problem(HEADS "  heads: 3\n", "a.yaml:3: model.heads is already set in line 2");
    check_problem(HEADS "run: {folder: a}\nmodel: {layers: 3}\n",
                  "a.yaml:4: model is already set in line 1");
    check_problem(HEADS "train:\n  <<: {lr: 1}\n",
                  "a.yaml:4: merge keys (<<) are not supported; write the settings out");
    check_problem(HEADS "run: &x {folder: a}\n", "a.yaml:3: anchors (&x) are not supported");
    check_problem(
        HEADS "run: {folder: *x}\n",
        "a.yaml:3: run.folder = an alias, which is not supported, must be text of 1 to 23 "
        "bytes in UTF-8 (where it all goes)");
    check_problem(HEADS "run: {folder: !!str a}\n",
                  "a.yaml:3: tags (tag:yaml.org,2002:str) are not supported");
    check_problem(HEADS "run: {[1]: a}\n", "a.yaml:3: a setting's name must be short plain text");
    check_problem(HEADS "run: 3\n",
                  "a.yaml:3: run must hold settings ('key: value' lines), not a value");
    check_problem(
        "model: {layers: 3}\n",
        "model.heads is not set; it must be a whole number from 1 to 256 (attention heads)");
    check_problem(
        HEADS "stages:\n- steps: 3\n",
        "a.yaml:4: stages.0.name is not set; it must be text of 1 to 31 bytes in UTF-8 (for the "
        "log)");
    check_problem(HEADS "stages: {name: a}\n",
                  "a.yaml:3: stages = a section must be a list of 0 to 3 rows of settings (in the "
                  "order they run)");
    check_problem(HEADS "stages:\n- images\n",
                  "a.yaml:4: stages: a row must hold settings ('- key: value'), not a value");
    check_problem(HEADS "stages: [{name: a}, {name: b}, {name: c}, {name: d}, {name: e}]\n",
                  "a.yaml:3: stages: more than 3 rows");
    check_problem(HEADS "stages:\n- {name: a}\n- {name: b, stps: 3}\n",
                  "a.yaml:5: unknown setting 'stages.1.stps'; did you mean 'steps'?");
}

static void test_refuses_syntax(void **state) {
    (void)state;
    Config c;
    check_problem(HEADS "train:\n\tlr: 1\n", "a.yaml:4: a tab; settings are indented by spaces");
    check_that(!parse(&c, HEADS "run: {folder: 'a'\nstages: 3\n", 0, NULL), "unclosed");
    check_contains(problems.text[0], "a.yaml:4: did not find expected ',' or '}'");
    check_contains(problems.text[1], "a.yaml:3: the text in question begins here");
    check_that(!parse(&c, HEADS "run: {folder: \xff}\n", 0, NULL), "not UTF-8");
    check_contains(problems.text[0], "a.yaml:3: invalid leading UTF-8 octet");
    check_problem(HEADS "---\nrun: {folder: a}\n",
                  "a.yaml:3: a second document begins; there can be only one");
    check_that(!parse(&c, "- 1\n", 0, NULL), "a list");
    check_contains(problems.text[0], "a.yaml:1: must hold sections of settings, not a list");
}

static void test_shows_all_problems_at_once(void **state) {
    (void)state;
    Config c;
    const char *const overrides[] = {"train.lr=nan"};
    check_that(
        !parse(&c, "model:\n  layers: -3\n  layrs: 2\n  heads: 1\n  heads: 2\n", 1, overrides),
        "passed");
    check_that(problems.count == 4, "%d problems", problems.count);
    check_contains(problems.text[3], "command line: train.lr");
}

static void test_dump_parses_back(void **state) {
    (void)state;
    Config c, again;
    check_that(parse(&c, everything, 0, NULL), "%s", problems.text[0]);
    c.lr = 0.1 + 0.2;
    c.stages[1].lr = 1.0 / 3;
    c.betas.values[0] = DBL_EPSILON;
    char *const text = settings_dump(table, &c);
    check_that(parse(&again, text, 0, NULL), "%s in\n%s", problems.text[0], text);
    check_equal("config", (const char *)&again, (const char *)&c, (int64_t)sizeof(c));
    free(text);
    check_that(parse(&c, HEADS, 0, NULL), "%s", problems.text[0]);
    char *const empty = settings_dump(table, &c);
    check_that(parse(&again, empty, 0, NULL), "%s", problems.text[0]);
    check_equal("config", (const char *)&again, (const char *)&c, (int64_t)sizeof(c));
    free(empty);
}

// What YAML takes for the end of a line or does not allow comes back, too; what is no UTF-8, which
// neither it nor JSON can hold, is refused.
static void test_texts_in_utf8(void **state) {
    (void)state;
    static const char *const good[] = {"run.folder=a\xe2\x80\xa8z",  // U+2028
                                       "run.folder=\xc2\x85\xc2\x81\x7f",
                                       "run.folder=\xef\xbb\xbf\xef\xbf\xbf\t ",
                                       "run.folder=\xf4\x8f\xbf\xbf caf\xc3\xa9"};
    static const char *const bad[] = {"run.folder=caf\xe9", "run.folder=\xc0\x80",
                                      "run.folder=\xed\xa0\x80", "run.folder=\xf4\x90\x80\x80",
                                      "run.folder=\xe2\x80"};
    Config c, again;
    for (int i = 0; i < 4; i++) {
        check_that(parse(&c, HEADS, 1, &good[i]), "%s", problems.text[0]);
        char *const text = settings_dump(table, &c);
        check_that(parse(&again, text, 0, NULL), "%s in\n%s", problems.text[0], text);
        check_that(strcmp(again.folder, c.folder) == 0, "%d comes back as '%s'", i, again.folder);
        free(text);
    }
    for (int i = 4; i >= 0; i--) {
        check_that(!parse(&c, HEADS, 1, &bad[i]), "%d passed", i);
        check_contains(problems.text[0], "must be text of 1 to 23 bytes in UTF-8");
    }
    check_contains(problems.text[0], "run.folder = 'caf?' must be");
}

// Long texts of mistakes: what is shown is found at once.
static void test_many_mistakes(void **state) {
    (void)state;
    enum { BYTES = 500000 };
    static char text[BYTES + 1];
    Config c;
    memset(text, '[', BYTES);
    check_that(!parse(&c, text, 0, NULL) && problems.count == 2, "%d problems", problems.count);
    check_contains(problems.text[1], "in each other, more than 64");
    static const char head[] = "model: {";
    memcpy(text, head, sizeof(head) - 1);
    for (size_t i = sizeof(head) - 1; i + 7 < BYTES; i += 7) memcpy(text + i, "a1: 12,", 7);
    check_that(!parse(&c, text, 0, NULL) && problems.count == PROBLEMS_MAX, "%d problems",
               problems.count);
}

// Any prefix and any changed byte of a text is read or refused, and never more than that.
static void test_survives_damage(void **state) {
    (void)state;
    Config c;
    char text[sizeof(everything)];
    int refused = 0;
    for (int i = 0; i < (int)sizeof(everything) - 1; i++) {
        problems.count = 0;
        settings_parse(&c, table, everything, i, "a.yaml", NULL, 0, &problems);
        for (int bit = 0; bit < 8; bit++) {
            memcpy(text, everything, sizeof(text));
            text[i] = (char)(text[i] ^ 1 << bit);
            problems.count = 0;
            const int64_t bytes = (int64_t)sizeof(text) - 1;
            refused += !settings_parse(&c, table, text, bytes, "a.yaml", NULL, 0, &problems);
        }
    }
    check_that(refused > 1000, "only %d of the damaged texts were refused", refused);
}

static void collect(void *context, const char *key, const char *value, int flags) {
    char *const text = context;
    if (!(flags & SETTING_RECIPE)) return;
    snprintf(text + strlen(text), 500 - strlen(text), "%s=%s ", key, value);
}

static void test_each_and_help(void **state) {
    (void)state;
    Config c;
    char text[500] = "";
    check_that(parse(&c, everything, 0, NULL), "%s", problems.text[0]);
    settings_each(table, &c, collect, text);
    check_that(strcmp(text, "model.layers=28 stages.0.steps=20 stages.1.steps=10 ") == 0, "%s",
               text);
    char *const help = settings_help(table);
    check_contains(help, "transformer blocks");
    check_contains(help, "a whole number from 1 to 1024; default: 28");
    check_contains(help, "stages.N.filters.N.min");
    free(help);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_every_type), cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_refuses_values),   cmocka_unit_test(test_refuses_keys),
        cmocka_unit_test(test_refuses_syntax),   cmocka_unit_test(test_shows_all_problems_at_once),
        cmocka_unit_test(test_dump_parses_back), cmocka_unit_test(test_survives_damage),
        cmocka_unit_test(test_each_and_help),    cmocka_unit_test(test_texts_in_utf8),
        cmocka_unit_test(test_many_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
