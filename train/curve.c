#include "train/curve.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/png.h"
#include "base/real.h"

enum {
    WIDTH = 960,
    HEIGHT = 480,
    LEFT = 80,  // Margins around the plot.
    RIGHT = 24,
    TOP = 40,
    BOTTOM = 48,
    LETTER = TEXT_ADVANCE,
    STAGE_NAME_MAX = 32,
};

static const Colour white = {255, 255, 255}, black = {32, 32, 32}, rule = {228, 228, 228},
                    faint = {174, 199, 232}, strong = {31, 83, 160}, border = {200, 120, 40};

typedef struct {
    double step, value;
    char stage[STAGE_NAME_MAX];
} Point;

typedef struct {
    Point *points;
    int64_t count, room;
} Series;

// Values beyond are left out: their differences are no numbers.
static const double VALUE_MAX = 1e100;

static void series_add(Series *series, const json_t *line, const char *key) {
    const json_t *value = json_object_get(line, key), *stage = json_object_get(line, "stage");
    if (!json_is_number(value) || fabs(json_number_value(value)) > VALUE_MAX) return;
    if (series->count == series->room) {
        series->room = 2 * series->room + 256;
        series->points = realloc(series->points, (size_t)series->room * sizeof(Point));
        CHECK(series->points != NULL, "no memory for %" PRId64 " points", series->room);
    }
    Point *point = &series->points[series->count++];
    *point = (Point){.step = (double)json_integer_value(json_object_get(line, "step")),
                     .value = json_number_value(value)};
    if (json_is_string(stage)) {
        snprintf(point->stage, STAGE_NAME_MAX, "%s", json_string_value(stage));
    } else if (json_is_integer(stage)) {
        snprintf(point->stage, STAGE_NAME_MAX, "stage %" JSON_INTEGER_FORMAT,
                 json_integer_value(stage));
    }
}

static bool series_read(Series *series, const char *path, const char *key, Error *error) {
    FILE *in = fopen(path, "rb");
    if (in == NULL) return error_set(error, "cannot read %s: %s", path, strerror(errno));
    char *line = NULL;
    size_t room = 0;
    ssize_t bytes;
    bool ok = true;
    int64_t before = 0;
    for (int64_t number = 1; ok && (bytes = getline(&line, &room, in)) > 0; number++) {
        if (line[bytes - 1] != '\n') break;  // Being written.
        json_t *json = json_loadb(line, (size_t)bytes, 0, NULL);
        const json_t *step = json_object_get(json, "step");
        if (json_is_integer(step) && json_integer_value(step) >= before) {
            before = json_integer_value(step);
            series_add(series, json, key);
        } else {
            ok = error_set(error,
                           "%s:%" PRId64
                           ": not a JSON object with a whole \"step\", that of the line before or "
                           "a later one",
                           path, number);
        }
        json_decref(json);
    }
    if (ok && ferror(in)) ok = error_set(error, "cannot read %s: %s", path, strerror(errno));
    free(line);
    fclose(in);
    if (ok && series->count == 0) ok = error_set(error, "%s: no \"%s\" in any line", path, key);
    return ok;
}

// The plot's coordinates: [x0, x1] x [y0, y1] onto pixels.
typedef struct {
    double x0, x1, y0, y1;
} Axes;

static int pixel_x(const Axes *axes, double x) {
    return LEFT + (int)lrint((x - axes->x0) / (axes->x1 - axes->x0) * (WIDTH - LEFT - RIGHT));
}

static int pixel_y(const Axes *axes, double y) {
    const double share = fmin(fmax((y - axes->y0) / (axes->y1 - axes->y0), 0.0), 1.0);
    return HEIGHT - BOTTOM - (int)lrint(share * (HEIGHT - TOP - BOTTOM));
}

