#include "data/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/real.h"
#include "base/utf8.h"

// Columns of the writer in the order of sample_write's values; qualities follow.
static const MdsColumn fixed[] = {
    {"id", "str", 0},
    {"caption", "str", 0},
    {"media_type", "str", 0},
    {"vae_latent_bytes", "bytes", 0},
    {"vae_latent_shape", "ndarray:int64", 0},
    {"vae_latent_dtype", "str", 0},
    {"text_embedding_bytes", "bytes", 0},
    {"text_embedding_shape", "ndarray:int64", 0},
    {"text_embedding_dtype", "str", 0},
    {"width", "int", 0},
    {"height", "int", 0},
    {"num_frames", "int", 0},
    {"fps", "float64", 0},
};
enum { FIXED = sizeof(fixed) / sizeof(fixed[0]), CHUNK = 1024 };

static const char *const media_names[MEDIUM_COUNT] = {"image", "video"};

int64_t stored_size(Stored type) {
    return type == STORED_FLOAT32 ? 4 : 2;
}

const char *stored_name(Stored type) {
    static const char *const names[] = {"float32", "bfloat16", "float16"};
    return names[type];
}

// IEEE 754 binary16: five bits of exponent, ten of mantissa.
static float half_to_float(uint16_t half) {
    const uint32_t exponent = half >> 10 & 31, mantissa = half & 1023;
    float value;
    if (exponent == 31) {
        value = mantissa == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
        value = ldexpf((float)mantissa, -24);
    } else {
        const uint32_t bits = (exponent + 112) << 23 | mantissa << 13;
        memcpy(&value, &bits, 4);
    }
    return half & 0x8000 ? -value : value;
}

static uint16_t float_to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    uint32_t half;
    if (bits > 0x7f800000) {
        half = 0x7e00;
    } else if (bits >= 0x477ff000) {  // Rounds to 65536 or more.
        half = 0x7c00;
    } else if (bits < 0x38800000) {  // Subnormal: units of 2^-24.
        half = (uint32_t)lrintf(ldexpf(fabsf(value), 24));
    } else {
        half = (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13;
    }
    return (uint16_t)(sign | half);
}

void stored_from_float(void *stored, Stored type, const float *values, int64_t count) {
    if (type == STORED_FLOAT32) {
        if (count > 0) memcpy(stored, values, (size_t)count * 4);
        return;
    }
    uint8_t *out = stored;
    for (int64_t i = 0; i < count; i++) {
        const uint16_t bits =
            type == STORED_BFLOAT16 ? float_to_bf16(values[i]) : float_to_half(values[i]);
        memcpy(out + 2 * i, &bits, 2);
    }
}

bool stored_to_float(float *values, const void *stored, Stored type, int64_t count) {
    const uint8_t *in = stored;
    if (type == STORED_FLOAT32) {
        if (count > 0) memcpy(values, in, (size_t)count * 4);
    } else {
        for (int64_t i = 0; i < count; i++) {
            uint16_t bits;
            memcpy(&bits, in + 2 * i, 2);
            values[i] = type == STORED_BFLOAT16 ? bf16_to_float(bits) : half_to_float(bits);
        }
    }
    int64_t odd = 0;
    for (int64_t i = 0; i < count; i++) odd += !isfinite(values[i]);
    return odd == 0;
}

bool stored_is_finite(const void *stored, Stored type, int64_t count) {
    float values[CHUNK];
    bool finite = true;
    for (int64_t i = 0; i < count; i += CHUNK) {
        finite = stored_to_float(values, (const uint8_t *)stored + i * stored_size(type), type,
                                 min_i64(CHUNK, count - i)) &&
                 finite;
    }
    return finite;
}

