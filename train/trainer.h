// Setting a run up: from settings to a trainer whose memory is all there, restored or started.
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H

#include "train/memory.h"
#include "train/step.h"

// What the command line says besides settings.
typedef struct {
    bool fresh;        // --fresh: set old checkpoints aside, start from step 0.
    const char *once;  // --once NAME: fresh and resume.step hold once for it; NULL: ever.
    const char *const *overrides;  // --override KEY: settings of the recipe that may differ.
    int override_count;
} StartOptions;

// Planner, mesh, model, optimizer, batches: all memory of the run. False with all problems of the
// settings. The config must be parsed. Collective over the world.
bool trainer_create(Trainer *trainer, const Config *config, Comm *world, Problems *problems);
void trainer_free(Trainer *trainer);

// Weights and state: from the newest good checkpoint, from init.weights, or the start. Returns an
// exit code (EXIT_DONE: go on); what happened is printed by rank 0. Collective over the world.
int trainer_start(Trainer *trainer, const StartOptions *options);

// Starts the loader behind the state's cursor.
bool trainer_load(Trainer *trainer, Error *error);

// Saves a checkpoint of the present state. Collective over the world.
bool trainer_save(Trainer *trainer, Error *error);

#endif
