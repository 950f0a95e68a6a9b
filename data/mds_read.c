#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#include "base/die.h"
#include "base/real.h"
#include "data/mds.h"
#include "data/shard_file.h"

#define INDEX_BYTES_MAX ((int64_t)1 << 32)

// Where in index.json we are, for messages.
typedef struct {
    const char *path;
    int64_t shard;
    Error *error;
} Place;

static bool bad(const Place *place, const char *key, const char *want) {
    return error_set(place->error, "%s: shards[%lld].%s: %s", place->path, (long long)place->shard,
                     key, want);
}

static bool whole(int64_t *out, const json_t *object, const char *key, int64_t min, int64_t max,
                  const Place *place) {
    const json_t *value = json_object_get(object, key);
    char want[96];
    snprintf(want, sizeof(want), "must be a whole number from %lld to %lld", (long long)min,
             (long long)max);
    if (!json_is_integer(value)) return bad(place, key, want);
    *out = json_integer_value(value);
    return (*out >= min && *out <= max) || bad(place, key, want);
}

// A name may have folders (merged indexes do), but must stay inside.
static bool name_is_safe(const char *name) {
    if (strlen(name) >= 512) return false;
    for (const char *at = name;;) {
        const size_t length = strcspn(at, "/");
        if (length == 0 || strncmp(at, "..", length < 2 ? 2 : length) == 0 ||
            (length == 1 && at[0] == '.')) {
            return false;
        }
        if (at[length] == 0) return true;
        at += length + 1;
    }
}

static bool parse_hash(uint64_t *out, const char *hex) {
    if (strlen(hex) != 16 || strspn(hex, "0123456789abcdefABCDEF") != 16) return false;
    *out = strtoull(hex, NULL, 16);
    return true;
}

static bool parse_hashes(MdsFile *file, json_t *hashes, const char *key, const Place *place) {
    const char *name;
    json_t *value;
    if (!json_is_object(hashes)) return bad(place, key, "has no object 'hashes'");
    json_object_foreach(hashes, name, value) {
        const char *hex = json_string_value(value);
        bool ok = hex != NULL;
        if (ok && strcmp(name, "xxh3_64") == 0) {
            ok = file->has_xxh3 = parse_hash(&file->xxh3, hex);
        } else if (ok && strcmp(name, "xxh64") == 0) {
            ok = file->has_xxh64 = parse_hash(&file->xxh64, hex);
        } else if (ok) {
            const size_t old = file->unverified == NULL ? 0 : strlen(file->unverified);
            file->unverified = realloc(file->unverified, old + strlen(name) + 2);
            CHECK(file->unverified != NULL, "no memory for %s", place->path);
            snprintf(file->unverified + old, strlen(name) + 2, "%s%s", old > 0 ? " " : "", name);
        }
        if (!ok) return bad(place, key, "has a hash that is not 16 hexadecimal digits");
    }
    return true;
}

static bool parse_file(MdsFile *file, json_t *object, const char *key, const Place *place) {
    if (!json_is_object(object)) return bad(place, key, "must be an object");
    const char *name = json_string_value(json_object_get(object, "basename"));
    if (name == NULL || !name_is_safe(name)) {
        return bad(place, key, "basename must be a relative path that stays in the folder");
    }
    file->name = malloc(strlen(name) + 1);
    CHECK(file->name != NULL, "no memory for %s", place->path);
    memcpy(file->name, name, strlen(name) + 1);
    return whole(&file->bytes, object, "bytes", 1, UINT32_MAX, place) &&
           parse_hashes(file, json_object_get(object, "hashes"), key, place);
}

static bool parse_column(MdsColumn *column, const json_t *name, const json_t *encoding,
                         const json_t *size, const Place *place) {
    if (!json_is_string(name) || !json_is_string(encoding) || json_string_length(name) == 0 ||
        json_string_length(name) >= MDS_NAME_MAX || json_string_length(encoding) >= MDS_NAME_MAX) {
        return bad(place, "column_names", "and encodings must be strings of 1 to 63 bytes");
    }
    snprintf(column->name, MDS_NAME_MAX, "%s", json_string_value(name));
    snprintf(column->encoding, MDS_NAME_MAX, "%s", json_string_value(encoding));
    char message[256];
    if (strncmp(column->encoding, "pkl", 3) == 0) {
        snprintf(
            message, sizeof(message),
            "column '%.63s' is pickled; reading it would run code: write it again as bytes, str, "
            "json or ndarray",
            column->name);
        return bad(place, "column_encodings", message);
    }
    column->size = mds_encoding_size(column->encoding);
    if (column->size == -2) {
        snprintf(message, sizeof(message), "column '%.63s' has the unknown encoding '%.63s'",
                 column->name, column->encoding);
        return bad(place, "column_encodings", message);
    }
    const bool fits = column->size < 0
                          ? json_is_null(size)
                          : json_is_integer(size) && json_integer_value(size) == column->size;
    if (fits) return true;
    snprintf(message, sizeof(message), "column '%.63s': not the size of its encoding '%.63s'",
             column->name, column->encoding);
    return bad(place, "column_sizes", message);
}

