// MDS: shards written by MosaicML's own writer give the values they should, raw and compressed;
// what our writer writes comes back and lies in the shard as theirs does; an index or a value that
// does not fit together is refused with its place; pickles and names that lead out are refused.
// ranks: 1
#include <math.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/checksum.h"
#include "tests/data_maker.h"

static MdsIndex *open_index(const char *folder) {
    Error error = {""};
    MdsIndex *index = mds_index_open(folder, &error);
    check_that(index != NULL, "%s", error.text);
    return index;
}

static uint8_t *load(const MdsIndex *index, int64_t shard) {
    Error error = {""};
    uint8_t *raw = malloc((size_t)index->raw_bytes_max);
    uint8_t *zip = malloc((size_t)index->zip_bytes_max + 1);
    const MdsStatus status = mds_shard_load(raw, zip, index, shard, &error);
    free(zip);
    check_that(status == MDS_OK, "%s", error.text);
    check_that(mds_shard_check(&index->shards[shard], raw, &error), "%s", error.text);
    return raw;
}

// ---- golden shards

static void check_line(const char *line, const Sample *sample) {
    char got[512];
    const LatentShape s = sample->shape;
    snprintf(got, sizeof(got), "%s %s %lld %lld %lld %g %d %d %d %d %08x %lld %lld %08x %08x\n",
             sample->id, sample->medium == MEDIUM_VIDEO ? "video" : "image",
             (long long)sample->width, (long long)sample->height, (long long)sample->num_frames,
             sample->fps, s.C, s.F, s.H, s.W, crc32c(0, sample->latent, 2 * latent_elements(s)),
             (long long)sample->text_length, (long long)sample->text_width,
             crc32c(0, sample->text, 2 * sample->text_length * sample->text_width),
             crc32c(0, sample->caption, sample->caption_bytes));
    check_that(strcmp(got, line) == 0, "got %swant %s", got, line);
}

static void check_golden(const char *folder) {
    MdsIndex *index = open_index(folder);
    const MdsShard *shard = &index->shards[0];
    uint8_t *raw = load(index, 0);
    FILE *expected = fopen("tests/golden/mds/expected.txt", "r");
    check_that(expected != NULL, "no tests/golden/mds/expected.txt");
    char line[512];
    int64_t i = 0;
    for (; fgets(line, sizeof(line), expected) != NULL; i++) {
        Sample sample;
        Error error = {""};
        check_that(sample_read(&sample, shard, mds_sample(shard, raw, i), NULL, 0, &error), "%s",
                   error.text);
        check_that(sample.latent_type == STORED_BFLOAT16, "type %d", (int)sample.latent_type);
        check_line(line, &sample);
    }
    check_that(i == 7 && index->sample_count == 7, "%lld samples", (long long)i);
    fclose(expected);
    free(raw);
    mds_index_free(index);
}

static void test_golden_raw(void **state) {
    (void)state;
    check_golden("tests/golden/mds/raw");
}

static void test_golden_zstd(void **state) {
    (void)state;
    check_golden("tests/golden/mds/zstd");
    MdsIndex *index = open_index("tests/golden/mds/zstd");
    const MdsShard *shard = &index->shards[0];
    check_that(shard->zip.has_xxh3 && shard->raw.has_xxh3, "hashes not found");
    check_that(strcmp(shard->zip.unverified, "sha1") == 0, "unverified: %s", shard->zip.unverified);
    mds_index_free(index);
}

