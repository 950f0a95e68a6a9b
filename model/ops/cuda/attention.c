// Attention on CUDA: which of its two ways serves a call.
#include "model/ops/attention.h"

#include "model/ops/cuda/attention_paths.h"

// Our own kernels serve fp32, which cuDNN lacks, and whoever wants the same bits in every run;
// and heads or devices that cuDNN has no engine for, as attention_describe says.
static bool own(int64_t D, bool deterministic) {
    return REAL_TYPE == TYPE_F32 || deterministic || D % 8 != 0 || !attention_cudnn_available(D);
}

void attention_forward(real *out, int64_t ldo, float *lse, const real *q, int64_t ldq,
                       const real *k, int64_t ldk, const real *v, int64_t ldv,
                       const AttentionShape *shape, void *scratch, Stream stream) {
    if (own(shape->D, shape->deterministic)) {
        attention_own_forward(out, ldo, lse, q, ldq, k, ldk, v, ldv, shape, stream);
    } else {
        attention_cudnn_forward(out, ldo, lse, q, ldq, k, ldk, v, ldv, shape, scratch, stream);
    }
}

void attention_backward(const AttentionBackward *arguments, const AttentionShape *shape,
                        void *scratch, Stream stream) {
    (own(shape->D, shape->deterministic) ? attention_own_backward : attention_cudnn_backward)(
        arguments, shape, scratch, stream);
}

int64_t attention_scratch(const AttentionBounds *bounds, bool backward) {
    return (own(bounds->D, bounds->deterministic) ? attention_own_scratch
                                                  : attention_cudnn_scratch)(bounds, backward);
}

void attention_prepare(const AttentionBounds *bounds, int64_t ldq, int64_t ldk, int64_t ldv,
                       int64_t ldo) {
    if (own(bounds->D, bounds->deterministic)) return;
    attention_cudnn_prepare(bounds, ldq, ldk, ldv, ldo);
}

const char *attention_describe(int64_t D, bool deterministic) {
    if (REAL_TYPE == TYPE_F32) return "our own kernels on the fp32 pipes, since cuDNN has no fp32";
    if (!own(D, deterministic)) {
        return "cuDNN; gradients are sums in changing order (run.deterministic=true: they are not)";
    }
    const bool tensor = attention_own_tensor(D);
    if (deterministic) {
        return tensor ? "our own kernels on tensor cores (run.deterministic)"
                      : "our own kernels on the fp32 pipes (run.deterministic): slow";
    }
    return tensor ? "our own kernels on tensor cores, since cuDNN has none for this GPU"
                  : "our own kernels on the fp32 pipes, since cuDNN has none for this GPU or "
                    "head_dim: slow";
}