// Gives the shard its columns, shared with the set used last when they agree.
static bool parse_columns(MdsIndex *index, MdsShard *shard, const json_t *object,
                          const Place *place) {
    const json_t *names = json_object_get(object, "column_names");
    const json_t *encodings = json_object_get(object, "column_encodings");
    const json_t *sizes = json_object_get(object, "column_sizes");
    const size_t count = json_array_size(names);
    if (count < 1 || count > MDS_COLUMNS_MAX || json_array_size(encodings) != count ||
        json_array_size(sizes) != count) {
        return bad(place, "column_names",
                   "column_encodings, column_sizes must be equally long "
                   "lists of 1 to 48 columns");
    }
    MdsColumn columns[MDS_COLUMNS_MAX] = {0};
    for (size_t i = 0; i < count; i++) {
        if (!parse_column(&columns[i], json_array_get(names, i), json_array_get(encodings, i),
                          json_array_get(sizes, i), place)) {
            return false;
        }
        if (i > 0 && strcmp(columns[i - 1].name, columns[i].name) >= 0) {
            return bad(place, "column_names", "must be sorted and different");
        }
    }
    const int64_t last = index->column_set_count - 1;
    shard->column_count = (int)count;
    if (last >= 0 && place->shard > 0 &&
        index->shards[place->shard - 1].column_count == (int)count &&
        memcmp(index->column_sets[last], columns, count * sizeof(MdsColumn)) == 0) {
        shard->columns = index->column_sets[last];
        return true;
    }
    index->column_sets =
        realloc(index->column_sets, (size_t)(last + 2) * sizeof(*index->column_sets));
    MdsColumn *set = malloc(count * sizeof(MdsColumn));
    CHECK(index->column_sets != NULL && set != NULL, "no memory for %s", place->path);
    memcpy(set, columns, count * sizeof(MdsColumn));
    shard->columns = index->column_sets[index->column_set_count++] = set;
    return true;
}

static bool parse_shard(MdsIndex *index, const json_t *object, const Place *place) {
    MdsShard *shard = &index->shards[place->shard];
    int64_t version;
    if (!json_is_object(object)) return bad(place, "", "must be an object");
    if (!whole(&version, object, "version", 2, 2, place)) return false;
    const char *format = json_string_value(json_object_get(object, "format"));
    if (format == NULL || strcmp(format, "mds") != 0) return bad(place, "format", "must be 'mds'");
    const json_t *compression = json_object_get(object, "compression");
    json_t *zip = json_object_get(object, "zip_data");
    const char *name = json_string_value(compression);
    if (!json_is_null(compression) &&
        (name == NULL || strncmp(name, "zstd", 4) != 0 || (name[4] != 0 && name[4] != ':'))) {
        return bad(place, "compression", "only zstd and none are read; compress the shards anew");
    }
    if (json_is_null(compression) != (zip == NULL || json_is_null(zip))) {
        return bad(place, "zip_data", "must be there exactly when there is a compression");
    }
    if (!parse_file(&shard->raw, json_object_get(object, "raw_data"), "raw_data", place) ||
        (name != NULL && !parse_file(&shard->zip, zip, "zip_data", place)) ||
        !parse_columns(index, shard, object, place)) {
        return false;
    }
    return whole(&shard->samples, object, "samples", 0, (shard->raw.bytes - 8) / 4, place);
}

