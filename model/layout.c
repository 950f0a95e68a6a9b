// The planner: from the recorded order of ops follow the first and last use of every value in
// forward, recomputation and backward, and from those one offset each.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "model/ops/product.h"
#include "model/ops/table.h"
#include "model/program.h"

// Something that needs `bytes` from time `first` to time `last`, both inclusive.
typedef struct {
    int64_t bytes;
    int first, last;
    int64_t *offset;
} Interval;

enum { INTERVALS_MAX = 2 * VALUES_MAX + 2 * CALLS_MAX, ALIGNMENT = 256, NEVER = -1 };

typedef struct {
    Interval items[INTERVALS_MAX];
    int count;
} Intervals;

// Larger ones first, ties by time, so that the layout is a function of the recording alone.
static int interval_order(const void *a, const void *b) {
    const Interval *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

// Each at the lowest offset that is free for its whole time. Returns the bytes needed.
static int64_t intervals_place(Intervals *set) {
    qsort(set->items, (size_t)set->count, sizeof(set->items[0]), interval_order);
    int64_t total = 0;
    for (int i = 0; i < set->count; i++) {
        Interval *item = &set->items[i];
        int64_t offset = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (int j = 0; j < i; j++) {
                const Interval *other = &set->items[j];
                const bool apart = other->last < item->first || item->last < other->first ||
                                   *other->offset + other->bytes <= offset ||
                                   offset + item->bytes <= *other->offset;
                if (!apart) {
                    offset = *other->offset + other->bytes;
                    moved = true;
                }
            }
        }
        *item->offset = offset;
        total = max_i64(total, offset + item->bytes);
    }
    return total;
}

static void interval_add(Intervals *set, int64_t bytes, int first, int last, int64_t *offset) {
    if (bytes == 0 || first == NEVER) return;
    CHECK(set->count < INTERVALS_MAX, "more than %d intervals", INTERVALS_MAX);
    set->items[set->count++] = (Interval){round_up(bytes, ALIGNMENT), first, last, offset};
}

static int64_t value_bytes(const Program *p, Value v, const int64_t *bound) {
    const ValueInfo *info = &p->value[v];
    return bound[info->rows] * info->cols * type_size(info->type);
}

// Gradients of rows of segments are float.
static int64_t gradient_bytes(const Program *p, Value v, const int64_t *bound) {
    const ValueInfo *info = &p->value[v];
    const int64_t size = info->rows == ROWS_SEGMENTS ? 4 : type_size(REAL_TYPE);
    return bound[info->rows] * info->cols * size;
}

static void use(int *first, int *last, int time) {
    if (*first == NEVER || time < *first) *first = time;
    if (time > *last) *last = time;
}

static bool drops(Recompute recompute, Keep keep) {
    switch (recompute) {
        case RECOMPUTE_NONE:
            return false;
        case RECOMPUTE_CHEAP:
            return keep == KEEP_CHEAP;
        case RECOMPUTE_LINEAR:
            return keep != KEEP_DEAR;
        case RECOMPUTE_BLOCK:
            return true;
    }
    DIE("unknown recomputation policy %d", (int)recompute);
}

static bool runs_backward(const Program *p, const Call *call) {
    return p->value[call->out[0]].gradient;
}

// Marks what the backward reads, what of it is kept from the forward, and which calls run again:
// none for statistics alone, a float or two per row.
static void choose_kept(Program *p, Recompute recompute) {
    ProgramPlan *plan = &p->plan;
    bool needed[VALUES_MAX] = {false};
    for (int c = 0; c < p->calls; c++) {
        const Call *call = &p->call[c];
        const OpInfo *info = &op_table[call->op];
        if (!runs_backward(p, call)) continue;
        for (int i = 0; i < call->inputs; i++) {
            if (call->in[i] != NO_VALUE && info->needs_in >> i & 1) {
                needed[p->value[call->in[i]].root] = true;
            }
        }
        for (int i = 0; i < call->outputs; i++) {
            if (info->needs_out >> i & 1) needed[p->value[call->out[i]].root] = true;
        }
    }
    // Backwards, so that what a repeated call reads is known to be needed before its producer is
    // met.
    for (int c = p->calls - 1; c >= 0; c--) {
        const Call *call = &p->call[c];
        bool wanted = false;
        for (int i = 0; i < call->outputs; i++) {
            const Value v = call->out[i];
            wanted = wanted || (needed[v] && !p->value[v].boundary);
        }
        if (!wanted) continue;
        plan->recompute[c] = needed[call->out[0]] && drops(recompute, op_table[call->op].keep);
        for (int i = 0; i < call->outputs && !plan->recompute[c]; i++) {
            plan->kept[call->out[i]] = needed[call->out[i]] && !p->value[call->out[i]].boundary;
        }
        for (int i = 0; i < call->inputs && plan->recompute[c]; i++) {
            if (call->in[i] != NO_VALUE) needed[p->value[call->in[i]].root] = true;
        }
    }
}

