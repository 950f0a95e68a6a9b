// kintoun sample: images and videos from a checkpoint.
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/safetensors.h"
#include "base/setting_value.h"
#include "parallel/agree.h"
#include "train/commands.h"
#include "train/grid.h"
#include "train/model_folder.h"
#include "train/options.h"

static const char *const HELP =
    "kintoun sample CHECKPOINT [[--caption TEXT] --height H --width W ...]... [options]\n"
    "Draws samples from CHECKPOINT: RUN/checkpoints/step-..., or a transformer folder. Writes\n"
    "OUT/latents.safetensors (N.latent, as the model sees them) and, where the data set has the\n"
    "demo's codec, images.png, videos.png (animated) and a PNG for each caption. Alone or under\n"
    "mpirun. What to draw; without any of these: the prompts of the run.\n"
    "  --caption TEXT  starts a new row of samples; the sizes of the row before hold on\n"
    "  --height H --width W --frames F   of the latent; frames 1: an image\n"
    "  --count N       samples of this row (4)\n"
    "  --text FILE     safetensors with 'text' [L, text width]: the caption as any encoder has it\n"
    "How; RUN/config.yaml gives the defaults where it lies there:\n"
    "  --steps N       of Euler's method (30)       --guidance G   classifier-free (3); 1: none\n"
    "  --shift S       of the times (1)             --seed N       of the noise (1)\n"
    "  --weights       the trained weights, not their moving average\n"
    "  --data DIR      a demo data set: its codec and text encoder\n"
    "  --out DIR       where to write (samples)     --scale N      pixels per pixel (2)\n"
    "  --share-gpu     ranks of a node may share a GPU; slow, for tests\n";

typedef struct {
    int64_t steps, seed, scale;
    double guidance, shift;
    char data[PATH_MAX_BYTES], out[PATH_MAX_BYTES];
    bool weights, share_gpu;
} Options;

// What one row of samples is asked to be.
typedef struct {
    char caption[CAPTION_MAX], text[PATH_MAX_BYTES];
    int64_t frames, height, width, count;
} Asked;

// clang-format off
#define ROW(key, type, at, standard, min, max, help) \
    {key, type, at, standard, min, max, NULL, help, SETTING_MAY_AUTO, NULL, 0, 0}
#define END {NULL, SETTING_WHOLE, 0, NULL, 0, 0, NULL, NULL, 0, NULL, 0, 0}
static const Setting option_table[] = {
    ROW("steps", SETTING_WHOLE, offsetof(Options, steps), "auto", 1, 10000, "of Euler's method"),
    ROW("seed", SETTING_WHOLE, offsetof(Options, seed), "auto", 0, 1e15, "of the noise"),
    ROW("scale", SETTING_WHOLE, offsetof(Options, scale), "auto", 1, 16, "of the pictures"),
    ROW("guidance", SETTING_NUMBER, offsetof(Options, guidance), "auto", 0, 100, "1: none"),
    ROW("shift", SETTING_NUMBER, offsetof(Options, shift), "auto", 0.01, 100, "of the times"),
    ROW("data", SETTING_TEXT, offsetof(Options, data), "", 0, PATH_MAX_BYTES, "a demo data set"),
    ROW("out", SETTING_TEXT, offsetof(Options, out), "samples", 1, PATH_MAX_BYTES, "a folder"),
    ROW("weights", SETTING_FLAG, offsetof(Options, weights), "false", 0, 0, "not the average"),
    ROW("share-gpu", SETTING_FLAG, offsetof(Options, share_gpu), "false", 0, 0, "ranks share it"),
    END};

static const Setting asked_table[] = {
    ROW("caption", SETTING_TEXT, offsetof(Asked, caption), "", 0, CAPTION_MAX, "what to draw"),
    ROW("text", SETTING_TEXT, offsetof(Asked, text), "", 1, PATH_MAX_BYTES, "a safetensors file"),
    ROW("frames", SETTING_WHOLE, offsetof(Asked, frames), "1", 1, 1024, "of the latent"),
    ROW("height", SETTING_WHOLE, offsetof(Asked, height), NULL, 1, 1024, "of the latent"),
    ROW("width", SETTING_WHOLE, offsetof(Asked, width), NULL, 1, 1024, "of the latent"),
    ROW("count", SETTING_WHOLE, offsetof(Asked, count), "4", 1, 64, "samples of this row"),
    END};
