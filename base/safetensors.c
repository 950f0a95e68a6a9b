#include "base/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/die.h"
#include "base/real.h"

static const struct {
    const char *name;
    int64_t size;
} DTYPES[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 4}, [DTYPE_BF16] = {"BF16", 2}, [DTYPE_F16] = {"F16", 2},
    [DTYPE_F64] = {"F64", 8}, [DTYPE_I64] = {"I64", 8},   [DTYPE_I32] = {"I32", 4},
    [DTYPE_U8] = {"U8", 1},
};

const char *dtype_name(Dtype dtype) {
    return DTYPES[dtype].name;
}

int64_t dtype_size(Dtype dtype) {
    return DTYPES[dtype].size;
}

// One entry of a JSON array of numbers that may not be negative, or -1.
static int64_t whole_at(const json_t *array, size_t i) {
    const json_t *value = json_array_get(array, i);
    return json_is_integer(value) && json_integer_value(value) >= 0 ? json_integer_value(value)
                                                                    : -1;
}

static bool parse_shape(TensorInfo *tensor, const json_t *shape, const char *path, Error *error) {
    const size_t dims = json_array_size(shape);
    if (!json_is_array(shape) || dims > TENSOR_DIMS_MAX) {
        return error_set(error, "%s: tensor '%s': shape must be a list of at most %d sizes", path,
                         tensor->name, TENSOR_DIMS_MAX);
    }
    tensor->dims = (int)dims;
    tensor->count = 1;
    for (size_t i = 0; i < dims; i++) {
        const int64_t size = whole_at(shape, i);
        // No element is larger than 8 bytes, so that bytes cannot overflow either.
        if (size < 0 || (size > 0 && tensor->count > INT64_MAX / 8 / size)) {
            return error_set(error, "%s: tensor '%s': size %zu of the shape is not a legal number",
                             path, tensor->name, i);
        }
        tensor->shape[i] = size;
        tensor->count *= size;
    }
    return true;
}

static bool parse_tensor(TensorInfo *tensor, const char *name, const json_t *entry,
                         const char *path, Error *error) {
    *tensor = (TensorInfo){.dtype = DTYPE_COUNT};
    if (strlen(name) >= TENSOR_NAME_MAX) {
        return error_set(error, "%s: tensor '%.60s...': name longer than %d bytes", path, name,
                         TENSOR_NAME_MAX - 1);
    }
    snprintf(tensor->name, sizeof(tensor->name), "%s", name);
    if (!json_is_object(entry) || json_object_size(entry) != 3) {
        return error_set(error, "%s: tensor '%s': needs exactly dtype, shape, data_offsets", path,
                         name);
    }
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    for (int d = 0; d < DTYPE_COUNT; d++) {
        if (dtype != NULL && strcmp(dtype, DTYPES[d].name) == 0) tensor->dtype = (Dtype)d;
    }
    if (tensor->dtype == DTYPE_COUNT) {
        return error_set(
            error, "%s: tensor '%s': dtype '%.20s'; F32, BF16, F16, F64, I64, I32, U8 are read",
            path, name, dtype == NULL ? "(none)" : dtype);
    }
    if (!parse_shape(tensor, json_object_get(entry, "shape"), path, error)) return false;
    const json_t *offsets = json_object_get(entry, "data_offsets");
    tensor->begin = whole_at(offsets, 0);
    tensor->end = whole_at(offsets, 1);
    if (json_array_size(offsets) != 2 || tensor->begin < 0 || tensor->end < tensor->begin) {
        return error_set(error, "%s: tensor '%s': data_offsets must be [begin, end]", path, name);
    }
    const int64_t bytes = tensor->count * dtype_size(tensor->dtype);
    if (tensor->end - tensor->begin != bytes) {
        return error_set(error,
                         "%s: tensor '%s': shape and dtype need %" PRId64
                         " bytes, data_offsets give %" PRId64,
                         path, name, bytes, tensor->end - tensor->begin);
    }
    return true;
}

