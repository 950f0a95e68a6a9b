#include "train/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/files.h"
#include "train/curve.h"

enum { BAR_WIDTH = 30 };

bool report_open(Report *report, const Trainer *t, double peak_flops, Error *error) {
    *report = (Report){.on = t->mesh.rank == 0, .peak_flops = peak_flops};
    if (!report->on) return true;
    // mpirun gives rank 0 a terminal even where its own output is a file; TERM=dumb says so then.
    const char *const kind = getenv("TERM");
    report->terminal = isatty(STDOUT_FILENO) != 0 && kind != NULL && strcmp(kind, "dumb") != 0;
    report->started = clock_seconds();
    report->first_step = t->state.step;
    char path[PATH_BYTES_MAX], folder[PATH_BYTES_MAX];
    if (!path_join(path, t->config.run.dir, "metrics.jsonl", error) ||
        !path_join(folder, t->config.run.dir, "tensorboard", error) ||
        !folder_create(folder, error)) {
        return false;
    }
    report->metrics = metrics_open(path, t->state.step > 0 ? t->state.step : -1, error);
    if (report->metrics == NULL) return false;
    if (!t->config.log.tensorboard) return true;
    report->events = events_create(folder, clock_wall(), error);
    return report->events != NULL;
}

static void clear_bar(const Report *report) {
    if (report->terminal) printf("\r\033[K");
}

static void draw_bar(const Report *report, int64_t step, int64_t steps) {
    if (!report->terminal || step >= steps) return;
    const int64_t filled = BAR_WIDTH * step / steps;
    const double each =
        (clock_seconds() - report->started) / (double)max_i64(step - report->first_step, 1);
    const int64_t left = (int64_t)(each * (double)(steps - step));
    printf("[%.*s%*s] %" PRId64 "/%" PRId64 "  %" PRId64 ":%02" PRId64 " left", (int)filled,
           "##############################", (int)(BAR_WIDTH - filled), "", step, steps, left / 60,
           left % 60);
    fflush(stdout);
}

void report_say(Report *report, const char *format, ...) {
    if (!report->on) return;
    clear_bar(report);
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
}

static void write_line(Report *report, const Trainer *t, const StepReport *s) {
    const double seconds = report->seconds / (double)report->steps;
    const double share = 100 / fmax(report->seconds, 1e-9);
    report_say(report,
               "step %6" PRId64
               "  %-10s loss %.4f  norm %7.4f  lr %.2e  %7.1f ms  %8.0f tok/s  "
               "mfu %4.1f%%  wait data %2.0f%% comm %2.0f%%%s%s",
               s->plan->step + 1, t->config.stages[s->plan->stage].name, s->loss, s->norm, s->lr,
               1e3 * seconds, (double)report->tokens / report->seconds,
               100 * report->flops / report->seconds / report->peak_flops,
               share * report->data_seconds, share * report->comm_seconds,
               s->skipped != NULL ? "  SKIPPED: " : "", s->skipped != NULL ? s->skipped : "");
    report->steps = report->tokens = 0;
    report->seconds = report->data_seconds = report->comm_seconds = report->flops = 0;
}

