// Checkpoints: the files are what one rank would have written, for any number of shards and
// replicas, and any other number of ranks restores them. A failed save harms nothing. What does not
// fit this model stops with names, and renames nothing.
// ranks: 1 2 3 4
// backends: all
// device: 1 2
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/files.h"
#include "base/safetensors.h"
#include "checkpoint/manifest.h"
#include "checkpoint/steps.h"
#include "checkpoint/weights.h"
#include "parallel/comm.h"
#include "tests/checkpoint_case.h"
#include "tests/ranks.h"

static bool exists(const char *run, const char *name) {
    char path[PATH_BYTES_MAX];
    return path_join(path, run, name, NULL) && path_exists(path);
}

// A new run folder of this name, claimed.
static uint64_t claim(char run[512], const char *name) {
    uint64_t generation;
    Error error = {""};
    check_path(run, "%s", name);
    const bool ok = checkpoint_claim(run, world, &generation, &error);
    check_that(ok, "%s", error.text);
    return generation;
}

// The bytes that a file must have, from the layout and the values alone.
static char *expected_bytes(const Case *c, const LayoutFile *file, int step) {
    char *bytes = calloc((size_t)file->bytes, 1);
    CHECK(bytes != NULL, "no memory");
    memcpy(bytes, file->head, (size_t)file->head_bytes);
    for (int i = 0; i < file->extent_count; i++) {
        const LayoutExtent *extent = &file->extents[i];
        for (int64_t e = 0; e < (extent->end - extent->begin) / 4; e++) {
            const float value = case_value((int)file->class, extent->row, e, step);
            memcpy(bytes + extent->begin + e * 4, &value, 4);
        }
    }
    (void)c;
    return bytes;
}

// Compares the folder of a step with what it must hold, MANIFEST included; "" or the first
// difference.
static void compare_folder(char text[256], const Case *c, const char *run, int step,
                           int64_t file_bytes_max) {
    char folder[PATH_BYTES_MAX], path[PATH_BYTES_MAX], state[256];
    Layout layout;
    layout_build(&layout, &c->table, file_bytes_max, CASE_CONFIG, case_state(state, step));
    uint32_t *crc = calloc((size_t)layout.blocks, sizeof(*crc));
    CHECK(crc != NULL && step_path(folder, run, step, NULL), "no memory");
    text[0] = '\0';
    for (int f = 0; f < layout.count; f++) {
        const LayoutFile *file = &layout.files[f];
        char *want = expected_bytes(c, file, step);
        for (int64_t at = 0; at < file->bytes; at += CHECKPOINT_BLOCK) {
            crc[file->first_block + at / CHECKPOINT_BLOCK] =
                crc32c(0, want + at, min_i64(CHECKPOINT_BLOCK, file->bytes - at));
        }
        int64_t bytes = 0;
        char *got = path_join(path, folder, file->path, NULL)
                        ? file_read(path, INT64_MAX, &bytes, NULL)
                        : NULL;
        if (got == NULL || bytes != file->bytes || memcmp(got, want, (size_t)bytes) != 0) {
            snprintf(text, 256, "%.200s differs", file->path);
        }
        free(got);
        free(want);
    }
    int64_t want_bytes, got_bytes = 0;
    char *want = manifest_text(&layout, crc, step, &want_bytes);
    char *got = path_join(path, folder, "MANIFEST", NULL)
                    ? file_read(path, INT64_MAX, &got_bytes, NULL)
                    : NULL;
    if (got == NULL || got_bytes != want_bytes || memcmp(got, want, (size_t)got_bytes) != 0) {
        snprintf(text, 256, "MANIFEST differs");
    }
    free(got);
    free(want);
    free(crc);
    layout_free(&layout);
}

