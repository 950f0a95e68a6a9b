#include "train/once.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "parallel/agree.h"

enum { BYTES_MAX = 1024 };

static bool path_of(char path[PATH_BYTES_MAX], const char *run, Error *error) {
    return path_join(path, run, "checkpoints/.once", error);
}

// A text that is not of this name leaves zeros.
static void parse(Once *once, const char *text, const char *name) {
    const size_t length = strcspn(name, ":"), line = strcspn(text, "\n");
    int chosen = 0;
    int64_t step, starts;
    if (strncmp(text, name, length) != 0 || strcspn(text, ":\n") != length) return;
    if (sscanf(text + line, "%d %" SCNd64 " %" SCNd64, &chosen, &step, &starts) != 3) return;
    once->chosen = chosen != 0;
    if (line != strlen(name) || strncmp(text, name, line) != 0) return;
    once->step = step;
    once->starts = starts;
}

bool once_read(Once *once, const char *run, const char *name, Comm *world, Error *error) {
    char path[PATH_BYTES_MAX];
    bool ok = true;
    *once = (Once){0};
    if (name == NULL) return true;
    if (comm_rank(world) == 0) {
        ok = path_of(path, run, error);
        if (ok && path_exists(path)) {
            char *text = file_read(path, BYTES_MAX, NULL, error);
            ok = text != NULL;
            if (ok) parse(once, text, name);
            free(text);
        }
    }
    if (!agree(world, ok, error)) return false;
    comm_broadcast(world, once, sizeof(*once), 0);
    return true;
}

bool once_write(Once *once, const char *run, const char *name, bool chosen, int64_t step,
                Comm *world, Error *error) {
    char path[PATH_BYTES_MAX], text[BYTES_MAX];
    if (name == NULL) return true;
    once->chosen = once->chosen || chosen;
    once->starts = once->step == step ? once->starts + 1 : 1;
    once->step = step;
    const int bytes = snprintf(text, sizeof(text), "%s\n%d\n%" PRId64 " %" PRId64 "\n", name,
                               once->chosen, once->step, once->starts);
    const bool ok = comm_rank(world) != 0 ||
                    (path_of(path, run, error) && file_write(path, text, bytes, error));
    return agree(world, ok, error);
}
