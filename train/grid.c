#include "train/grid.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/files.h"
#include "base/png.h"
#include "data/demo/text.h"

enum { FRAME_MILLISECONDS = 160, CAPTION_FILE_MAX = 160 };

bool grid_open(Grid *grid, const Trainer *t, Error *error) {
    memset(grid, 0, sizeof(*grid));
    const SampleConfig *c = &t->config.sample;
    if (c->prompt_count == 0) return true;
    if (!demo_facts_read(&grid->facts, t->config.data.sources[0].path, error)) return false;
    grid->count = (int)(c->prompt_count * c->count);
    grid->requests = calloc((size_t)grid->count, sizeof(*grid->requests));
    grid->texts = calloc((size_t)(c->prompt_count * TEXT_TOKENS_MAX * TEXT_WIDTH), sizeof(float));
    int64_t elements = 0;
    CHECK(grid->requests != NULL && grid->texts != NULL, "no memory for %d samples", grid->count);
    for (int p = 0; p < c->prompt_count; p++) {
        const Prompt *prompt = &c->prompts[p];
        float *text = grid->texts + (int64_t)p * TEXT_TOKENS_MAX * TEXT_WIDTH;
        const int length = text_encode(text, prompt->caption, error);
        if (length < 0) return false;
        for (int i = 0; i < c->count; i++) {
            SampleRequest *r = &grid->requests[p * c->count + i];
            *r = (SampleRequest){.shape = {CODEC_CHANNELS, (int32_t)prompt->frames,
                                           (int32_t)prompt->height, (int32_t)prompt->width},
                                 .text = text,
                                 .text_length = length,
                                 .position = (uint64_t)(p * c->count + i)};
            elements += latent_elements(r->shape);
        }
    }
    grid->latents = calloc((size_t)elements, sizeof(float));
    CHECK(grid->latents != NULL, "no memory for %" PRId64 " elements", elements);
    float *latent = grid->latents;
    for (int i = 0; i < grid->count; i++) {
        grid->requests[i].latent = latent;
        latent += latent_elements(grid->requests[i].shape);
    }
    return true;
}

void grid_close(Grid *grid) {
    free(grid->requests);
    free(grid->texts);
    free(grid->latents);
    memset(grid, 0, sizeof(*grid));
}

// Decoded samples and the cells that show them.
typedef struct {
    float **pixels;  // [count] [frames, height, width]
    const Grid *grid;
    const SampleConfig *config;
} Decoded;

// Cells of samples [first, first + count) at `frame` of their time.
static void cells_at(GridCell *cells, const Decoded *d, const int *chosen, int count, int frame) {
    for (int i = 0; i < count; i++) {
        const LatentShape s = d->grid->requests[chosen[i]].shape;
        const int height = s.H * CODEC_BLOCK, width = s.W * CODEC_BLOCK;
        const int frames = (int)codec_frames(s), f = frame < frames ? frame : frames - 1;
        cells[i] = (GridCell){.values = d->pixels[chosen[i]] + (int64_t)f * height * width,
                              .height = height,
                              .width = width};
        if (i % d->config->count == 0) {
            cells[i].label = d->config->prompts[chosen[i] / d->config->count].caption;
        }
    }
}

// One file: a row of samples per prompt; animated where any sample has several frames.
static bool write_grid(const char *path, const Decoded *d, const int *chosen, int count,
                       Error *error) {
    int frames = 1;
    for (int i = 0; i < count; i++) {
        const int n = (int)codec_frames(d->grid->requests[chosen[i]].shape);
        if (n > frames) frames = n;
    }
    GridCell *cells = calloc((size_t)count, sizeof(*cells));
    Picture *pictures = calloc((size_t)frames, sizeof(*pictures));
    CHECK(cells != NULL && pictures != NULL, "no memory for %d frames", frames);
    for (int f = 0; f < frames; f++) {
        cells_at(cells, d, chosen, count, f);
        pictures[f] = picture_grid(cells, count, (int)d->config->count, (int)d->config->scale);
    }
    const bool ok = frames == 1 ? png_write(path, &pictures[0], error)
                                : apng_write(path, pictures, frames, FRAME_MILLISECONDS, error);
    for (int f = 0; f < frames; f++) picture_free(&pictures[f]);
    free(pictures);
    free(cells);
    return ok;
}

