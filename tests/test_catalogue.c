// catalogue: its rows say what the shards hold; it is refused when it is stale, cut, corrupt or
// newer; filters take rows away for the reason they name.
// ranks: 1
#include <math.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/checksum.h"
#include "data/info.h"
#include "tests/data_maker.h"

enum { N = 120 };
static const Maker maker = {0, N, 4, MDS_ZSTD, 16000};

static char *folder(char out[512], const char *name) {
    check_path(out, "%s", name);
    char index[600];
    snprintf(index, sizeof(index), "%s/index.json", out);
    if (access(index, F_OK) != 0) maker_build(&maker, out);
    return out;
}

static Catalogue *open_catalogue(const char *path) {
    Error error = {""};
    Catalogue *catalogue = catalogue_open(path, &error);
    check_that(catalogue != NULL, "%s", error.text);
    return catalogue;
}

static void test_rows(void **state) {
    (void)state;
    char path[512];
    Catalogue *catalogue = open_catalogue(folder(path, "rows"));
    check_that(catalogue->count == N, "%lld rows", (long long)catalogue->count);
    uint8_t *raw = malloc((size_t)catalogue->index->raw_bytes_max);
    uint8_t *zip = malloc((size_t)catalogue->index->zip_bytes_max);
    int64_t loaded = -1;
    for (int64_t i = 0; i < N; i++) {
        const CatalogueRow *row = &catalogue->rows[i];
        float latent[MAKER_ELEMENTS_MAX], text[128];
        const Sample want = maker_sample(&maker, i, latent, text);
        check_that(row->medium == want.medium &&
                       memcmp(&row->shape, &want.shape, sizeof(want.shape)) == 0 &&
                       row->text_length == want.text_length && row->text_width == 8 &&
                       row->fps == (float)want.fps &&
                       row->qualities[0] == (float)want.qualities[0] && isnan(row->qualities[1]),
                   "row %lld", (long long)i);
        Error error = {""};
        if (row->shard != loaded) {
            check_that(mds_shard_load(raw, zip, catalogue->index, row->shard, &error) == MDS_OK,
                       "%s", error.text);
        }
        loaded = row->shard;
        check_that(XXH3_64bits(raw + row->offset, row->bytes) == row->hash, "hash of %lld",
                   (long long)i);
    }
    check_that(loaded >= 5, "only %lld shards", (long long)loaded);
    free(raw);
    free(zip);
    catalogue_close(catalogue);
}

// Made twice it has the same bytes; another sample, another checksum.
static void test_checksum(void **state) {
    (void)state;
    char path[512], other[512];
    Catalogue *a = open_catalogue(folder(path, "rows"));
    Catalogue *b = open_catalogue(folder(path, "again"));
    check_path(other, "other");
    Maker changed = maker;
    changed.first = 1;
    maker_build(&changed, other);
    Catalogue *c = open_catalogue(other);
    check_that(catalogue_checksum(a) == catalogue_checksum(b), "equal data, other checksums");
    check_that(catalogue_checksum(a) != catalogue_checksum(c), "other data, equal checksums");
    catalogue_close(a);
    catalogue_close(b);
    catalogue_close(c);
}

static void refuse(const char *path, const char *part) {
    Error error = {""};
    Catalogue *catalogue = catalogue_open(path, &error);
    check_that(catalogue == NULL, "accepted, not refused with '%s'", part);
    check_contains(error.text, part);
}

