#include "checkpoint/steps.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "checkpoint/manifest.h"

bool steps_folder(char path[PATH_BYTES_MAX], const char *run, Error *error) {
    return path_join(path, run, "checkpoints", error);
}

// The folder RUN/checkpoints/<start>step-00001200<end>.
static bool named_path(char path[PATH_BYTES_MAX], const char *run, const char *start, int64_t step,
                       const char *end, Error *error) {
    char name[96];
    snprintf(name, sizeof(name), "checkpoints/%sstep-%08" PRId64 "%s", start, step, end);
    return path_join(path, run, name, error);
}

bool step_path(char path[PATH_BYTES_MAX], const char *run, int64_t step, Error *error) {
    return named_path(path, run, "", step, "", error);
}

// The step of a folder called exactly step-%08d, else -1.
static int64_t step_of(const char *name) {
    if (strncmp(name, "step-", 5) != 0) return -1;
    const char *digits = name + 5;
    const size_t length = strlen(digits);
    if (length < 8 || length > 18 || strspn(digits, "0123456789") != length) return -1;
    if (length > 8 && digits[0] == '0') return -1;
    return strtoll(digits, NULL, 10);
}

static int compare_steps(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

int64_t *steps_list(const char *run, int *count, Error *error) {
    char folder[PATH_BYTES_MAX];
    *count = 0;
    if (!steps_folder(folder, run, error)) return NULL;
    int names_count = 0;
    char **names = NULL;
    if (path_exists(folder)) {
        names = folder_list(folder, &names_count, error);
        if (names == NULL) return NULL;
    }
    int64_t *steps = malloc((size_t)(names_count + 1) * sizeof(*steps));
    CHECK(steps != NULL, "no memory for %d steps", names_count);
    for (int i = 0; i < names_count; i++) {
        const int64_t step = step_of(names[i]);
        if (step >= 0) steps[(*count)++] = step;
    }
    folder_list_free(names, names_count);
    qsort(steps, (size_t)*count, sizeof(*steps), compare_steps);
    return steps;
}

static bool move(const char *run, const char *from, const char *to, Error *error) {
    char folder[PATH_BYTES_MAX];
    if (rename(from, to) != 0) {
        return error_set(error, "%s: cannot rename to %s: %s", from, to, strerror(errno));
    }
    return steps_folder(folder, run, error) && folder_sync(folder, error);
}

bool step_set_aside(const char *run, int64_t step, const char *why, Error *error) {
    char from[PATH_BYTES_MAX], to[PATH_BYTES_MAX], start[32], end[16] = "";
    snprintf(start, sizeof(start), "%s-", why);
    if (!step_path(from, run, step, error)) return false;
    for (int n = 2;; n++) {
        if (!named_path(to, run, start, step, end, error)) return false;
        if (!path_exists(to)) return move(run, from, to, error);
        snprintf(end, sizeof(end), "-%d", n);
    }
}

bool checkpoint_prune(const char *run, int keep, Error *error) {
    CHECK(keep > 0, "%s: keep = %d", run, keep);
    int count;
    int64_t *steps = steps_list(run, &count, error);
    bool ok = steps != NULL;
    for (int i = keep; ok && i < count; i++) {
        char from[PATH_BYTES_MAX], trash[PATH_BYTES_MAX];
        ok = step_path(from, run, steps[i], error) &&
             named_path(trash, run, ".trash-", steps[i], "", error) &&
             folder_remove(trash, error) && move(run, from, trash, error) &&
             folder_remove(trash, error);
    }
    free(steps);
    return ok;
}

// Gives a .tmp folder with a good MANIFEST, which is written last, its final name if that is free.
static bool publish_whole(bool *published, const char *run, const char *path, const char *name,
                          Error *error) {
    char file[PATH_BYTES_MAX], final[PATH_BYTES_MAX];
    int64_t bytes;
    *published = false;
    if (strncmp(name, ".tmp-step-", 10) != 0) return true;
    const int64_t step = strtoll(name + 10, NULL, 10);
    if (!path_join(file, path, "MANIFEST", error) || !step_path(final, run, step, error)) {
        return false;
    }
    if (path_exists(final) || !path_exists(file)) return true;
    char *text = file_read(file, MANIFEST_BYTES_MAX, &bytes, NULL);
    Manifest manifest;
    if (text != NULL && manifest_parse(&manifest, text, bytes, NULL, NULL) == VERDICT_GOOD) {
        *published = manifest.step == step;
        manifest_free(&manifest);
    }
    free(text);
    return !*published || move(run, path, final, error);
}

bool steps_sweep(const char *run, Error *error) {
    char folder[PATH_BYTES_MAX], path[PATH_BYTES_MAX];
    int count;
    if (!steps_folder(folder, run, error)) return false;
    char **names = folder_list(folder, &count, error);
    bool ok = names != NULL;
    for (int i = 0; ok && i < count; i++) {
        if (strncmp(names[i], ".tmp-", 5) != 0 && strncmp(names[i], ".trash-", 7) != 0) continue;
        bool published;
        ok = path_join(path, folder, names[i], error) &&
             publish_whole(&published, run, path, names[i], error) &&
             (published || folder_remove(path, error));
    }
    folder_list_free(names, count);
    return ok;
}
