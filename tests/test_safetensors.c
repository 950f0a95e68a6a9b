// The safetensors format and durable files: what is written is read back, in every type; each way a
// header can lie is refused with its place; mutated files never crash the reader.
// ranks: 1
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/die.h"
#include "base/files.h"
#include "base/rng.h"
#include "base/safetensors.h"
#include "tests/check.h"

static void test_round_trip(void **state) {
    (void)state;
    const float f32[6] = {1, -2, 3.5f, 0, INFINITY, 1e-40f};
    const double f64[2] = {1e300, 0.1};
    const int64_t i64[1] = {-5};
    const int32_t i32[2] = {7, -8};
    const uint16_t bf16[3] = {0x3f80, 0xc000, 0x7f80};
    const uint16_t f16[4] = {0x3c00, 0x0001, 0xfc00, 0x7e00};
    const uint8_t u8[3] = {1, 2, 255};
    const TensorData tensors[] = {
        {"bytes", DTYPE_U8, 1, {3}, u8},           {"a.b", DTYPE_F32, 2, {2, 3}, f32},
        {"half", DTYPE_F16, 1, {4}, f16},          {"brain", DTYPE_BF16, 1, {3}, bf16},
        {"scalar", DTYPE_I64, 0, {0}, i64},        {"none", DTYPE_F32, 2, {0, 4}, NULL},
        {"double \"\\\n", DTYPE_F64, 1, {2}, f64}, {"int", DTYPE_I32, 1, {2}, i32},
    };
    char path[512];
    Error error = {""};
    Safetensors file;
    check_path(path, "round.safetensors");
    check_that(safetensors_write(path, tensors, 8, &error), "%s", error.text);
    check_that(safetensors_open(&file, path, &error), "%s", error.text);
    check_that(file.count == 8 && file.data_start % 8 == 0, "%d tensors", file.count);
    check_that(strcmp(safetensors_metadata(&file, "format"), "pt") == 0, "metadata");
    check_that(safetensors_metadata(&file, "other") == NULL, "metadata");
    for (int i = 0; i < 8; i++) {
        const TensorData *want = &tensors[i];
        const TensorInfo *got = safetensors_find(&file, want->name);
        check_that(got != NULL && got->dtype == want->dtype && got->dims == want->dims, "%s",
                   want->name);
        check_that(got->begin % dtype_size(got->dtype) == 0, "%s is not aligned", want->name);
        check_equal(want->name, got->shape, want->shape, got->dims);
        char data[64];
        check_that(safetensors_read(&file, got, 0, got->count, data, &error), "%s", error.text);
        const int64_t bytes = got->count * dtype_size(got->dtype);
        check_that(bytes == 0 || memcmp(data, want->data, (size_t)bytes) == 0, "%s", want->name);
    }
    const TensorInfo *row;
    float *half = safetensors_load(&file, "half", &row, &error);
    const float half_want[3] = {1.0f, 0x1p-24f, -INFINITY};
    check_equal("half", half, half_want, 3);
    check_that(isnan(half[3]), "half NaN");
    free(half);
    float brain[2];
    const float brain_want[2] = {-2.0f, INFINITY};
    row = safetensors_find(&file, "brain");
    check_that(safetensors_read_floats(&file, row, 1, 2, brain, &error), "%s", error.text);
    check_equal("brain", brain, brain_want, 2);
    check_that(safetensors_load(&file, "int", NULL, &error) == NULL, "an int as float");
    check_contains(error.text, "tensor 'int': is I32");
    check_that(safetensors_load(&file, "missing", NULL, &error) == NULL, "a missing tensor");
    check_contains(error.text, "no tensor 'missing' among its 8");
    safetensors_close(&file);
}

// A file with this header and `data` bytes of data. A length of -1: the right one.
static bool open_text(const char *json, int64_t length, int64_t data, Error *error) {
    char path[512], bytes[2048] = "";
    const int64_t right = (int64_t)strlen(json);
    if (length == -1) length = right;
    for (int i = 0; i < 8; i++) bytes[i] = (char)((uint64_t)length >> (8 * i) & 255);
    memcpy(bytes + 8, json, (size_t)right);
    check_path(path, "header.safetensors");
    CHECK(file_write_in_place(path, bytes, 8 + right + data, NULL), "%s", path);
    Safetensors file;
    *error = (Error){""};
    const bool ok = safetensors_open(&file, path, error);
    if (ok) safetensors_close(&file);
    return ok;
}

