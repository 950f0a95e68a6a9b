#include "model/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/die.h"
#include "parallel/ulysses.h"

void program_begin(Program *p, const char *name, ParamTable *params, const Mesh *mesh,
                   const char *prefix) {
    memset(p, 0, sizeof(*p));
    p->name = name;
    p->params = params;
    p->mesh = mesh;
    CHECK(strlen(prefix) < sizeof(p->prefix), "%s: prefix too long", prefix);
    snprintf(p->prefix, sizeof(p->prefix), "%s", prefix);
    param_unit_begin(params);
}

static Value value_add(Program *p, Rows rows, int64_t cols, Type type, bool gradient,
                       int producer) {
    CHECK(p->values < VALUES_MAX, "%s: more than %d values", p->name, VALUES_MAX);
    const Value v = p->values++;
    p->value[v] = (ValueInfo){rows, cols, type, v, 0, gradient, false, producer};
    return v;
}

Value program_input(Program *p, Rows rows, int64_t cols, bool gradient) {
    const Value v = value_add(p, rows, cols, REAL_TYPE, gradient, -1);
    p->value[v].boundary = true;
    return v;
}

void program_output(Program *p, Value value) {
    CHECK(p->value[value].root == value, "%s: an output cannot be columns of a wider value",
          p->name);
    p->value[value].boundary = true;
}

// Starts a call whose inputs are given; outputs and parameters are added to it.
static Call *call_add(Program *p, OpKind op, int inputs, const Value *in) {
    CHECK(p->calls < CALLS_MAX, "%s: more than %d calls", p->name, CALLS_MAX);
    Call *call = &p->call[p->calls++];
    *call = (Call){.op = op, .inputs = inputs, .param = {-1, -1}};
    for (int i = 0; i < inputs; i++) call->in[i] = in[i];
    return call;
}

static Value output_add(Program *p, Call *call, Rows rows, int64_t cols, Type type) {
    bool gradient = type == REAL_TYPE && call->param[0] >= 0;
    for (int i = 0; i < call->inputs; i++) {
        if (call->in[i] != NO_VALUE && p->value[call->in[i]].gradient) gradient = true;
    }
    const Value v = value_add(p, rows, cols, type, gradient, p->calls - 1);
    call->out[call->outputs++] = v;
    return v;
}

// Adds PREFIX NAME SUFFIX to the table; gives its offset in the unit.
static int64_t parameter(Program *p, const char *name, const char *suffix, int dims,
                         const int64_t *shape, Init init, bool decay) {
    char full[PARAM_NAME_MAX];
    const int length = snprintf(full, sizeof(full), "%s%s%s", p->prefix, name, suffix);
    CHECK(length < (int)sizeof(full), "%s%s%s: name too long", p->prefix, name, suffix);
    const int row = param_add(p->params, full, dims, shape, init, decay);
    return p->params->rows[row].offset;
}

Value linear(Program *p, Value x, const char *name, int64_t cols, Bias bias, Init init) {
    const int64_t K = p->value[x].cols;
    Call *call = call_add(p, OP_LINEAR, 1, &x);
    call->param[0] = parameter(p, name, ".weight", 2, (int64_t[]){cols, K}, init, true);
    if (bias) call->param[1] = parameter(p, name, ".bias", 1, &cols, INIT_ZERO, false);
    return output_add(p, call, p->value[x].rows, cols, REAL_TYPE);
}

void linear_n(Program *p, Value x, int n, const char *const *names, int64_t cols, Init init,
              Value *out) {
    const int64_t K = p->value[x].cols;
    CHECK(cols * K % PARAM_ALIGNMENT == 0,
          "%s: %" PRId64 " x %" PRId64 " elements leave a gap before the next matrix", names[0],
          cols, K);
    Call *call = call_add(p, OP_LINEAR, 1, &x);
    for (int i = 0; i < n; i++) {
        const int64_t offset =
            parameter(p, names[i], ".weight", 2, (int64_t[]){cols, K}, init, true);
        if (i == 0) call->param[0] = offset;
    }
    chunk(p, output_add(p, call, p->value[x].rows, n * cols, REAL_TYPE), n, out);
}

void chunk(Program *p, Value x, int n, Value *out) {
    const ValueInfo wide = p->value[x];
    CHECK(wide.cols % n == 0, "%s: %" PRId64 " columns in %d chunks", p->name, wide.cols, n);
    const int64_t cols = wide.cols / n;
    for (int i = 0; i < n; i++) {
        out[i] = value_add(p, wide.rows, cols, wide.type, wide.gradient, wide.producer);
        p->value[out[i]].root = wide.root;
        p->value[out[i]].column = wide.column + i * cols;
    }
}

Value gelu_tanh(Program *p, Value x) {
    const ValueInfo *info = &p->value[x];
    CHECK(info->root == x, "%s: gelu needs a whole value, not columns of one", p->name);
    CHECK(info->rows != ROWS_SEGMENTS, "%s: gelu is not for rows of segments", p->name);
    return output_add(p, call_add(p, OP_GELU, 1, &x), info->rows, info->cols, REAL_TYPE);
}

Value silu(Program *p, Value x) {
    CHECK(p->value[x].rows == ROWS_SEGMENTS, "%s: silu is for rows of segments", p->name);
    return output_add(p, call_add(p, OP_SILU, 1, &x), ROWS_SEGMENTS, p->value[x].cols, REAL_TYPE);
}

