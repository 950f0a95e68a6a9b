#include "train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/die.h"
#include "base/files.h"

enum { LINE_MAX_BYTES = 1 << 16 };

struct Metrics {
    int file;
    char path[1024];
    int64_t used;
    char line[LINE_MAX_BYTES];
};

// The step of a line; false when it is no object with one.
static bool line_step(int64_t *step, const char *line, size_t bytes) {
    json_t *json = json_loadb(line, bytes, 0, NULL);
    const json_t *value = json_object_get(json, "step");
    const bool ok = json_is_integer(value);
    *step = (int64_t)json_integer_value(value);
    json_decref(json);
    return ok;
}

// Moves the lines that stay to the front of `text` and returns their bytes; -1 and a reason when a
// line is wrong.
static int64_t keep_lines(char *text, int64_t bytes, const char *path, int64_t resume_step,
                          Error *error) {
    int64_t kept = 0, number = 1;
    for (const char *line = text, *end = text + bytes; line < end; number++) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        if (newline == NULL) break;  // Was being written when the run died.
        const int64_t length = newline + 1 - line;
        int64_t step;
        if (!line_step(&step, line, (size_t)length)) {
            error_set(error,
                      "%s:%" PRId64
                      ": not a JSON object with a whole \"step\"; move the file away "
                      "to start a new one",
                      path, number);
            return -1;
        }
        if (step <= resume_step && resume_step >= 0) {
            memmove(text + kept, line, (size_t)length);
            kept += length;
        }
        line += length;
    }
    return kept;
}

static bool cut_back(const char *path, int64_t resume_step, Error *error) {
    if (!path_exists(path)) return true;
    int64_t bytes;
    char *text = file_read(path, INT64_MAX, &bytes, error);
    if (text == NULL) return false;
    const int64_t kept = keep_lines(text, bytes, path, resume_step, error);
    const bool ok = kept == bytes || (kept >= 0 && file_write(path, text, kept, error));
    free(text);
    return ok;
}

Metrics *metrics_open(const char *path, int64_t resume_step, Error *error) {
    Metrics *metrics = calloc(1, sizeof(*metrics));
    CHECK(metrics != NULL, "no memory for metrics");
    const int length = snprintf(metrics->path, sizeof(metrics->path), "%s", path);
    if (length >= (int)sizeof(metrics->path)) {
        error_set(error, "%s: name too long", path);
        free(metrics);
        return NULL;
    }
    metrics->file = -1;
    if (cut_back(path, resume_step, error)) {
        metrics->file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (metrics->file < 0) error_set(error, "cannot write %s: %s", path, strerror(errno));
    }
    if (metrics->file >= 0) return metrics;
    free(metrics);
    return NULL;
}

static void add(Metrics *metrics, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(Metrics *metrics, const char *format, ...) {
    va_list args;
    va_start(args, format);
    const int64_t room = LINE_MAX_BYTES - metrics->used;
    const int length = vsnprintf(metrics->line + metrics->used, (size_t)room, format, args);
    va_end(args);
    CHECK(length >= 0 && length < room, "%s: a line of more than %d bytes", metrics->path,
          LINE_MAX_BYTES);
    metrics->used += length;
}

// A JSON string, quotes and control characters escaped.
static void add_string(Metrics *metrics, const char *text) {
    add(metrics, "\"");
    for (; *text != '\0'; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            add(metrics, "\\%c", c);
        else if (c < 0x20)
            add(metrics, "\\u%04x", c);
        else
            add(metrics, "%c", c);
    }
    add(metrics, "\"");
}

static void add_key(Metrics *metrics, const char *key) {
    CHECK(metrics->used > 0, "metric '%s' outside of a line", key);
    add(metrics, ", ");
    add_string(metrics, key);
    add(metrics, ": ");
}

void metrics_begin(Metrics *metrics, int64_t step) {
    CHECK(metrics->used == 0, "%s: a line inside a line", metrics->path);
    add(metrics, "{\"step\": %" PRId64, step);
}

void metrics_number(Metrics *metrics, const char *key, double value) {
    add_key(metrics, key);
    if (isfinite(value))
        add(metrics, "%.17g", value);
    else
        add(metrics, "null");
}

void metrics_whole(Metrics *metrics, const char *key, int64_t value) {
    add_key(metrics, key);
    add(metrics, "%" PRId64, value);
}

void metrics_text(Metrics *metrics, const char *key, const char *value) {
    add_key(metrics, key);
    add_string(metrics, value);
}

bool metrics_end(Metrics *metrics, Error *error) {
    CHECK(metrics->used > 0, "%s: the end of no line", metrics->path);
    add(metrics, "}\n");
    const char *next = metrics->line;
    while (metrics->used > 0) {
        const ssize_t written = write(metrics->file, next, (size_t)metrics->used);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) {
            metrics->used = 0;
            return error_set(error, "cannot write %s: %s", metrics->path, strerror(errno));
        }
        next += written;
        metrics->used -= written;
    }
    return true;
}

bool metrics_close(Metrics *metrics, Error *error) {
    if (metrics == NULL) return true;
    const bool ok = close(metrics->file) == 0 ||
                    error_set(error, "cannot write %s: %s", metrics->path, strerror(errno));
    free(metrics);
    return ok;
}
