// Pictures during and after a run: the prompts of sample.prompts, always from the same noise, by
// the EMA weights.
#ifndef TRAIN_GRID_H
#define TRAIN_GRID_H

#include "data/demo/facts.h"
#include "train/pictures.h"
#include "train/report.h"

// RUN/samples/step-000500/: images.png (all image prompts), videos.png (animated, all video
// prompts), and CAPTION.png for each prompt.
typedef struct {
    Pictures pictures;
    DemoFacts facts;  // How latents become pixels.
} Grid;

// Adds what speaks against sample.prompts: a data set without the demo's codec and text encoder,
// captions that cannot be encoded, sizes that do not fit into a pack. Local.
void grid_check(const Config *config, Problems *problems);

// Encodes the prompts, which grid_check has passed. Nothing is there to draw where sample.prompts
// is empty.
bool grid_open(Grid *grid, const Trainer *trainer, Error *error);
void grid_close(Grid *grid);

// Samples and writes the pictures of the present step. Collective over the world.
void grid_draw(Grid *grid, Trainer *trainer, Report *report);

#endif
