#include "data/catalogue.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/checksum.h"
#include "base/die.h"
#include "base/real.h"
#include "data/sample.h"
#include "data/shard_file.h"

static const char magic[8] = "KINTCAT";
static const char remedy[] = "make it anew with `kintoun data catalogue`";

const char *const row_verdict_names[ROW_VERDICTS] = {
    "pass",
    "another number of latent channels",
    "another text width",
    "not a multiple of the patch",
    "too few or too many frames",
    "height out of range",
    "width out of range",
    "quality out of range",
    "text longer than stage.text_tokens",
    "more tokens than stage.tokens",
    "medium not drawn in this stage",
    "held out for validation",
};

// ---- dataset.json

static bool read_statistics(CatalogueHeader *header, const json_t *latent, const char *path,
                            Error *error) {
    const json_t *mean = json_object_get(latent, "mean"), *std = json_object_get(latent, "std");
    const json_t *applied = json_object_get(latent, "applied");
    const size_t count = json_array_size(mean);
    if (!json_is_object(latent) || !json_is_boolean(applied) || count < 1 ||
        count > CATALOGUE_CHANNELS_MAX || json_array_size(std) != count) {
        return error_set(error,
                         "%s: latent must hold mean and std, lists of 1 to %d numbers of one "
                         "length, and applied, true or false",
                         path, CATALOGUE_CHANNELS_MAX);
    }
    for (size_t c = 0; c < count; c++) {
        const json_t *m = json_array_get(mean, c), *s = json_array_get(std, c);
        header->mean[c] = (float)json_number_value(m);
        header->std[c] = (float)json_number_value(s);
        if (!json_is_number(m) || !json_is_number(s) || !isfinite(header->mean[c]) ||
            !isfinite(header->std[c]) || header->std[c] <= 0) {
            return error_set(error,
                             "%s: latent.mean[%zu], latent.std[%zu]: must be numbers, std > 0",
                             path, c, c);
        }
    }
    if (json_is_true(applied)) {
        memset(header->mean, 0, sizeof(header->mean));
        memset(header->std, 0, sizeof(header->std));
    } else {
        header->channels = (uint32_t)count;
    }
    return true;
}

// Fills dataset_hash and, when only_hash is false, the statistics. No file: all zero.
static bool read_dataset(CatalogueHeader *header, const char *folder, bool only_hash,
                         Error *error) {
    char path[FILE_PATH_MAX];
    file_path(path, folder, "dataset.json");
    header->dataset_hash = 0;
    if (access(path, F_OK) != 0 && errno == ENOENT) return true;
    int64_t bytes;
    char *text = file_read(path, 1 << 26, &bytes, error);
    if (text == NULL) return false;
    header->dataset_hash = XXH3_64bits(text, (size_t)bytes);
    bool ok = true;
    if (!only_hash) {
        json_error_t found;
        json_t *root = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &found);
        const json_t *latent = json_object_get(root, "latent");
        if (!json_is_object(root)) {
            ok = error_set(error, "%s:%d:%d: not a JSON object: %s", path, found.line, found.column,
                           root == NULL ? found.text : "another type");
        } else if (latent != NULL) {
            ok = read_statistics(header, latent, path, error);
        }
        json_decref(root);
    }
    free(text);
    return ok;
}

// ---- building

static bool judge_sample(const Sample *sample, const CatalogueHeader *header, Error *error) {
    const LatentShape s = sample->shape;
    if (!stored_is_finite(sample->latent, sample->latent_type, latent_elements(s)) ||
        !stored_is_finite(sample->text, sample->text_type,
                          sample->text_length * sample->text_width)) {
        return error_set(error, "a value is not finite");
    }
    if (header->channels > 0 && s.C != (int32_t)header->channels) {
        return error_set(error, "%d latent channels, dataset.json has statistics of %u", s.C,
                         header->channels);
    }
    return true;
}

// The rows of the catalogue in work, as many as the shards that were read have samples.
typedef struct {
    CatalogueRow *rows;
    int64_t count;
} Rows;

