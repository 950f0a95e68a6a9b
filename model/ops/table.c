#include "model/ops/table.h"

#include <math.h>
#include <stddef.h>

#include "base/die.h"
#include "model/ops/attention.h"
#include "model/ops/norm.h"
#include "model/ops/pointwise.h"
#include "model/ops/product.h"
#include "parallel/ulysses.h"

int64_t rows_of(const PackBind *bind, Rows rows) {
    switch (rows) {
        case ROWS_TOKENS:
            return bind->T;
        case ROWS_PACK:
            return bind->P;
        case ROWS_TEXT:
            return bind->X;
        case ROWS_SEGMENTS:
            return bind->S;
        case ROWS_KINDS:
            break;
    }
    DIE("unknown kind of rows %d", (int)rows);
}

static Rows input_rows(const Program *p, const Call *call) {
    return p->value[call->in[0]].rows;
}

// FLOPs per row go to the counter of the row's kind.
static void cost_rows(Cost *cost, Rows rows, int64_t flops) {
    switch (rows) {
        case ROWS_TOKENS:
        case ROWS_PACK:
            cost->token += flops;
            break;
        case ROWS_TEXT:
            cost->text += flops;
            break;
        default:
            cost->segment += flops;
    }
}

// ---- linear
static void linear_run(const OpRun *r) {
    linear_forward(r->out[0], r->out_ld[0], r->in[0], r->in_ld[0], r->param[0], r->param[1],
                   r->rows, r->out_cols[0], r->in_cols[0], r->stream);
}

static void linear_back(const OpRun *r) {
    const int64_t N = r->out_cols[0], K = r->in_cols[0];
    if (input_rows(r->program, r->call) == ROWS_SEGMENTS) {
        linear_rows_backward(r->din[0], r->dparam[0], r->dparam[1], r->dout[0], r->in[0],
                             r->param[0], r->rows, N, K, r->stream);
        return;
    }
    linear_backward_weight(r->dparam[0], r->dparam[1], r->dout[0], r->out_ld[0], r->in[0],
                           r->in_ld[0], r->rows, N, K, r->stream);
    if (r->din[0] == NULL) return;
    if (r->gelu_in != NULL &&
        linear_gelu_backward_input(r->din[0], r->gelu_in, r->dout[0], r->out_ld[0], r->param[0],
                                   r->rows, N, K, r->stream)) {
        return;
    }
    linear_backward_input(r->din[0], r->in_ld[0], r->add[0], r->dout[0], r->out_ld[0], r->param[0],
                          r->rows, N, K, r->stream);
    if (r->gelu_in == NULL) return;
    gelu_backward(r->din[0], r->din[0], r->gelu_in, r->rows * K, r->stream);
}

static void linear_cost(const Program *p, const Call *call, Cost *cost) {
    const int64_t K = p->value[call->in[0]].cols, N = p->value[call->out[0]].cols;
    cost_rows(cost, input_rows(p, call), 2 * N * K);
}

static void linear_ready(const Program *p, const Call *call, const int64_t *bound) {
    const Rows rows = input_rows(p, call);
    const int64_t N = p->value[call->out[0]].cols, K = p->value[call->in[0]].cols;
    linear_prepare(bound[rows], N, K, rows == ROWS_SEGMENTS);
    if (p->plan.gelu_backward[call - p->call]) linear_gelu_prepare(bound[rows], N, K);
}

static int64_t linear_shared(const Program *p, const Call *call, const int64_t *bound) {
    const Rows rows = input_rows(p, call);
    return linear_shared_bytes(bound[rows], p->value[call->out[0]].cols, p->value[call->in[0]].cols,
                               rows == ROWS_SEGMENTS);
}

// ---- activations
static void gelu_run(const OpRun *r) {
    gelu_forward(r->out[0], r->in[0], r->rows * r->out_cols[0], r->stream);
}

static void gelu_back(const OpRun *r) {
    gelu_backward(r->din[0], r->dout[0], r->in[0], r->rows * r->out_cols[0], r->stream);
}

static void silu_run(const OpRun *r) {
    silu_forward(r->out[0], r->in[0], r->rows * r->out_cols[0], r->stream);
}

static void silu_back(const OpRun *r) {
    if (r->din[0] == NULL) return;
    silu_rows_backward(r->din[0], r->dout[0], r->in[0], r->rows * r->out_cols[0], r->stream);
}

static void swiglu_run(const OpRun *r) {
    swiglu_forward(r->out[0], r->in[0], r->in[1], r->in_ld[0], r->rows, r->out_cols[0], r->stream);
}