MdsWriter *sample_writer_create(const char *folder, const char *const qualities[],
                                int quality_count, MdsCompression compression, int64_t size_limit,
                                Error *error) {
    MdsColumn columns[FIXED + QUALITIES_MAX] = {0};
    memcpy(columns, fixed, sizeof(fixed));
    CHECK(quality_count >= 0 && quality_count <= QUALITIES_MAX, "%d qualities", quality_count);
    for (int i = 0; i < quality_count; i++) {
        CHECK(strlen(qualities[i]) < QUALITY_NAME_MAX, "quality '%s': too long", qualities[i]);
        snprintf(columns[FIXED + i].name, MDS_NAME_MAX, "%s", qualities[i]);
        snprintf(columns[FIXED + i].encoding, MDS_NAME_MAX, "float64");
    }
    return mds_writer_create(folder, columns, FIXED + quality_count, compression, size_limit,
                             error);
}

bool sample_shape_is_legal(LatentShape shape, int64_t text_length, int64_t text_width) {
    return shape.C >= 1 && shape.F >= 1 && shape.H >= 1 && shape.W >= 1 && shape.C <= 65536 &&
           shape.F <= 65536 && shape.H <= 65536 && shape.W <= 65536 && text_length >= 0 &&
           text_length <= 1 << 20 && text_width >= 1 && text_width <= 1 << 20;
}

bool sample_write(MdsWriter *writer, const Sample *sample, Error *error) {
    const LatentShape s = sample->shape;
    if (!sample_shape_is_legal(s, sample->text_length, sample->text_width)) {
        return error_set(error, "sample '%s': latent [%d, %d, %d, %d] with text [%lld, %lld]",
                         sample->id, s.C, s.F, s.H, s.W, (long long)sample->text_length,
                         (long long)sample->text_width);
    }
    if (utf8_fault(sample->id, (int64_t)strlen(sample->id)) >= 0) {
        return error_set(error, "sample '%s': its id is no UTF-8", sample->id);
    }
    const int64_t fault = utf8_fault(sample->caption, sample->caption_bytes);
    if (fault >= 0) {
        return error_set(error, "sample '%s': its caption is no UTF-8 at byte %lld", sample->id,
                         (long long)fault);
    }
    if (sample->medium == MEDIUM_IMAGE && s.F != 1) {
        return error_set(error, "sample '%s': an image of %d frames", sample->id, s.F);
    }
    const int64_t texts = sample->text_length * sample->text_width;
    if (!stored_is_finite(sample->latent, sample->latent_type, latent_elements(s)) ||
        !stored_is_finite(sample->text, sample->text_type, texts)) {
        return error_set(error, "sample '%s': a value is not finite", sample->id);
    }
    const char *media = media_names[sample->medium];
    const char *latent_name = stored_name(sample->latent_type);
    const char *text_name = stored_name(sample->text_type);
    uint8_t shape[MDS_SHAPE_BYTES], text_shape[MDS_SHAPE_BYTES];
    const int64_t shape_bytes = mds_encode_shape(shape, (int64_t[]){s.C, s.F, s.H, s.W}, 4);
    const int64_t text_bytes =
        mds_encode_shape(text_shape, (int64_t[]){sample->text_length, sample->text_width}, 2);
    MdsValue values[FIXED + QUALITIES_MAX] = {
        {sample->id, (int64_t)strlen(sample->id)},
        {sample->caption, sample->caption_bytes},
        {media, (int64_t)strlen(media)},
        {sample->latent, latent_elements(s) * stored_size(sample->latent_type)},
        {shape, shape_bytes},
        {latent_name, (int64_t)strlen(latent_name)},
        {sample->text, texts * stored_size(sample->text_type)},
        {text_shape, text_bytes},
        {text_name, (int64_t)strlen(text_name)},
        {&sample->width, 8},
        {&sample->height, 8},
        {&sample->num_frames, 8},
        {&sample->fps, 8},
    };
    for (int i = 0; i < QUALITIES_MAX; i++) {
        values[FIXED + i] = (MdsValue){&sample->qualities[i], 8};
    }
    return mds_writer_add(writer, values, error);
}