// Room for the rows of one more shard.
static CatalogueRow *add_rows(Rows *rows, int64_t count) {
    const int64_t all = rows->count + count;
    rows->rows = realloc(rows->rows, (size_t)max_i64(all, 1) * sizeof(CatalogueRow));
    CHECK(rows->rows != NULL, "no memory for %lld rows", (long long)all);
    CatalogueRow *more = rows->rows + rows->count;
    rows->count = all;
    return more;
}

// The rows of one shard.
static void read_rows(Rows *out, CatalogueHeader *header, const MdsIndex *index, int64_t shard,
                      uint8_t *raw, uint8_t *zip, Problems *problems) {
    const MdsShard *s = &index->shards[shard];
    Error error;
    if (mds_shard_load(raw, zip, index, shard, &error) != MDS_OK ||
        !mds_shard_check(s, raw, &error)) {
        problems_add(problems, "%s", error.text);
        return;
    }
    CatalogueRow *rows = add_rows(out, s->samples);
    for (int64_t i = 0; i < s->samples; i++) {
        const MdsValue bytes = mds_sample(s, raw, i);
        Sample sample;
        if (!sample_read(&sample, s, bytes, header->qualities, (int)header->quality_count,
                         &error) ||
            !judge_sample(&sample, header, &error)) {
            problems_add(problems, "%s/%s: sample %lld ('%s'): %s", index->folder, s->raw.name,
                         (long long)i, sample.id, error.text);
            continue;
        }
        rows[i] = (CatalogueRow){
            .hash = XXH3_64bits(bytes.data, (size_t)bytes.bytes),
            .offset = (uint64_t)((const uint8_t *)bytes.data - raw),
            .bytes = (uint32_t)bytes.bytes,
            .shard = (uint32_t)shard,
            .index = (uint32_t)i,
            .medium = (uint32_t)sample.medium,
            .shape = sample.shape,
            .text_length = (uint32_t)sample.text_length,
            .text_width = (uint32_t)sample.text_width,
            .fps = (float)sample.fps,
        };
        for (int q = 0; q < QUALITIES_MAX; q++) {
            rows[i].qualities[q] =
                q < (int)header->quality_count ? (float)sample.qualities[q] : NAN;
        }
    }
}

static bool write_catalogue(CatalogueHeader *header, const CatalogueRow *rows, const char *folder,
                            Problems *problems) {
    const int64_t bytes = header->count * (int64_t)sizeof(CatalogueRow);
    header->rows_crc = crc32c(0, rows, bytes);
    header->header_crc = crc32c(0, header, offsetof(CatalogueHeader, header_crc));
    char path[FILE_PATH_MAX];
    file_path(path, folder, "catalogue.bin");
    const int64_t head = sizeof(*header);
    char *file = malloc((size_t)(head + bytes));
    CHECK(file != NULL, "no memory for %s", path);
    memcpy(file, header, sizeof(*header));
    memcpy(file + head, rows, (size_t)bytes);
    Error error;
    const bool ok = file_write(path, file, head + bytes, &error);
    if (!ok) problems_add(problems, "%s", error.text);
    free(file);
    return ok;
}

bool catalogue_build(const char *folder, Problems *problems) {
    Error error;
    MdsIndex *index = mds_index_open(folder, &error);
    if (index == NULL) {
        problems_add(problems, "%s", error.text);
        return false;
    }
    const int before = problems->count;
    CatalogueHeader header = {.version = CATALOGUE_VERSION,
                              .header_bytes = sizeof(CatalogueHeader),
                              .row_bytes = sizeof(CatalogueRow),
                              .count = index->sample_count,
                              .index_hash = index->hash};
    memcpy(header.magic, magic, sizeof(magic));
    if (!read_dataset(&header, folder, false, &error)) problems_add(problems, "%s", error.text);
    header.quality_count = (uint32_t)sample_qualities(header.qualities, &index->shards[0]);
    uint8_t *raw, *zip;
    Rows rows = {0};
    const bool room = mds_index_room(&raw, &zip, index, &error);
    if (!room) problems_add(problems, "%s", error.text);
    for (int64_t i = 0; i < index->shard_count && room; i++) {
        read_rows(&rows, &header, index, i, raw, zip, problems);
    }
    const bool ok =
        problems->count == before && write_catalogue(&header, rows.rows, folder, problems);
    free(rows.rows);
    free(zip);
    free(raw);
    mds_index_free(index);
    return ok;
}

