// The recorded program on a whole small model: every recomputation policy gives the same bits,
// working memory may hold anything in between, the arena is as large as planned; gradients are
// slopes; values used several times; a backward through a GELU; a pack split over ranks gives the
// same numbers to rounding; the traffic of a step is what `plan` says.
// ranks: 1 2 3
// backends: all
// device: 1 2
// precision: fp32 bf16
#include "model/ops/product.h"
#include "model/ops/table.h"
#include "model/record.h"
#include "tests/model_case.h"
#include "tests/op_check.h"
#include "train/traffic.h"

static Comm *alone;

// Three heads do not divide by two ranks; a segment of one token; ranks' cuts inside segments.
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
static const Segment segments[] = {
    {{4, 1, 6, 4}, 5}, {{4, 3, 4, 6}, 1}, {{4, 1, 2, 2}, 1}, {{4, 2, 10, 2}, 9}};
enum { SEGMENTS = 4 };

static MeshConfig split(void) {
    return (MeshConfig){.sequence = comm_size(world), .shard = comm_size(world)};
}

// What a run gives.
typedef struct {
    real *out;  // [T, E] Of this rank.
    float *gradients;
    int64_t outputs, count;
} Result;

static void result_free(Result *r) {
    free(r->out);
    free(r->gradients);
}

// One forward and backward. What is not kept is filled with NaN before both: nothing may be read
// that was not written.
static Result run(ModelCase *c) {
    Model *m = &c->model;
    case_fill(c);
    case_spoil(m->kept, m->bytes.kept);
    case_spoil(m->work, m->bytes.work);
    fsdp_begin_step(c->fsdp, 1);
    model_forward(m, c->fsdp, &c->bind, NULL);
    Result r = {.outputs = c->bind.T * model_token_elements(&config)};
    r.out = case_copy(m->out, r.outputs * (int64_t)sizeof(real));
    case_spoil(m->work, m->bytes.work);
    model_backward(m, c->fsdp, &c->bind, 0, NULL);
    fsdp_end_step(c->fsdp);
    r.gradients = case_gradients(c, &r.count);
    return r;
}

static Result run_once(Comm *comm, MeshConfig layout, Recompute recompute) {
    ModelCase *c = case_room(sizeof(*c));
    case_open(c, comm, layout, &config, segments, SEGMENTS, recompute);
    const Result r = run(c);
    case_close(c);
    free(c);
    return r;
}

static void test_recomputation_changes_no_bit(void **state) {
    (void)state;
    static const char *const names[] = {"none", "cheap", "linear", "block"};
    Result want = run_once(world, split(), RECOMPUTE_NONE);
    for (int policy = 1; policy < 4; policy++) {
        Result got = run_once(world, split(), (Recompute)policy);
        check_that(got.outputs == want.outputs && got.count == want.count, "%s: sizes",
                   names[policy]);
        check_that(memcmp(got.out, want.out, (size_t)got.outputs * sizeof(real)) == 0,
                   "%s: other bits of the output", names[policy]);
        check_equal(names[policy], got.gradients, want.gradients, got.count);
        result_free(&got);
    }
    float largest = 0;
    for (int64_t i = 0; i < want.count; i++) largest = fmaxf(largest, fabsf(want.gradients[i]));
    check_that(largest > 0.1f && isfinite(largest), "gradients up to %g", (double)largest);
    result_free(&want);
}

// The ops' times change no bit, hold every kind that ran, and are gone once taken.
static void test_times_ops(void **state) {
    (void)state;
    ModelCase *c = case_room(sizeof(*c));
    case_open(c, world, split(), &config, segments, SEGMENTS, RECOMPUTE_NONE);
    Result want = run(c);
    OpTimes times = {0};
    c->model.op_times = &times;
    Result got = run(c);
    stream_wait(NULL);
    double seconds[OP_KINDS] = {0}, none[OP_KINDS] = {0};
    op_times_take(&times, seconds);
    op_times_take(&times, none);
    check_that(memcmp(got.out, want.out, (size_t)got.outputs * sizeof(real)) == 0, "other bits");
    check_equal("gradients", got.gradients, want.gradients, got.count);
    const Program *block = &c->model.block;
    for (int i = 0; i < block->calls; i++) {
        const int op = block->call[i].op;
        check_that(seconds[op] > 0 && seconds[op] < 600, "%s: %g s", op_table[op].name,
                   seconds[op]);
        check_that(none[op] == 0, "%s: taken twice", op_table[op].name);
    }
    op_times_free(&times);
    result_free(&want);
    result_free(&got);
    case_close(c);
    free(c);
}

