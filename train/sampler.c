#include "train/sampler.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/vector.h"
#include "model/ops/flow.h"
#include "parallel/ulysses.h"

// The work of one pack: requests [first, first + count), each as one or two segments.
typedef struct {
    SampleRequest *requests;
    int count, copies;  // Copies: 2 with guidance (with text, then without).
    const SamplerConfig *config;
    Model *model;
    Fsdp *fsdp;
    Batch *batch;
    float *x;         // [tokens of all requests, E] On the host.
    float *velocity;  // [tokens of all segments, E] On the host.
    float *gathered;  // The same on the device.
} SamplePack;

static int64_t text_rows(const SampleRequest *r) {
    return max_i64(r->text_length, 1);
}

static double time_at(const SamplerConfig *config, int64_t step) {
    const double noise = 1 - (double)step / (double)config->steps;
    return 1 - config->shift * noise / (1 + (config->shift - 1) * noise);
}

// How many of the requests fit into one pack, at least 0.
static int pack_length(const SampleRequest *requests, int count, int copies,
                       const ModelConfig *model, ModelBounds bounds) {
    int64_t tokens = 0, text = 0;
    int n = 0;
    for (; n < count; n++) {
        tokens += copies * latent_tokens(requests[n].shape, model_patch(model));
        text += text_rows(&requests[n]) + (copies - 1);
        if (tokens > bounds.tokens || text > bounds.text || copies * (n + 1) > bounds.segments) {
            break;
        }
    }
    return n;
}

// Binds the segments and fills what does not change from step to step: text, and x with noise.
static void start(SamplePack *p) {
    Batch *batch = p->batch;
    Model *model = p->model;
    const PatchSize patch = model_patch(&model->config);
    const int64_t E = model_token_elements(&model->config);
    float *x = p->x;
    for (int i = 0; i < p->count; i++) {
        const SampleRequest *r = &p->requests[i];
        for (int c = 0; c < p->copies; c++) {
            batch->segments[p->copies * i + c] = (Segment){r->shape, c == 0 ? text_rows(r) : 1};
        }
        float *noise = p->velocity;  // There is none yet.
        rng_normal(noise, latent_elements(r->shape), p->config->seed, RNG_SAMPLE_NOISE, r->position,
                   0);
        const int64_t tokens = latent_tokens(r->shape, patch);
        patchify(x, noise, r->shape, patch, 0, tokens);
        x += tokens * E;
    }
    batch_bind(batch, model, p->copies * p->count);
    const PackBind *bind = &batch->host->bind;
    for (int64_t s = 0; s < bind->S; s++) {
        const int64_t segment = bind->segment_first + s;
        const SampleRequest *r = &p->requests[segment / p->copies];
        const bool with_text = segment % p->copies == 0 && r->text_length > 0;
        batch_text(batch, model, s, with_text ? r->text : NULL);
    }
    batch_upload(batch, model, false);
}

// The velocity of all segments at time t, on every rank of the sequence group. The host waits for
// it, so what it wrote for the device is free again.
static void velocity(SamplePack *p, double t) {
    Batch *batch = p->batch;
    Model *model = p->model;
    const PackBind *bind = &batch->host->bind;
    const Mesh *mesh = model->mesh;
    const int64_t E = model_token_elements(&model->config);
    const PatchSize patch = model_patch(&model->config);
    float *rows = p->velocity;  // First the inputs of all segments, then the result.
    const float *x = p->x;
    for (int i = 0; i < p->count; i++) {
        const int64_t elements = latent_tokens(p->requests[i].shape, patch) * E;
        for (int c = 0; c < p->copies; c++, rows += elements) {
            memcpy(rows, x, (size_t)elements * sizeof(float));
        }
        x += elements;
    }
    device_copy(batch->data, p->velocity + bind->first * E, bind->T * E * (int64_t)sizeof(float),
                NULL);
    vector_round(model->patches, REAL_TYPE, batch->data, bind->T * E, NULL);
    for (int64_t s = 0; s < bind->S; s++) batch->host->times[s] = (float)t;
    device_copy(model->time, batch->host->times, bind->S * (int64_t)sizeof(float), NULL);
    model_forward(model, p->fsdp, bind, NULL);
    vector_widen(p->gathered + bind->first * E, model->out, REAL_TYPE, bind->T * E, NULL);
    int64_t offsets[ULYSSES_RANKS_MAX + 1];
    for (int i = 0; i <= mesh->sequences; i++) {
        offsets[i] = ulysses_token_cut(bind->P, i, mesh->sequences) * E * (int64_t)sizeof(float);
    }
    if (mesh->sequences > 1) {
        comm_all_gather_slices(mesh->sequence, p->gathered, offsets, NULL);
    }
    device_copy(p->velocity, p->gathered, offsets[mesh->sequences], NULL);
    stream_wait(NULL);
}

