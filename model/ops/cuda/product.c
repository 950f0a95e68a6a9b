#include "model/ops/product.h"

#include <cublasLt.h>
#include <math.h>

#include "base/clock.h"
#include "base/cuda/cuda.h"
#include "base/numbers.h"
#include "base/vector.h"
#include "model/ops/cuda/product_rows.h"

// cuBLASLt sees matrices by columns, so a matrix [R, C] of ours, rows ld apart, is its C x R with
// columns ld apart:
//     out [T, N] = x w^T       N x T = (w: K x N)^T (x: K x T)
//     dx [T, K] = dout w       K x T = (w: K x N) (dout: N x T)
//     dw [N, K] = dout^T x     K x N = (x: K x T) (dout: N x T)^T
//     dz [T, K] = (dout w) gelu'(z)   as dx; z, stored as dz, is the epilogue's auxiliary matrix
typedef enum {
    PRODUCT_FORWARD,
    PRODUCT_BIAS,         // Forward, and the bias added.
    PRODUCT_INPUT,        // dx.
    PRODUCT_INPUT_GELU,   // dz.
    PRODUCT_INPUT_FLOAT,  // dx in float.
    PRODUCT_WEIGHT,       // dw in float.
    PRODUCT_WEIGHT_REAL,  // dw in real.
} Kind;

static const struct {
    const char *name;
    cublasLtEpilogue_t epilogue;
} kinds[] = {
    [PRODUCT_FORWARD] = {"forward", CUBLASLT_EPILOGUE_DEFAULT},
    [PRODUCT_BIAS] = {"forward with bias", CUBLASLT_EPILOGUE_BIAS},
    [PRODUCT_INPUT] = {"input gradient", CUBLASLT_EPILOGUE_DEFAULT},
    [PRODUCT_INPUT_GELU] = {"input gradient through GELU", CUBLASLT_EPILOGUE_DGELU},
    [PRODUCT_INPUT_FLOAT] = {"float input gradient", CUBLASLT_EPILOGUE_DEFAULT},
    [PRODUCT_WEIGHT] = {"float weight gradient", CUBLASLT_EPILOGUE_DEFAULT},
    [PRODUCT_WEIGHT_REAL] = {"weight gradient", CUBLASLT_EPILOGUE_DEFAULT},
};

// Everything but T that the library's choice of an algorithm depends on. ldx: of rows of x or dx;
// ldo: of out or dout.
typedef struct {
    Kind kind;
    uint32_t alignment;  // Bytes: 16, or the power of two that all pointers and rows start at.
    int64_t N, K, ldx, ldo;
} Shape;

// T varies from pack to pack; the algorithm is chosen for the class that T falls in, by its largest
// T: up to 16 every T, then 8 classes from each power of two to the next. It depends on the shape
// alone, and so do the bits, where linear_time was not called.
enum { CLASSES = 256, PLANS_MAX = 256, SINGLE = 16 };

typedef struct {
    Shape shape;
    bool asked[CLASSES], found[CLASSES], timed[CLASSES];  // timed: by linear_time, all kinds.
    cublasLtMatmulAlgo_t algo[CLASSES];
} Plan;

// What NVIDIA recommends for Hopper.
#define WORKSPACE (32 << 20)

// The library's handle and the plans, which live as long as the process; the scratch that calls
// take turns in, grown by linear_prepare: the workspace, then rounded rows or partial sums, then,
// in fp32, sums of a dw that is not float: the library multiplies floats to floats only.
static struct {
    cublasLtHandle_t handle;
    bool sync;
    int capability;  // Of the device; 0: not asked yet.
    char *scratch;
    int64_t scratch_bytes;
    int plans;
    Plan plan[PLANS_MAX];
} library;

// Dies with the library's call and its reason, and the product.
#define LT_STATUS(call, status, s, T)                                                    \
    do {                                                                                 \
        const cublasStatus_t status_ = (status);                                         \
        CHECK(status_ == CUBLAS_STATUS_SUCCESS,                                          \
              "cuBLASLt: %s: %s; %s %s of T %lld, N %lld, K %lld, rows %lld and %lld "   \
              "apart, aligned to %u bytes",                                              \
              call, cublasLtGetStatusString(status_), REAL_NAME, kinds[(s)->kind].name,  \
              (long long)(T), (long long)(s)->N, (long long)(s)->K, (long long)(s)->ldx, \
              (long long)(s)->ldo, (s)->alignment);                                      \
    } while (0)

