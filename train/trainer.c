#include "train/trainer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/files.h"
#include "base/watchdog.h"
#include "checkpoint/restore.h"
#include "checkpoint/save.h"
#include "checkpoint/steps.h"
#include "checkpoint/weights.h"
#include "parallel/agree.h"
#include "train/grid.h"
#include "train/once.h"

// What each rank of this node may use: nine tenths of what is free now, the least of all ranks'.
static int64_t memory_available(Comm *world) {
    Comm *node = comm_split_node(world, "node");
    int64_t free_bytes = device_memory_free(comm_size(node)) / 10 * 9;
    comm_free(node);
    comm_all_reduce_min(world, &free_bytes, 1);
    return free_bytes;
}

// Ranks of the smallest node.
static int node_ranks(Comm *world) {
    Comm *node = comm_split_node(world, "node");
    int64_t ranks = comm_size(node);
    comm_free(node);
    comm_all_reduce_min(world, &ranks, 1);
    return (int)ranks;
}

// Every rank reads the catalogues: one that cannot, or reads others, stops all. Collective.
static bool agree_on_data(const Trainer *t, Problems *problems) {
    Error error;
    const bool ok = problems->count == 0 && t->planner != NULL;
    error_set(&error, "%s", problems->count > 0 ? problems->text[0] : "");
    if (!agree(t->world, ok, &error)) {
        if (problems->count == 0) problems_add(problems, "%s", error.text);
        return false;
    }
    int64_t least = (int64_t)(planner_checksum(t->planner) >> 1), most = least;
    comm_all_reduce_min(t->world, &least, 1);
    comm_all_reduce_max(t->world, &most, 1);
    if (least == most) return true;
    problems_add(problems,
                 "the catalogues of data.sources differ between the nodes; run kintoun "
                 "data catalogue on each data set and make them the same");
    return false;
}

bool trainer_create(Trainer *t, const Config *config, Comm *world, Problems *problems) {
    memset(t, 0, sizeof(*t));
    t->config = *config;
    t->world = world;
    const int64_t available = memory_available(world);
    const ModelNeeds needs = model_needs(&config->model);
    StageData stages[STAGES_MAX];
    for (int64_t s = 0; s < config->stage_count; s++) stages[s] = config->stages[s].data;
    t->planner = planner_create(&config->data, stages, (int)config->stage_count, &needs,
                                (uint64_t)config->run.seed, problems);
    Error error;
    if (t->planner != NULL && !pack_reader_fits(t->planner, config->data.cache_bytes, &error)) {
        problems_add(problems, "%s", error.text);
    }
    grid_check(config, problems);
    check_layout(config, comm_size(world), problems);
    if (!agree_on_data(t, problems)) return false;
    int64_t data = loader_bytes(t->planner, config->data.ahead, config->data.cache_bytes);
    if (config->train.validate > 0) data += config->data.cache_bytes;  // Its own reader.
    const MeshConfig mesh =
        choose_layout(config, comm_size(world), node_ranks(world), data, available);
    mesh_init(&t->mesh, world, &mesh);
    model_record(&t->model, &config->model, &t->mesh);
    // Connections to peers have taken theirs.
    const int64_t left = min_i64(available, memory_available(world));
    int64_t recompute = choose_recompute(&t->model, &t->mesh, config, data, left);
    comm_all_reduce_max(world, &recompute, 1);  // Ranks of uneven slices could differ.
    t->recompute = (Recompute)recompute;
    memory_plan(&t->model, &t->mesh, config, data, t->recompute);
    const FsdpConfig sharding = fsdp_settings(config);
    t->fsdp = fsdp_create(&t->model.params, &t->mesh, &sharding);
    planner_lengths(t->planner, t->model.lengths);
    model_allocate(&t->model);
    optimizer_create(&t->optimizer, &t->model.params, &t->mesh);
    batch_create(&t->batch, &t->model);
    step_create(t);
    state_init(&t->state, t->planner);
    return true;
}

void trainer_free(Trainer *t) {
    if (t->planner == NULL) return;
    loader_free(t->loader);
    if (t->fsdp != NULL) {
        state_free(&t->state);
        step_free(t);
        batch_free(&t->batch);
        optimizer_free(&t->optimizer);
        fsdp_free(t->fsdp);
        model_free(&t->model);
        mesh_free(&t->mesh);
    }
    planner_free(t->planner);
    free(t->masters);
}

