// The objective: rectified flow (Goku, arXiv 2502.04896, section 2.3) over packs. From a loaded
// pack follow the model's inputs, the target and each sample's weight in the loss; from the model's
// output the loss and its gradient. Everything random is a function of (seed, position).
#ifndef TRAIN_OBJECTIVE_H
#define TRAIN_OBJECTIVE_H

#include "base/rng.h"
#include "data/loader.h"
#include "model/model.h"
#include "train/config.h"

// u in [0, 1) -> t, by the configured distribution and resolution shift. With shift a: noise share
// 1 - t becomes a (1 - t) / (1 + (a - 1)(1 - t)) (SD3, arXiv 2403.03206, section 5.3.2, whose t is
// our 1 - t).
double flow_time(const FlowConfig *config, double shift, double u);

// The u of a sample at `position` that pack `pack` of step `step` holds: stratified where
// flow.strata is set, (i + u) / K with i = (pack + r_step) mod K, below (i + 1) / K.
double flow_uniform(const FlowConfig *config, uint64_t seed, int64_t step, int64_t pack,
                    int64_t position);

// The inverse of the normal distribution's function (Wichura, AS 241), for u in (0, 1).
double normal_quantile(double u);

// What noise and time of a pack are keyed by.
typedef struct {
    uint64_t seed;
    RngPurpose noise;  // RNG_NOISE, or RNG_VALIDATE_NOISE.
    int64_t step;
    double shift;
    bool fixed_times;  // Validation: sample n of N has u = (n mod 8 + 0.5) / 8.
    const FlowConfig *flow;
    double caption_dropout;
} FlowKeys;

double sample_time(const FlowKeys *keys, int64_t pack, int64_t position);

// What one pack is uploaded from, and how it is bound. The device copies from it for a while after
// batch_fill has returned, so two take turns: the host prepares a pack while the one before
// computes.
typedef struct {
    PackBind bind;
    float *rows;             // [T, E] On the host (pinned), as all that follows.
    float *text;             // [X, text width]
    float *weights, *times;  // [S]
    Event read;              // In the compute stream: the device has read it.
} PackRoom;

// Room for the packs of this rank.
typedef struct {
    PackRoom rooms[2];
    PackRoom *host;     // The room of the pack that is bound.
    Segment *segments;  // [segments max] On the host.
    Stream upload;
    Event uploaded;
    Arena arena;
    float *data, *noise, *target;  // [T, E] On the device.
    float *weight;                 // [S]
    float *wide_text;              // [X, text width] Before it is rounded.
    void *scratch;                 // Of flow_noise and flow_loss.
} Batch;

void batch_create(Batch *batch, const Model *model);
void batch_free(Batch *batch);

// What batch_create takes. Local.
MemoryBytes batch_bytes(const Model *model);

// Binds this rank's slice of the pack of `segments` [count]. The host waits until the device has
// read what the room held before.
void batch_bind(Batch *batch, const Model *model, int64_t count);

// Puts the text of segment s of this rank's into the room; NULL: zeros. Every segment wants it.
void batch_text(Batch *batch, const Model *model, int64_t s, const float *text);

// Text, times and weights to the device, from the room; rows to `data` where `rows`. The host does
// not wait; `data` is for kernels of the compute stream.
void batch_upload(Batch *batch, Model *model, bool rows);

// Binds `pack` and fills the model's inputs and the target for this rank's slice. weights[i]: what
// sample i's sum of squares is multiplied by in the step's loss; corrupt samples get 0. The host
// does not wait for this pack.
void batch_fill(Batch *batch, Model *model, const LoadedPack *pack, const double *weights,
                const FlowKeys *keys);

// losses[0..S) += sums of squares from the model's output, on the device; with `gradient` also the
// model's dout. losses[i] is of sample segment_first + i of the pack.
void batch_loss(Batch *batch, Model *model, double *losses, bool gradient);

#endif