static void test_same_files_from_any_layout(void **state) {
    (void)state;
    char run[512], difference[256];
    const int size = comm_size(world);
    const uint64_t generation = claim(run, "layouts");
    const int64_t limits[] = {100000, CHECKPOINT_FILE_BYTES};
    for (int shards = 1; shards <= size; shards++) {
        if (size % shards != 0) continue;
        Case c = case_start(world, shards, true);
        for (int l = 0; l < 2; l++) {
            const int step = shards * 10 + l;
            Error error = {""};
            const bool ok = case_save(&c, run, step, generation, limits[l], &error);
            check_that(ok, "%d shards: %s", shards, error.text);
            compare_folder(difference, &c, run, step, limits[l]);
            check_that(difference[0] == '\0', "%d shards, step %d: %s", shards, step, difference);
        }
        case_stop(&c);
    }
    check_that(exists(run,
                      "checkpoints/step-00000010/transformer/"
                      "diffusion_pytorch_model.safetensors.index.json"),
               "many files have an index");
    check_that(exists(run,
                      "checkpoints/step-00000011/transformer_ema/"
                      "diffusion_pytorch_model.safetensors"),
               "one file has the plain name");
}

// Restores on `ranks` of the ranks, in groups of `shards`; the others look on.
static void restore_on(const char *run, int ranks, int shards, int step) {
    const bool takes_part = comm_rank(world) < ranks;
    Comm *part = comm_split(world, takes_part, comm_rank(world), "part");
    RestoreResult result = RESTORE_DONE;
    int64_t wrong = 0;
    Error error = {""};
    if (takes_part) {
        Case c = case_start(part, shards, true);
        case_fill(&c, -1);
        Restore restore = case_restore(&c, run);
        result = checkpoint_restore(&restore, &error);
        wrong = case_wrong(&c, CLASS_COUNT, step) + (restore.found != step);
        char text[256];
        if (restore.state == NULL || strcmp(restore.state, case_state(text, step)) != 0) wrong++;
        free(restore.state);
        case_stop(&c);
    }
    comm_free(part);
    check_that(result == RESTORE_DONE && wrong == 0, "on %d ranks, %d shards: %d, %d wrong: %s",
               ranks, shards, (int)result, (int)wrong, error.text);
}

static void test_restores_on_any_ranks(void **state) {
    (void)state;
    char run[512];
    const int size = comm_size(world);
    const uint64_t generation = claim(run, "ranks");
    for (int l = 0; l < 2; l++) {
        Case c = case_start(world, size, true);
        Error error = {""};
        const bool ok = case_save(&c, run, 5 + l, generation, l == 0 ? 70000 : 0, &error);
        check_that(ok, "%s", error.text);
        case_stop(&c);
        for (int ranks = 1; ranks <= size; ranks++) {
            for (int shards = 1; shards <= ranks; shards++) {
                if (ranks % shards == 0) restore_on(run, ranks, shards, 5 + l);
            }
        }
    }
}

// A write that fails on the last rank fails the save on all, and nothing is left of it.
static void test_failed_save_harms_nothing(void **state) {
    (void)state;
    char run[512];
    const int last = comm_size(world) - 1;
    const uint64_t generation = claim(run, "failed");
    Case c = case_start(world, 1, true);
    Error error = {""};
    bool ok = case_save(&c, run, 1, generation, 0, &error);
    check_that(ok, "%s", error.text);

    struct rlimit old, small;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 4096;
    if (comm_rank(world) == last) setrlimit(RLIMIT_FSIZE, &small);
    ok = case_save(&c, run, 2, generation, 0, &error);
    setrlimit(RLIMIT_FSIZE, &old);
    check_that(!ok, "a save beyond the file size limit succeeded");
    check_contains(error.text, "step 2 not saved");
    check_contains(error.text, "File too large");
    if (last > 0) {
        char rank[20];
        snprintf(rank, sizeof(rank), "rank %d: ", last);
        check_contains(error.text, rank);
    }
    int count = 0, left = 0;
    char folder[PATH_BYTES_MAX];
    CHECK(steps_folder(folder, run, NULL), "path");
    char **names = folder_list(folder, &count, NULL);
    for (int i = 0; i < count; i++) left += strncmp(names[i], ".tmp-", 5) == 0;
    folder_list_free(names, count);
    check_that(left == 0, "%d temporary folders are left", left);
    check_that(!exists(run, "checkpoints/step-00000002"), "the failed step is there");
    check_that(exists(run, "checkpoints/step-00000001"), "the earlier step is gone");

    ok = case_save(&c, run, 2, generation, 0, &error);
    check_that(ok, "the next save: %s", error.text);
    case_stop(&c);
    restore_on(run, comm_size(world), 1, 2);
}

