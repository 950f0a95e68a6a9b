#define _XOPEN_SOURCE 700  // realpath

#include "checkpoint/weights.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/files.h"
#include "base/real.h"
#include "base/safetensors.h"
#include "parallel/agree.h"

enum {
    FILES_MAX = 1000,
    INDEX_BYTES_MAX = 1 << 28,
    CHUNK = 1 << 18,  // Elements read at once.
};

// The folder's files, open.
typedef struct {
    Safetensors file[FILES_MAX];
    int count;
} Source;

static bool open_file(Source *source, const char *folder, const char *name, Error *error) {
    char path[PATH_BYTES_MAX];
    if (!path_join(path, folder, name, error)) return false;
    for (int f = 0; f < source->count; f++) {
        if (strcmp(source->file[f].path, path) == 0) return true;
    }
    if (strchr(name, '/') != NULL || source->count == FILES_MAX) {
        return error_set(error,
                         "%s: file %d ('%.80s') of the index: a name in this folder, at most %d",
                         folder, source->count, name, FILES_MAX);
    }
    if (!safetensors_open(&source->file[source->count], path, error)) return false;
    source->count++;
    return true;
}

static bool open_indexed(Source *source, const char *folder, const char *index_path, Error *error) {
    int64_t bytes;
    char *text = file_read(index_path, INDEX_BYTES_MAX, &bytes, error);
    if (text == NULL) return false;
    json_error_t reason;
    json_t *index = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &reason);
    free(text);
    if (index == NULL) {
        return error_set(error, "%s: line %d: %s", index_path, reason.line, reason.text);
    }
    json_t *map = json_object_get(index, "weight_map");
    bool ok = json_is_object(map);
    if (!ok) error_set(error, "%s: has no weight_map", index_path);
    const char *tensor;
    json_t *name;
    json_object_foreach(map, tensor, name) {
        if (ok && !json_is_string(name)) {
            ok = error_set(error, "%s: '%.80s' names no file", index_path, tensor);
        }
        ok = ok && open_file(source, folder, json_string_value(name), error);
    }
    json_decref(index);
    return ok;
}

static bool open_source(Source *source, const char *folder, Error *error) {
    char path[PATH_BYTES_MAX];
    if (!path_join(path, folder, "diffusion_pytorch_model.safetensors.index.json", error)) {
        return false;
    }
    if (path_exists(path)) return open_indexed(source, folder, path, error);
    return open_file(source, folder, "diffusion_pytorch_model.safetensors", error);
}

// Blocks b of the folder's files with b % size == rank against the MANIFEST of the checkpoint
// `parent`.
static bool check_blocks(const char *parent, const char *base, int rank, int size, Error *error) {
    char path[PATH_BYTES_MAX], start[PATH_BYTES_MAX];
    if (!path_join(path, parent, "MANIFEST", error)) return false;
    if (!path_exists(path)) return true;
    int64_t bytes;
    char *text = file_read(path, MANIFEST_BYTES_MAX, &bytes, error);
    if (text == NULL) return false;
    Manifest manifest;
    const Verdict verdict = manifest_parse(&manifest, text, bytes, NULL, error);
    free(text);
    if (verdict != VERDICT_GOOD) return false;
    char *block_data = malloc(CHECKPOINT_BLOCK);
    CHECK(block_data != NULL, "no memory for a block");
    const int length = snprintf(start, sizeof(start), "%s/", base);
    bool ok = true;
    for (int64_t b = rank; ok && b < manifest.layout.blocks; b += size) {
        int64_t offset, block_bytes;
        const int f = layout_block(&manifest.layout, b, &offset, &block_bytes);
        if (strncmp(manifest.layout.files[f].path, start, (size_t)length) != 0) continue;
        ok = manifest_read_block(&manifest, parent, b, block_data, error);
    }
    free(block_data);
    manifest_free(&manifest);
    return ok;
}

static bool check_sums(const char *folder, int rank, int size, Error *error) {
    char *parent = realpath(folder, NULL);
    if (parent == NULL) return error_set(error, "%s: cannot find: %s", folder, strerror(errno));
    char *slash = strrchr(parent, '/');
    bool ok = true;
    if (slash != parent) {
        *slash = '\0';
        ok = check_blocks(parent, slash + 1, rank, size, error);
    }
    free(parent);
    return ok;
}

// Where each row of the table is; problems for those that are nowhere, and for tensors that are no
// row.
typedef struct {
    const Safetensors *file;
    const TensorInfo *tensor;
} Place;

