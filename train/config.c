#include "train/config.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/device.h"
#include "base/die.h"

#define AT(field) offsetof(Config, field)
#define STAGE(field) offsetof(Stage, field)
enum { R = SETTING_RECIPE };
#define MANY 1e15
#define SIZE 1048576  // Of anything that is multiplied with others.

// A row of the table by its type.
#define ROW(key, type, at, standard, min, max, choices, flags, help) \
    { key, type, at, standard, min, max, choices, help, flags, NULL, 0, 0 }
#define TEXT(key, at, standard, min, max, flags, help) \
    ROW(key, SETTING_TEXT, at, standard, min, max, NULL, flags, help)
#define WHOLE(key, at, standard, min, max, flags, help) \
    ROW(key, SETTING_WHOLE, at, standard, min, max, NULL, flags, help)
#define NUMBER(key, at, standard, min, max, flags, help) \
    ROW(key, SETTING_NUMBER, at, standard, min, max, NULL, flags, help)
#define CHOICE(key, at, standard, choices, flags, help) \
    ROW(key, SETTING_CHOICE, at, standard, 0, 0, choices, flags, help)
#define FLAG(key, at, standard, flags, help) \
    ROW(key, SETTING_FLAG, at, standard, 0, 0, NULL, flags, help)
#define END ROW(NULL, SETTING_WHOLE, 0, NULL, 0, 0, NULL, 0, NULL)

// clang-format off
static const Setting filter_table[] = {
    //    key, field, default, min, max, flags, help
    TEXT("name", offsetof(QualityFilter, name), NULL, 1, 32, R, "column"),
    NUMBER("min", offsetof(QualityFilter, min), "-1e30", -1e30, 1e30, R,
          "lowest value that passes"),
    NUMBER("max", offsetof(QualityFilter, max), "1e30", -1e30, 1e30, R,
          "highest value that passes"),
    END};

static const Setting source_table[] = {
    TEXT("path", offsetof(DataSource, path), NULL, 1, 512, 0, "folder of an MDS data set"),
    NUMBER("weight", offsetof(DataSource, weight), "1", 0, 1e6, R, "share among the sources"),
    END};

static const Setting prompt_table[] = {
    TEXT("caption", offsetof(Prompt, caption), NULL, 1, CAPTION_MAX, 0, "what to draw"),
    WHOLE("frames", offsetof(Prompt, frames), "1", 1, 1024, 0, "of the latent; 1: an image"),
    WHOLE("height", offsetof(Prompt, height), NULL, 1, 1024, 0, "of the latent"),
    WHOLE("width", offsetof(Prompt, width), NULL, 1, 1024, 0, "of the latent"),
    END};

static const Setting stage_table[] = {
    TEXT("name", STAGE(name), NULL, 1, 64, R, "of the stage, in logs"),
    WHOLE("steps", STAGE(data.steps), NULL, 1, 1e9, R, "optimizer updates"),
    NUMBER("lr", STAGE(lr), "1e-4", 0, 1, R, "peak learning rate"),
    NUMBER("shift", STAGE(shift), "1", 0.01, 100, R,
          "resolution shift of the timesteps; above 1: more noise"),
    WHOLE("packs", STAGE(data.packs), NULL, 1, 65536, R, "packs per step"),
    // Starts of segments are 32 bits wide, as attention wants them; sizes of arrays are 64.
    WHOLE("tokens", STAGE(data.tokens), NULL, 1, 1 << 24, R, "tokens per pack, at most"),
    WHOLE("segments", STAGE(data.segments), "64", 1, 65536, R, "samples per pack, at most"),
    WHOLE("text_tokens", STAGE(data.text_tokens), NULL, 1, 1 << 24, R,
          "text tokens per pack, at most"),
    NUMBER("image_share", STAGE(data.image_share), "1", 0, 1, R,
          "images among the samples drawn; the rest are videos"),
    WHOLE("frames_min", STAGE(data.frames_min), "1", 1, SIZE, R,
          "of the latent, as the next five"),
    WHOLE("frames_max", STAGE(data.frames_max), "1024", 1, SIZE, R, ""),
    WHOLE("height_min", STAGE(data.height_min), "1", 1, SIZE, R, ""),
    WHOLE("height_max", STAGE(data.height_max), "1024", 1, SIZE, R, ""),
    WHOLE("width_min", STAGE(data.width_min), "1", 1, SIZE, R, ""),
    WHOLE("width_max", STAGE(data.width_max), "1024", 1, SIZE, R, ""),
    {"filters", SETTING_ROWS, STAGE(data.filters), NULL, 0, QUALITIES_MAX, NULL,
     "quality columns that must lie in a range", R,
     filter_table, sizeof(QualityFilter), STAGE(data.filter_count)},
    END};

