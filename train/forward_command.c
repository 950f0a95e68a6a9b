// kintoun forward: one forward (and backward) of a model on given tensors. What others compute for
// the same tensors must agree; DESIGN, section 8.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/safetensors.h"
#include "base/vector.h"
#include "checkpoint/weights.h"
#include "model/ops/flow.h"
#include "parallel/agree.h"
#include "train/commands.h"
#include "train/model_folder.h"
#include "train/objective.h"
#include "train/options.h"

static const char *const HELP =
    "kintoun forward MODEL --inputs A --outputs B [--gradients] [--deterministic]\n"
    "One forward (and backward) of MODEL, a transformer folder (config.json and safetensors).\n"
    "  --inputs A     a safetensors file with one pack of samples N = 0, 1, ...:\n"
    "                 N.latent [C, F, H, W], N.time [1], N.text [L, text width] (missing or L = "
    "0:\n"
    "                 one token of zeros), and for gradients N.target, shaped like N.latent\n"
    "  --outputs B    written: N.output [C, F, H, W]\n"
    "  --gradients    also loss [1], the mean over all elements of (output - target)^2, and\n"
    "                 grad.NAME of every parameter\n"
    "  --deterministic  as run.deterministic: the same gradients in every run on a GPU, too\n"
    "  --share-gpu    ranks of a node may share a GPU; slow, for tests\n"
    "Exit codes: 0 done, 1 failed, 78 something on the command line or in the inputs is wrong.\n";

typedef struct {
    char inputs[PATH_BYTES_MAX], outputs[PATH_BYTES_MAX];
    bool gradients, deterministic, share_gpu;
} Options;

// clang-format off
static const Setting option_table[] = {
    {"inputs", SETTING_TEXT, offsetof(Options, inputs), NULL, 1, PATH_BYTES_MAX, NULL,
     "a safetensors file", 0, NULL, 0, 0},
    {"outputs", SETTING_TEXT, offsetof(Options, outputs), NULL, 1, PATH_BYTES_MAX, NULL,
     "the file to write", 0, NULL, 0, 0},
    {"gradients", SETTING_FLAG, offsetof(Options, gradients), "false", 0, 0, NULL,
     "the backward, too", 0, NULL, 0, 0},
    {"deterministic", SETTING_FLAG, offsetof(Options, deterministic), "false", 0, 0, NULL,
     "the same bits in every run on a GPU, too", 0, NULL, 0, 0},
    {"share-gpu", SETTING_FLAG, offsetof(Options, share_gpu), "false", 0, 0, NULL,
     "ranks of a node may share a GPU", 0, NULL, 0, 0},
    {NULL, SETTING_WHOLE, 0, NULL, 0, 0, NULL, NULL, 0, NULL, 0, 0}};
// clang-format on

// One sample of the inputs; the order of a pack's samples is that of their numbers.
typedef struct {
    Segment segment;
    float *latent, *text, *target;  // text NULL: a token of zeros; target NULL: no gradients.
    float time;
} Given;

typedef struct {
    Given *given;
    int64_t count, tokens, text;
} Inputs;

typedef struct {
    Comm *world;
    Mesh mesh;
    Model model;
    Fsdp *fsdp;
    Batch batch;
    Inputs inputs;
    bool gradients;
    double loss;
} Forward;

enum { TOKENS_MAX = 1 << 24 };  // As stage.tokens at most.

// ---- inputs
static const TensorInfo *find(const Safetensors *file, int64_t n, const char *what) {
    char name[64];
    snprintf(name, sizeof(name), "%" PRId64 ".%s", n, what);
    return safetensors_find(file, name);
}

