// What a step has to do at least, by kind of op, from the recorded programs. Bytes count every
// operand once: read what the op needs, write what it makes. Each call takes as long as its FLOPs
// or its bytes, whichever is longer: a product of a few rows of modulation is bound by its weights.
#ifndef BENCH_ROOFLINE_H
#define BENCH_ROOFLINE_H

#include <math.h>
#include <string.h>

#include "model/model.h"
#include "model/ops/table.h"

typedef struct {
    double flops, bytes, seconds;
} Work;

// Per second: of a plain product, of a plain copy.
typedef struct {
    double flops, bytes;
} Rates;

static inline void add_call(Work *work, double flops, double bytes, const Rates *rates) {
    work->flops += flops;
    work->bytes += bytes;
    work->seconds += fmax(flops / rates->flops, bytes / rates->bytes);
}

static inline double value_bytes(const Program *p, const PackBind *bind, Value v) {
    if (v == NO_VALUE) return 0;
    const ValueInfo *info = &p->value[v];
    return (double)(rows_of(bind, info->rows) * info->cols * type_size(info->type));
}

static inline double gradient_bytes(const Program *p, const PackBind *bind, Value v) {
    if (v == NO_VALUE || !p->value[v].gradient) return 0;
    const ValueInfo *info = &p->value[v];
    const int64_t size = info->rows == ROWS_SEGMENTS ? 4 : type_size(REAL_TYPE);
    return (double)(rows_of(bind, info->rows) * info->cols * size);
}

// Elements of a call's parameters.
static inline double call_parameters(const Program *p, const Call *call) {
    const double in = (double)p->value[call->in[0]].cols, out = (double)p->value[call->out[0]].cols;
    double count = 0;
    for (int i = 0; i < OP_PARAMS_MAX; i++) {
        if (call->param[i] < 0) continue;
        count += call->op != OP_LINEAR ? in : i == 0 ? in * out : out;
    }
    return count;
}

static inline double call_flops(const Program *p, const Call *call, const PackBind *bind) {
    Cost cost = {0};
    if (op_table[call->op].cost == NULL) return 0;
    op_table[call->op].cost(p, call, &cost);
    double flops = (double)cost.token * (double)bind->T + (double)cost.text * (double)bind->X +
                   (double)cost.segment * (double)bind->S;
    for (int64_t s = 0; s < bind->S; s++) {
        const double N = bind->token_start[s + 1] - bind->token_start[s];
        const double L = bind->text_start[s + 1] - bind->text_start[s];
        flops += N * N * (double)cost.token_token + N * L * (double)cost.token_text;
    }
    return flops;
}

static inline void add_backward(Work *work, const Program *p, const Call *call,
                                const PackBind *bind, const Rates *rates) {
    const OpInfo *info = &op_table[call->op];
    if (!p->value[call->out[0]].gradient) return;
    const int c = (int)(call - p->call);
    if (c + 1 < p->calls && p->plan.gelu_backward[c + 1]) return;  // The linear's that follows.
    double bytes = p->plan.gelu_backward[c] ? value_bytes(p, bind, p->call[c - 1].in[0]) : 0;
    for (int i = 0; i < call->inputs; i++) {
        if (info->needs_in >> i & 1) bytes += value_bytes(p, bind, call->in[i]);
        if (!(info->passes && i == 0)) bytes += gradient_bytes(p, bind, call->in[i]);
    }
    for (int i = 0; i < call->outputs; i++) {
        if (info->needs_out >> i & 1) bytes += value_bytes(p, bind, call->out[i]);
        bytes += gradient_bytes(p, bind, call->out[i]);
    }
    // A parameter is read, its gradient written.
    bytes += call_parameters(p, call) * 2 * (double)type_size(REAL_TYPE);
    const bool input = call->in[0] != NO_VALUE && p->value[call->in[0]].gradient;
    add_call(work, (input ? 2 : 1) * call_flops(p, call, bind), bytes, rates);
}

// Adds one forward and one backward of the program, without recomputation, to work [OP_KINDS].
static inline void add_work(Work *work, const Program *p, const PackBind *bind,
                            const Rates *rates) {
    for (int c = 0; c < p->calls; c++) {
        const Call *call = &p->call[c];
        double bytes = call_parameters(p, call) * (double)type_size(REAL_TYPE);
        for (int i = 0; i < call->inputs; i++) bytes += value_bytes(p, bind, call->in[i]);
        for (int i = 0; i < call->outputs; i++) bytes += value_bytes(p, bind, call->out[i]);
        add_call(&work[call->op], call_flops(p, call, bind), bytes, rates);
        add_backward(&work[call->op], p, call, bind, rates);
    }
}

// Of a whole model.
static inline void model_work(Work work[OP_KINDS], const Model *model, const PackBind *bind,
                              const Rates *rates) {
    memset(work, 0, OP_KINDS * sizeof(*work));
    add_work(work, &model->stem, bind, rates);
    for (int64_t b = 0; b < model->config.layers; b++) add_work(work, &model->block, bind, rates);
    add_work(work, &model->head, bind, rates);
}

#endif