static bool parse_index(MdsIndex *index, const json_t *root, const char *path, Error *error) {
    const json_t *version = json_object_get(root, "version");
    const json_t *shards = json_object_get(root, "shards");
    if (!json_is_integer(version) || json_integer_value(version) != 2) {
        return error_set(error, "%s: version must be 2; other versions of MDS are not read", path);
    }
    if (!json_is_array(shards) || json_array_size(shards) == 0) {
        return error_set(error, "%s: 'shards' must be a list of at least one shard", path);
    }
    const size_t count = json_array_size(shards);
    index->shards = calloc(count, sizeof(MdsShard));
    CHECK(index->shards != NULL, "no memory for %zu shards", count);
    for (size_t i = 0; i < count; i++) {
        const Place place = {path, (int64_t)i, error};
        index->shard_count++;
        if (!parse_shard(index, json_array_get(shards, i), &place)) return false;
        const MdsShard *shard = &index->shards[i];
        index->sample_count += shard->samples;
        index->raw_bytes_max = max_i64(index->raw_bytes_max, shard->raw.bytes);
        index->zip_bytes_max = max_i64(index->zip_bytes_max, shard->zip.bytes);
    }
    if (index->sample_count < UINT32_MAX) return true;
    return error_set(error, "%s: 2^32 samples or more; split the data set", path);
}

MdsIndex *mds_index_open(const char *folder, Error *error) {
    if (strlen(folder) + 600 > FILE_PATH_MAX) {
        error_set(error, "%s: the path is too long", folder);
        return NULL;
    }
    char path[FILE_PATH_MAX];
    file_path(path, folder, "index.json");
    int64_t bytes;
    char *text = file_read(path, INDEX_BYTES_MAX, &bytes, error);
    if (text == NULL) return NULL;
    MdsIndex *index = calloc(1, sizeof(*index));
    CHECK(index != NULL, "no memory for %s", path);
    index->hash = XXH3_64bits(text, (size_t)bytes);
    index->folder = malloc(strlen(folder) + 1);
    CHECK(index->folder != NULL, "no memory for %s", path);
    memcpy(index->folder, folder, strlen(folder) + 1);
    json_error_t found;
    json_t *root = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &found);
    bool ok = root != NULL;
    if (ok) {
        ok = parse_index(index, root, path, error);
    } else {
        error_set(error, "%s:%d:%d: not JSON: %s", path, found.line, found.column, found.text);
    }
    json_decref(root);
    free(text);
    if (ok) return index;
    mds_index_free(index);
    return NULL;
}

void mds_index_free(MdsIndex *index) {
    if (index == NULL) return;
    for (int64_t i = 0; i < index->shard_count; i++) {
        free(index->shards[i].raw.name);
        free(index->shards[i].zip.name);
        free(index->shards[i].raw.unverified);
        free(index->shards[i].zip.unverified);
    }
    for (int64_t i = 0; i < index->column_set_count; i++) free(index->column_sets[i]);
    free(index->column_sets);
    free(index->shards);
    free(index->folder);
    free(index);
}

bool mds_index_room(uint8_t **raw, uint8_t **zip, const MdsIndex *index, Error *error) {
    *raw = malloc((size_t)max_i64(index->raw_bytes_max, 1));
    *zip = malloc((size_t)max_i64(index->zip_bytes_max, 1));
    if (*raw != NULL && *zip != NULL) return true;
    free(*raw);
    free(*zip);
    *raw = *zip = NULL;
    return error_set(error,
                     "%s/index.json: its largest shard has %lld bytes, compressed %lld, for which "
                     "there is no memory; write smaller shards",
                     index->folder, (long long)index->raw_bytes_max,
                     (long long)index->zip_bytes_max);
}

static bool hash_check(const MdsFile *file, const void *bytes, const char *path, Error *error) {
    const size_t size = (size_t)file->bytes;
    if (file->has_xxh3 && XXH3_64bits(bytes, size) != file->xxh3) {
        return error_set(error, "%s: XXH3 is %016llx, index.json says %016llx: corrupt", path,
                         (unsigned long long)XXH3_64bits(bytes, size),
                         (unsigned long long)file->xxh3);
    }
    if (file->has_xxh64 && XXH64(bytes, size, 0) != file->xxh64) {
        return error_set(error, "%s: XXH64 is %016llx, index.json says %016llx: corrupt", path,
                         (unsigned long long)XXH64(bytes, size, 0),
                         (unsigned long long)file->xxh64);
    }
    return true;
}

