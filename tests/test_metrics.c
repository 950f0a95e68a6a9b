// metrics.jsonl: what is read back is what was written, to the bit; resuming leaves no step twice;
// wrong files are refused with their line. The loss curve is drawn from it.
// ranks: 1
#include <jansson.h>
#include <math.h>
#include <png.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/files.h"
#include "base/rng.h"
#include "tests/check.h"
#include "train/curve.h"
#include "train/metrics.h"

static void write_file(const char *path, const char *text) {
    Error error;
    check_that(file_write(path, text, (int64_t)strlen(text), &error), "%s", error.text);
}

static void check_file(const char *path, const char *want) {
    Error error;
    char *text = file_read(path, 1 << 20, NULL, &error);
    check_that(text != NULL, "%s", error.text);
    check_that(strcmp(text, want) == 0, "got\n%swant\n%s", text, want);
    free(text);
}

static void write_steps(const char *path, int64_t resume, int64_t first, int64_t last) {
    Error error;
    Metrics *metrics = metrics_open(path, resume, &error);
    check_that(metrics != NULL, "%s", error.text);
    for (int64_t step = first; step <= last; step++) {
        metrics_begin(metrics, step);
        metrics_number(metrics, "loss", 1.0 / (double)(1 + step));
        check_that(metrics_end(metrics, &error), "%s", error.text);
    }
    check_that(metrics_close(metrics, &error), "%s", error.text);
}

static void test_values(void **state) {
    (void)state;
    static const double values[] = {0.1, -0.0, 1e300, 4.9e-324, 1.0 / 3.0, 12345678.9, 7.0};
    Error error;
    char path[512], key[16];
    Metrics *metrics = metrics_open(check_path(path, "values.jsonl"), 0, &error);
    check_that(metrics != NULL, "%s", error.text);
    metrics_begin(metrics, 12);
    for (int i = 0; i < 7; i++) {
        snprintf(key, sizeof(key), "v%d", i);
        metrics_number(metrics, key, values[i]);
    }
    metrics_number(metrics, "nan", NAN);
    metrics_number(metrics, "infinite", -INFINITY);
    metrics_whole(metrics, "tokens", INT64_MIN);
    metrics_text(metrics, "a \"key\"", "back\\slash\n\x01 \xc3\xa4");
    check_that(metrics_end(metrics, &error) && metrics_close(metrics, &error), "%s", error.text);

    json_t *json = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    check_that(json_integer_value(json_object_get(json, "step")) == 12, "step");
    for (int i = 0; i < 7; i++) {
        snprintf(key, sizeof(key), "v%d", i);
        const double got = json_number_value(json_object_get(json, key));
        check_that(got == values[i], "%s: got %.17g, want %.17g", key, got, values[i]);
    }
    check_that(json_is_null(json_object_get(json, "nan")), "nan");
    check_that(json_is_null(json_object_get(json, "infinite")), "infinite");
    check_that(json_integer_value(json_object_get(json, "tokens")) == INT64_MIN, "tokens");
    const char *text = json_string_value(json_object_get(json, "a \"key\""));
    check_that(text != NULL && strcmp(text, "back\\slash\n\x01 \xc3\xa4") == 0, "text");
    json_decref(json);
}

static void test_resume(void **state) {
    (void)state;
    Error error;
    char path[512], whole[512];
    struct stat before, after;
    write_steps(check_path(whole, "whole.jsonl"), 0, 1, 20);
    write_steps(check_path(path, "resumed.jsonl"), 0, 1, 13);
    check_that(stat(path, &before) == 0, "stat");
    write_steps(path, 13, 14, 17);  // Nothing to cut: the same file goes on.
    check_that(stat(path, &after) == 0 && before.st_ino == after.st_ino, "it was replaced");
    FILE *file = fopen(path, "ab");  // The run dies while it writes.
    fputs("{\"step\": 18, \"lo", file);
    fclose(file);
    write_steps(path, 15, 16, 20);
    char *want = file_read(whole, 1 << 20, NULL, &error);
    check_file(path, want);
    free(want);
    write_steps(path, -1, 1, 1);  // From the start.
    check_file(path, "{\"step\": 1, \"loss\": 0.5}\n");
}

static void test_errors(void **state) {
    (void)state;
    Error error;
    char path[512];
    check_that(metrics_open(check_path(path, "missing/m.jsonl"), 0, &error) == NULL, "no folder");
    check_contains(error.text, "No such file");
    check_path(path, "wrong.jsonl");
    static const char *const wrong[] = {"{\"step\": 1}\nno json\n",
                                        "{\"step\": 1}\n{\"loss\": 2}\n",
                                        "{\"step\": 1}\n{\"step\": 1.5}\n", "{\"step\": 1}\n\n"};
    for (int i = 0; i < 4; i++) {
        write_file(path, wrong[i]);
        check_that(metrics_open(path, 5, &error) == NULL, "'%s' was accepted", wrong[i]);
        check_contains(error.text, "wrong.jsonl:2: not a JSON object");
        check_file(path, wrong[i]);  // And left as it was.
    }

    // A disk that is full, by a limit on the size of files.
    struct rlimit old, none;
    Metrics *metrics = metrics_open(check_path(path, "full.jsonl"), 0, &error);
    check_that(metrics != NULL && getrlimit(RLIMIT_FSIZE, &old) == 0, "%s", error.text);
    none = old;
    none.rlim_cur = 20;
    signal(SIGXFSZ, SIG_IGN);
    check_that(setrlimit(RLIMIT_FSIZE, &none) == 0, "setrlimit");
    bool ok = true;
    for (int i = 0; i < 3; i++) {
        metrics_begin(metrics, i);
        ok = metrics_end(metrics, &error) && ok;
    }
    check_that(setrlimit(RLIMIT_FSIZE, &old) == 0, "setrlimit");
    check_that(!ok, "writing over the limit was not noticed");
    check_contains(error.text, "cannot write");
    metrics_close(metrics, NULL);
    check_that(metrics_close(NULL, NULL), "closing nothing is fine");
}