// Other columns of the golden shards: arrays with and without type and shape, json.
static void test_golden_arrays(void **state) {
    (void)state;
    MdsIndex *index = open_index("tests/golden/mds/raw");
    const MdsShard *shard = &index->shards[0];
    uint8_t *raw = load(index, 0);
    for (int64_t i = 0; i < 7; i++) {
        MdsValue values[MDS_COLUMNS_MAX];
        Error error = {""};
        check_that(mds_sample_split(values, shard, mds_sample(shard, raw, i), &error), "%s",
                   error.text);
        MdsArray array;
        const int dyn = mds_column_find(shard, "dyn"), fixed = mds_column_find(shard, "fixed");
        check_that(mds_decode_array(&array, "ndarray", values[dyn], &error), "%s", error.text);
        check_that(array.dims == 1 && array.count == i + 1 && strcmp(array.type, "f32") == 0,
                   "dyn: %d dims, %lld of %s", array.dims, (long long)array.count, array.type);
        float last;
        memcpy(&last, (const uint8_t *)array.data + 4 * i, 4);
        check_that(last == (float)i, "dyn ends with %g", (double)last);
        check_that(mds_decode_array(&array, shard->columns[fixed].encoding, values[fixed], &error),
                   "%s", error.text);
        check_that(array.dims == 2 && array.shape[0] == 2 && array.shape[1] == 3, "fixed's shape");
    }
    free(raw);
    mds_index_free(index);
}

// The golden samples through our writer: the same bytes, raw and compressed.
static void rewrite(MdsCompression compression) {
    MdsIndex *golden = open_index("tests/golden/mds/raw");
    const MdsShard *from = &golden->shards[0];
    uint8_t *want = load(golden, 0);
    char path[512];
    check_path(path, "rewritten-%d", (int)compression);
    Error error = {""};
    MdsColumn columns[MDS_COLUMNS_MAX];
    const int n = from->column_count;
    for (int c = 0; c < n; c++) columns[c] = from->columns[n - 1 - c];  // In another order.
    MdsWriter *writer = mds_writer_create(path, columns, n, compression, 1 << 20, &error);
    check_that(writer != NULL, "%s", error.text);
    for (int64_t i = 0; i < 7; i++) {
        MdsValue values[MDS_COLUMNS_MAX], turned[MDS_COLUMNS_MAX];
        check_that(mds_sample_split(values, from, mds_sample(from, want, i), &error), "%s",
                   error.text);
        for (int c = 0; c < n; c++) turned[c] = values[n - 1 - c];
        check_that(mds_writer_add(writer, turned, &error), "%s", error.text);
    }
    check_that(mds_writer_close(writer, &error), "%s", error.text);
    MdsIndex *index = open_index(path);
    uint8_t *got = load(index, 0);
    check_that(index->shard_count == 1 && index->sample_count == 7, "count");
    for (int64_t i = 0; i < 7; i++) {
        const MdsValue a = mds_sample(&index->shards[0], got, i), b = mds_sample(from, want, i);
        check_that(a.bytes == b.bytes && memcmp(a.data, b.data, (size_t)a.bytes) == 0,
                   "sample %lld differs", (long long)i);
    }
    check_that(index->shards[0].raw.has_xxh3, "no hash was written");
    check_that((index->shards[0].zip.name != NULL) == (compression == MDS_ZSTD), "compression");
    free(got);
    free(want);
    mds_index_free(index);
    mds_index_free(golden);
}

static void test_rewrite(void **state) {
    (void)state;
    rewrite(MDS_PLAIN);
    rewrite(MDS_ZSTD);
}

// ---- the writer

