#define _XOPEN_SOURCE 700  // nftw
#include "tests/check.h"

#include <ftw.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/device.h"
#include "base/die.h"

static struct {
    int rank;
    bool (*all_agree)(bool mine);
    bool device;
    char folder[256];
} self;

void check_setup(int rank, bool (*all_agree)(bool mine)) {
    self.rank = rank;
    self.all_agree = all_agree;
}

void check_device(int rank) {
    Error error;
    CHECK(device_start(rank, &error), "%s", error.text);
    self.device = true;
}

void free_each(void *const *memory, size_t count) {
    for (size_t i = 0; i < count; i++) device_free(memory[i]);
}

// What the device was told to write is there.
static void settle(void) {
    if (self.device) stream_wait(NULL);
}

// Fails on all ranks if any of them failed; `text` is this rank's complaint, "" if it has none.
static void verdict(const char *text, const char *file, int line) {
    const bool passed = text[0] == '\0';
    if (!passed) print_error("rank %d: %s\n", self.rank, text);
    const bool all = self.all_agree == NULL ? passed : self.all_agree(passed);
    if (all) return;
    if (passed) print_error("rank %d: passed, but another rank did not\n", self.rank);
    _fail(file, line);
}

double check_error(int64_t *worst, const float *got, const float *want, int64_t n) {
    double error = 0, scale = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        const double e = fabs((double)got[i] - (double)want[i]);
        scale = fmax(scale, fabs((double)want[i]));
        if (!isfinite(e)) {
            if (worst != NULL) *worst = i;
            return (double)INFINITY;
        }
        if (e > error) {
            error = e;
            at = i;
        }
    }
    if (worst != NULL) *worst = at;
    return scale > 0 ? error / scale : error;
}

void check_close_at(const char *name, const float *got, const float *want, int64_t n,
                    double tolerance, const char *file, int line) {
    settle();
    char text[400] = "";
    int64_t i = 0;
    const double error = check_error(&i, got, want, n);
    if (!(error <= tolerance)) {
        snprintf(text, sizeof(text),
                 "%s: [%" PRId64 " of %" PRId64 "] got %.9g, want %.9g: error %.3g > %.3g", name, i,
                 n, (double)got[i], (double)want[i], error, tolerance);
    }
    verdict(text, file, line);
}

void check_close_real_at(const char *name, const real *got, const float *want, int64_t n,
                         double tolerance, const char *file, int line) {
    float *const values = malloc((size_t)max_i64(n, 1) * sizeof(float));
    CHECK(values != NULL, "%s: no memory for %" PRId64 " floats", name, n);
    settle();
    for (int64_t i = 0; i < n; i++) values[i] = to_float(got[i]);
    check_close_at(name, values, want, n, tolerance, file, line);
    free(values);
}

// The element at `p` as text: its value, and its bits where it is a floating-point number.
static void element_text(char text[64], const char *p, int bytes, int kind) {
    int64_t bits = 0;  // Little-endian.
    memcpy(&bits, p, (size_t)bytes);
    if (kind == 'f') {
        float x;
        memcpy(&x, p, sizeof(x));
        snprintf(text, 64, "%.9g (%08" PRIx64 ")", (double)x, bits);
    } else if (kind == 'd') {
        double x;
        memcpy(&x, p, sizeof(x));
        snprintf(text, 64, "%.17g (%016" PRIx64 ")", x, bits);
    } else {
        const int unused = 64 - 8 * bytes;
        const int64_t value = (int64_t)((uint64_t)bits << unused) >> unused;
        snprintf(text, 64, "%" PRId64, value);
    }
}

void check_equal_at(const char *name, const void *got, const void *want, int64_t n, int bytes,
                    int kind, const char *file, int line) {
    settle();
    const char *const a = got, *const b = want;
    char text[400] = "", first[64], second[64];
    int64_t differing = 0, i = -1;
    for (int64_t k = 0; k < n; k++) {
        if (memcmp(a + k * bytes, b + k * bytes, (size_t)bytes) == 0) continue;
        if (i < 0) i = k;
        differing++;
    }
    if (differing > 0) {
        element_text(first, a + i * bytes, bytes, kind);
        element_text(second, b + i * bytes, bytes, kind);
        snprintf(text, sizeof(text),
                 "%s: [%" PRId64 " of %" PRId64 "] got %s, want %s: %" PRId64 " differ", name, i, n,
                 first, second, differing);
    }
    verdict(text, file, line);
}

void check_that_at(bool condition, const char *file, int line, const char *format, ...) {
    char text[2000] = "";
    if (!condition) {
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
    }
    verdict(text, file, line);
}

static int remove_entry(const char *path, const struct stat *about, int kind, struct FTW *walk) {
    (void)about, (void)kind, (void)walk;
    return remove(path);
}

static void remove_folder(void) {
    nftw(self.folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *check_folder(void) {
    if (self.folder[0] != '\0') return self.folder;
    const char *base = getenv("TMPDIR");
    if (base == NULL) {
        base = "build/tmp";
        mkdir("build", 0777);
        mkdir(base, 0777);
    }
    if (self.all_agree == NULL) {
        snprintf(self.folder, sizeof(self.folder), "%s/check-XXXXXX", base);
        CHECK(mkdtemp(self.folder) != NULL, "cannot make a folder in %s", base);
    } else {  // mpirun, the parent of all ranks, gives them a name that no other test has.
        snprintf(self.folder, sizeof(self.folder), "%s/check-%ld", base, (long)getppid());
        if (self.rank == 0) remove_folder();
        const bool made = self.rank != 0 || mkdir(self.folder, 0777) == 0;
        check_that(made, "cannot make %s", self.folder);
    }
    if (self.rank == 0) atexit(remove_folder);
    return self.folder;
}

char *check_path(char path[512], const char *format, ...) {
    const int used = snprintf(path, 512, "%s/", check_folder());
    va_list args;
    va_start(args, format);
    vsnprintf(path + used, 512 - (size_t)used, format, args);
    va_end(args);
    return path;
}
