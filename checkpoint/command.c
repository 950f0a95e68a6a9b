#include "checkpoint/command.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/files.h"
#include "checkpoint/manifest.h"
#include "checkpoint/steps.h"

static const char HELP[] =
    "usage: kintoun checkpoint ACTION ...\n"
    "  ls DIR...       what checkpoints there are, their steps and sizes\n"
    "  verify DIR...   reads everything and compares it with the checksums\n"
    "  diff A B        which tensors and settings of two checkpoints differ, and by how much\n"
    "  digest DIR...   a hash of every file and one of all, to compare runs\n"
    "DIR is a run's folder or one checkpoint (RUN/checkpoints/step-N). ACTION --help tells more.\n";

static const char HELP_LS[] =
    "usage: kintoun checkpoint ls DIR...\n"
    "Prints one line for each checkpoint: name, step, files, bytes, and ok or why it would be "
    "refused.\n"
    "Only the MANIFEST and the sizes are checked; 'verify' reads all bytes. Folders that were set "
    "aside\n"
    "(refused-, replaced-, newer-step-N) are listed last. Exit 1 if one would be refused.\n";

static const char HELP_VERIFY[] =
    "usage: kintoun checkpoint verify DIR...\n"
    "Reads every file of each checkpoint and compares each MiB with its CRC-32C in the MANIFEST. "
    "Every\n"
    "fault is printed with file and byte range; files that the MANIFEST does not list are named, "
    "but\n"
    "are no fault. Exit 1 if anything is wrong.\n";

static const char HELP_DIFF[] =
    "usage: kintoun checkpoint diff A B\n"
    "Compares two checkpoints, or two transformer folders, tensor by tensor, however they are cut "
    "into\n"
    "files: for each that differs the number of elements and the largest absolute difference; and\n"
    "state.json and config.json key by key. Exit 0 if all is the same, 1 if not.\n";

static const char HELP_DIGEST[] =
    "usage: kintoun checkpoint digest DIR...\n"
    "Prints the XXH128 of every file below DIR, by path, then one of that list: equal digests mean "
    "equal\n"
    "names and bytes. DIR may be any folder.\n";

// Opens and parses DIR/MANIFEST and compares sizes.
static bool open_checkpoint(Manifest *manifest, const char *folder, Error *error) {
    char path[PATH_BYTES_MAX];
    int64_t bytes;
    if (!path_join(path, folder, "MANIFEST", error)) return false;
    char *text = file_read(path, MANIFEST_BYTES_MAX, &bytes, error);
    if (text == NULL) return false;
    const Verdict verdict = manifest_parse(manifest, text, bytes, NULL, error);
    free(text);
    return verdict == VERDICT_GOOD;
}

static int64_t total_bytes(const Manifest *manifest) {
    int64_t bytes = 0;
    for (int f = 0; f < manifest->layout.count; f++) bytes += manifest->layout.files[f].bytes;
    return bytes;
}

static int list_one(const char *folder) {
    Manifest manifest;
    Error error = {""};
    if (!open_checkpoint(&manifest, folder, &error)) {
        printf("%s  refused: %s\n", folder, error.text);
        return EXIT_FAILED;
    }
    const bool ok = manifest_check_sizes(&manifest, folder, &error);
    printf("%s  step %" PRId64 "  %d files  %" PRId64 " bytes  %s%s\n", folder, manifest.step,
           manifest.layout.count, total_bytes(&manifest), ok ? "ok" : "refused: ", error.text);
    manifest_free(&manifest);
    return ok ? EXIT_DONE : EXIT_FAILED;
}

// Names every file below folder/sub that the MANIFEST does not list.
static void name_unlisted(const Manifest *manifest, const char *folder, const char *sub) {
    char path[PATH_BYTES_MAX];
    int count;
    if (!path_join(path, folder, sub, NULL)) return;
    char **names = folder_list(path, &count, NULL);
    for (int i = 0; names != NULL && i < count; i++) {
        char inner[PATH_BYTES_MAX], whole[PATH_BYTES_MAX];
        const int length =
            snprintf(inner, sizeof(inner), "%s%s%s", sub, sub[0] == '\0' ? "" : "/", names[i]);
        if (length >= PATH_BYTES_MAX || !path_join(whole, folder, inner, NULL)) continue;
        if (file_size(whole, NULL) < 0) {
            name_unlisted(manifest, folder, inner);
        } else if (strcmp(inner, "MANIFEST") != 0 && layout_find(&manifest->layout, inner) < 0) {
            printf("%s: not in the MANIFEST\n", whole);
        }
    }
    folder_list_free(names, count);
}

