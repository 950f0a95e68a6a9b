#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include "base/die.h"
#include "base/real.h"
#include "data/mds.h"
#include "data/shard_file.h"

enum { ZSTD_LEVEL = 3 };

struct MdsWriter {
    char folder[FILE_PATH_MAX];
    MdsColumn columns[MDS_COLUMNS_MAX];  // Sorted by name.
    int given[MDS_COLUMNS_MAX];          // columns[i] is the user's column given[i].
    int column_count;
    MdsCompression compression;
    int64_t size_limit;
    char *config;  // The JSON inside every shard.
    int64_t config_bytes;
    uint8_t *body;  // The samples of the shard in work, end to end.
    int64_t body_bytes, body_room;
    uint32_t *ends;  // Of each of them in body.
    int64_t samples, sample_room;
    json_t *shards;  // Entries of index.json so far.
};

// What index.json and the shard say about the columns.
static json_t *config_json(const MdsWriter *writer) {
    json_t *names = json_array(), *encodings = json_array(), *sizes = json_array();
    for (int i = 0; i < writer->column_count; i++) {
        const MdsColumn *column = &writer->columns[i];
        json_array_append_new(names, json_string(column->name));
        json_array_append_new(encodings, json_string(column->encoding));
        json_array_append_new(sizes, column->size < 0 ? json_null() : json_integer(column->size));
    }
    return json_pack("{s:s, s:i, s:o, s:[s], s:I, s:o, s:o, s:o}", "format", "mds", "version", 2,
                     "compression",
                     writer->compression == MDS_ZSTD ? json_string("zstd") : json_null(), "hashes",
                     "xxh3_64", "size_limit", (json_int_t)writer->size_limit, "column_names", names,
                     "column_encodings", encodings, "column_sizes", sizes);
}

static bool take_columns(MdsWriter *writer, const MdsColumn columns[], int count, Error *error) {
    if (count < 1 || count > MDS_COLUMNS_MAX) {
        return error_set(error, "%s: %d columns; 1 to %d can be written", writer->folder, count,
                         MDS_COLUMNS_MAX);
    }
    for (int i = 0; i < count; i++) {  // Insertion sort by name.
        int at = writer->column_count++;
        while (at > 0 && strcmp(writer->columns[at - 1].name, columns[i].name) > 0) {
            writer->columns[at] = writer->columns[at - 1];
            writer->given[at] = writer->given[at - 1];
            at--;
        }
        writer->columns[at] = columns[i];
        writer->columns[at].size = mds_encoding_size(columns[i].encoding);
        writer->given[at] = i;
        if (writer->columns[at].size == -2 || columns[i].name[0] == 0) {
            return error_set(error, "%s: column '%s': encoding '%s' cannot be written",
                             writer->folder, columns[i].name, columns[i].encoding);
        }
    }
    for (int i = 1; i < count; i++) {
        if (strcmp(writer->columns[i - 1].name, writer->columns[i].name) == 0) {
            return error_set(error, "%s: two columns are called '%s'", writer->folder,
                             writer->columns[i].name);
        }
    }
    return true;
}

MdsWriter *mds_writer_create(const char *folder, const MdsColumn columns[], int column_count,
                             MdsCompression compression, int64_t size_limit, Error *error) {
    MdsWriter *writer = calloc(1, sizeof(*writer));
    CHECK(writer != NULL, "no memory for the writer of %s", folder);
    snprintf(writer->folder, sizeof(writer->folder), "%s", folder);
    writer->compression = compression;
    writer->size_limit = size_limit;
    writer->shards = json_array();
    bool ok = folder_create(folder, error);
    if (ok && (size_limit < 1024 || size_limit > UINT32_MAX)) {
        ok = error_set(error, "%s: shards of %lld bytes; 1024 to 2^32 - 1 are possible", folder,
                       (long long)size_limit);
    }
    char path[FILE_PATH_MAX];
    if (ok) file_path(path, folder, "index.json");
    if (ok && access(path, F_OK) == 0) {
        ok = error_set(error, "%s: is already there; write into an empty folder", path);
    }
    ok = ok && take_columns(writer, columns, column_count, error);
    if (!ok) {
        mds_writer_abandon(writer);
        return NULL;
    }
    json_t *config = config_json(writer);
    writer->config = json_dumps(config, JSON_SORT_KEYS);
    json_decref(config);
    CHECK(writer->config != NULL, "no memory for the columns of %s", folder);
    writer->config_bytes = (int64_t)strlen(writer->config);
    return writer;
}

