// 800 seeded corruptions of a checkpoint: none is accepted, each is refused with the file named,
// the checkpoint before it is restored whole, and nothing else in the run's folder changes.
// ranks: 1 2
#include <unistd.h>

#include "base/checksum.h"
#include "base/files.h"
#include "base/rng.h"
#include "checkpoint/manifest.h"
#include "checkpoint/steps.h"
#include "parallel/comm.h"
#include "tests/checkpoint_case.h"
#include "tests/ranks.h"

enum { CORRUPTIONS = 800, FILES_MAX = 64 };

// The good files of a step, MANIFEST included, in memory.
typedef struct {
    int count;
    char path[FILES_MAX][CHECKPOINT_PATH_MAX];
    char *data[FILES_MAX];
    int64_t bytes[FILES_MAX];
} Copy;

typedef struct {
    char run[512], folder[PATH_BYTES_MAX];
    Copy good, before;  // Of steps 2 and 1.
    int number;         // Of the corruption: what all randomness is keyed by.
    int draws;
} Fixture;

static int64_t draw(Fixture *f, int64_t below) {
    const double u = rng_uniform(1, RNG_TEST, (uint64_t)f->number, (uint64_t)f->draws++);
    return (int64_t)(u * (double)below);
}

static void add_copy(Copy *copy, const char *folder, const char *name) {
    char path[PATH_BYTES_MAX];
    const int i = copy->count++;
    CHECK(i < FILES_MAX && path_join(path, folder, name, NULL), "%s", name);
    snprintf(copy->path[i], CHECKPOINT_PATH_MAX, "%s", name);
    copy->data[i] = file_read(path, INT64_MAX, &copy->bytes[i], NULL);
    CHECK(copy->data[i] != NULL, "%s", path);
}

static Copy copy_step(const Case *c, const char *run, int step) {
    char folder[PATH_BYTES_MAX], state[256];
    Copy copy = {0};
    Layout layout;
    CHECK(step_path(folder, run, step, NULL), "path");
    layout_build(&layout, &c->table, 4000, CASE_CONFIG, case_state(state, step));
    for (int f = 0; f < layout.count; f++) add_copy(&copy, folder, layout.files[f].path);
    add_copy(&copy, folder, "MANIFEST");
    layout_free(&layout);
    return copy;
}

static void free_copy(Copy *copy) {
    for (int i = 0; i < copy->count; i++) free(copy->data[i]);
}

// Writes one file of step 2, without fsync.
static void put(const Fixture *f, int file, const char *data, int64_t bytes) {
    char path[PATH_BYTES_MAX];
    CHECK(path_join(path, f->folder, f->good.path[file], NULL), "path");
    FILE *out = fopen(path, "wb");
    CHECK(out != NULL && fwrite(data, 1, (size_t)bytes, out) == (size_t)bytes, "%s", path);
    CHECK(fclose(out) == 0, "%s", path);
}

// A MANIFEST in which `from` is replaced once by `to`, with the right checksum of its own.
static void forge(const Fixture *f, const char *from, const char *to) {
    const int file = f->good.count - 1;
    const char *old = f->good.data[file], *at = strstr(old, from);
    CHECK(at != NULL, "'%s' is not in the MANIFEST", from);
    const size_t size = (size_t)f->good.bytes[file] + strlen(to) + 64;
    char *text = malloc(size);
    CHECK(text != NULL, "no memory");
    const char *end = strstr(old, "crc32c ");
    for (const char *next; (next = strstr(end + 1, "crc32c ")) != NULL;) end = next;
    const int length = snprintf(text, size, "%.*s%s%.*s", (int)(at - old), old, to,
                                (int)(end - at - (int)strlen(from)), at + strlen(from));
    const int more =
        snprintf(text + length, size - (size_t)length, "crc32c %08x\n", crc32c(0, text, length));
    put(f, file, text, length + more);
    free(text);
}

