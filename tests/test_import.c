// import: tars of Python's tarfile, in both of its layouts, and folders become a data set with the
// right values; pickles, cut tars, arrays that do not fit are refused with the file's name, and
// then no data set is made.
// ranks: 1
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/safetensors.h"
#include "data/command.h"
#include "data/import.h"
#include "tests/data_maker.h"

static bool import(const char *out, const char *input, ImportCounts *counts, Problems *problems) {
    char folder[512], copy[512];
    snprintf(copy, sizeof(copy), "%s", input);
    problems->count = 0;
    return data_import(counts, check_path(folder, "%s", out), (char *[]){copy}, 1, problems);
}

// Sample i of tests/golden/import.py.
static void check_golden(const Sample *sample, int64_t i) {
    float got[512], want[512];
    char text[64];
    const LatentShape s = sample->shape;
    check_that(s.C == 2 && s.F == 1 + i && s.H == 4 && s.W == 6, "[%d, %d, %d, %d]", s.C, s.F, s.H,
               s.W);
    for (int e = 0; e < 512; e++) want[e] = (float)i + (float)e / 8;
    check_that(stored_to_float(got, sample->latent, sample->latent_type, latent_elements(s)),
               "finite");
    check_close("latent", got, want, latent_elements(s), 0);
    check_that(sample->text_length == i && sample->text_width == 3, "text");
    stored_to_float(got, sample->text, sample->text_type, 3 * i);
    if (i > 0) check_close("text", got, want, 3 * i, 0);
    snprintf(text, sizeof(text), "caption %lld", (long long)i);
    const char *caption = i == 1 ? "from the json" : text;
    check_that(sample->caption_bytes == (int64_t)strlen(caption) &&
                   memcmp(sample->caption, caption, strlen(caption)) == 0,
               "caption '%.*s'", (int)sample->caption_bytes, sample->caption);
    check_that(sample->medium == (i > 0 ? MEDIUM_VIDEO : MEDIUM_IMAGE), "medium");
    check_that(sample->fps == 8 * (double)i && sample->width == 48 && sample->height == 32 &&
                   sample->num_frames == 4 * i + 1 && sample->qualities[0] == (double)i / 4,
               "facts");
    check_that(strncmp(sample->id, "train/", 6) == 0, "id '%s'", sample->id);
}

static void check_tar(const char *out, const char *input) {
    static Problems problems;
    ImportCounts counts;
    check_that(import(out, input, &counts, &problems), "%s", problems.text[0]);
    check_that(counts.samples == 4 && counts.passed_over == 4 && counts.left_out == 0,
               "%lld samples, %lld passed over", (long long)counts.samples,
               (long long)counts.passed_over);
    char folder[512];
    Error error = {""};
    Catalogue *catalogue = catalogue_open(check_path(folder, "%s", out), &error);
    check_that(catalogue != NULL && catalogue->count == 4, "%s", error.text);
    check_that(catalogue_quality(catalogue, "motion") == 0, "no quality 'motion'");
    const MdsShard *shard = &catalogue->index->shards[0];
    uint8_t *raw = malloc((size_t)catalogue->index->raw_bytes_max);
    uint8_t *zip = malloc((size_t)catalogue->index->zip_bytes_max);
    check_that(mds_shard_load(raw, zip, catalogue->index, 0, &error) == MDS_OK, "%s", error.text);
    for (int64_t i = 0; i < 4; i++) {
        Sample sample;
        char names[1][QUALITY_NAME_MAX] = {"motion"};
        check_that(sample_read(&sample, shard, mds_sample(shard, raw, i), names, 1, &error), "%s",
                   error.text);
        check_golden(&sample, i);
    }
    free(raw);
    free(zip);
    catalogue_close(catalogue);
}

static void test_tars(void **state) {
    (void)state;
    check_tar("from-pax", "tests/golden/import/pax.tar");
    check_tar("from-gnu", "tests/golden/import/gnu.tar");
}

// ---- folders

