#include "base/die.h"

#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { END_SECONDS_MAX = 60 };

static struct {
    int rank, size;
    void (*abort_job)(int status);
} self = {0, 1, NULL};

void die_setup(int rank, int size, void (*abort_job)(int status)) {
    self.rank = rank;
    self.size = size;
    self.abort_job = abort_job;
}

static struct {
    bool begun, named;
    pthread_t by;
} death;

void die_join(void) {
    if (!__atomic_load_n(&death.begun, __ATOMIC_ACQUIRE)) return;
    while (!__atomic_load_n(&death.named, __ATOMIC_ACQUIRE)) sched_yield();
    while (!pthread_equal(death.by, pthread_self())) pause();
}

// This thread ends the job, or goes no further.
static void die_begin(void) {
    if (__atomic_exchange_n(&death.begun, true, __ATOMIC_ACQ_REL)) {
        die_join();
        return;
    }
    death.by = pthread_self();
    __atomic_store_n(&death.named, true, __ATOMIC_RELEASE);
}

void end_job(int status) {
    die_begin();
    alarm(END_SECONDS_MAX);  // Standard output, MPI or its calls in other threads may never end.
    fflush(stdout);
    if (self.abort_job != NULL) self.abort_job(status);
    _exit(status);
}

void die_at(const char *file, int line, const char *func, const char *format, ...) {
    char host[64] = "?", text[2048];
    die_begin();
    gethostname(host, sizeof(host) - 1);
    int used = snprintf(text, sizeof(text), "[rank %d/%d %s] %s:%d %s: ", self.rank, self.size,
                        host, file, line, func);
    va_list args;
    va_start(args, format);
    used += vsnprintf(text + used, sizeof(text) - (size_t)used - 1, format, args);
    va_end(args);
    if (used > (int)sizeof(text) - 2) used = (int)sizeof(text) - 2;
    text[used] = '\n';
    if (write(STDERR_FILENO, text, (size_t)used + 1) < 0) _exit(EXIT_FAILED);
    end_job(EXIT_FAILED);
}
