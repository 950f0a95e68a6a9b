// One optimizer step over the packs of a plan, and what came of it.
#ifndef TRAIN_STEP_H
#define TRAIN_STEP_H

#include "data/loader.h"
#include "train/objective.h"
#include "train/optimizer.h"
#include "train/state.h"

// Everything a run holds. Filled by run.c.
typedef struct {
    Config config;
    Comm *world;
    Mesh mesh;
    Model model;
    Fsdp *fsdp;
    Optimizer optimizer;
    Batch batch;
    Planner *planner;
    Loader *loader;
    RunState state;
    double *losses;         // [samples of the step] On the device: this rank's sums of squares.
    double *host_losses;    // The same on the host (pinned).
    int64_t *agreement;     // What the ranks add up after a step.
    double *sample_losses;  // [samples of the step] Sums of squares.
    double *weights;        // [samples of the step] Their weights in the loss.
    int64_t samples_max;
    Recompute recompute;  // The policy in force.
    uint64_t generation;  // Of this start, for checkpoints.
    float **masters;      // [units] The master weights' slices.
} Trainer;

enum { TIME_BINS = 10, SIZES_MAX = 32 };

// Mean loss of the samples of one size.
typedef struct {
    char key[40];  // "loss_5x8x8": frames, height, width of the latent.
    int32_t F, H, W;
    int64_t count;
    double loss;
} SizeLoss;

typedef struct {
    const StepPlan *plan;
    double loss, norm, lr;
    const char *skipped;         // Why the step changed nothing; NULL: it did.
    int64_t corrupt;             // Samples of this step.
    bool stop;                   // Some rank was asked to save and leave.
    bool save;                   // Rank 0's clock says that it is time.
    double loss_bin[TIME_BINS];  // Mean loss of samples with t in [i, i + 1) / 10; NaN without any.
    double loss_medium[MEDIUM_COUNT];
    SizeLoss sizes[SIZES_MAX];  // The first so many sizes of the step.
    int size_count;
    double seconds, data_seconds, comm_seconds;  // Of this rank.
} StepReport;

// Room for the largest step; the trainer's model, planner and mesh are there.
void step_create(Trainer *trainer);
void step_free(Trainer *trainer);

// Runs the next step of the loader. `stop`: this rank was signalled; `save`: its clock says so.
// False with a reason after an I/O error of the data. Collective over the world.
bool step_run(Trainer *trainer, bool stop, bool save, StepReport *report, Error *error);

// The packs of a step that this data rank runs (loader.h); context is the Mesh.
int64_t step_share(int64_t *packs, int64_t pack_count, int stage, const void *context);

// This rank's sums of squares of a plan's samples, without a wait for each pack: cleared, added to
// by each pack that is bound and has an output (with `gradient` also the model's dout; corrupt
// samples add nothing), then taken to the host once: the bits of sample i's at
// bits[i * sequences + sequence_index].
void step_losses_clear(Trainer *trainer);
void step_losses_add(Trainer *trainer, const PlanPack *place, const LoadedPack *pack,
                     bool gradient);
void step_losses_take(Trainer *trainer, int64_t *bits, int64_t samples);

// weights[i] of each sample of the plan: its sum of squares times this, summed, is the mean loss.
void step_weights(double *weights, const StepPlan *plan, const Model *model, LossMean mean);

// Model FLOPs of the step: forward and backward, without recomputation.
double step_flops(const StepPlan *plan, const Model *model);

#endif