// Two packs in a row, since the second finds the slots as the first left them.
static void test_offloading_changes_no_bit(void **state) {
    (void)state;
    Result results[2][2];
    int64_t host = 0;
    for (int offload = 0; offload < 2; offload++) {
        ModelConfig deep = config;
        deep.layers = 6;
        deep.offload = offload;
        ModelCase *c = case_room(sizeof(*c));
        case_open(c, world, split(), &deep, segments, SEGMENTS, RECOMPUTE_CHEAP);
        for (int pack = 0; pack < 2; pack++) results[offload][pack] = run(c);
        host = c->model.bytes.host;
        case_close(c);
        free(c);
    }
    check_that(host > 0, "nothing was offloaded");
    for (int pack = 0; pack < 2; pack++) {
        const Result *want = &results[0][pack], *got = &results[1][pack];
        check_that(memcmp(got->out, want->out, (size_t)got->outputs * sizeof(real)) == 0,
                   "other bits of the output");
        check_equal("gradients", got->gradients, want->gradients, got->count);
    }
    for (int i = 0; i < 4; i++) result_free(&results[i / 2][i % 2]);
}

static void test_memory_is_as_planned(void **state) {
    (void)state;
    int64_t kept_before = INT64_MAX;
    for (int policy = 0; policy < 4; policy++) {
        ModelCase *c = case_room(sizeof(*c));
        case_open(c, world, split(), &config, segments, SEGMENTS, (Recompute)policy);
        const ModelBytes planned = c->model.bytes;
        const int64_t arena = planned.total - planned.products;
        check_that(
            planned.products > 0 && c->model.arena.size == arena && c->model.arena.used == arena,
            "policy %d: planned %lld, allocated %lld, used %lld bytes", policy, (long long)arena,
            (long long)c->model.arena.size, (long long)c->model.arena.used);
        check_that(planned.kept < kept_before, "policy %d keeps %lld bytes, the one before %lld",
                   policy, (long long)planned.kept, (long long)kept_before);
        kept_before = planned.kept;
        const FsdpConfig sharding = {TYPE_F32, .reshard_after_forward = true, .packs_max = 4};
        const FsdpBytes fsdp = fsdp_plan(&c->model.params, &c->mesh, &sharding);
        check_that(fsdp.total == fsdp_bytes(c->fsdp).total, "fsdp: %lld planned, %lld taken",
                   (long long)fsdp.total, (long long)fsdp_bytes(c->fsdp).total);
        case_close(c);
        free(c);
    }
    check_that(kept_before == 0, "block keeps %lld bytes", (long long)kept_before);
}

// Tensor by tensor, so that small gradients count as much as large ones.
static void check_rows(const float *got, const float *want, double tolerance) {
    Mesh mesh;
    Model *model = case_room(sizeof(*model));
    mesh_shape(&mesh, &(MeshConfig){1, 1}, 0, 1);
    model_record(model, &config, &mesh);
    const ParamTable *table = &model->params;
    int64_t start = 0;
    for (int unit = 0; unit < table->units; unit++) {
        for (int r = param_unit_first(table, unit); r < param_unit_first(table, unit + 1); r++) {
            const Param *row = &table->rows[r];
            const int64_t at = start + row->offset;
            check_close(row->name, got + at, want + at, row->count, tolerance);
        }
        start += table->unit_elements[unit];
    }
    model_free(model);
    free(model);
}

