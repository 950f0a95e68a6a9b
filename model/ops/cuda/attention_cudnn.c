#include "model/ops/cuda/attention_cudnn.h"

#include <inttypes.h>

#include "base/arena.h"
#include "base/cuda/cuda.h"
#include "model/ops/cuda/attention_offsets.h"
#include "model/ops/cuda/attention_paths.h"

// cuDNN attends to a batch of segments at once; its grids and dense sums are made for the batch's
// longest. The segments of a pack are therefore grouped by their number of queries into classes,
// and there is one call for each class that has any segment; a second and third where that would be
// more than BATCH_ROWS times the pack's queries, counted by the longest segment. Unused entries of
// a batch have length 0. In cross-attention, segments with many keys, which are rare, are a class
// of their own, one segment a call.
// A class all of whose segments are equally long, and so long that they fill whole tiles, needs no
// masks, which take a tenth of cuDNN's time (on an H100; tests/gpu/RESULTS.md). Such lengths that
// are known beforehand have plans of their own, one segment a call, where each segment begins at 16
// bytes of the log-sum-exp. They take no more scratch than their class's plans.
enum { BATCH_ROWS = 2, PLANS_MAX = 512, EVEN_ROWS = 128, EVEN_LEAST = 1024 };

// What cuDNN wants for itself grows with the batch alone: 256 to 500 bytes a segment in 9.19 and
// 9.26.
enum { WORKSPACE_FIXED = 65536, WORKSPACE_SEGMENT = 1024 };

// Plans live as long as the process.
static struct {
    int count;
    AttentionPlan *plan[PLANS_MAX];
} library;

// The classes that T queries and X keys can have segments of, their limits the same for any T and
// X. The last one is that of many keys.
static int length_classes(LengthClass *list, int64_t T, int64_t X) {
    int count = 0;
    for (int64_t least = 1, most = QUERIES_FIRST; least <= T; least = most + 1, most *= GROWTH) {
        CHECK(count + 1 < CLASSES_MAX, "%" PRId64 " tokens: more than %d classes", T, CLASSES_MAX);
        list[count++] = (LengthClass){.q_least = least, .q_most = most};
    }
    if (X > KEYS_FEW) list[count++] = (LengthClass){.q_least = 1, .q_most = T, .many = true};
    return count;
}

static bool even_length(int64_t queries) {
    return queries >= EVEN_LEAST && queries % EVEN_ROWS == 0;
}

int attention_cudnn_shapes(PlanShape *list, const AttentionBounds *bounds, int64_t ldq, int64_t ldk,
                           int64_t ldv, int64_t ldo, bool backward) {
    const int64_t T = bounds->T, X = bounds->X;
    LengthClass class[CLASSES_MAX];
    const int count = length_classes(class, T, bounds->cross ? X : 0);
    PlanShape shape = {.backward = backward,
                       .heads = bounds->heads,
                       .D = bounds->D,
                       .ldq = ldq,
                       .ldk = ldk,
                       .ldv = ldv,
                       .ldo = ldo};
    for (int i = 0; i < count; i++) {
        const LengthClass *c = &class[i];
        const int64_t queries = min_i64(c->q_most, T),
                      few = c->many ? X : min_i64(keys_few(c->q_most), X),
                      most = c->many ? 1 : div_up(BATCH_ROWS * T, queries);
        shape.batch = min_i64(min_i64(bounds->S, T / c->q_least), most);
        shape.queries = queries;
        shape.keys = bounds->cross ? few : queries;
        list[i] = shape;
    }
    int shapes = count;
    shape.even = true;
    shape.batch = 1;
    for (int i = 0; i < LENGTHS_MAX && bounds->lengths != NULL && !bounds->cross; i++) {
        shape.queries = shape.keys = bounds->lengths[i];
        if (even_length(shape.queries) && shape.queries <= T) list[shapes++] = shape;
    }
    return shapes;
}

// ---- scratch, handed out by the same lines that measure it

int64_t attention_cudnn_workspace(int64_t batch) {
    return WORKSPACE_FIXED + batch * WORKSPACE_SEGMENT;
}

typedef struct {
    int32_t *queries, *keys;
    int64_t *start[OFFSETS];
    float *sum, *dq_sum;
    void *workspace;
} Scratch;