static const char *const FORGERIES[][2] = {
    {"\"files\": [", "\"files\": [{\"path\": \"extra\", \"bytes\": 4, \"crc32c\": \"00000000\"},"},
    {"\"files\": [", "\"files\": [{\"path\": \"../x\", \"bytes\": 4, \"crc32c\": \"00000000\"},"},
    {"\"files\": [", "\"files\": [{\"path\": \"/etc/x\", \"bytes\": 4, \"crc32c\": \"00000000\"},"},
    {"\"files\": [",
     "\"files\": [{\"path\": \"state.json\", \"bytes\": 4, \"crc32c\": \"00000000\"},"},
    {"\"files\": [", "\"files\": [7,"},
    {"\"path\": \"state.json\"", "\"path\": \"MANIFEST\""},
    {"\"version\": 1", "\"version\": 0"},
    {"\"version\": 1", "\"version\": \"1\""},
    {"\"block\": 1048576", "\"block\": 4096"},
    {"\"step\": 2", "\"step\": 3"},
    {"\"step\": 2", "\"step\": -2"},
    {"kintoun checkpoint", "another checkpoint"},
    {"\"bytes\": ", "\"bytes\": -"},
    {"\"bytes\": ", "\"bytes\": 9"},
    {"\"bytes\": ", "\"bytes\": 999999999"},
    {"\"bytes\": ", "\"bytes\": 9223372036854775807, \"was\": "},
    {"\"crc32c\": \"", "\"crc32c\": \"X"},
    {"\"crc32c\": \"", "\"crc32c\": \"00000000"},
};
enum { FORGERY_COUNT = sizeof(FORGERIES) / sizeof(FORGERIES[0]) };

// Writes `file` with some of its bytes changed.
static void change_bytes(Fixture *f, int file, int64_t most) {
    const int64_t bytes = f->good.bytes[file], first = draw(f, bytes);
    const int64_t count = 1 + draw(f, min_i64(most, bytes - first));
    char *data = malloc((size_t)bytes);
    CHECK(data != NULL, "no memory");
    memcpy(data, f->good.data[file], (size_t)bytes);
    for (int64_t i = 0; i < count; i++) data[first + i] = (char)draw(f, 256);
    if (memcmp(data, f->good.data[file], (size_t)bytes) == 0) data[first] ^= 1;
    put(f, file, data, bytes);
    free(data);
}

static void flip_bit(Fixture *f, int file) {
    char *data = f->good.data[file];
    const int64_t at = draw(f, f->good.bytes[file]);
    const char bit = (char)(1 << draw(f, 8));
    data[at] = (char)(data[at] ^ bit);
    put(f, file, data, f->good.bytes[file]);
    data[at] = (char)(data[at] ^ bit);
}

// Puts another file's bytes in place: of this step, or of the one before. Equal bytes do not count.
static bool put_other(Fixture *f, int file, const Copy *from, int other) {
    const Copy *good = &f->good;
    if (from->bytes[other] == good->bytes[file] &&
        memcmp(from->data[other], good->data[file], (size_t)good->bytes[file]) == 0) {
        return false;
    }
    put(f, file, from->data[other], from->bytes[other]);
    return true;
}

// Spoils step 2 and returns the file that must be named.
static int corrupt(Fixture *f) {
    Copy *good = &f->good;
    const int file = (int)draw(f, good->count);
    char path[PATH_BYTES_MAX];
    switch (f->number % 8) {
        case 0:
            put(f, file, good->data[file], draw(f, good->bytes[file]));
            return file;
        case 1:
        case 2:
            flip_bit(f, file);
            return file;
        case 3:
            change_bytes(f, file, 64);
            return file;
        case 4:  // Longer: the byte behind the end is a NUL of file_read.
            put(f, file, good->data[file], good->bytes[file] + 1);
            return file;
        case 5:
            CHECK(path_join(path, f->folder, good->path[file], NULL) && unlink(path) == 0,
                  "unlink");
            return file;
        case 6:
            if (put_other(f, file, good, (file + 1) % good->count)) return file;
            break;
        case 7:
            if (draw(f, 2) == 0 && put_other(f, file, &f->before, file)) return file;
            break;
    }
    const int64_t forgery = draw(f, FORGERY_COUNT);
    forge(f, FORGERIES[forgery][0], FORGERIES[forgery][1]);
    return good->count - 1;
}

// Makes step 2 good again: it was set aside.
static void mend(const Fixture *f) {
    char aside[PATH_BYTES_MAX];
    CHECK(path_join(aside, f->run, "checkpoints/refused-step-00000002", NULL), "path");
    CHECK(rename(aside, f->folder) == 0, "corruption %d: %s is not there", f->number, aside);
    for (int i = 0; i < f->good.count; i++) {
        char path[PATH_BYTES_MAX];
        int64_t bytes = -1;
        CHECK(path_join(path, f->folder, f->good.path[i], NULL), "path");
        char *data = path_exists(path) ? file_read(path, INT64_MAX, &bytes, NULL) : NULL;
        const bool same =
            bytes == f->good.bytes[i] && memcmp(data, f->good.data[i], (size_t)bytes) == 0;
        free(data);
        if (!same) put(f, i, f->good.data[i], f->good.bytes[i]);
    }
}