static void test_split_pack_agrees(void **state) {
    (void)state;
    const double tolerance = REAL_TYPE == TYPE_F32 ? 1e-5 : 1e-2;
    Result whole = run_once(alone, (MeshConfig){1, 1}, RECOMPUTE_NONE);
    Result part = run_once(world, split(), RECOMPUTE_NONE);
    const int64_t E = model_token_elements(&config), P = whole.outputs / E;
    const int64_t first = ulysses_token_cut(P, comm_rank(world), comm_size(world));
    float *want = floats_of(whole.out + first * E, part.outputs);
    check_close_real("output", part.out, want, part.outputs, tolerance);
    check_rows(part.gradients, whole.gradients, tolerance);
    device_free(want);
    result_free(&whole);
    result_free(&part);
}

// ---- slopes
static double loss(ModelCase *c) {
    Model *m = &c->model;
    fsdp_invalidate(c->fsdp);
    model_forward(m, c->fsdp, &c->bind, NULL);
    const int64_t n = c->bind.T * model_token_elements(&config);
    real *out = case_copy(m->out, n * (int64_t)sizeof(real));
    real *dout = case_copy(m->dout, n * (int64_t)sizeof(real));
    const double sum = weighted_sum(out, dout, n);
    free(out);
    free(dout);
    return sum;
}

// Puts `value` into a master weight.
static double loss_at(ModelCase *c, float *weight, float value) {
    device_copy(weight, &value, sizeof(value), NULL);
    return loss(c);
}

static double slope(ModelCase *c, float *weight) {
    const float step = 1e-2f;
    float before;
    device_copy(&before, weight, sizeof(before), NULL);
    stream_wait(NULL);
    const double above = loss_at(c, weight, before + step);
    const double below = loss_at(c, weight, before - step);
    device_copy(weight, &before, sizeof(before), NULL);
    return (above - below) / (2 * (double)step);
}

// Of every tensor the element with the largest gradient and two others; that one alone with the
// sanitizer, which is slow and changes no number.
#ifdef __SANITIZE_ADDRESS__
enum { SLOPES = 1 };
#else
enum { SLOPES = 3 };
#endif

static void test_gradients_are_slopes(void **state) {
    (void)state;
    if (comm_size(world) > 1) return;  // It would be the same on every rank.
    ModelCase *c = case_room(sizeof(*c));
    case_open(c, alone, (MeshConfig){1, 1}, &config, segments, SEGMENTS, RECOMPUTE_NONE);
    Result r = run(c);
    const ParamTable *table = &c->model.params;
    const float *unit_gradient = r.gradients;
    for (int unit = 0; unit < table->units && REAL_TYPE == TYPE_F32; unit++) {
        float *master = fsdp_master(c->fsdp, unit);
        for (int i = param_unit_first(table, unit); i < param_unit_first(table, unit + 1); i++) {
            const Param *row = &table->rows[i];
            int64_t at[3] = {0, row->count / 3, row->count - 1};
            float got[3], want[3];
            for (int64_t e = 0; e < row->count; e++) {
                const float *gradient = unit_gradient + row->offset;
                if (fabsf(gradient[e]) > fabsf(gradient[at[0]])) at[0] = e;
            }
            for (int k = 0; k < SLOPES; k++) {
                got[k] = unit_gradient[row->offset + at[k]];
                want[k] = (float)slope(c, master + row->offset + at[k]);
            }
            check_close(row->name, got, want, SLOPES, 5e-3);
        }
        unit_gradient += table->unit_elements[unit];
    }
    result_free(&r);
    case_close(c);
    free(c);
}

// ---- values used several times
// h = modulate(norm(x)) by shift and scale of the same c; out = (x + A h) + swiglu(B h, B' h) + C
// x: x three times, h twice, c three times, x's gradient in part passed through, one that is put
// together from columns.
typedef struct {
    ParamTable params;
    Program p;
    Mesh mesh;
    ProgramRun run;
    PackBind bind;
    Value x, cond, out;
    real *weights, *values[3], *dvalues;
    float *gradient, *dcond;
    char *memory;
    int64_t T, S;
} Shared;