static int verify_one(const char *folder) {
    Manifest manifest;
    Error error = {""};
    if (!open_checkpoint(&manifest, folder, &error)) {
        printf("%s: %s\n", folder, error.text);
        return EXIT_FAILED;
    }
    char *data = malloc(CHECKPOINT_BLOCK);
    CHECK(data != NULL, "no memory for a block");
    int64_t faults = manifest_check_sizes(&manifest, folder, &error) ? 0 : 1;
    if (faults > 0) printf("%s: %s\n", folder, error.text);
    for (int64_t b = 0; b < manifest.layout.blocks; b++) {
        if (manifest_read_block(&manifest, folder, b, data, &error)) continue;
        printf("%s: %s\n", folder, error.text);
        faults++;
    }
    name_unlisted(&manifest, folder, "");
    printf("%s: step %" PRId64 ", %d files, %" PRId64 " bytes, %" PRId64 " fault%s\n", folder,
           manifest.step, manifest.layout.count, total_bytes(&manifest), faults,
           faults == 1 ? "" : "s");
    free(data);
    manifest_free(&manifest);
    return faults == 0 ? EXIT_DONE : EXIT_FAILED;
}

// Names the folders that were set aside.
static void list_aside(const char *run) {
    static const char *const WHY[] = {"refused-", "replaced-", "newer-"};
    char folder[PATH_BYTES_MAX];
    int count;
    if (!steps_folder(folder, run, NULL)) return;
    char **names = folder_list(folder, &count, NULL);
    for (int i = 0; names != NULL && i < count; i++) {
        for (int w = 0; w < 3; w++) {
            if (strncmp(names[i], WHY[w], strlen(WHY[w])) == 0) {
                printf("%s/%s  set aside\n", folder, names[i]);
            }
        }
    }
    folder_list_free(names, count);
}

static int complain(const char *text) {
    fprintf(stderr, "kintoun checkpoint: %s\n", text);
    return EXIT_FAILED;
}

// Runs `action` on the checkpoint `dir`, or on each of the run `dir`, oldest first.
static int for_each(const char *dir, int (*action)(const char *folder)) {
    char path[PATH_BYTES_MAX];
    Error error = {""};
    if (!path_join(path, dir, "MANIFEST", &error)) return complain(error.text);
    if (path_exists(path)) return action(dir);
    if (!steps_folder(path, dir, &error)) return complain(error.text);
    if (!path_exists(path)) {
        error_set(&error, "%s: neither a checkpoint (no MANIFEST) nor a run (no checkpoints/)",
                  dir);
        return complain(error.text);
    }
    int count, status = EXIT_DONE;
    int64_t *steps = steps_list(dir, &count, &error);
    if (steps == NULL) return complain(error.text);
    if (count == 0) printf("%s: no checkpoints\n", dir);
    for (int i = count - 1; i >= 0; i--) {
        if (!step_path(path, dir, steps[i], &error)) continue;
        if (action(path) != EXIT_DONE) status = EXIT_FAILED;
    }
    free(steps);
    list_aside(dir);
    return status;
}

static int list(const char *dir) {
    return for_each(dir, list_one);
}

static int verify(const char *dir) {
    return for_each(dir, verify_one);
}

static const struct {
    const char *name, *help;
    int (*run)(const char *dir);  // NULL: diff, which takes two.
} ACTIONS[] = {
    {"ls", HELP_LS, list},
    {"verify", HELP_VERIFY, verify},
    {"diff", HELP_DIFF, NULL},
    {"digest", HELP_DIGEST, checkpoint_digest},
};
enum { ACTION_COUNT = sizeof(ACTIONS) / sizeof(ACTIONS[0]) };

static int run_action(int action, int count, char **dirs) {
    for (int i = 0; i < count; i++) {
        if (strcmp(dirs[i], "--help") == 0) {
            fputs(ACTIONS[action].help, stdout);
            return EXIT_DONE;
        }
        if (dirs[i][0] == '-') {
            fprintf(stderr, "kintoun checkpoint %s: unknown option '%s'\n%s", ACTIONS[action].name,
                    dirs[i], ACTIONS[action].help);
            return EXIT_CONFIG;
        }
    }
    const bool two = ACTIONS[action].run == NULL;
    if (count == 0 || (two && count != 2)) {
        fprintf(stderr, "kintoun checkpoint %s: %d folders given\n%s", ACTIONS[action].name, count,
                ACTIONS[action].help);
        return EXIT_CONFIG;
    }
    if (two) return checkpoint_diff(dirs[0], dirs[1]);
    int status = EXIT_DONE;
    for (int i = 0; i < count; i++) {
        if (ACTIONS[action].run(dirs[i]) != EXIT_DONE) status = EXIT_FAILED;
    }
    return status;
}

int checkpoint_command(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    for (int a = 0; a < ACTION_COUNT; a++) {
        if (strcmp(name, ACTIONS[a].name) == 0) return run_action(a, argc - 2, argv + 2);
    }
    if (strcmp(name, "--help") == 0) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    fprintf(stderr, "kintoun checkpoint: '%s' is no action\n%s", name, HELP);
    return EXIT_CONFIG;
}