// A step between ticks of 1, 2 or 5 times a power of ten, so that there are about `count`.
static double tick_step(double range, int count) {
    const double raw = range / count, power = pow(10.0, floor(log10(raw)));
    const double factor = raw / power;
    return power * (factor < 1.5 ? 1.0 : factor < 3.5 ? 2.0 : factor < 7.5 ? 5.0 : 10.0);
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The smoothed curve fits whole; of the single values all but the highest hundredth.
static Axes axes_choose(const Series *series, const double *smooth) {
    const int64_t n = series->count;
    double *sorted = malloc((size_t)n * sizeof(double));
    CHECK(sorted != NULL, "no memory for %" PRId64 " values", n);
    for (int64_t i = 0; i < n; i++) sorted[i] = series->points[i].value;
    qsort(sorted, (size_t)n, sizeof(double), compare_doubles);
    Axes axes = {series->points[0].step, series->points[n - 1].step, sorted[0],
                 sorted[(n - 1) * 99 / 100]};
    free(sorted);
    for (int64_t i = 0; i < n; i++) {
        axes.y0 = fmin(axes.y0, smooth[i]);
        axes.y1 = fmax(axes.y1, smooth[i]);
    }
    if (axes.x1 <= axes.x0) axes.x1 = axes.x0 + 1.0;
    const double margin = fmax(0.04 * (axes.y1 - axes.y0), 1e-9 * fmax(fabs(axes.y0), 1.0));
    axes.y0 -= margin;
    axes.y1 += margin;
    return axes;
}

static void draw_axes(Picture *picture, const Axes *axes, const char *key) {
    char text[64];
    const double step_y = tick_step(axes->y1 - axes->y0, 6);
    for (double y = ceil(axes->y0 / step_y) * step_y; y <= axes->y1; y += step_y) {
        const int at = pixel_y(axes, y);
        picture_line(picture, LEFT, at, WIDTH - RIGHT, at, rule);
        snprintf(text, sizeof(text), "%.6g", fabs(y) < 1e-9 * step_y ? 0.0 : y);
        picture_text(picture, LEFT - 6 - LETTER * (int)strlen(text), at - 3, text, 1, black);
    }
    const double step_x = fmax(tick_step(axes->x1 - axes->x0, 8), 1.0);
    for (double x = ceil(axes->x0 / step_x) * step_x; x <= axes->x1; x += step_x) {
        const int at = pixel_x(axes, x);
        picture_line(picture, at, HEIGHT - BOTTOM, at, HEIGHT - BOTTOM + 4, black);
        snprintf(text, sizeof(text), "%.9g", x);
        picture_text(picture, at - LETTER * (int)strlen(text) / 2, HEIGHT - BOTTOM + 8, text, 1,
                     black);
    }
    picture_line(picture, LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, black);
    picture_line(picture, LEFT, TOP, LEFT, HEIGHT - BOTTOM, black);
    picture_text(picture, (LEFT + WIDTH - RIGHT) / 2 - 2 * LETTER, HEIGHT - 20, "step", 1, black);
    picture_text(picture, LEFT, 8, key, 2, black);
}

static bool same_stage(const Point *a, const Point *b) {
    return strcmp(a->stage, b->stage) == 0;
}

// sums[i] = the sum of the values before i; one above three times the median of its hundredth of
// the run (of its eight or more values) counts as that, so that a lone spike does not hide what the
// others do.
static void sum_values(double *sums, const Series *series) {
    const int64_t n = series->count, parts = max_i64(1, min_i64(100, n / 8));
    double *sorted = malloc((size_t)n * sizeof(double));
    CHECK(sorted != NULL, "no memory for %" PRId64 " values", n);
    sums[0] = 0.0;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t begin = part * n / parts, end = (part + 1) * n / parts;
        for (int64_t i = begin; i < end; i++) sorted[i - begin] = series->points[i].value;
        qsort(sorted, (size_t)(end - begin), sizeof(double), compare_doubles);
        const double median = sorted[(end - begin) / 2];
        const double most = median > 0.0 ? 3.0 * median : INFINITY;
        for (int64_t i = begin; i < end; i++) {
            sums[i + 1] = sums[i] + fmin(series->points[i].value, most);
        }
    }
    free(sorted);
}

// The mean of a fiftieth of the run around each point, as far as it lies in the point's stage.
static void running_mean(double *smooth, const Series *series) {
    const Point *points = series->points;
    const int64_t reach = series->count / 100;
    double *sums = malloc((size_t)(series->count + 1) * sizeof(double));
    CHECK(sums != NULL, "no memory for %" PRId64 " values", series->count);
    sum_values(sums, series);
    for (int64_t begin = 0, end; begin < series->count; begin = end) {
        for (end = begin + 1; end < series->count && same_stage(&points[begin], &points[end]);)
            end++;
        for (int64_t i = begin; i < end; i++) {
            const int64_t first = max_i64(begin, i - reach), last = min_i64(end - 1, i + reach);
            smooth[i] = (sums[last + 1] - sums[first]) / (double)(last + 1 - first);
        }
    }
    free(sums);
}

static void draw_series(Picture *picture, const Axes *axes, const Series *series,
                        const double *smooth) {
    const Point *points = series->points;
    for (int64_t i = 1; i < series->count; i++) {
        picture_line(picture, pixel_x(axes, points[i - 1].step), pixel_y(axes, points[i - 1].value),
                     pixel_x(axes, points[i].step), pixel_y(axes, points[i].value), faint);
    }
    for (int64_t i = 0; i < series->count; i++) {
        const int x = pixel_x(axes, points[i].step), y = pixel_y(axes, smooth[i]);
        const bool starts = i == 0 || !same_stage(&points[i], &points[i - 1]);
        if (starts && points[i].stage[0] != '\0') {
            if (i > 0) picture_line(picture, x, TOP, x, HEIGHT - BOTTOM, border);
            picture_text(picture, x + 4, TOP - 10, points[i].stage, 1, border);
        }
        const int x_before = starts ? x : pixel_x(axes, points[i - 1].step);
        const int y_before = starts ? y : pixel_y(axes, smooth[i - 1]);
        for (int k = 0; k < 2; k++) {
            picture_line(picture, x_before, y_before + k, x, y + k, strong);
        }
    }
}

bool curve_write(const char *png_path, const char *metrics_path, const char *key, Error *error) {
    Series series = {0};
    bool ok = series_read(&series, metrics_path, key, error);
    if (ok) {
        double *smooth = malloc((size_t)series.count * sizeof(double));
        CHECK(smooth != NULL, "no memory for %" PRId64 " values", series.count);
        running_mean(smooth, &series);
        const Axes axes = axes_choose(&series, smooth);
        Picture picture = picture_create(WIDTH, HEIGHT, 3, white);
        draw_axes(&picture, &axes, key);
        draw_series(&picture, &axes, &series, smooth);
        ok = png_write(png_path, &picture, error);
        picture_free(&picture);
        free(smooth);
    }
    free(series.points);
    return ok;
}