// ---- opening

// Whether the names of qualities end, and latents can be normalised.
static bool facts_are_legal(const CatalogueHeader *header) {
    if (header->quality_count > QUALITIES_MAX || header->channels > CATALOGUE_CHANNELS_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < header->quality_count; i++) {
        if (memchr(header->qualities[i], 0, QUALITY_NAME_MAX) == NULL) return false;
    }
    for (uint32_t c = 0; c < header->channels; c++) {
        const float mean = header->mean[c], std = header->std[c];
        if (!isfinite(mean) || !isfinite(std) || std <= 0) return false;
    }
    return true;
}

static bool header_check(const CatalogueHeader *header, int64_t file_bytes, const char *path,
                         Error *error) {
    if (file_bytes < (int64_t)sizeof(*header) || memcmp(header->magic, magic, sizeof(magic)) != 0) {
        return error_set(error, "%s: not a catalogue; %s", path, remedy);
    }
    if (header->version > CATALOGUE_VERSION) {
        return error_set(error, "%s: version %u is newer than %d, which this program reads", path,
                         header->version, CATALOGUE_VERSION);
    }
    if (header->version != CATALOGUE_VERSION) {
        return error_set(error, "%s: version %u is not %d; %s", path, header->version,
                         CATALOGUE_VERSION, remedy);
    }
    if (header->header_crc != crc32c(0, header, offsetof(CatalogueHeader, header_crc)) ||
        header->header_bytes != sizeof(*header) || header->row_bytes != sizeof(CatalogueRow) ||
        header->count < 0 || header->count > UINT32_MAX || !facts_are_legal(header)) {
        return error_set(error, "%s: its header is corrupt; %s", path, remedy);
    }
    const int64_t want = (int64_t)sizeof(*header) + header->count * (int64_t)sizeof(CatalogueRow);
    if (file_bytes != want) {
        return error_set(error, "%s: %lld bytes, %lld samples need %lld; %s", path,
                         (long long)file_bytes, (long long)header->count, (long long)want, remedy);
    }
    return true;
}

// Whether a row lies in its shard and says what a sample can be.
static bool row_is_legal(const CatalogueRow *row, const Catalogue *catalogue, int64_t shard) {
    const uint64_t bytes = (uint64_t)catalogue->index->shards[shard].raw.bytes;
    const uint32_t channels = catalogue->header->channels;
    return row->bytes <= bytes && row->offset <= bytes - row->bytes && row->medium < MEDIUM_COUNT &&
           sample_shape_is_legal(row->shape, row->text_length, row->text_width) &&
           (row->medium == MEDIUM_VIDEO || row->shape.F == 1) &&
           (channels == 0 || row->shape.C == (int32_t)channels);
}

// That the rows are those written, one for each sample of the index.
static bool rows_check(const Catalogue *catalogue, const char *path, Error *error) {
    const int64_t bytes = catalogue->count * (int64_t)sizeof(CatalogueRow);
    if (crc32c(0, catalogue->rows, bytes) != catalogue->header->rows_crc) {
        return error_set(error, "%s: its rows are corrupt; %s", path, remedy);
    }
    CatalogueHeader now;
    if (!read_dataset(&now, catalogue->index->folder, true, error)) return false;
    if (catalogue->header->index_hash != catalogue->index->hash ||
        catalogue->header->dataset_hash != now.dataset_hash) {
        return error_set(
            error, "%s: was made from another %s; %s", path,
            catalogue->header->index_hash != catalogue->index->hash ? "index.json" : "dataset.json",
            remedy);
    }
    const MdsIndex *index = catalogue->index;
    if (catalogue->count != index->sample_count) {
        return error_set(error, "%s: %lld rows, index.json has %lld samples; %s", path,
                         (long long)catalogue->count, (long long)index->sample_count, remedy);
    }
    int64_t i = 0;
    for (int64_t s = 0; s < index->shard_count; s++) {
        for (int64_t k = 0; k < index->shards[s].samples; k++, i++) {
            const CatalogueRow *row = &catalogue->rows[i];
            if (row->shard == s && row->index == k && row_is_legal(row, catalogue, s)) continue;
            return error_set(error, "%s: row %lld is not that of sample %lld of shard %lld; %s",
                             path, (long long)i, (long long)k, (long long)s, remedy);
        }
    }
    return true;
}

