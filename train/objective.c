#include "train/objective.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/vector.h"
#include "model/ops/flow.h"

static const double TURN = 6.283185307179586;

// Coefficients of AS 241 (PPND16), highest power first.
static double ratio(const double *a, const double *b, double x) {
    double p = 0, q = 0;
    for (int i = 0; i < 8; i++) p = p * x + a[i], q = q * x + b[i];
    return p / q;
}

double normal_quantile(double u) {
    static const double a[8] = {2.5090809287301226727e3, 3.3430575583588128105e4,
                                6.7265770927008700853e4, 4.5921953931549871457e4,
                                1.3731693765509461125e4, 1.9715909503065514427e3,
                                1.3314166789178437745e2, 3.3871328727963666080e0};
    static const double b[8] = {5.2264952788528545610e3, 2.8729085735721942674e4,
                                3.9307895800092710610e4, 2.1213794301586595867e4,
                                5.3941960214247511077e3, 6.8718700749205790830e2,
                                4.2313330701600911252e1, 1.0};
    static const double c[8] = {7.74545014278341407640e-4, 2.27238449892691845833e-2,
                                2.41780725177450611770e-1, 1.27045825245236838258e0,
                                3.64784832476320460504e0,  5.76949722146069140550e0,
                                4.63033784615654529590e0,  1.42343711074968357734e0};
    static const double d[8] = {1.05075007164441684324e-9, 5.47593808499534494600e-4,
                                1.51986665636164571966e-2, 1.48103976427480074590e-1,
                                6.89767334985100004550e-1, 1.67638483018380384940e0,
                                2.05319162663775882187e0,  1.0};
    static const double e[8] = {2.01033439929228813265e-7, 2.71155556874348757815e-5,
                                1.24266094738807843860e-3, 2.65321895265761230930e-2,
                                2.96560571828504891230e-1, 1.78482653991729133580e0,
                                5.46378491116411436990e0,  6.65790464350110377720e0};
    static const double f[8] = {2.04426310338993978564e-15, 1.42151175831644588870e-7,
                                1.84631831751005468180e-5,  7.86869131145613259100e-4,
                                1.48753612908506148525e-2,  1.36929880922735805310e-1,
                                5.99832206555887937690e-1,  1.0};
    const double q = u - 0.5;
    if (fabs(q) <= 0.425) return q * ratio(a, b, 0.180625 - q * q);
    const double r = sqrt(-log(q < 0 ? u : 1 - u));
    const double x = r <= 5 ? ratio(c, d, r - 1.6) : ratio(e, f, r - 5);
    return q < 0 ? -x : x;
}

static double distribution(const FlowConfig *config, double u) {
    switch ((Timesteps)config->timesteps) {
        case TIMESTEPS_UNIFORM:
            return u;
        case TIMESTEPS_LOGIT_NORMAL: {
            const double inside = fmin(fmax(u, 0x1p-53), 1 - 0x1p-53);
            const double x = config->logit_mean + config->logit_std * normal_quantile(inside);
            return 1 / (1 + exp(-x));
        }
        case TIMESTEPS_MODE: {  // SD3, equation 20; 1 - t is its t.
            const double c = cos(TURN / 4 * u);
            return 1 - (1 - u - config->mode_scale * (c * c - 1 + u));
        }
    }
    DIE("unknown distribution %d", config->timesteps);
}

double flow_time(const FlowConfig *config, double shift, double u) {
    const double noise = 1 - distribution(config, u);
    return 1 - shift * noise / (1 + (shift - 1) * noise);
}

double flow_uniform(const FlowConfig *config, uint64_t seed, int64_t step, int64_t pack,
                    int64_t position) {
    const double u = rng_uniform(seed, RNG_TIMESTEP, (uint64_t)position, 0);
    const int64_t K = config->strata;
    if (K == 0) return u;
    const int64_t turn = (int64_t)(rng_bits(seed, RNG_STRATA, (uint64_t)step, 0) % (uint64_t)K);
    const int64_t i = (pack + turn) % K;
    return fmin(((double)i + u) / (double)K, nextafter((double)(i + 1) / (double)K, 0));
}

double sample_time(const FlowKeys *keys, int64_t pack, int64_t position) {
    if (keys->fixed_times) {
        return flow_time(keys->flow, keys->shift, ((double)(position % 8) + 0.5) / 8);
    }
    return flow_time(keys->flow, keys->shift,
                     flow_uniform(keys->flow, keys->seed, keys->step, pack, position));
}

