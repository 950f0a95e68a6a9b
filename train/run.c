#include "train/run.h"

#include <inttypes.h>
#include <jansson.h>
#include <malloc.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/die.h"
#include "base/files.h"
#include "checkpoint/save.h"
#include "model/ops/attention.h"
#include "parallel/agree.h"
#include "train/budget.h"
#include "train/ceiling.h"
#include "train/grid.h"
#include "train/once.h"
#include "train/report.h"
#include "train/trainer.h"
#include "train/validate.h"

static const char *const HELP =
    "kintoun train CONFIG [section.key=value ...] [--fresh] [--override KEY] [--once NAME[:TRY]]\n"
    "Trains as CONFIG says, alone or under mpirun or srun; resumes by itself from run.dir.\n"
    "  --fresh         set old checkpoints aside and start from step 0\n"
    "  --override KEY  let this setting of the recipe differ from the checkpoint's\n"
    "  --once NAME[:TRY]\n"
    "                  let --fresh and resume.step hold once for this NAME, so that a launcher\n"
    "                  can repeat its command: later starts go on from the newest checkpoint,\n"
    "                  but in one TRY not a sixth time from the same one\n"
    "  --settings      print every setting with range, default and meaning\n"
    "Exit codes: 0 done, 1 failed, 75 saved and wants to go on, 78 no use to start it again as it\n"
    "is: the settings are wrong, a later start has the run, or five starts came no further.\n"
    "SIGUSR1 (also SIGTERM, SIGINT where time allows): save at the next step, exit 75.\n";

static volatile sig_atomic_t signalled;

static void on_signal(int number) {
    (void)number;
    signalled = 1;
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

enum { ARGUMENTS_MAX = 256 };

// The command line, taken apart.
typedef struct {
    const char *path;
    const char *settings[ARGUMENTS_MAX];
    int setting_count;
    const char *overrides[ARGUMENTS_MAX];
    StartOptions options;
    bool help, list;
} Arguments;

static bool read_arguments(Arguments *a, int argc, char **argv, Problems *problems) {
    memset(a, 0, sizeof(*a));
    if (argc > ARGUMENTS_MAX) {
        problems_add(problems, "command line: %d words; at most %d are read", argc, ARGUMENTS_MAX);
        return false;
    }
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            a->help = true;
        } else if (strcmp(argv[i], "--settings") == 0) {
            a->list = true;
        } else if (strcmp(argv[i], "--fresh") == 0) {
            a->options.fresh = true;
        } else if (strcmp(argv[i], "--override") == 0) {
            if (++i == argc) {
                problems_add(problems, "command line: --override needs the name of a setting");
                break;
            }
            a->overrides[a->options.override_count++] = argv[i];
        } else if (strcmp(argv[i], "--once") == 0) {
            if (++i == argc || argv[i][0] == '\0' || strlen(argv[i]) > ONCE_NAME_MAX ||
                strchr(argv[i], '\n') != NULL) {
                problems_add(problems, "command line: --once needs a name of up to %d bytes",
                             ONCE_NAME_MAX);
                break;
            }
            a->options.once = argv[i];
        } else if (strncmp(argv[i], "--", 2) == 0) {
            problems_add(problems, "command line: unknown option '%s'; see kintoun train --help",
                         argv[i]);
        } else if (a->path == NULL && strchr(argv[i], '=') == NULL) {
            a->path = argv[i];
        } else {
            a->settings[a->setting_count++] = argv[i];
        }
    }
    a->options.overrides = a->overrides;
    if (a->path == NULL && !a->help && !a->list) {
        problems_add(problems, "command line: which CONFIG? see kintoun train --help");
    }
    return problems->count == 0;
}