// clang-format on

typedef struct {
    Options options;
    Asked asked[PROMPTS_MAX];
    int asked_count;
    Words words;
    char weights[PATH_BYTES_MAX];  // The transformer folder.
    Config *config;                // Of the run; NULL: none lies beside the checkpoint.
    Comm *world;
    ModelConfig model;
    DemoFacts facts;
    bool has_facts;
    PictureRow rows[PROMPTS_MAX];
    int row_count;
} Command;

// ---- the command line
// Whether argv[i] is one of the options that say what to draw; then it is taken.
static bool take_asked(Command *c, int argc, char **argv, int i, Problems *problems) {
    if (strncmp(argv[i], "--", 2) != 0) return false;
    const Setting *s = asked_table;
    while (s->key != NULL && strcmp(argv[i] + 2, s->key) != 0) s++;
    if (s->key == NULL) return false;
    if (i + 1 == argc) {
        problems_add(problems, "command line: %s needs a value behind it", argv[i]);
        return true;
    }
    const bool caption = s->offset == offsetof(Asked, caption);
    static const Asked standard = {.frames = 1, .count = 4};
    if (c->asked_count == 0) c->asked[c->asked_count++] = standard;
    Asked *row = &c->asked[c->asked_count - 1];
    if (caption && row->caption[0] != '\0') {
        if (c->asked_count == PROMPTS_MAX) {
            problems_add(problems, "command line: more than %d captions", PROMPTS_MAX);
            return true;
        }
        c->asked[c->asked_count++] = *row;
        row++;
        row->text[0] = '\0';
    }
    if (!setting_parse(s, argv[i + 1], (char *)row + s->offset)) {
        char allowed[SETTING_VALUE_MAX];
        setting_describe(allowed, s);
        problems_add(problems, "command line: %s = '%.60s' must be %s (%s)", s->key, argv[i + 1],
                     allowed, s->help);
    }
    return true;
}

static void read_arguments(Command *c, int argc, char **argv, Problems *problems) {
    char **rest = calloc((size_t)argc + 1, sizeof(*rest));
    CHECK(rest != NULL, "no memory for %d arguments", argc);
    int count = 0;
    for (int i = 0; i < argc; i++) {
        if (i > 0 && take_asked(c, argc, argv, i, problems)) {
            i++;
        } else {
            rest[count++] = argv[i];
        }
    }
    options_parse(&c->options, option_table, count, rest, &c->words, problems);
    free(rest);
    if (c->words.count != 1) {
        problems_add(problems, "command line: %d folders for CHECKPOINT; see kintoun sample --help",
                     c->words.count);
    }
    for (int i = 0; i < c->asked_count; i++) {
        if (c->asked[i].height > 0 && c->asked[i].width > 0) continue;
        problems_add(problems, "command line: caption '%s' needs --height and --width",
                     c->asked[i].caption);
    }
}

// ---- what lies around the checkpoint
// Finds the transformer folder and RUN/config.yaml.
static bool find_folders(Command *c, char run_config[PATH_BYTES_MAX], Error *error) {
    char path[PATH_BYTES_MAX];
    const char *folder = c->words.word[0];
    const char *part = c->options.weights ? "transformer" : "transformer_ema";
    if (!path_join(path, folder, "config.json", error)) return false;
    if (path_exists(path)) {
        if (c->options.weights) {
            return error_set(error,
                             "%s is a transformer folder: --weights chooses inside of a "
                             "checkpoint, RUN/checkpoints/step-...",
                             folder);
        }
        snprintf(c->weights, sizeof(c->weights), "%s", folder);
        return path_join(run_config, folder, "../../../config.yaml", error);
    }
    if (!path_join(c->weights, folder, part, error)) return false;
    if (!path_exists(c->weights)) {
        return error_set(error,
                         "%s holds neither config.json nor %s: give RUN/checkpoints/step-... "
                         "or a transformer folder",
                         folder, part);
    }
    return path_join(run_config, folder, "../../config.yaml", error);
}