static void write_metrics(Report *report, const Trainer *t, const StepReport *s, double flops) {
    Metrics *m = report->metrics;
    Error error;
    metrics_begin(m, s->plan->step + 1);
    metrics_text(m, "stage", t->config.stages[s->plan->stage].name);
    metrics_number(m, "loss", s->loss);
    metrics_number(m, "grad_norm", s->norm);
    metrics_number(m, "lr", s->lr);
    for (int i = 0; i < TIME_BINS; i++) {
        char key[32];
        snprintf(key, sizeof(key), "loss_t0.%d", i);
        if (isfinite(s->loss_bin[i])) metrics_number(m, key, s->loss_bin[i]);
    }
    static const char *const keys[MEDIUM_COUNT] = {"loss_image", "loss_video"};
    for (int i = 0; i < MEDIUM_COUNT; i++) {
        if (isfinite(s->loss_medium[i])) metrics_number(m, keys[i], s->loss_medium[i]);
    }
    for (int i = 0; i < s->size_count; i++) {
        metrics_number(m, s->sizes[i].key, s->sizes[i].loss);
    }
    metrics_whole(m, "samples", s->plan->sample_count);
    metrics_whole(m, "tokens", s->plan->tokens);
    metrics_number(
        m, "fill",
        (double)s->plan->tokens /
            (double)(s->plan->pack_count * t->config.stages[s->plan->stage].data.tokens));
    metrics_whole(m, "deferred", s->plan->after.deferred_count);
    metrics_whole(m, "corrupt", t->state.corrupt);
    metrics_whole(m, "skipped", t->state.skipped);
    metrics_number(m, "seconds", s->seconds);
    metrics_number(m, "tokens_per_second", (double)s->plan->tokens / s->seconds);
    metrics_number(m, "mfu", flops / s->seconds / report->peak_flops);
    metrics_whole(m, "memory_bytes", device_memory_used());
    metrics_number(m, "wait_data_seconds", s->data_seconds);
    metrics_number(m, "wait_comm_seconds", s->comm_seconds);
    if (s->skipped != NULL) metrics_text(m, "skip_reason", s->skipped);
    if (!metrics_end(m, &error)) fprintf(stderr, "metrics: %s\n", error.text);
}

// The loss by time, medium and size, as in metrics.jsonl.
static void write_loss_parts(EventFile *events, double now, int64_t step, const StepReport *s) {
    for (int i = 0; i < TIME_BINS; i++) {
        char tag[40];
        snprintf(tag, sizeof(tag), "loss_by_time/t0.%d", i);
        if (isfinite(s->loss_bin[i])) {
            events_scalar(events, now, step, tag, (float)s->loss_bin[i]);
        }
    }
    static const char *const media[MEDIUM_COUNT] = {"loss_by_medium/image", "loss_by_medium/video"};
    for (int i = 0; i < MEDIUM_COUNT; i++) {
        if (isfinite(s->loss_medium[i])) {
            events_scalar(events, now, step, media[i], (float)s->loss_medium[i]);
        }
    }
    for (int i = 0; i < s->size_count; i++) {
        char tag[64];
        snprintf(tag, sizeof(tag), "loss_by_size/%s", s->sizes[i].key);
        events_scalar(events, now, step, tag, (float)s->sizes[i].loss);
    }
}

static void write_events(Report *report, const StepReport *s) {
    if (report->events == NULL) return;
    const double now = clock_wall();
    const int64_t step = s->plan->step + 1;
    const struct {
        const char *tag;
        double value;
    } scalars[] = {{"loss_metrics/global_avg_loss", s->loss},
                   {"grad_norm", s->norm},
                   {"lr", s->lr},
                   {"throughput(tps)", (double)s->plan->tokens / s->seconds},
                   {"time_metrics/end_to_end(s)", s->seconds},
                   {"time_metrics/data_loading(s)", s->data_seconds},
                   {"time_metrics/communication(s)", s->comm_seconds}};
    for (size_t i = 0; i < sizeof(scalars) / sizeof(scalars[0]); i++) {
        events_scalar(report->events, now, step, scalars[i].tag, (float)scalars[i].value);
    }
    write_loss_parts(report->events, now, step, s);
    Error error;
    if (!events_flush(report->events, &error)) fprintf(stderr, "tensorboard: %s\n", error.text);
}