static void test_refused(void **state) {
    (void)state;
    char path[512], file[512];
    folder(path, "refused");
    check_path(file, "refused/catalogue.bin");
    int64_t bytes;
    uint8_t *good = maker_read(file, &bytes);
    uint8_t *bad = malloc((size_t)bytes + 1);
    memcpy(bad, good, (size_t)bytes);
    maker_overwrite(file, good, bytes - 1);
    refuse(path, "samples need");
    maker_overwrite(file, good, 100);
    refuse(path, "not a catalogue");
    maker_overwrite(file, good, 0);
    refuse(path, "empty");
    bad[bytes] = 0;
    maker_overwrite(file, bad, bytes + 1);
    refuse(path, "samples need");
    bad[8] = CATALOGUE_VERSION + 1;
    maker_overwrite(file, bad, bytes);
    refuse(path, "is newer");
    bad[8] = 0;
    maker_overwrite(file, bad, bytes);
    refuse(path, "version 0");
    bad[8] = good[8];
    bad[50] ^= 1;
    maker_overwrite(file, bad, bytes);
    refuse(path, "header is corrupt");
    bad[50] ^= 1;
    bad[bytes - 200] ^= 1;
    maker_overwrite(file, bad, bytes);
    refuse(path, "rows are corrupt");
    unlink(file);
    refuse(path, "kintoun data catalogue");
    maker_overwrite(file, good, bytes);
    catalogue_close(open_catalogue(path));
    free(good);
    free(bad);
    // Stale: index.json or dataset.json is another one.
    check_path(file, "refused/dataset.json");
    maker_overwrite(file, "{}", 2);
    refuse(path, "another dataset.json");
    unlink(file);
    check_path(file, "refused/index.json");
    good = maker_read(file, &bytes);
    good[bytes] = '\n';
    maker_overwrite(file, good, bytes + 1);
    refuse(path, "another index.json");
    free(good);
}

// What follows from no writing, with checksums that fit: each would lead out of some memory.
static void change_rows(CatalogueHeader *header, CatalogueRow *rows, int change) {
    CatalogueRow *row = &rows[7];
    if (change == 0) row->offset = UINT64_MAX - 10;
    if (change == 1) row->bytes = UINT32_MAX;
    if (change == 2) row->index++;
    if (change == 3) row->shard = 1000;
    if (change == 4) row->shape.C = 0;
    if (change == 5) row->shape.W = INT32_MIN;
    if (change == 6) row->text_width = 0;
    if (change == 7) row->text_length = UINT32_MAX;
    if (change == 8) row->medium = 2;
    if (change == 9) row->medium = row->shape.F == 1 ? 2 : MEDIUM_IMAGE;
    if (change == 10) header->count--;
    if (change == 11) header->quality_count = 9;
    if (change == 12) memset(header->qualities[0], 'x', QUALITY_NAME_MAX);
    if (change == 13) header->channels = 5;
    if (change == 14) header->channels = 4;
    for (uint32_t c = 0; c < header->channels; c++) header->std[c] = change == 14 ? 0 : 1;
}

static void test_inconsistent(void **state) {
    (void)state;
    static const char *const parts[] = {"row 7 is not that of sample", "119 rows, index.json has",
                                        "header is corrupt"};
    char path[512], file[512];
    folder(path, "inconsistent");
    check_path(file, "inconsistent/catalogue.bin");
    int64_t bytes;
    uint8_t *good = maker_read(file, &bytes);
    for (int change = 0; change < 15; change++) {
        uint8_t *bad = malloc((size_t)bytes);
        memcpy(bad, good, (size_t)bytes);
        CatalogueHeader *header = (CatalogueHeader *)(void *)bad;
        CatalogueRow *rows = (CatalogueRow *)(void *)(header + 1);
        change_rows(header, rows, change);
        const int64_t row_bytes = header->count * (int64_t)sizeof(*rows);
        header->rows_crc = crc32c(0, rows, row_bytes);
        header->header_crc = crc32c(0, header, offsetof(CatalogueHeader, header_crc));
        maker_overwrite(file, bad, (int64_t)sizeof(*header) + row_bytes);
        refuse(path, change == 13 ? "row 0 is not" : parts[change < 10 ? 0 : change == 10 ? 1 : 2]);
        free(bad);
    }
    free(good);
}

// ---- dataset.json

static void build_with(const char *json, const char *part) {
    char path[512], file[512];
    folder(path, "facts");
    check_path(file, "facts/dataset.json");
    maker_overwrite(file, json, (int64_t)strlen(json));
    static Problems problems;
    problems.count = 0;
    const bool built = catalogue_build(path, &problems);
    check_that(built == (part == NULL), "%s: %s", json, problems.text[0]);
    if (part != NULL) check_contains(problems.text[0], part);
}