#define LT_CHECK(call, s, T) LT_STATUS(#call, call, s, T)

static int log2_floor(int64_t x) {
    return 63 - __builtin_clzll((unsigned long long)x);
}

static int class_of(int64_t T) {
    if (T <= SINGLE) return (int)(T - 1);
    const int octave = log2_floor(T - 1);  // T - 1 is 1xxx...: xxx is the class in it.
    return SINGLE + (octave - 4) * 8 + (int)((T - 1) >> (octave - 3)) - 8;
}

static int64_t class_end(int64_t T) {
    return T <= SINGLE ? T : round_up(T, (int64_t)1 << (log2_floor(T - 1) - 3));
}

// The end of the class below T's; 0: there is none.
static int64_t class_below(int64_t T) {
    return T <= SINGLE ? T - 1 : class_end(T) - ((int64_t)1 << (log2_floor(T - 1) - 3));
}

// The operands by the library's names; D is written, or added to.
typedef struct {
    const void *a, *b;
    void *d;
    bool add;
    const real *bias, *gelu;  // gelu: z.
} Operands;

// A product as the library wants it told.
typedef struct {
    cublasLtMatmulDescOpaque_t op;
    cublasLtMatrixLayoutOpaque_t a, b, d;
} Terms;

static void layout(cublasLtMatrixLayoutOpaque_t *l, bool is_float, int64_t rows, int64_t columns,
                   int64_t ld, const Shape *s, int64_t T) {
    const cudaDataType_t type = is_float || REAL_TYPE == TYPE_F32 ? CUDA_R_32F : CUDA_R_16BF;
    LT_CHECK(cublasLtMatrixLayoutInit(l, type, (uint64_t)rows, (uint64_t)columns, ld), s, T);
}

#define ATTRIBUTE(op, name, value, s, T) \
    LT_CHECK(cublasLtMatmulDescSetAttribute(op, name, &(value), sizeof(value)), s, T)

static Terms terms_of(const Shape *s, int64_t T, const Operands *o) {
    Terms t;
    const int64_t N = s->N, K = s->K;
    // fp32 is fp32: the TF32 of tensor cores would be another compute type.
    LT_CHECK(cublasLtMatmulDescInit(&t.op, CUBLAS_COMPUTE_32F, CUDA_R_32F), s, T);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    ATTRIBUTE(&t.op, CUBLASLT_MATMUL_DESC_EPILOGUE, kinds[s->kind].epilogue, s, T);
    if (o->bias != NULL) ATTRIBUTE(&t.op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, o->bias, s, T);
    if (o->gelu != NULL) {
        ATTRIBUTE(&t.op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, o->gelu, s, T);
        ATTRIBUTE(&t.op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, s->ldx, s, T);
    }
    switch (s->kind) {
        case PRODUCT_FORWARD:
        case PRODUCT_BIAS:
            ATTRIBUTE(&t.op, CUBLASLT_MATMUL_DESC_TRANSA, transposed, s, T);
            layout(&t.a, false, K, N, K, s, T);
            layout(&t.b, false, K, T, s->ldx, s, T);
            layout(&t.d, false, N, T, s->ldo, s, T);
            break;
        case PRODUCT_INPUT:
        case PRODUCT_INPUT_GELU:
        case PRODUCT_INPUT_FLOAT:
            layout(&t.a, false, K, N, K, s, T);
            layout(&t.b, false, N, T, s->ldo, s, T);
            layout(&t.d, s->kind == PRODUCT_INPUT_FLOAT, K, T, s->ldx, s, T);
            break;
        case PRODUCT_WEIGHT:
        case PRODUCT_WEIGHT_REAL:
            ATTRIBUTE(&t.op, CUBLASLT_MATMUL_DESC_TRANSB, transposed, s, T);
            layout(&t.a, false, K, T, s->ldx, s, T);
            layout(&t.b, false, N, T, s->ldo, s, T);
            layout(&t.d, s->kind == PRODUCT_WEIGHT, K, N, K, s, T);
            break;
    }
    return t;
}

