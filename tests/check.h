// What the tests share, on top of cmocka: comparisons that show the worst element, a folder for
// files, and verdicts that all ranks share. Include this instead of <cmocka.h>.
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>  // Needs those above.
// clang-format on

#include "base/real.h"

// Tests that run on several ranks call this first. `all_agree` returns on every rank whether every
// rank gave true: a failed test leaves by longjmp, and one that leaves alone hangs the others at
// their next collective. With it every check_* below is collective: call it on all ranks.
void check_setup(int rank, bool (*all_agree)(bool mine));

// Takes a device for rank `rank` (0 where there is one); ends the job where there is none. From now
// on every check_* waits for the compute stream before it compares.
void check_device(int rank);

// free_all(a, b, ...): device_free of each.
#define free_all(...) \
    free_each((void *[]){__VA_ARGS__}, sizeof((void *[]){__VA_ARGS__}) / sizeof(void *))
void free_each(void *const *memory, size_t count);

// Fails unless max |got - want| / max |want| <= tolerance; where want is all zero, max |got| must
// be. Prints "buf: [7 of 1000] got 25, want 24: error 0.0417 > 0". NaN and infinity never pass.
#define check_close(name, got, want, n, tolerance) \
    check_close_at(name, got, want, n, tolerance, __FILE__, __LINE__)
#define check_close_real(name, got, want, n, tolerance) \
    check_close_real_at(name, got, want, n, tolerance, __FILE__, __LINE__)

// The error that check_close compares; infinity where a value is not finite. `worst` may be NULL.
double check_error(int64_t *worst, const float *got, const float *want, int64_t n);

// Fails unless the n elements are equal: integers by value, float and double by their bits.
// clang-format off
#define check_equal(name, got, want, n)                                                       \
    check_equal_at(name, got, 1 ? (want) : (got), n, (int)sizeof(*(got)),                     \
                   _Generic(*(got), float: 'f', double: 'd', default: 'i'), __FILE__, __LINE__)
// clang-format on

// Fails, with the printf text, unless the condition holds.
#define check_that(condition, ...) check_that_at(condition, __FILE__, __LINE__, __VA_ARGS__)

// Fails unless `part` occurs in `text`: for messages.
#define check_contains(text, part) \
    check_that(strstr(text, part) != NULL, "'%s' lacks '%s'", text, part)

// A new folder for this program's files, the same on all ranks, removed when the program ends.
const char *check_folder(void);

// The folder's path, "/" and the printf text, in `path` of 512 bytes. Returns path.
char *check_path(char path[512], const char *format, ...) __attribute__((format(printf, 2, 3)));

void check_close_at(const char *name, const float *got, const float *want, int64_t n,
                    double tolerance, const char *file, int line);
void check_close_real_at(const char *name, const real *got, const float *want, int64_t n,
                         double tolerance, const char *file, int line);
void check_equal_at(const char *name, const void *got, const void *want, int64_t n, int bytes,
                    int kind, const char *file, int line);
void check_that_at(bool condition, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