enum { SHARED_WIDTH = 16 };

static void shared_record(Shared *s) {
    Program *p = &s->p;
    const Value act = silu(p, s->cond);
    const Value shift = linear(p, act, "shift", SHARED_WIDTH, BIAS, INIT_XAVIER);
    const Value scale = linear(p, act, "scale", SHARED_WIDTH, BIAS, INIT_XAVIER);
    const Value gate = linear(p, s->cond, "gate", SHARED_WIDTH, BIAS, INIT_XAVIER);
    const Value h = norm_modulate(p, s->x, NORM_LAYER, NULL, 1e-6f, shift, scale);
    const Value a = linear(p, h, "a", SHARED_WIDTH, NO_BIAS, INIT_XAVIER);
    Value b[2];
    linear_n(p, h, 2, (const char *[]){"b", "b2"}, SHARED_WIDTH, INIT_XAVIER, b);
    const Value c = linear(p, s->x, "c", SHARED_WIDTH, NO_BIAS, INIT_XAVIER);
    const Value sum =
        gate_residual(p, gate_residual(p, s->x, a, gate), swiglu(p, b[0], b[1]), NO_VALUE);
    s->out = gate_residual(p, sum, c, gate);
}

static void shared_open(Shared *s, void (*record)(Shared *s), Recompute recompute) {
    memset(s, 0, sizeof(*s));
    mesh_shape(&s->mesh, &(MeshConfig){1, 1}, 0, 1);
    program_begin(&s->p, "shared", &s->params, &s->mesh, "");
    s->x = program_input(&s->p, ROWS_TOKENS, SHARED_WIDTH, true);
    s->cond = program_input(&s->p, ROWS_SEGMENTS, SHARED_WIDTH, true);
    record(s);
    program_output(&s->p, s->out);
    const Segment two[] = {{{4, 1, 6, 4}, 1}, {{4, 1, 4, 2}, 1}};
    const int64_t bound[ROWS_KINDS] = {8, 8, 2, 2};
    program_plan(&s->p, recompute, bound);
    pack_create(&s->bind, 8, 2, 8);
    pack_bind(&s->bind, two, 2, (PatchSize){1, 2, 2}, &(Rope){8, 1e4}, 0, 1);
    s->T = s->bind.T;
    s->S = 2;
    const int64_t elements = s->params.unit_elements[0], n = s->T * SHARED_WIDTH;
    float *start = floats_new(elements);
    param_init(start, &s->params, 0, 0, elements, CASE_SEED);
    s->weights = reals_of(start, elements);
    device_free(start);
    s->values[0] = reals_random(n, 11, 0, 1);
    s->values[1] = reals_random(s->S * SHARED_WIDTH, 12, 0, 1);
    s->values[2] = reals_new(n);
    s->dvalues = reals_new(n);
    s->dcond = floats_new(s->S * SHARED_WIDTH);
    s->gradient = floats_new(elements);
    s->memory = device_allocate("memory", s->p.plan.kept_bytes + s->p.plan.work_bytes);
    s->run = (ProgramRun){.bind = &s->bind,
                          .weights = s->weights,
                          .gradient = added(s->gradient),
                          .kept = s->memory,
                          .work = s->memory + s->p.plan.kept_bytes};
    s->run.external[s->x] = s->values[0];
    s->run.external[s->cond] = s->values[1];
    s->run.external[s->out] = s->values[2];
    s->run.external_gradient[s->x] = s->run.external_gradient[s->out] = s->dvalues;
    s->run.external_gradient[s->cond] = s->dcond;
}

static void shared_close(Shared *s) {
    param_free(&s->params);
    pack_free(&s->bind);
    free_all(s->values[0], s->values[1], s->values[2], s->weights, s->dvalues, s->dcond);
    free_all(s->gradient, s->memory);
}

