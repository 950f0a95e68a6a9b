#include "train/grid.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "train/memory.h"

// A prompt as a row of pictures, with its text.
static bool grid_row(PictureRow *row, const Prompt *prompt, const Config *config, Error *error) {
    *row = (PictureRow){.shape = {CODEC_CHANNELS, (int32_t)prompt->frames, (int32_t)prompt->height,
                                  (int32_t)prompt->width},
                        .samples = config->sample.count};
    snprintf(row->caption, sizeof(row->caption), "%s", prompt->caption);
    return picture_row_encode(row, config->model.text_width, error);
}

void grid_check(const Config *config, Problems *problems) {
    const SampleConfig *c = &config->sample;
    const SamplerConfig how = {.guidance = c->guidance};
    DemoFacts facts;
    Error error;
    if (c->prompt_count == 0) return;
    if (!demo_facts_read(&facts, config->data.sources[0].path, &error)) {
        problems_add(problems, "sample.prompts: %s", error.text);
    }
    for (int i = 0; i < c->prompt_count; i++) {
        PictureRow row;
        const bool encoded = grid_row(&row, &c->prompts[i], config, &error);
        const SampleRequest request = {.shape = row.shape, .text_length = row.text_length};
        if (!encoded ||
            !sampler_check(&request, &how, &config->model, stage_bounds(config), &error)) {
            problems_add(problems, "sample.prompts.%d: %s", i, error.text);
        }
        free(row.text);
    }
}

bool grid_open(Grid *grid, const Trainer *t, Error *error) {
    memset(grid, 0, sizeof(*grid));
    const SampleConfig *c = &t->config.sample;
    PictureRow rows[PROMPTS_MAX] = {0};
    if (c->prompt_count == 0) return true;
    bool ok = demo_facts_read(&grid->facts, t->config.data.sources[0].path, error);
    for (int i = 0; i < c->prompt_count; i++) {
        ok = grid_row(&rows[i], &c->prompts[i], &t->config, error) && ok;
    }
    pictures_create(&grid->pictures, rows, (int)c->prompt_count);
    return ok;
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
