#include "tests/emulator/cublasLt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "tests/emulator/emulator.h"

extern "C" {
#include "base/real.h"
}

struct cublasLtContext {
    int started;
};

namespace {

// What the opaque structs hold here. `set` tells those that were never initialised.
constexpr uint32_t SET = 0x1a70u;

struct Layout {
    uint32_t set;
    cudaDataType type;
    int64_t rows, columns, ld;
};

struct Op {
    uint32_t set;
    cublasComputeType_t compute;
    cudaDataType scale;
    int32_t transposed[2];
    uint32_t epilogue;
    const void *bias, *aux;
    int64_t aux_ld;
};

struct Preference {
    uint32_t set;
    uint32_t schemes, alignment[4];
    uint64_t workspace;
};

// 64 bytes, as the library's.
struct Algo {
    uint16_t set, kind;  // Types, transpositions and epilogue that it is for.
    uint8_t alignment[4], bias_alignment;
    bool random, strict;  // In what order it sums; whether it does its own sizes only (none does
                          // under EMULATOR_LENIENT).
    bool slow;            // Takes 3 ms longer: the first choice under EMULATOR_SLOW_CHOICE.
    uint8_t depth;        // It sums this many products at a time.
    uint32_t workspace;
    int64_t m, n, k;
};

template <class To, class From>
To peek(const From *from) {
    static_assert(sizeof(To) <= sizeof(From), "the library has less room");
    To to;
    memcpy(&to, from, sizeof(to));
    return to;
}

template <class To, class From>
void poke(To *to, const From &from) {
    static_assert(sizeof(From) <= sizeof(To), "the library has less room");
    memcpy(to, &from, sizeof(from));
}

template <class T>
bool read(T *to, const void *value, size_t bytes) {
    if (value == nullptr || bytes != sizeof(T)) return false;
    memcpy(to, value, bytes);
    return true;
}

int64_t size_of(cudaDataType type) {
    return type == CUDA_R_16BF ? 2 : 4;
}

bool has_bias(const Op &op) {
    return op.epilogue == CUBLASLT_EPILOGUE_BIAS;
}

bool has_aux(const Op &op) {
    return op.epilogue == CUBLASLT_EPILOGUE_DGELU;
}

// The largest power of two up to 16 that divides x.
uint32_t alignment_of(uint64_t x) {
    uint32_t a = 16;
    while (x % a != 0) a /= 2;
    return a;
}

// One product, all of it by value: what is described may be gone when it runs.
struct Product {
    Op op;
    Layout operand[4];  // A, B, C, D.
    const void *at[4];
    int64_t m, n, k;
    float alpha, beta;
};

cublasStatus_t describe(Product *p, const cublasLtMatmulDescOpaque_t *op,
                        const cublasLtMatrixLayoutOpaque_t *a,
                        const cublasLtMatrixLayoutOpaque_t *b,
                        const cublasLtMatrixLayoutOpaque_t *c,
                        const cublasLtMatrixLayoutOpaque_t *d) {
    p->op = peek<Op>(op);
    if (p->op.set != SET) return CUBLAS_STATUS_INVALID_VALUE;
    const cublasLtMatrixLayoutOpaque_t *given[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        Layout &l = p->operand[i];
        l = peek<Layout>(given[i]);
        if (l.set != SET || l.rows <= 0 || l.columns <= 0 || l.ld < l.rows) {
            return CUBLAS_STATUS_INVALID_VALUE;
        }
    }
    const Layout &A = p->operand[0], &B = p->operand[1], &C = p->operand[2], &D = p->operand[3];
    const bool ta = p->op.transposed[0], tb = p->op.transposed[1];
    p->m = ta ? A.columns : A.rows;
    p->k = ta ? A.rows : A.columns;
    p->n = tb ? B.rows : B.columns;
    if (p->k != (tb ? B.columns : B.rows) || D.rows != p->m || D.columns != p->n ||
        C.rows != p->m || C.columns != p->n) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const bool types =
        A.type == B.type && C.type == D.type && (A.type == CUDA_R_16BF || D.type == CUDA_R_32F);
    if (!types || p->op.compute != CUBLAS_COMPUTE_32F || p->op.scale != CUDA_R_32F) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (has_bias(p->op) && p->op.bias == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    if (!has_aux(p->op)) return CUBLAS_STATUS_SUCCESS;
    const int64_t ld = p->op.aux_ld;
    if (p->op.aux == nullptr || (uintptr_t)p->op.aux % 16 != 0 || ld < p->m || ld % 8 != 0) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    // As the library may have none for any shape.
    if (p->k < 16 || p->n % 16 == 3) return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

uint16_t kind_of(const Product &p) {
    return (uint16_t)(p.op.epilogue << 4 | (p.operand[0].type == CUDA_R_16BF) << 3 |
                      (p.operand[3].type == CUDA_R_16BF) << 2 | p.op.transposed[0] << 1 |
                      p.op.transposed[1]);
}

bool fits(const Algo &a, const Product &p, const void *workspace, size_t bytes) {
    if (a.set != (uint16_t)SET || a.kind != kind_of(p)) return false;
    if (a.strict && (a.m != p.m || a.n != p.n || a.k != p.k)) return false;
    for (int i = 0; i < 4; i++) {
        const int64_t size = size_of(p.operand[i].type);
        if (alignment_of((uintptr_t)p.at[i]) < a.alignment[i]) return false;
        if (alignment_of((uint64_t)(p.operand[i].ld * size)) < a.alignment[i]) return false;
    }
    if (has_bias(p.op) && alignment_of((uintptr_t)p.op.bias) < a.bias_alignment) return false;
    return workspace != nullptr && alignment_of((uintptr_t)workspace) == 16 && bytes >= a.workspace;
}

float load(const void *from, cudaDataType type, int64_t i) {
    return type == CUDA_R_16BF ? bf16_to_float(((const uint16_t *)from)[i])
                               : ((const float *)from)[i];
}

void store(void *to, cudaDataType type, int64_t i, float x) {
    if (type == CUDA_R_16BF) {
        ((uint16_t *)to)[i] = float_to_bf16(x);
    } else {
        ((float *)to)[i] = x;
    }
}

// op(A) as k rows of m; op(B) as n rows of k.
std::vector<float> rows_of(const Product &p, int which, bool as_stored) {
    const Layout &l = p.operand[which];
    std::vector<float> rows((size_t)(l.rows * l.columns));
    for (int64_t c = 0; c < l.columns; c++) {
        for (int64_t r = 0; r < l.rows; r++) {
            const float x = load(p.at[which], l.type, c * l.ld + r);
            rows[(size_t)(as_stored ? c * l.rows + r : r * l.columns + c)] = x;
        }
    }
    return rows;
}

// Of the tanh form.
double gelu_slope(double x) {
    const double t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
    return 0.5 * (1.0 + t) +
           0.5 * x * (1.0 - t * t) * 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * x * x);
}

// What becomes of element (i, j) of the product before it is stored.
float epilogue(const Product &p, int64_t i, int64_t j, float x) {
    const cudaDataType type = p.operand[3].type;
    if (has_bias(p.op)) return x + load(p.op.bias, type, i);
    if (!has_aux(p.op)) return x;
    return (float)(x * gelu_slope(load(p.op.aux, type, j * p.op.aux_ld + i)));
}

void multiply(const Product &p, const Algo &algo, void *workspace) {
    memset(workspace, 0xff, algo.workspace);
    const std::vector<float> a = rows_of(p, 0, !p.op.transposed[0]);
    const std::vector<float> b = rows_of(p, 1, !p.op.transposed[1]);
    const int64_t m = p.m, k = p.k, depth = algo.depth;
    std::vector<int64_t> starts;
    for (int64_t i = 0; i < k; i += depth) starts.push_back(i);
    std::vector<float> sum((size_t)m), part((size_t)m);
    const Layout &C = p.operand[2], &D = p.operand[3];
    for (int64_t j = 0; j < p.n; j++) {
        if (algo.random) {
            for (size_t i = starts.size(); i > 1; i--) {
                std::swap(starts[i - 1], starts[emulator::random_below((uint32_t)i)]);
            }
        }
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (const int64_t start : starts) {
            std::fill(part.begin(), part.end(), 0.0f);
            for (int64_t q = start; q < min_i64(k, start + depth); q++) {
                const float factor = b[(size_t)(j * k + q)];
                const float *row = &a[(size_t)(q * m)];
                for (int64_t i = 0; i < m; i++) part[(size_t)i] += factor * row[i];
            }
            for (int64_t i = 0; i < m; i++) sum[(size_t)i] += part[(size_t)i];
        }
        for (int64_t i = 0; i < m; i++) {
            float x = p.alpha * sum[(size_t)i];
            if (p.beta != 0) x += p.beta * load(p.at[2], C.type, j * C.ld + i);
            store((void *)p.at[3], D.type, j * D.ld + i, epilogue(p, i, j, x));
        }
    }
}

// From the first to the last byte of something that a product touches.
struct Range {
    const char *name, *begin;
    int64_t bytes;
    bool written;
};

Range range_of(const char *name, const void *at, const Layout &l, bool written) {
    return {name, (const char *)at, ((l.columns - 1) * l.ld + l.rows) * size_of(l.type), written};
}

// A device would fault on memory that is not its own, and blocks that write what others have yet to
// read would give something else each time. C may be D.
void check_memory(const Product &p, const void *workspace, size_t bytes) {
    const Layout &D = p.operand[3];
    const Layout vector = {SET, D.type, p.m, 1, p.m}, aux = {SET, D.type, p.m, p.n, p.op.aux_ld};
    std::vector<Range> ranges = {range_of("operand A", p.at[0], p.operand[0], false),
                                 range_of("operand B", p.at[1], p.operand[1], false),
                                 range_of("operand D", p.at[3], D, true),
                                 {"the workspace", (const char *)workspace, (int64_t)bytes, true}};
    if (has_bias(p.op)) ranges.push_back(range_of("the bias", p.op.bias, vector, false));
    if (has_aux(p.op)) ranges.push_back(range_of("the auxiliary matrix", p.op.aux, aux, false));
    if (p.at[2] != p.at[3]) {
        ranges.push_back(range_of("operand C", p.at[2], p.operand[2], false));
    }
    for (const Range &r : ranges) {
        if (!emulator_on_device(r.begin, (size_t)r.bytes)) {
            FAULT("cublasLtMatmul: %s is not memory of the device", r.name);
        }
        for (const Range &w : ranges) {
            const bool apart = w.begin + w.bytes <= r.begin || r.begin + r.bytes <= w.begin;
            if (&w == &r || !w.written || apart) continue;
            FAULT("cublasLtMatmul: %s overlaps %s", w.name, r.name);
        }
    }
}

}  // namespace

const char *cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS:
            return "success";
        case CUBLAS_STATUS_NOT_INITIALIZED:
            return "the library was not initialized";
        case CUBLAS_STATUS_ALLOC_FAILED:
            return "the resource allocation failed";
        case CUBLAS_STATUS_INVALID_VALUE:
            return "an unsupported value or parameter was passed to the function";
        case CUBLAS_STATUS_NOT_SUPPORTED:
            return "the functionality requested is not supported";
    }
    return "unknown";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    static cublasLtContext context = {1};
    *handle = &context;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    return handle == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType type,
                                        uint64_t rows, uint64_t columns, int64_t ld) {
    poke(layout, Layout{SET, type, (int64_t)rows, (int64_t)columns, ld});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t op, cublasComputeType_t compute,
                                      cudaDataType_t scale) {
    poke(op, Op{SET, compute, scale, {0, 0}, CUBLASLT_EPILOGUE_DEFAULT, nullptr, nullptr, 0});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t op,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes) {
    Op o = peek<Op>(op);
    bool ok = o.set == SET;
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_TRANSA:
            ok = ok && read(&o.transposed[0], value, bytes);
            break;
        case CUBLASLT_MATMUL_DESC_TRANSB:
            ok = ok && read(&o.transposed[1], value, bytes);
            break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE:
            ok = ok && read(&o.epilogue, value, bytes);
            break;
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
            ok = ok && read(&o.bias, value, bytes);
            break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
            ok = ok && read(&o.aux, value, bytes);
            break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
            ok = ok && read(&o.aux_ld, value, bytes);
            break;
        default:
            ok = false;
    }
    poke(op, o);
    return ok ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference) {
    poke(preference, Preference{SET, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}, 0});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes) {
    Preference p = peek<Preference>(preference);
    bool ok = p.set == SET;
    switch (attribute) {
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
            ok = ok && read(&p.workspace, value, bytes);
            break;
        case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
            ok = ok && read(&p.schemes, value, bytes);
            break;
        default: {
            const int i = (int)attribute - (int)CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
            ok = ok && i >= 0 && i < 4 && read(&p.alignment[i], value, bytes);
        }
    }
    poke(preference, p);
    return ok ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t op,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *found) {
    Product p = {};
    emulator::count("plan of a product");
    *found = 0;
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    const cublasStatus_t status = describe(&p, op, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    const Preference want = peek<Preference>(preference);
    if (want.set != SET) return CUBLAS_STATUS_INVALID_VALUE;
    Algo algo = {};
    algo.set = (uint16_t)SET;
    algo.kind = kind_of(p);
    for (int i = 0; i < 4; i++) {
        const int64_t bytes = p.operand[i].ld * size_of(p.operand[i].type);
        algo.alignment[i] =
            (uint8_t)std::min(alignment_of((uint64_t)bytes), alignment_of(want.alignment[i]));
    }
    if (has_bias(p.op)) algo.bias_alignment = (uint8_t)alignment_of((uintptr_t)p.op.bias);
    const int64_t mixed = p.m * 7 + p.n * 3 + p.k;
    algo.random = (want.schemes & (CUBLASLT_REDUCTION_SCHEME_INPLACE |
                                   CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE)) != 0;
    algo.strict = mixed % 5 == 0 && getenv("EMULATOR_LENIENT") == nullptr;
    algo.depth = (uint8_t)(16 + 8 * (mixed % 7));
    algo.workspace = (uint32_t)min_i64((int64_t)want.workspace, 4096);
    algo.m = p.m;
    algo.n = p.n;
    algo.k = p.k;
    // The second choice sums in another order, and the third cannot do this product.
    *found = std::min(wanted, 3);
    for (int i = 0; i < *found; i++) {
        memset(results + i, 0, sizeof(*results));
        algo.slow = i == 0 && getenv("EMULATOR_SLOW_CHOICE") != nullptr;
        if (i == 1) algo.depth += 8;
        if (i == 2) algo.kind++;
        poke(&results[i].algo, algo);
        results[i].workspaceSize = algo.workspace;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t op, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t a, const void *B,
                              cublasLtMatrixLayout_t b, const void *beta, const void *C,
                              cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *chosen, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    Product p = {};
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    const cublasStatus_t status = describe(&p, op, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    const void *at[4] = {A, B, C, D};
    memcpy(p.at, at, sizeof(at));
    p.alpha = *(const float *)alpha;
    p.beta = *(const float *)beta;
    if (C == D && p.operand[2].ld != p.operand[3].ld) return CUBLAS_STATUS_INVALID_VALUE;
    const Algo algo = peek<Algo>(chosen);
    if (!fits(algo, p, workspace, workspace_bytes)) return CUBLAS_STATUS_NOT_SUPPORTED;
    check_memory(p, workspace, workspace_bytes);
    emulator::enqueue(stream, [=] {
        if (algo.slow) usleep(3000);
        multiply(p, algo, workspace);
    });
    return CUBLAS_STATUS_SUCCESS;
}
