// Sampling: the same bits however packs are spread over data ranks; the same numbers to rounding
// where ranks split a pack; guidance is linear; what does not fit is refused.
// ranks: 1 2 3 4
// backends: all
// device: 1 2 4
#include "tests/model_case.h"
#include "train/sampler.h"

static Comm *alone;

// Three heads do not divide by two ranks.
static const ModelConfig config = {.layers = 2,
                                   .heads = 3,
                                   .head_dim = 16,
                                   .in_channels = 4,
                                   .patch = 2,
                                   .patch_t = 1,
                                   .text_width = 24,
                                   .mlp_ratio = 4,
                                   .rope_theta = 1e4,
                                   .time_factor = 1000};

// 51 tokens, 32 of text and 5 segments fit in a pack: two requests with guidance, or one.
static const Segment segments[] = {{{4, 1, 6, 4}, 5},
                                   {{4, 3, 4, 6}, 1},
                                   {{4, 1, 2, 2}, 1},
                                   {{4, 2, 10, 2}, 9},
                                   {{4, 1, 8, 8}, 16}};
enum { COUNT = 5, TEXT_MAX = 16 };

typedef struct {
    ModelCase c;
    Batch batch;
    SampleRequest requests[COUNT];
    float text[COUNT * TEXT_MAX * 24];
    float *latents;
    int64_t elements;
} Samples;

static Samples *samples_open(Comm *comm, MeshConfig layout) {
    Samples *s = case_room(sizeof(*s));
    case_open(&s->c, comm, layout, &config, segments, COUNT, RECOMPUTE_BLOCK);
    batch_create(&s->batch, &s->c.model);
    rng_normal(s->text, COUNT * TEXT_MAX * 24, CASE_SEED, RNG_TEST, 77, 0);
    for (int i = 0; i < COUNT; i++) s->elements += latent_elements(segments[i].shape);
    s->latents = case_room(s->elements * (int64_t)sizeof(float));
    float *latent = s->latents;
    for (int i = 0; i < COUNT; i++) {
        s->requests[i] = (SampleRequest){.shape = segments[i].shape,
                                         .text = s->text + i * TEXT_MAX * 24,
                                         .text_length = i == 1 ? 0 : segments[i].text,
                                         .position = (uint64_t)i,
                                         .latent = latent};
        latent += latent_elements(segments[i].shape);
    }
    return s;
}

static void samples_close(Samples *s) {
    batch_free(&s->batch);
    case_close(&s->c);
    free(s->latents);
    free(s);
}

static Samples *samples_draw(Comm *comm, MeshConfig layout, int64_t steps, double guidance) {
    Samples *s = samples_open(comm, layout);
    const SamplerConfig how = {.steps = steps, .guidance = guidance, .shift = 1.5, .seed = 3};
    Error error = {""};
    const bool ok =
        sampler_run(s->requests, COUNT, &how, &s->c.model, s->c.fsdp, &s->batch, &error);
    check_that(ok, "%s", error.text);
    return s;
}

static void test_layouts_agree(void **state) {
    (void)state;
    const int n = comm_size(world);
    Samples *want = samples_draw(alone, (MeshConfig){1, 1}, 4, 3);
    Samples *still = samples_draw(alone, (MeshConfig){1, 1}, 1, 3);
    check_that(check_error(NULL, still->latents, want->latents, want->elements) > 0.01,
               "the number of steps does not matter: the model gives zeros");
    Samples *spread = samples_draw(world, (MeshConfig){1, n}, 4, 3);
    check_equal("spread", spread->latents, want->latents, want->elements);
    Samples *split = samples_draw(world, (MeshConfig){n, n}, 4, 3);
    check_close("split", split->latents, want->latents, want->elements, 2e-5);
    samples_close(want);
    samples_close(still);
    samples_close(spread);
    samples_close(split);
}

static void test_two_packs_each_on_two_ranks(void **state) {
    (void)state;
    if (comm_size(world) != 4) return;
    Samples *want = samples_draw(alone, (MeshConfig){1, 1}, 4, 3);
    Samples *both = samples_draw(world, (MeshConfig){2, 4}, 4, 3);
    check_close("both", both->latents, want->latents, want->elements, 2e-5);
    samples_close(want);
    samples_close(both);
}

// One step from x: x + dt (v_0 + g (v_text - v_0)); g = 1 needs no v_0.
static void test_guidance_is_linear(void **state) {
    (void)state;
    Samples *zero = samples_draw(alone, (MeshConfig){1, 1}, 1, 0);
    Samples *one = samples_draw(alone, (MeshConfig){1, 1}, 1, 1);
    Samples *three = samples_draw(alone, (MeshConfig){1, 1}, 1, 3);
    check_that(check_error(NULL, one->latents, zero->latents, zero->elements) > 1e-3,
               "text does not matter");
    for (int64_t i = 0; i < zero->elements; i++) {
        zero->latents[i] += 3 * (one->latents[i] - zero->latents[i]);
    }
    check_close("three", three->latents, zero->latents, zero->elements, 1e-5);
    samples_close(zero);
    samples_close(one);
    samples_close(three);
}

static void test_what_does_not_fit(void **state) {
    (void)state;
    static const struct {
        LatentShape shape;
        int64_t text;
        const char *says;
    } bad[] = {{{3, 1, 4, 4}, 1, "a latent of 3 x 1 x 4 x 4"},
               {{4, 1, 5, 4}, 1, "does not fit a model of 4 channels with patch 1 x 2 x 2"},
               {{4, 2, 8, 8}, 1, "needs 64 tokens, 2 of text and 2 segments, more than"},
               {{4, 1, 2, 2}, 32, "needs 2 tokens, 33 of text"}};
    Samples *s = samples_open(alone, (MeshConfig){1, 1});
    const SamplerConfig how = {.steps = 1, .guidance = 3, .shift = 1};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        Error error = {""};
        s->requests[2].shape = bad[i].shape;
        s->requests[2].text_length = bad[i].text;
        check_that(
            !sampler_check(&s->requests[2], &how, &s->c.model.config, s->c.model.bounds, &error),
            "accepted");
        check_contains(error.text, bad[i].says);
    }
    samples_close(s);
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    alone = comm_split(world, comm_rank(world), 0, "alone");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts_agree),
        cmocka_unit_test(test_two_packs_each_on_two_ranks),
        cmocka_unit_test(test_guidance_is_linear),
        cmocka_unit_test(test_what_does_not_fit),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_free(alone);
    comm_stop(world);
    return failed;
}