// A forward and a backward whose loss weighs the output by `weight`.
static void shared_run(Shared *s, const real *weight) {
    case_spoil(s->memory, s->p.plan.kept_bytes + s->p.plan.work_bytes);
    program_forward(&s->p, &s->run, NULL);
    case_spoil(s->run.work, s->p.plan.work_bytes);
    device_copy(s->dvalues, weight, s->T * SHARED_WIDTH * (int64_t)sizeof(real), NULL);
    program_backward(&s->p, &s->run, NULL);
    stream_wait(NULL);
}

static double shared_loss(void *context) {
    Shared *s = context;
    real *weight = reals_random(s->T * SHARED_WIDTH, 13, 0, 1);
    program_forward(&s->p, &s->run, NULL);
    stream_wait(NULL);
    const double sum = weighted_sum(s->values[2], weight, s->T * SHARED_WIDTH);
    device_free(weight);
    return sum;
}

// The same bits for every policy, and slopes.
static void check_policies(void (*record)(Shared *s)) {
    Shared first;
    for (int policy = 0; policy < 4; policy++) {
        Shared s;
        shared_open(&s, record, (Recompute)policy);
        const int64_t n = s.T * SHARED_WIDTH;
        real *weight = reals_random(n, 13, 0, 1);
        shared_run(&s, weight);
        const int64_t weights = s.params.unit_elements[0];
        if (policy > 0) {
            check_that(memcmp(s.dvalues, first.dvalues, (size_t)n * sizeof(real)) == 0, "dx");
            check_equal("dcond", s.dcond, first.dcond, s.S * SHARED_WIDTH);
            check_equal("dweights", s.gradient, first.gradient, weights);
            shared_close(&s);
        } else if (REAL_TYPE == TYPE_F32) {
            float *dx = floats_of(s.dvalues, n);
            check_slopes("dx", s.values[0], dx, n, shared_loss, &s);
            check_slopes("dcond", s.values[1], s.dcond, s.S * SHARED_WIDTH, shared_loss, &s);
            check_slopes("dweights", s.weights, s.gradient, weights, shared_loss, &s);
            device_free(dx);
        } else {
            check_that(isfinite(weighted_sum(s.dvalues, weight, n)), "dx");
        }
        if (policy == 0) first = s;
        device_free(weight);
    }
    shared_close(&first);
}

static void test_values_used_several_times(void **state) {
    (void)state;
    if (comm_size(world) == 1) check_policies(shared_record);
}

// ---- a linear whose backward goes through the GELU before it
static void mlp_record(Shared *s) {
    Program *p = &s->p;
    const Value x = norm_modulate(p, s->x, NORM_RMS, "norm", 1e-6f, NO_VALUE, NO_VALUE);
    const Value z = linear(p, x, "fc1", 4 * SHARED_WIDTH, BIAS, INIT_XAVIER);
    const Value h = linear(p, gelu_tanh(p, z), "fc2", SHARED_WIDTH, BIAS, INIT_XAVIER);
    s->out = gate_residual(p, s->x, h, s->cond);
}

// As if the plan had the backward of fc2 end in front of the GELU: a gradient lies between the two.
static void take_apart(Shared *s, int fc2) {
    ProgramPlan *plan = &s->p.plan;
    plan->gelu_backward[fc2] = false;
    plan->gradient_offset[s->p.call[fc2].in[0]] = plan->work_bytes;
    plan->work_bytes += s->T * 4 * SHARED_WIDTH * (int64_t)sizeof(real);
    device_free(s->memory);
    s->memory = device_allocate("memory", plan->kept_bytes + plan->work_bytes);
    s->run.kept = s->memory;
    s->run.work = s->memory + plan->kept_bytes;
}

