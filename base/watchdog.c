#include "base/watchdog.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "base/die.h"

enum { TEXT_BYTES = 64 };

static struct {
    uint64_t serial;  // Odd while the process waits.
    bool device;      // What it waits for; else the collective, which is the last one otherwise.
    const char *call;
    char name[TEXT_BYTES];
    int64_t number;
} wait_now;

static struct {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    bool started, stop;
    double seconds;
    void (*look)(void);
} dog = {.mutex = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};

static void turn(void) {
    __atomic_add_fetch(&wait_now.serial, 1, __ATOMIC_RELEASE);
}

void watchdog_collective(const char *call, const char *name, int64_t number) {
    wait_now.device = false;
    wait_now.call = call;
    wait_now.number = number;
    snprintf(wait_now.name, sizeof(wait_now.name), "%s", name);
    turn();
}

void watchdog_device(void) {
    wait_now.device = true;
    turn();
}

void watchdog_done(void) {
    turn();
}

static void bark(void) {
    DIE("%s%s %s #%" PRId64
        ": no end after %g seconds (run.hang_minutes): another rank hangs or is lost; "
        "the run resumes when it is started again",
        wait_now.device ? "waiting for the device, last " : "",
        wait_now.call != NULL ? wait_now.call : "no collective", wait_now.name, wait_now.number,
        dog.seconds);
}

// Sleeps, with the mutex held; false: it is over.
static bool sleep_for(double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    const int64_t nanoseconds = until.tv_nsec + (int64_t)(1e9 * seconds);
    until.tv_sec += nanoseconds / 1000000000;
    until.tv_nsec = nanoseconds % 1000000000;
    if (!dog.stop) pthread_cond_timedwait(&dog.ended, &dog.mutex, &until);
    return !dog.stop;
}

static void *watch(void *unused) {
    (void)unused;
    const double tick = dog.seconds < 10 ? 0.1 * dog.seconds : 1;
    double waited = 0, before = clock_seconds();
    uint64_t last = 0;
    pthread_mutex_lock(&dog.mutex);
    while (sleep_for(tick)) {
        const double now = clock_seconds();
        const uint64_t serial = __atomic_load_n(&wait_now.serial, __ATOMIC_ACQUIRE);
        if (dog.look != NULL) dog.look();
        // A tick that took much longer was no wait: the process, or the machine, stood still.
        waited = serial % 2 == 0 || serial != last
                     ? 0
                     : waited + (now - before < 5 * tick ? now - before : tick);
        before = now;
        last = serial;
        if (waited >= dog.seconds) bark();
    }
    pthread_mutex_unlock(&dog.mutex);
    return NULL;
}

void watchdog_start(double seconds, void (*look)(void)) {
    CHECK(!dog.started, "started twice");
    dog.seconds = seconds;
    dog.look = look;
    dog.stop = false;
    dog.started = pthread_create(&dog.thread, NULL, watch, NULL) == 0;
    CHECK(dog.started, "no thread for the watchdog");
}

void watchdog_stop(void) {
    if (!dog.started) return;
    pthread_mutex_lock(&dog.mutex);
    dog.stop = true;
    pthread_cond_signal(&dog.ended);
    pthread_mutex_unlock(&dog.mutex);
    pthread_join(dog.thread, NULL);
    dog.started = false;
}