static void test_zombie_cannot_publish(void **state) {
    (void)state;
    char run[512];
    const uint64_t old = claim(run, "zombie");
    const uint64_t now = claim(run, "zombie");
    Case c = case_start(world, 1, false);
    Error error = {""};
    check_that(checkpoint_taken(run, world, old), "the earlier start does not know");
    check_that(!checkpoint_taken(run, world, now), "the later start gives up");
    check_that(!case_save(&c, run, 3, old, 0, &error), "the earlier start published");
    check_contains(error.text, "a later start of this run has claimed it");
    check_that(case_save(&c, run, 3, now, 0, &error), "%s", error.text);
    case_stop(&c);
}

// A second save of the same step: the same bytes change nothing, others replace.
static void test_same_step_again(void **state) {
    (void)state;
    char run[512], difference[256];
    const uint64_t generation = claim(run, "again");
    Case c = case_start(world, 1, false);
    Error error = {""};
    check_that(case_save(&c, run, 3, generation, 0, &error), "%s", error.text);
    check_that(case_save(&c, run, 3, generation, 0, &error), "%s", error.text);
    check_that(!exists(run, "checkpoints/replaced-step-00000003"), "equal bytes were replaced");
    check_that(case_save(&c, run, 3, generation, 5000, &error), "%s", error.text);
    check_that(exists(run, "checkpoints/replaced-step-00000003"), "the old one is gone");
    compare_folder(difference, &c, run, 3, 5000);
    check_that(difference[0] == '\0', "%s", difference);
    case_stop(&c);
}

static void test_prune_keeps_the_newest(void **state) {
    (void)state;
    char run[512];
    const uint64_t generation = claim(run, "prune");
    Case c = case_start(world, 1, false);
    Error error = {""};
    for (int step = 1; step <= 5; step++) {
        check_that(case_save(&c, run, step, generation, 0, &error), "%s", error.text);
    }
    bool ok = comm_rank(world) != 0 || checkpoint_prune(run, 2, &error);
    check_that(ok, "%s", error.text);
    int count;
    int64_t *steps = steps_list(run, &count, &error);
    const int64_t want[] = {5, 4};
    check_that(count == 2, "%d steps are left", count);
    check_equal("steps", steps, want, 2);
    free(steps);
    case_stop(&c);
}

// Puts another byte into the middle of a file of a step.
static void spoil(const char *run, int step, const char *file) {
    if (comm_rank(world) == 0) {
        char folder[PATH_BYTES_MAX], path[PATH_BYTES_MAX];
        int64_t bytes;
        CHECK(step_path(folder, run, step, NULL) && path_join(path, folder, file, NULL), "path");
        char *data = file_read(path, INT64_MAX, &bytes, NULL);
        CHECK(data != NULL, "%s", path);
        data[bytes / 2] ^= 4;
        CHECK(file_write(path, data, bytes, NULL), "%s", path);
        free(data);
    }
    comm_barrier(world);
}

