#include "train/grid.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"

bool grid_rows(PictureRow *rows, const SampleConfig *config, int64_t text_width, Error *error) {
    for (int64_t i = 0; i < config->prompt_count; i++) {
        const Prompt *prompt = &config->prompts[i];
        rows[i] = (PictureRow){.shape = {CODEC_CHANNELS, (int32_t)prompt->frames,
                                         (int32_t)prompt->height, (int32_t)prompt->width},
                               .samples = config->count};
        snprintf(rows[i].caption, sizeof(rows[i].caption), "%s", prompt->caption);
        if (!picture_row_encode(&rows[i], text_width, error)) return false;
    }
    return true;
}

bool grid_open(Grid *grid, const Trainer *t, Error *error) {
    memset(grid, 0, sizeof(*grid));
    const SampleConfig *c = &t->config.sample;
    PictureRow rows[PROMPTS_MAX] = {0};
    if (c->prompt_count == 0) return true;
    const bool ok = demo_facts_read(&grid->facts, t->config.data.sources[0].path, error) &&
                    grid_rows(rows, c, t->config.model.text_width, error);
    pictures_create(&grid->pictures, rows, (int)c->prompt_count);
    if (!ok) return false;
    const SamplerConfig how = {.guidance = c->guidance};
    Error reason;
    return sampler_check(grid->pictures.requests, grid->pictures.count, &how, &t->model, &reason) ||
           error_set(error, "sample.prompts: %s", reason.text);
}

void grid_close(Grid *grid) {
    pictures_free(&grid->pictures);
}

static void write_pictures(const Grid *grid, const Trainer *t, Report *report) {
    Error error;
    PicturesMade made;
    char folder[PATH_BYTES_MAX], path[PATH_BYTES_MAX];
    snprintf(folder, sizeof(folder), "%s/samples/step-%06" PRId64, t->config.run.dir,
             t->state.step);
    if (!pictures_write(&made, &grid->pictures, &grid->facts.codec, t->config.sample.scale, folder,
                        &error)) {
        report_say(report, "no pictures: %s", error.text);
    }
    if (made.images && path_join(path, folder, "images.png", &error)) {
        report_picture(report, t->state.step, "images", path);
    }
    if (made.videos && path_join(path, folder, "videos.png", &error)) {
        report_picture(report, t->state.step, "videos", path);
    }
    report_say(report, "step %6" PRId64 "  a grid of each prompt: %s/", t->state.step, folder);
}

void grid_draw(Grid *grid, Trainer *t, Report *report) {
    if (grid->pictures.count == 0) return;
    Error error;
    const SamplerConfig config = {
        .steps = t->config.sample.steps,
        .guidance = t->config.sample.guidance,
        .shift = t->config.stages[planner_stage_of(t->planner, t->state.step)].shift,
        .seed = (uint64_t)t->config.run.seed};
    fsdp_source(t->fsdp, t->optimizer.ema);
    const bool ok = sampler_run(grid->pictures.requests, grid->pictures.count, &config, &t->model,
                                t->fsdp, &t->batch, &error);
    fsdp_source(t->fsdp, NULL);
    if (!ok) {
        report_say(report, "no pictures: %s", error.text);
    } else if (t->mesh.rank == 0) {
        write_pictures(grid, t, report);
    }
}