static void test_size_limit(void **state) {
    (void)state;
    char path[512];
    check_path(path, "limit/below");
    Error error = {""};
    const MdsColumn column = {"b", "bytes", 0};
    MdsWriter *writer = mds_writer_create(path, &column, 1, MDS_PLAIN, 2000, &error);
    check_that(writer != NULL, "%s", error.text);
    static uint8_t data[5000];
    const int64_t sizes[] = {500, 500, 5000, 500, 0, 900, 900};
    for (int i = 0; i < 7; i++) {
        memset(data, i, sizeof(data));
        check_that(mds_writer_add(writer, &(MdsValue){data, sizes[i]}, &error), "%s", error.text);
    }
    check_that(mds_writer_close(writer, &error), "%s", error.text);
    MdsIndex *index = open_index(path);
    const int64_t want[] = {2, 1, 3, 1};
    int64_t n = 0;
    check_that(index->shard_count == 4, "%lld shards", (long long)index->shard_count);
    for (int64_t s = 0; s < 4; s++) {
        const MdsShard *shard = &index->shards[s];
        check_that(shard->samples == want[s], "shard %lld: %lld", (long long)s,
                   (long long)shard->samples);
        check_that(shard->raw.bytes <= 2000 || shard->samples == 1, "a shard is too large");
        uint8_t *raw = load(index, s);
        for (int64_t i = 0; i < shard->samples; i++, n++) {
            MdsValue value;
            check_that(mds_sample_split(&value, shard, mds_sample(shard, raw, i), &error), "%s",
                       error.text);
            check_that(value.bytes == sizes[n], "sample %lld", (long long)n);
            check_that(value.bytes == 0 || *(const uint8_t *)value.data == n, "its bytes");
        }
        free(raw);
    }
    mds_index_free(index);
    writer = mds_writer_create(path, &column, 1, MDS_PLAIN, 2000, &error);
    check_that(writer == NULL, "a data set was overwritten");
    check_contains(error.text, "already there");
}

static void refuse_columns(const MdsColumn *columns, int count, const char *part) {
    char path[512];
    check_path(path, "columns");
    Error error = {""};
    check_that(mds_writer_create(path, columns, count, MDS_PLAIN, 1 << 20, &error) == NULL,
               "accepted: %s", part);
    check_contains(error.text, part);
}

static void test_writer_refuses(void **state) {
    (void)state;
    refuse_columns((MdsColumn[]){{"a", "pkl", 0}}, 1, "'pkl' cannot be written");
    refuse_columns((MdsColumn[]){{"a", "int33", 0}}, 1, "'int33'");
    refuse_columns((MdsColumn[]){{"a", "int", 0}, {"a", "str", 0}}, 2, "two columns");
    refuse_columns(NULL, 0, "0 columns");
    char path[512];
    check_path(path, "columns");
    Error error = {""};
    const MdsColumn column = {"a", "int", 0};
    check_that(mds_writer_create(path, &column, 1, MDS_PLAIN, 5, &error) == NULL, "size limit");
    check_contains(error.text, "1024 to 2^32");
    MdsWriter *writer = mds_writer_create(path, &column, 1, MDS_PLAIN, 5000, &error);
    check_that(!mds_writer_add(writer, &(MdsValue){"abc", 3}, &error), "3 bytes of an int");
    check_contains(error.text, "a value of 3 bytes");
    mds_writer_abandon(writer);
    check_path(path, "file");
    maker_overwrite(path, "x", 1);
    check_that(mds_writer_create(path, &column, 1, MDS_PLAIN, 5000, &error) == NULL, "a file");
    check_contains(error.text, "not a folder");
}

// ---- the index

// The golden index with `from` replaced by `to` must be refused with a text that has `part`.
static void refuse_index(const char *from, const char *to, const char *part) {
    char path[512], folder[512], text[4096];
    int64_t bytes;
    uint8_t *golden = maker_read("tests/golden/mds/zstd/index.json", &bytes);
    const char *at = strstr((char *)golden, from);
    check_that(at != NULL, "'%s' is not in the index", from);
    snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - (char *)golden), (char *)golden, to,
             at + strlen(from));
    free(golden);
    check_path(folder, "index");
    mkdir(folder, 0777);
    check_path(path, "index/index.json");
    maker_overwrite(path, text, (int64_t)strlen(text));
    Error error = {""};
    check_that(mds_index_open(folder, &error) == NULL, "accepted: %s", text);
    check_contains(error.text, "index.json");
    check_contains(error.text, part);
}

