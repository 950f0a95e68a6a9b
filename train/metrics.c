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

// Copies the lines that stay from `in` to `out` (NULL: only counts). *cut: lines that do not stay.
static bool copy_lines(FILE *out, FILE *in, const char *path, int64_t resume_step, int64_t *cut,
                       Error *error) {
    char *line = NULL;
    size_t room = 0;
    ssize_t bytes;
    bool ok = true;
    *cut = 0;
    for (int64_t number = 1; ok && (bytes = getline(&line, &room, in)) > 0; number++) {
        int64_t step = 0;
        const bool whole = line[bytes - 1] == '\n';
        if (whole && !line_step(&step, line, (size_t)bytes)) {
            ok = error_set(error,
                           "%s:%" PRId64
                           ": not a JSON object with a whole \"step\"; move the file "
                           "away to start a new one",
                           path, number);
        } else if (!whole || step > resume_step || resume_step < 0) {
            ++*cut;
        } else if (out != NULL) {
            fwrite(line, 1, (size_t)bytes, out);
        }
    }
    if (ok && ferror(in)) ok = error_set(error, "cannot read %s: %s", path, strerror(errno));
    free(line);
    return ok;
}

// Replaces the file by its lines up to resume_step.
static bool rewrite(const char *path, FILE *in, int64_t resume_step, Error *error) {
    char temporary[1100];
    snprintf(temporary, sizeof(temporary), "%s.%ld.tmp", path, (long)getpid());
    FILE *out = fopen(temporary, "wb");
    if (out == NULL) return error_set(error, "cannot write %s: %s", temporary, strerror(errno));
    int64_t cut;
    rewind(in);
    bool ok = copy_lines(out, in, path, resume_step, &cut, error);
    if (fflush(out) != 0 || ferror(out) || fsync(fileno(out)) != 0) {
        ok = error_set(error, "cannot write %s: %s", temporary, strerror(errno));
    }
    fclose(out);
    if (ok && rename(temporary, path) != 0) {
        ok = error_set(error, "cannot replace %s: %s", path, strerror(errno));
    }
    if (!ok) remove(temporary);
    return ok;
}

static bool cut_back(const char *path, int64_t resume_step, Error *error) {
    FILE *in = fopen(path, "rb");
    if (in == NULL && errno == ENOENT) return true;
    if (in == NULL) return error_set(error, "cannot read %s: %s", path, strerror(errno));
    int64_t cut;
    bool ok = copy_lines(NULL, in, path, resume_step, &cut, error);
    if (ok && cut > 0) ok = rewrite(path, in, resume_step, error);
    fclose(in);
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