// A checkpoint may have more rows than the settings: stages.7.lr is known where stages.0.lr is.
static bool same_but_rows(const char *a, const char *b) {
    while (*a != '\0' && *a == *b) {
        const bool row = *a == '.';
        a++, b++;
        const size_t m = strspn(a, "0123456789"), n = strspn(b, "0123456789");
        if (row && m > 0 && n > 0) a += m, b += n;
    }
    return *a == *b;
}

static void check_overrides(const Config *config, const Arguments *a, Problems *problems) {
    json_t *recipe = config_recipe(config, config_wire(config));
    for (int i = 0; i < a->options.override_count; i++) {
        const char *key;
        json_t *value;
        bool found = false;
        json_object_foreach(recipe, key, value) {
            found = found || same_but_rows(key, a->overrides[i]);
        }
        if (found) continue;
        problems_add(problems,
                     "command line: --override %s: the recipe has no such setting (what "
                     "run.precision and parallel.reduce come to is precision and wire there)",
                     a->overrides[i]);
    }
    json_decref(recipe);
}

// Rank 0 reads the file; all parse the same text. False with all problems.
static bool read_config(Config *config, const Arguments *a, Comm *world, Problems *problems) {
    Error error = {""};
    char *text = NULL;
    int64_t bytes = 0;
    if (comm_rank(world) == 0) text = file_read(a->path, 1 << 20, &bytes, &error);
    const bool read = agree(world, comm_rank(world) != 0 || text != NULL, &error);
    if (!read) {
        problems_add(problems, "%s", error.text);
        return false;
    }
    share_bytes(world, &text, &bytes);
    const bool ok =
        config_parse(config, text, bytes, a->path, a->settings, a->setting_count, problems);
    free(text);
    if (ok) check_overrides(config, a, problems);
    return problems->count == 0;
}

// Makes the run's folder and keeps the settings there as they were resolved.
static bool make_folder(const Trainer *t, Error *error) {
    char path[PATH_BYTES_MAX];
    if (t->mesh.rank != 0) return true;
    if (!folder_create(t->config.run.dir, error) ||
        !path_join(path, t->config.run.dir, "config.yaml", error)) {
        return false;
    }
    char *text = settings_dump(config_table, &t->config);
    const bool ok = file_write(path, text, (int64_t)strlen(text), error);
    free(text);
    return ok;
}

static void describe(const Trainer *t) {
    if (t->mesh.rank != 0) return;
    static const char *const policies[] = {"none", "cheap", "linear", "block"};
    char device[256];
    device_describe(device, sizeof(device));
    const int threads = omp_get_max_threads();
    printf("kintoun %s on %d rank%s of %s, %d thread%s each\n", REAL_NAME, t->mesh.size,
           t->mesh.size == 1 ? "" : "s", device, threads, threads == 1 ? "" : "s");
    printf("model: %" PRId64
           " parameters in %d units; recompute: %s; mesh: shard %d x replicas %d, "
           "sequence %d\n",
           param_total(&t->model.params), t->model.units, policies[t->recompute], t->mesh.shards,
           t->mesh.replicas, t->mesh.sequences);
    printf("attention: %s\n",
           attention_describe(t->config.model.head_dim, t->config.model.deterministic));
    const FsdpBytes sharding = fsdp_bytes(t->fsdp);
    printf(
        "memory per rank: activations %.1f MiB, parameters and gradients %.1f MiB, optimizer "
        "%.1f MiB\n",
        (double)t->model.bytes.total / 1048576, (double)sharding.total / 1048576,
        (double)t->optimizer.arena.size / 1048576);
    fflush(stdout);
}

// What the loop keeps besides the trainer.
typedef struct {
    Report report;
    Grid grid;
    Validation validation;
    double saved_at;     // clock_seconds of the last save.
    int failed_saves;    // In a row.
    bool taken;          // A later start has claimed the run's folder.
    int64_t saved_step;  // Of the last save or restore.
} Loop;

static bool save_due(const Trainer *t, const Loop *loop) {
    const double minutes = t->config.checkpoint.minutes;
    return minutes > 0 && clock_seconds() - loop->saved_at > 60 * minutes;
}