static void library_start(void) {
    if (library.handle != NULL) return;
    const cublasStatus_t status = cublasLtCreate(&library.handle);
    CHECK(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt does not start: %s",
          cublasLtGetStatusString(status));
    library.sync = cuda_sync();
}

// The library's first choices, `wanted` at most, among algorithms whose sums have one order: those
// that split long sums put the parts into the workspace and add them in float. Not all that the
// library knows may do.
static cublasStatus_t choices(cublasLtMatmulHeuristicResult_t *results, int wanted, int *found,
                              const Shape *s, int64_t T) {
    const cublasLtMatmulPreferenceAttributes_t operand[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint64_t workspace = WORKSPACE;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreferenceOpaque_t preference;
    LT_CHECK(cublasLtMatmulPreferenceInit(&preference), s, T);
    LT_CHECK(
        cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &workspace, sizeof(workspace)),
        s, T);
    LT_CHECK(
        cublasLtMatmulPreferenceSetAttribute(
            &preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof(schemes)),
        s, T);
    for (int i = 0; i < 4; i++) {
        LT_CHECK(cublasLtMatmulPreferenceSetAttribute(&preference, operand[i], &s->alignment,
                                                      sizeof(s->alignment)),
                 s, T);
    }
    // Of these two only the alignment counts here.
    const real *somewhere = (const real *)(uintptr_t)(256 + s->alignment);
    const Operands o = {.bias = s->kind == PRODUCT_BIAS ? somewhere : NULL,
                        .gelu = s->kind == PRODUCT_INPUT_GELU ? somewhere : NULL};
    Terms t = terms_of(s, T, &o);
    return cublasLtMatmulAlgoGetHeuristic(library.handle, &t.op, &t.a, &t.b, &t.d, &t.d,
                                          &preference, wanted, results, found);
}

static cublasStatus_t choose(cublasLtMatmulAlgo_t *algo, const Shape *s, int64_t T) {
    cublasLtMatmulHeuristicResult_t result = {.state = CUBLAS_STATUS_NOT_SUPPORTED};
    int found = 0;
    const cublasStatus_t status = choices(&result, 1, &found, s, T);
    *algo = result.algo;
    return status != CUBLAS_STATUS_SUCCESS ? status : result.state;
}

static bool same(const Shape *a, const Shape *b) {
    return a->kind == b->kind && a->alignment == b->alignment && a->N == b->N && a->K == b->K &&
           a->ldx == b->ldx && a->ldo == b->ldo;
}

// The plan of a shape, with an algorithm for T's class where the library has one; other refusals
// are faults of ours.
static Plan *plan_of(const Shape *s, int64_t T) {
    Plan *plan = NULL;
    for (int i = 0; i < library.plans && plan == NULL; i++) {
        if (same(&library.plan[i].shape, s)) plan = &library.plan[i];
    }
    if (plan == NULL) {
        CHECK(library.plans < PLANS_MAX, "more than %d shapes of products", PLANS_MAX);
        library_start();
        plan = &library.plan[library.plans++];
        plan->shape = *s;
    }
    const int class = class_of(T);
    if (!plan->asked[class]) {
        const cublasStatus_t status = choose(&plan->algo[class], s, class_end(T));
        plan->found[class] = status != CUBLAS_STATUS_NOT_SUPPORTED;
        if (plan->found[class]) LT_STATUS("cublasLtMatmulAlgoGetHeuristic", status, s, T);
        plan->asked[class] = true;
    }
    return plan;
}

static cublasStatus_t matmul(const Operands *o, Terms *t, const cublasLtMatmulAlgo_t *algo,
                             Stream stream) {
    const float one = 1.0f, beta = o->add ? 1.0f : 0.0f;
    return cublasLtMatmul(library.handle, &t->op, &one, o->a, &t->a, o->b, &t->b, &beta, o->d,
                          &t->d, o->d, &t->d, algo, library.scratch, WORKSPACE,
                          cuda_stream(stream));
}