// How many inputs of calls are v or columns of it.
static int readers(const Program *p, Value v) {
    int count = 0;
    for (int c = 0; c < p->calls; c++) {
        const Call *call = &p->call[c];
        for (int i = 0; i < call->inputs; i++) {
            count += call->in[i] != NO_VALUE && p->value[call->in[i]].root == v;
        }
    }
    return count;
}

// Finds the linears whose backward goes through the GELU right before them. z is read as stored, so
// that is the same for every policy.
static void find_gelus(Program *p) {
    for (int c = 1; c < p->calls; c++) {
        const Call *gelu = &p->call[c - 1], *call = &p->call[c];
        const Value v = call->in[0];
        if (gelu->op != OP_GELU || call->op != OP_LINEAR || v != gelu->out[0]) continue;
        p->plan.gelu_backward[c] = p->value[v].gradient && !p->value[v].boundary &&
                                   readers(p, v) == 1 &&
                                   linear_gelu_fused(p->value[call->out[0]].cols, p->value[v].cols);
    }
}

// Lifetimes in the forward: from the call that makes a value to the last that reads it.
static int64_t place_forward(Program *p, const int64_t *bound) {
    ProgramPlan *plan = &p->plan;
    Intervals *set = calloc(1, sizeof(*set));
    CHECK(set != NULL, "no memory");
    int first[VALUES_MAX], last[VALUES_MAX];
    for (int v = 0; v < p->values; v++) first[v] = last[v] = NEVER;
    for (int c = 0; c < p->calls; c++) {
        const Call *call = &p->call[c];
        for (int i = 0; i < call->inputs; i++) {
            if (call->in[i] == NO_VALUE) continue;
            const Value root = p->value[call->in[i]].root;
            use(&first[root], &last[root], c);
        }
        for (int i = 0; i < call->outputs; i++) use(&first[call->out[i]], &last[call->out[i]], c);
        const OpInfo *info = &op_table[call->op];
        if (info->scratch == NULL) continue;
        interval_add(set, info->scratch(p, call, bound, false), c, c, &plan->forward_scratch[c]);
    }
    for (int v = 0; v < p->values; v++) {
        if (p->value[v].root != v || p->value[v].boundary || plan->kept[v]) continue;
        interval_add(set, value_bytes(p, v, bound), first[v], last[v], &plan->forward_offset[v]);
    }
    const int64_t bytes = intervals_place(set);
    free(set);
    return bytes;
}

// Which value's gradient memory each value shares: its root's, and where an op passes a gradient
// through, that of the op's output.
static void share_gradients(Program *p) {
    ProgramPlan *plan = &p->plan;
    for (int v = 0; v < p->values; v++) plan->gradient_root[v] = p->value[v].root;
    for (int c = p->calls - 1; c >= 0; c--) {
        const Call *call = &p->call[c];
        if (!op_table[call->op].passes || !p->value[call->in[0]].gradient) continue;
        CHECK(p->value[call->in[0]].root == call->in[0],
              "%s: %s needs a whole value, not columns of one", p->name, op_table[call->op].name);
        plan->gradient_root[call->in[0]] = plan->gradient_root[call->out[0]];
    }
    for (int v = 0; v < p->values; v++) {
        plan->gradient_root[v] = plan->gradient_root[plan->gradient_root[v]];
    }
}

// Walks the backward and notes, for each input of each call, whether its gradient is there already
// (add) or, for rows of segments, has to be zeroed first; extends the lifetimes of gradients.
static void order_gradients(Program *p, int times, int *first, int *last) {
    ProgramPlan *plan = &p->plan;
    bool written[VALUES_MAX] = {false};  // Values (columns apart).
    bool zeroed[VALUES_MAX] = {false};   // Roots of segment rows.
    for (int v = 0; v < p->values; v++)
        written[v] = p->value[v].boundary && p->value[v].producer >= 0;
    for (int c = p->calls - 1; c >= 0; c--) {
        const Call *call = &p->call[c];
        const OpInfo *info = &op_table[call->op];
        if (!runs_backward(p, call)) continue;
        const int time = times + p->calls - 1 - c;
        for (int i = 0; i < call->outputs; i++) {
            const Value root = plan->gradient_root[call->out[i]];
            if (p->value[call->out[i]].gradient) use(&first[root], &last[root], time);
        }
        for (int i = 0; i < call->inputs; i++) {
            const Value v = call->in[i];
            if (v == NO_VALUE || !p->value[v].gradient) continue;
            const Value root = plan->gradient_root[v];
            use(&first[root], &last[root], time);
            if (p->value[v].rows == ROWS_SEGMENTS) {
                plan->zero[c][i] = !zeroed[root] && !p->value[root].boundary;
                zeroed[root] = true;
                continue;
            }
            if (info->passes && i == 0) {
                CHECK(!written[v], "%s: the gradient of value %d meets %s too late", p->name, v,
                      info->name);
            }
            plan->add[c][i] = written[v] && !(info->passes && i == 0);
            CHECK(!plan->add[c][i] || info->adds >> i & 1, "%s: %s cannot add to a gradient",
                  p->name, info->name);
            written[v] = true;
        }
    }
}