int sample_qualities(char names[QUALITIES_MAX][QUALITY_NAME_MAX], const MdsShard *shard) {
    int count = 0;
    for (int i = 0; i < shard->column_count && count < QUALITIES_MAX; i++) {
        const MdsColumn *column = &shard->columns[i];
        bool known = strlen(column->name) >= QUALITY_NAME_MAX;
        for (int k = 0; k < FIXED; k++) known = known || strcmp(column->name, fixed[k].name) == 0;
        const bool number = (column->size > 0 && column->size <= 8 &&
                             strncmp(column->encoding, "ndarray", 7) != 0 &&
                             strcmp(column->encoding, "float16") != 0) ||
                            strcmp(column->encoding, "str_int") == 0 ||
                            strcmp(column->encoding, "str_float") == 0;
        if (known || !number) continue;
        memcpy(names[count++], column->name, strlen(column->name) + 1);
    }
    return count;
}

// ---- reading

static MdsValue find(const MdsShard *shard, const MdsValue values[], const char *name) {
    const int i = mds_column_find(shard, name);
    return i < 0 ? (MdsValue){NULL, -1} : values[i];
}

static bool equals(MdsValue value, const char *text) {
    return value.bytes == (int64_t)strlen(text) &&
           memcmp(value.data, text, (size_t)value.bytes) == 0;
}

// An array of elements: from NAME_bytes, NAME_shape, NAME_dtype, or from one array column NAME.
typedef struct {
    int dims;
    int64_t shape[MDS_DIMS_MAX];
    const void *data;
    Stored type;
} Tensor;

static bool read_shape(Tensor *out, const MdsShard *shard, const MdsValue values[],
                       const char *name, Error *error) {
    const int i = mds_column_find(shard, name);
    MdsArray array;
    if (i < 0) return error_set(error, "there is no column '%s'", name);
    if (!mds_decode_array(&array, shard->columns[i].encoding, values[i], error)) return false;
    if (strcmp(array.type, "i64") != 0 || array.dims != 1 || array.count > MDS_DIMS_MAX) {
        return error_set(error, "column '%s' must hold a few int64 in one dimension", name);
    }
    out->dims = (int)array.count;
    memcpy(out->shape, array.data, (size_t)array.count * 8);
    return true;
}

static bool read_one_column(Tensor *out, const MdsColumn *column, MdsValue value, Error *error) {
    MdsArray array;
    if (!mds_decode_array(&array, column->encoding, value, error)) return false;
    if (strcmp(array.type, "f32") == 0) {
        out->type = STORED_FLOAT32;
    } else if (strcmp(array.type, "f16") == 0) {
        out->type = STORED_FLOAT16;
    } else if (strcmp(array.type, "u16") == 0) {
        out->type = STORED_BFLOAT16;
    } else {
        return error_set(error, "column '%s': elements %s; float32, float16, uint16 are read",
                         column->name, array.type);
    }
    out->dims = array.dims;
    memcpy(out->shape, array.shape, sizeof(out->shape));
    out->data = array.data;
    return true;
}

static bool read_tensor(Tensor *out, const MdsShard *shard, const MdsValue values[],
                        const char *name, Error *error) {
    const int one = mds_column_find(shard, name);
    if (one >= 0) return read_one_column(out, &shard->columns[one], values[one], error);
    char column[MDS_NAME_MAX];
    snprintf(column, sizeof(column), "%s_shape", name);
    if (!read_shape(out, shard, values, column, error)) return false;
    snprintf(column, sizeof(column), "%s_dtype", name);
    const MdsValue type = find(shard, values, column);
    bool known = false;
    for (int i = STORED_FLOAT32; i <= STORED_FLOAT16 && type.bytes > 0; i++) {
        if (equals(type, stored_name((Stored)i))) {
            out->type = (Stored)i;
            known = true;
        }
    }
    if (!known) {
        return error_set(error, "column '%s' must be float32, bfloat16 or float16", column);
    }
    snprintf(column, sizeof(column), "%s_bytes", name);
    const MdsValue bytes = find(shard, values, column);
    int64_t count = 1;
    for (int i = 0; i < out->dims; i++) {
        if (out->shape[i] < 0 || out->shape[i] > 1 << 20) {
            return error_set(error, "column '%s_shape': size %lld", name, (long long)out->shape[i]);
        }
        if (count > (int64_t)1 << 40) return error_set(error, "column '%s_shape': too large", name);
        count *= out->shape[i];
    }
    if (bytes.bytes != count * stored_size(out->type)) {
        return error_set(error, "column '%s' has %lld bytes, its shape needs %lld", column,
                         (long long)bytes.bytes, (long long)(count * stored_size(out->type)));
    }
    out->data = bytes.data;
    return true;
}

