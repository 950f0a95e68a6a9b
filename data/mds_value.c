// Encodings of MDS: their sizes, numbers and arrays.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/mds.h"

// Scalars, and the arrays' elements under numpy's names. code: of "ndarray" without a type.
static const struct {
    const char *name, *type;
    int bytes, code;
} scalars[] = {
    {"uint8", "u8", 1, 8},   {"int8", "i8", 1, 9},      {"uint16", "u16", 2, 16},
    {"int16", "i16", 2, 17}, {"float16", "f16", 2, 18}, {"uint32", "u32", 4, 32},
    {"int32", "i32", 4, 33}, {"float32", "f32", 4, 34}, {"uint64", "u64", 8, 64},
    {"int64", "i64", 8, 65}, {"float64", "f64", 8, 66},
};
enum { SCALARS = sizeof(scalars) / sizeof(scalars[0]) };

static const char *const varying[] = {
    "bytes", "str", "json",       "str_int",   "str_float",  "str_decimal", "pil",
    "jpeg",  "png", "jpeg_array", "list[pil]", "list[jpeg]", "list[png]",
};

static int scalar_named(const char *name, size_t length) {
    for (int i = 0; i < SCALARS; i++) {
        if (strlen(scalars[i].name) == length && strncmp(scalars[i].name, name, length) == 0) {
            return i;
        }
    }
    return -1;
}

// "ndarray", "ndarray:TYPE" or "ndarray:TYPE:2,3": its parts. scalar -1: no type; dims 0: no shape.
static bool parse_array(const char *encoding, int *scalar, int *dims, int64_t shape[]) {
    *scalar = -1;
    *dims = 0;
    if (strncmp(encoding, "ndarray", 7) != 0) return false;
    const char *at = encoding + 7;
    if (*at == 0) return true;
    if (*at++ != ':') return false;
    const size_t length = strcspn(at, ":");
    *scalar = scalar_named(at, length);
    if (*scalar < 0) return false;
    at += length;
    if (*at == 0) return true;
    int64_t elements = 1;
    do {
        at++;  // The colon or comma.
        char *end;
        errno = 0;
        const long long size = strtoll(at, &end, 10);
        if (end == at || errno != 0 || size < 1 || *dims == MDS_DIMS_MAX) return false;
        if (size > INT32_MAX / elements) return false;
        elements *= size;
        shape[(*dims)++] = size;
        at = end;
    } while (*at == ',');
    return *at == 0;
}

int64_t mds_encoding_size(const char *encoding) {
    if (strcmp(encoding, "int") == 0) return 8;
    const int scalar = scalar_named(encoding, strlen(encoding));
    if (scalar >= 0) return scalars[scalar].bytes;
    for (size_t i = 0; i < sizeof(varying) / sizeof(varying[0]); i++) {
        if (strcmp(encoding, varying[i]) == 0) return -1;
    }
    int type, dims;
    int64_t shape[MDS_DIMS_MAX];
    if (!parse_array(encoding, &type, &dims, shape)) return -2;
    if (dims == 0) return -1;
    int64_t bytes = scalars[type].bytes;
    for (int i = 0; i < dims; i++) bytes *= shape[i];
    return bytes;
}

// The head of an array: optional type code, dims and width of the sizes, the sizes.
static bool array_head(MdsArray *out, int *type, const uint8_t **at, const uint8_t *end,
                       Error *error) {
    if (*type < 0) {
        if (*at == end) return error_set(error, "an array of no bytes");
        const int code = *(*at)++;
        for (int i = 0; i < SCALARS; i++) {
            if (scalars[i].code == code) *type = i;
        }
        if (*type < 0) return error_set(error, "an array of unknown type %d", code);
    }
    if (*at == end) return error_set(error, "an array without dimensions");
    const int head = *(*at)++, width = 1 << (head & 3);
    out->dims = head >> 2;
    if (out->dims < 1 || out->dims > MDS_DIMS_MAX) {
        return error_set(error, "an array of %d dimensions; 1 to %d are read", out->dims,
                         MDS_DIMS_MAX);
    }
    if (end - *at < (int64_t)out->dims * width) return error_set(error, "an array cut in its head");
    for (int i = 0; i < out->dims; i++, *at += width) {
        uint64_t size = 0;
        memcpy(&size, *at, (size_t)width);
        if (size > INT32_MAX) return error_set(error, "an array dimension beyond 2^31");
        out->shape[i] = (int64_t)size;
    }
    return true;
}

bool mds_decode_array(MdsArray *out, const char *encoding, MdsValue value, Error *error) {
    int type;
    *out = (MdsArray){0};
    if (!parse_array(encoding, &type, &out->dims, out->shape)) {
        return error_set(error, "'%s' is not an array", encoding);
    }
    const uint8_t *at = value.data, *const end = at + value.bytes;
    if (out->dims == 0 && !array_head(out, &type, &at, end, error)) return false;
    snprintf(out->type, sizeof(out->type), "%s", scalars[type].type);
    out->item_bytes = scalars[type].bytes;
    out->count = 1;
    for (int i = 0; i < out->dims; i++) {
        if (out->shape[i] > 0 && out->count > INT64_MAX / 16 / out->shape[i]) {
            return error_set(error, "an array whose size overflows");
        }
        out->count *= out->shape[i];
    }
    if (out->count * out->item_bytes != end - at) {
        return error_set(error, "an array of %lld elements in %lld bytes", (long long)out->count,
                         (long long)(end - at));
    }
    out->data = at;
    return true;
}

#define READ_AS(type)                                \
    {                                                \
        type number;                                 \
        memcpy(&number, value.data, sizeof(number)); \
        *out = (double)number;                       \
        return true;                                 \
    }

bool mds_decode_number(double *out, const char *encoding, MdsValue value, Error *error) {
    if (strncmp(encoding, "str_", 4) == 0) {
        char text[64], *end;
        if (value.bytes < 1 || value.bytes >= (int64_t)sizeof(text)) {
            return error_set(error, "a number of %lld characters", (long long)value.bytes);
        }
        memcpy(text, value.data, (size_t)value.bytes);
        text[value.bytes] = 0;
        *out = strtod(text, &end);
        return end == text + value.bytes || error_set(error, "'%s' is not a number", text);
    }
    const char *name = strcmp(encoding, "int") == 0 ? "int64" : encoding;
    const int scalar = scalar_named(name, strlen(name));
    if (scalar < 0 || scalars[scalar].code == 18) {
        return error_set(error, "'%s' is not a number that is read", encoding);
    }
    if (value.bytes != scalars[scalar].bytes) {
        return error_set(error, "%s of %lld bytes", encoding, (long long)value.bytes);
    }
    switch (scalars[scalar].code) {
        case 8:
            READ_AS(uint8_t)
        case 9:
            READ_AS(int8_t)
        case 16:
            READ_AS(uint16_t)
        case 17:
            READ_AS(int16_t)
        case 32:
            READ_AS(uint32_t)
        case 33:
            READ_AS(int32_t)
        case 34:
            READ_AS(float)
        case 64:
            READ_AS(uint64_t)
        case 65:
            READ_AS(int64_t)
        default:
            READ_AS(double)
    }
}