const Setting config_table[] = {
    TEXT("run.dir", AT(run.dir), NULL, 1, PATH_MAX_BYTES, 0, "folder of the run"),
    WHOLE("run.seed", AT(run.seed), "1", 0, MANY, R, "of everything random"),
    WHOLE("run.stop_at", AT(run.stop_at), "0", 0, MANY, 0,
          "save at this step and exit 0; 0: at the end"),
    NUMBER("run.minutes", AT(run.minutes), "0", 0, 1e6, 0,
          "budget of time: before step 0 the stages' steps are scaled to it, once; 0: as written"),
    NUMBER("run.hang_minutes", AT(run.hang_minutes), "30", 0, 1e6, 0,
           "a rank that waits longer for others ends the job; 0: never"),
    CHOICE("run.device", AT(run.device), "auto", "auto|cuda|cpu", 0,
          "which build the launcher runs"),
    CHOICE("run.precision", AT(run.precision), "auto", "auto|bf16|fp32", 0,
          "auto: bf16 where the processor multiplies it"),
    FLAG("run.deterministic", AT(model.deterministic), "false", 0,
         "the same bits in every run on a GPU, too, by a slower attention; the CPU's always are"),
    FLAG("run.share_gpu", AT(run.share_gpu), "false", 0,
         "ranks of a node may share a GPU; slow, for tests"),

    CHOICE("model.architecture", AT(model.architecture), "goku", "goku", R, "which model"),
    WHOLE("model.layers", AT(model.layers), NULL, 1, 1024, R, "transformer blocks"),
    WHOLE("model.heads", AT(model.heads), NULL, 1, 1024, R, "attention heads"),
    WHOLE("model.head_dim", AT(model.head_dim), "64", 8, 256, R,
          "channels per head, a multiple of 8"),
    WHOLE("model.in_channels", AT(model.in_channels), NULL, 1, 4096, R, "channels of the latent"),
    WHOLE("model.patch", AT(model.patch), "2", 1, 16, R,
          "height and width of a token in latent cells"),
    WHOLE("model.patch_t", AT(model.patch_t), "1", 1, 16, R, "frames of a token"),
    WHOLE("model.text_width", AT(model.text_width), NULL, 8, 65536, R,
          "channels of a text token, a multiple of 8"),
    NUMBER("model.mlp_ratio", AT(model.mlp_ratio), "4", 0.25, 64, R,
          "hidden width of the MLP over the width"),
    NUMBER("model.rope_theta", AT(model.rope_theta), "10000", 1, 1e9, R,
          "base of the rotary frequencies"),
    NUMBER("model.time_factor", AT(model.time_factor), "1000", 1e-3, 1e6, R,
          "t in [0, 1] times this enters the sinusoid"),
    CHOICE("model.recompute", AT(model.recompute), "auto", "none|cheap|linear|block|auto", 0,
          "what the backward computes again"),
    FLAG("model.offload", AT(model.offload), "false", 0,
         "inputs of blocks wait for the backward in the host's memory"),

    WHOLE("parallel.sequence", AT(parallel.sequence), "1", 1, 512, 0, "ranks that split one pack"),
    WHOLE("parallel.shard", AT(parallel.shard), "0", 0, 65536, 0,
          "ranks that share one copy of the parameters; 0: chosen"),
    CHOICE("parallel.reduce", AT(parallel.reduce), "auto", "auto|bf16|fp32", 0,
          "wire type of gradients; auto: as the model computes"),
    FLAG("parallel.reshard_after_forward", AT(parallel.reshard_after_forward), "true", 0,
          "false: weights stay gathered during a step, as they do where shard is 1"),

    CHOICE("flow.timesteps", AT(flow.timesteps), "logit_normal", "uniform|logit_normal|mode", R,
          "distribution of t"),
    NUMBER("flow.logit_mean", AT(flow.logit_mean), "0", -10, 10, R,
          "t = sigmoid(mean + std * normal)"),
    NUMBER("flow.logit_std", AT(flow.logit_std), "1", 0.01, 10, R, ""),
    NUMBER("flow.mode_scale", AT(flow.mode_scale), "1.29", -1, 1.75, R,
          "s of the mode distribution (SD3, equation 20)"),
    WHOLE("flow.strata", AT(flow.strata), "0", 0, 65536, R,
          "intervals of t, each drawn by as many packs; 0: none"),

    NUMBER("train.beta1", AT(train.beta1), "0.9", 0, 0.9999, R, "of AdamW"),
    NUMBER("train.beta2", AT(train.beta2), "0.95", 0, 0.99999, R, ""),
    NUMBER("train.epsilon", AT(train.epsilon), "1e-8", 1e-20, 1, R, ""),
    NUMBER("train.weight_decay", AT(train.weight_decay), "0", 0, 10, R, "decoupled, of matrices"),
    NUMBER("train.clip", AT(train.clip), "1", 0, 1e9, R, "largest gradient norm; 0: no clipping"),
    CHOICE("train.schedule", AT(train.schedule), "constant", "constant|cosine|linear", R,
          "of the learning rate after the warm-up"),
    WHOLE("train.warmup", AT(train.warmup), "0", 0, 1e9, R, "steps of linear warm-up"),
    NUMBER("train.lr_end", AT(train.lr_end), "0", 0, 1, R, "share of the peak at the last step"),
    NUMBER("train.ema_decay", AT(train.ema_decay), "0.9999", 0, 0.999999, R,
          "of the moving average; warms up as (1 + n) / (10 + n)"),
    NUMBER("train.caption_dropout", AT(train.caption_dropout), "0.1", 0, 1, R,
          "share of samples trained without text"),
    CHOICE("train.loss", AT(train.loss), "token", "token|sample", R,
          "what the mean is taken over"),
    NUMBER("train.spike", AT(train.spike), "0", 0, 1e6, R,
          "skip a step whose norm is above median + this * MAD; 0: never"),
    WHOLE("train.spike_window", AT(train.spike_window), "64", 8, 1024, R,
          "norms that the median is taken over"),
    WHOLE("train.skips_max", AT(train.skips_max), "10", 1, 1e6, 0,
          "skipped steps in a row that end the run"),
    WHOLE("train.validate", AT(train.validate), "0", 0, 1e9, 0,
          "steps between losses on held-out samples; 0: never"),

    {"data.sources", SETTING_ROWS, AT(data.sources), NULL, 1, SOURCES_MAX, NULL, "data sets", R,
     source_table, sizeof(DataSource), AT(data.source_count)},
    WHOLE("data.holdout", AT(data.holdout), "0", 0, 1e9, R,
          "samples of each medium of each source kept for validation"),
    WHOLE("data.window", AT(data.window), "8", 1, 1e6, R, "shards mixed at a time"),
    WHOLE("data.cache_bytes", AT(data.cache_bytes), "1073741824", 0, MANY, 0,
          "decompressed shards kept in memory"),
    WHOLE("data.ahead", AT(data.ahead), "2", 1, 1024, 0, "packs read ahead"),
    WHOLE("data.corrupt_max", AT(data.corrupt_max), "100", 0, 1e9, 0,
          "more corrupt samples end the run"),

    WHOLE("sample.every", AT(sample.every), "0", 0, 1e9, 0,
          "steps between pictures, from step 0 on; 0: only at the end"),
    WHOLE("sample.steps", AT(sample.steps), "30", 1, 10000, 0, "of Euler's method"),
    NUMBER("sample.guidance", AT(sample.guidance), "3", 0, 100, 0,
          "classifier-free guidance; 1: none"),
    WHOLE("sample.scale", AT(sample.scale), "2", 1, 16, 0, "enlargement of pictures"),
    WHOLE("sample.count", AT(sample.count), "4", 1, 64, 0, "samples per prompt"),
    {"sample.prompts", SETTING_ROWS, AT(sample.prompts), NULL, 0, PROMPTS_MAX, NULL,
     "what the pictures show", 0,
     prompt_table, sizeof(Prompt), AT(sample.prompt_count)},

    WHOLE("checkpoint.every", AT(checkpoint.every), "0", 0, 1e9, 0,
          "steps between checkpoints; 0: not by steps"),
    NUMBER("checkpoint.minutes", AT(checkpoint.minutes), "0", 0, 1e6, 0,
          "minutes between checkpoints; 0: not by time"),
    WHOLE("checkpoint.keep", AT(checkpoint.keep), "3", 0, 1e6, 0, "newest ones kept; 0: all"),
    WHOLE("checkpoint.file_bytes", AT(checkpoint.file_bytes), "4294967296", 4096, MANY, 0,
          "where a file of tensors is cut"),

    WHOLE("log.every", AT(log.every), "1", 1, 1e9, 0, "steps between lines"),
    FLAG("log.tensorboard", AT(log.tensorboard), "true", 0, "write event files"),

    TEXT("init.weights", AT(init.weights), "", 0, PATH_MAX_BYTES, 0,
          "transformer folder that a new run starts from"),
    WHOLE("resume.step", AT(resume.step), "0", 0, MANY, 0,
          "resume from this checkpoint; 0: the newest"),

    {"stages", SETTING_ROWS, AT(stages), NULL, 1, STAGES_MAX, NULL, "in the order they run", R,
     stage_table, sizeof(Stage), AT(stage_count)},
    END};