static Scratch lay_out(Arena *arena, const PlanShape *s) {
    Scratch x = {0};
    x.queries = arena_take(arena, s->batch * (int64_t)sizeof(*x.queries));
    x.keys = arena_take(arena, s->batch * (int64_t)sizeof(*x.keys));
    for (int i = 0; i < OFFSETS; i++) {
        x.start[i] = arena_take(arena, (s->batch + 1) * (int64_t)sizeof(*x.start[i]));
    }
    x.workspace = arena_take(arena, attention_cudnn_workspace(s->batch));
    if (s->backward) {
        const int64_t rows = s->batch * s->queries * s->heads;
        x.sum = arena_take(arena, rows * (int64_t)sizeof(*x.sum));
        x.dq_sum = arena_take(arena, rows * s->D * (int64_t)sizeof(*x.dq_sum));
    }
    return x;
}

static int64_t scratch_of(const PlanShape *s) {
    Arena arena = {.name = "attention"};
    lay_out(&arena, s);
    return arena.used;
}

int64_t attention_cudnn_scratch(const AttentionBounds *bounds, bool backward) {
    PlanShape list[PLAN_SHAPES_MAX];
    const int count = attention_cudnn_shapes(list, bounds, 0, 0, 0, 0, backward);
    int64_t most = 0;
    for (int i = 0; i < count; i++) most = max_i64(most, scratch_of(&list[i]));
    return most;
}

// ---- plans

bool attention_cudnn_available(int64_t D) {
    return sizeof(real) == 2 && plan_supported(cuda_capability(), D);
}

static bool same_tensors(const PlanShape *a, const PlanShape *b) {
    return a->backward == b->backward && a->even == b->even && a->heads == b->heads &&
           a->D == b->D && a->ldq == b->ldq && a->ldk == b->ldk && a->ldv == b->ldv &&
           a->ldo == b->ldo;
}

// The class's plan that serves `need` with the least scratch, so that it fits into what was planned
// for the call's own bounds, whatever else was prepared. NULL: there is none.
static const AttentionPlan *plan_find(const LengthClass *class, const PlanShape *need) {
    const AttentionPlan *best = NULL;
    int64_t least = 0;
    for (int i = 0; i < library.count; i++) {
        const PlanShape *s = plan_shape(library.plan[i]);
        const bool in =
            class->many || (s->queries >= class->q_least && s->queries <= class->q_most);
        if (!in || !same_tensors(s, need) || s->queries < need->queries || s->keys < need->keys) {
            continue;
        }
        const int64_t bytes = scratch_of(s);
        if (best != NULL && bytes >= least) continue;
        best = library.plan[i];
        least = bytes;
    }
    return best;
}

// The plan for segments of just so many queries and keys, or NULL.
static const AttentionPlan *plan_find_even(const PlanShape *need) {
    PlanShape even = *need;
    even.even = true;
    for (int i = 0; i < library.count; i++) {
        const PlanShape *s = plan_shape(library.plan[i]);
        if (same_tensors(s, &even) && s->queries == need->queries && s->keys == need->keys) {
            return library.plan[i];
        }
    }
    return NULL;
}

static bool plan_known(const PlanShape *shape) {
    for (int i = 0; i < library.count; i++) {
        const PlanShape *s = plan_shape(library.plan[i]);
        if (same_tensors(s, shape) && s->batch == shape->batch && s->queries == shape->queries &&
            s->keys == shape->keys) {
            return true;
        }
    }
    return false;
}

void attention_cudnn_prepare(const AttentionBounds *bounds, int64_t ldq, int64_t ldk, int64_t ldv,
                             int64_t ldo) {
    if (bounds->heads == 0 || bounds->S == 0) return;
    CHECK(ldq % 8 == 0 && ldk % 8 == 0 && ldv % 8 == 0 && ldo % 8 == 0,
          "rows %" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
          " elements apart: cuDNN wants multiples of 8",
          ldq, ldk, ldv, ldo);
    for (int backward = 0; backward < 2; backward++) {
        PlanShape list[PLAN_SHAPES_MAX];
        const int count = attention_cudnn_shapes(list, bounds, ldq, ldk, ldv, ldo, backward != 0);
        for (int i = 0; i < count; i++) {
            if (plan_known(&list[i])) continue;
            CHECK(library.count < PLANS_MAX, "more than %d plans of attention", PLANS_MAX);
            AttentionPlan *plan = plan_create(&list[i], NULL);
            const int64_t most = attention_cudnn_workspace(list[i].batch);
            CHECK(plan_workspace(plan) <= most,
                  "cuDNN wants %" PRId64 " bytes for attention %s of %" PRId64 " x %" PRId64
                  " queries, more than %" PRId64,
                  plan_workspace(plan), backward != 0 ? "backward" : "forward", list[i].batch,
                  list[i].queries, most);
            library.plan[library.count++] = plan;
        }
    }
}