static void test_index_refused(void **state) {
    (void)state;
    refuse_index("\"version\": 2}", "\"version\": 3}", "version must be 2");
    refuse_index("\"version\": 2,", "\"version\": 3,", "shards[0].version");
    refuse_index("\"mds\"", "\"csv\"", "must be 'mds'");
    refuse_index("\"json\"", "\"pkl\"", "pickled");
    refuse_index("\"json\"", "\"yaml\"", "unknown encoding 'yaml'");
    refuse_index("zstd:3", "gz:3", "only zstd");
    refuse_index("\"zstd:3\"", "null", "zip_data");
    refuse_index("shard.00000.mds.zstd", "/etc/passwd", "stays in the folder");
    refuse_index("shard.00000.mds.zstd", "a/../../b", "stays in the folder");
    refuse_index("shard.00000.mds.zstd", "..", "stays in the folder");
    refuse_index("shard.00000.mds.zstd", "a//b", "stays in the folder");
    refuse_index("\"samples\": 7", "\"samples\": -7", "samples");
    refuse_index("\"samples\": 7", "\"samples\": 700000", "samples");
    refuse_index("\"samples\": 7", "\"samples\": 7.5", "whole number");
    refuse_index("\"bytes\": 16033", "\"bytes\": 160330000000", "bytes");
    refuse_index("null, 24, 4", "null, 25, 4", "column 'fixed'");
    refuse_index("\"dyn\", \"fixed\"", "\"fixed\", \"dyn\"", "sorted");
    refuse_index("\"caption\", \"dyn\"", "\"dyn\", \"dyn\"", "sorted");
    refuse_index("63298959be6c18b8", "63298959be6c18b", "16 hexadecimal");
    refuse_index("\"samples\": 7", "\"samples\": 7, \"samples\": 7", "duplicate");
    refuse_index("{", "[", "not JSON");
    refuse_index("\"shards\"", "\"shrads\"", "'shards' must be a list");
    Error error = {""};
    check_that(mds_index_open("tests/golden/nowhere", &error) == NULL, "a missing folder");
    check_contains(error.text, "tests/golden/nowhere/index.json");
}

// Merged indexes name shards in folders below; every hash that is named must hold.
static void test_index_accepts(void **state) {
    (void)state;
    char path[512], folder[512];
    int64_t bytes;
    uint8_t *raw = maker_read("tests/golden/mds/raw/shard.00000.mds", &bytes);
    check_path(folder, "merged");
    mkdir(folder, 0777);
    check_path(path, "merged/0-0");
    mkdir(path, 0777);
    check_path(path, "merged/0-0/shard.mds");
    maker_overwrite(path, raw, bytes);
    for (int wrong = 0; wrong < 2; wrong++) {
        char text[1024];
        snprintf(
            text, sizeof(text),
            "{\"version\": 2, \"shards\": [{\"version\": 2, \"format\": \"mds\", \"samples\": 7, "
            "\"compression\": null, \"zip_data\": null, \"column_names\": [\"x\"], "
            "\"column_encodings\": [\"bytes\"], \"column_sizes\": [null], \"raw_data\": "
            "{\"basename\": \"0-0/shard.mds\", \"bytes\": %lld, \"hashes\": {\"md5\": \"0\", "
            "\"xxh64\": \"%016llx\"}}}]}",
            (long long)bytes, (unsigned long long)XXH64(raw, (size_t)bytes, 0) + (unsigned)wrong);
        check_path(path, "merged/index.json");
        maker_overwrite(path, text, (int64_t)strlen(text));
        MdsIndex *index = open_index(folder);
        uint8_t *got = malloc((size_t)bytes);
        Error error = {""};
        const MdsStatus status = mds_shard_load(got, NULL, index, 0, &error);
        check_that(status == (wrong ? MDS_CORRUPT : MDS_OK), "xxh64, wrong %d: %s", wrong,
                   error.text);
        if (wrong) check_contains(error.text, "XXH64");
        free(got);
        mds_index_free(index);
    }
    free(raw);
}