static int compare_begin(const void *a, const void *b) {
    const TensorInfo *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

// The tensors must follow each other without hole or overlap up to the end of the file.
static bool check_cover(const Safetensors *file, Error *error) {
    int64_t at = 0;
    for (int i = 0; i < file->count; i++) {
        const TensorInfo *t = &file->tensors[i];
        if (t->begin != at) {
            return error_set(error,
                             "%s: tensor '%s' begins at data byte %" PRId64
                             ", the one before ends at %" PRId64 " (%s)",
                             file->path, t->name, t->begin, at,
                             t->begin > at ? "a hole" : "an overlap");
        }
        at = t->end;
    }
    if (at != file->bytes - file->data_start) {
        return error_set(error,
                         "%s: %" PRId64 " bytes of data, but its tensors make %" PRId64
                         " (truncated, or something was appended)",
                         file->path, file->bytes - file->data_start, at);
    }
    return true;
}

static bool parse_rows(Safetensors *file, json_t *root, Error *error) {
    file->tensors = malloc((json_object_size(root) + 1) * sizeof(*file->tensors));
    CHECK(file->tensors != NULL, "no memory for the tensors of %s", file->path);
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value) {
        if (strcmp(key, "__metadata__") != 0) {
            if (!parse_tensor(&file->tensors[file->count++], key, value, file->path, error)) {
                return false;
            }
            continue;
        }
        if (!json_is_object(value)) {
            return error_set(error, "%s: __metadata__ must be an object of strings", file->path);
        }
        const char *name;
        json_t *text;
        json_object_foreach(value, name, text) {
            if (!json_is_string(text)) {
                return error_set(error, "%s: __metadata__: '%.60s' is not a string", file->path,
                                 name);
            }
        }
        file->metadata = json_incref(value);
    }
    qsort(file->tensors, (size_t)file->count, sizeof(*file->tensors), compare_begin);
    return check_cover(file, error);
}

// Length of the JSON from the first 8 bytes, or -1 with the reason.
static int64_t json_length(const char *path, const unsigned char first[8], int64_t file_bytes,
                           Error *error) {
    uint64_t length = 0;
    for (int i = 0; i < 8; i++) length |= (uint64_t)first[i] << (8 * i);
    if (length >= 2 && length <= SAFETENSORS_HEADER_MAX && (int64_t)length <= file_bytes - 8) {
        return (int64_t)length;
    }
    error_set(error,
              "%s: not a safetensors file: its header would have %" PRIu64
              " bytes of a file of "
              "%" PRId64 " (at most %d are legal)",
              path, length, file_bytes, SAFETENSORS_HEADER_MAX);
    return -1;
}

bool safetensors_parse(Safetensors *file, const char *path, const char *header,
                       int64_t header_bytes, int64_t file_bytes, Error *error) {
    *file = (Safetensors){.fd = -1, .bytes = file_bytes};
    if (strlen(path) >= sizeof(file->path)) return error_set(error, "%s: path too long", path);
    snprintf(file->path, sizeof(file->path), "%s", path);
    if (header_bytes < 8) return error_set(error, "%s: shorter than a header", path);
    const int64_t length = json_length(path, (const unsigned char *)header, file_bytes, error);
    if (length < 0) return false;
    if (header_bytes < 8 + length) return error_set(error, "%s: the header is cut off", path);
    if (header[8] != '{') return error_set(error, "%s: the header does not start with '{'", path);
    file->data_start = 8 + length;
    json_error_t reason;
    json_t *root = json_loadb(header + 8, (size_t)length, JSON_REJECT_DUPLICATES, &reason);
    if (root == NULL) {
        return error_set(error, "%s: header, byte %d: %s", path, reason.position, reason.text);
    }
    const bool ok = parse_rows(file, root, error);
    json_decref(root);
    if (!ok) safetensors_close(file);
    return ok;
}