static void put(const char *name, const void *data, int64_t bytes) {
    char path[512];
    check_path(path, "in");
    mkdir(path, 0777);
    maker_overwrite(check_path(path, "in/%s", name), data, bytes);
}

// Empties the input folder and puts one good sample, 'a', there.
static void fresh(void) {
    char path[512];
    Error error = {""};
    check_that(folder_remove(check_path(path, "in"), &error), "%s", error.text);
    put("a.txt", "a", 1);
    static float latent[48], text[6];
    const TensorData tensors[] = {{"vae_latent", DTYPE_F32, 3, {2, 4, 6}, latent},
                                  {"prompt_embeds", DTYPE_F32, 2, {2, 3}, text}};
    check_path(path, "in/a.safetensors");
    check_that(safetensors_write(path, tensors, 2, &error), "%s", error.text);
}

static void refuse(const char *part) {
    static Problems problems;
    ImportCounts counts;
    char input[512], path[512];
    check_path(input, "in");
    const bool done = import("refused", input, &counts, &problems);
    check_that(!done, "accepted, not refused with '%s'", part);
    check_contains(problems.text[0], part);
    check_that(access(check_path(path, "refused/index.json"), F_OK) != 0, "a data set was made");
}

static void test_folder(void **state) {
    (void)state;
    static Problems problems;
    ImportCounts counts;
    char input[512];
    fresh();
    put("readme", "x", 1);
    put("b.jpg", "x", 1);
    check_that(import("folder", check_path(input, "in"), &counts, &problems), "%s",
               problems.text[0]);
    check_that(counts.samples == 1 && counts.passed_over == 1, "%lld samples",
               (long long)counts.samples);
}

static void test_refused(void **state) {
    (void)state;
    const char *const pickles[] = {"b.pt", "b.latent.pth", "b.text.pickle", "b.pkl", "b.meta"};
    for (int i = 0; i < 5; i++) {
        fresh();
        put(pickles[i], "x", 1);
        refuse("a pickle, which would run code");
    }
    fresh();
    put("b.latent.npy", "xxxxxxxxxxxxxxxx", 16);
    refuse("b.latent.npy: not an npy file");
    fresh();
    put("a.latent.npy", "\x93NUMPY\x01\x00\x76\x00", 10);
    refuse("a cut header");
    fresh();
    put("a.safetensors", "xxxxxxxxxxxxxxxx", 16);
    refuse("a.safetensors");
    fresh();
    put("a.json", "[1]", 3);
    refuse("not a JSON object");
    fresh();
    put("b.txt", "no latent", 9);
    refuse("sample 'b': has no latent");
    char path[512], input[512];
    Error error = {""};
    folder_remove(check_path(path, "in"), &error);
    put("b.jpg", "x", 1);
    refuse("nothing to import");
    static Problems problems;
    ImportCounts counts;
    check_that(!import("refused", check_path(input, "nowhere"), &counts, &problems), "nowhere");
    check_contains(problems.text[0], "nowhere: cannot be read");
}

// Every npy header that is not understood, in one file each.
static void refuse_npy(const char *header, int64_t elements, const char *part) {
    static char file[4096];
    memset(file, 0, sizeof(file));
    memcpy(file, "\x93NUMPY\x01\x00", 8);
    const uint16_t length = (uint16_t)strlen(header);
    memcpy(file + 8, &length, 2);
    memcpy(file + 10, header, length);
    fresh();
    put("b.text.npy", file, 10 + (int64_t)length + 4 * elements);
    refuse(part);
}

static void test_npy_refused(void **state) {
    (void)state;
    refuse_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2), }", 4, "'<f2' and '<f4'");
    refuse_npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 2), }", 4, "'<f2' and '<f4'");
    refuse_npy("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2), }", 2, "fortran_order");
    refuse_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }", 2, "does not fit");
    refuse_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, -3), }", 2, "does not fit");
    refuse_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2", 2, "does not fit");
    refuse_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 2, "of 1 dimensions");
    refuse_npy("{}", 2, "is missing");
}

