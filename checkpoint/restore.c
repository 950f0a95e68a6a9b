#include "checkpoint/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/die.h"
#include "base/files.h"
#include "base/real.h"
#include "base/safetensors.h"
#include "checkpoint/manifest.h"
#include "checkpoint/steps.h"
#include "parallel/agree.h"

enum { READ_AGAIN = 2 };

// One checkpoint that is being tried.
typedef struct {
    Restore *restore;
    Comm *world;
    int64_t step;
    char folder[PATH_BYTES_MAX];
    Manifest manifest;
    int fd, fd_file;  // The file that was read last, or -1.
} Candidate;

static bool is_first(const Candidate *c) {
    return comm_rank(c->world) == 0;
}

// The verdict on what was just read, the same on every rank. `errno` was 0 before it. A file that
// is missing or short is a fault of the checkpoint; what the system could not read is none.
static Verdict judge_reading(const Candidate *c, bool ok, Error *error) {
    const bool system = !ok && errno != 0 && errno != ENOENT && errno != ENOTDIR && errno != EINTR;
    Error reason = *error;
    if (agree(c->world, ok, error)) return VERDICT_GOOD;
    if (agree(c->world, !system, &reason)) return VERDICT_CORRUPT;
    *error = reason;
    return VERDICT_UNREADABLE;
}

// The MANIFEST, read by rank 0, on all ranks.
static Verdict open_manifest(Candidate *c, Error *error) {
    char path[PATH_BYTES_MAX], *text = NULL;
    int64_t bytes = 0;
    errno = 0;
    bool ok = path_join(path, c->folder, "MANIFEST", error);
    if (ok && is_first(c)) {
        text = file_read(path, MANIFEST_BYTES_MAX, &bytes, error);
        ok = text != NULL;
    }
    Verdict verdict = judge_reading(c, ok, error);
    if (verdict != VERDICT_GOOD) return verdict;
    share_bytes(c->world, &text, &bytes);
    verdict = manifest_parse(&c->manifest, text, bytes, c->restore->shards.table, error);
    free(text);
    if (verdict != VERDICT_GOOD) return verdict;
    ok = c->manifest.step == c->step;
    if (!ok) error_set(error, "MANIFEST: is of step %" PRId64, c->manifest.step);
    errno = 0;
    if (ok && is_first(c)) ok = manifest_check_sizes(&c->manifest, c->folder, error);
    return judge_reading(c, ok, error);
}

// The head of a file: the header of a safetensors file, all of state.json.
static char *read_head(const Candidate *c, int f, int64_t *bytes, Error *error) {
    const LayoutFile *file = &c->manifest.layout.files[f];
    const bool tensors = file->class != CLASS_COUNT;
    char *head =
        manifest_read_start(&c->manifest, c->folder, f, tensors ? 8 : file->bytes, bytes, error);
    if (head == NULL || !tensors || *bytes < 8) return head;
    uint64_t length = 0;
    for (int i = 0; i < 8; i++) length |= (uint64_t)(unsigned char)head[i] << (8 * i);
    if (length <= (uint64_t)*bytes - 8 || length > SAFETENSORS_HEADER_MAX) return head;
    free(head);
    return manifest_read_start(&c->manifest, c->folder, f, (int64_t)length + 8, bytes, error);
}

// All heads, read by rank 0, on all ranks.
static Verdict open_heads(Candidate *c, Error *error) {
    Layout *layout = &c->manifest.layout;
    for (int f = 0; f < layout->count; f++) {
        const bool state = strcmp(layout->files[f].path, "state.json") == 0;
        if (layout->files[f].class == CLASS_COUNT && !state) continue;
        char *head = NULL;
        int64_t bytes = 0;
        errno = 0;
        if (is_first(c)) head = read_head(c, f, &bytes, error);
        const Verdict verdict = judge_reading(c, !is_first(c) || head != NULL, error);
        if (verdict != VERDICT_GOOD) return verdict;
        share_bytes(c->world, &head, &bytes);
        if (!layout_set_head(layout, f, head, bytes, &c->restore->problems, error)) {
            return VERDICT_CORRUPT;
        }
    }
    return VERDICT_GOOD;
}