// Maps the file; the header is checked before anything else is believed.
static bool map(Catalogue *catalogue, const char *path, Error *error) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set(error, "%s: cannot be opened: %s; `kintoun data catalogue` makes it", path,
                         strerror(errno));
    }
    struct stat status;
    void *memory = MAP_FAILED;
    if (fstat(fd, &status) == 0 && status.st_size > 0) {
        memory = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    }
    close(fd);
    if (memory == MAP_FAILED) {
        return error_set(error, "%s: empty, or cannot be mapped; %s", path, remedy);
    }
    catalogue->header = memory;
    catalogue->mapped_bytes = status.st_size;
    if (!header_check(catalogue->header, status.st_size, path, error)) return false;
    catalogue->rows = (const CatalogueRow *)(catalogue->header + 1);
    catalogue->count = catalogue->header->count;
    return true;
}

Catalogue *catalogue_open(const char *folder, Error *error) {
    MdsIndex *index = mds_index_open(folder, error);
    if (index == NULL) return NULL;
    Catalogue *catalogue = calloc(1, sizeof(*catalogue));
    CHECK(catalogue != NULL, "no memory for the catalogue of %s", folder);
    catalogue->index = index;
    char path[FILE_PATH_MAX];
    file_path(path, folder, "catalogue.bin");
    if (map(catalogue, path, error) && rows_check(catalogue, path, error)) return catalogue;
    catalogue_close(catalogue);
    return NULL;
}

void catalogue_close(Catalogue *catalogue) {
    if (catalogue == NULL) return;
    if (catalogue->header != NULL) {
        munmap((void *)(uintptr_t)catalogue->header, (size_t)catalogue->mapped_bytes);
    }
    mds_index_free(catalogue->index);
    free(catalogue);
}

uint64_t catalogue_checksum(const Catalogue *catalogue) {
    return XXH3_64bits(catalogue->header, sizeof(CatalogueHeader));
}

// ---- filters

int catalogue_quality(const Catalogue *catalogue, const char *name) {
    if (strcmp(name, "fps") == 0) return QUALITIES_MAX;
    for (int i = 0; i < (int)catalogue->header->quality_count; i++) {
        if (strncmp(catalogue->header->qualities[i], name, QUALITY_NAME_MAX) == 0) return i;
    }
    return -1;
}

static bool within(int64_t value, int64_t min, int64_t max) {
    return value >= min && value <= max;
}

RowVerdict row_judge(const CatalogueRow *row, const StageData *stage, const ModelNeeds *needs,
                     const int quality_index[QUALITIES_MAX]) {
    const LatentShape s = row->shape;
    const PatchSize p = needs->patch;
    if (s.C != needs->channels) return ROW_CHANNELS;
    if ((int32_t)row->text_width != needs->text_width) return ROW_TEXT_WIDTH;
    if (stage->image_share == (row->medium == MEDIUM_IMAGE ? 0.0 : 1.0)) return ROW_SHARE;
    if (s.F % p.t != 0 || s.H % p.h != 0 || s.W % p.w != 0) return ROW_PATCH;
    if (!within(s.F, stage->frames_min, stage->frames_max)) return ROW_FRAMES;
    if (!within(s.H, stage->height_min, stage->height_max)) return ROW_HEIGHT;
    if (!within(s.W, stage->width_min, stage->width_max)) return ROW_WIDTH;
    for (int64_t i = 0; i < stage->filter_count; i++) {
        const int q = quality_index[i];
        const double value = (double)(q == QUALITIES_MAX ? row->fps : row->qualities[q]);
        if (!(value >= stage->filters[i].min && value <= stage->filters[i].max)) return ROW_QUALITY;
    }
    if (max_i64(row->text_length, 1) > stage->text_tokens) return ROW_TEXT_LONG;
    if (latent_tokens(s, p) > stage->tokens) return ROW_TOKENS;
    return ROW_PASSES;
}
