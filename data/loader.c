#include "data/loader.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/die.h"
#include "base/real.h"

enum { PLANS = 3 };

// Counters only grow; slot k of a ring is number k modulo its size. What the user holds is
// the one taken last.
struct Loader {
    Planner *planner;
    PackReader *reader;
    PackShare share;
    const void *context;
    Cursor cursor;
    int64_t step_end, steps;  // Behind the last one; how many there are.
    int64_t *mine;            // [packs of a step], what `share` says; of the thread.
    StepPlan *plans[PLANS];
    int64_t plan_packs[PLANS];  // How many of a plan's packs are ours.
    LoadedPack **packs;
    int64_t pack_slots;

    pthread_t thread;
    pthread_mutex_t lock;    // Guards all below.
    pthread_cond_t changed;  // Any of them.
    int64_t plans_made, plans_taken, packs_made, packs_taken;
    bool pack_held, stop, failed;
    Error error;

    int64_t packs_left;  // Of the step that the user is at; of the user, as is the next.
    double waited_seconds;
};

// ---- the thread

// Waits until `made` may grow: fewer than `slots` are ready or held. False: the loader is to stop.
static bool wait_for_slot(Loader *loader, const int64_t *made, const int64_t *taken,
                          const bool *held, int64_t slots) {
    pthread_mutex_lock(&loader->lock);
    while (!loader->stop && *made - (*taken - (*held ? 1 : 0)) >= slots) {
        pthread_cond_wait(&loader->changed, &loader->lock);
    }
    const bool go = !loader->stop;
    pthread_mutex_unlock(&loader->lock);
    return go;
}

static void count_up(Loader *loader, int64_t *counter) {
    pthread_mutex_lock(&loader->lock);
    ++*counter;
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->lock);
}

static void fail(Loader *loader, const Error *error) {
    pthread_mutex_lock(&loader->lock);
    loader->failed = true;
    loader->error = *error;
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->lock);
}

// Plans one step and reads our packs of it; false: stop.
static bool make_step(Loader *loader) {
    static const bool always = true;  // A plan is held until the next one is taken.
    if (!wait_for_slot(loader, &loader->plans_made, &loader->plans_taken, &always, PLANS)) {
        return false;
    }
    const int64_t slot = loader->plans_made % PLANS;
    StepPlan *plan = loader->plans[slot];
    plan_step(plan, loader->planner, &loader->cursor);
    const int64_t count =
        loader->share(loader->mine, plan->pack_count, plan->stage, loader->context);
    CHECK(count >= 0 && count <= plan->pack_count, "a share of %lld of %lld packs",
          (long long)count, (long long)plan->pack_count);
    loader->plan_packs[slot] = count;
    count_up(loader, &loader->plans_made);
    for (int64_t i = 0; i < count; i++) {
        if (!wait_for_slot(loader, &loader->packs_made, &loader->packs_taken, &loader->pack_held,
                           loader->pack_slots)) {
            return false;
        }
        Error error;
        LoadedPack *pack = loader->packs[loader->packs_made % loader->pack_slots];
        if (!pack_reader_load(pack, loader->reader, plan, loader->mine[i], &error)) {
            fail(loader, &error);
            return false;
        }
        count_up(loader, &loader->packs_made);
    }
    return true;
}

static void *run(void *argument) {
    Loader *loader = argument;
    while (loader->cursor.step < loader->step_end && make_step(loader)) {
    }
    return NULL;
}

// Signals are for the main thread.
static void start_thread(Loader *loader) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&loader->thread, NULL, run, loader);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    CHECK(failed == 0, "the loader's thread cannot be started: error %d", failed);
}

// ---- the user