static CheckpointShards shards(Trainer *t) {
    if (t->masters == NULL) t->masters = calloc((size_t)t->model.units, sizeof(*t->masters));
    CHECK(t->masters != NULL, "no memory for %d units", t->model.units);
    for (int unit = 0; unit < t->model.units; unit++) {
        t->masters[unit] = fsdp_master(t->fsdp, unit);
    }
    return (CheckpointShards){.table = &t->model.params,
                              .world = t->world,
                              .shard = t->mesh.exchange,
                              .replica = t->mesh.replica,
                              .slice = {[CLASS_WEIGHTS] = t->masters,
                                        [CLASS_EMA] = t->optimizer.ema,
                                        [CLASS_EXP_AVG] = t->optimizer.exp_avg,
                                        [CLASS_EXP_AVG_SQ] = t->optimizer.exp_avg_sq}};
}

bool trainer_save(Trainer *t, Error *error) {
    char *config = model_config_json(&t->config.model);
    char *state = state_to_text(&t->state, t->planner, &t->config);
    const CheckpointSave save = {.run = t->config.run.dir,
                                 .step = t->state.step,
                                 .generation = t->generation,
                                 .file_bytes_max = t->config.checkpoint.file_bytes,
                                 .config = config,
                                 .state = state,
                                 .shards = shards(t)};
    bool ok = checkpoint_save(&save, error);
    if (ok && t->config.checkpoint.keep > 0 && t->mesh.rank == 0) {
        Error prune;
        if (!checkpoint_prune(t->config.run.dir, (int)t->config.checkpoint.keep, &prune)) {
            fprintf(stderr, "old checkpoints stay: %s\n", prune.text);
        }
    }
    free(config);
    free(state);
    return ok;
}

static void start_anew(Trainer *t) {
    for (int unit = 0; unit < t->model.units; unit++) {
        const int64_t begin = fsdp_slice_begin(t->fsdp, unit), end = fsdp_slice_end(t->fsdp, unit);
        float *host = malloc((size_t)(end - begin + 1) * sizeof(float));
        CHECK(host != NULL, "no memory for %" PRId64 " elements", end - begin);
        param_init(host, &t->model.params, unit, begin, end, (uint64_t)t->config.run.seed);
        device_copy(fsdp_master(t->fsdp, unit), host, (end - begin) * (int64_t)sizeof(float), NULL);
        stream_wait(NULL);
        free(host);
    }
    optimizer_start(&t->optimizer, t->fsdp);
}

// The recipe that a checkpoint of this run would have.
static char *recipe_text(const Trainer *t) {
    json_t *recipe = recipe_json(&t->config, t->planner);
    char *text = json_dumps(recipe, 0);
    json_decref(recipe);
    CHECK(text != NULL, "no memory for the recipe");
    return text;
}

static int start_without(Trainer *t) {
    start_anew(t);
    if (t->config.init.weights[0] == '\0') {
        if (t->mesh.rank == 0) printf("starts from step 0\n");
        return EXIT_DONE;
    }
    Error error;
    Problems problems = {0};
    const CheckpointShards where = shards(t);
    const Verdict verdict = checkpoint_load_weights(
        where.slice[CLASS_WEIGHTS], t->config.init.weights, &t->model.params, t->mesh.shard_index,
        t->mesh.shards, t->world, &problems, &error);
    if (verdict != VERDICT_GOOD) {
        if (t->mesh.rank == 0 && verdict == VERDICT_INCOMPATIBLE) {
            problems_print(&problems, "init.weights");
        } else if (t->mesh.rank == 0) {
            fprintf(stderr, "init.weights: %s\n", error.text);
        }
        return verdict == VERDICT_INCOMPATIBLE ? EXIT_CONFIG : EXIT_FAILED;
    }
    optimizer_start(&t->optimizer, t->fsdp);
    if (t->mesh.rank == 0) printf("starts from step 0 with %s\n", t->config.init.weights);
    return EXIT_DONE;
}