void mds_writer_abandon(MdsWriter *writer) {
    if (writer == NULL) return;
    free(writer->config);
    free(writer->body);
    free(writer->ends);
    json_decref(writer->shards);
    free(writer);
}

static json_t *file_json(const char *name, const void *data, int64_t bytes) {
    char hex[17];
    snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)XXH3_64bits(data, (size_t)bytes));
    return json_pack("{s:s, s:I, s:{s:s}}", "basename", name, "bytes", (json_int_t)bytes, "hashes",
                     "xxh3_64", hex);
}

// The raw shard: count, offsets, columns, samples.
static uint8_t *assemble(int64_t *bytes, const MdsWriter *writer) {
    const int64_t head = 4 + 4 * (writer->samples + 1) + writer->config_bytes;
    *bytes = head + writer->body_bytes;
    uint8_t *raw = malloc((size_t)*bytes);
    CHECK(raw != NULL, "no memory for a shard of %lld bytes", (long long)*bytes);
    const uint32_t n = (uint32_t)writer->samples;
    memcpy(raw, &n, 4);
    for (int64_t i = 0; i <= writer->samples; i++) {
        const uint32_t offset = (uint32_t)(head + (i == 0 ? 0 : writer->ends[i - 1]));
        memcpy(raw + 4 + 4 * i, &offset, 4);
    }
    memcpy(raw + 4 + 4 * (writer->samples + 1), writer->config, (size_t)writer->config_bytes);
    memcpy(raw + head, writer->body, (size_t)writer->body_bytes);
    return raw;
}

// Writes the shard in work and notes it for the index.
static bool flush(MdsWriter *writer, Error *error) {
    if (writer->samples == 0) return true;
    int64_t bytes;
    uint8_t *raw = assemble(&bytes, writer), *packed = raw;
    int64_t packed_bytes = bytes;
    char name[64], zip_name[80];
    snprintf(name, sizeof(name), "shard.%05zu.mds", json_array_size(writer->shards));
    snprintf(zip_name, sizeof(zip_name), "%s.zstd", name);
    json_t *entry = config_json(writer);
    json_object_set_new(entry, "samples", json_integer(writer->samples));
    json_object_set_new(entry, "raw_data", file_json(name, raw, bytes));
    if (writer->compression == MDS_ZSTD) {
        const size_t room = ZSTD_compressBound((size_t)bytes);
        packed = malloc(room);
        CHECK(packed != NULL, "no memory for a shard of %zu bytes", room);
        const size_t size = ZSTD_compress(packed, room, raw, (size_t)bytes, ZSTD_LEVEL);
        CHECK(!ZSTD_isError(size), "zstd: %s", ZSTD_getErrorName(size));
        packed_bytes = (int64_t)size;
        json_object_set_new(entry, "zip_data", file_json(zip_name, packed, packed_bytes));
    } else {
        json_object_set_new(entry, "zip_data", json_null());
    }
    json_array_append_new(writer->shards, entry);
    char path[FILE_PATH_MAX];
    file_path(path, writer->folder, writer->compression == MDS_ZSTD ? zip_name : name);
    const bool ok = file_write(path, packed, packed_bytes, error);
    if (packed != raw) free(packed);
    free(raw);
    writer->samples = 0;
    writer->body_bytes = 0;
    return ok;
}