static void lay_out(Batch *batch, const Model *model) {
    const int64_t T = model->bound[ROWS_TOKENS], E = model_token_elements(&model->config);
    const int64_t bytes = T * E * (int64_t)sizeof(float);
    const int64_t sample = model->bounds.tokens * E * (int64_t)sizeof(float);  // The largest one.
    batch->data = arena_take(&batch->arena, bytes);
    batch->noise = arena_take(&batch->arena, bytes);
    batch->target = arena_take(&batch->arena, bytes);
    batch->weight = arena_take(&batch->arena, model->bounds.segments * (int64_t)sizeof(float));
    batch->wide_text = arena_take(
        &batch->arena, model->bounds.text * model->config.text_width * (int64_t)sizeof(float));
    batch->scratch = arena_take(&batch->arena, max_i64(sample, flow_loss_scratch(T)));
}

static float *host_floats(const char *name, int64_t count) {
    return host_allocate(name, count * (int64_t)sizeof(float));
}

void batch_create(Batch *batch, const Model *model) {
    const int64_t T = model->bound[ROWS_TOKENS], S = model->bounds.segments;
    memset(batch, 0, sizeof(*batch));
    for (int i = 0; i < 2; i++) {
        PackRoom *room = &batch->rooms[i];
        pack_create(&room->bind, T, S, model->config.head_dim);
        room->rows = host_floats("rows of a pack", T * model_token_elements(&model->config));
        room->text = host_floats("text of a pack", model->bounds.text * model->config.text_width);
        room->weights = host_floats("weights of a pack", S);
        room->times = host_floats("times of a pack", S);
        room->read = event_create();
    }
    batch->host = &batch->rooms[0];
    batch->segments = calloc((size_t)S, sizeof(Segment));
    CHECK(batch->segments != NULL, "no memory for %" PRId64 " segments", S);
    batch->upload = stream_create();
    batch->uploaded = event_create();
    batch->arena.name = "batch";
    lay_out(batch, model);
    arena_commit(&batch->arena);
    lay_out(batch, model);
}

MemoryBytes batch_bytes(const Model *model) {
    const int64_t T = model->bound[ROWS_TOKENS], S = model->bounds.segments;
    const int64_t floats = T * model_token_elements(&model->config) +
                           model->bounds.text * model->config.text_width + 2 * S;
    const MemoryBytes pack = pack_bytes(T, S, model->config.head_dim);
    Batch measure = {.arena.name = "batch"};
    lay_out(&measure, model);
    return (MemoryBytes){.device = measure.arena.used + 2 * pack.device,
                         .host = 2 * (floats * (int64_t)sizeof(float) + pack.host)};
}

void batch_free(Batch *batch) {
    stream_wait(NULL);
    for (int i = 0; i < 2; i++) {
        PackRoom *room = &batch->rooms[i];
        pack_free(&room->bind);
        host_free(room->rows);
        host_free(room->text);
        host_free(room->weights);
        host_free(room->times);
        event_free(room->read);
    }
    free(batch->segments);
    stream_free(batch->upload);
    event_free(batch->uploaded);
    arena_free(&batch->arena);
}

static PackRoom *other_room(Batch *batch) {
    return &batch->rooms[batch->host == &batch->rooms[0]];
}

void batch_bind(Batch *batch, const Model *model, int64_t count) {
    const Rope rope = {model->config.head_dim, model->config.rope_theta};
    PackRoom *room = batch->host = other_room(batch);
    event_wait(room->read);
    pack_bind(&room->bind, batch->segments, count, model_patch(&model->config), &rope,
              model->mesh->sequence_index, model->mesh->sequences);
}

void batch_text(Batch *batch, const Model *model, int64_t s, const float *text) {
    const PackRoom *room = batch->host;
    const int64_t width = model->config.text_width, row = room->bind.text_start[s];
    const size_t bytes = (size_t)((room->bind.text_start[s + 1] - row) * width) * sizeof(float);
    if (text != NULL) {
        memcpy(room->text + row * width, text, bytes);
    } else {
        memset(room->text + row * width, 0, bytes);
    }
}