static void swiglu_back(const OpRun *r) {
    swiglu_backward(r->din[0], r->din[1], r->dout[0], r->in[0], r->in[1], r->in_ld[0], r->rows,
                    r->out_cols[0], r->stream);
}

// ---- norms
static void norm_run(const OpRun *r) {
    norm_modulate_forward(r->out[0], r->out[1], r->in[0], r->param[0], r->in[1], r->in[2],
                          r->in_ld[1], r->bind->segment, (NormKind)r->call->choice, r->call->number,
                          r->rows, r->out_cols[0], r->stream);
}

static void norm_back(const OpRun *r) {
    const NormBackward arguments = {.dx = r->din[0],
                                    .add_dx = r->add[0],
                                    .dweight = r->dparam[0],
                                    .dshift = r->din[1],
                                    .dscale = r->din[2],
                                    .dout = r->dout[0],
                                    .x = r->in[0],
                                    .weight = r->param[0],
                                    .scale = r->in[2],
                                    .stats = r->out[1],
                                    .ldm = r->in_ld[1],
                                    .segment = r->bind->segment,
                                    .S = r->in[2] != NULL ? r->bind->S : 0,
                                    .scratch = r->scratch};
    norm_modulate_backward(&arguments, (NormKind)r->call->choice, r->rows, r->out_cols[0],
                           r->stream);
}

static int64_t norm_room(const Program *p, const Call *call, const int64_t *bound, bool backward) {
    if (!backward) return 0;
    const ValueInfo *out = &p->value[call->out[0]];
    const bool modulated = call->in[2] != NO_VALUE;
    return norm_modulate_scratch(bound[out->rows], out->cols, modulated ? bound[ROWS_SEGMENTS] : 0);
}

static const PeerOrder TOKEN_ORDER = {.ranks = 1, .tensors = 1, .tensor = 0};

static void qk_norm_run(const OpRun *r) {
    const int64_t heads = r->call->heads;
    qk_norm_rope_forward(r->out[0], TOKEN_ORDER, r->out[1], r->in[0], r->in_ld[0], r->param[0],
                         r->call->choice ? r->bind->rope : NULL, r->call->number, r->rows, heads,
                         r->out_cols[0] / heads, r->stream);
}

static void qk_norm_back(const OpRun *r) {
    const int64_t heads = r->call->heads;
    qk_norm_rope_backward(r->din[0], r->in_ld[0], r->dparam[0], r->dout[0], TOKEN_ORDER, r->in[0],
                          r->in_ld[0], r->param[0], r->call->choice ? r->bind->rope : NULL,
                          r->out[1], r->rows, heads, r->out_cols[0] / heads, r->scratch, r->stream);
}

static int64_t qk_norm_room(const Program *p, const Call *call, const int64_t *bound,
                            bool backward) {
    if (!backward) return 0;
    const ValueInfo *in = &p->value[call->in[0]];
    return qk_norm_rope_scratch(bound[in->rows], call->heads, in->cols / call->heads);
}

// ---- attention
static AttentionShape attention_shape(const OpRun *r) {
    const int64_t heads = r->call->heads, D = heads > 0 ? r->out_cols[0] / heads : 1;
    const PackBind *b = r->bind;
    AttentionShape shape = {.heads = heads,
                            .D = D,
                            .scale = 1.0f / sqrtf((float)D),
                            .deterministic = r->program->deterministic};
    // Self-attention sees the whole pack, cross-attention the segments that this rank touches.
    if (r->call->choice != 0) {
        shape.S = b->S;
        shape.q_start = b->token_start;
        shape.k_start = b->text_start;
        shape.q_start_device = b->token_start_device;
        shape.k_start_device = b->text_start_device;
    } else {
        shape.S = b->segments;
        shape.q_start = shape.k_start = b->pack_start;
        shape.q_start_device = shape.k_start_device = b->pack_start_device;
    }
    return shape;
}

static void attention_run(const OpRun *r) {
    const AttentionShape shape = attention_shape(r);
    attention_forward(r->out[0], r->out_ld[0], r->out[1], r->in[0], r->in_ld[0], r->in[1],
                      r->in_ld[1], r->in[2], r->in_ld[2], &shape, r->scratch, r->stream);
}