// false: the library has no algorithm for this T, and nothing ran.
static bool run_supported(const Operands *o, const Shape *s, int64_t T, Stream stream) {
    if (T == 0) return true;
    CHECK(library.scratch != NULL, "product of N %lld, K %lld was not prepared", (long long)s->N,
          (long long)s->K);
    const Plan *plan = plan_of(s, T);
    const int class = class_of(T);
    Terms t = terms_of(s, T, o);
    cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (plan->found[class]) status = matmul(o, &t, &plan->algo[class], stream);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
        // Nothing ran: the class has no algorithm that can do this T, so it gets one of its own.
        cublasLtMatmulAlgo_t own;
        status = choose(&own, s, T);
        if (status == CUBLAS_STATUS_NOT_SUPPORTED) return false;
        LT_STATUS("cublasLtMatmulAlgoGetHeuristic", status, s, T);
        status = matmul(o, &t, &own, stream);
    }
    LT_STATUS("cublasLtMatmul", status, s, T);
    if (library.sync) CUDA_CHECK(cudaStreamSynchronize(cuda_stream(stream)));
    return true;
}

static void run(const Operands *o, const Shape *s, int64_t T, Stream stream) {
    if (run_supported(o, s, T, stream)) return;
    LT_STATUS("cublasLtMatmulAlgoGetHeuristic", CUBLAS_STATUS_NOT_SUPPORTED, s, T);
}

// What alignment_of takes: the bits of a pointer to reals and of the bytes between its rows.
static uint64_t reals_bits(const void *p, int64_t ld) {
    return (uintptr_t)p | (uint64_t)(ld * type_size(REAL_TYPE));
}

static uint64_t floats_bits(const float *p, int64_t ld) {
    return (uintptr_t)p | (uint64_t)(ld * (int64_t)sizeof(float));
}

// The lowest bit of all, 16 at most. The library takes bf16 from 2 bytes on, float from 4; the more
// it may rely on, the faster its choice.
static uint32_t alignment_of(uint64_t bits) {
    bits |= 16;
    return (uint32_t)(bits & (~bits + 1));
}

void linear_forward(real *out, int64_t ldo, const real *x, int64_t ldx, const real *w,
                    const real *b, int64_t T, int64_t N, int64_t K, Stream stream) {
    const Shape s = {.kind = b != NULL ? PRODUCT_BIAS : PRODUCT_FORWARD,
                     .alignment = alignment_of(reals_bits(out, ldo) | reals_bits(x, ldx) |
                                               reals_bits(w, K) | reals_bits(b, 0)),
                     .N = N,
                     .K = K,
                     .ldx = ldx,
                     .ldo = ldo};
    run(&(Operands){.a = w, .b = x, .d = out, .bias = b}, &s, T, stream);
}

void linear_backward_input(real *dx, int64_t lddx, bool add_dx, const real *dout, int64_t lddo,
                           const real *w, int64_t T, int64_t N, int64_t K, Stream stream) {
    if (dx == NULL) return;
    const Shape s = {
        .kind = PRODUCT_INPUT,
        .alignment = alignment_of(reals_bits(dx, lddx) | reals_bits(dout, lddo) | reals_bits(w, K)),
        .N = N,
        .K = K,
        .ldx = lddx,
        .ldo = lddo};
    run(&(Operands){.a = w, .b = dout, .d = dx, .add = add_dx}, &s, T, stream);
}

// Not in fp32, which is there to agree with the CPU to 1e-5: how the library comes to its GELU is
// not documented (the hardware's tanh is good to 2^-11). Nor on devices other than H100, H200 and
// B200: on those seen elsewhere the library follows the product by a kernel slower than ours
// (karpathy/llm.c 338 and 591: sm_89; sgl-project/sglang 34350: sm_120).
bool linear_gelu_fused(int64_t N, int64_t K) {
    if (library.capability == 0) library.capability = cuda_capability();
    return REAL_TYPE == TYPE_BF16 && (library.capability == 90 || library.capability == 100) &&
           alignment_of(reals_bits(NULL, N) | reals_bits(NULL, K)) == 16;
}

