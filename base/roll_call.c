#include "base/roll_call.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/files.h"

enum { SPEECHES = 4 };

typedef struct {
    char text[ROLL_CALL_LINE];  // "": no word.
} Line;

static bool path_of(char path[PATH_BYTES_MAX], const RollCall *call, int rank, Error *error) {
    char name[32];
    snprintf(name, sizeof(name), "rank-%05d", rank);
    return path_join(path, call->folder, name, error);
}

// Reads what is new in the folder. Its list, unlike a name that is asked for, is not an old one on
// network file systems.
static void hear(Line *lines, const RollCall *call) {
    Error error;
    int count = 0;
    char path[PATH_BYTES_MAX], **names = folder_list(call->folder, &count, &error);
    for (int i = 0; i < count; i++) {
        char *end = names[i];
        const bool answer = strncmp(names[i], "rank-", 5) == 0;
        const long long rank = answer ? strtoll(names[i] + 5, &end, 10) : -1;
        if (*end != '\0') continue;  // Not whole yet.
        if (rank < 0 || rank >= call->size || lines[rank].text[0] != '\0') continue;
        if (!path_of(path, call, (int)rank, &error)) continue;
        char *said = file_read(path, ROLL_CALL_LINE - 1, NULL, &error);
        if (said != NULL) snprintf(lines[rank].text, ROLL_CALL_LINE, "%s", said);
        free(said);
    }
    folder_list_free(names, count);
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

static void describe(char *text, int64_t bytes, const Line *lines, bool *named, int size,
                     double seconds) {
    char within[32];
    snprintf(within, sizeof(within), " within %.0f s", seconds);
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
            append(text, bytes, silent ? within : ": ");
            append(text, bytes, lines[i].text);
        }
    }
}

// Hears all others; false where one before this rank has answered, or nobody wants to know.
static bool hear_all(Line *lines, const RollCall *call, double seconds) {
    const double until = clock_seconds() + seconds;
    double wait = 0.05;
    for (;;) {
        int missing = 0;
        hear(lines, call);
        for (int i = 0; i < call->size; i++) {
            if (lines[i].text[0] != '\0' && i < call->rank) return false;
            missing += lines[i].text[0] == '\0';
        }
        if (missing == 0 || clock_seconds() >= until) return true;
        clock_sleep(wait);
        if (call->left != NULL && __atomic_load_n(call->left, __ATOMIC_ACQUIRE)) return false;
        wait = fmin(2 * wait, 2);
    }
}

bool roll_call(char *text, int64_t bytes, const RollCall *call, const char *line, double seconds) {
    Error error;
    char path[PATH_BYTES_MAX];
    Line *lines = calloc((size_t)call->size, sizeof(*lines));
    bool *named = calloc((size_t)call->size, sizeof(*named));
    bool speaks = true;
    if (lines == NULL || named == NULL) {
        snprintf(text, (size_t)bytes, "no memory to ask %d ranks", call->size);
    } else if (!path_of(path, call, call->rank, &error) || !folder_create(call->folder, &error) ||
               !file_write(path, line, (int64_t)strlen(line), &error)) {
        snprintf(text, (size_t)bytes, "%s", error.text);
    } else if (hear_all(lines, call, seconds)) {
        describe(text, bytes, lines, named, call->size, seconds);
    } else {
        snprintf(text, (size_t)bytes, "a rank before this one answers, and should tell more");
        speaks = false;
    }
    free(lines);
    free(named);
    return speaks;
}

void roll_call_end(const RollCall *call) {
    Error error;
    char path[PATH_BYTES_MAX];
    if (call->folder != NULL && path_of(path, call, call->rank, &error)) unlink(path);
}
