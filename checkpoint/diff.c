#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/files.h"
#include "base/real.h"
#include "base/safetensors.h"
#include "checkpoint/command.h"

enum { CHUNK = 1 << 14, JSON_BYTES_MAX = 1 << 28, KEY_MAX = TENSOR_NAME_MAX + 64 };

// A tensor of one side, by what it is: "exp_avg/blocks.0.norm.weight".
typedef struct {
    char key[KEY_MAX];
    int file;  // Of the side's files.
    const TensorInfo *tensor;
} Entry;

typedef struct {
    Safetensors *files;
    int file_count;
    Entry *entries;  // [count] By key.
    int count;
} Side;

typedef struct {
    int64_t same, different;
} Tally;

static void *grown(void *memory, int count, size_t size) {
    void *more = realloc(memory, (size_t)(count + 1) * size);
    CHECK(more != NULL, "no memory for %d rows", count + 1);
    return more;
}

// Adds the tensors of a safetensors file. In optimizer/ the class is the start of the file's name.
static bool add_file(Side *side, const char *folder, const char *sub, const char *name,
                     Error *error) {
    char inner[PATH_BYTES_MAX], path[PATH_BYTES_MAX], class[64];
    const bool optimizer = strcmp(sub, "optimizer") == 0;
    snprintf(class, sizeof(class), "%.*s", optimizer ? (int)strcspn(name, "-.") : 60,
             optimizer ? name : sub);
    if (!path_join(inner, sub[0] == '\0' ? "." : sub, name, error)) return false;
    if (!path_join(path, folder, inner, error)) return false;
    side->files = grown(side->files, side->file_count, sizeof(*side->files));
    Safetensors *file = &side->files[side->file_count];
    if (!safetensors_open(file, path, error)) return false;
    for (int t = 0; t < file->count; t++) {
        side->entries = grown(side->entries, side->count, sizeof(*side->entries));
        Entry *entry = &side->entries[side->count++];
        *entry = (Entry){.file = side->file_count, .tensor = &file->tensors[t]};
        snprintf(entry->key, sizeof(entry->key), "%s%s%s", class, class[0] == '\0' ? "" : "/",
                 file->tensors[t].name);
    }
    side->file_count++;
    return true;
}

static int compare_keys(const void *a, const void *b) {
    return strcmp(((const Entry *)a)->key, ((const Entry *)b)->key);
}

static bool open_side(Side *side, const char *folder, Error *error) {
    static const char *const SUBS[] = {"", "transformer", "transformer_ema", "optimizer"};
    *side = (Side){0};
    for (int s = 0; s < 4; s++) {
        char path[PATH_BYTES_MAX];
        int count = 0;
        if (!path_join(path, folder, SUBS[s], error)) return false;
        if (s > 0 && !path_exists(path)) continue;
        char **names = folder_list(path, &count, error);
        bool ok = names != NULL;
        for (int i = 0; ok && i < count; i++) {
            const char *end = strstr(names[i], ".safetensors");
            if (end != NULL && end[12] == '\0') {
                ok = add_file(side, folder, SUBS[s], names[i], error);
            }
        }
        folder_list_free(names, count);
        if (!ok) return false;
    }
    if (side->count == 0) return error_set(error, "%s: no tensors here", folder);
    qsort(side->entries, (size_t)side->count, sizeof(*side->entries), compare_keys);
    return true;
}

static void close_side(Side *side) {
    for (int f = 0; f < side->file_count; f++) safetensors_close(&side->files[f]);
    free(side->files);
    free(side->entries);
}

static bool same_shape(const TensorInfo *a, const TensorInfo *b) {
    if (a->dtype != b->dtype || a->dims != b->dims) return false;
    for (int d = 0; d < a->dims; d++) {
        if (a->shape[d] != b->shape[d]) return false;
    }
    return true;
}

// Counts the elements whose bytes differ, and the largest difference of those that are of a float
// type.
static bool compare_elements(const Side *a, const Entry *x, const Side *b, const Entry *y,
                             int64_t *count, double *largest, Error *error) {
    char left[CHUNK * 8], right[CHUNK * 8];
    float u[CHUNK], v[CHUNK];
    const Safetensors *f = &a->files[x->file], *g = &b->files[y->file];
    const int64_t size = dtype_size(x->tensor->dtype);
    const bool floats = x->tensor->dtype <= DTYPE_F64;
    *count = 0;
    *largest = 0.0;
    for (int64_t at = 0; at < x->tensor->count; at += CHUNK) {
        const int64_t n = min_i64(CHUNK, x->tensor->count - at);
        if (!safetensors_read(f, x->tensor, at, n, left, error)) return false;
        if (!safetensors_read(g, y->tensor, at, n, right, error)) return false;
        if (memcmp(left, right, (size_t)(n * size)) == 0) continue;
        if (floats && (!safetensors_read_floats(f, x->tensor, at, n, u, error) ||
                       !safetensors_read_floats(g, y->tensor, at, n, v, error))) {
            return false;
        }
        for (int64_t i = 0; i < n; i++) {
            if (memcmp(left + i * size, right + i * size, (size_t)size) == 0) continue;
            ++*count;
            const double difference = floats ? fabs((double)u[i] - (double)v[i]) : 0.0;
            // NaN on one side is as far as can be.
            if (!(difference <= *largest)) *largest = isnan(difference) ? INFINITY : difference;
        }
    }
    return true;
}