// Reads one file whole, of exactly the size that the index gives.
static MdsStatus file_load(uint8_t *out, const MdsFile *file, const char *path, Error *error) {
    int64_t size;
    const int64_t bytes = file_read_part(out, path, 0, file->bytes, &size, error);
    if (bytes < 0) return MDS_IO;
    if (bytes != file->bytes || size != file->bytes) {
        error_set(error, "%s: %lld bytes, index.json says %lld: corrupt", path, (long long)size,
                  (long long)file->bytes);
        return MDS_CORRUPT;
    }
    return hash_check(file, out, path, error) ? MDS_OK : MDS_CORRUPT;
}

MdsStatus mds_shard_load(uint8_t *raw, uint8_t *zip, const MdsIndex *index, int64_t shard,
                         Error *error) {
    const MdsShard *s = &index->shards[shard];
    char path[FILE_PATH_MAX];
    file_path(path, index->folder, s->zip.name != NULL ? s->zip.name : s->raw.name);
    if (s->zip.name == NULL) return file_load(raw, &s->raw, path, error);
    const MdsStatus status = file_load(zip, &s->zip, path, error);
    if (status != MDS_OK) return status;
    const size_t bytes = ZSTD_decompress(raw, (size_t)s->raw.bytes, zip, (size_t)s->zip.bytes);
    if (ZSTD_isError(bytes)) {
        error_set(error, "%s: zstd: %s: corrupt", path, ZSTD_getErrorName(bytes));
        return MDS_CORRUPT;
    }
    if ((int64_t)bytes != s->raw.bytes) {
        error_set(error, "%s: %zu bytes decompressed, index.json says %lld: corrupt", path, bytes,
                  (long long)s->raw.bytes);
        return MDS_CORRUPT;
    }
    return hash_check(&s->raw, raw, path, error) ? MDS_OK : MDS_CORRUPT;
}

static uint32_t u32_at(const uint8_t *raw, int64_t i) {
    uint32_t value;
    memcpy(&value, raw + 4 * i, 4);
    return value;
}

bool mds_shard_check(const MdsShard *shard, const uint8_t *raw, Error *error) {
    const int64_t n = shard->samples;
    if (u32_at(raw, 0) != n) {
        return error_set(error, "%s: %u samples, index.json says %lld: corrupt", shard->raw.name,
                         u32_at(raw, 0), (long long)n);
    }
    int64_t before = 4 * (n + 2);
    for (int64_t i = 0; i <= n; i++) {
        const int64_t offset = u32_at(raw, i + 1);
        if (offset < before || offset > shard->raw.bytes) {
            return error_set(error, "%s: sample %lld at byte %lld, not in [%lld, %lld]: corrupt",
                             shard->raw.name, (long long)i, (long long)offset, (long long)before,
                             (long long)shard->raw.bytes);
        }
        before = offset;
    }
    if (before == shard->raw.bytes) return true;
    return error_set(error, "%s: samples end at byte %lld of %lld: corrupt", shard->raw.name,
                     (long long)before, (long long)shard->raw.bytes);
}

MdsValue mds_sample(const MdsShard *shard, const uint8_t *raw, int64_t i) {
    CHECK(i >= 0 && i < shard->samples, "sample %lld of %lld", (long long)i,
          (long long)shard->samples);
    const uint32_t start = u32_at(raw, i + 1), end = u32_at(raw, i + 2);
    return (MdsValue){raw + start, end - start};
}

bool mds_sample_split(MdsValue values[], const MdsShard *shard, MdsValue sample, Error *error) {
    const uint8_t *at = sample.data;
    int64_t lengths = 0, bytes = 0;
    for (int i = 0; i < shard->column_count; i++) lengths += shard->columns[i].size < 0 ? 4 : 0;
    if (sample.bytes < lengths) {
        return error_set(error, "a sample of %lld bytes, shorter than its lengths",
                         (long long)sample.bytes);
    }
    for (int i = 0; i < shard->column_count; i++) {
        values[i].bytes = shard->columns[i].size;
        if (values[i].bytes < 0) {
            values[i].bytes = u32_at(at, 0);
            at += 4;
        }
        bytes += values[i].bytes;
    }
    if (lengths + bytes != sample.bytes) {
        return error_set(error, "a sample of %lld bytes whose columns need %lld",
                         (long long)sample.bytes, (long long)(lengths + bytes));
    }
    for (int i = 0; i < shard->column_count; i++) {
        values[i].data = at;
        at += values[i].bytes;
    }
    return true;
}

int mds_column_find(const MdsShard *shard, const char *name) {
    for (int i = 0; i < shard->column_count; i++) {
        if (strcmp(shard->columns[i].name, name) == 0) return i;
    }
    return -1;
}
