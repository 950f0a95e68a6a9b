#include "base/watchdog.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "base/die.h"

enum { NAME_BYTES = 64, TEXT_BYTES = 192 };

static struct {
    uint64_t serial;   // One more with each begin and end of a wait; odd within one.
    bool device;       // Whether it is, or was last, for the device.
    const char *call;  // The last collective.
    char name[NAME_BYTES];
    int64_t number;
} wait_now;

static struct {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    bool started, stop;
    double seconds;
    void (*look)(void);
} dog = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static uint64_t serial(void) {
    return __atomic_load_n(&wait_now.serial, __ATOMIC_ACQUIRE);
}

// What waits may have been given up by a death: their thread goes no further then.
static void turn(void) {
    die_join();
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

// Dies, unless something has happened since `then`.
static void bark(uint64_t then) {
    char last[TEXT_BYTES] = "the start";
    if (wait_now.call != NULL) {
        snprintf(last, sizeof(last), "%s #%" PRId64 " of %s", wait_now.call, wait_now.number,
                 wait_now.name);
    }
    const char *where = then % 2 == 0     ? "out of any wait, after"
                        : wait_now.device ? "waiting for the device, after"
                                          : "in";
    if (serial() != then) return;
    DIE("%s %s for %g seconds (run.hang_minutes): this rank or another hangs or is lost; the run "
        "resumes when it is started again",
        where, last, dog.seconds);
}

// Sleeps, with the mutex held; false: it is over.
static bool sleep_for(double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    const int64_t nanoseconds = until.tv_nsec + (int64_t)(1e9 * seconds);
    until.tv_sec += nanoseconds / 1000000000;
    until.tv_nsec = nanoseconds % 1000000000;
    if (!dog.stop) pthread_cond_timedwait(&dog.ended, &dog.mutex, &until);
    return !dog.stop;
}

// Counts time without any begin or end of a wait: a launch blocks, too, once the device's queue is
// full.
static void *watch(void *unused) {
    (void)unused;
    const double tick = dog.seconds < 10 ? 0.1 * dog.seconds : 1;
    double still = 0, before = clock_seconds();
    uint64_t last = serial();
    pthread_mutex_lock(&dog.mutex);
    while (sleep_for(tick)) {
        const double now = clock_seconds(), passed = now - before;
        const uint64_t present = serial();
        die_join();
        if (dog.look != NULL) dog.look();
        // A tick that took much longer was no wait: the process, or the machine, stood still.
        still = present != last ? 0 : still + (passed < 5 * tick ? passed : tick);
        before = now;
        last = present;
        if (still >= dog.seconds) bark(present);
    }
    pthread_mutex_unlock(&dog.mutex);
    return NULL;
}

void watchdog_start(double seconds, void (*look)(void)) {
    CHECK(!dog.started, "started twice");
    pthread_condattr_t clock;
    dog.seconds = seconds;
    dog.look = look;
    dog.stop = false;
    dog.started = pthread_condattr_init(&clock) == 0 &&
                  pthread_condattr_setclock(&clock, CLOCK_MONOTONIC) == 0 &&
                  pthread_cond_init(&dog.ended, &clock) == 0 &&
                  pthread_create(&dog.thread, NULL, watch, NULL) == 0;
    CHECK(dog.started, "no thread for the watchdog");
    pthread_condattr_destroy(&clock);
}

void watchdog_stop(void) {
    if (!dog.started) return;
    pthread_mutex_lock(&dog.mutex);
    dog.stop = true;
    pthread_cond_signal(&dog.ended);
    pthread_mutex_unlock(&dog.mutex);
    pthread_join(dog.thread, NULL);
    pthread_cond_destroy(&dog.ended);
    dog.started = false;
}