static bool diff_entry(Tally *tally, const Side *a, const Entry *x, const Side *b, const Entry *y,
                       Error *error) {
    int64_t count;
    double largest;
    if (!same_shape(x->tensor, y->tensor)) {
        printf("%s: other shape or type\n", x->key);
        tally->different++;
        return true;
    }
    if (!compare_elements(a, x, b, y, &count, &largest, error)) return false;
    if (count == 0) {
        tally->same++;
        return true;
    }
    printf("%s: %" PRId64 " of %" PRId64 " elements differ, by at most %.9g\n", x->key, count,
           x->tensor->count, largest);
    tally->different++;
    return true;
}

static bool diff_tensors(Tally *tally, const Side *a, const Side *b, Error *error) {
    int i = 0, j = 0;
    while (i < a->count || j < b->count) {
        const int order = i == a->count   ? 1
                          : j == b->count ? -1
                                          : strcmp(a->entries[i].key, b->entries[j].key);
        if (order == 0) {
            if (!diff_entry(tally, a, &a->entries[i++], b, &b->entries[j++], error)) return false;
            continue;
        }
        printf("%s: only in the %s\n", order < 0 ? a->entries[i++].key : b->entries[j++].key,
               order < 0 ? "first" : "second");
        tally->different++;
    }
    return true;
}

// Prints the keys under which two JSON values differ.
static void diff_json(Tally *tally, const char *place, json_t *a, json_t *b) {
    if (json_equal(a, b)) return;
    if (json_is_object(a) && json_is_object(b)) {
        const char *key;
        json_t *value;
        char below[512];
        json_object_foreach(a, key, value) {
            snprintf(below, sizeof(below), "%.300s.%.200s", place, key);
            diff_json(tally, below, value, json_object_get(b, key));
        }
        json_object_foreach(b, key, value) {
            snprintf(below, sizeof(below), "%.300s.%.200s", place, key);
            if (json_object_get(a, key) == NULL) diff_json(tally, below, NULL, value);
        }
        return;
    }
    char *left = a == NULL ? NULL : json_dumps(a, JSON_ENCODE_ANY | JSON_COMPACT);
    char *right = b == NULL ? NULL : json_dumps(b, JSON_ENCODE_ANY | JSON_COMPACT);
    printf("%s: %.200s | %.200s\n", place, left == NULL ? "-" : left, right == NULL ? "-" : right);
    free(left);
    free(right);
    tally->different++;
}

// *value is NULL where there is no such file. False when it cannot be read or is no JSON.
static bool load_json(json_t **value, const char *folder, const char *name, Error *error) {
    char path[PATH_BYTES_MAX];
    *value = NULL;
    if (!path_join(path, folder, name, error)) return false;
    if (!path_exists(path)) return true;
    char *text = file_read(path, JSON_BYTES_MAX, NULL, error);
    if (text == NULL) return false;
    json_error_t fault;
    *value = json_loads(text, 0, &fault);
    free(text);
    return *value != NULL || error_set(error, "%s:%d: %s", path, fault.line, fault.text);
}

int checkpoint_diff(const char *a, const char *b) {
    static const char *const TEXTS[] = {"state.json", "config.json", "transformer/config.json",
                                        "transformer_ema/config.json"};
    Side left = {0}, right = {0};
    Tally tally = {0};
    Error error = {""};
    bool ok = open_side(&left, a, &error) && open_side(&right, b, &error) &&
              diff_tensors(&tally, &left, &right, &error);
    for (int t = 0; ok && t < 4; t++) {
        json_t *x, *y = NULL;
        ok = load_json(&x, a, TEXTS[t], &error) && load_json(&y, b, TEXTS[t], &error);
        if (ok && (x != NULL || y != NULL)) diff_json(&tally, TEXTS[t], x, y);
        json_decref(x);
        json_decref(y);
    }
    close_side(&left);
    close_side(&right);
    if (!ok) {
        fprintf(stderr, "kintoun checkpoint diff: %s\n", error.text);
        return EXIT_FAILED;
    }
    printf("%" PRId64 " tensors are the same, %" PRId64 " differences\n", tally.same,
           tally.different);
    return tally.different == 0 ? EXIT_DONE : EXIT_FAILED;
}