// Whether the state is one that the caller knows and made with the same recipe.
static Verdict check_state(Candidate *c, Error *error) {
    Restore *restore = c->restore;
    const int f = layout_find(&c->manifest.layout, "state.json");
    if (f < 0) {
        error_set(error, "MANIFEST: has no state.json");
        return VERDICT_CORRUPT;
    }
    json_error_t reason;
    const LayoutFile *file = &c->manifest.layout.files[f];
    json_t *state =
        json_loadb(file->head, (size_t)file->head_bytes, JSON_REJECT_DUPLICATES, &reason);
    if (state == NULL) {
        error_set(error, "state.json: line %d: %s", reason.line, reason.text);
        return VERDICT_CORRUPT;
    }
    const json_int_t version = json_integer_value(json_object_get(state, "version"));
    const json_t *step = json_object_get(state, "step");
    if (version < 1 || !json_is_integer(step) || json_integer_value(step) != c->step) {
        error_set(error, "state.json: version %" PRId64 " of step %" PRId64, (int64_t)version,
                  (int64_t)json_integer_value(step));
        json_decref(state);
        return VERDICT_CORRUPT;
    }
    if (version > restore->state_version) {
        problems_add(&restore->problems,
                     "state.json: version %" PRId64
                     ", this program knows up to %d; use a newer one",
                     (int64_t)version, restore->state_version);
    } else {
        char *recipe = json_dumps(json_object_get(state, "recipe"), JSON_COMPACT);
        recipe_compare(recipe == NULL ? "" : recipe, restore->recipe, restore->overrides,
                       restore->override_count, &restore->problems);
        free(recipe);
    }
    json_decref(state);
    return restore->problems.count > 0 ? VERDICT_INCOMPATIBLE : VERDICT_GOOD;
}

static Verdict open_candidate(Candidate *c, Error *error) {
    Verdict verdict = open_manifest(c, error);
    if (verdict == VERDICT_INCOMPATIBLE) problems_add(&c->restore->problems, "%s", error->text);
    if (verdict == VERDICT_GOOD) verdict = open_heads(c, error);
    if (verdict != VERDICT_GOOD) return verdict;
    layout_check_complete(&c->manifest.layout, &c->restore->problems);
    return check_state(c, error);
}

static bool read_block(Candidate *c, int64_t block, char *data, Error *error) {
    int64_t offset, bytes;
    const int f = layout_block(&c->manifest.layout, block, &offset, &bytes);
    char path[PATH_BYTES_MAX];
    if (!path_join(path, c->folder, c->manifest.layout.files[f].path, error)) return false;
    if (f != c->fd_file) {
        if (c->fd >= 0) close(c->fd);
        c->fd = open(path, O_RDONLY | O_CLOEXEC);
        c->fd_file = f;
    }
    if (c->fd < 0) return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    return file_read_at(c->fd, data, bytes, offset, path, error) &&
           manifest_check_block(&c->manifest, block, data, error);
}

// Reads and checks every block once and fills the slices. Nothing unchecked leaves the window.
static Verdict read_blocks(Candidate *c, Exchange *exchange, Error *error) {
    for (int64_t round = 0; round < exchange->rounds; round++) {
        int64_t first, end;
        exchange_blocks(exchange, round, &first, &end);
        bool ok = true;
        errno = 0;
        for (int64_t block = first; ok && block < end; block++) {
            ok = read_block(c, block, exchange->window + (block - first) * CHECKPOINT_BLOCK, error);
        }
        const Verdict verdict = judge_reading(c, ok, error);
        if (verdict != VERDICT_GOOD) return verdict;
        exchange_scatter(exchange, round);
    }
    return VERDICT_GOOD;
}

// The gaps between tensors are in no file; they are zero.
static void zero_slices(const CheckpointShards *shards) {
    const int index = comm_rank(shards->shard), size = comm_size(shards->shard);
    for (int c = 0; c < CLASS_COUNT; c++) {
        for (int unit = 0; unit < shards->table->units; unit++) {
            const int64_t elements = shards->table->unit_elements[unit];
            const int64_t count =
                slice_cut(elements, index + 1, size) - slice_cut(elements, index, size);
            if (count > 0) device_zero(shards->slice[c][unit], count * 4, NULL);
        }
    }
}

// Tries one checkpoint. The same verdict on every rank.
static Verdict restore_step(Restore *restore, int64_t step, Error *error) {
    Candidate c = {
        .restore = restore, .world = restore->shards.world, .step = step, .fd = -1, .fd_file = -1};
    if (!agree(c.world, step_path(c.folder, restore->run, step, error), error)) {
        return VERDICT_CORRUPT;
    }
    // Problems of a corrupt header are none; a later candidate starts anew.
    restore->problems.count = 0;
    Verdict verdict = open_candidate(&c, error);
    if (verdict == VERDICT_GOOD) {
        Exchange exchange;
        exchange_init(&exchange, EXCHANGE_RESTORE, &c.manifest.layout, &restore->shards);
        zero_slices(&restore->shards);
        verdict = read_blocks(&c, &exchange, error);
        exchange_free(&exchange);
    }
    if (verdict == VERDICT_GOOD) {
        LayoutFile *state = &c.manifest.layout.files[layout_find(&c.manifest.layout, "state.json")];
        restore->found = step;
        restore->state = state->head;
        state->head = NULL;
    }
    if (c.fd >= 0) close(c.fd);
    manifest_free(&c.manifest);
    return verdict;
}

