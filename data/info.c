#include "data/info.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/die.h"
#include "base/real.h"
#include "data/catalogue.h"
#include "data/sample.h"
#include "data/shard_file.h"

enum { SHAPES_SHOWN = 20 };

static int by_shape(const void *left, const void *right) {
    const CatalogueRow *const *a = left, *const *b = right;
    if ((*a)->medium != (*b)->medium) return (*a)->medium < (*b)->medium ? -1 : 1;
    return memcmp(&(*a)->shape, &(*b)->shape, sizeof(LatentShape));
}

static bool alike(const CatalogueRow *a, const CatalogueRow *b) {
    return a->medium == b->medium && memcmp(&a->shape, &b->shape, sizeof(LatentShape)) == 0;
}

// A line for each shape: medium, [C, F, H, W], count.
static void print_shapes(FILE *out, const Catalogue *catalogue) {
    const CatalogueRow **rows = malloc((size_t)(catalogue->count + 1) * sizeof(*rows));
    CHECK(rows != NULL, "no memory for %lld rows", (long long)catalogue->count);
    for (int64_t i = 0; i < catalogue->count; i++) rows[i] = &catalogue->rows[i];
    qsort(rows, (size_t)catalogue->count, sizeof(*rows), by_shape);
    int64_t shapes = 0;
    for (int64_t i = 0; i < catalogue->count;) {
        int64_t next = i + 1;
        while (next < catalogue->count && alike(rows[i], rows[next])) next++;
        const LatentShape s = rows[i]->shape;
        if (shapes++ < SHAPES_SHOWN) {
            fprintf(out, "  %s [%d, %d, %d, %d]: %lld samples\n",
                    rows[i]->medium == MEDIUM_IMAGE ? "image" : "video", s.C, s.F, s.H, s.W,
                    (long long)(next - i));
        }
        i = next;
    }
    if (shapes > SHAPES_SHOWN) {
        fprintf(out, "  and %lld other shapes\n", (long long)(shapes - SHAPES_SHOWN));
    }
    free(rows);
}

static void print_catalogue(FILE *out, const Catalogue *catalogue) {
    int64_t media[MEDIUM_COUNT] = {0}, text_max = 0, texts = 0;
    for (int64_t i = 0; i < catalogue->count; i++) {
        media[catalogue->rows[i].medium]++;
        text_max = max_i64(text_max, catalogue->rows[i].text_length);
        texts += catalogue->rows[i].text_length;
    }
    fprintf(out, "catalogue: %lld images, %lld videos; texts of %.1f tokens, at most %lld\n",
            (long long)media[MEDIUM_IMAGE], (long long)media[MEDIUM_VIDEO],
            catalogue->count > 0 ? (double)texts / (double)catalogue->count : 0.0,
            (long long)text_max);
    const CatalogueHeader *header = catalogue->header;
    for (uint32_t i = 0; i < header->quality_count; i++) {
        fprintf(out, "  quality '%s'\n", header->qualities[i]);
    }
    if (header->channels > 0) {
        fprintf(out, "  latents are normalised on reading (%u channels)\n", header->channels);
    }
    print_shapes(out, catalogue);
}

bool data_info(FILE *out, const char *folder, Error *error) {
    MdsIndex *index = mds_index_open(folder, error);
    if (index == NULL) return false;
    int64_t raw = 0, zip = 0, checked = 0;
    for (int64_t i = 0; i < index->shard_count; i++) {
        const MdsShard *shard = &index->shards[i];
        const MdsFile *file = shard->zip.name != NULL ? &shard->zip : &shard->raw;
        raw += shard->raw.bytes;
        zip += shard->zip.bytes;
        checked += file->has_xxh3 || file->has_xxh64;
    }
    const MdsShard *first = &index->shards[0];
    fprintf(out, "%s: %lld samples in %lld shards, %.1f MB", folder, (long long)index->sample_count,
            (long long)index->shard_count, 1e-6 * (double)raw);
    if (zip > 0) fprintf(out, " (%.1f MB compressed)", 1e-6 * (double)zip);
    fprintf(out, "\nhashes that are verified: of %lld of %lld shards", (long long)checked,
            (long long)index->shard_count);
    if (first->raw.unverified != NULL) fprintf(out, "; not verified: %s", first->raw.unverified);
    fprintf(out, "\ncolumns:");
    for (int i = 0; i < first->column_count; i++) {
        fprintf(out, " %s (%s)", first->columns[i].name, first->columns[i].encoding);
    }
    fprintf(out, "\n");
    mds_index_free(index);
    Error missing;
    Catalogue *catalogue = catalogue_open(folder, &missing);
    if (catalogue == NULL) {
        fprintf(out, "no catalogue: %s\n", missing.text);
    } else {
        print_catalogue(out, catalogue);
        catalogue_close(catalogue);
    }
    return true;
}

// ---- verify

// What is wrong with a sample's bytes, its row (NULL: there is no catalogue) included.
static bool sample_verify(const MdsShard *shard, MdsValue bytes, const CatalogueRow *row,
                          Error *error) {
    if (row != NULL && XXH3_64bits(bytes.data, (size_t)bytes.bytes) != row->hash) {
        return error_set(error, "its XXH3 is not the catalogue's");
    }
    Sample sample;
    if (!sample_read(&sample, shard, bytes, NULL, 0, error)) return false;
    if (!stored_is_finite(sample.latent, sample.latent_type, latent_elements(sample.shape)) ||
        !stored_is_finite(sample.text, sample.text_type, sample.text_length * sample.text_width)) {
        return error_set(error, "'%s': a value is not finite", sample.id);
    }
    return true;
}

static int64_t shard_verify(uint8_t *raw, uint8_t *zip, const MdsIndex *index, int64_t i,
                            const CatalogueRow *rows, Problems *problems) {
    const MdsShard *shard = &index->shards[i];
    Error error;
    if (mds_shard_load(raw, zip, index, i, &error) != MDS_OK ||
        !mds_shard_check(shard, raw, &error)) {
        problems_add(problems, "%s", error.text);
        return 0;
    }
    int64_t good = 0;
    for (int64_t k = 0; k < shard->samples; k++) {
        if (sample_verify(shard, mds_sample(shard, raw, k), rows == NULL ? NULL : &rows[k],
                          &error)) {
            good++;
        } else {
            problems_add(problems, "%s/%s: sample %lld: %s", index->folder, shard->raw.name,
                         (long long)k, error.text);
        }
    }
    return good;
}

bool data_verify(int64_t *samples_good, const char *folder, Problems *problems) {
    const int before = problems->count;
    *samples_good = 0;
    Error error;
    MdsIndex *index = mds_index_open(folder, &error);
    if (index == NULL) {
        problems_add(problems, "%s", error.text);
        return false;
    }
    char path[FILE_PATH_MAX];
    file_path(path, folder, "catalogue.bin");
    Catalogue *catalogue = NULL;
    if (access(path, F_OK) == 0) {
        catalogue = catalogue_open(folder, &error);
        if (catalogue == NULL) problems_add(problems, "%s", error.text);
    }
    uint8_t *raw, *zip;
    int64_t done = 0;
    const bool room = mds_index_room(&raw, &zip, index, &error);
    if (!room) problems_add(problems, "%s", error.text);
    for (int64_t i = 0; i < index->shard_count && room; i++) {
        *samples_good += shard_verify(raw, zip, index, i,
                                      catalogue == NULL ? NULL : catalogue->rows + done, problems);
        done += index->shards[i].samples;
    }
    free(raw);
    free(zip);
    catalogue_close(catalogue);
    mds_index_free(index);
    return problems->count == before;
}