bool linear_gelu_backward_input(real *dz, const real *z, const real *dout, int64_t lddo,
                                const real *w, int64_t T, int64_t N, int64_t K, Stream stream) {
    const Shape s = {.kind = PRODUCT_INPUT_GELU,
                     .alignment = alignment_of(reals_bits(dz, K) | reals_bits(z, K) |
                                               reals_bits(dout, lddo) | reals_bits(w, K)),
                     .N = N,
                     .K = K,
                     .ldx = K,
                     .ldo = lddo};
    // The library wants auxiliary matrices whose rows all start at 16 bytes.
    if (!linear_gelu_fused(N, K) || s.alignment < 16) return false;
    return run_supported(&(Operands){.a = w, .b = dout, .d = dz, .gelu = z}, &s, T, stream);
}

static int64_t partial_bytes(int64_t T, int64_t N) {
    return round_up(column_sums_partials(T, N) * (int64_t)sizeof(float), 256);
}

static int64_t rounded_bytes(int64_t S, int64_t N) {
    return round_up(S * N * type_size(REAL_TYPE), 256);
}

static int64_t weight_bytes(int64_t N, int64_t K) {
    return REAL_TYPE == TYPE_F32 ? N * K * (int64_t)sizeof(float) : 0;
}

// `begin`: bytes of scratch that are in use.
static void weight_product(Gradient dw, const real *dout, int64_t lddo, const real *x, int64_t ldx,
                           int64_t T, int64_t N, int64_t K, int64_t begin, Stream stream) {
    if (T == 0) {
        if (!dw.add) device_zero(dw.at, N * K * type_size(dw.type), stream);
        return;
    }
    const bool direct = dw.type == TYPE_F32 || dw.type == REAL_TYPE;
    void *sums = direct ? dw.at : library.scratch + begin;
    CHECK(direct || begin + weight_bytes(N, K) <= library.scratch_bytes,
          "weight gradient of %lld x %lld was not prepared", (long long)N, (long long)K);
    const bool is_float = dw.type == TYPE_F32 || !direct;
    const Shape s = {
        .kind = is_float ? PRODUCT_WEIGHT : PRODUCT_WEIGHT_REAL,
        .alignment = alignment_of((is_float ? floats_bits(sums, K) : reals_bits(sums, K)) |
                                  reals_bits(dout, lddo) | reals_bits(x, ldx)),
        .N = N,
        .K = K,
        .ldx = ldx,
        .ldo = lddo};
    run(&(Operands){.a = x, .b = dout, .d = sums, .add = direct && dw.add}, &s, T, stream);
    if (direct) return;
    if (dw.add) vector_add(sums, dw.at, dw.type, N * K, stream);
    vector_round(dw.at, dw.type, sums, N * K, stream);
}

void linear_backward_weight(Gradient dw, Gradient db, const real *dout, int64_t lddo, const real *x,
                            int64_t ldx, int64_t T, int64_t N, int64_t K, Stream stream) {
    const int64_t begin = WORKSPACE + partial_bytes(T, N);
    weight_product(dw, dout, lddo, x, ldx, T, N, K, begin, stream);
    if (db.at == NULL) return;
    CHECK(begin <= library.scratch_bytes, "bias gradient of %lld x %lld was not prepared",
          (long long)T, (long long)N);
    float *partial = (float *)(void *)(library.scratch + WORKSPACE);
    column_sums(db, partial, dout, lddo, T, N, stream);
}

void linear_rows_backward(float *dx, Gradient dw, Gradient db, const float *dout, const real *x,
                          const real *w, int64_t S, int64_t N, int64_t K, Stream stream) {
    const int64_t begin = WORKSPACE + rounded_bytes(S, N);
    CHECK(begin <= library.scratch_bytes, "rows %lld x %lld were not prepared", (long long)S,
          (long long)N);
    real *rounded = (real *)(void *)(library.scratch + WORKSPACE);
    rows_round(rounded, db, dout, S, N, stream);
    weight_product(dw, rounded, N, x, K, S, N, K, begin, stream);
    if (dx == NULL) return;
    const Shape s = {
        .kind = PRODUCT_INPUT_FLOAT,
        .alignment = alignment_of(floats_bits(dx, K) | reals_bits(rounded, N) | reals_bits(w, K)),
        .N = N,
        .K = K,
        .ldx = K,
        .ldo = N};
    run(&(Operands){.a = w, .b = rounded, .d = dx, .add = true}, &s, S, stream);
}