// The tensor's values; NULL and a problem where its shape is not `dims` of `shape` (-1: any).
static float *load(const Safetensors *file, const TensorInfo *tensor, int dims,
                   const int64_t *shape, Problems *problems) {
    char want[96] = "", got[96] = "";
    bool same = tensor->dims == dims;
    for (int d = 0; d < dims; d++) {
        const size_t used = strlen(want);
        snprintf(want + used, sizeof(want) - used, shape[d] < 0 ? "%sany" : "%s%" PRId64,
                 d > 0 ? ", " : "", shape[d]);
        same = same && (shape[d] < 0 || tensor->shape[d] == shape[d]);
    }
    for (int d = 0; d < tensor->dims; d++) {
        const size_t used = strlen(got);
        if (used >= sizeof(got)) break;
        snprintf(got + used, sizeof(got) - used, "%s%" PRId64, d > 0 ? ", " : "", tensor->shape[d]);
    }
    if (!same) {
        problems_add(problems, "%s: '%s' has shape [%s], must have [%s]", file->path, tensor->name,
                     got, want);
        return NULL;
    }
    Error error;
    float *values = safetensors_load(file, tensor->name, NULL, &error);
    if (values == NULL) problems_add(problems, "%s", error.text);
    return values;
}

static void missing(const Safetensors *file, int64_t n, const char *what, const char *remedy,
                    Problems *problems) {
    problems_add(problems, "%s: tensor '%" PRId64 ".%s' is missing; %s", file->path, n, what,
                 remedy);
}

static void read_latent(Given *given, const Safetensors *file, int64_t n, const ModelConfig *model,
                        Problems *problems) {
    const TensorInfo *tensor = find(file, n, "latent");
    const int64_t shape[] = {model->in_channels, -1, -1, -1};
    given->latent = load(file, tensor, 4, shape, problems);
    if (given->latent == NULL) return;
    const PatchSize patch = model_patch(model);
    const int64_t *s = tensor->shape;
    if (s[1] < 1 || s[2] < 1 || s[3] < 1 || s[1] % patch.t != 0 || s[2] % patch.h != 0 ||
        s[3] % patch.w != 0 || tensor->count > (int64_t)TOKENS_MAX * model_token_elements(model)) {
        problems_add(problems,
                     "%s: '%s' has %" PRId64 " x %" PRId64 " x %" PRId64
                     " frames, rows and columns, must have multiples of the model's patch, "
                     "%d x %d x %d, of at most %d tokens",
                     file->path, tensor->name, s[1], s[2], s[3], patch.t, patch.h, patch.w,
                     TOKENS_MAX);
        return;
    }
    given->segment.shape =
        (LatentShape){(int32_t)s[0], (int32_t)s[1], (int32_t)s[2], (int32_t)s[3]};
}

static void read_given(Given *given, const Safetensors *file, int64_t n, const ModelConfig *model,
                       bool gradients, Problems *problems) {
    read_latent(given, file, n, model, problems);
    const TensorInfo *time = find(file, n, "time"), *text = find(file, n, "text");
    const TensorInfo *target = find(file, n, "target");
    if (time == NULL) {
        missing(file, n, "time", "t from 0 (noise) to 1 (data), of shape [1]", problems);
    } else {
        float *value = load(file, time, 1, (const int64_t[]){1}, problems);
        if (value != NULL) given->time = value[0];
        if (!(given->time >= 0 && given->time <= 1)) {
            problems_add(problems, "%s: '%s' is %g, must be t from 0 (noise) to 1 (data)",
                         file->path, time->name, (double)given->time);
        }
        free(value);
    }
    given->segment.text = 1;
    if (text != NULL && text->count > 0) {
        given->text = load(file, text, 2, (const int64_t[]){-1, model->text_width}, problems);
        given->segment.text = text->shape[0];
    }
    if (!gradients) return;
    const LatentShape s = given->segment.shape;
    if (target == NULL) {
        missing(file, n, "target", "--gradients needs one for every latent", problems);
    } else if (s.F > 0) {
        given->target = load(file, target, 4, (const int64_t[]){s.C, s.F, s.H, s.W}, problems);
    }
}

// Tensors that mean nothing here: a typing error in a name must not pass for a missing text.
static void check_names(const Safetensors *file, int64_t count, Problems *problems) {
    static const char *const known[] = {"latent", "time", "text", "target"};
    for (int i = 0; i < file->count; i++) {
        const char *name = file->tensors[i].name;
        char *end;
        const long long n = strtoll(name, &end, 10);
        bool word = false;
        for (int k = 0; k < 4 && *end == '.'; k++) word = word || strcmp(end + 1, known[k]) == 0;
        // "00.text" is no name of sample 0.
        if (word && n >= 0 && n < count && find(file, n, end + 1) == &file->tensors[i]) continue;
        problems_add(problems,
                     "%s: tensor '%s' is none of N.latent, N.time, N.text, N.target with N from 0 "
                     "to %" PRId64 " (latents are numbered without gaps)",
                     file->path, name, count - 1);
    }
}