static void read_run(Command *c, const char *path, Problems *problems) {
    Error error;
    int64_t bytes;
    if (!path_exists(path)) return;
    char *text = file_read(path, 1 << 20, &bytes, &error);
    c->config = calloc(1, sizeof(*c->config));
    CHECK(c->config != NULL, "no memory");
    if (text == NULL) {
        problems_add(problems, "%s", error.text);
    } else {
        const char *const here[] = {"run.device=auto", "run.precision=auto"};
        config_parse(c->config, text, bytes, path, here, 2, problems);
    }
    free(text);
}

// The step of the checkpoint that the model is from, by its state.json; -1: none lies there.
static int64_t step_of(const char *weights) {
    char path[PATH_BYTES_MAX];
    Error error;
    int64_t step = -1;
    char *text = path_join(path, weights, "../state.json", &error)
                     ? file_read(path, 1 << 24, NULL, &error)
                     : NULL;
    json_t *state = text != NULL ? json_loads(text, 0, NULL) : NULL;
    const json_t *value = json_object_get(state, "step");
    if (json_is_integer(value)) step = json_integer_value(value);
    json_decref(state);
    free(text);
    return step;
}

// The shift of the stage that this step belongs to; 1 where it is not known.
static double shift_of(const Config *config, int64_t step) {
    if (step < 0) return 1;
    int64_t s = 0;
    for (; s < config->stage_count - 1; s++) {
        step -= config->stages[s].data.steps;
        if (step < 0) break;
    }
    return config->stages[s].shift;
}

// What was not said: as the run has it.
static void fill_options(Command *c) {
    Options *o = &c->options;
    const Config *run = c->config;
    if (o->steps < 0) o->steps = run != NULL ? run->sample.steps : 30;
    if (o->seed < 0) o->seed = run != NULL ? run->run.seed : 1;
    if (o->scale < 0) o->scale = run != NULL ? run->sample.scale : 2;
    if (o->guidance < 0) o->guidance = run != NULL ? run->sample.guidance : 3;
    if (o->shift < 0) o->shift = run != NULL ? shift_of(run, step_of(c->weights)) : 1;
}

// The demo's codec and text encoder, where the data set has them. Another kind of data is fine
// unless it was named.
static void find_facts(Command *c, Problems *problems) {
    Error error;
    const bool named = c->options.data[0] != '\0';
    if (!named && c->config == NULL) return;
    const char *folder = named ? c->options.data : c->config->data.sources[0].path;
    c->has_facts = demo_facts_read(&c->facts, folder, &error);
    if (c->has_facts && c->model.in_channels != CODEC_CHANNELS) {
        c->has_facts = error_set(&error,
                                 "%s: the demo's latents have %d channels, the model's "
                                 "%" PRId64,
                                 folder, CODEC_CHANNELS, c->model.in_channels);
    }
    if (named && !c->has_facts) problems_add(problems, "--data: %s", error.text);
}

// ---- what to draw
static bool read_text(PictureRow *row, const char *path, int64_t width, Error *error) {
    Safetensors file;
    if (!safetensors_open(&file, path, error)) return false;
    const TensorInfo *tensor = NULL;
    row->text = safetensors_load(&file, "text", &tensor, error);
    bool ok = row->text != NULL;
    if (ok && (tensor->dims != 2 || tensor->shape[1] != width)) {
        ok = error_set(error, "%s: 'text' must have shape [L, %" PRId64 "]", path, width);
    } else if (ok) {
        row->text_length = tensor->shape[0];
    }
    safetensors_close(&file);
    return ok;
}

enum { TOKENS_MAX = 1 << 24 };  // As stage.tokens at most.

