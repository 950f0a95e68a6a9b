// A budget of time that becomes numbers of steps, once: run.minutes.
#ifndef TRAIN_BUDGET_H
#define TRAIN_BUDGET_H

#include "base/error.h"
#include "parallel/comm.h"
#include "train/config.h"

// Where run.minutes is set, replaces the stages' steps by numbers that take about so long here:
// their proportions stay. The first start measures a few steps of each stage and keeps the numbers
// in RUN/budget.json; later starts read them. Where the machine is too slow for the steps as
// written, says how many samples fewer it will see. Collective over the world.
bool budget_apply(Config *config, Comm *world, Problems *problems);

#endif