static void attention_back(const OpRun *r) {
    const AttentionShape shape = attention_shape(r);
    const AttentionBackward arguments = {.dq = r->din[0],
                                         .dk = r->din[1],
                                         .dv = r->din[2],
                                         .lddq = r->in_ld[0],
                                         .lddk = r->in_ld[1],
                                         .lddv = r->in_ld[2],
                                         .dout = r->dout[0],
                                         .out = r->out[0],
                                         .q = r->in[0],
                                         .k = r->in[1],
                                         .v = r->in[2],
                                         .lddo = r->out_ld[0],
                                         .ldo = r->out_ld[0],
                                         .ldq = r->in_ld[0],
                                         .ldk = r->in_ld[1],
                                         .ldv = r->in_ld[2],
                                         .lse = r->out[1]};
    attention_backward(&arguments, &shape, r->scratch, r->stream);
}

static void attention_cost(const Program *p, const Call *call, Cost *cost) {
    (void)p;
    const bool cross = call->choice != 0;
    const int64_t flops = 4 * call->width;
    *(cross ? &cost->token_text : &cost->token_token) += flops;
}

static AttentionBounds attention_bounds(const Program *p, const Call *call, const int64_t *bound) {
    return (AttentionBounds){.T = bound[p->value[call->in[0]].rows],
                             .X = bound[p->value[call->in[1]].rows],
                             .S = bound[ROWS_SEGMENTS],
                             .heads = call->heads,
                             .D = p->value[call->out[0]].cols / call->heads,
                             .cross = call->choice != 0,
                             .deterministic = p->deterministic,
                             .lengths = p->lengths};
}

static int64_t attention_room(const Program *p, const Call *call, const int64_t *bound,
                              bool backward) {
    if (call->heads == 0) return 0;
    const AttentionBounds bounds = attention_bounds(p, call, bound);
    return attention_scratch(&bounds, backward);
}

static int64_t value_ld(const Program *p, Value v) {
    return p->value[p->value[v].root].cols;
}

static void attention_ready(const Program *p, const Call *call, const int64_t *bound) {
    if (call->heads == 0) return;
    const AttentionBounds bounds = attention_bounds(p, call, bound);
    attention_prepare(&bounds, value_ld(p, call->in[0]), value_ld(p, call->in[1]),
                      value_ld(p, call->in[2]), value_ld(p, call->out[0]));
}

// ---- residual, time
static void gate_run(const OpRun *r) {
    gate_residual_forward(r->out[0], r->in[0], r->in[1], r->in[2], r->in_ld[2], r->bind->segment,
                          r->rows, r->out_cols[0], r->stream);
}

static void gate_back(const OpRun *r) {
    gate_residual_backward(r->din[1], r->din[2], r->dout[0], r->in[1], r->in[2], r->in_ld[2],
                           r->bind->segment, r->rows, r->bind->S, r->out_cols[0], r->scratch,
                           r->stream);
}

static int64_t gate_room(const Program *p, const Call *call, const int64_t *bound, bool backward) {
    if (!backward || call->in[2] == NO_VALUE) return 0;
    const ValueInfo *out = &p->value[call->out[0]];
    return gate_residual_scratch(bound[out->rows], bound[ROWS_SEGMENTS], out->cols);
}

static void time_run(const OpRun *r) {
    timestep_embedding(r->out[0], r->in[0], r->call->number, r->rows, r->out_cols[0], r->stream);
}

static void time_back(const OpRun *r) {
    (void)r;  // Time is given: nothing flows back, and the planner never calls this.
}

// ---- sequence parallelism
// q, k and v travel together.
static PeerOrder send_order(const OpRun *r, int tensor) {
    return (PeerOrder){r->program->mesh->sequences, 3, tensor};
}

static void send_run(const OpRun *r) {
    const int64_t heads = r->call->heads, D = r->in_cols[0] / heads;
    for (int i = 0; i < 2; i++) {
        qk_norm_rope_forward(r->out[0], send_order(r, i), r->out[1 + i], r->in[i], r->in_ld[i],
                             r->param[i], r->bind->rope, r->call->number, r->rows, heads, D,
                             r->stream);
    }
    ulysses_pack(r->out[0], r->in[2], r->in_ld[2], send_order(r, 2), r->rows, heads, D, r->stream);
}

static void send_back(const OpRun *r) {
    const int64_t heads = r->call->heads, D = r->in_cols[0] / heads;
    for (int i = 0; i < 2; i++) {
        qk_norm_rope_backward(r->din[i], r->in_ld[i], r->dparam[i], r->dout[0], send_order(r, i),
                              r->in[i], r->in_ld[i], r->param[i], r->bind->rope, r->out[1 + i],
                              r->rows, heads, D, r->scratch, r->stream);
    }
    ulysses_unpack(r->din[2], r->in_ld[2], r->dout[0], send_order(r, 2), r->rows, heads, D,
                   r->stream);
}