static void test_falls_back_to_the_one_before(void **state) {
    (void)state;
    char run[512];
    const uint64_t generation = claim(run, "fallback");
    Case c = case_start(world, comm_size(world), false);
    Error error = {""};
    Restore restore = case_restore(&c, run);
    RestoreResult result = checkpoint_restore(&restore, &error);
    check_that(result == RESTORE_NOTHING, "a new run: %d", (int)result);
    for (int step = 1; step <= 3; step++) {
        check_that(case_save(&c, run, step, generation, 0, &error), "%s", error.text);
    }
    spoil(run, 3, "optimizer/exp_avg-00001-of-00001.safetensors");
    restore = case_restore(&c, run);
    result = checkpoint_restore(&restore, &error);
    free(restore.state);
    check_that(result == RESTORE_DONE && restore.found == 2, "result %d, step %d: %s", (int)result,
               (int)restore.found, error.text);
    check_that(case_wrong(&c, CLASS_COUNT, 2) == 0, "the state is not that of step 2");
    check_that(restore.refused.count == 1, "%d refused", restore.refused.count);
    check_contains(restore.refused.text[0], "step-00000003");
    check_contains(restore.refused.text[0],
                   "optimizer/exp_avg-00001-of-00001.safetensors: bytes 0");
    check_that(exists(run, "checkpoints/refused-step-00000003"), "step 3 was not set aside");

    spoil(run, 1, "state.json");
    spoil(run, 2, "transformer/diffusion_pytorch_model.safetensors");
    restore = case_restore(&c, run);
    result = checkpoint_restore(&restore, &error);
    check_that(result == RESTORE_REFUSED, "all are corrupt: %d", (int)result);
    check_contains(error.text, "all are refused");
    check_contains(error.text, "--fresh");
    check_that(restore.refused.count == 2, "%d refused", restore.refused.count);
    check_that(exists(run, "checkpoints/step-00000001") && exists(run, "checkpoints/step-00000002"),
               "something was renamed");

    restore = case_restore(&c, run);
    restore.fresh = true;
    result = checkpoint_restore(&restore, &error);
    check_that(result == RESTORE_NOTHING, "fresh: %d", (int)result);
    check_that(exists(run, "checkpoints/replaced-step-00000001"), "step 1 was not set aside");
    check_that(!exists(run, "checkpoints/step-00000002"), "step 2 was not set aside");
    case_stop(&c);
}

// A file that the system cannot read (a link to itself) says nothing of the checkpoint.
static void test_unreadable_is_not_corrupt(void **state) {
    (void)state;
    char run[512], path[700], aside[700];
    const uint64_t generation = claim(run, "unreadable");
    Case c = case_start(world, 1, false);
    Error error = {""};
    check_that(case_save(&c, run, 2, generation, 0, &error), "%s", error.text);
    static const char *const files[] = {"MANIFEST", "state.json",
                                        "transformer_ema/diffusion_pytorch_model.safetensors"};
    const int f = comm_size(world) % 3;
    snprintf(path, sizeof(path), "%s/checkpoints/step-00000002/%s", run, files[f]);
    snprintf(aside, sizeof(aside), "%s/aside", run);
    if (comm_rank(world) == 0) {
        CHECK(rename(path, aside) == 0 && symlink(strrchr(path, '/') + 1, path) == 0, "%s", path);
    }
    comm_barrier(world);
    Restore restore = case_restore(&c, run);
    RestoreResult result = checkpoint_restore(&restore, &error);
    check_that(result == RESTORE_REFUSED && restore.refused.count == 0, "%d", (int)result);
    check_contains(error.text, "step-00000002 cannot be read, so nothing was renamed");
    check_contains(error.text, "symbolic links");
    check_that(exists(run, "checkpoints/step-00000002"), "it was set aside");
    if (comm_rank(world) == 0) CHECK(rename(aside, path) == 0, "%s", path);
    comm_barrier(world);
    restore = case_restore(&c, run);
    result = checkpoint_restore(&restore, &error);
    free(restore.state);
    check_that(result == RESTORE_DONE && restore.found == 2, "%s", error.text);
    case_stop(&c);
}