static void match_tensor(Place *places, const Safetensors *file, const TensorInfo *tensor,
                         const ParamTable *table, Problems *problems) {
    const int r = param_find(table, tensor->name);
    if (r < 0) {
        problems_add(problems, "%s: tensor '%s' is not in this model", file->path, tensor->name);
        return;
    }
    const Param *row = &table->rows[r];
    bool same = tensor->dims == row->dims;
    for (int d = 0; same && d < row->dims; d++) same = tensor->shape[d] == row->shape[d];
    if (!same) {
        problems_add(problems,
                     "%s: tensor '%s' has %d dims and %" PRId64
                     " elements or another order of sizes; this model needs %d and %" PRId64,
                     file->path, tensor->name, tensor->dims, tensor->count, row->dims, row->count);
    } else if (places[r].file != NULL) {
        problems_add(problems, "%s: tensor '%s' is also in %s", file->path, tensor->name,
                     places[r].file->path);
    }
    places[r] = (Place){file, tensor};
}

static Place *match(const Source *source, const char *folder, const ParamTable *table,
                    Problems *problems) {
    Place *places = calloc((size_t)table->count + 1, sizeof(*places));
    CHECK(places != NULL, "no memory for %d rows", table->count);
    for (int f = 0; f < source->count; f++) {
        for (int t = 0; t < source->file[f].count; t++) {
            match_tensor(places, &source->file[f], &source->file[f].tensors[t], table, problems);
        }
    }
    for (int r = 0; r < table->count; r++) {
        if (places[r].file != NULL) continue;
        problems_add(problems, "%s: tensor '%s' is missing", folder, table->rows[r].name);
    }
    return places;
}

// The part of a row that lies in elements [begin, end) of its unit, whose slice is `slice`.
static bool read_row(float *slice, int64_t begin, int64_t end, const Param *row, const Place *place,
                     float *chunk, Error *error) {
    const int64_t first = max_i64(begin, row->offset);
    const int64_t last = min_i64(end, row->offset + row->count);
    for (int64_t at = first; at < last; at += CHUNK) {
        const int64_t count = min_i64(CHUNK, last - at);
        if (!safetensors_read_floats(place->file, place->tensor, at - row->offset, count, chunk,
                                     error)) {
            return false;
        }
        device_copy(slice + (at - begin), chunk, count * 4, NULL);
        stream_wait(NULL);
    }
    return true;
}

static bool read_slices(float *const *slice, const Place *places, const ParamTable *table,
                        int index, int size, Error *error) {
    float *chunk = malloc(CHUNK * sizeof(*chunk));
    CHECK(chunk != NULL, "no memory for %d elements", CHUNK);
    bool ok = true;
    for (int unit = 0; ok && unit < table->units; unit++) {
        const int64_t elements = table->unit_elements[unit];
        const int64_t begin = slice_cut(elements, index, size);
        const int64_t end = slice_cut(elements, index + 1, size);
        if (begin == end) continue;
        device_zero(slice[unit], (end - begin) * 4, NULL);  // The gaps between tensors.
        const int last = param_unit_first(table, unit + 1);
        for (int r = param_unit_first(table, unit); ok && r < last; r++) {
            ok = read_row(slice[unit], begin, end, &table->rows[r], &places[r], chunk, error);
        }
    }
    free(chunk);
    return ok;
}

Verdict checkpoint_load_weights(float *const *slice, const char *folder, const ParamTable *table,
                                int index, int size, Comm *world, Problems *problems,
                                Error *error) {
    Error reason = {""};
    Source *source = calloc(1, sizeof(*source));
    CHECK(source != NULL, "no memory for the files of %s", folder);
    Verdict verdict = VERDICT_CORRUPT;
    bool ok = check_sums(folder, comm_rank(world), comm_size(world), &reason) &&
              open_source(source, folder, &reason);
    if (agree(world, ok, &reason)) {
        const int before = problems->count;
        Place *places = match(source, folder, table, problems);
        int64_t found = problems->count - before;
        comm_all_reduce_max(world, &found, 1);
        if (found > 0) {
            verdict = VERDICT_INCOMPATIBLE;
        } else {
            ok = read_slices(slice, places, table, index, size, &reason);
            if (agree(world, ok, &reason)) verdict = VERDICT_GOOD;
        }
        free(places);
    }
    for (int f = 0; f < source->count; f++) safetensors_close(&source->file[f]);
    free(source);
    if (verdict == VERDICT_CORRUPT) error_set(error, "%s", reason.text);
    return verdict;
}
