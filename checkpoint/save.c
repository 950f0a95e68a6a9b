#include "checkpoint/save.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/die.h"
#include "base/files.h"
#include "base/real.h"
#include "checkpoint/manifest.h"
#include "checkpoint/steps.h"
#include "parallel/agree.h"

enum { GENERATION_TEXT = 17 };  // 16 digits and a newline.

// A save in work.
typedef struct {
    const CheckpointSave *save;
    Comm *world;
    Layout layout;
    Exchange exchange;
    char folder[PATH_BYTES_MAX];     // RUN/checkpoints
    char temporary[PATH_BYTES_MAX];  // RUN/checkpoints/.tmp-step-N-GENERATION
    char final[PATH_BYTES_MAX];      // RUN/checkpoints/step-N
    int64_t *crc;                    // [layout.blocks] 0 for blocks of other ranks.
    int *fd;                         // [layout.count] -1 until this rank writes to the file.
} Work;

static void generation_text(char text[GENERATION_TEXT + 1], uint64_t generation) {
    snprintf(text, GENERATION_TEXT + 1, "%016" PRIx64 "\n", generation);
}

static bool generation_path(char path[PATH_BYTES_MAX], const char *run, Error *error) {
    return path_join(path, run, "checkpoints/.generation", error);
}

static bool random_bits(uint64_t *bits, Error *error) {
    const int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(error, "/dev/urandom: cannot open: %s", strerror(errno));
    const bool ok = read(fd, bits, sizeof(*bits)) == (ssize_t)sizeof(*bits);
    close(fd);
    return ok ? true : error_set(error, "/dev/urandom: cannot read");
}

uint64_t checkpoint_generation(const char *run) {
    Error error;
    char path[PATH_BYTES_MAX];
    if (!generation_path(path, run, &error) || !path_exists(path)) return 0;
    char *text = file_read(path, GENERATION_TEXT, NULL, &error);
    const uint64_t generation = text == NULL ? 0 : strtoull(text, NULL, 16);
    free(text);
    return generation;
}

static bool claim_alone(const char *run, uint64_t *generation, Error *error) {
    char folder[PATH_BYTES_MAX], path[PATH_BYTES_MAX], text[GENERATION_TEXT + 1];
    if (!random_bits(generation, error)) return false;
    generation_text(text, *generation);
    return steps_folder(folder, run, error) && folder_create(folder, error) &&
           generation_path(path, run, error) && file_write(path, text, GENERATION_TEXT, error) &&
           steps_sweep(run, error);
}

void checkpoint_unclaim(const char *run, uint64_t generation, uint64_t before) {
    Error error;
    char path[PATH_BYTES_MAX], text[GENERATION_TEXT + 1];
    if (before == 0 || checkpoint_generation(run) != generation) return;
    if (!generation_path(path, run, &error)) return;
    generation_text(text, before);
    if (!file_write(path, text, GENERATION_TEXT, &error)) fprintf(stderr, "%s\n", error.text);
}

bool checkpoint_claim(const char *run, Comm *world, uint64_t *generation, Error *error) {
    bool ok = true;
    if (comm_rank(world) == 0) ok = claim_alone(run, generation, error);
    if (!agree(world, ok, error)) return false;
    comm_broadcast(world, generation, sizeof(*generation), 0);
    return true;
}

// Whether no later start has claimed the run. *taken: whether one has.
static bool check_generation(const char *run, uint64_t generation, bool *taken, Error *error) {
    char path[PATH_BYTES_MAX], text[GENERATION_TEXT + 1];
    *taken = false;
    if (!generation_path(path, run, error)) return false;
    char *found = file_read(path, GENERATION_TEXT, NULL, error);
    if (found == NULL) return false;
    generation_text(text, generation);
    *taken = strcmp(found, text) != 0;
    free(found);
    return *taken
               ? error_set(error, "%s: a later start of this run has claimed it; nothing published",
                           path)
               : true;
}

bool checkpoint_taken(const char *run, Comm *world, uint64_t generation) {
    Error error;
    bool taken = false;
    if (comm_rank(world) == 0) check_generation(run, generation, &taken, &error);
    comm_broadcast(world, &taken, sizeof(taken), 0);
    return taken;
}