static void make_row(Command *c, const Asked *asked, Problems *problems) {
    Error error;
    PictureRow *row = &c->rows[c->row_count++];
    *row = (PictureRow){.shape = {(int32_t)c->model.in_channels, (int32_t)asked->frames,
                                  (int32_t)asked->height, (int32_t)asked->width},
                        .samples = asked->count};
    snprintf(row->caption, sizeof(row->caption), "%s", asked->caption);
    const PatchSize p = model_patch(&c->model);
    if (row->shape.F % p.t != 0 || row->shape.H % p.h != 0 || row->shape.W % p.w != 0) {
        problems_add(problems,
                     "%d x %d x %d frames, rows and columns are no multiples of the "
                     "model's patch, %d x %d x %d",
                     row->shape.F, row->shape.H, row->shape.W, p.t, p.h, p.w);
    }
    bool ok = true;
    const int copies = c->options.guidance == 1 ? 1 : 2;
    if (copies * latent_tokens(row->shape, p) > TOKENS_MAX) {
        problems_add(problems,
                     "%d x %d x %d frames, rows and columns are %d x %" PRId64
                     " tokens (guidance 1: once); at most %d fit",
                     row->shape.F, row->shape.H, row->shape.W, copies, latent_tokens(row->shape, p),
                     TOKENS_MAX);
    }
    if (asked->text[0] != '\0') {
        ok = read_text(row, asked->text, c->model.text_width, &error);
    } else if (row->caption[0] != '\0' && !c->has_facts) {
        ok = error_set(&error,
                       "caption '%s': only demo data sets have a text encoder here; name "
                       "one by --data, or give the caption's tokens by --text",
                       row->caption);
    } else if (row->caption[0] != '\0') {
        ok = picture_row_encode(row, c->model.text_width, &error);
    }
    if (!ok) problems_add(problems, "%s", error.text);
}

static void make_rows(Command *c, Problems *problems) {
    for (int i = 0; i < c->asked_count; i++) make_row(c, &c->asked[i], problems);
    if (c->asked_count == 0 && c->config != NULL) {
        const SampleConfig *run = &c->config->sample;
        for (int64_t i = 0; i < run->prompt_count; i++) {
            Asked asked = {.frames = run->prompts[i].frames,
                           .height = run->prompts[i].height,
                           .width = run->prompts[i].width,
                           .count = run->count};
            snprintf(asked.caption, sizeof(asked.caption), "%s", run->prompts[i].caption);
            make_row(c, &asked, problems);
        }
    }
    if (c->row_count == 0) {
        problems_add(problems,
                     "what to draw? --caption TEXT --height H --width W, or "
                     "sample.prompts in RUN/config.yaml");
    }
}

static bool prepare(Command *c, Problems *problems) {
    Error error = {""};
    char run_config[PATH_BYTES_MAX];
    if (!find_folders(c, run_config, &error) ||
        !model_folder_config(&c->model, c->weights, &error)) {
        problems_add(problems, "%s", error.text);
        return false;
    }
    read_run(c, run_config, problems);
    if (problems->count > 0) return false;
    fill_options(c);
    find_facts(c, problems);
    if (problems->count == 0) make_rows(c, problems);
    return problems->count == 0;
}

// ---- drawing
enum { PACK_TOKENS = 4096, PACK_SEGMENTS = 64 };

// Packs of a few thousand tokens, or of one sample where that is larger.
static ModelBounds bounds_of(const Pictures *p, int copies, PatchSize patch) {
    int64_t largest = 0, all = 0, text = 1;
    for (int i = 0; i < p->count; i++) {
        const int64_t tokens = copies * latent_tokens(p->requests[i].shape, patch);
        largest = max_i64(largest, tokens);
        all += tokens;
        text = max_i64(text, p->requests[i].text_length);
    }
    const int64_t segments = min_i64(PACK_SEGMENTS, (int64_t)copies * p->count);
    return (ModelBounds){.tokens = max_i64(largest, min_i64(all, PACK_TOKENS)),
                         .text = segments * text,
                         .segments = segments};
}

static bool write_latents(const Pictures *p, const char *folder, Error *error) {
    char path[PATH_BYTES_MAX];
    TensorData *tensors = calloc((size_t)p->count, sizeof(*tensors));
    char(*names)[32] = calloc((size_t)p->count, sizeof(*names));
    CHECK(tensors != NULL && names != NULL, "no memory for %d tensors", p->count);
    for (int i = 0; i < p->count; i++) {
        const LatentShape s = p->requests[i].shape;
        snprintf(names[i], sizeof(names[i]), "%d.latent", i);
        tensors[i] = (TensorData){.name = names[i],
                                  .dims = 4,
                                  .shape = {s.C, s.F, s.H, s.W},
                                  .data = p->requests[i].latent};
    }
    const bool ok = folder_create(folder, error) &&
                    path_join(path, folder, "latents.safetensors", error) &&
                    safetensors_write(path, tensors, p->count, error);
    if (ok) printf("%s\n", path);
    free(names);
    free(tensors);
    return ok;
}