static bool open_fd(Safetensors *file, int fd, const char *path, Error *error) {
    const int64_t bytes = file_size(path, error);
    if (bytes < 0) return false;
    unsigned char first[8];
    if (bytes < 8) return error_set(error, "%s: %" PRId64 " bytes, no header", path, bytes);
    if (!file_read_at(fd, first, 8, 0, path, error)) return false;
    const int64_t length = json_length(path, first, bytes, error);
    if (length < 0) return false;
    char *header = malloc((size_t)length + 8);
    CHECK(header != NULL, "no memory for the header of %s", path);
    const bool ok = file_read_at(fd, header, length + 8, 0, path, error) &&
                    safetensors_parse(file, path, header, length + 8, bytes, error);
    free(header);
    return ok;
}

bool safetensors_open(Safetensors *file, const char *path, Error *error) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // A pipe is not waited for.
    if (fd < 0) return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    if (!open_fd(file, fd, path, error)) {
        close(fd);
        return false;
    }
    file->fd = fd;
    return true;
}

void safetensors_close(Safetensors *file) {
    if (file->fd >= 0) close(file->fd);
    free(file->tensors);
    json_decref(file->metadata);
    *file = (Safetensors){.fd = -1};
}

const TensorInfo *safetensors_find(const Safetensors *file, const char *name) {
    for (int i = 0; i < file->count; i++) {
        if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
    }
    return NULL;
}

const char *safetensors_metadata(const Safetensors *file, const char *key) {
    return json_string_value(json_object_get(file->metadata, key));
}

bool safetensors_read(const Safetensors *file, const TensorInfo *tensor, int64_t first,
                      int64_t count, void *out, Error *error) {
    CHECK(first >= 0 && count >= 0 && first <= tensor->count - count,
          "%s: elements %" PRId64 " to %" PRId64 " of %" PRId64, tensor->name, first, first + count,
          tensor->count);
    const int64_t size = dtype_size(tensor->dtype);
    return file_read_at(file->fd, out, count * size,
                        file->data_start + tensor->begin + first * size, file->path, error);
}

// IEEE half to float; exact.
static float half_to_float(uint16_t half) {
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    float value = exponent == 31  ? (mantissa == 0 ? INFINITY : NAN)
                  : exponent == 0 ? ldexpf((float)mantissa, -24)
                                  : ldexpf((float)(mantissa + 1024), exponent - 25);
    return half & 0x8000 ? -value : value;
}

// One element at `x`, of any alignment.
static float float_from(const char *x, Dtype dtype) {
    if (dtype == DTYPE_F64) {
        double value;
        memcpy(&value, x, sizeof(value));
        return (float)value;
    }
    uint16_t bits;
    memcpy(&bits, x, sizeof(bits));
    return dtype == DTYPE_BF16 ? bf16_to_float(bits) : half_to_float(bits);
}

bool safetensors_read_floats(const Safetensors *file, const TensorInfo *tensor, int64_t first,
                             int64_t count, float *out, Error *error) {
    if (tensor->dtype == DTYPE_F32) return safetensors_read(file, tensor, first, count, out, error);
    if (tensor->dtype != DTYPE_BF16 && tensor->dtype != DTYPE_F16 && tensor->dtype != DTYPE_F64) {
        return error_set(error, "%s: tensor '%s': is %s; F32, BF16, F16 or F64 is needed",
                         file->path, tensor->name, dtype_name(tensor->dtype));
    }
    enum { CHUNK = 4096 };
    char chunk[CHUNK * 8];
    const int64_t size = dtype_size(tensor->dtype);
    for (int64_t done = 0; done < count; done += CHUNK) {
        const int64_t n = min_i64(CHUNK, count - done);
        if (!safetensors_read(file, tensor, first + done, n, chunk, error)) return false;
        for (int64_t i = 0; i < n; i++) out[done + i] = float_from(chunk + i * size, tensor->dtype);
    }
    return true;
}

float *safetensors_load(const Safetensors *file, const char *name, const TensorInfo **tensor,
                        Error *error) {
    const TensorInfo *found = safetensors_find(file, name);
    if (found == NULL) {
        error_set(error, "%s: no tensor '%s' among its %d", file->path, name, file->count);
        return NULL;
    }
    float *out = malloc((size_t)max_i64(found->count, 1) * sizeof(*out));
    CHECK(out != NULL, "no memory for %s of %s", name, file->path);
    if (!safetensors_read_floats(file, found, 0, found->count, out, error)) {
        free(out);
        return NULL;
    }
    if (tensor != NULL) *tensor = found;
    return out;
}

