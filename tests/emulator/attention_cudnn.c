// The emulator's twin of model/ops/cuda/attention_cudnn.c: cuDNN is not there, so attention.c
// chooses our own kernels and calls nothing else of this file.
#include "base/die.h"
#include "model/ops/cuda/attention_paths.h"

bool attention_cudnn_available(int64_t D) {
    (void)D;
    return false;
}

void attention_cudnn_forward(real *out, int64_t ldo, float *lse, const real *q, int64_t ldq,
                             const real *k, int64_t ldk, const real *v, int64_t ldv,
                             const AttentionShape *shape, void *scratch, Stream stream) {
    (void)out, (void)ldo, (void)lse, (void)q, (void)ldq, (void)k, (void)ldk, (void)v, (void)ldv;
    (void)shape, (void)scratch, (void)stream;
    DIE("the emulator has no cuDNN");
}

void attention_cudnn_backward(const AttentionBackward *arguments, const AttentionShape *shape,
                              void *scratch, Stream stream) {
    (void)arguments, (void)shape, (void)scratch, (void)stream;
    DIE("the emulator has no cuDNN");
}

int64_t attention_cudnn_scratch(const AttentionBounds *bounds, bool backward) {
    (void)bounds, (void)backward;
    DIE("the emulator has no cuDNN");
}

void attention_cudnn_prepare(const AttentionBounds *bounds, int64_t ldq, int64_t ldk, int64_t ldv,
                             int64_t ldo) {
    (void)bounds, (void)ldq, (void)ldk, (void)ldv, (void)ldo;
    DIE("the emulator has no cuDNN");
}