// Writes 600 steps in three stages that fall with noise; the loss of step 450 is times `spike`.
static void write_curve(const char *path, double spike) {
    static const char *const stages[] = {"images", "images and videos", "higher resolution"};
    Error error;
    Metrics *metrics = metrics_open(path, -1, &error);
    check_that(metrics != NULL, "%s", error.text);
    for (int64_t step = 1; step <= 600; step++) {
        const int stage = step <= 300 ? 0 : step <= 500 ? 1 : 2;
        const double noise = rng_uniform(1, RNG_TEST, 0, (uint64_t)step) - 0.5;
        metrics_begin(metrics, step);
        if (step % 100 == 0) {  // Passed over: not finite.
            metrics_number(metrics, "loss", NAN);
        } else {
            const double loss = 0.4 + 1.6 * exp(-(double)step / 80.0) + 0.15 * stage + 0.2 * noise;
            metrics_number(metrics, "loss", step == 450 ? spike * loss : loss);
        }
        metrics_text(metrics, "stage", stages[stage]);
        metrics_end(metrics, &error);
    }
    check_that(metrics_close(metrics, &error), "%s", error.text);
}

// Pixels of exactly this colour; their mean row in *row, unless NULL.
static int count_colour(const char *path, uint8_t r, uint8_t g, uint8_t b, double *row) {
    png_image image = {.version = PNG_IMAGE_VERSION};
    check_that(png_image_begin_read_from_file(&image, path), "%s", image.message);
    image.format = PNG_FORMAT_RGB;
    uint8_t *pixels = malloc(PNG_IMAGE_SIZE(image));
    check_that(png_image_finish_read(&image, NULL, pixels, 0, NULL), "%s", image.message);
    int count = 0;
    double rows = 0;
    for (size_t i = 0; i < PNG_IMAGE_SIZE(image); i += 3) {
        if (pixels[i] != r || pixels[i + 1] != g || pixels[i + 2] != b) continue;
        count++;
        rows += (double)(i / 3 / image.width);
    }
    free(pixels);
    if (row != NULL) *row = rows / count;
    return count;
}

static void test_curve(void **state) {
    (void)state;
    Error error;
    char path[512], png[512];
    double row = 0, row_with_spike = 0;
    write_curve(check_path(path, "curve.jsonl"), 1.0);
    check_that(curve_write(check_path(png, "curve.png"), path, "loss", &error), "%s", error.text);
    check_that(count_colour(png, 31, 83, 160, &row) > 1000, "no running mean");
    check_that(count_colour(png, 174, 199, 232, NULL) > 1000, "no single values");
    check_that(count_colour(png, 200, 120, 40, NULL) > 2 * 392, "stages are not marked");
    write_curve(path, 1e3);
    check_that(curve_write(png, path, "loss", &error), "%s", error.text);
    count_colour(png, 31, 83, 160, &row_with_spike);
    check_that(fabs(row_with_spike - row) < 10, "mean row %g, with one spike %g", row,
               row_with_spike);
    // One value, and values that are all the same; a last line that is being written.
    write_file(path, "{\"step\": 5, \"loss\": 2, \"stage\": 1}\n{\"st");
    check_that(curve_write(png, path, "loss", &error), "%s", error.text);
    write_file(path, "{\"step\": 5, \"loss\": 0}\n{\"step\": 6, \"loss\": 0}\n");
    check_that(curve_write(png, path, "loss", &error), "%s", error.text);
    write_file(path,
               "{\"step\": 0, \"loss\": 1e100}\n{\"step\": 9223372036854775807, "
               "\"loss\": -1e100}\n");
    check_that(curve_write(png, path, "loss", &error), "%s", error.text);
}

static void test_curve_errors(void **state) {
    (void)state;
    Error error;
    char path[512], png[512];
    check_path(png, "no.png");
    check_that(!curve_write(png, check_path(path, "none.jsonl"), "loss", &error), "no file");
    check_contains(error.text, "none.jsonl: No such file");
    write_file(path, "{\"step\": 1}\n");
    check_that(!curve_write(png, path, "loss", &error), "no value");
    check_contains(error.text, "no \"loss\" in any line");
    write_file(path, "{\"step\": 1, \"loss\": 1}\n[]\n");
    check_that(!curve_write(png, path, "loss", &error), "no object");
    check_contains(error.text, "none.jsonl:2: not a JSON object");
    write_file(path, "{\"step\": 1e308, \"loss\": 1}\n{\"step\": 3, \"loss\": 2}\n");
    check_that(!curve_write(png, path, "loss", &error), "a step that is not whole");
    write_file(path, "{\"step\": 4, \"loss\": 1}\n{\"step\": 3, \"loss\": 2}\n");
    check_that(!curve_write(png, path, "loss", &error), "a step back");
    check_contains(error.text, "none.jsonl:2: not a JSON object with a whole \"step\"");
    write_file(path, "{\"step\": 1, \"loss\": 1e308}\n{\"step\": 3, \"loss\": -1e308}\n");
    check_that(!curve_write(png, path, "loss", &error), "values beyond all");
    check_that(!path_exists(png), "a picture of nothing");
    write_curve(check_path(path, "good.jsonl"), 1.0);
    check_that(!curve_write(check_path(png, "missing/a.png"), path, "loss", &error), "no folder");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),       cmocka_unit_test(test_resume),
        cmocka_unit_test(test_errors),       cmocka_unit_test(test_curve),
        cmocka_unit_test(test_curve_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