// ---- values

static void refuse_array(const char *encoding, const char *value, int64_t bytes, const char *part) {
    MdsArray array;
    Error error = {""};
    check_that(!mds_decode_array(&array, encoding, (MdsValue){value, bytes}, &error),
               "accepted: %s", part);
    check_contains(error.text, part);
}

static void test_arrays_refused(void **state) {
    (void)state;
    refuse_array("str", "", 0, "not an array");
    refuse_array("ndarray:int65", "", 0, "not an array");
    refuse_array("ndarray:uint8:2,,3", "", 0, "not an array");
    refuse_array("ndarray:uint8:2,-3", "", 0, "not an array");
    refuse_array("ndarray:uint8:2,3", "abcde", 5, "6 elements in 5 bytes");
    refuse_array("ndarray", "", 0, "no bytes");
    refuse_array("ndarray", "\x07", 1, "unknown type 7");
    refuse_array("ndarray", "\x08", 1, "without dimensions");
    refuse_array("ndarray:uint8", "\x04", 1, "cut in its head");
    refuse_array("ndarray:uint8", "\x04\x03\x01\x02", 4, "3 elements in 2 bytes");
    refuse_array("ndarray:uint8", "\x40\x01", 2, "16 dimensions");
    refuse_array("ndarray:uint8", "\x07\xff\xff\xff\xff\xff\xff\xff\xff", 9, "beyond 2^31");
    refuse_array("ndarray:uint8",
                 "\x12\xff\xff\xff\x7f\xff\xff\xff\x7f\xff\xff\xff\x7f\xff\xff\xff\x7f", 17,
                 "overflows");
}

static void test_numbers(void **state) {
    (void)state;
    const int8_t small = -3;
    const int64_t whole = -5;
    const float real_number = 1.5f;
    double got;
    Error error = {""};
    check_that(mds_decode_number(&got, "int8", (MdsValue){&small, 1}, &error) && got == -3, "int8");
    check_that(mds_decode_number(&got, "int", (MdsValue){&whole, 8}, &error) && got == -5, "int");
    check_that(
        mds_decode_number(&got, "float32", (MdsValue){&real_number, 4}, &error) && got == 1.5,
        "float32");
    check_that(mds_decode_number(&got, "str_float", (MdsValue){"2.5e1", 5}, &error) && got == 25,
               "str_float");
    check_that(!mds_decode_number(&got, "str_int", (MdsValue){"2x", 2}, &error), "2x");
    check_that(!mds_decode_number(&got, "str_int", (MdsValue){"2\0003", 3}, &error), "2, NUL, 3");
    check_that(!mds_decode_number(&got, "int", (MdsValue){&whole, 4}, &error), "4 bytes of 8");
    check_that(!mds_decode_number(&got, "str", (MdsValue){"1", 1}, &error), "str");
}

// Every float16 becomes a float and comes back; rounding is to nearest, ties to even.
static void test_stored(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const uint16_t half = (uint16_t)bits;
        uint16_t back;
        float value;
        const bool finite = stored_to_float(&value, &half, STORED_FLOAT16, 1);
        check_that(finite == ((bits >> 10 & 31) != 31), "%04x finite", bits);
        stored_from_float(&back, STORED_FLOAT16, &value, 1);
        check_that(back == half || isnan(value), "%04x came back as %04x", bits, back);
    }
    const float values[] = {1.0f + 0x1p-11f, 1.0f + 3 * 0x1p-11f, 65519.0f,  65520.0f,
                            0x1p-25f,        0x1.8p-25f,          -0x1p-24f, 0x1.ffcp-15f};
    const uint16_t want[] = {0x3c00, 0x3c02, 0x7bff, 0x7c00, 0, 1, 0x8001, 0x0400};
    uint16_t got[8];
    stored_from_float(got, STORED_FLOAT16, values, 8);
    check_equal("halves", got, want, 8);
    const uint16_t bf16 = 0x3fc0;
    float value;
    check_that(stored_to_float(&value, &bf16, STORED_BFLOAT16, 1) && value == 1.5f, "bfloat16");
}