void batch_upload(Batch *batch, Model *model, bool rows) {
    const PackRoom *room = batch->host;
    const int64_t S = room->bind.S, elements = room->bind.X * model->config.text_width;
    const int64_t row_elements = room->bind.T * model_token_elements(&model->config);
    stream_await(batch->upload, other_room(batch)->read);  // Then data and wide_text are free.
    if (rows) {
        device_copy(batch->data, room->rows, row_elements * (int64_t)sizeof(float), batch->upload);
    }
    device_copy(batch->wide_text, room->text, elements * (int64_t)sizeof(float), batch->upload);
    event_record(batch->uploaded, batch->upload);
    stream_await(NULL, batch->uploaded);
    vector_round(model->text, REAL_TYPE, batch->wide_text, elements, NULL);
    device_copy(model->time, room->times, S * (int64_t)sizeof(float), NULL);
    device_copy(batch->weight, room->weights, S * (int64_t)sizeof(float), NULL);
    event_record(room->read, NULL);
}

static bool without_text(const LoadedSample *sample, const FlowKeys *keys) {
    return sample->text_length == 0 ||
           rng_uniform(keys->seed, RNG_CAPTION, (uint64_t)sample->position, 0) <
               keys->caption_dropout;
}

// Of token_start[s] .. token_start[s + 1] of this rank's slice, the first one's place in its
// sample.
static int64_t first_token(const PackBind *bind, int64_t s) {
    return bind->first + bind->token_start[s] - bind->pack_start[bind->segment_first + s];
}

// Rows and text of the touched segments.
static void fill_room(Batch *batch, const Model *model, const LoadedPack *pack,
                      const FlowKeys *keys) {
    const PackRoom *room = batch->host;
    const PackBind *bind = &room->bind;
    const PatchSize patch = model_patch(&model->config);
    const int64_t E = model_token_elements(&model->config);
    for (int64_t s = 0; s < bind->S; s++) {
        const LoadedSample *sample = &pack->samples[bind->segment_first + s];
        const int64_t start = bind->token_start[s], count = bind->token_start[s + 1] - start;
        patchify(room->rows + start * E, sample->latent, sample->shape, patch, first_token(bind, s),
                 count);
        batch_text(batch, model, s, without_text(sample, keys) ? NULL : sample->text);
    }
}

static void fill_noise(Batch *batch, const Model *model, const LoadedPack *pack,
                       const FlowKeys *keys) {
    const PackBind *bind = &batch->host->bind;
    const int64_t E = model_token_elements(&model->config);
    for (int64_t s = 0; s < bind->S; s++) {
        const LoadedSample *sample = &pack->samples[bind->segment_first + s];
        const int64_t start = bind->token_start[s], count = bind->token_start[s + 1] - start;
        const NoiseKey key = {keys->seed, keys->noise, (uint64_t)sample->position};
        flow_noise(batch->noise + start * E, &key, sample->shape, model_patch(&model->config),
                   first_token(bind, s), count, batch->scratch, NULL);
    }
}

void batch_fill(Batch *batch, Model *model, const LoadedPack *pack, const double *weights,
                const FlowKeys *keys) {
    for (int64_t i = 0; i < pack->count; i++) {
        const LoadedSample *sample = &pack->samples[i];
        batch->segments[i] =
            (Segment){sample->shape, without_text(sample, keys) ? 1 : sample->text_length};
    }
    batch_bind(batch, model, pack->count);
    PackRoom *room = batch->host;
    const PackBind *bind = &room->bind;
    for (int64_t s = 0; s < bind->S; s++) {
        const int64_t i = bind->segment_first + s;
        const LoadedSample *sample = &pack->samples[i];
        room->times[s] = (float)sample_time(keys, pack->pack, sample->position);
        room->weights[s] = sample->corrupt ? 0.0f : (float)weights[i];
    }
    fill_room(batch, model, pack, keys);
    batch_upload(batch, model, true);
    fill_noise(batch, model, pack, keys);
    flow_mix(model->patches, batch->target, batch->data, batch->noise, model->time, bind->segment,
             bind->T, model_token_elements(&model->config), NULL);
    event_record(room->read, NULL);  // Again: flow_mix reads `data`.
}

void batch_loss(Batch *batch, Model *model, double *losses, bool gradient) {
    const PackBind *bind = &batch->host->bind;
    flow_loss(losses, gradient ? model->dout : NULL, model->out, batch->target, batch->weight,
              bind->segment, bind->token_start_device, bind->T,
              model_token_elements(&model->config), bind->S, batch->scratch, NULL);
}