// False when two saves in a row have failed, or the run's folder was taken. Collective.
static bool save(Trainer *t, Loop *loop) {
    Error error;
    loop->saved_at = clock_seconds();
    if (loop->saved_step == t->state.step) return true;
    loop->taken = loop->taken || checkpoint_taken(t->config.run.dir, t->world, t->generation);
    if (loop->taken) return false;
    if (trainer_save(t, &error)) {
        loop->failed_saves = 0;
        loop->saved_step = t->state.step;
        report_say(&loop->report, "step %6" PRId64 "  checkpoint saved in %.1f s", t->state.step,
                   clock_seconds() - loop->saved_at);
        return true;
    }
    loop->failed_saves++;
    if (t->mesh.rank == 0) fprintf(stderr, "checkpoint not saved: %s\n", error.text);
    return loop->failed_saves < 2;
}

// Before leaving: one more try, then it is a failure. Collective.
static bool save_at_last(Trainer *t, Loop *loop) {
    return (save(t, loop) && loop->saved_step == t->state.step) ||
           (loop->failed_saves < 2 && save(t, loop) && loop->saved_step == t->state.step);
}

static bool divides(int64_t every, int64_t step) {
    return every > 0 && step % every == 0;
}

// Not to be started again where another start goes on.
static int save_failed(const Trainer *t, const Loop *loop) {
    if (loop->taken && t->mesh.rank == 0) {
        fprintf(stderr, "%s: a later start of this run has claimed it; this one stops\n",
                t->config.run.dir);
    }
    return loop->taken ? EXIT_CONFIG : EXIT_FAILED;
}

// Steps until the end, `stop_at`, a signal or too many faults. Returns the exit code.
static int loop_run(Trainer *t, Loop *loop) {
    const Config *c = &t->config;
    const int64_t last = config_steps(c);
    const int64_t end = c->run.stop_at > 0 ? min_i64(c->run.stop_at, last) : last;
    while (t->state.step < end) {
        StepReport step;
        Error error;
        if (!step_run(t, signalled != 0, save_due(t, loop), &step, &error)) {
            DIE("%s", error.text);  // Others wait in a collective: the job ends at once.
        }
        report_step(&loop->report, t, &step);
        if (t->state.corrupt > c->data.corrupt_max) {
            report_say(&loop->report, "%" PRId64 " corrupt samples, more than data.corrupt_max",
                       t->state.corrupt);
            return EXIT_FAILED;
        }
        if (t->state.skipped_in_row > c->train.skips_max) {
            report_say(&loop->report, "%" PRId64 " steps skipped in a row: %s",
                       t->state.skipped_in_row, step.skipped);
            return EXIT_FAILED;
        }
        const int64_t now = t->state.step;
        if (divides(c->train.validate, now)) validate(&loop->validation, t, &loop->report);
        if (divides(c->sample.every, now) && now < end) grid_draw(&loop->grid, t, &loop->report);
        if ((divides(c->checkpoint.every, now) || step.save) && !save(t, loop)) {
            return save_failed(t, loop);
        }
        if ((step.stop || now == end) && !save_at_last(t, loop)) return save_failed(t, loop);
        if (step.stop && now < end) {
            report_say(&loop->report, "signalled: saved at step %" PRId64 ", to be continued", now);
            return EXIT_REQUEUE;
        }
    }
    if (t->state.step == last && c->sample.prompt_count > 0) {
        grid_draw(&loop->grid, t, &loop->report);
    }
    return EXIT_DONE;
}