Loader *loader_create(Planner *planner, const Cursor *cursor, int64_t step_end, int64_t ahead,
                      int64_t cache_bytes, PackShare share, const void *context, Error *error) {
    PackReader *reader = pack_reader_create(planner, cache_bytes, error);
    if (reader == NULL) return NULL;
    CHECK(ahead >= 1, "%lld packs ahead; at least 1 is needed", (long long)ahead);
    Loader *loader = calloc(1, sizeof(*loader));
    CHECK(loader != NULL, "no memory for the loader");
    loader->planner = planner;
    loader->reader = reader;
    loader->share = share;
    loader->context = context;
    loader->step_end = min_i64(step_end, planner_steps(planner));
    loader->steps = max_i64(loader->step_end - cursor->step, 0);
    loader->pack_slots = ahead + 1;
    loader->mine = calloc((size_t)planner_bounds(planner).packs, sizeof(int64_t));
    loader->packs = calloc((size_t)loader->pack_slots, sizeof(*loader->packs));
    CHECK(loader->mine != NULL && loader->packs != NULL, "no memory for the loader");
    for (int64_t i = 0; i < loader->pack_slots; i++) loader->packs[i] = loaded_pack_create(planner);
    for (int i = 0; i < PLANS; i++) loader->plans[i] = step_plan_create(planner);
    cursor_init(&loader->cursor, planner);
    cursor_copy(&loader->cursor, cursor);
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->changed, NULL);
    start_thread(loader);
    return loader;
}

void loader_free(Loader *loader) {
    if (loader == NULL) return;
    pthread_mutex_lock(&loader->lock);
    loader->stop = true;
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->lock);
    pthread_join(loader->thread, NULL);
    pthread_cond_destroy(&loader->changed);
    pthread_mutex_destroy(&loader->lock);
    for (int64_t i = 0; i < loader->pack_slots; i++) loaded_pack_free(loader->packs[i]);
    for (int i = 0; i < PLANS; i++) step_plan_free(loader->plans[i]);
    cursor_free(&loader->cursor);
    pack_reader_free(loader->reader);
    free(loader->packs);
    free(loader->mine);
    free(loader);
}

// Takes number *taken once it is made, with the lock held. False: the thread failed before it.
static bool take(Loader *loader, const int64_t *made, int64_t *taken, Error *error) {
    const double start = clock_seconds();
    pthread_cond_broadcast(&loader->changed);  // What was held is free.
    while (*made == *taken && !loader->failed) pthread_cond_wait(&loader->changed, &loader->lock);
    loader->waited_seconds += clock_seconds() - start;
    if (*made == *taken) return error_set(error, "%s", loader->error.text);
    ++*taken;
    return true;
}

const StepPlan *loader_step(Loader *loader, Error *error) {
    CHECK(loader->packs_left == 0, "%lld packs of the step before were not taken",
          (long long)loader->packs_left);
    CHECK(loader->plans_taken < loader->steps, "all %lld steps were taken",
          (long long)loader->steps);
    pthread_mutex_lock(&loader->lock);
    loader->pack_held = false;
    const int64_t number = loader->plans_taken;
    const bool ok = take(loader, &loader->plans_made, &loader->plans_taken, error);
    pthread_mutex_unlock(&loader->lock);
    if (!ok) return NULL;
    loader->packs_left = loader->plan_packs[number % PLANS];
    return loader->plans[number % PLANS];
}

const LoadedPack *loader_pack(Loader *loader, Error *error) {
    CHECK(loader->packs_left > 0, "all packs of the step were taken");
    pthread_mutex_lock(&loader->lock);
    loader->pack_held = false;
    const int64_t number = loader->packs_taken;
    const bool ok = take(loader, &loader->packs_made, &loader->packs_taken, error);
    loader->pack_held = ok;
    pthread_mutex_unlock(&loader->lock);
    if (!ok) return NULL;
    loader->packs_left--;
    return loader->packs[number % loader->pack_slots];
}

double loader_waited_seconds(const Loader *loader) {
    return loader->waited_seconds;
}

int64_t loader_bytes(const Planner *planner, int64_t ahead, int64_t cache_bytes) {
    const PlanBounds b = planner_bounds(planner);
    const int64_t plan = b.packs * (int64_t)sizeof(PlanPack) +
                         b.deferred * (int64_t)(sizeof(PlanSample) + sizeof(Deferred));
    return pack_reader_bytes(planner, cache_bytes) + (ahead + 1) * loaded_pack_bytes(planner) +
           PLANS * plan;
}