static void expect_step(const Case *c, const Fixture *f, int step, const char *named) {
    Error error = {""};
    Restore restore = case_restore(c, f->run);
    const RestoreResult result = checkpoint_restore(&restore, &error);
    free(restore.state);
    check_that(result == RESTORE_DONE && restore.found == step,
               "corruption %d of %s: result %d, step %d: %s %s", f->number, named, (int)result,
               (int)restore.found, error.text, restore.problems.text[0]);
    check_that(case_wrong(c, CLASS_COUNT, step) == 0, "corruption %d of %s: the state is not right",
               f->number, named);
    if (named[0] == '\0') return;
    // A forged list of files shows in the file that it names.
    const bool manifest = strcmp(named, "MANIFEST") == 0;
    const char *text = restore.refused.text[0];
    check_that(restore.refused.count == 1 && strstr(text, "step-00000002 refused: ") != NULL &&
                   (manifest || strstr(text, named) != NULL),
               "corruption %d of %s: '%s'", f->number, named, text);
}

static void test_no_corruption_is_accepted(void **state) {
    (void)state;
    Fixture f = {.number = -1};
    Case c = case_start(world, comm_size(world), false);
    uint64_t generation;
    Error error = {""};
    check_path(f.run, "corruption");
    check_that(checkpoint_claim(f.run, world, &generation, &error), "%s", error.text);
    for (int step = 1; step <= 2; step++) {
        check_that(case_save(&c, f.run, step, generation, 4000, &error), "%s", error.text);
    }
    CHECK(step_path(f.folder, f.run, 2, NULL), "path");
    f.before = copy_step(&c, f.run, 1);
    f.good = copy_step(&c, f.run, 2);
    check_that(f.good.count > 15, "only %d files", f.good.count);
    comm_barrier(world);
    for (f.number = 0; f.number < CORRUPTIONS; f.number++) {
        int64_t file = 0;
        f.draws = 0;
        if (comm_rank(world) == 0) file = corrupt(&f);
        comm_broadcast(world, &file, sizeof(file), 0);
        expect_step(&c, &f, 1, f.good.path[file]);
        if (comm_rank(world) == 0) mend(&f);
        comm_barrier(world);
    }
    expect_step(&c, &f, 2, "");
    free_copy(&f.good);
    free_copy(&f.before);
    case_stop(&c);
}

// Written whole, with checksums that fit: a state that is none, or another step's.
static void test_inconsistent_states(void **state) {
    (void)state;
    static const char *const bad[] = {"{}",
                                      "[]",
                                      "{\"version\": 0, \"step\": 2, \"recipe\": " CASE_RECIPE "}",
                                      "{\"version\": \"1\", \"step\": 2, \"recipe\": " CASE_RECIPE
                                      "}",
                                      "{\"version\": 1, \"step\": 3, \"recipe\": " CASE_RECIPE "}",
                                      "{\"version\": 1, \"recipe\": " CASE_RECIPE "}"};
    Case c = case_start(world, comm_size(world), false);
    for (int i = 0; i < (int)(sizeof(bad) / sizeof(bad[0])); i++) {
        char run[512];
        uint64_t generation;
        Error error = {""};
        check_path(run, "state-%d", i);
        check_that(checkpoint_claim(run, world, &generation, &error), "%s", error.text);
        check_that(case_save(&c, run, 1, generation, 0, &error), "%s", error.text);
        CheckpointSave save = {run, 2, generation, 0, CASE_CONFIG, bad[i], c.shards};
        save.shards.table = &c.table;
        check_that(checkpoint_save(&save, &error), "%s", error.text);
        Restore restore = case_restore(&c, run);
        const RestoreResult result = checkpoint_restore(&restore, &error);
        check_that(result == RESTORE_DONE && restore.found == 1, "%s: step %d: %s", bad[i],
                   (int)restore.found, error.text);
        check_that(strstr(restore.refused.text[0], "refused: state.json: ") != NULL, "%s: %s",
                   bad[i], restore.refused.text[0]);
        free(restore.state);
    }
    case_stop(&c);
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_corruption_is_accepted),
                                       cmocka_unit_test(test_inconsistent_states)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_stop(world);
    return failed;
}