// Appends to RUN/skipped.jsonl what was in a step that was skipped: pack by pack each sample with
// its loss.
static void write_skip(const Trainer *t, const StepReport *s) {
    Error error;
    char path[PATH_BYTES_MAX];
    if (!path_join(path, t->config.run.dir, "skipped.jsonl", &error)) return;
    json_t *packs = json_array();
    for (int64_t j = 0; j < s->plan->pack_count; j++) {
        json_t *samples = json_array();
        const PlanPack *pack = &s->plan->packs[j];
        for (int64_t i = pack->first; i < pack->first + pack->count; i++) {
            const PlanSample *sample = &s->plan->samples[i];
            const double mean = t->sample_losses[i] /
                                (double)(sample->tokens * model_token_elements(&t->config.model));
            json_array_append_new(
                samples, json_pack("{s:I, s:s, s:I, s:o}", "position", (json_int_t)sample->position,
                                   "source", t->config.data.sources[sample->source].path, "row",
                                   (json_int_t)sample->row, "loss",
                                   isfinite(mean) ? json_real(mean) : json_null()));
        }
        json_array_append_new(packs, samples);
    }
    json_t *line =
        json_pack("{s:I, s:s, s:o, s:o, s:o}", "step", (json_int_t)s->plan->step + 1, "reason",
                  s->skipped, "loss", isfinite(s->loss) ? json_real(s->loss) : json_null(), "norm",
                  isfinite(s->norm) ? json_real(s->norm) : json_null(), "packs", packs);
    FILE *file = fopen(path, "a");
    if (file == NULL || json_dumpf(line, file, JSON_PRESERVE_ORDER) != 0) {
        fprintf(stderr, "%s: cannot be written\n", path);
    }
    if (file != NULL) {
        fputc('\n', file);
        fclose(file);
    }
    json_decref(line);
}

void report_step(Report *report, const Trainer *t, const StepReport *s) {
    if (!report->on) return;
    const double flops = step_flops(s->plan, &t->model);
    write_metrics(report, t, s, flops);
    write_events(report, s);
    report->steps++;
    report->tokens += s->plan->tokens;
    report->seconds += s->seconds;
    report->data_seconds += s->data_seconds;
    report->comm_seconds += s->comm_seconds;
    report->flops += flops;
    const int64_t step = s->plan->step + 1, steps = config_steps(&t->config);
    if (step % t->config.log.every == 0 || step == steps || s->skipped != NULL) {
        write_line(report, t, s);
    }
    if (s->skipped != NULL) write_skip(t, s);
    clear_bar(report);
    draw_bar(report, step, steps);
}

void report_validation(Report *report, int64_t step, double loss) {
    if (!report->on) return;
    Error error;
    report_say(report, "step %6" PRId64 "  validation loss %.4f", step, loss);
    metrics_begin(report->metrics, step);
    metrics_number(report->metrics, "validation_loss", loss);
    if (!metrics_end(report->metrics, &error)) fprintf(stderr, "metrics: %s\n", error.text);
    if (report->events == NULL) return;
    events_scalar(report->events, clock_wall(), step, "validation_metrics/loss", (float)loss);
}

void report_picture(Report *report, int64_t step, const char *tag, const char *path) {
    if (!report->on) return;
    Error error;
    report_say(report, "step %6" PRId64 "  %s: %s", step, tag, path);
    if (report->events == NULL) return;
    int64_t bytes;
    char *png = file_read(path, (int64_t)1 << 28, &bytes, &error);
    if (png == NULL) {
        fprintf(stderr, "tensorboard: %s\n", error.text);
        return;
    }
    // Width and height stand big-endian in the first chunk, the colour type behind them.
    const uint8_t *p = (const uint8_t *)png;
    const int width = p[16] << 24 | p[17] << 16 | p[18] << 8 | p[19];
    const int height = p[20] << 24 | p[21] << 16 | p[22] << 8 | p[23];
    events_image(report->events, clock_wall(), step, tag, p, bytes, width, height,
                 p[25] == 2 ? 3 : 1);
    free(png);
}

void report_close(Report *report, const Trainer *t) {
    if (!report->on) return;
    Error error;
    clear_bar(report);
    if (report->metrics != NULL && !metrics_close(report->metrics, &error)) {
        fprintf(stderr, "metrics: %s\n", error.text);
    }
    if (report->events != NULL && !events_close(report->events, &error)) {
        fprintf(stderr, "tensorboard: %s\n", error.text);
    }
    char curve[PATH_BYTES_MAX], path[PATH_BYTES_MAX];
    if (path_join(curve, t->config.run.dir, "loss.png", &error) &&
        path_join(path, t->config.run.dir, "metrics.jsonl", &error) &&
        curve_write(curve, path, "loss", &error)) {
        printf("loss curve: %s\n", curve);
    } else {
        fprintf(stderr, "no loss curve: %s\n", error.text);
    }
}