Value swiglu(Program *p, Value gate, Value up) {
    const ValueInfo *g = &p->value[gate], *u = &p->value[up];
    CHECK(g->root == u->root && g->cols == u->cols && g->column != u->column,
          "%s: swiglu needs two equal chunks of one value", p->name);
    CHECK(g->rows != ROWS_SEGMENTS, "%s: swiglu is not for rows of segments", p->name);
    return output_add(p, call_add(p, OP_SWIGLU, 2, (Value[]){gate, up}), g->rows, g->cols,
                      REAL_TYPE);
}

Value norm_modulate(Program *p, Value x, NormKind kind, const char *name, float epsilon,
                    Value shift, Value scale) {
    const int64_t C = p->value[x].cols;
    CHECK((shift == NO_VALUE) == (scale == NO_VALUE), "%s: shift and scale go together", p->name);
    Call *call = call_add(p, OP_NORM_MODULATE, 3, (Value[]){x, shift, scale});
    if (name != NULL) call->param[0] = parameter(p, name, ".weight", 1, &C, INIT_ONE, false);
    call->number = epsilon;
    call->choice = kind;
    const Value out = output_add(p, call, p->value[x].rows, C, REAL_TYPE);
    output_add(p, call, p->value[x].rows, 2, TYPE_F32);
    p->value[call->out[1]].gradient = false;
    return out;
}

Value qk_norm(Program *p, Value x, const char *name, float epsilon, int64_t heads, bool rope) {
    const int64_t C = p->value[x].cols;
    Call *call = call_add(p, OP_QK_NORM_ROPE, 1, &x);
    call->param[0] = parameter(p, name, ".weight", 1, &C, INIT_ONE, false);
    call->number = epsilon;
    call->choice = rope ? 1 : 0;
    call->heads = heads;
    const Value out = output_add(p, call, p->value[x].rows, C, REAL_TYPE);
    output_add(p, call, p->value[x].rows, 1, TYPE_F32);
    p->value[call->out[1]].gradient = false;
    return out;
}

static Value attention(Program *p, Value q, Value k, Value v, int64_t heads, int64_t width,
                       bool cross) {
    const ValueInfo query = p->value[q];
    Call *call = call_add(p, OP_ATTENTION, 3, (Value[]){q, k, v});
    call->choice = cross;
    call->heads = heads;
    call->width = width;
    const Value out = output_add(p, call, query.rows, query.cols, REAL_TYPE);
    output_add(p, call, query.rows, heads, TYPE_F32);
    p->value[call->out[1]].gradient = false;
    return out;
}

// q, k and v of this rank's heads for all tokens of the pack, from all heads of its tokens.
static void exchange(Program *p, const Value qkv[3], const char *q_norm, const char *k_norm,
                     float epsilon, int64_t heads, int64_t here, Value out[3]) {
    const int64_t C = p->value[qkv[0]].cols;
    Call *call = call_add(p, OP_QKV_SEND, 3, qkv);
    call->param[0] = parameter(p, q_norm, ".weight", 1, &C, INIT_ONE, false);
    call->param[1] = parameter(p, k_norm, ".weight", 1, &C, INIT_ONE, false);
    call->number = epsilon;
    call->heads = heads;
    const Value sent = output_add(p, call, ROWS_TOKENS, 3 * C, REAL_TYPE);
    for (int i = 1; i < 3; i++) {
        output_add(p, call, ROWS_TOKENS, 1, TYPE_F32);
        p->value[call->out[i]].gradient = false;
    }
    call = call_add(p, OP_TOKENS_TO_HEADS, 1, &sent);
    call->heads = heads;
    chunk(p, output_add(p, call, ROWS_PACK, 3 * here * (C / heads), REAL_TYPE), 3, out);
}

Value self_attention(Program *p, const Value qkv[3], const char *q_norm, const char *k_norm,
                     float epsilon, int64_t heads) {
    const Mesh *mesh = p->mesh;
    const int64_t width = p->value[qkv[0]].cols;
    if (mesh->sequences == 1) {
        const Value q = qk_norm(p, qkv[0], q_norm, epsilon, heads, true);
        const Value k = qk_norm(p, qkv[1], k_norm, epsilon, heads, true);
        return attention(p, q, k, qkv[2], heads, width, false);
    }
    const int64_t here = ulysses_head_cut(heads, mesh->sequence_index + 1, mesh->sequences) -
                         ulysses_head_cut(heads, mesh->sequence_index, mesh->sequences);
    Value moved[3];
    exchange(p, qkv, q_norm, k_norm, epsilon, heads, here, moved);
    const Value out = attention(p, moved[0], moved[1], moved[2], here, width, false);
    Call *call = call_add(p, OP_HEADS_TO_TOKENS, 1, &out);
    call->heads = heads;
    return output_add(p, call, ROWS_TOKENS, width, REAL_TYPE);
}

Value cross_attention(Program *p, Value q, Value k, Value v, int64_t heads) {
    return attention(p, q, k, v, heads, p->value[q].cols, true);
}

Value gate_residual(Program *p, Value x, Value h, Value gate) {
    return output_add(p, call_add(p, OP_GATE_RESIDUAL, 3, (Value[]){x, h, gate}), p->value[x].rows,
                      p->value[x].cols, REAL_TYPE);
}

Value time_embedding(Program *p, Value time, float factor, int64_t width) {
    CHECK(p->value[time].cols == 1, "%s: time has one column", p->name);
    p->value[time].type = TYPE_F32;
    Call *call = call_add(p, OP_TIME_EMBEDDING, 1, &time);
    call->number = factor;
    return output_add(p, call, ROWS_SEGMENTS, width, REAL_TYPE);
}