static bool read_number(double *out, const MdsShard *shard, const MdsValue values[],
                        const char *name, double missing, Error *error) {
    const int i = mds_column_find(shard, name);
    *out = missing;
    return i < 0 || mds_decode_number(out, shard->columns[i].encoding, values[i], error);
}

static bool read_tensors(Sample *out, const MdsShard *shard, const MdsValue values[],
                         Error *error) {
    Tensor latent = {0}, text = {0};
    if (!read_tensor(&latent, shard, values, "vae_latent", error) ||
        !read_tensor(&text, shard, values, "text_embedding", error)) {
        return false;
    }
    if ((latent.dims != 4 && latent.dims != 3) || text.dims != 2) {
        return error_set(error,
                         "a latent of %d and a text of %d dimensions; 4 or 3, and 2 are read",
                         latent.dims, text.dims);
    }
    const int64_t *s = latent.shape, last = latent.dims - 1;
    for (int i = 0; i < latent.dims; i++) {
        if (s[i] < 1 || s[i] > 65536) {
            return error_set(error, "a latent dimension of %lld; 1 to 65536 are read",
                             (long long)s[i]);
        }
    }
    out->shape = (LatentShape){(int32_t)s[0], last == 3 ? (int32_t)s[1] : 1, (int32_t)s[last - 1],
                               (int32_t)s[last]};
    out->latent = latent.data;
    out->latent_type = latent.type;
    out->text_length = text.shape[0];
    out->text_width = text.shape[1];
    out->text = text.data;
    out->text_type = text.type;
    return sample_shape_is_legal(out->shape, out->text_length, out->text_width) ||
           error_set(error, "a text of [%lld, %lld]", (long long)out->text_length,
                     (long long)out->text_width);
}

bool sample_read(Sample *out, const MdsShard *shard, MdsValue bytes, char names[][QUALITY_NAME_MAX],
                 int quality_count, Error *error) {
    MdsValue values[MDS_COLUMNS_MAX];
    *out = (Sample){0};
    if (!mds_sample_split(values, shard, bytes, error)) return false;
    const MdsValue id = find(shard, values, "id");
    if (id.bytes <= 0) return error_set(error, "there is no column 'id', or it is empty");
    snprintf(out->id, sizeof(out->id), "%.*s", (int)min_i64(id.bytes, SAMPLE_ID_MAX - 1),
             (const char *)id.data);
    const MdsValue caption = find(shard, values, "caption");
    out->caption = caption.bytes < 0 ? "" : caption.data;
    out->caption_bytes = max_i64(caption.bytes, 0);
    if (!read_tensors(out, shard, values, error)) return false;
    const MdsValue media = find(shard, values, "media_type");
    out->medium = out->shape.F == 1 ? MEDIUM_IMAGE : MEDIUM_VIDEO;
    if (media.bytes >= 0) {
        if (equals(media, "video")) {
            out->medium = MEDIUM_VIDEO;
        } else if (!equals(media, "image") || out->shape.F != 1) {
            return error_set(error, "media_type '%.*s' of %d frames; image (1 frame) or video",
                             (int)min_i64(media.bytes, 32), (const char *)media.data, out->shape.F);
        }
    }
    double width, height, frames;
    if (!read_number(&width, shard, values, "width", 0, error) ||
        !read_number(&height, shard, values, "height", 0, error) ||
        !read_number(&frames, shard, values, "num_frames", 0, error) ||
        !read_number(&out->fps, shard, values, "fps", 0, error)) {
        return false;
    }
    out->width = (int64_t)fmin(fmax(width, 0), 1e9);
    out->height = (int64_t)fmin(fmax(height, 0), 1e9);
    out->num_frames = (int64_t)fmin(fmax(frames, 0), 1e9);
    for (int i = 0; i < quality_count; i++) {
        if (!read_number(&out->qualities[i], shard, values, names[i], NAN, error)) return false;
    }
    return true;
}