// A save that died between its MANIFEST and its last rename is published by the next start.
static void test_whole_save_is_published(void **state) {
    (void)state;
    char run[512], from[700], to[700];
    const uint64_t generation = claim(run, "whole");
    Case c = case_start(world, 1, false);
    Error error = {""};
    bool ok = case_save(&c, run, 1, generation, 0, &error);
    check_that(ok && case_save(&c, run, 2, generation, 0, &error), "%s", error.text);
    for (int step = 1; step <= 2 && comm_rank(world) == 0; step++) {
        snprintf(from, sizeof(from), "%s/checkpoints/step-%08d", run, step);
        snprintf(to, sizeof(to), "%s/checkpoints/.tmp-step-%08d-0123456789abcdef", run, step);
        CHECK(rename(from, to) == 0, "%s", from);
    }
    snprintf(to, sizeof(to), "%s/checkpoints/.tmp-step-00000001-0123456789abcdef/MANIFEST", run);
    if (comm_rank(world) == 0) CHECK(truncate(to, 200) == 0, "%s", to);
    claim(run, "whole");
    check_that(exists(run, "checkpoints/step-00000002"), "the whole save is lost");
    check_that(!exists(run, "checkpoints/step-00000001"), "half a MANIFEST was published");
    check_that(!exists(run, "checkpoints/.tmp-step-00000001-0123456789abcdef"),
               "half a save is left");
    case_stop(&c);
}

static void test_resume_from_a_named_step(void **state) {
    (void)state;
    char run[512];
    const uint64_t generation = claim(run, "named");
    Case c = case_start(world, 1, false);
    Error error = {""};
    for (int step = 1; step <= 3; step++) {
        check_that(case_save(&c, run, step, generation, 0, &error), "%s", error.text);
    }
    Restore restore = case_restore(&c, run);
    restore.step = 7;
    RestoreResult result = checkpoint_restore(&restore, &error);
    check_that(result == RESTORE_INCOMPATIBLE, "%d", (int)result);
    check_contains(restore.problems.text[0], "no such checkpoint (there: 3, 2, 1)");

    restore = case_restore(&c, run);
    restore.step = 2;
    result = checkpoint_restore(&restore, &error);
    free(restore.state);
    check_that(result == RESTORE_DONE && restore.found == 2, "%s", error.text);
    check_that(exists(run, "checkpoints/newer-step-00000003"), "step 3 was not set aside");

    spoil(run, 2, "transformer/config.json");
    restore = case_restore(&c, run);
    restore.step = 2;
    result = checkpoint_restore(&restore, &error);
    check_that(result == RESTORE_REFUSED, "%d", (int)result);
    check_contains(error.text, "the checkpoint is refused");
    check_that(exists(run, "checkpoints/step-00000002"), "a refused named step was renamed");
    case_stop(&c);
}

// Writes a MANIFEST with another version and its right checksum.
static void rewrite_version(const char *run, int step) {
    if (comm_rank(world) == 0) {
        char folder[PATH_BYTES_MAX], path[PATH_BYTES_MAX], line[32];
        int64_t bytes;
        CHECK(step_path(folder, run, step, NULL) && path_join(path, folder, "MANIFEST", NULL),
              "path");
        char *text = file_read(path, INT64_MAX, &bytes, NULL);
        CHECK(text != NULL, "%s", path);
        memcpy(strstr(text, "\"version\": 1"), "\"version\": 2", 12);
        snprintf(line, sizeof(line), "crc32c %08x\n", crc32c(0, text, bytes - 16));
        memcpy(text + bytes - 16, line, 16);
        CHECK(file_write(path, text, bytes, NULL), "%s", path);
        free(text);
    }
    comm_barrier(world);
}

static void expect_incompatible(Restore *restore, const char *const *parts, int count) {
    Error error = {""};
    const RestoreResult result = checkpoint_restore(restore, &error);
    check_that(result == RESTORE_INCOMPATIBLE, "result %d: %s", (int)result, error.text);
    check_that(restore->problems.count == count, "%d problems, the first: %s",
               restore->problems.count, restore->problems.text[0]);
    for (int i = 0; i < count; i++) check_contains(restore->problems.text[i], parts[i]);
    check_that(exists(restore->run, "checkpoints/step-00000002"), "something was renamed");
}

