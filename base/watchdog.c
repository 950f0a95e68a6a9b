#include "base/watchdog.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "base/die.h"
#include "base/files.h"
#include "base/roll_call.h"

enum { NAME_BYTES = 64, TEXT_BYTES = 1024, STORAGE_SECONDS = 20 };

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
    char folder[PATH_BYTES_MAX];
    RollCall roll;  // Its folder is NULL until watchdog_roll_call.
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

// The ranks are asked on a thread of its own, for storage may be what hangs. It alone touches the
// folder: it takes the answer back once it is left.
typedef enum { ASK_NOT, ASK_RUNS, ASK_DONE } Ask;

static struct {
    Ask state;  // Atomic, as is `left`.
    bool left;
    char line[ROLL_CALL_LINE], text[TEXT_BYTES];
    double seconds;
    bool speaks;
} ask;

static void *call_roll(void *unused) {
    (void)unused;
    ask.speaks = roll_call(ask.text, TEXT_BYTES, &dog.roll, ask.line, ask.seconds);
    __atomic_store_n(&ask.state, ASK_DONE, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&ask.left, __ATOMIC_ACQUIRE)) clock_sleep(0.1);
    roll_call_end(&dog.roll);
    __atomic_store_n(&ask.state, ASK_NOT, __ATOMIC_RELEASE);
    return NULL;
}

static bool asks(void) {
    return __atomic_load_n(&ask.state, __ATOMIC_ACQUIRE) != ASK_NOT;
}

// Sleeps as long as nothing has happened since `then`; false: something has, or the watch is over.
static bool still_for(double seconds, uint64_t then) {
    for (const double until = clock_seconds() + seconds; clock_seconds() < until;) {
        die_join();
        if (dog.look != NULL) dog.look();
        if (serial() != then || !sleep_for(0.1)) return false;
    }
    return true;
}

// text = the ranks' answers to `line`, where they are to be had. false: the wait, or the watch, is
// over.
static bool ask_ranks(char text[TEXT_BYTES], const char *line, uint64_t then) {
    pthread_t thread;
    snprintf(text, TEXT_BYTES, "this rank or another hangs or is lost");
    if (dog.roll.folder == NULL || asks()) return true;
    snprintf(ask.line, sizeof(ask.line), "%s", line);
    // Ranks begin to wait within a step of each other.
    ask.seconds = fmax(0.1 * dog.seconds, fmin(dog.seconds, 5));
    ask.left = false;
    ask.state = ASK_RUNS;
    if (pthread_create(&thread, NULL, call_roll, NULL) != 0) {
        ask.state = ASK_NOT;
        return true;
    }
    pthread_detach(thread);
    const double until = clock_seconds() + ask.seconds + STORAGE_SECONDS;
    while (__atomic_load_n(&ask.state, __ATOMIC_ACQUIRE) == ASK_RUNS) {
        if (!still_for(0.1, then)) return false;
        if (clock_seconds() < until) continue;
        snprintf(text, TEXT_BYTES, "%.900s does not answer", dog.roll.folder);
        return true;
    }
    snprintf(text, TEXT_BYTES, "%s", ask.text);
    // Who speaks ends the job.
    return ask.speaks || still_for(ask.seconds + STORAGE_SECONDS, then);
}

// Dies, unless something has happened since `then`.
static void bark(uint64_t then) {
    char last[ROLL_CALL_LINE] = "the start", text[TEXT_BYTES], line[ROLL_CALL_LINE];
    if (wait_now.call != NULL) {
        snprintf(last, sizeof(last), "%s #%" PRId64 " of %s", wait_now.call, wait_now.number,
                 wait_now.name);
    }
    const char *where = then % 2 == 0     ? "out of any wait, after"
                        : wait_now.device ? "waiting for the device, after"
                                          : "in";
    snprintf(line, sizeof(line), "%s %.120s", where, last);
    if (serial() != then) return;
    if (ask_ranks(text, line, then) && serial() == then) {
        DIE("%s for %g seconds (run.hang_minutes): %s; the run resumes when it is started again",
            line, dog.seconds, text);
    }
    __atomic_store_n(&ask.left, true, __ATOMIC_RELEASE);
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

void watchdog_roll_call(const char *folder, int rank, int size) {
    pthread_mutex_lock(&dog.mutex);
    snprintf(dog.folder, sizeof(dog.folder), "%s", folder);
    dog.roll = (RollCall){dog.folder, rank, size, &ask.left};
    pthread_mutex_unlock(&dog.mutex);
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
