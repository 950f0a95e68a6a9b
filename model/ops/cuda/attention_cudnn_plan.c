#include "model/ops/cuda/attention_cudnn_plan.h"

#include <cudnn.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cuda/cuda.h"
#include "base/die.h"

typedef cudnnBackendDescriptor_t Descriptor;

enum { OPS_MAX = 32, MADE_MAX = 160, CONFIGS_MAX = 16, NAME_BYTES = 160, REASON_BYTES = 4096 };

// The oldest cuDNN with all that is used here, as cudnnGetVersion() counts: 9.19.0.
enum { VERSION_NEEDED = 91900 };

// What tensors are called in a plan: PlanTensor's come first, then scalars given by value, then
// those that exist only inside of the fused kernel. cuDNN gets them plus 1.
enum { ID_SCALE = PLAN_TENSORS, ID_ONE, ID_MASKED, ID_INSIDE };

struct AttentionPlan {
    PlanShape shape;
    char name[NAME_BYTES];  // For messages.
    Descriptor plan;
    int64_t workspace;
    // All that was made on the way: cuDNN's objects refer to each other.
    Descriptor made[MADE_MAX], ops[OPS_MAX];
    int made_count, op_count;
    int64_t inside_count;
    bool uses[ID_INSIDE];
};

// The handle of this process's device, made once.
static struct { cudnnHandle_t handle; } library;

// Dies with the call, the plan and cuDNN's reason.
#define CUDNN_CHECK(plan, call)                                                       \
    do {                                                                              \
        const cudnnStatus_t status_ = (call);                                         \
        if (status_ != CUDNN_STATUS_SUCCESS) {                                        \
            char reason_[REASON_BYTES] = "";                                          \
            cudnnGetLastErrorString(reason_, sizeof(reason_));                        \
            DIE("%s (cuDNN %zu): %s: %s: %s", (plan)->name, cudnnGetVersion(), #call, \
                cudnnGetErrorString(status_), reason_);                               \
        }                                                                             \
    } while (0)

static cudnnHandle_t handle_get(const AttentionPlan *plan) {
    if (library.handle == NULL) CUDNN_CHECK(plan, cudnnCreate(&library.handle));
    return library.handle;
}

int64_t plan_library_version(void) {
    return (int64_t)cudnnGetVersion();
}

bool plan_supported(int capability, int64_t D) {
    const int family = capability / 10;
    return D % 8 == 0 && D > 0 && ((family == 9 && D <= 256) || (family == 10 && D <= 128));
}

// ---- descriptors

static Descriptor make(AttentionPlan *p, cudnnBackendDescriptorType_t type) {
    CHECK(p->made_count < MADE_MAX, "%s: more than %d descriptors", p->name, MADE_MAX);
    Descriptor d;
    CUDNN_CHECK(p, cudnnBackendCreateDescriptor(type, &d));
    p->made[p->made_count++] = d;
    return d;
}