static void test_incompatible_stops_with_names(void **state) {
    (void)state;
    char run[512];
    const uint64_t generation = claim(run, "incompatible");
    Case c = case_start(world, 1, false);
    Error error = {""};
    for (int step = 1; step <= 2; step++) {
        check_that(case_save(&c, run, step, generation, 0, &error), "%s", error.text);
    }
    Restore restore = case_restore(&c, run);
    restore.recipe = "{\"lr\": \"2e-4\", \"seed\": \"7\"}";
    expect_incompatible(&restore,
                        (const char *[]){"lr = 2e-4: the checkpoint was made with 1e-4",
                                         "seed = 7: the checkpoint was made with not set",
                                         "packs = not set: the checkpoint was made with 8"},
                        3);
    const char *const overrides[] = {"lr", "seed", "packs"};
    restore.overrides = overrides;
    restore.override_count = 3;
    const RestoreResult result = checkpoint_restore(&restore, &error);
    free(restore.state);
    check_that(result == RESTORE_DONE, "with overrides: %s", error.text);

    restore = case_restore(&c, run);
    restore.state_version = 0;
    expect_incompatible(&restore, (const char *[]){"version 1, this program knows up to 0"}, 1);

    Case other = case_start(world, 1, false);
    Param *rows = other.table.rows;
    snprintf(rows[1].name, sizeof(rows[1].name), "x_embedder.other");
    rows[2].shape[0] = 33;
    rows[2].shape[1] = 40;
    restore = case_restore(&other, run);
    const RestoreResult shape = checkpoint_restore(&restore, &error);
    check_that(shape == RESTORE_INCOMPATIBLE, "%d", (int)shape);
    // Four classes: one unknown, one misshaped; and so two rows are missing in each.
    check_that(restore.problems.count == 16, "%d problems", restore.problems.count);
    check_contains(restore.problems.text[0], "'x_embedder.proj.bias' is not in this model");
    check_contains(restore.problems.text[1], "has shape [40, 33], this model needs [33, 40]");
    check_contains(restore.problems.text[8], "tensor 'x_embedder.other' is missing");
    case_stop(&other);

    rewrite_version(run, 2);
    restore = case_restore(&c, run);
    expect_incompatible(&restore,
                        (const char *[]){"MANIFEST: version 2, this program knows up to 1"}, 1);
    case_stop(&c);
}

static void test_weights_of_a_checkpoint(void **state) {
    (void)state;
    char run[512], folder[600];
    const int rank = comm_rank(world), size = comm_size(world);
    const uint64_t generation = claim(run, "weights");
    Case c = case_start(world, size, true);
    Error error = {""};
    Problems problems = {0};
    check_that(case_save(&c, run, 4, generation, 50000, &error), "%s", error.text);
    case_fill(&c, -1);
    snprintf(folder, sizeof(folder), "%s/checkpoints/step-00000004/transformer/", run);
    Verdict verdict =
        checkpoint_load_weights(c.slice[0], folder, &c.table, rank, size, world, &problems, &error);
    check_that(verdict == VERDICT_GOOD, "%s", error.text);
    check_that(case_wrong(&c, 1, 4) == 0, "the weights are not those of step 4");

    spoil(run, 4, "transformer/config.json");
    verdict =
        checkpoint_load_weights(c.slice[0], folder, &c.table, rank, size, world, &problems, &error);
    check_that(verdict == VERDICT_CORRUPT, "%d", (int)verdict);
    check_contains(error.text, "transformer/config.json: bytes 0 to ");
    verdict = checkpoint_load_weights(c.slice[0], "/nowhere", &c.table, rank, size, world,
                                      &problems, &error);
    check_that(verdict == VERDICT_CORRUPT, "%d", (int)verdict);
    check_contains(error.text, "/nowhere: cannot find");
    case_stop(&c);
}