int64_t linear_shared_bytes(int64_t T_max, int64_t N, int64_t K, bool rows) {
    const int64_t sums = partial_bytes(T_max, N);
    return WORKSPACE + (rows ? max_i64(sums, rounded_bytes(T_max, N)) : sums) + weight_bytes(N, K);
}

// Of rows that lie close, as they nearly always do. Others get their plans when they come, which
// takes no memory of the device.
static Shape close_rows(Kind kind, int64_t N, int64_t K) {
    const uint32_t alignment = alignment_of(reals_bits(NULL, N) | reals_bits(NULL, K));
    return (Shape){.kind = kind, .alignment = alignment, .N = N, .K = K, .ldx = K, .ldo = N};
}

static void plan_ahead(Kind kind, int64_t T_max, int64_t N, int64_t K) {
    const Shape s = close_rows(kind, N, K);
    for (int64_t T = 1; T <= T_max; T = class_end(T) + 1) plan_of(&s, T);
}

void linear_prepare(int64_t T_max, int64_t N, int64_t K, bool rows) {
    const int64_t bytes = linear_shared_bytes(T_max, N, K, rows);
    if (bytes > library.scratch_bytes) {
        device_free(library.scratch);
        library.scratch = device_allocate("products", bytes);
        library.scratch_bytes = bytes;
    }
    const Kind all[] = {PRODUCT_FORWARD, PRODUCT_BIAS, PRODUCT_WEIGHT,
                        rows ? PRODUCT_INPUT_FLOAT : PRODUCT_INPUT, PRODUCT_WEIGHT_REAL};
    for (int i = 0; i < (REAL_TYPE == TYPE_F32 ? 4 : 5); i++) plan_ahead(all[i], T_max, N, K);
}

void linear_gelu_prepare(int64_t T_max, int64_t N, int64_t K) {
    if (linear_gelu_fused(N, K)) plan_ahead(PRODUCT_INPUT_GELU, T_max, N, K);
}

// ---- the fastest of the library's choices
// Seconds of one call, a mean over `repeats`; infinity where the algorithm cannot do it.
static double seconds_of(const Operands *o, Terms *t, const cublasLtMatmulAlgo_t *algo,
                         int64_t repeats) {
    stream_wait(NULL);
    const double start = clock_seconds();
    for (int64_t i = 0; i < repeats; i++) {
        if (matmul(o, t, algo, NULL) != CUBLAS_STATUS_SUCCESS) return INFINITY;
    }
    stream_wait(NULL);
    return (clock_seconds() - start) / (double)repeats;
}

// T's class gets the fastest algorithm, if it is faster than its own by more than a clock errs.
static void time_choices(Kind kind, int64_t T, int64_t N, int64_t K, const Operands *o) {
    enum { CHOICES = 8, ROUNDS = 3 };
    const Shape s = close_rows(kind, N, K);
    Plan *plan = plan_of(&s, T);
    const int class = class_of(T);
    cublasLtMatmulHeuristicResult_t result[1 + CHOICES];  // The plan's own first.
    int found = 0, best = 0;
    if (choices(result + 1, CHOICES, &found, &s, T) != CUBLAS_STATUS_SUCCESS) return;
    result[0].algo = plan->algo[class];
    result[0].state = plan->found[class] ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
    Terms t = terms_of(&s, T, o);
    double warm[1 + CHOICES] = {0}, least[1 + CHOICES];
    for (int i = 0; i <= found; i++) {
        least[i] = warm[i] = INFINITY;
        for (int j = 0; j < 2 && result[i].state == CUBLAS_STATUS_SUCCESS; j++) {  // First, loads.
            warm[i] = seconds_of(o, &t, &result[i].algo, 1);
        }
        if (warm[i] < warm[best]) best = i;
    }
    if (!isfinite(warm[best])) return;
    const double most = 2 * warm[best];  // What is much slower is left out.
    const int64_t repeats = 1 + (int64_t)fmin(5e-4 / warm[best], 99);
    for (int i = 0; i < ROUNDS * (1 + found); i++) {
        const int k = i % (1 + found);
        if (warm[k] > most) continue;
        least[k] = fmin(least[k], seconds_of(o, &t, &result[k].algo, repeats));
        if (least[k] < least[best]) best = k;
    }
    if (!(least[best] < 0.98 * least[0])) return;
    plan->algo[class] = result[best].algo;
    plan->found[class] = true;
}