// The steps on disk, listed by rank 0, on all ranks. NULL with the reason.
static int64_t *share_steps(const Restore *restore, int *count, Error *error) {
    Comm *world = restore->shards.world;
    int64_t *steps = NULL;
    int found = 0;
    if (comm_rank(world) == 0) steps = steps_list(restore->run, &found, error);
    if (!agree(world, comm_rank(world) != 0 || steps != NULL, error)) return NULL;
    char *data = (char *)steps;
    int64_t bytes = found * (int64_t)sizeof(*steps);
    share_bytes(world, &data, &bytes);
    *count = (int)(bytes / (int64_t)sizeof(*steps));
    return (int64_t *)(void *)data;
}

// Sets aside steps[first, end), by rank 0.
static bool set_aside(const Restore *restore, const int64_t *steps, int first, int end,
                      const char *why, Error *error) {
    bool ok = true;
    for (int i = first; i < end && ok && comm_rank(restore->shards.world) == 0; i++) {
        ok = step_set_aside(restore->run, steps[i], why, error);
    }
    return agree(restore->shards.world, ok, error);
}

// The place of resume.step in the list, or -1 and a problem.
static int find_step(Restore *restore, const int64_t *steps, int count) {
    char known[200] = "none";
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        if (steps[i] == restore->step) return i;
        if (used < sizeof(known)) {
            used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%" PRId64,
                                     used == 0 ? "" : ", ", steps[i]);
        }
    }
    problems_add(&restore->problems,
                 "resume.step = %" PRId64 ": %s has no such checkpoint (there: %s)", restore->step,
                 restore->run, known);
    return -1;
}

// The same; what cannot be read is tried again a few times, since file servers come back.
static Verdict restore_patiently(Restore *restore, int64_t step, Error *error) {
    Verdict verdict = restore_step(restore, step, error);
    for (int again = 0; verdict == VERDICT_UNREADABLE && again < READ_AGAIN; again++) {
        clock_sleep(1);
        verdict = restore_step(restore, step, error);
    }
    return verdict;
}

// Tries steps[first, end) in turn; those before the good one were refused.
static RestoreResult try_steps(Restore *restore, const int64_t *steps, int first, int end,
                               Error *error) {
    for (int i = first; i < end; i++) {
        Error reason = {""};
        const Verdict verdict = restore_patiently(restore, steps[i], &reason);
        if (verdict == VERDICT_INCOMPATIBLE) return RESTORE_INCOMPATIBLE;
        if (verdict == VERDICT_UNREADABLE) {
            error_set(error,
                      "%s/checkpoints: step-%08" PRId64
                      " cannot be read, so nothing was renamed; start again when it can be, or "
                      "choose another with resume.step=N: %.600s",
                      restore->run, steps[i], reason.text);
            return RESTORE_REFUSED;
        }
        if (verdict == VERDICT_CORRUPT) {
            problems_add(&restore->refused, "step-%08" PRId64 " refused: %.360s", steps[i],
                         reason.text);
            continue;
        }
        restore->problems.count = 0;
        const bool ok = set_aside(restore, steps, 0, first, "newer", error) &&
                        set_aside(restore, steps, first, i, "refused", error);
        return ok ? RESTORE_DONE : RESTORE_REFUSED;
    }
    error_set(error,
              "%s/checkpoints: %s; mend the folder, choose another with resume.step=N, or start "
              "over with --fresh; first: %.600s",
              restore->run, end - first == 1 ? "the checkpoint is refused" : "all are refused",
              restore->refused.text[0]);
    return RESTORE_REFUSED;
}

RestoreResult checkpoint_restore(Restore *restore, Error *error) {
    int count;
    Error reason = {""};
    restore->found = -1;
    restore->state = NULL;
    restore->refused.count = restore->problems.count = 0;
    int64_t *steps = share_steps(restore, &count, &reason);
    RestoreResult result = RESTORE_REFUSED;
    if (steps == NULL) {
        // The reason is set.
    } else if (restore->fresh) {
        if (set_aside(restore, steps, 0, count, "replaced", &reason)) result = RESTORE_NOTHING;
    } else if (restore->step >= 0) {
        const int i = find_step(restore, steps, count);
        result = i < 0 ? RESTORE_INCOMPATIBLE : try_steps(restore, steps, i, i + 1, &reason);
    } else {
        result = count == 0 ? RESTORE_NOTHING : try_steps(restore, steps, 0, count, &reason);
    }
    free(steps);
    if (result == RESTORE_REFUSED) error_set(error, "%s", reason.text);
    return result;
}