// A folder as others write it: one file, names sorted, bf16. Values are exact in bf16.
static void test_weights_from_elsewhere(void **state) {
    (void)state;
    char folder[512], path[600];
    const int rank = comm_rank(world), size = comm_size(world);
    check_path(folder, "elsewhere");
    snprintf(path, sizeof(path), "%s/diffusion_pytorch_model.safetensors", folder);
    ParamTable table = {0};
    param_unit_begin(&table);
    param_add(&table, "b", 1, (int64_t[]){2500}, INIT_ZERO, true);
    param_add(&table, "a", 2, (int64_t[]){2, 3}, INIT_ZERO, true);
    uint16_t b[2500];
    for (int i = 0; i < 2500; i++) b[i] = float_to_bf16((float)(i % 256));
    const uint16_t a[6] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x8000, 0x3555};  // Halves.
    const float a_want[6] = {1.0f, -2.0f, 0x1p-24f, 65504.0f, -0.0f, 0x1.554p-2f};
    const TensorData tensors[] = {{"a", DTYPE_F16, 2, {2, 3}, a}, {"b", DTYPE_BF16, 1, {2500}, b}};
    Error error = {""};
    Problems problems = {0};
    const bool ok =
        rank != 0 || (folder_create(folder, &error) && safetensors_write(path, tensors, 2, &error));
    check_that(ok, "%s", error.text);
    float *slice = device_allocate_shared("slice", 2700 * 4), *slices[1] = {slice};
    const int64_t elements = table.unit_elements[0];
    const int64_t begin = slice_cut(elements, rank, size),
                  end = slice_cut(elements, rank + 1, size);
    Verdict verdict =
        checkpoint_load_weights(slices, folder, &table, rank, size, world, &problems, &error);
    check_that(verdict == VERDICT_GOOD, "%s", error.text);
    int wrong = 0;
    stream_wait(NULL);
    for (int64_t e = begin; e < end; e++) {
        const int64_t i = e - table.rows[1].offset;
        const float want = e < 2500 ? (float)(e % 256) : i >= 0 && i < 6 ? a_want[i] : 0.0f;
        wrong += slice[e - begin] != want;
    }
    check_that(wrong == 0, "%d elements are wrong", wrong);

    param_add(&table, "c", 1, (int64_t[]){1}, INIT_ZERO, true);
    snprintf(table.rows[1].name, sizeof(table.rows[1].name), "A");
    verdict = checkpoint_load_weights(slices, folder, &table, rank, size, world, &problems, &error);
    check_that(verdict == VERDICT_INCOMPATIBLE, "%d", (int)verdict);
    check_that(problems.count == 3, "%d problems", problems.count);
    check_contains(problems.text[0], "tensor 'a' is not in this model");
    check_contains(problems.text[1], "tensor 'A' is missing");
    check_contains(problems.text[2], "tensor 'c' is missing");
    param_free(&table);
    device_free(slice);
}

// Saves steps 1 (many files) and 2 (few) in a folder that stays, for test_checkpoint_python.sh.
static int save_in(const char *run) {
    uint64_t generation;
    Error error = {""};
    bool ok = checkpoint_claim(run, world, &generation, &error);
    Case c = case_start(world, comm_size(world), false);
    ok = ok && case_save(&c, run, 1, generation, 3000, &error) &&
         case_save(&c, run, 2, generation, 0, &error);
    case_stop(&c);
    comm_stop(world);
    if (!ok) fprintf(stderr, "%s\n", error.text);
    return ok ? EXIT_DONE : EXIT_FAILED;
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    if (argc > 1) return save_in(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_files_from_any_layout),
        cmocka_unit_test(test_restores_on_any_ranks),
        cmocka_unit_test(test_failed_save_harms_nothing),
        cmocka_unit_test(test_zombie_cannot_publish),
        cmocka_unit_test(test_same_step_again),
        cmocka_unit_test(test_prune_keeps_the_newest),
        cmocka_unit_test(test_falls_back_to_the_one_before),
        cmocka_unit_test(test_unreadable_is_not_corrupt),
        cmocka_unit_test(test_whole_save_is_published),
        cmocka_unit_test(test_resume_from_a_named_step),
        cmocka_unit_test(test_incompatible_stops_with_names),
        cmocka_unit_test(test_weights_of_a_checkpoint),
        cmocka_unit_test(test_weights_from_elsewhere),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_stop(world);
    return failed;
}