// From a trainer whose memory is there to the exit code.
static int train(Trainer *t, const StartOptions *options) {
    Error error;
    if (!agree(t->world, make_folder(t, &error), &error)) {
        if (t->mesh.rank == 0) fprintf(stderr, "%s\n", error.text);
        return EXIT_FAILED;
    }
    describe(t);
    const int start = trainer_start(t, options);
    if (start != EXIT_DONE) return start;
    Loop *loop = calloc(1, sizeof(*loop));
    CHECK(loop != NULL, "no memory");
    loop->saved_at = clock_seconds();
    loop->saved_step = t->state.step > 0 ? t->state.step : -1;
    const double peak = ceiling_flops(model_width(&t->config.model)) * t->mesh.size;
    bool ok = report_open(&loop->report, t, peak, &error) &&
              validation_open(&loop->validation, t, &error) && grid_open(&loop->grid, t, &error) &&
              trainer_load(t, &error);
    int exit_code = EXIT_FAILED;
    if (agree(t->world, ok, &error)) {
        if (t->state.step == 0 && t->config.sample.every > 0) {
            grid_draw(&loop->grid, t, &loop->report);
        }
        exit_code = loop_run(t, loop);
        report_close(&loop->report, t);
    } else if (t->mesh.rank == 0) {
        fprintf(stderr, "%s\n", error.text);
    }
    grid_close(&loop->grid);
    validation_close(&loop->validation);
    free(loop);
    return exit_code;
}

// All ranks must run the same build on the same kind of processor, or their bits differ.
static bool ranks_alike(Comm *world) {
    char device[256], text[512];
    device_describe(device, sizeof(device));
    snprintf(text, sizeof(text), "the %s build on %s", REAL_NAME, device);
    int64_t least = (int64_t)(hash_bytes(text, (int64_t)strlen(text)) >> 1), most = least;
    comm_all_reduce_min(world, &least, 1);
    comm_all_reduce_max(world, &most, 1);
    if (least != most) {
        fprintf(stderr, "ranks differ: rank %d is %s\n", comm_rank(world), text);
    }
    return least == most;
}

// From settings that are right to the exit code.
static int run(Trainer *trainer, Config *config, Comm *world, const StartOptions *options,
               Problems *problems) {
    Error error;
    const int devices = comm_device_start(world, config->run.share_gpu, &error);
    if (devices != EXIT_DONE) {
        if (comm_rank(world) == 0) fprintf(stderr, "%s\n", error.text);
        return devices;
    }
    comm_watch(world, 60 * config->run.hang_minutes);
    if (!ranks_alike(world)) return EXIT_FAILED;
    if (!budget_apply(config, world, problems) ||
        !trainer_create(trainer, config, world, problems)) {
        return EXIT_CONFIG;
    }
    return train(trainer, options);
}

int train_command(int argc, char **argv) {
    mallopt(M_MMAP_THRESHOLD, 1 << 18);  // What a save took for a while goes back to the system.
    catch_signals();  // Early: one that comes in MPI_Init stops the run after its first step.
    Comm *world = comm_start(&argc, &argv);
    const bool speaks = comm_rank(world) == 0;
    Arguments *arguments = calloc(1, sizeof(*arguments));
    Problems *problems = calloc(1, sizeof(*problems));
    Config *config = calloc(1, sizeof(*config));
    Trainer *trainer = calloc(1, sizeof(*trainer));
    CHECK(arguments && problems && config && trainer, "no memory");
    int exit_code = EXIT_CONFIG;
    if (read_arguments(arguments, argc, argv, problems) && (arguments->help || arguments->list)) {
        char *settings = settings_help(config_table);
        if (speaks) printf("%s", arguments->help ? HELP : settings);
        free(settings);
        exit_code = EXIT_DONE;
    } else if (problems->count == 0 && read_config(config, arguments, world, problems)) {
        exit_code = run(trainer, config, world, &arguments->options, problems);
    }
    if (problems->count > 0 && speaks) {
        problems_print(problems, "the settings");
    }
    trainer_free(trainer);
    free(trainer);
    free(config);
    free(problems);
    free(arguments);
    comm_stop(world);
    return exit_code;
}