static void test_dataset_facts(void **state) {
    (void)state;
    char path[512];
    build_with("{\"latent\": {\"mean\": [1,2,3,4], \"std\": [1,1,2,0.5], \"applied\": false}}",
               NULL);
    Catalogue *catalogue = open_catalogue(folder(path, "facts"));
    check_that(catalogue->header->channels == 4 && catalogue->header->mean[2] == 3 &&
                   catalogue->header->std[3] == 0.5f,
               "statistics");
    catalogue_close(catalogue);
    build_with(
        "{\"latent\": {\"mean\": [1,2,3,4], \"std\": [1,1,2,0.5], \"applied\": true}, \"a\": 1}",
        NULL);
    catalogue = open_catalogue(path);
    check_that(catalogue->header->channels == 0, "applied twice");
    catalogue_close(catalogue);
    build_with("{\"name\": \"x\"}", NULL);
    build_with("{\"latent\": {\"mean\": [1,2], \"std\": [1], \"applied\": true}}", "of one length");
    build_with("{\"latent\": {\"mean\": [1,2], \"std\": [1, 1]}}", "applied, true or false");
    build_with("{\"latent\": {\"mean\": [1], \"std\": [0], \"applied\": false}}", "std > 0");
    build_with("{\"latent\": {\"mean\": [1], \"std\": [\"1\"], \"applied\": false}}",
               "latent.std[0]");
    build_with("{\"latent\": {\"mean\": [1,2], \"std\": [1,1], \"applied\": false}}",
               "4 latent channels");
    build_with("{\"latent\": ", "dataset.json:1:");
    build_with("[]", "not a JSON object");
}

// A bad shard or sample is named, and no catalogue is written.
static void test_build_refuses(void **state) {
    (void)state;
    char path[512], file[512];
    check_path(path, "broken");
    maker_write(&maker, path);
    check_path(file, "broken/shard.00001.mds.zstd");
    int64_t bytes;
    uint8_t *shard = maker_read(file, &bytes);
    shard[bytes / 2] ^= 4;
    maker_overwrite(file, shard, bytes);
    static Problems problems;
    problems.count = 0;
    check_that(!catalogue_build(path, &problems) && problems.count == 1, "%d problems",
               problems.count);
    check_contains(problems.text[0], "shard.00001.mds.zstd: XXH3");
    unlink(file);
    problems.count = 0;
    check_that(!catalogue_build(path, &problems), "a missing shard");
    check_contains(problems.text[0], "shard.00001.mds.zstd: cannot be opened");
    check_path(file, "broken/catalogue.bin");
    check_that(access(file, F_OK) != 0, "a catalogue was written");
    free(shard);
}

// Shards that would be as large as can be: nothing is taken for samples that are not there.
static void test_large_claims(void **state) {
    (void)state;
    static const char shard[] =
        "%s{\"version\":2,\"format\":\"mds\",\"compression\":null,\"zip_data\":null,\"samples\":"
        "1000000000,\"column_names\":[\"id\"],\"column_encodings\":[\"str\"],\"column_sizes\":["
        "null],"
        "\"raw_data\":{\"basename\":\"a.mds\",\"bytes\":4294967295,\"hashes\":{}}}";
    static char text[4096] = "{\"version\":2,\"shards\":[";
    for (int i = 0; i < 4; i++) {
        const size_t used = strlen(text);
        snprintf(text + used, sizeof(text) - used, shard, i > 0 ? "," : "");
    }
    strncat(text, "]}", 3);
    char path[512], file[512];
    Error error = {""};
    check_that(folder_create(check_path(path, "claims"), &error), "%s", error.text);
    maker_overwrite(check_path(file, "claims/index.json"), text, (int64_t)strlen(text));
    static Problems problems;
    problems.count = 0;
    check_that(!catalogue_build(path, &problems), "built");
    int64_t good;
    check_that(!data_verify(&good, path, &problems) && good == 0, "verified");
    check_contains(problems.text[0], "claims/");
}

// ---- filters

static StageData wide_open(void) {
    return (StageData){.steps = 1,
                       .packs = 1,
                       .tokens = 1 << 20,
                       .segments = 100,
                       .text_tokens = 100,
                       .image_share = 0.5,
                       .frames_min = 1,
                       .frames_max = 100,
                       .height_min = 1,
                       .height_max = 100,
                       .width_min = 1,
                       .width_max = 100};
}

static void check_judge(const StageData *stage, CatalogueRow row, RowVerdict want) {
    const ModelNeeds needs = {.channels = 4, .patch = {1, 2, 2}, .text_width = 8};
    const RowVerdict got = row_judge(&row, stage, &needs, (int[QUALITIES_MAX]){0, QUALITIES_MAX});
    check_that(got == want, "got '%s', want '%s'", row_verdict_names[got], row_verdict_names[want]);
}