// ---- calls

// How many segments the pack has of a class; the longest of them.
static int64_t class_count(PlanShape *need, const AttentionShape *shape, const LengthClass *class) {
    int64_t count = 0;
    need->queries = need->keys = 0;
    for (int64_t s = 0; s < shape->S; s++) {
        const int64_t queries = shape->q_start[s + 1] - shape->q_start[s],
                      keys = shape->k_start[s + 1] - shape->k_start[s];
        if (!in_class(class, queries, keys)) continue;
        count++;
        need->queries = max_i64(need->queries, queries);
        need->keys = max_i64(need->keys, keys);
    }
    return count;
}

// Segments of a class from its number `skip` on, as many as the plan's batch takes.
static void run_batch(const AttentionPlan *plan, void **tensor, const AttentionShape *shape,
                      const LengthClass *class, int64_t skip, void *scratch, Stream stream) {
    const PlanShape *s = plan_shape(plan);
    Arena arena = {.name = "attention", .memory = scratch, .size = INT64_MAX};
    const Scratch x = lay_out(&arena, s);
    const SegmentOffsets offsets = {.q_start = shape->q_start_device,
                                    .k_start = shape->k_start_device,
                                    .S = shape->S,
                                    .lengths = *class,
                                    .skip = skip,
                                    .batch = s->batch,
                                    .queries = x.queries,
                                    .keys = x.keys,
                                    .row = {{x.start[0], s->ldq, false},
                                            {x.start[1], s->ldk, true},
                                            {x.start[2], s->ldv, true},
                                            {x.start[3], s->ldo, false},
                                            {x.start[4], s->heads, false}}};
    attention_offsets(&offsets, stream);
    tensor[PLAN_QUERIES] = x.queries;
    tensor[PLAN_KEYS] = x.keys;
    for (int i = 0; i < OFFSETS; i++) tensor[PLAN_START_Q + i] = x.start[i];
    tensor[PLAN_SUM] = x.sum;
    tensor[PLAN_DQ_SUM] = x.dq_sum;
    plan_run(plan, tensor, shape->scale, x.workspace, stream);
}

// Whether every segment of the class has as many queries and keys as `need`, and begins where cuDNN
// may begin to read: at 16 bytes of the log-sum-exp, too.
static bool class_even(const PlanShape *need, const AttentionShape *shape,
                       const LengthClass *class) {
    if (need->queries != need->keys || !even_length(need->queries)) return false;
    for (int64_t s = 0; s < shape->S; s++) {
        const int64_t q = shape->q_start[s], queries = shape->q_start[s + 1] - q,
                      keys = shape->k_start[s + 1] - shape->k_start[s];
        if (!in_class(class, queries, keys)) continue;
        if (queries != need->queries || keys != need->keys || q * shape->heads % 4 != 0) {
            return false;
        }
    }
    return true;
}

// tensor [PLAN_TENSORS] with those of rows where row q of queries and row k of keys are.
static void point_to_rows(void **tensor, void *const *whole, const PlanShape *p, int64_t q,
                          int64_t k) {
    const int64_t size = (int64_t)sizeof(real);
    const int64_t offset[PLAN_TENSORS] = {
        [PLAN_Q] = q * p->ldq * size,    [PLAN_K] = k * p->ldk * size,
        [PLAN_V] = k * p->ldv * size,    [PLAN_OUT] = q * p->ldo * size,
        [PLAN_DOUT] = q * p->ldo * size, [PLAN_LSE] = q * p->heads * (int64_t)sizeof(float),
        [PLAN_DQ] = q * p->ldq * size,   [PLAN_DK] = k * p->ldk * size,
        [PLAN_DV] = k * p->ldv * size};
    for (int i = 0; i < PLAN_TENSORS; i++) {
        tensor[i] = whole[i] != NULL ? (char *)whole[i] + offset[i] : NULL;
    }
}

// All segments of a class, one after the other.
static void run_even(const AttentionPlan *plan, void *const *whole, const AttentionShape *shape,
                     const LengthClass *class, void *scratch, Stream stream) {
    const PlanShape *p = plan_shape(plan);
    Arena arena = {.name = "attention", .memory = scratch, .size = INT64_MAX};
    const Scratch x = lay_out(&arena, p);
    for (int64_t s = 0; s < shape->S; s++) {
        const int64_t q = shape->q_start[s], k = shape->k_start[s];
        if (!in_class(class, shape->q_start[s + 1] - q, shape->k_start[s + 1] - k)) continue;
        void *tensor[PLAN_TENSORS];
        point_to_rows(tensor, whole, p, q, k);
        tensor[PLAN_SUM] = x.sum;
        tensor[PLAN_DQ_SUM] = x.dq_sum;
        plan_run(plan, tensor, shape->scale, x.workspace, stream);
    }
}

