// The safetensors file format: u64 length of the header (little-endian), the header in JSON, the
// tensors' bytes in C order. The reader trusts nothing: limits, duplicate names, holes, overlaps
// and sizes that do not fit the shapes are refused with the place. Reads are pread, so any number
// of threads may read. https://github.com/huggingface/safetensors (README, "Format"). Local.
#ifndef BASE_SAFETENSORS_H
#define BASE_SAFETENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/files.h"

enum {
    TENSOR_NAME_MAX = 256,
    TENSOR_DIMS_MAX = 8,
    SAFETENSORS_HEADER_MAX = 100000000,  // As the reference implementation has it.
};

typedef enum {
    DTYPE_F32,
    DTYPE_BF16,
    DTYPE_F16,
    DTYPE_F64,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_U8,
    DTYPE_COUNT,
} Dtype;

// "F32" and so on; and bytes of an element.
const char *dtype_name(Dtype dtype);
int64_t dtype_size(Dtype dtype);

typedef struct {
    char name[TENSOR_NAME_MAX];
    Dtype dtype;
    int dims;  // 0: a scalar.
    int64_t shape[TENSOR_DIMS_MAX];
    int64_t count;       // Elements.
    int64_t begin, end;  // Its bytes, counted from the start of the data.
} TensorInfo;

typedef struct {
    char path[PATH_BYTES_MAX];
    int fd;
    int64_t bytes;        // Of the whole file.
    int64_t data_start;   // Where the data begins in the file.
    TensorInfo *tensors;  // [count] In the order of their bytes.
    int count;
    struct json_t *metadata;  // The strings of __metadata__, or NULL.
} Safetensors;

// Opens and checks a file. After false nothing needs closing.
bool safetensors_open(Safetensors *file, const char *path, Error *error);
void safetensors_close(Safetensors *file);

// The same for a header already in memory: the first `header_bytes` bytes of a file of `file_bytes`
// bytes. No file is opened (fd is -1); close it all the same.
bool safetensors_parse(Safetensors *file, const char *path, const char *header,
                       int64_t header_bytes, int64_t file_bytes, Error *error);

// The tensor called `name`, or NULL.
const TensorInfo *safetensors_find(const Safetensors *file, const char *name);

// A string of __metadata__, or NULL.
const char *safetensors_metadata(const Safetensors *file, const char *key);

// Elements [first, first + count) of a tensor, as stored.
bool safetensors_read(const Safetensors *file, const TensorInfo *tensor, int64_t first,
                      int64_t count, void *out, Error *error);

// The same as floats; F32, BF16, F16 and F64 (rounded) only.
bool safetensors_read_floats(const Safetensors *file, const TensorInfo *tensor, int64_t first,
                             int64_t count, float *out, Error *error);

// All of the tensor called `name` as malloc'd floats (the caller frees), *tensor (may be NULL) its
// row. NULL with the reason where it is missing or not of a float type.
float *safetensors_load(const Safetensors *file, const char *name, const TensorInfo **tensor,
                        Error *error);

// What safetensors_write takes per tensor.
typedef struct {
    const char *name;
    Dtype dtype;
    int dims;
    int64_t shape[TENSOR_DIMS_MAX];
    const void *data;
} TensorData;

// Writes a whole file durably (files.h), with metadata {"format": "pt"}. Larger element types come
// first, so that every tensor is aligned; among equals the order stays.
bool safetensors_write(const char *path, const TensorData *tensors, int count, Error *error);

// The first bytes of a file, up to the data, malloc'd: length and JSON, padded with spaces to a
// multiple of `alignment`; *bytes of them. Needs name, dtype, shape, begin and end of each tensor,
// and writes the rows in the given order.
char *safetensors_header(const TensorInfo *tensors, int count, int64_t alignment, int64_t *bytes);

#endif