static void test_filters(void **state) {
    (void)state;
    const CatalogueRow good = {.medium = MEDIUM_VIDEO,
                               .shape = {4, 5, 8, 6},
                               .text_length = 7,
                               .text_width = 8,
                               .fps = 24,
                               .qualities = {0.5f}};
    CatalogueRow row = good;
    StageData stage = wide_open();
    check_judge(&stage, row, ROW_PASSES);
    row.shape.C = 5;
    check_judge(&stage, row, ROW_CHANNELS);
    row = good;
    row.text_width = 9;
    check_judge(&stage, row, ROW_TEXT_WIDTH);
    row = good;
    row.shape.W = 7;
    check_judge(&stage, row, ROW_PATCH);
    stage.frames_max = 4;
    check_judge(&stage, good, ROW_FRAMES);
    stage = wide_open();
    stage.height_min = 9;
    check_judge(&stage, good, ROW_HEIGHT);
    stage = wide_open();
    stage.width_max = 5;
    check_judge(&stage, good, ROW_WIDTH);
    stage = wide_open();
    stage.text_tokens = 6;
    check_judge(&stage, good, ROW_TEXT_LONG);
    stage = wide_open();
    stage.tokens = 5 * 4 * 3;
    check_judge(&stage, good, ROW_PASSES);
    stage.tokens--;
    check_judge(&stage, good, ROW_TOKENS);
    stage = wide_open();
    stage.image_share = 1;
    check_judge(&stage, good, ROW_SHARE);
    stage = wide_open();
    stage.filter_count = 2;
    stage.filters[0] = (QualityFilter){"aesthetic", 0.5, 1};
    stage.filters[1] = (QualityFilter){"fps", 20, 30};
    check_judge(&stage, good, ROW_PASSES);
    row = good;
    row.qualities[0] = 0.4f;
    check_judge(&stage, row, ROW_QUALITY);
    row.qualities[0] = NAN;
    check_judge(&stage, row, ROW_QUALITY);
    row = good;
    row.fps = 31;
    check_judge(&stage, row, ROW_QUALITY);
}

static void test_qualities(void **state) {
    (void)state;
    char path[512];
    Catalogue *catalogue = open_catalogue(folder(path, "rows"));
    check_that(catalogue_quality(catalogue, "aesthetic") == 0, "aesthetic");
    check_that(catalogue_quality(catalogue, "fps") == QUALITIES_MAX, "fps");
    check_that(catalogue_quality(catalogue, "motion") == -1, "motion");
    catalogue_close(catalogue);
}

// ---- data info, data verify

static void test_info_and_verify(void **state) {
    (void)state;
    char path[512], file[512], text[4096] = "";
    folder(path, "shown");
    Error error = {""};
    FILE *out = fmemopen(text, sizeof(text), "w");
    check_that(data_info(out, path, &error), "%s", error.text);
    fclose(out);
    check_contains(text, "120 samples in");
    check_contains(text, "90 images, 30 videos");
    check_contains(text, "quality 'aesthetic'");
    check_contains(text, "text_embedding_shape (ndarray:int64)");
    static Problems problems;
    problems.count = 0;
    int64_t good;
    check_that(data_verify(&good, path, &problems) && good == N, "%s", problems.text[0]);
    check_path(file, "shown/shard.00000.mds.zstd");
    int64_t bytes;
    uint8_t *shard = maker_read(file, &bytes);
    maker_overwrite(file, shard, bytes - 3);
    free(shard);
    check_that(!data_verify(&good, path, &problems) && good < N && problems.count == 1, "verify");
    check_contains(problems.text[0], "shard.00000.mds.zstd");
    check_that(!data_info(stdout, check_path(file, "nowhere"), &error), "nowhere");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),          cmocka_unit_test(test_checksum),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_dataset_facts),
        cmocka_unit_test(test_build_refuses), cmocka_unit_test(test_filters),
        cmocka_unit_test(test_qualities),     cmocka_unit_test(test_info_and_verify),
        cmocka_unit_test(test_inconsistent),  cmocka_unit_test(test_large_claims),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