// `need` says which tensors, `tensor` [PLAN_TENSORS] where they are.
static void run_classes(PlanShape *need, void **tensor, const AttentionShape *shape, void *scratch,
                        Stream stream) {
    if (shape->S == 0 || shape->heads == 0) return;
    const int64_t T = shape->q_start[shape->S], X = shape->k_start[shape->S];
    LengthClass class[CLASSES_MAX];
    const int classes = length_classes(class, T, X);
    for (int c = 0; c < classes; c++) {
        const int64_t count = class_count(need, shape, &class[c]);
        if (count == 0) continue;
        const AttentionPlan *even =
            class_even(need, shape, &class[c]) ? plan_find_even(need) : NULL;
        if (even != NULL) {
            run_even(even, tensor, shape, &class[c], scratch, stream);
            continue;
        }
        const AttentionPlan *plan = plan_find(&class[c], need);
        CHECK(plan != NULL,
              "attention %s, %" PRId64 " heads of %" PRId64 ", %" PRId64 " queries, %" PRId64
              " keys: no plan was prepared",
              need->backward ? "backward" : "forward", need->heads, need->D, need->queries,
              need->keys);
        for (int64_t skip = 0; skip < count; skip += plan_shape(plan)->batch) {
            run_batch(plan, tensor, shape, &class[c], skip, scratch, stream);
        }
    }
}

// cuDNN's interface has no const.
static void *changeable(const void *p) {
    union {
        const void *in;
        void *out;
    } u = {.in = p};
    return u.out;
}

void attention_cudnn_forward(real *out, int64_t ldo, float *lse, const real *q, int64_t ldq,
                             const real *k, int64_t ldk, const real *v, int64_t ldv,
                             const AttentionShape *shape, void *scratch, Stream stream) {
    PlanShape need = {
        .heads = shape->heads, .D = shape->D, .ldq = ldq, .ldk = ldk, .ldv = ldv, .ldo = ldo};
    void *tensor[PLAN_TENSORS] = {
        [PLAN_Q] = changeable(q), [PLAN_K] = changeable(k), [PLAN_V] = changeable(v),
        [PLAN_OUT] = out,         [PLAN_LSE] = lse,
    };
    run_classes(&need, tensor, shape, scratch, stream);
}

// Keys of segments without queries are in no class.
static void zero_unseen(const AttentionBackward *a, const AttentionShape *shape, Stream stream) {
    const size_t real_size = sizeof(real), width = (size_t)(shape->heads * shape->D) * real_size;
    for (int64_t s = 0; s < shape->S; s++) {
        const int64_t k = shape->k_start[s], keys = shape->k_start[s + 1] - k;
        if (keys == 0 || shape->q_start[s + 1] > shape->q_start[s]) continue;
        CUDA_CHECK(cudaMemset2DAsync(a->dk + k * a->lddk, (size_t)a->lddk * real_size, 0, width,
                                     (size_t)keys, cuda_stream(stream)));
        CUDA_CHECK(cudaMemset2DAsync(a->dv + k * a->lddv, (size_t)a->lddv * real_size, 0, width,
                                     (size_t)keys, cuda_stream(stream)));
    }
}

void attention_cudnn_backward(const AttentionBackward *a, const AttentionShape *shape,
                              void *scratch, Stream stream) {
    CHECK(a->lddq == a->ldq && a->lddk == a->ldk && a->lddv == a->ldv && a->lddo == a->ldo,
          "gradients are not strided as their tensors are");
    PlanShape need = {.backward = true,
                      .heads = shape->heads,
                      .D = shape->D,
                      .ldq = a->ldq,
                      .ldk = a->ldk,
                      .ldv = a->ldv,
                      .ldo = a->ldo};
    void *tensor[PLAN_TENSORS] = {[PLAN_Q] = changeable(a->q),
                                  [PLAN_K] = changeable(a->k),
                                  [PLAN_V] = changeable(a->v),
                                  [PLAN_OUT] = changeable(a->out),
                                  [PLAN_LSE] = changeable(a->lse),
                                  [PLAN_DOUT] = changeable(a->dout),
                                  [PLAN_DQ] = a->dq,
                                  [PLAN_DK] = a->dk,
                                  [PLAN_DV] = a->dv};
    zero_unseen(a, shape, stream);
    run_classes(&need, tensor, shape, scratch, stream);
}