static void to_heads_run(const OpRun *r) {
    const int64_t heads = r->call->heads;
    ulysses_tokens_to_heads(r->program->mesh->sequence, r->out[0], r->in[0], r->bind->P, heads,
                            r->in_cols[0] / heads, r->stream);
}

static void to_heads_back(const OpRun *r) {
    const int64_t heads = r->call->heads;
    ulysses_heads_to_tokens(r->program->mesh->sequence, r->din[0], r->dout[0], r->bind->P, heads,
                            r->in_cols[0] / heads, r->stream);
}

static void to_tokens_run(const OpRun *r) {
    const int64_t heads = r->call->heads, D = r->out_cols[0] / heads;
    const Mesh *mesh = r->program->mesh;
    ulysses_heads_to_tokens(mesh->sequence, r->scratch, r->in[0], r->bind->P, heads, D, r->stream);
    ulysses_unpack(r->out[0], r->out_ld[0], r->scratch, (PeerOrder){mesh->sequences, 1, 0}, r->rows,
                   heads, D, r->stream);
}

static void to_tokens_back(const OpRun *r) {
    const int64_t heads = r->call->heads, D = r->out_cols[0] / heads;
    const Mesh *mesh = r->program->mesh;
    ulysses_pack(r->scratch, r->dout[0], r->out_ld[0], (PeerOrder){mesh->sequences, 1, 0}, r->rows,
                 heads, D, r->stream);
    ulysses_tokens_to_heads(mesh->sequence, r->din[0], r->scratch, r->bind->P, heads, D, r->stream);
}

static int64_t to_tokens_room(const Program *p, const Call *call, const int64_t *bound,
                              bool backward) {
    (void)backward;
    return type_size(REAL_TYPE) * bound[ROWS_TOKENS] * p->value[call->out[0]].cols;
}

enum { IN_0 = 1, IN_1 = 2, IN_2 = 4, OUT_0 = 1, OUT_1 = 2, OUT_2 = 4 };

// clang-format off
const OpInfo op_table[OP_KINDS] = {
    [OP_LINEAR] = {"linear", linear_run, linear_back, .cost = linear_cost, .prepare = linear_ready,
                   .shared = linear_shared, .keep = KEEP_PRODUCT, .needs_in = IN_0, .adds = IN_0},
    [OP_GELU] = {"gelu", gelu_run, gelu_back, .keep = KEEP_CHEAP, .needs_in = IN_0},
    [OP_SILU] = {"silu", silu_run, silu_back, .keep = KEEP_CHEAP, .needs_in = IN_0},
    [OP_SWIGLU] = {"swiglu", swiglu_run, swiglu_back, .keep = KEEP_CHEAP, .needs_in = IN_0 | IN_1},
    [OP_NORM_MODULATE] = {"norm_modulate", norm_run, norm_back, .scratch = norm_room,
                          .keep = KEEP_CHEAP, .needs_in = IN_0 | IN_2, .needs_out = OUT_1,
                          .adds = IN_0},
    [OP_QK_NORM_ROPE] = {"qk_norm_rope", qk_norm_run, qk_norm_back, .scratch = qk_norm_room,
                         .keep = KEEP_CHEAP, .needs_in = IN_0, .needs_out = OUT_1},
    [OP_ATTENTION] = {"attention", attention_run, attention_back, .cost = attention_cost,
                      .scratch = attention_room, .prepare = attention_ready, .keep = KEEP_DEAR,
                      .needs_in = IN_0 | IN_1 | IN_2, .needs_out = OUT_0 | OUT_1},
    [OP_GATE_RESIDUAL] = {"gate_residual", gate_run, gate_back, .scratch = gate_room,
                          .keep = KEEP_CHEAP, .needs_in = IN_1 | IN_2, .passes = true},
    [OP_TIME_EMBEDDING] = {"time_embedding", time_run, time_back, .keep = KEEP_CHEAP},
    [OP_QKV_SEND] = {"qkv_send", send_run, send_back, .scratch = qk_norm_room, .keep = KEEP_CHEAP,
                     .needs_in = IN_0 | IN_1, .needs_out = OUT_1 | OUT_2},
    [OP_TOKENS_TO_HEADS] = {"tokens_to_heads", to_heads_run, to_heads_back, .keep = KEEP_PRODUCT},
    [OP_HEADS_TO_TOKENS] = {"heads_to_tokens", to_tokens_run, to_tokens_back,
                            .scratch = to_tokens_room, .keep = KEEP_DEAR},
};
// clang-format on
