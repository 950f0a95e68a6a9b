// Runs a planned program: finds every pointer of a call and hands it to the op.
#include <stddef.h>

#include "base/die.h"
#include "model/ops/table.h"
#include "model/program.h"

typedef enum { FORWARD, AGAIN, BACKWARD } Phase;

static char *value_pointer(const Program *p, const ProgramRun *run, Value v, Phase phase) {
    if (v == NO_VALUE) return NULL;
    const ValueInfo *info = &p->value[v];
    const Value root = info->root;
    const ProgramPlan *plan = &p->plan;
    char *base;
    if (p->value[root].boundary) {
        base = run->external[root];
    } else if (plan->kept[root]) {
        base = run->kept + plan->kept_offset[root];
    } else {
        base = run->work +
               (phase == FORWARD ? plan->forward_offset[root] : plan->backward_offset[root]);
    }
    return base + info->column * type_size(info->type);
}

static char *gradient_pointer(const Program *p, const ProgramRun *run, Value v) {
    if (v == NO_VALUE || !p->value[v].gradient) return NULL;
    const ValueInfo *info = &p->value[v];
    const Value root = p->plan.gradient_root[v];
    char *base = p->value[root].boundary ? run->external_gradient[root]
                                         : run->work + p->plan.gradient_offset[root];
    CHECK(base != NULL, "%s: no memory for the gradient of value %d", p->name, v);
    return base + info->column * (info->rows == ROWS_SEGMENTS ? 4 : type_size(REAL_TYPE));
}

// Runs one half of an op, and measures it where that is wanted.
static void run_op(void (*half)(const OpRun *), const OpRun *r, OpTimes *times) {
    if (times != NULL) op_times_begin(times, r->call->op, r->stream);
    half(r);
    if (times != NULL) op_times_end(times, r->stream);
}

// Fills what forward and backward share.
static void bind_values(OpRun *r, const Program *p, const ProgramRun *run, int c, Phase phase) {
    const Call *call = &p->call[c];
    r->program = p;
    r->call = call;
    r->bind = run->bind;
    r->rows = rows_of(run->bind, p->value[call->out[0]].rows);
    for (int i = 0; i < call->inputs; i++) {
        if (call->in[i] == NO_VALUE) continue;
        const ValueInfo *info = &p->value[call->in[i]];
        r->in[i] = value_pointer(p, run, call->in[i], phase);
        r->in_ld[i] = p->value[info->root].cols;
        r->in_cols[i] = info->cols;
    }
    for (int i = 0; i < call->outputs; i++) {
        r->out[i] = value_pointer(p, run, call->out[i], phase);
        r->out_ld[i] = r->out_cols[i] = p->value[call->out[i]].cols;
    }
    for (int i = 0; i < OP_PARAMS_MAX; i++) {
        if (call->param[i] < 0) continue;
        r->param[i] = run->weights + call->param[i];
        r->dparam[i] = gradient_from(run->gradient, call->param[i]);
    }
}

static void run_forward(const Program *p, const ProgramRun *run, int c, Phase phase,
                        Stream stream) {
    OpRun r = {.stream = stream};
    bind_values(&r, p, run, c, phase);
    r.scratch =
        run->work + (phase == FORWARD ? p->plan.forward_scratch[c] : p->plan.recompute_scratch[c]);
    run_op(op_table[p->call[c].op].forward, &r, run->op_times);
}

void program_forward(const Program *p, const ProgramRun *run, Stream stream) {
    for (int c = 0; c < p->calls; c++) run_forward(p, run, c, FORWARD, stream);
}

// A gradient of segment rows that starts here: all of its root's columns.
static void zero_gradient(const Program *p, const ProgramRun *run, Value v, Stream stream) {
    const Value root = p->plan.gradient_root[v];
    const int64_t rows = rows_of(run->bind, p->value[root].rows);
    device_zero(gradient_pointer(p, run, root), rows * p->value[root].cols * 4, stream);
}

static void run_backward(const Program *p, const ProgramRun *run, int c, Stream stream) {
    const Call *call = &p->call[c];
    OpRun r = {.stream = stream, .scratch = run->work + p->plan.backward_scratch[c]};
    bind_values(&r, p, run, c, BACKWARD);
    for (int i = 0; i < call->inputs; i++) {
        if (p->plan.zero[c][i]) zero_gradient(p, run, call->in[i], stream);
        r.din[i] = gradient_pointer(p, run, call->in[i]);
        r.add[i] = p->plan.add[c][i];
    }
    for (int i = 0; i < call->outputs; i++) r.dout[i] = gradient_pointer(p, run, call->out[i]);
    if (p->plan.gelu_backward[c]) {
        const Value z = p->call[c - 1].in[0];
        r.gelu_in = value_pointer(p, run, z, BACKWARD);
        r.din[0] = gradient_pointer(p, run, z);
    }
    run_op(op_table[call->op].backward, &r, run->op_times);
}

void program_backward(const Program *p, const ProgramRun *run, Stream stream) {
    for (int c = 0; c < p->calls; c++) {
        if (p->plan.recompute[c]) run_forward(p, run, c, AGAIN, stream);
    }
    for (int c = p->calls - 1; c >= 0; c--) {
        if (!p->value[p->call[c].out[0]].gradient) continue;
        if (c + 1 < p->calls && p->plan.gelu_backward[c + 1]) continue;
        run_backward(p, run, c, stream);
    }
}