// Our samples come back as they went in.
static void test_samples(void **state) {
    (void)state;
    const Maker maker = {0, 40, 3, MDS_ZSTD, 16000};
    char folder[512];
    check_path(folder, "samples");
    maker_write(&maker, folder);
    MdsIndex *index = open_index(folder);
    check_that(index->shard_count > 3 && index->column_set_count == 1, "%lld shards, %lld sets",
               (long long)index->shard_count, (long long)index->column_set_count);
    int64_t n = 0;
    for (int64_t s = 0; s < index->shard_count; s++) {
        const MdsShard *shard = &index->shards[s];
        uint8_t *raw = load(index, s);
        for (int64_t i = 0; i < shard->samples; i++, n++) {
            float latent[MAKER_ELEMENTS_MAX], text[128], got[MAKER_ELEMENTS_MAX];
            const Sample want = maker_sample(&maker, n, latent, text);
            char names[QUALITIES_MAX][QUALITY_NAME_MAX];
            Sample sample;
            Error error = {""};
            check_that(sample_qualities(names, shard) == 1, "qualities");
            check_that(sample_read(&sample, shard, mds_sample(shard, raw, i), names, 1, &error),
                       "%s", error.text);
            check_that(strcmp(sample.id, want.id) == 0 && sample.medium == want.medium &&
                           memcmp(&sample.shape, &want.shape, sizeof(want.shape)) == 0 &&
                           sample.text_length == want.text_length && sample.width == 64 &&
                           sample.num_frames == want.num_frames && sample.fps == want.fps &&
                           sample.qualities[0] == want.qualities[0],
                       "sample %lld: facts", (long long)n);
            stored_to_float(got, sample.latent, sample.latent_type, latent_elements(want.shape));
            check_close("latent", got, latent, latent_elements(want.shape), n % 2 ? 0 : 0.004);
            stored_to_float(got, sample.text, sample.text_type, want.text_length * 8);
            if (want.text_length > 0) check_close("text", got, text, want.text_length * 8, 0);
        }
        free(raw);
    }
    check_that(n == 40, "%lld samples", (long long)n);
    mds_index_free(index);
}

static void test_samples_refused(void **state) {
    (void)state;
    char folder[512];
    check_path(folder, "refused");
    Error error = {""};
    MdsWriter *writer = sample_writer_create(folder, NULL, 0, MDS_PLAIN, 1 << 20, &error);
    float latent[MAKER_ELEMENTS_MAX], text[128];
    const Maker maker = {0, 40, 3, MDS_PLAIN, 0};
    Sample sample = maker_sample(&maker, 1, latent, text);
    latent[7] = NAN;
    check_that(!sample_write(writer, &sample, &error), "NaN");
    check_contains(error.text, "not finite");
    latent[7] = 0;
    sample.shape.H = 0;
    check_that(!sample_write(writer, &sample, &error), "no height");
    check_contains(error.text, "'sample-1': latent [4, 1, 0,");
    sample = maker_sample(&maker, 3, latent, text);
    sample.medium = MEDIUM_IMAGE;
    check_that(!sample_write(writer, &sample, &error), "an image with frames");
    check_contains(error.text, "an image of");
    mds_writer_abandon(writer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_raw),      cmocka_unit_test(test_golden_zstd),
        cmocka_unit_test(test_golden_arrays),   cmocka_unit_test(test_rewrite),
        cmocka_unit_test(test_size_limit),      cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_index_refused),   cmocka_unit_test(test_index_accepts),
        cmocka_unit_test(test_arrays_refused),  cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_stored),          cmocka_unit_test(test_samples),
        cmocka_unit_test(test_samples_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