// Where the backward of a linear goes through the GELU before it, the gradient between the two is
// never there and that of GELU's input is written earlier.
static void join_gradients(const Program *p, int times, int *first, int *last) {
    for (int c = 1; c < p->calls; c++) {
        if (!p->plan.gelu_backward[c]) continue;
        const Value z = p->plan.gradient_root[p->call[c - 1].in[0]], between = p->call[c].in[0];
        first[between] = last[between] = NEVER;
        use(&first[z], &last[z], times + p->calls - 1 - c);
    }
}

static void place_backward(Program *p, const int64_t *bound) {
    ProgramPlan *plan = &p->plan;
    Intervals *set = calloc(1, sizeof(*set));
    CHECK(set != NULL, "no memory");
    int first[VALUES_MAX], last[VALUES_MAX], dfirst[VALUES_MAX], dlast[VALUES_MAX];
    for (int v = 0; v < p->values; v++) first[v] = last[v] = dfirst[v] = dlast[v] = NEVER;
    // Times 0 .. calls - 1: recomputation; calls .. 2 calls - 1: the backward of the last call,
    // then down.
    for (int c = 0; c < p->calls; c++) {
        const Call *call = &p->call[c];
        const OpInfo *info = &op_table[call->op];
        const int back = 2 * p->calls - 1 - c;
        const bool backward = runs_backward(p, call);
        for (int i = 0; i < call->inputs; i++) {
            if (call->in[i] == NO_VALUE) continue;
            const Value root = p->value[call->in[i]].root;
            if (plan->recompute[c]) use(&first[root], &last[root], c);
            if (backward && info->needs_in >> i & 1) use(&first[root], &last[root], back);
        }
        for (int i = 0; i < call->outputs; i++) {
            const Value v = call->out[i];
            if (plan->recompute[c]) use(&first[v], &last[v], c);
            if (backward && info->needs_out >> i & 1) use(&first[v], &last[v], back);
        }
        if (info->scratch == NULL) continue;
        int64_t bytes = backward ? info->scratch(p, call, bound, true) : 0;
        interval_add(set, bytes, back, back, &plan->backward_scratch[c]);
        bytes = plan->recompute[c] ? info->scratch(p, call, bound, false) : 0;
        interval_add(set, bytes, c, c, &plan->recompute_scratch[c]);
    }
    share_gradients(p);
    order_gradients(p, p->calls, dfirst, dlast);
    join_gradients(p, p->calls, dfirst, dlast);
    for (int v = 0; v < p->values; v++) {
        const ValueInfo *info = &p->value[v];
        if (info->root == v && !info->boundary && !plan->kept[v]) {
            interval_add(set, value_bytes(p, v, bound), first[v], last[v],
                         &plan->backward_offset[v]);
        }
        if (plan->gradient_root[v] == v && !info->boundary && info->gradient) {
            interval_add(set, gradient_bytes(p, v, bound), dfirst[v], dlast[v],
                         &plan->gradient_offset[v]);
        }
    }
    plan->work_bytes = max_i64(plan->work_bytes, intervals_place(set));
    free(set);
}

void program_plan(Program *p, Recompute recompute, const int64_t bound[ROWS_KINDS]) {
    memset(&p->plan, 0, sizeof(p->plan));
    choose_kept(p, recompute);
    find_gelus(p);
    int64_t kept = 0;
    for (int v = 0; v < p->values; v++) {
        if (!p->plan.kept[v]) continue;
        p->plan.kept_offset[v] = kept;
        kept += round_up(value_bytes(p, v, bound), ALIGNMENT);
    }
    p->plan.kept_bytes = kept;
    p->plan.work_bytes = place_forward(p, bound);
    place_backward(p, bound);
}

void program_cost(const Program *p, Cost *cost) {
    for (int c = 0; c < p->calls; c++) {
        const OpInfo *info = &op_table[p->call[c].op];
        if (info->cost != NULL) info->cost(p, &p->call[c], cost);
    }
}