// Where ranks that wait too long ask the others: RUN/hang-GENERATION. Those of earlier starts go.
static bool arrange_roll_call(const Trainer *t, Error *error) {
    char name[32], folder[PATH_BYTES_MAX];
    int count = 0;
    char **names = t->mesh.rank == 0 ? folder_list(t->config.run.dir, &count, error) : NULL;
    for (int i = 0; i < count; i++) {
        const bool old = strncmp(names[i], "hang-", 5) == 0 && strlen(names[i]) == 21 &&
                         strspn(names[i] + 5, "0123456789abcdef") == 16;
        if (!old || !path_join(folder, t->config.run.dir, names[i], error)) continue;
        if (!folder_remove(folder, error)) fprintf(stderr, "%s stays: %s\n", folder, error->text);
    }
    folder_list_free(names, count);
    snprintf(name, sizeof(name), "hang-%016" PRIx64, t->generation);
    if (!path_join(folder, t->config.run.dir, name, error)) return false;
    watchdog_roll_call(folder, t->mesh.rank, t->mesh.size);
    return true;
}

// A run that ends again and again before its next checkpoint would only burn hours.
static int note_start(const Trainer *t, Once *once, const char *name, bool chosen) {
    Error error;
    const bool speaks = t->mesh.rank == 0;
    if (!once_write(once, t->config.run.dir, name, chosen, t->state.step, t->world, &error)) {
        if (speaks) fprintf(stderr, "%s\n", error.text);
        return EXIT_FAILED;
    }
    if (once->starts <= ONCE_STARTS_MAX) return EXIT_DONE;
    if (speaks) {
        fprintf(stderr,
                "step %" PRId64
                ": %d starts of this job came no further, and one more is not "
                "tried; what ended them stands in their output; start a new job to go on\n",
                t->state.step, ONCE_STARTS_MAX);
    }
    return EXIT_CONFIG;
}

// Behind the claim.
static int start(Trainer *t, const StartOptions *options) {
    Error error;
    Once once;
    if (!arrange_roll_call(t, &error) ||
        !once_read(&once, t->config.run.dir, options->once, t->world, &error)) {
        if (t->mesh.rank == 0) fprintf(stderr, "%s\n", error.text);
        return EXIT_FAILED;
    }
    char *recipe = recipe_text(t);
    Restore restore = {
        .run = t->config.run.dir,
        .shards = shards(t),
        .step = t->config.resume.step > 0 && !once.chosen ? t->config.resume.step : -1,
        .fresh = options->fresh && !once.chosen,
        .state_version = STATE_VERSION,
        .recipe = recipe,
        .overrides = options->overrides,
        .override_count = options->override_count};
    const RestoreResult result = checkpoint_restore(&restore, &error);
    free(recipe);
    const bool speaks = t->mesh.rank == 0;
    for (int i = 0; i < restore.refused.count && i < PROBLEMS_MAX && speaks; i++) {
        fprintf(stderr, "passed over: %s\n", restore.refused.text[i]);
    }
    int exit_code = EXIT_DONE;
    if (result == RESTORE_NOTHING) {
        exit_code = start_without(t);
    } else if (result == RESTORE_REFUSED) {
        if (speaks) fprintf(stderr, "%s\n", error.text);
        exit_code = EXIT_FAILED;
    } else if (result == RESTORE_INCOMPATIBLE) {
        if (speaks) problems_print(&restore.problems, "the checkpoint against this run");
        exit_code = EXIT_CONFIG;
    } else if (!state_from_text(&t->state, t->planner, restore.state, &error)) {
        if (speaks) fprintf(stderr, "step %" PRId64 ": %s\n", restore.found, error.text);
        exit_code = EXIT_FAILED;
    } else if (speaks) {
        printf("resumes at step %" PRId64 "\n", t->state.step);
    }
    free(restore.state);
    if (exit_code != EXIT_DONE) return exit_code;
    const bool chosen = restore.fresh || restore.step >= 0;
    return note_start(t, &once, options->once, chosen);
}

int trainer_start(Trainer *t, const StartOptions *options) {
    Error error;
    const char *run = t->config.run.dir;
    const bool first = t->mesh.rank == 0;
    const uint64_t before = first ? checkpoint_generation(run) : 0;
    if (!checkpoint_claim(run, t->world, &t->generation, &error)) {
        if (first) fprintf(stderr, "%s\n", error.text);
        return EXIT_FAILED;
    }
    const int exit_code = start(t, options);
    if (exit_code != EXIT_DONE && first) checkpoint_unclaim(run, t->generation, before);
    return exit_code;
}

bool trainer_load(Trainer *t, Error *error) {
    t->loader =
        loader_create(t->planner, &t->state.cursor, config_steps(&t->config), t->config.data.ahead,
                      t->config.data.cache_bytes, step_share, &t->mesh, error);
    return t->loader != NULL;
}
