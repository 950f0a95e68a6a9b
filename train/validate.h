// The loss on held-out samples at fixed times and noise, by the EMA weights.
#ifndef TRAIN_VALIDATE_H
#define TRAIN_VALIDATE_H

#include "train/report.h"

typedef struct {
    StepPlan *plans[STAGES_MAX];  // Each stage's held-out packs.
    PackReader *reader;
    LoadedPack *pack;
} Validation;

// Before trainer_load: the planner then belongs to the loader. Nothing where train.validate is 0.
bool validation_open(Validation *validation, Trainer *trainer, Error *error);
void validation_close(Validation *validation);

// Runs the held-out packs of the present stage and reports their mean loss. Collective over the
// world.
void validate(Validation *validation, Trainer *trainer, Report *report);

#endif