static bool write_all(const Command *c, const Pictures *p, Error *error) {
    const char *folder = c->options.out;
    PicturesMade made = {false, false};
    if (!write_latents(p, folder, error)) return false;
    if (!c->has_facts) {
        printf(
            "no pictures: the codec of these latents is not known here (--data DIR of a demo "
            "data set)\n");
        return true;
    }
    if (!pictures_write(&made, p, &c->facts.codec, c->options.scale, folder, error)) return false;
    if (made.images) printf("%s/images.png\n", folder);
    if (made.videos) printf("%s/videos.png\n", folder);
    return true;
}

// Returns the exit code. Collective.
static int draw(Command *c, Problems *problems) {
    Mesh mesh;
    Batch batch;
    Pictures pictures;
    Error error = {""};
    Model *model = calloc(1, sizeof(*model));
    CHECK(model != NULL, "no memory");
    const SamplerConfig how = {.steps = c->options.steps,
                               .guidance = c->options.guidance,
                               .shift = c->options.shift,
                               .seed = (uint64_t)c->options.seed};
    pictures_create(&pictures, c->rows, c->row_count);
    c->row_count = 0;
    mesh_init(&mesh, c->world, &(MeshConfig){.sequence = 1, .shard = 0});
    model_record(model, &c->model, &mesh);
    Fsdp *fsdp =
        fsdp_create(&model->params, &mesh,
                    &(FsdpConfig){TYPE_F32, .reshard_after_forward = true, .packs_max = 1});
    model_plan(model, RECOMPUTE_BLOCK,
               bounds_of(&pictures, how.guidance == 1 ? 1 : 2, model_patch(&c->model)));
    model_allocate(model);
    batch_create(&batch, model);
    int exit_code = model_folder_load(fsdp, model, c->weights, problems, &error);
    if (exit_code == EXIT_DONE) {
        bool ok = sampler_run(pictures.requests, pictures.count, &how, model, fsdp, &batch, &error);
        if (ok && mesh.rank == 0) ok = write_all(c, &pictures, &error);
        if (!agree(c->world, ok, &error)) exit_code = EXIT_FAILED;
    }
    if (exit_code == EXIT_FAILED && mesh.rank == 0) fprintf(stderr, "%s\n", error.text);
    batch_free(&batch);
    fsdp_free(fsdp);
    model_free(model);
    free(model);
    mesh_free(&mesh);
    pictures_free(&pictures);
    return exit_code;
}

int sample_command(int argc, char **argv) {
    Comm *world = comm_start(&argc, &argv);
    const bool speaks = comm_rank(world) == 0;
    int exit_code = EXIT_DONE;
    if (options_help(argc, argv)) {
        if (speaks) printf("%s", HELP);
    } else {
        Command *c = calloc(1, sizeof(*c));
        Problems *problems = calloc(1, sizeof(*problems));
        CHECK(c != NULL && problems != NULL, "no memory");
        c->world = world;
        read_arguments(c, argc, argv, problems);
        Error error = {"the samples cannot be drawn"};
        const bool ok = problems->count == 0 && prepare(c, problems);
        exit_code = agree(world, ok, &error)
                        ? comm_device_start(world, c->options.share_gpu, &error)
                        : EXIT_CONFIG;
        if (exit_code == EXIT_DONE) {
            exit_code = draw(c, problems);
        } else if (problems->count == 0) {
            problems_add(problems, "%s", error.text);
        }
        if (problems->count > 0 && speaks) problems_print(problems, "what to draw");
        for (int i = 0; i < c->row_count; i++) free(c->rows[i].text);
        free(c->config);
        free(c);
        free(problems);
    }
    comm_stop(world);
    return exit_code;
}
