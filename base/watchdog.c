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

enum { NAME_BYTES = 64, LINE_BYTES = 160, TEXT_BYTES = 1024, STORAGE_SECONDS = 20 };

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

// What the ranks said; asked for on a thread of its own, for storage may be what hangs.
static struct {
    char line[LINE_BYTES], text[TEXT_BYTES];
    double seconds;
    bool first, done;
} answers;

static void *call_roll(void *unused) {
    (void)unused;
    answers.first = roll_call(answers.text, TEXT_BYTES, &dog.roll, answers.line, answers.seconds);
    __atomic_store_n(&answers.done, true, __ATOMIC_RELEASE);
    return NULL;
}

// text = the ranks' answers, where they are to be had. The first rank that answers returns at once.
static void ask_ranks(char text[TEXT_BYTES]) {
    pthread_t thread;
    snprintf(text, TEXT_BYTES, "this rank or another hangs or is lost");
    if (dog.roll.folder == NULL) return;
    // Ranks begin to wait within a step of each other.
    answers.seconds = fmax(0.1 * dog.seconds, fmin(dog.seconds, 5));
    answers.done = false;
    if (pthread_create(&thread, NULL, call_roll, NULL) != 0) return;
    const double until = clock_seconds() + answers.seconds + STORAGE_SECONDS;
    while (!__atomic_load_n(&answers.done, __ATOMIC_ACQUIRE)) {
        die_join();
        clock_sleep(0.1);
        if (clock_seconds() < until) continue;
        pthread_detach(thread);
        snprintf(text, TEXT_BYTES, "%s does not answer", dog.roll.folder);
        return;
    }
    pthread_join(thread, NULL);
    snprintf(text, TEXT_BYTES, "%s", answers.text);
    if (!answers.first) clock_sleep(answers.seconds);
}

// Dies, unless something has happened since `then`.
static void bark(uint64_t then) {
    char last[LINE_BYTES] = "the start", text[TEXT_BYTES];
    if (wait_now.call != NULL) {
        snprintf(last, sizeof(last), "%s #%" PRId64 " of %s", wait_now.call, wait_now.number,
                 wait_now.name);
    }
    const char *where = then % 2 == 0     ? "out of any wait, after"
                        : wait_now.device ? "waiting for the device, after"
                                          : "in";
    snprintf(answers.line, LINE_BYTES, "%s %.120s", where, last);
    if (serial() != then) return;
    ask_ranks(text);
    if (serial() != then) {
        roll_call_end(&dog.roll);
        return;
    }
    DIE("%s for %g seconds (run.hang_minutes): %s; the run resumes when it is started again",
        answers.line, dog.seconds, text);
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

void watchdog_roll_call(const char *folder, int rank, int size) {
    pthread_mutex_lock(&dog.mutex);
    snprintf(dog.folder, sizeof(dog.folder), "%s", folder);
    dog.roll = (RollCall){dog.folder, rank, size};
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