// "an ankle boot moving left" -> "an-ankle-boot-moving-left.png".
static void file_name(char name[CAPTION_FILE_MAX], const char *caption) {
    int n = 0;
    for (; *caption != '\0' && n < CAPTION_FILE_MAX - 5; caption++) {
        const char c = (char)tolower((unsigned char)*caption);
        name[n++] = isalnum((unsigned char)c) ? c : '-';
    }
    snprintf(name + n, (size_t)(CAPTION_FILE_MAX - n), ".png");
}

// Prompts of one kind together, then each alone.
static bool write_all(const char *folder, const Decoded *d, Report *report, int64_t step,
                      Error *error) {
    const SampleConfig *c = d->config;
    int *chosen = calloc((size_t)d->grid->count, sizeof(*chosen));
    CHECK(chosen != NULL, "no memory for %d samples", d->grid->count);
    char path[PATH_BYTES_MAX], name[CAPTION_FILE_MAX];
    bool ok = folder_create(folder, error);
    for (int video = 0; video < 2 && ok; video++) {
        int count = 0;
        for (int i = 0; i < d->grid->count; i++) {
            if ((d->grid->requests[i].shape.F > 1) == video) chosen[count++] = i;
        }
        if (count == 0) continue;
        const char *tag = video ? "videos" : "images";
        snprintf(name, sizeof(name), "%s.png", tag);
        ok = path_join(path, folder, name, error) && write_grid(path, d, chosen, count, error);
        if (ok) report_picture(report, step, tag, path);
    }
    for (int p = 0; p < c->prompt_count && ok; p++) {
        for (int i = 0; i < c->count; i++) chosen[i] = (int)(p * c->count + i);
        file_name(name, c->prompts[p].caption);
        ok = path_join(path, folder, name, error) &&
             write_grid(path, d, chosen, (int)c->count, error);
    }
    free(chosen);
    return ok;
}

static void write_pictures(const Grid *grid, const Trainer *t, Report *report) {
    Error error;
    char folder[PATH_BYTES_MAX];
    snprintf(folder, sizeof(folder), "%s/samples/step-%06" PRId64, t->config.run.dir,
             t->state.step);
    Decoded decoded = {.grid = grid, .config = &t->config.sample};
    decoded.pixels = calloc((size_t)grid->count, sizeof(*decoded.pixels));
    CHECK(decoded.pixels != NULL, "no memory for %d samples", grid->count);
    for (int i = 0; i < grid->count; i++) {
        const LatentShape s = grid->requests[i].shape;
        decoded.pixels[i] = malloc((size_t)codec_pixels(s) * sizeof(float));
        CHECK(decoded.pixels[i] != NULL, "no memory for %" PRId64 " pixels", codec_pixels(s));
        codec_decode(decoded.pixels[i], &grid->facts.codec, grid->requests[i].latent, s);
    }
    if (!write_all(folder, &decoded, report, t->state.step, &error)) {
        report_say(report, "no pictures: %s", error.text);
    }
    for (int i = 0; i < grid->count; i++) free(decoded.pixels[i]);
    free(decoded.pixels);
}

void grid_draw(Grid *grid, Trainer *t, Report *report) {
    if (grid->count == 0) return;
    Error error;
    const SamplerConfig config = {
        .steps = t->config.sample.steps,
        .guidance = t->config.sample.guidance,
        .shift = t->config.stages[planner_stage_of(t->planner, t->state.step)].shift,
        .seed = (uint64_t)t->config.run.seed};
    fsdp_source(t->fsdp, t->optimizer.ema);
    const bool ok =
        sampler_run(grid->requests, grid->count, &config, &t->model, t->fsdp, &t->batch, &error);
    fsdp_source(t->fsdp, NULL);
    if (!ok) {
        report_say(report, "no pictures: %s", error.text);
    } else if (t->mesh.rank == 0) {
        write_pictures(grid, t, report);
    }
}