// Creates the file with its final size, so that every rank may write its blocks.
static bool create_file(const Work *work, const LayoutFile *file, Error *error) {
    char path[PATH_BYTES_MAX];
    if (!path_join(path, work->temporary, file->path, error)) return false;
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return error_set(error, "%s: cannot create: %s", path, strerror(errno));
    bool ok = ftruncate(fd, file->bytes) == 0;
    if (!ok) {
        error_set(error, "%s: cannot make it %" PRId64 " bytes long: %s", path, file->bytes,
                  strerror(errno));
    }
    if (close(fd) != 0 && ok) ok = error_set(error, "%s: close: %s", path, strerror(errno));
    return ok;
}

// The folders of a checkpoint.
static const char *const FOLDERS[] = {"transformer", "transformer_ema", "optimizer"};
enum { FOLDER_COUNT = 3 };

static bool create_all(const Work *work, Error *error) {
    if (!folder_remove(work->temporary, error)) return false;
    for (int i = 0; i < FOLDER_COUNT; i++) {
        char path[PATH_BYTES_MAX];
        if (!path_join(path, work->temporary, FOLDERS[i], error)) return false;
        if (!folder_create(path, error)) return false;
    }
    for (int f = 0; f < work->layout.count; f++) {
        if (!create_file(work, &work->layout.files[f], error)) return false;
    }
    return true;
}

// Puts the head's bytes before the tensors', takes the checksum, writes.
static bool write_block(Work *work, int64_t block, char *data, Error *error) {
    int64_t offset, bytes;
    const int f = layout_block(&work->layout, block, &offset, &bytes);
    const LayoutFile *file = &work->layout.files[f];
    if (offset < file->head_bytes) {
        memcpy(data, file->head + offset, (size_t)min_i64(bytes, file->head_bytes - offset));
    }
    work->crc[block] = crc32c(0, data, bytes);
    char path[PATH_BYTES_MAX];
    if (!path_join(path, work->temporary, file->path, error)) return false;
    if (work->fd[f] < 0) work->fd[f] = open(path, O_WRONLY | O_CLOEXEC);
    if (work->fd[f] < 0) return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    return file_write_at(work->fd[f], data, bytes, offset, path, error);
}

// All blocks of this rank; goes on with the exchange after a failure, since the others need it.
static bool write_blocks(Work *work, Error *error) {
    bool ok = true;
    for (int64_t round = 0; round < work->exchange.rounds; round++) {
        exchange_gather(&work->exchange, round);
        int64_t first, end;
        exchange_blocks(&work->exchange, round, &first, &end);
        for (int64_t block = first; ok && block < end; block++) {
            char *data = work->exchange.window + (block - first) * CHECKPOINT_BLOCK;
            ok = write_block(work, block, data, error);
        }
    }
    return ok;
}

// fsync through the descriptors that wrote: another one need not be told of a lost write.
static bool sync_files(Work *work, bool ok, Error *error) {
    for (int f = 0; f < work->layout.count; f++) {
        if (work->fd[f] < 0) continue;
        const char *path = work->layout.files[f].path;
        if (ok && fsync(work->fd[f]) != 0) {
            ok = error_set(error, "%s: cannot fsync: %s", path, strerror(errno));
        }
        if (close(work->fd[f]) != 0 && ok) {
            ok = error_set(error, "%s: cannot close: %s", path, strerror(errno));
        }
        work->fd[f] = -1;
    }
    return ok;
}

static bool sync_folders(const Work *work, Error *error) {
    for (int i = 0; i < FOLDER_COUNT; i++) {
        char path[PATH_BYTES_MAX];
        if (!path_join(path, work->temporary, FOLDERS[i], error)) return false;
        if (!folder_sync(path, error)) return false;
    }
    return folder_sync(work->temporary, error);
}

// Gives the folder its final name. A checkpoint of that step may be there: the run came back to it.
static bool rename_final(const Work *work, const char *manifest, int64_t bytes, Error *error) {
    if (path_exists(work->final)) {
        char path[PATH_BYTES_MAX];
        int64_t old_bytes;
        if (!path_join(path, work->final, "MANIFEST", error)) return false;
        char *old = file_read(path, MANIFEST_BYTES_MAX, &old_bytes, NULL);
        const bool same =
            old != NULL && old_bytes == bytes && memcmp(old, manifest, (size_t)bytes) == 0;
        free(old);
        if (same) return folder_remove(work->temporary, error);
        if (!step_set_aside(work->save->run, work->save->step, "replaced", error)) return false;
    }
    if (rename(work->temporary, work->final) != 0) {
        return error_set(error, "%s: cannot rename to %s: %s", work->temporary, work->final,
                         strerror(errno));
    }
    return folder_sync(work->folder, error);
}