char *safetensors_header(const TensorInfo *tensors, int count, int64_t alignment, int64_t *bytes) {
    json_t *root = json_object();
    json_object_set_new(root, "__metadata__", json_pack("{ss}", "format", "pt"));
    for (int i = 0; i < count; i++) {
        const TensorInfo *t = &tensors[i];
        json_t *shape = json_array();
        for (int d = 0; d < t->dims; d++) json_array_append_new(shape, json_integer(t->shape[d]));
        json_t *row = json_pack("{ss so s[II]}", "dtype", dtype_name(t->dtype), "shape", shape,
                                "data_offsets", (json_int_t)t->begin, (json_int_t)t->end);
        CHECK(row != NULL && json_object_get(root, t->name) == NULL &&
                  json_object_set_new(root, t->name, row) == 0,
              "tensor '%s': given twice, or its name is not UTF-8", t->name);
    }
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    CHECK(text != NULL, "no memory for a header of %d tensors", count);
    const int64_t length = (int64_t)strlen(text);
    *bytes = round_up(8 + length, alignment);
    CHECK(*bytes - 8 <= SAFETENSORS_HEADER_MAX, "a header of %" PRId64 " bytes", *bytes);
    char *header = malloc((size_t)*bytes);
    CHECK(header != NULL, "no memory for a header of %" PRId64 " bytes", *bytes);
    for (int i = 0; i < 8; i++) header[i] = (char)((uint64_t)(*bytes - 8) >> (8 * i) & 255);
    memcpy(header + 8, text, (size_t)length);
    memset(header + 8 + length, ' ', (size_t)(*bytes - 8 - length));
    free(text);
    return header;
}

// Rows with offsets, larger element types first; order[i] is the index in `tensors` of row i.
static int64_t arrange(TensorInfo *rows, int *order, const TensorData *tensors, int count) {
    int64_t at = 0;
    int used = 0;
    for (int64_t size = 8; size >= 1; size /= 2) {
        for (int i = 0; i < count; i++) {
            const TensorData *t = &tensors[i];
            if (dtype_size(t->dtype) != size) continue;
            TensorInfo *row = &rows[used];
            CHECK(strlen(t->name) < TENSOR_NAME_MAX, "%s: name too long", t->name);
            CHECK(t->dims >= 0 && t->dims <= TENSOR_DIMS_MAX, "%s: %d dims", t->name, t->dims);
            *row = (TensorInfo){.dtype = t->dtype, .dims = t->dims, .count = 1, .begin = at};
            snprintf(row->name, sizeof(row->name), "%s", t->name);
            for (int d = 0; d < t->dims; d++) {
                row->shape[d] = t->shape[d];
                row->count *= t->shape[d];
            }
            at = row->end = at + row->count * size;
            order[used++] = i;
        }
    }
    return at;
}

bool safetensors_write(const char *path, const TensorData *tensors, int count, Error *error) {
    TensorInfo *rows = calloc((size_t)count + 1, sizeof(*rows));
    int *order = malloc((size_t)(count + 1) * sizeof(*order));
    CHECK(rows != NULL && order != NULL, "no memory for %d tensors", count);
    const int64_t data_bytes = arrange(rows, order, tensors, count);
    int64_t header_bytes;
    char *header = safetensors_header(rows, count, 8, &header_bytes);
    char *file = malloc((size_t)(header_bytes + data_bytes));
    CHECK(file != NULL, "no memory for %" PRId64 " bytes of %s", header_bytes + data_bytes, path);
    memcpy(file, header, (size_t)header_bytes);
    for (int i = 0; i < count; i++) {
        if (rows[i].end == rows[i].begin) continue;
        memcpy(file + header_bytes + rows[i].begin, tensors[order[i]].data,
               (size_t)(rows[i].end - rows[i].begin));
    }
    const bool ok = file_write(path, file, header_bytes + data_bytes, error);
    free(file);
    free(header);
    free(order);
    free(rows);
    return ok;
}
