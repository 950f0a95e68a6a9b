// The settings of a run: one struct, filled from one table (config.c).
#ifndef TRAIN_CONFIG_H
#define TRAIN_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/real.h"
#include "base/settings.h"
#include "data/config.h"
#include "model/model_config.h"
#include "parallel/mesh.h"

enum { PROMPTS_MAX = 64, CAPTION_MAX = 128, PATH_MAX_BYTES = 512 };

typedef enum { SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_LINEAR } Schedule;
typedef enum { TIMESTEPS_UNIFORM, TIMESTEPS_LOGIT_NORMAL, TIMESTEPS_MODE } Timesteps;
typedef enum { LOSS_TOKEN, LOSS_SAMPLE } LossMean;

typedef struct {
    char dir[PATH_MAX_BYTES];
    int64_t seed;
    int64_t stop_at;      // Save there and exit 0; 0: at the end.
    double minutes;       // Budget that becomes numbers of steps once; 0: steps as written.
    double hang_minutes;  // A wait for other ranks that is an error; 0: none is.
    int device;           // Read by the launcher: auto|cuda|cpu.
    int precision;        // Read by the launcher: auto|bf16|fp32.
    bool share_gpu;       // Ranks of a node may run on one GPU.
} RunConfig;

typedef struct {
    int timesteps;
    double logit_mean, logit_std, mode_scale;
    int64_t strata;  // K intervals; 0: none.
} FlowConfig;

typedef struct {
    double beta1, beta2, epsilon, weight_decay, clip;
    int schedule;
    int64_t warmup;
    double lr_end;  // Of the peak, at the last step.
    double ema_decay, caption_dropout;
    int loss;
    double spike;          // Skip a step whose norm passes median + spike * MAD; 0: never.
    int64_t spike_window;  // Norms that the median is taken over.
    int64_t skips_max;     // Skipped steps in a row that end the run.
    int64_t validate;      // Every so many steps; 0: never.
} TrainConfig;

typedef struct {
    char caption[CAPTION_MAX];
    int64_t frames, height, width;  // Of the latent.
} Prompt;

typedef struct {
    int64_t every;  // Steps between grids, the first before step 0; 0: only at the end.
    int64_t steps;  // Of Euler's method.
    double guidance;
    int64_t scale;  // Pixels of the pictures per pixel.
    int64_t count;  // Samples per prompt.
    Prompt prompts[PROMPTS_MAX];
    int64_t prompt_count;
} SampleConfig;

typedef struct {
    int64_t every;   // Steps; 0: only at the end and on signals.
    double minutes;  // 0: not by time.
    int64_t keep;    // The newest so many; 0: all.
    int64_t file_bytes;
} CheckpointConfig;

typedef struct {
    char name[64];
    double lr;
    double shift;  // Resolution shift of the timesteps.
    StageData data;
} Stage;

typedef struct {
    RunConfig run;
    ModelConfig model;
    struct {
        int64_t sequence, shard;  // shard 0: chosen.
        int reduce;               // auto|bf16|fp32
        bool reshard_after_forward;
    } parallel;
    FlowConfig flow;
    TrainConfig train;
    DataConfig data;
    SampleConfig sample;
    CheckpointConfig checkpoint;
    struct {
        int64_t every;  // Steps between printed lines.
        bool tensorboard;
    } log;
    struct {
        char weights[PATH_MAX_BYTES];
    } init;
    struct {
        int64_t step;
    } resume;
    Stage stages[STAGES_MAX];
    int64_t stage_count;
} Config;

extern const Setting config_table[];

// Reads YAML text and overrides and checks what single rows cannot. False with all problems.
bool config_parse(Config *config, const char *text, int64_t bytes, const char *name,
                  const char *const *overrides, int override_count, Problems *problems);

// Steps of all stages; the stage of a step.
int64_t config_steps(const Config *config);

// The settings that change the numbers, as a JSON object key -> value text (a new json_t).
// The resolved wire type and precision are part of it.
json_t *config_recipe(const Config *config, Type wire);

// What parallel.reduce says, `auto` being the compute precision.
Type config_wire(const Config *config);

#endif