// clang-format on

static const double HANG_MINUTES_MIN = 0.01;

// ./kintoun starts the build that the settings ask for; a build started directly must not differ.
static void check_build(const RunConfig *run, Problems *problems) {
    static const char *const precisions[] = {"auto", "bf16", "fp32"};
    static const char *const devices[] = {"auto", "cuda", "cpu"};
    if (run->precision != 0 && strcmp(precisions[run->precision], REAL_NAME) != 0) {
        problems_add(problems, "run.precision = %s, but this is the %s build; start ./kintoun",
                     precisions[run->precision], REAL_NAME);
    }
    if (run->device != 0 && strcmp(devices[run->device], device_backend()) != 0) {
        problems_add(problems, "run.device = %s, but this is the %s build; start ./kintoun",
                     devices[run->device], device_backend());
    }
}

bool config_parse(Config *config, const char *text, int64_t bytes, const char *name,
                  const char *const *overrides, int override_count, Problems *problems) {
    memset(config, 0, sizeof(*config));
    if (!settings_parse(config, config_table, text, bytes, name, overrides, override_count,
                        problems)) {
        return false;
    }
    const int before = problems->count;
    model_config_check(&config->model, "model.", problems);
    check_build(&config->run, problems);
    if (config->run.hang_minutes > 0 && config->run.hang_minutes < HANG_MINUTES_MIN) {
        problems_add(problems, "run.hang_minutes = %g; allowed: 0 (never), or %g and more",
                     config->run.hang_minutes, HANG_MINUTES_MIN);
    }
    if (config->train.validate > 0 && config->data.holdout == 0) {
        problems_add(problems,
                     "train.validate = %" PRId64
                     " needs data.holdout > 0: no sample is "
                     "held out",
                     config->train.validate);
    }
    const int64_t K = config->flow.strata;
    for (int64_t s = 0; s < config->stage_count && K > 0; s++) {
        if (config->stages[s].data.packs % K == 0) continue;
        problems_add(problems, "flow.strata = %" PRId64 " must divide stages.%s.packs = %" PRId64,
                     K, config->stages[s].name, config->stages[s].data.packs);
    }
    return problems->count == before;
}

int64_t config_steps(const Config *config) {
    int64_t steps = 0;
    for (int64_t s = 0; s < config->stage_count; s++) steps += config->stages[s].data.steps;
    return steps;
}

Type config_wire(const Config *config) {
    return config->parallel.reduce == 0   ? REAL_TYPE
           : config->parallel.reduce == 1 ? TYPE_BF16
                                          : TYPE_F32;
}

static void recipe_row(void *context, const char *key, const char *value, int flags) {
    if (flags & SETTING_RECIPE) json_object_set_new(context, key, json_string(value));
}

json_t *config_recipe(const Config *config, Type wire) {
    json_t *recipe = json_object();
    CHECK(recipe != NULL, "no memory for the recipe");
    settings_each(config_table, config, recipe_row, recipe);
    json_object_set_new(recipe, "precision", json_string(REAL_NAME));
    json_object_set_new(recipe, "wire", json_string(wire == TYPE_BF16 ? "bf16" : "fp32"));
    return recipe;
}