static void read_inputs(Inputs *inputs, const Safetensors *file, const ModelConfig *model,
                        bool gradients, Problems *problems) {
    while (find(file, inputs->count, "latent") != NULL) inputs->count++;
    if (inputs->count == 0) missing(file, 0, "latent", "the pack has no samples", problems);
    check_names(file, inputs->count, problems);
    inputs->given = calloc((size_t)inputs->count + 1, sizeof(*inputs->given));
    CHECK(inputs->given != NULL, "no memory for %" PRId64 " samples", inputs->count);
    for (int64_t n = 0; n < inputs->count; n++) {
        Given *given = &inputs->given[n];
        read_given(given, file, n, model, gradients, problems);
        if (given->segment.shape.F == 0) continue;
        inputs->tokens += latent_tokens(given->segment.shape, model_patch(model));
        inputs->text += given->segment.text;
    }
    if (inputs->tokens > TOKENS_MAX || inputs->text > TOKENS_MAX) {
        problems_add(problems, "%s: %" PRId64 " tokens and %" PRId64 " of text; at most %d fit",
                     file->path, inputs->tokens, inputs->text, TOKENS_MAX);
    }
}

static void free_inputs(Inputs *inputs) {
    for (int64_t n = 0; n < inputs->count && inputs->given != NULL; n++) {
        free(inputs->given[n].latent);
        free(inputs->given[n].text);
        free(inputs->given[n].target);
    }
    free(inputs->given);
}

// ---- the model on them
// Rows of all samples' latents or targets.
static void fill_rows(const Forward *f, bool target) {
    const PatchSize patch = model_patch(&f->model.config);
    const int64_t E = model_token_elements(&f->model.config);
    const PackBind *bind = &f->batch.host->bind;
    for (int64_t s = 0; s < bind->S; s++) {
        const Given *given = &f->inputs.given[s];
        const int64_t start = bind->token_start[s];
        patchify(f->batch.host->rows + start * E, target ? given->target : given->latent,
                 given->segment.shape, patch, 0, bind->token_start[s + 1] - start);
    }
}

static void fill(Forward *f) {
    Batch *batch = &f->batch;
    Model *model = &f->model;
    const int64_t E = model_token_elements(&model->config);
    for (int64_t n = 0; n < f->inputs.count; n++) batch->segments[n] = f->inputs.given[n].segment;
    batch_bind(batch, model, f->inputs.count);
    PackRoom *room = batch->host;
    const PackBind *bind = &room->bind;
    fill_rows(f, false);
    for (int64_t s = 0; s < bind->S; s++) {
        const Given *given = &f->inputs.given[s];
        room->times[s] = given->time;
        room->weights[s] = 1.0f / (float)(bind->T * E);
        batch_text(batch, model, s, given->text);
    }
    batch_upload(batch, model, true);
    vector_round(model->patches, REAL_TYPE, batch->data, bind->T * E, NULL);
    if (!f->gradients) return;
    stream_wait(NULL);  // Then the room's rows are free.
    fill_rows(f, true);
    device_copy(batch->target, room->rows, bind->T * E * (int64_t)sizeof(float), NULL);
}

// The mean of (output - target)^2, and its gradient in the model's dout.
static double loss(Forward *f, const PackBind *bind) {
    double sum = 0, *losses = device_allocate_shared("losses", bind->S * (int64_t)sizeof(*losses));
    batch_loss(&f->batch, &f->model, losses, true);
    stream_wait(NULL);
    for (int64_t s = 0; s < bind->S; s++) sum += losses[s];
    device_free(losses);
    return sum / (double)(bind->T * model_token_elements(&f->model.config));
}