static void set(AttentionPlan *p, Descriptor d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *value) {
    CUDNN_CHECK(p, cudnnBackendSetAttribute(d, name, type, count, value));
}
static void set_descriptor(AttentionPlan *p, Descriptor d, cudnnBackendAttributeName_t name,
                           Descriptor value) {
    set(p, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}
static void finish(AttentionPlan *p, Descriptor d) {
    CUDNN_CHECK(p, cudnnBackendFinalize(d));
}

// ---- tensors of 4 dimensions

typedef struct {
    cudnnDataType_t type;
    int64_t dim[4], stride[4];
    int64_t id;
    bool by_value;
    Descriptor starts;  // Ragged: where each batch entry begins. NULL: evenly strided.
} Tensor;

static Descriptor tensor(AttentionPlan *p, const Tensor *t) {
    const int64_t alignment = 16, id = t->id + 1;
    const bool inside = t->id >= ID_INSIDE;
    const Descriptor d = make(p, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set(p, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &t->type);
    set(p, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, t->dim);
    set(p, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, t->stride);
    set(p, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    set(p, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    set(p, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &inside);
    set(p, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &t->by_value);
    if (t->starts != NULL) {
        set_descriptor(p, d, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, t->starts);
    }
    finish(p, d);
    if (!inside) p->uses[t->id] = true;
    return d;
}

// One number of each batch entry.
static Descriptor of_batch(AttentionPlan *p, PlanTensor id, cudnnDataType_t type, int64_t count) {
    return tensor(
        p, &(Tensor){.type = type, .dim = {count, 1, 1, 1}, .stride = {1, 1, 1, 1}, .id = id});
}
static Descriptor scalar(AttentionPlan *p, int64_t id) {
    return tensor(p, &(Tensor){.type = CUDNN_DATA_FLOAT,
                               .dim = {1, 1, 1, 1},
                               .stride = {1, 1, 1, 1},
                               .id = id,
                               .by_value = true});
}

// [batch, heads, rows, D] of a pack whose rows are ld elements apart. across: the same memory as
// [batch, heads, D, rows], which the products want of keys and values.
static Descriptor of_pack(AttentionPlan *p, int64_t id, int64_t rows, int64_t ld, Descriptor starts,
                          bool across) {
    const PlanShape *s = &p->shape;
    Tensor t = {.type = CUDNN_DATA_BFLOAT16,
                .dim = {s->batch, s->heads, rows, s->D},
                .stride = {rows * ld, s->D, ld, 1},
                .id = id,
                .starts = starts};
    if (across) {
        t.dim[2] = s->D, t.dim[3] = rows;
        t.stride[2] = 1, t.stride[3] = ld;
    }
    return tensor(p, &t);
}

// Floats [batch, heads, queries, columns], dense.
static Descriptor of_queries(AttentionPlan *p, PlanTensor id, int64_t columns) {
    const PlanShape *s = &p->shape;
    return tensor(
        p, &(Tensor){.type = CUDNN_DATA_FLOAT,
                     .dim = {s->batch, s->heads, s->queries, columns},
                     .stride = {s->heads * s->queries * columns, s->queries * columns, columns, 1},
                     .id = id});
}

// The log-sum-exp [batch, heads, queries, 1] of a pack's rows [T, heads].
static Descriptor of_lse(AttentionPlan *p, Descriptor starts) {
    const PlanShape *s = &p->shape;
    return tensor(p, &(Tensor){.type = CUDNN_DATA_FLOAT,
                               .dim = {s->batch, s->heads, s->queries, 1},
                               .stride = {s->heads * s->queries, 1, s->heads, 1},
                               .id = PLAN_LSE,
                               .starts = starts});
}

// [batch, heads, queries, columns] inside of the kernel. across: the same as [.., columns,
// queries].
static Descriptor inside(AttentionPlan *p, cudnnDataType_t type, int64_t columns, bool across) {
    const PlanShape *s = &p->shape;
    Tensor t = {.type = type,
                .dim = {s->batch, s->heads, s->queries, columns},
                .stride = {s->heads * s->queries * columns, s->queries * columns, columns, 1},
                .id = ID_INSIDE + p->inside_count++};
    if (across) {
        t.dim[2] = columns, t.dim[3] = s->queries;
        t.stride[2] = 1, t.stride[3] = columns;
    }
    return tensor(p, &t);
}

// ---- operations

static void operation(AttentionPlan *p, Descriptor op) {
    CHECK(p->op_count < OPS_MAX, "%s: more than %d operations", p->name, OPS_MAX);
    finish(p, op);
    p->ops[p->op_count++] = op;
}

// y = mode(x, b); BINARY_SELECT: y = choice ? x : b; GEN_INDEX: y = place along `axis`.
typedef struct {
    cudnnPointwiseMode_t mode;
    cudnnDataType_t compute;
    Descriptor x, b, choice, y;
    int64_t axis;
} Pointwise;

static void pointwise(AttentionPlan *p, const Pointwise *a) {
    const Descriptor kind = make(p, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(p, kind, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &a->mode);
    set(p, kind, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &a->compute);
    if (a->mode == CUDNN_POINTWISE_GEN_INDEX) {
        set(p, kind, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &a->axis);
    }
    finish(p, kind);
    const Descriptor op = make(p, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, a->x);
    if (a->b != NULL) set_descriptor(p, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, a->b);
    if (a->choice != NULL) set_descriptor(p, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, a->choice);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, a->y);
    operation(p, op);
}

static void apply_to(AttentionPlan *p, cudnnPointwiseMode_t mode, Descriptor x, Descriptor b,
                     Descriptor y) {
    pointwise(p, &(Pointwise){.mode = mode, .compute = CUDNN_DATA_FLOAT, .x = x, .b = b, .y = y});
}
// The same on scores [batch, heads, queries, keys].
static Descriptor apply(AttentionPlan *p, cudnnPointwiseMode_t mode, Descriptor x, Descriptor b) {
    const Descriptor y = inside(p, CUDNN_DATA_FLOAT, p->shape.keys, false);
    apply_to(p, mode, x, b, y);
    return y;
}

// y [.., 1] = sum of x over its last dimension.
static void reduce(AttentionPlan *p, Descriptor x, Descriptor y) {
    const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    const cudnnReduceTensorOp_t add = CUDNN_REDUCE_TENSOR_ADD;
    const Descriptor kind = make(p, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(p, kind, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    set(p, kind, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &add);
    finish(p, kind);
    const Descriptor op = make(p, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    operation(p, op);
}

static Descriptor reshape(AttentionPlan *p, Descriptor x, Descriptor y) {
    const Descriptor op = make(p, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    operation(p, op);
    return y;
}

// c = a b, [M, K] [K, N]; M, N, K: true extents of each batch entry, where they are less.
typedef struct {
    Descriptor a, b, c, M, N, K;
} Product;

static void product(AttentionPlan *p, const Product *a) {
    const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    const Descriptor kind = make(p, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(p, kind, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    finish(p, kind);
    const Descriptor op = make(p, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a->a);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, a->b);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, a->c);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, kind);
    if (a->M != NULL) set_descriptor(p, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, a->M);
    if (a->N != NULL) set_descriptor(p, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, a->N);
    if (a->K != NULL) set_descriptor(p, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, a->K);
    operation(p, op);
}

// ---- graphs

// What forward and backward share. Lengths and starts are NULL where segments are even.
typedef struct {
    Descriptor queries, keys;  // Lengths.
    Descriptor start_q, start_k, start_v, start_out, start_lse;
    Descriptor scale;
} Shared;

static Shared shared(AttentionPlan *p) {
    const int64_t n = p->shape.batch;
    if (p->shape.even) return (Shared){.scale = scalar(p, ID_SCALE)};
    return (Shared){.queries = of_batch(p, PLAN_QUERIES, CUDNN_DATA_INT32, n),
                    .keys = of_batch(p, PLAN_KEYS, CUDNN_DATA_INT32, n),
                    .start_q = of_batch(p, PLAN_START_Q, CUDNN_DATA_INT64, n + 1),
                    .start_k = of_batch(p, PLAN_START_K, CUDNN_DATA_INT64, n + 1),
                    .start_v = of_batch(p, PLAN_START_V, CUDNN_DATA_INT64, n + 1),
                    .start_out = of_batch(p, PLAN_START_OUT, CUDNN_DATA_INT64, n + 1),
                    .start_lse = of_batch(p, PLAN_START_LSE, CUDNN_DATA_INT64, n + 1),
                    .scale = scalar(p, ID_SCALE)};
}

// The forward is one operation, which masks by the lengths.
static void graph_forward(AttentionPlan *p) {
    const PlanShape *s = &p->shape;
    const Shared in = shared(p);
    const Descriptor op = make(p, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC,
                   of_pack(p, PLAN_Q, s->queries, s->ldq, in.start_q, false));
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC,
                   of_pack(p, PLAN_K, s->keys, s->ldk, in.start_k, false));
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC,
                   of_pack(p, PLAN_V, s->keys, s->ldv, in.start_v, false));
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC,
                   of_pack(p, PLAN_OUT, s->queries, s->ldo, in.start_out, false));
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC, of_lse(p, in.start_lse));
    set_descriptor(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, in.scale);
    if (!s->even) {
        set_descriptor(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_SEQ_LEN_QDESC, in.queries);
        set_descriptor(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_SEQ_LEN_KVDESC, in.keys);
    }
    operation(p, op);
}

// scores, or -infinity where the query or the key is beyond the segment's end.
static Descriptor mask(AttentionPlan *p, const Shared *in, Descriptor scores) {
    const Descriptor length[2] = {in->queries, in->keys};
    Descriptor within[2];
    for (int i = 0; i < 2; i++) {
        const Descriptor place = inside(p, CUDNN_DATA_INT32, p->shape.keys, false);
        pointwise(p, &(Pointwise){.mode = CUDNN_POINTWISE_GEN_INDEX,
                                  .compute = CUDNN_DATA_INT32,
                                  .axis = 2 + i,
                                  .x = scores,
                                  .y = place});
        within[i] = inside(p, CUDNN_DATA_BOOLEAN, p->shape.keys, false);
        pointwise(p, &(Pointwise){.mode = CUDNN_POINTWISE_CMP_LT,
                                  .compute = CUDNN_DATA_BOOLEAN,
                                  .x = place,
                                  .b = length[i],
                                  .y = within[i]});
    }
    const Descriptor both = inside(p, CUDNN_DATA_BOOLEAN, p->shape.keys, false);
    pointwise(p, &(Pointwise){.mode = CUDNN_POINTWISE_LOGICAL_AND,
                              .compute = CUDNN_DATA_BOOLEAN,
                              .x = within[0],
                              .b = within[1],
                              .y = both});
    const Descriptor masked = inside(p, CUDNN_DATA_FLOAT, p->shape.keys, false);
    pointwise(p, &(Pointwise){.mode = CUDNN_POINTWISE_BINARY_SELECT,
                              .compute = CUDNN_DATA_FLOAT,
                              .x = scores,
                              .b = scalar(p, ID_MASKED),
                              .choice = both,
                              .y = masked});
    return masked;
}

// FlashAttention-2 (arXiv 2307.08691), algorithm 2, spelled out in operations that cuDNN knows as
// one kernel (its own single operation makes no graph in 9.19): P = exp(S scale - lse),
// dS = P (dP - rowsum(dout out)) scale.
static void graph_backward(AttentionPlan *p) {
    const cudnnPointwiseMode_t MUL = CUDNN_POINTWISE_MUL, SUB = CUDNN_POINTWISE_SUB;
    const cudnnDataType_t BF16 = CUDNN_DATA_BFLOAT16, F32 = CUDNN_DATA_FLOAT;
    const PlanShape *s = &p->shape;
    const Shared in = shared(p);
    const Descriptor q = of_pack(p, PLAN_Q, s->queries, s->ldq, in.start_q, false),
                     k = of_pack(p, PLAN_K, s->keys, s->ldk, in.start_k, true),
                     v = of_pack(p, PLAN_V, s->keys, s->ldv, in.start_v, true),
                     out = of_pack(p, PLAN_OUT, s->queries, s->ldo, in.start_out, false),
                     dout = of_pack(p, PLAN_DOUT, s->queries, s->ldo, in.start_out, false),
                     dq = of_pack(p, PLAN_DQ, s->queries, s->ldq, in.start_q, false),
                     dk = of_pack(p, PLAN_DK, s->keys, s->ldk, in.start_k, false),
                     dv = of_pack(p, PLAN_DV, s->keys, s->ldv, in.start_v, false),
                     lse = of_lse(p, in.start_lse), sum = of_queries(p, PLAN_SUM, 1);

    const Descriptor each = inside(p, F32, s->D, false), total = inside(p, F32, 1, false);
    apply_to(p, MUL, dout, out, each);
    reduce(p, each, total);
    apply_to(p, MUL, total, scalar(p, ID_ONE), sum);

    Descriptor x = inside(p, F32, s->keys, false);
    product(p, &(Product){.a = q, .b = k, .c = x, .M = in.queries, .N = in.keys});
    x = apply(p, MUL, x, in.scale);
    if (!s->even) x = mask(p, &in, x);
    const Descriptor weights = apply(p, CUDNN_POINTWISE_EXP, apply(p, SUB, x, lse), NULL);
    x = reshape(p, weights, inside(p, BF16, s->keys, true));
    product(p, &(Product){.a = x, .b = dout, .c = dv, .M = in.keys, .K = in.queries});

    x = inside(p, F32, s->keys, false);
    product(p, &(Product){.a = dout, .b = v, .c = x, .M = in.queries, .N = in.keys});
    x = apply(p, MUL, apply(p, SUB, x, sum), weights);
    const Descriptor dscores = apply(p, MUL, x, in.scale);
    x = reshape(p, dscores, inside(p, BF16, s->keys, true));
    product(p, &(Product){.a = x, .b = q, .c = dk, .M = in.keys, .K = in.queries});

    // dQ is summed over blocks of keys in floats, and then rounded. Its sums are dense: cuDNN looks
    // for ragged ones where dQ's own offsets point, rows of ldq floats apart, which takes more.
    const Descriptor dq_sum = of_queries(p, PLAN_DQ_SUM, s->D);
    x = reshape(p, k,
                of_pack(p, ID_INSIDE + p->inside_count++, s->keys, s->ldk, in.start_k, false));
    product(p, &(Product){.a = dscores, .b = x, .c = dq_sum, .M = in.queries, .K = in.keys});
    apply_to(p, CUDNN_POINTWISE_IDENTITY, dq_sum, NULL, dq);
}

// ---- plans

static Descriptor described(AttentionPlan *p, const char *device) {
    const Descriptor d = make(p, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    set(p, d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)strlen(device),
        device);
    finish(p, d);
    return d;
}

// The engines that cuDNN's heuristics propose, the best first.
static int64_t propose(AttentionPlan *p, Descriptor graph, Descriptor device, Descriptor *config) {
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    const Descriptor heuristic = make(p, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(p, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(p, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (device != NULL) set_descriptor(p, heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
    finish(p, heuristic);
    for (int i = 0; i < CONFIGS_MAX; i++) config[i] = make(p, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    int64_t count = 0;
    CUDNN_CHECK(
        p, cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                    CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS_MAX, &count, config));
    return count;
}

// The first proposal that can be built. False with cuDNN's reason in `why`.
static bool choose(AttentionPlan *p, Descriptor device, const Descriptor *config, int64_t count,
                   char *why) {
    snprintf(why, REASON_BYTES, "none is proposed");
    for (int64_t i = 0; i < count; i++) {
        const Descriptor plan = make(p, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
        set_descriptor(p, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config[i]);
        if (device != NULL) {
            set_descriptor(p, plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
        } else {
            cudnnHandle_t handle = handle_get(p);
            set(p, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
        }
        if (cudnnBackendFinalize(plan) == CUDNN_STATUS_SUCCESS) {
            p->plan = plan;
            return true;
        }
        cudnnGetLastErrorString(why, REASON_BYTES);
    }
    return false;
}

AttentionPlan *plan_create(const PlanShape *shape, const char *device) {
    AttentionPlan *p = calloc(1, sizeof(*p));
    CHECK(p != NULL, "no memory");
    p->shape = *shape;
    snprintf(p->name, sizeof(p->name),
             "attention %s of %" PRId64 "%s segments, %" PRId64 " heads, %" PRId64
             " queries, %" PRId64 " keys, D %" PRId64,
             shape->backward ? "backward" : "forward", shape->batch, shape->even ? " even" : "",
             shape->heads, shape->queries, shape->keys, shape->D);
    CHECK(cudnnGetVersion() >= VERSION_NEEDED, "cuDNN %zu is here, %d is needed", cudnnGetVersion(),
          VERSION_NEEDED);
    if (shape->backward) {
        graph_backward(p);
    } else {
        graph_forward(p);
    }
    const Descriptor where = device != NULL ? described(p, device) : NULL;
    const Descriptor graph = make(p, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(p, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, p->op_count,
        p->ops);
    if (where == NULL) {
        cudnnHandle_t handle = handle_get(p);
        set(p, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    }
    finish(p, graph);
    Descriptor config[CONFIGS_MAX];
    char why[REASON_BYTES];
    const int64_t count = propose(p, graph, where, config);
    CHECK(choose(p, where, config, count, why), "%s (cuDNN %zu): of %" PRId64 " engines: %s",
          p->name, cudnnGetVersion(), count, why);
    int64_t got = 0;
    CUDNN_CHECK(p, cudnnBackendGetAttribute(p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                            CUDNN_TYPE_INT64, 1, &got, &p->workspace));
    return p;
}

void plan_free(AttentionPlan *plan) {
    if (plan == NULL) return;
    for (int i = plan->made_count - 1; i >= 0; i--) cudnnBackendDestroyDescriptor(plan->made[i]);
    free(plan);
}

const PlanShape *plan_shape(const AttentionPlan *plan) {
    return &plan->shape;
}

int64_t plan_workspace(const AttentionPlan *plan) {
    return plan->workspace;
}

void plan_run(const AttentionPlan *plan, void *const *tensor_at, float scale, void *workspace,
              Stream stream) {
    float one = 1, masked = -INFINITY;
    void *const value[] = {&scale, &one, &masked};
    int64_t id[ID_INSIDE], count = 0;
    void *at[ID_INSIDE];
    for (int i = 0; i < ID_INSIDE; i++) {
        if (!plan->uses[i]) continue;
        id[count] = i + 1;
        at[count++] = i < PLAN_TENSORS ? tensor_at[i] : value[i - PLAN_TENSORS];
    }
    Descriptor pack;
    CUDNN_CHECK(plan, cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack));
    CUDNN_CHECK(plan, cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS,
                                               CUDNN_TYPE_INT64, count, id));
    CUDNN_CHECK(plan, cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                               CUDNN_TYPE_VOID_PTR, count, at));
    CUDNN_CHECK(plan, cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                                               CUDNN_TYPE_VOID_PTR, 1, &workspace));
    CUDNN_CHECK(plan, cudnnBackendFinalize(pack));
    cudnnHandle_t handle = handle_get(plan);
    CUDNN_CHECK(plan, cudnnSetStream(handle, cuda_stream(stream)));
    CUDNN_CHECK(plan, cudnnBackendExecute(handle, plan->plan, pack));
    CUDNN_CHECK(plan, cudnnBackendDestroyDescriptor(pack));
}