// Cut anywhere or with a flipped bit in a header, a tar is refused or its samples are whole; it
// never crashes.
static void test_broken_tars(void **state) {
    (void)state;
    int64_t bytes;
    uint8_t *tar = maker_read("tests/golden/import/pax.tar", &bytes);
    int refused = 0;
    static Problems problems;
    for (uint64_t n = 0; n < 150; n++) {
        char path[512], out[512];
        uint8_t *bad = malloc((size_t)bytes);
        memcpy(bad, tar, (size_t)bytes);
        const int64_t at = rng_bits(4, RNG_TEST, n, 0) % 20000;
        if (n % 2 == 0) bad[at] ^= (uint8_t)(1u << rng_bits(4, RNG_TEST, n, 1) % 8);
        maker_overwrite(check_path(path, "bad.tar"), bad, n % 2 == 0 ? bytes : at);
        free(bad);
        ImportCounts counts;
        snprintf(out, sizeof(out), "broken-%llu", (unsigned long long)n);
        refused += !import(out, path, &counts, &problems);
        if (problems.count > 0) check_contains(problems.text[0], "bad.tar");
    }
    check_that(refused > 60, "only %d refused", refused);
    free(tar);
}

// A tar of one member with this header, and what is wrong with it.
static void refuse_header(char type, const char *octal, const void *data, int64_t bytes,
                          const char *part) {
    static char tar[4096];
    static Problems problems;
    char path[512];
    int sum = 0;
    ImportCounts counts;
    memset(tar, 0, sizeof(tar));
    snprintf(tar, 100, "a.json");
    memcpy(tar + 124, octal, strlen(octal));
    memset(tar + 148, ' ', 8);
    tar[156] = type;
    for (int i = 0; i < 512; i++) sum += (unsigned char)tar[i];
    snprintf(tar + 148, 8, "%06o", (unsigned)sum % 262144);
    memcpy(tar + 512, data, (size_t)bytes);
    maker_overwrite(check_path(path, "header.tar"), tar, 512 + (bytes + 511) / 512 * 512);
    check_that(!import("header", path, &counts, &problems), "accepted, not '%s'", part);
    check_contains(problems.text[0], part);
}

static void test_headers_refused(void **state) {
    (void)state;
    static char name[2048];
    memset(name, 'n', sizeof(name));
    refuse_header('0', "40000000000", "{}", 2, "ends inside of a member");  // 4 GiB, not taken.
    refuse_header('L', "37777777777", "{}", 2, "a member's size");
    refuse_header('L', "00000003000", name, 1536, "a header of a long name");
    memcpy(name, "1500 path=", 10);
    name[1499] = '\n';
    refuse_header('x', "00000002734", name, 1500, "a header of a long name");
    refuse_header('x', "00000000016", "14 size=12345\n", 14, "cut in a header");
    refuse_header('x', "00000000016", "14 size=1234x\n", 14, "or size");
    refuse_header('x', "00000000016", "14 size=-1234\n", 14, "or size");
    refuse_header('x', "00000000021", "\n\n\n\n\n5 path=nnnn\n", 17, "or size");
    refuse_header('S', "00000000002", "{}", 2, "--sparse");
}