static void test_headers_that_lie(void **state) {
    (void)state;
#define ROW(name, dtype, shape, begin, end)                                                      \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end \
    "]}"
    static const struct {
        const char *json;
        int64_t length, data;
        const char *message;  // NULL: good.
    } cases[] = {
        {"{}", -1, 0, NULL},
        {"{}   ", -1, 0, NULL},
        {"{" ROW("a", "F32", "[2]", "0", "8") "}  ", -1, 8, NULL},
        {"{" ROW("b", "U8", "[2]", "3", "5") "," ROW("a", "U8", "[3]", "0", "3") "}", -1, 5, NULL},
        {"{\"__metadata__\":{\"k\":\"v\"}}", -1, 0, NULL},
        {" {}", -1, 0, "does not start with '{'"},
        {"[]", -1, 0, "does not start with '{'"},
        {"{", -1, 0, "not a safetensors file"},
        {"{\"a\"", -1, 0, "header, byte"},
        {"{} x", -1, 0, "end of file expected"},
        {"{}", 3, 0, "not a safetensors file"},
        {"{}", 100000001, 0, "not a safetensors file"},
        {"{}", -2, 0, "not a safetensors file"},
        {"{}", -1, 1, "something was appended"},
        {"{" ROW("a", "F32", "[2]", "0", "8") "}", -1, 7, "truncated"},
        {"{" ROW("a", "F32", "[2]", "0", "8") "," ROW("a", "F32", "[2]", "0", "8") "}", -1, 8,
         "duplicate object key"},
        {"{" ROW("a", "F32", "[2]", "4", "12") "}", -1, 12, "a hole"},
        {"{" ROW("a", "U8", "[4]", "0", "4") "," ROW("b", "U8", "[4]", "2", "6") "}", -1, 6,
         "'b' begins at data byte 2, the one before ends at 4 (an overlap)"},
        {"{" ROW("a", "F32", "[3]", "0", "8") "}", -1, 8, "need 12 bytes, data_offsets give 8"},
        {"{" ROW("a", "F32", "[-1]", "0", "8") "}", -1, 8, "size 0 of the shape"},
        {"{" ROW("a", "F32", "[1.0]", "0", "4") "}", -1, 4, "size 0 of the shape"},
        {"{" ROW("a", "F32", "[4294967296,4294967296]", "0", "0") "}", -1, 0,
         "size 1 of the shape"},
        {"{" ROW("a", "F64", "[1152921504606846975]", "0", "9223372036854775800") "}", -1, 0,
         "0 bytes of data, but its tensors make 9223372036854775800"},
        {"{" ROW("a", "F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", -1, 4, "at most 8 sizes"},
        {"{" ROW("a", "F32", "7", "0", "4") "}", -1, 4, "at most 8 sizes"},
        {"{" ROW("a", "F8_E4M3", "[4]", "0", "4") "}", -1, 4, "dtype 'F8_E4M3'"},
        {"{" ROW("a", "U8", "[4]", "4", "0") "}", -1, 4, "must be [begin, end]"},
        {"{" ROW("a", "U8", "[4]", "0", "4,5") "}", -1, 4, "must be [begin, end]"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", -1, 1, "exactly dtype, shape, data_offsets"},
        {"{\"a\":1}", -1, 0, "exactly dtype, shape, data_offsets"},
        {"{\"__metadata__\":[]}", -1, 0, "__metadata__ must be"},
        {"{\"__metadata__\":{\"k\":1}}", -1, 0, "'k' is not a string"},
        {"{" ROW("\\u0000", "U8", "[0]", "0", "0") "}", -1, 0, "header, byte"},
    };
#undef ROW
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        Error error;
        const bool ok = open_text(cases[i].json, cases[i].length, cases[i].data, &error);
        check_that(ok == (cases[i].message == NULL), "%s: %s", cases[i].json, error.text);
        if (!ok) check_contains(error.text, cases[i].message);
        if (!ok) check_contains(error.text, "header.safetensors: ");
    }
    Safetensors file;
    Error error = {""};
    check_that(!safetensors_open(&file, "/nowhere/file", &error), "opened nothing");
    check_contains(error.text, "/nowhere/file: cannot open: No such file");
}

// A good header with seeded bytes changed: refused or consistent, and never out of bounds.
static void test_mutated_headers(void **state) {
    (void)state;
    TensorInfo rows[3] = {{"a.weight", DTYPE_F32, 2, {3, 5}, 15, 0, 60},
                          {"a.bias", DTYPE_BF16, 1, {4}, 4, 60, 68},
                          {"b", DTYPE_U8, 1, {9}, 9, 68, 77}};
    int64_t bytes;
    char *header = safetensors_header(rows, 3, 256, &bytes);
    check_that(bytes % 256 == 0, "%d bytes", (int)bytes);
    char *changed = malloc((size_t)bytes);
    CHECK(changed != NULL, "no memory");
    int accepted = 0;
    for (uint64_t n = 0; n < 20000; n++) {
        memcpy(changed, header, (size_t)bytes);
        const uint64_t count = 1 + rng_bits(1, RNG_TEST, n, 0) % 3;
        for (uint64_t i = 0; i < count; i++) {
            const uint32_t at = rng_bits(1, RNG_TEST, n, 1 + 2 * i) % (uint32_t)bytes;
            changed[at] = (char)rng_bits(1, RNG_TEST, n, 2 + 2 * i);
        }
        Safetensors file;
        Error error;
        if (!safetensors_parse(&file, "x", changed, bytes, bytes + 77, &error)) continue;
        accepted++;
        int64_t at = 0;
        for (int t = 0; t < file.count; t++) {
            check_that(file.tensors[t].begin == at, "change %d: a hole", (int)n);
            at = file.tensors[t].end;
        }
        check_that(file.data_start + at == bytes + 77, "change %d: not to the end", (int)n);
        safetensors_close(&file);
    }
    check_that(accepted > 0, "nothing harmless among them");
    free(changed);
    free(header);
}

static void test_files(void **state) {
    (void)state;
    char path[512], folder[512];
    Error error = {""};
    int64_t bytes = 0;
    check_path(folder, "one/two/three");
    check_that(folder_create(folder, &error), "%s", error.text);
    check_that(folder_create(folder, &error), "again: %s", error.text);
    check_path(path, "one/two/file");
    check_that(file_write(path, "hello", 5, &error), "%s", error.text);
    check_that(file_write(path, "world!", 6, &error), "%s", error.text);
    char *text = file_read(path, 6, &bytes, &error);
    check_that(text != NULL && bytes == 6 && strcmp(text, "world!") == 0, "%s", error.text);
    free(text);
    check_that(file_read(path, 5, NULL, &error) == NULL, "more than allowed");
    check_contains(error.text, "6 bytes, more than the 5 allowed");
    check_that(file_read(folder, 5, NULL, &error) == NULL, "a folder as a file");
    check_contains(error.text, "not a regular file");
    check_that(!file_write(folder, "x", 1, &error), "a file over a folder");
    check_contains(error.text, "cannot rename");
    check_path(path, "one/two/file/four");
    check_that(!folder_create(path, &error), "a folder in a file");
    check_contains(error.text, "one/two/file");
    int count = 0;
    check_path(path, "one/two");
    char **names = folder_list(path, &count, &error);
    check_that(count == 2 && strcmp(names[0], "file") == 0 && strcmp(names[1], "three") == 0,
               "%d names, the first %s", count, names[0]);
    folder_list_free(names, count);
    check_path(path, "one");
    check_that(folder_remove(path, &error) && !path_exists(path), "%s", error.text);
    check_that(folder_remove(path, &error), "what is not there: %s", error.text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_headers_that_lie),
        cmocka_unit_test(test_mutated_headers),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