void linear_time(int64_t T_max, int64_t N, int64_t K) {
    const Shape forward = close_rows(PRODUCT_FORWARD, N, K);
    Plan *const plan = plan_of(&forward, T_max);
    if (plan->timed[class_of(T_max)]) return;
    plan->timed[class_of(T_max)] = true;
    real *const x = random_reals("rows to time products with", T_max * K);
    real *const out = random_reals("rows to time products with", T_max * N);
    real *const w = random_reals("weights to time products with", N * K);
    real *const dx =
        device_allocate("rows to time products with", T_max * K * type_size(REAL_TYPE));
    float *const dw = device_allocate("weights to time products with", N * K * 4);
    const struct {
        Kind kind;
        bool wanted;
        Operands operands;
    } all[] = {
        {PRODUCT_FORWARD, true, {.a = w, .b = x, .d = out}},
        {PRODUCT_BIAS, true, {.a = w, .b = x, .d = out, .bias = w}},
        {PRODUCT_INPUT, true, {.a = w, .b = out, .d = dx}},
        {PRODUCT_INPUT_GELU, linear_gelu_fused(N, K), {.a = w, .b = out, .d = dx, .gelu = x}},
        {PRODUCT_WEIGHT, true, {.a = x, .b = out, .d = dw}},
        {PRODUCT_WEIGHT_REAL, REAL_TYPE != TYPE_F32, {.a = x, .b = out, .d = dw}},
    };
    // The class of full packs, and the one below it.
    const int64_t full[] = {T_max, class_below(T_max)};
    for (size_t i = 0; i < 2 * sizeof(all) / sizeof(*all); i++) {
        const size_t kind = i / 2;
        if (!all[kind].wanted || full[i % 2] == 0) continue;
        time_choices(all[kind].kind, full[i % 2], N, K, &all[kind].operands);
    }
    void *const buffers[] = {x, out, w, dx, dw};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(*buffers); i++) device_free(buffers[i]);
}

double linear_plain_flops(int64_t T, int64_t N, int64_t K) {
    enum { TRIES = 5 };
    linear_prepare(1, N, K, false);
    real *w = random_reals("plain product", N * K), *x = random_reals("plain product", T * K);
    real *out = device_allocate("plain product", T * N * type_size(REAL_TYPE));
    const uint32_t alignment = alignment_of(reals_bits(NULL, N) | reals_bits(NULL, K));
    const Shape s = {PRODUCT_FORWARD, alignment, N, K, K, N};
    cublasLtMatmulAlgo_t algo;
    LT_STATUS("cublasLtMatmulAlgoGetHeuristic", choose(&algo, &s, T), &s, T);
    const Operands o = {.a = w, .b = x, .d = out};
    Terms t = terms_of(&s, T, &o);
    const double flops = 2.0 * (double)T * (double)N * (double)K;
    double best = 0;
    int64_t repeats = 1;  // About 10 ms, beside which starting and waiting are short.
    for (int i = -2; i < TRIES; i++) {
        const double start = clock_seconds();
        for (int64_t j = 0; j < repeats; j++) {
            LT_STATUS("cublasLtMatmul", matmul(&o, &t, &algo, NULL), &s, T);
        }
        stream_wait(NULL);
        const double rate = (double)repeats * flops / (clock_seconds() - start);
        if (i == -1) repeats = 1 + min_i64(999, (int64_t)(0.01 * rate / flops));
        if (i >= 0 && rate > best) best = rate;
    }
    device_free(w);
    device_free(x);
    device_free(out);
    return best;
}
