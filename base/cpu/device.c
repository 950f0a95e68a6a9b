#define _DEFAULT_SOURCE  // madvise
#include "base/device.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/die.h"
#include "base/real.h"
#include "base/watchdog.h"

const char *device_backend(void) {
    return "cpu";
}

bool device_start(int local_rank, Error *error) {
    (void)local_rank;
    (void)error;
    return true;
}

int64_t device_identity(void) {
    return -1;
}

void device_shared_by(int ranks) {
    (void)ranks;
}

void *device_allocate(const char *name, int64_t bytes) {
    void *memory = NULL;
    const int64_t rounded = round_up(max_i64(bytes, 1), 256);
    // Pages of 2 MiB where the system gives them: products are 5-15 % faster than with 4 KiB.
    const int64_t page = 2 << 20;
    const bool large = rounded >= 2 * page;
    if (posix_memalign(&memory, large ? (size_t)page : 256, (size_t)rounded) != 0) {
        DIE("%s: no memory for %" PRId64 " bytes; use more ranks, recomputation or smaller packs",
            name, bytes);
    }
    if (large) madvise(memory, (size_t)(rounded / page * page), MADV_HUGEPAGE);
    memset(memory, 0, (size_t)rounded);
    return memory;
}

void *device_allocate_shared(const char *name, int64_t bytes) {
    return device_allocate(name, bytes);
}

void device_free(void *memory) {
    free(memory);
}

void *host_allocate(const char *name, int64_t bytes) {
    return device_allocate(name, bytes);
}

void host_free(void *memory) {
    free(memory);
}

void device_copy(void *to, const void *from, int64_t bytes, Stream stream) {
    (void)stream;
    if (bytes > 0) memcpy(to, from, (size_t)bytes);
}

void device_zero(void *memory, int64_t bytes, Stream stream) {
    (void)stream;
    if (bytes > 0) memset(memory, 0, (size_t)bytes);
}

Stream stream_create(void) {
    return NULL;
}

void stream_free(Stream stream) {
    (void)stream;
}

// Nothing to wait for, but a sign of life: a rank may draw pictures for long without a collective.
void stream_wait(Stream stream) {
    (void)stream;
    watchdog_device();
    watchdog_done();
}

// Events mark nothing in streams that are synchronous; one with a clock holds its time.
struct EventState {
    double seconds;
};

Event event_create(void) {
    return NULL;
}

Event event_create_timed(void) {
    const Event event = calloc(1, sizeof(*event));
    CHECK(event != NULL, "no memory for an event");
    return event;
}

double event_seconds(Event begin, Event end) {
    return end->seconds - begin->seconds;
}

void event_free(Event event) {
    free(event);
}

void event_record(Event event, Stream stream) {
    (void)stream;
    if (event != NULL) event->seconds = clock_seconds();
}

void stream_await(Stream stream, Event event) {
    (void)stream;
    (void)event;
}

void event_wait(Event event) {
    (void)event;
}

int64_t device_memory_used(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    long pages = 0, resident = 0;
    if (file == NULL) return 0;
    if (fscanf(file, "%ld %ld", &pages, &resident) != 2) resident = 0;
    fclose(file);
    return (int64_t)resident * sysconf(_SC_PAGESIZE);
}

static int64_t memory_available(void) {
    char line[128];
    long kilobytes = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "MemAvailable: %ld kB", &kilobytes) == 1) break;
    }
    if (file != NULL) fclose(file);
    return (int64_t)kilobytes * 1024;
}

// The names of a memory controller's files, in versions 1 and 2 of control groups.
typedef struct {
    const char *mount, *limit, *usage, *active, *inactive;
} Controller;

static const Controller controllers[2] = {
    {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_active_file ", "total_inactive_file "},
    {"/sys/fs/cgroup", "memory.max", "memory.current", "active_file ", "inactive_file "}};

enum { GROUP_PATH_MAX = 4096 };

// Adds up the numbers behind lines' starts `a` and `b` of a file; -1 where there is none, and for
// "max".
static int64_t read_numbers(const Controller *c, const char *group, const char *name, const char *a,
                            const char *b) {
    char path[GROUP_PATH_MAX + 64], line[256];
    long long value, sum = -1;
    snprintf(path, sizeof(path), "%s%s/%s", c->mount, group, name);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        const char *start = strncmp(line, a, strlen(a)) == 0 ? a : b;
        if (strncmp(line, start, strlen(start)) != 0) continue;
        if (sscanf(line + strlen(start), "%lld", &value) == 1) sum = max_i64(sum, 0) + value;
    }
    if (file != NULL) fclose(file);
    return sum;
}

// What the group and all above it leave; files in the page cache give way. Changes `group`.
static int64_t group_free(const Controller *c, char *group) {
    int64_t least = INT64_MAX;
    for (char *end = group + strlen(group); end != NULL; end = strrchr(group, '/')) {
        *end = '\0';
        const int64_t limit = read_numbers(c, group, c->limit, "", "");
        const int64_t usage = read_numbers(c, group, c->usage, "", "");
        const int64_t files = read_numbers(c, group, "memory.stat", c->active, c->inactive);
        if (limit < 0 || usage < 0) continue;
        least = min_i64(least, max_i64(0, limit - usage + max_i64(files, 0)));
    }
    return least;
}

int64_t device_memory_free(int local_ranks) {
    char line[GROUP_PATH_MAX];
    int64_t least = memory_available();
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\n")] = '\0';  // "4:memory:/GROUP", or "0::/GROUP" in version 2.
        char *names = strchr(line, ':'), *group = names != NULL ? strchr(names + 1, ':') : NULL;
        if (group == NULL) continue;
        *group++ = '\0';
        const bool second = names[1] == '\0';
        if (!second && strcmp(names + 1, "memory") != 0) continue;
        least = min_i64(least, group_free(&controllers[second], group));
    }
    if (file != NULL) fclose(file);
    return least / local_ranks;
}

void device_describe(char *text, int64_t size) {
    char line[256], model[200] = "unknown processor";
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "model name : %199[^\n]", model) == 1) break;
    }
    if (file != NULL) fclose(file);
    const char *products = __builtin_cpu_supports("avx512bf16") ? "avx512_bf16"
                           : __builtin_cpu_supports("avx512f")  ? "avx512"
                           : __builtin_cpu_supports("avx2")     ? "avx2"
                                                                : "baseline";
    snprintf(text, (size_t)size, "%s (%s)", model, products);
}