// Rank 0 has the pack; the others hold slices of the parameters.
static void compute(Forward *f) {
    if (f->mesh.rank == 0) fill(f);
    const PackBind *bind = f->mesh.rank == 0 ? &f->batch.host->bind : NULL;
    fsdp_begin_step(f->fsdp, 1);
    model_forward(&f->model, f->fsdp, bind, NULL);
    if (!f->gradients) return;
    if (bind != NULL) f->loss = loss(f, bind);
    model_backward(&f->model, f->fsdp, bind, 0, NULL);
    fsdp_end_step(f->fsdp);
}

// ---- outputs
typedef struct {
    TensorData *tensors;
    char (*names)[PARAM_NAME_MAX + 8];
    int count;
} Outputs;

static float *floats(int64_t count) {
    float *memory = malloc((size_t)max_i64(count, 1) * sizeof(float));
    CHECK(memory != NULL, "no memory for %" PRId64 " floats", count);
    return memory;
}

static TensorData *output(Outputs *outputs, const float *data, int dims, const int64_t *shape) {
    TensorData *tensor = &outputs->tensors[outputs->count];
    *tensor = (TensorData){.name = outputs->names[outputs->count++], .dims = dims, .data = data};
    memcpy(tensor->shape, shape, (size_t)dims * sizeof(*shape));
    return tensor;
}

// N.output of all samples, laid end to end in `memory`.
static void output_samples(Outputs *outputs, float *memory, const Forward *f) {
    const Batch *batch = &f->batch;
    const PackRoom *room = batch->host;
    const int64_t E = model_token_elements(&f->model.config);
    vector_widen(batch->noise, f->model.out, REAL_TYPE, room->bind.T * E, NULL);
    device_copy(room->rows, batch->noise, room->bind.T * E * (int64_t)sizeof(float), NULL);
    stream_wait(NULL);
    for (int64_t n = 0; n < f->inputs.count; n++) {
        const LatentShape s = f->inputs.given[n].segment.shape;
        const int64_t start = room->bind.token_start[n];
        unpatchify(memory, room->rows + start * E, s, model_patch(&f->model.config), 0,
                   room->bind.token_start[n + 1] - start);
        snprintf(outputs->names[outputs->count], sizeof(*outputs->names), "%" PRId64 ".output", n);
        output(outputs, memory, 4, (const int64_t[]){s.C, s.F, s.H, s.W});
        memory += latent_elements(s);
    }
}

// Every unit's gradient on every rank, in `memory`. Collective.
static void output_gradients(Outputs *outputs, float *memory, Forward *f) {
    const ParamTable *table = &f->model.params;
    for (int unit = 0; unit < table->units; unit++) {
        fsdp_gather(f->fsdp, memory, unit, fsdp_gradient(f->fsdp, unit));
        for (int r = param_unit_first(table, unit); r < param_unit_first(table, unit + 1); r++) {
            const Param *row = &table->rows[r];
            snprintf(outputs->names[outputs->count], sizeof(*outputs->names), "grad.%s", row->name);
            output(outputs, memory + row->offset, row->dims, row->shape);
        }
        memory += table->unit_elements[unit];
    }
}

// Collective; rank 0 writes.
static bool write_outputs(Forward *f, const char *path, Error *error) {
    const ParamTable *table = &f->model.params;
    const size_t most = (size_t)(f->inputs.count + 1 + table->count);
    int64_t elements = 0;
    for (int unit = 0; unit < table->units; unit++) elements += table->unit_elements[unit];
    Outputs outputs = {.tensors = calloc(most, sizeof(*outputs.tensors)),
                       .names = calloc(most, sizeof(*outputs.names))};
    CHECK(outputs.tensors != NULL && outputs.names != NULL, "no memory for %zu tensors", most);
    float *samples = floats(f->inputs.tokens * model_token_elements(&f->model.config));
    float *gradients = floats(f->gradients ? elements : 0);
    const float loss = (float)f->loss;
    if (f->mesh.rank == 0) output_samples(&outputs, samples, f);
    if (f->gradients) {
        snprintf(outputs.names[outputs.count], sizeof(*outputs.names), "loss");
        output(&outputs, &loss, 1, (const int64_t[]){1});
        output_gradients(&outputs, gradients, f);
    }
    bool ok = true;
    if (f->mesh.rank == 0) ok = safetensors_write(path, outputs.tensors, outputs.count, error);
    free(samples);
    free(gradients);
    free(outputs.tensors);
    free(outputs.names);
    return agree(f->world, ok, error);
}