static void euler_step(SamplePack *p, double dt) {
    const int64_t E = model_token_elements(&p->model->config);
    const float g = (float)p->config->guidance;
    float *x = p->x;
    const float *v = p->velocity;
    for (int i = 0; i < p->count; i++) {
        const int64_t n = latent_tokens(p->requests[i].shape, model_patch(&p->model->config)) * E;
        const float *without = p->copies == 2 ? v + n : v;
        for (int64_t e = 0; e < n; e++) {
            x[e] += (float)dt * (without[e] + g * (v[e] - without[e]));
        }
        x += n;
        v += p->copies * n;
    }
}

static void finish(SamplePack *p) {
    const PatchSize patch = model_patch(&p->model->config);
    const float *x = p->x;
    for (int i = 0; i < p->count; i++) {
        const int64_t tokens = latent_tokens(p->requests[i].shape, patch);
        unpatchify(p->requests[i].latent, x, p->requests[i].shape, patch, 0, tokens);
        x += tokens * model_token_elements(&p->model->config);
    }
}

// All steps of one pack; without one (count 0) this rank only takes part in the gathers.
static void run_pack(SamplePack *p) {
    if (p->count > 0) start(p);
    for (int64_t step = 0; step < p->config->steps; step++) {
        if (p->count == 0) {
            model_forward(p->model, p->fsdp, NULL, NULL);
            continue;
        }
        const double t = time_at(p->config, step);
        velocity(p, t);
        euler_step(p, time_at(p->config, step + 1) - t);
    }
    if (p->count > 0) finish(p);
}

static int copies_of(const SamplerConfig *config) {
    return config->guidance == 1 ? 1 : 2;
}

bool sampler_check(const SampleRequest *request, const SamplerConfig *config,
                   const ModelConfig *model, ModelBounds bounds, Error *error) {
    const int copies = copies_of(config);
    const PatchSize patch = model_patch(model);
    const LatentShape s = request->shape;
    if (s.C != model->in_channels || s.F % patch.t != 0 || s.H % patch.h != 0 ||
        s.W % patch.w != 0) {
        return error_set(error,
                         "a latent of %d x %d x %d x %d does not fit a model of %" PRId64
                         " channels with patch %d x %d x %d",
                         s.C, s.F, s.H, s.W, model->in_channels, patch.t, patch.h, patch.w);
    }
    return pack_length(request, 1, copies, model, bounds) == 1 ||
           error_set(error,
                     "%d x %d x %d needs %" PRId64 " tokens, %" PRId64
                     " of text and %d segments, more than the largest pack of %" PRId64 ", %" PRId64
                     " and %" PRId64,
                     s.F, s.H, s.W, copies * latent_tokens(s, patch),
                     text_rows(request) + (copies - 1), copies, bounds.tokens, bounds.text,
                     bounds.segments);
}

// Elements of the largest pack.
static int64_t pack_elements(const Model *model) {
    return model->bounds.tokens * model_token_elements(&model->config);
}

MemoryBytes sampler_bytes(const Model *model) {
    const int64_t bytes = pack_elements(model) * (int64_t)sizeof(float);
    return (MemoryBytes){.device = bytes, .host = 2 * bytes};
}

bool sampler_run(SampleRequest *requests, int count, const SamplerConfig *config, Model *model,
                 Fsdp *fsdp, Batch *batch, Error *error) {
    for (int i = 0; i < count; i++) {
        Error why;
        if (!sampler_check(&requests[i], config, &model->config, model->bounds, &why)) {
            return error_set(error, "sample %d: %s", i, why.text);
        }
    }
    const int copies = copies_of(config);
    const Mesh *mesh = model->mesh;
    const int64_t rows = pack_elements(model);
    float *memory = malloc((size_t)(2 * rows) * sizeof(float));
    float *gathered = device_allocate("velocities", rows * (int64_t)sizeof(float));
    int *ends = malloc((size_t)mesh->data_size * sizeof(*ends));
    CHECK(memory != NULL && ends != NULL, "no memory for %" PRId64 " elements of samples",
          2 * rows);
    for (int first = 0; first < count;) {  // One round: a pack for each data rank.
        int begin = first;
        SamplePack mine = {.copies = copies,
                           .config = config,
                           .model = model,
                           .fsdp = fsdp,
                           .batch = batch,
                           .x = memory,
                           .velocity = memory + rows,
                           .gathered = gathered};
        for (int d = 0; d < mesh->data_size; d++) {
            const int length =
                pack_length(requests + begin, count - begin, copies, &model->config, model->bounds);
            if (d == mesh->data_index) mine.requests = requests + begin, mine.count = length;
            begin = ends[d] = begin + length;
        }
        run_pack(&mine);
        for (int d = 0, i = first; d < mesh->data_size; d++) {
            for (; i < ends[d]; i++) {
                comm_broadcast(mesh->world, requests[i].latent,
                               latent_elements(requests[i].shape) * (int64_t)sizeof(float),
                               d * mesh->sequences);
            }
        }
        first = begin;
    }
    device_free(gathered);
    free(memory);
    free(ends);
    return true;
}