static void test_captions(void **state) {
    (void)state;
    fresh();
    put("a.txt", "\xff\xc3\xa9\xc3\r\n", 6);
    char json[300] = "{\"id\": \"";
    for (int i = 0; i < 64; i++) strncat(json, "\xc3\xa9", 3);
    strncat(json, "\"}", 3);
    put("a.json", json, (int64_t)strlen(json));
    static Problems problems;
    ImportCounts counts;
    char path[512];
    Error error = {""};
    check_that(import("captions", check_path(path, "in"), &counts, &problems), "%s",
               problems.text[0]);
    MdsIndex *index = mds_index_open(check_path(path, "captions"), &error);
    check_that(index != NULL, "%s", error.text);
    uint8_t *raw, *zip;
    Sample sample;
    check_that(mds_index_room(&raw, &zip, index, &error) &&
                   mds_shard_load(raw, zip, index, 0, &error) == MDS_OK &&
                   sample_read(&sample, &index->shards[0], mds_sample(&index->shards[0], raw, 0),
                               NULL, 0, &error),
               "%s", error.text);
    check_that(sample.caption_bytes == 4 && memcmp(sample.caption, "?\xc3\xa9?", 4) == 0,
               "%lld bytes of caption", (long long)sample.caption_bytes);
    check_that(counts.mended == 1, "%lld mended", (long long)counts.mended);
    check_that(strlen(sample.id) == 126, "an id cut at byte %zu", strlen(sample.id));
    free(raw);
    free(zip);
    mds_index_free(index);
}

// Numbers that no quality holds are counted: the ninth, a long name.
static void test_left_out(void **state) {
    (void)state;
    fresh();
    const char json[] =
        "{\"fps\": 24, \"a\": 1, \"b\": 1, \"c\": 1, \"d\": 1, \"e\": 1, \"f\": 1, "
        "\"a_name_that_is_longer_than_thirty_bytes\": 1, \"g\": 1, \"h\": 1, "
        "\"ninth\": 1, \"text\": \"x\"}";
    put("a.json", json, (int64_t)strlen(json));
    static Problems problems;
    ImportCounts counts;
    char path[512];
    check_that(import("left-out", check_path(path, "in"), &counts, &problems), "%s",
               problems.text[0]);
    check_that(counts.left_out == 2, "%lld left out", (long long)counts.left_out);
    check_contains(counts.first_left_out, "a_name_that_is_longer_than_thirty_bytes");
    check_tar("none-left-out", "tests/golden/import/gnu.tar");
}

// Shards that are good and a dataset.json that is not: no catalogue, and so no index.
static void test_no_catalogue(void **state) {
    (void)state;
    char path[512];
    ImportCounts counts;
    Problems problems;
    Error error;
    check_that(folder_create(check_path(path, "no-catalogue"), &error), "%s", error.text);
    maker_overwrite(check_path(path, "no-catalogue/dataset.json"), (const uint8_t *)"{", 1);
    check_that(!import("no-catalogue", "tests/golden/import/gnu.tar", &counts, &problems),
               "a wrong dataset.json was taken");
    check_contains(problems.text[0], "dataset.json");
    check_that(!path_exists(check_path(path, "no-catalogue/index.json")), "index.json is there");
}

static void test_command(void **state) {
    (void)state;
    char out[512];
    check_path(out, "by-command");
    char tar[] = "tests/golden/import/gnu.tar", name[] = "import", verify[] = "verify";
    char data[] = "data", help[] = "--help";
    check_that(data_command(4, (char *[]){data, name, out, tar}) == 0, "import");
    check_that(data_command(3, (char *[]){data, verify, out}) == 0, "verify");
    check_that(data_command(4, (char *[]){data, name, out, tar}) == 1, "import over it");
    check_that(data_command(3, (char *[]){data, verify, tar}) == 1, "verify a tar");
    check_that(data_command(2, (char *[]){data, verify}) == 78, "verify nothing");
    check_that(data_command(3, (char *[]){data, name, out}) == 78, "import nothing");
    check_that(data_command(1, (char *[]){data}) == 78, "nothing");
    check_that(data_command(2, (char *[]){data, help}) == 0, "help");
    check_that(data_command(3, (char *[]){data, verify, help}) == 0, "help of verify");
    check_that(data_command(3, (char *[]){data, name, help}) == 0, "help of import");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tars),         cmocka_unit_test(test_folder),
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_npy_refused),
        cmocka_unit_test(test_command),      cmocka_unit_test(test_broken_tars),
        cmocka_unit_test(test_no_catalogue), cmocka_unit_test(test_headers_refused),
        cmocka_unit_test(test_captions),     cmocka_unit_test(test_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