// ---- the command
// Reads weights, runs, writes. Returns the exit code.
static int run(Forward *f, const char *folder, const Options *options, Problems *problems) {
    const MeshConfig alone = {.sequence = 1, .shard = 0};
    Error error = {""};
    const int devices = comm_device_start(f->world, options->share_gpu, &error);
    if (devices != EXIT_DONE) {
        problems_add(problems, "%s", error.text);
        return devices;
    }
    mesh_init(&f->mesh, f->world, &alone);
    ModelConfig config = f->model.config;
    config.deterministic = options->deterministic;
    model_record(&f->model, &config, &f->mesh);
    const FsdpConfig sharding = {TYPE_F32, .reshard_after_forward = true, .packs_max = 1};
    f->fsdp = fsdp_create(&f->model.params, &f->mesh, &sharding);
    model_plan(&f->model, f->gradients ? RECOMPUTE_NONE : RECOMPUTE_BLOCK,
               (ModelBounds){f->inputs.tokens, f->inputs.text, f->inputs.count});
    model_allocate(&f->model);
    batch_create(&f->batch, &f->model);
    int exit_code = model_folder_load(f->fsdp, &f->model, folder, problems, &error);
    if (exit_code == EXIT_DONE) {
        compute(f);
        if (!write_outputs(f, options->outputs, &error)) exit_code = EXIT_FAILED;
    }
    if (exit_code == EXIT_FAILED && f->mesh.rank == 0) fprintf(stderr, "%s\n", error.text);
    batch_free(&f->batch);
    fsdp_free(f->fsdp);
    model_free(&f->model);
    mesh_free(&f->mesh);
    return exit_code;
}

// From the command line to the exit code; problems are printed by the caller.
static int forward(Forward *f, int argc, char **argv, Problems *problems) {
    Options *options = calloc(1, sizeof(*options));
    Words *words = calloc(1, sizeof(*words));
    CHECK(options != NULL && words != NULL, "no memory");
    Safetensors file;
    Error error = {""};
    int exit_code = EXIT_CONFIG;
    options_parse(options, option_table, argc, argv, words, problems);
    if (words->count != 1) {
        problems_add(problems, "command line: %d folders for MODEL; see kintoun forward --help",
                     words->count);
    }
    if (problems->count == 0) {
        bool ok = model_folder_config(&f->model.config, words->word[0], &error);
        if (ok) {
            ok = safetensors_open(&file, options->inputs, &error);
            if (ok) {
                f->gradients = options->gradients;
                read_inputs(&f->inputs, &file, &f->model.config, f->gradients, problems);
                safetensors_close(&file);
            }
        }
        if (!agree(f->world, ok, &error)) problems_add(problems, "%s", error.text);
        int64_t most = problems->count;
        comm_all_reduce_max(f->world, &most, 1);
        if (most > problems->count) problems_add(problems, "another rank cannot read the inputs");
    }
    if (problems->count == 0) exit_code = run(f, words->word[0], options, problems);
    free_inputs(&f->inputs);
    free(words);
    free(options);
    return exit_code;
}

int forward_command(int argc, char **argv) {
    Comm *world = comm_start(&argc, &argv);
    const bool speaks = comm_rank(world) == 0;
    int exit_code = EXIT_DONE;
    if (options_help(argc, argv)) {
        if (speaks) printf("%s", HELP);
    } else {
        Forward *f = calloc(1, sizeof(*f));
        Problems *problems = calloc(1, sizeof(*problems));
        CHECK(f != NULL && problems != NULL, "no memory");
        f->world = world;
        exit_code = forward(f, argc, argv, problems);
        if (problems->count > 0 && speaks) problems_print(problems, "the inputs");
        free(problems);
        free(f);
    }
    comm_stop(world);
    return exit_code;
}