static int64_t sample_bytes(const MdsWriter *writer, const MdsValue values[]) {
    int64_t bytes = 0;
    for (int i = 0; i < writer->column_count; i++) {
        bytes += values[writer->given[i]].bytes + (writer->columns[i].size < 0 ? 4 : 0);
    }
    return bytes;
}

static void append(MdsWriter *writer, const void *data, int64_t bytes) {
    if (bytes == 0) return;
    memcpy(writer->body + writer->body_bytes, data, (size_t)bytes);
    writer->body_bytes += bytes;
}

// Makes room in the shard in work for one more sample of `bytes` bytes.
static void grow(MdsWriter *writer, int64_t bytes) {
    if (writer->body_bytes + bytes > writer->body_room) {
        writer->body_room = max_i64(2 * writer->body_room, writer->body_bytes + bytes);
        writer->body = realloc(writer->body, (size_t)writer->body_room);
        CHECK(writer->body != NULL, "no memory for %lld bytes", (long long)writer->body_room);
    }
    if (writer->samples == writer->sample_room) {
        writer->sample_room = max_i64(2 * writer->sample_room, 256);
        writer->ends = realloc(writer->ends, (size_t)writer->sample_room * sizeof(uint32_t));
        CHECK(writer->ends != NULL, "no memory for %lld samples", (long long)writer->sample_room);
    }
}

bool mds_writer_add(MdsWriter *writer, const MdsValue values[], Error *error) {
    for (int i = 0; i < writer->column_count; i++) {
        const MdsColumn *column = &writer->columns[i];
        const int64_t bytes = values[writer->given[i]].bytes;
        if (column->size < 0 ? bytes > UINT32_MAX || bytes < 0 : bytes != column->size) {
            return error_set(error, "%s: column '%s' (%s): a value of %lld bytes", writer->folder,
                             column->name, column->encoding, (long long)bytes);
        }
    }
    const int64_t bytes = sample_bytes(writer, values);
    const int64_t before =
        8 + 4 * (writer->samples + 1) + writer->config_bytes + writer->body_bytes;
    if (writer->samples > 0 && before + bytes > writer->size_limit && !flush(writer, error)) {
        return false;
    }
    if (12 + writer->config_bytes + bytes > UINT32_MAX) {
        return error_set(error, "%s: a sample of %lld bytes; a shard holds less than 2^32",
                         writer->folder, (long long)bytes);
    }
    grow(writer, bytes);
    for (int i = 0; i < writer->column_count; i++) {
        const uint32_t length = (uint32_t)values[writer->given[i]].bytes;
        if (writer->columns[i].size < 0) append(writer, &length, 4);
    }
    for (int i = 0; i < writer->column_count; i++) {
        const MdsValue *value = &values[writer->given[i]];
        append(writer, value->data, value->bytes);
    }
    writer->ends[writer->samples++] = (uint32_t)writer->body_bytes;
    return true;
}

bool mds_writer_close(MdsWriter *writer, Error *error) {
    bool ok = flush(writer, error);
    if (ok) {
        json_t *index = json_pack("{s:i, s:O}", "version", 2, "shards", writer->shards);
        char *text = json_dumps(index, JSON_SORT_KEYS);
        json_decref(index);
        CHECK(text != NULL, "no memory for the index of %s", writer->folder);
        char path[FILE_PATH_MAX];
        file_path(path, writer->folder, "index.json");
        ok = file_write(path, text, (int64_t)strlen(text), error);
        free(text);
    }
    mds_writer_abandon(writer);
    return ok;
}

int64_t mds_encode_shape(uint8_t *out, const int64_t *numbers, int count) {
    CHECK(count >= 1 && count <= MDS_DIMS_MAX, "a shape of %d numbers", count);
    out[0] = 1 << 2;  // One dimension, its size in one byte.
    out[1] = (uint8_t)count;
    memcpy(out + 2, numbers, (size_t)count * 8);
    return 2 + 8 * (int64_t)count;
}
