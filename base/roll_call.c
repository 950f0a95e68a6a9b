#include "base/roll_call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/files.h"

enum { LINE_BYTES = 192, SPEECHES = 4 };

typedef struct {
    char text[LINE_BYTES];
} Line;

static bool path_of(char path[PATH_BYTES_MAX], const RollCall *call, int rank, Error *error) {
    char name[32];
    snprintf(name, sizeof(name), "rank-%05d", rank);
    return path_join(path, call->folder, name, error);
}

// What a rank says; "" is no word.
static void hear(Line *line, const RollCall *call, int rank) {
    Error error;
    char path[PATH_BYTES_MAX];
    char *said =
        path_of(path, call, rank, &error) ? file_read(path, LINE_BYTES - 1, NULL, &error) : NULL;
    snprintf(line->text, LINE_BYTES, "%s", said != NULL ? said : "");
    free(said);
}

static void append(char *text, int64_t bytes, const char *more) {
    const size_t used = strlen(text);
    snprintf(text + used, (size_t)bytes - used, "%s", more);
}

// The ranks whose line is that of `first`, as "rank 3", "ranks 3, 5 to 7"; they are struck out.
static void append_ranks(char *text, int64_t bytes, const Line *lines, bool *named, int first,
                         int size) {
    char some[48];
    int count = 0;
    for (int i = first; i < size; i++) count += strcmp(lines[i].text, lines[first].text) == 0;
    append(text, bytes, count == 1 ? "rank " : "ranks ");
    const char *comma = "";
    for (int i = first; i < size; i++) {
        if (strcmp(lines[i].text, lines[first].text) != 0) continue;
        int last = i;
        while (last + 1 < size && strcmp(lines[last + 1].text, lines[first].text) == 0) last++;
        snprintf(some, sizeof(some), last == i ? "%s%d" : "%s%d to %d", comma, i, last);
        append(text, bytes, some);
        for (int j = i; j <= last; j++) named[j] = true;
        comma = ", ";
        i = last;
    }
}

static void describe(char *text, int64_t bytes, const Line *lines, bool *named, int size) {
    text[0] = '\0';
    int speeches = 0;
    for (int silent = 1; silent >= 0; silent--) {  // Those first.
        for (int i = 0; i < size; i++) {
            if (named[i] || (lines[i].text[0] == '\0') != silent) continue;
            if (speeches++ == SPEECHES) {
                append(text, bytes, "; and others");
                return;
            }
            append(text, bytes, speeches > 1 ? "; " : "");
            append(text, bytes, silent ? "no word from " : "");
            append_ranks(text, bytes, lines, named, i, size);
            append(text, bytes, silent ? "" : ": ");
            append(text, bytes, lines[i].text);
        }
    }
}

bool roll_call(char *text, int64_t bytes, const RollCall *call, const char *line, double seconds) {
    Error error;
    char path[PATH_BYTES_MAX];
    if (!path_of(path, call, call->rank, &error) || !folder_create(call->folder, &error) ||
        !file_write(path, line, (int64_t)strlen(line), &error)) {
        snprintf(text, (size_t)bytes, "%s", error.text);
        return true;
    }
    clock_sleep(seconds);
    Line *lines = calloc((size_t)call->size, sizeof(*lines));
    bool *named = calloc((size_t)call->size, sizeof(*named));
    int first = call->size;
    for (int i = call->size - 1; lines != NULL && named != NULL && i >= 0; i--) {
        hear(&lines[i], call, i);
        if (lines[i].text[0] != '\0') first = i;
    }
    if (lines != NULL && named != NULL) describe(text, bytes, lines, named, call->size);
    free(lines);
    free(named);
    return first == call->rank;
}

void roll_call_end(const RollCall *call) {
    Error error;
    char path[PATH_BYTES_MAX];
    if (call->folder != NULL && path_of(path, call, call->rank, &error)) unlink(path);
}
