// What a caller is told when something outside the program is wrong: a corrupt shard, a missing
// file, a bad setting. Functions that can meet such things return false and leave the reason here.
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdbool.h>

typedef struct {
    char text[1024];
} Error;

// Writes the reason (place, what was found, what to do) and returns false, so that a caller can
// write `return error_set(error, ...)`. An `error` of NULL is fine.
bool error_set(Error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

// All problems of one user's text, collected so that they can be shown at once.
enum { PROBLEMS_MAX = 64 };
typedef struct {
    int count;  // Counts on beyond PROBLEMS_MAX; only that many texts are kept.
    char text[PROBLEMS_MAX][400];
} Problems;

void problems_add(Problems *problems, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

// Prints every problem on a line of its own to stderr, then "N errors in WHAT; nothing was
// started".
void problems_print(const Problems *problems, const char *what);

#endif
