// The bytes that all ranks together send in one step, from the layout alone; what comm_bytes counts
// (tests/test_program.c), small agreements left out.
#ifndef TRAIN_TRAFFIC_H
#define TRAIN_TRAFFIC_H

#include "model/model.h"

typedef struct {
    double gathers;    // Units, gathered in compute precision for forward and backward.
    double leaves;     // Gradients of packs, in the wire type.
    double replicas;   // Sums of gradients between the replicas, fp32.
    double attention;  // Heads for tokens and back, of sequence parallelism.
} Traffic;

// `model` is planned (its recomputation counts). The step has `packs` packs of `tokens` tokens
// together. Local.
Traffic traffic_of_step(const Model *model, const FsdpConfig *sharding, int packs, double tokens);

#endif