// The last part, on rank 0 alone.
static bool publish(const Work *work, Error *error) {
    const int64_t step = work->save->step;
    char path[PATH_BYTES_MAX], latest[40];
    bool taken;
    if (!sync_folders(work, error)) return false;
    uint32_t *crc = malloc((size_t)work->layout.blocks * sizeof(*crc));
    CHECK(crc != NULL, "no memory for %" PRId64 " checksums", work->layout.blocks);
    for (int64_t b = 0; b < work->layout.blocks; b++) crc[b] = (uint32_t)work->crc[b];
    int64_t bytes;
    char *manifest = manifest_text(&work->layout, crc, step, &bytes);
    free(crc);
    const bool ok = path_join(path, work->temporary, "MANIFEST", error) &&
                    file_write_in_place(path, manifest, bytes, error) &&
                    folder_sync(work->temporary, error) &&
                    check_generation(work->save->run, work->save->generation, &taken, error) &&
                    rename_final(work, manifest, bytes, error);
    free(manifest);
    if (!ok) return false;
    // A hint for people; nothing reads it, so that its loss is no failure.
    snprintf(latest, sizeof(latest), "step-%08" PRId64 "\n", step);
    if (path_join(path, work->folder, "latest", NULL)) {
        file_write(path, latest, (int64_t)strlen(latest), NULL);
    }
    return true;
}

// From the slices to the published folder. False on all ranks alike.
static bool write_and_publish(Work *work, Error *error) {
    const bool first = comm_rank(work->world) == 0;
    bool ok = first ? create_all(work, error) : true;
    if (!agree(work->world, ok, error)) return false;
    ok = write_blocks(work, error);
    ok = sync_files(work, ok, error);
    if (!agree(work->world, ok, error)) return false;
    comm_all_reduce_max(work->world, work->crc, work->layout.blocks);
    ok = first ? publish(work, error) : true;
    return agree(work->world, ok, error);
}

static bool name_folders(Work *work, Error *error) {
    char name[80];
    snprintf(name, sizeof(name), ".tmp-step-%08" PRId64 "-%016" PRIx64, work->save->step,
             work->save->generation);
    return steps_folder(work->folder, work->save->run, error) &&
           path_join(work->temporary, work->folder, name, error) &&
           step_path(work->final, work->save->run, work->save->step, error);
}

static int64_t file_limit(int64_t file_bytes_max) {
    return file_bytes_max > 0 ? file_bytes_max : CHECKPOINT_FILE_BYTES;
}

bool checkpoint_save(const CheckpointSave *save, Error *error) {
    Work work = {.save = save, .world = save->shards.world};
    Error reason = {""};
    bool ok = agree(work.world, name_folders(&work, &reason), &reason);
    if (ok) {
        layout_build(&work.layout, save->shards.table, file_limit(save->file_bytes_max),
                     save->config, save->state);
        exchange_init(&work.exchange, EXCHANGE_SAVE, &work.layout, &save->shards);
        work.crc = calloc((size_t)work.layout.blocks, sizeof(*work.crc));
        work.fd = malloc((size_t)work.layout.count * sizeof(*work.fd));
        CHECK(work.crc != NULL && work.fd != NULL, "no memory for a save");
        for (int f = 0; f < work.layout.count; f++) work.fd[f] = -1;
        ok = write_and_publish(&work, &reason);
        if (!ok && comm_rank(work.world) == 0) folder_remove(work.temporary, NULL);
        exchange_free(&work.exchange);
        layout_free(&work.layout);
        free(work.crc);
        free(work.fd);
    }
    return ok ? true
              : error_set(error, "step %" PRId64 " not saved: %.960s", save->step, reason.text);
}

MemoryBytes checkpoint_bytes(const ParamTable *table, int64_t file_bytes_max, int index, int size,
                             int replicas) {
    static const ExchangeKind kinds[] = {EXCHANGE_SAVE, EXCHANGE_RESTORE};
    MemoryBytes most = {0, 0};
    Layout layout;
    layout_build(&layout, table, file_limit(file_bytes_max), "{}", "{}");
    for (int k = 0; k < 2; k++) {
        Exchange x;
        exchange_shape(&x, kinds[k], &layout, index, size, 0, replicas, 0);
        most.device = max_i64(most.device, x.near_bytes + x.far_bytes);
        most.host = max_i64(most.host, x.window_blocks * CHECKPOINT_BLOCK);
        exchange_free(&x);
    }
    layout_free(&layout);
    return most;
}