static void test_backward_through_gelu(void **state) {
    (void)state;
    if (comm_size(world) > 1) return;
    enum { FC2 = 3 };
    check_policies(mlp_record);
    Shared s[2];
    for (int i = 0; i < 2; i++) {
        shared_open(&s[i], mlp_record, RECOMPUTE_NONE);
        check_that(
            s[i].p.plan.gelu_backward[FC2] == linear_gelu_fused(SHARED_WIDTH, 4 * SHARED_WIDTH),
            "planned: %d", s[i].p.plan.gelu_backward[FC2]);
        if (i == 1) take_apart(&s[i], FC2);
        real *weight = reals_random(s[i].T * SHARED_WIDTH, 13, 0, 1);
        shared_run(&s[i], weight);
        device_free(weight);
    }
    float *dx = floats_of(s[1].dvalues, s[1].T * SHARED_WIDTH);
    check_close_real("dx", s[0].dvalues, dx, s[0].T * SHARED_WIDTH, 0x1p-7);
    check_close("dcond", s[0].dcond, s[1].dcond, s[0].S * SHARED_WIDTH, 0x1p-7);
    check_close("dweights", s[0].gradient, s[1].gradient, s[0].params.unit_elements[0], 0x1p-7);
    device_free(dx);
    for (int i = 0; i < 2; i++) shared_close(&s[i]);
}

// ---- traffic
static int64_t sent(const Mesh *mesh) {
    int64_t bytes = comm_bytes(mesh->shard) + comm_bytes(mesh->exchange) +
                    comm_bytes(mesh->replica) + comm_bytes(mesh->sequence);
    comm_all_reduce_sum(world, &bytes, 1);
    return bytes;
}

// Bytes of a step of `packs` equal packs against what was sent.
static void check_traffic(MeshConfig layout, int packs, Recompute recompute) {
    ModelCase *c = case_room(sizeof(*c));
    case_open(c, world, layout, &config, segments, SEGMENTS, recompute);
    case_fill(c);
    const int64_t before = sent(&c->mesh);
    fsdp_begin_step(c->fsdp, packs);
    for (int round = 0; round < mesh_rounds(&c->mesh, packs); round++) {
        const PackBind *bind = mesh_pack(&c->mesh, packs, round) < 0 ? NULL : &c->bind;
        model_forward(&c->model, c->fsdp, bind, NULL);
        model_backward(&c->model, c->fsdp, bind, round, NULL);
    }
    fsdp_end_step(c->fsdp);
    const double got = (double)(sent(&c->mesh) - before);
    const FsdpConfig sharding = {TYPE_F32, .reshard_after_forward = true, .packs_max = 4};
    const Traffic t = traffic_of_step(&c->model, &sharding, packs, (double)(c->bind.P * packs));
    const double want = t.gathers + t.leaves + t.replicas + t.attention;
    // Heads, tokens and slices that do not divide are not spread evenly.
    check_that(fabs(got - want) <= 0.01 * want,
               "shard %d, sequence %d, %d packs: sent %.0f, said %.0f", layout.shard,
               layout.sequence, packs, got, want);
    case_close(c);
    free(c);
}

static void test_traffic_is_as_said(void **state) {
    (void)state;
    const int n = comm_size(world);
    check_traffic((MeshConfig){1, n}, 4, RECOMPUTE_NONE);
    check_traffic((MeshConfig){n, n}, 3, RECOMPUTE_CHEAP);
    check_traffic((MeshConfig){n, n}, 1, RECOMPUTE_LINEAR);
    check_traffic((MeshConfig){n, n}, 2, RECOMPUTE_BLOCK);
    if (n == 2) check_traffic((MeshConfig){1, 1}, 4, RECOMPUTE_NONE);
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    alone = comm_split(world, comm_rank(world), 0, "alone");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recomputation_changes_no_bit),
        cmocka_unit_test(test_times_ops),
        cmocka_unit_test(test_offloading_changes_no_bit),
        cmocka_unit_test(test_memory_is_as_planned),
        cmocka_unit_test(test_split_pack_agrees),
        cmocka_unit_test(test_gradients_are_slopes),
        cmocka_unit_test(test_values_used_several_times),
        cmocka_unit_test(test_backward_through_gelu),
        cmocka_unit_test(test_traffic_is_as_said),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_free(alone);
    comm_stop(world);
    return failed;
}
