// The two ways to attend on CUDA, between which attention.c chooses: our own kernels and cuDNN's.
// Arguments are those of model/ops/attention.h.
#ifndef MODEL_OPS_CUDA_ATTENTION_PATHS_H
#define MODEL_OPS_CUDA_ATTENTION_PATHS_H

#include "model/ops/attention.h"

// Our own, of any D up to 256: all sums in ascending order of rows. On tensor cores in bf16 where D
// is a multiple of 8 up to 128 and rows start at 16 bytes; otherwise on the fp32 pipes.
bool attention_own_tensor(int64_t D);
void attention_own_forward(real *out, int64_t ldo, float *lse, const real *q, int64_t ldq,
                           const real *k, int64_t ldk, const real *v, int64_t ldv,
                           const AttentionShape *shape, Stream stream);
void attention_own_backward(const AttentionBackward *arguments, const AttentionShape *shape,
                            void *scratch, Stream stream);
int64_t attention_own_scratch(const AttentionBounds *bounds, bool backward);

// cuDNN's, in bf16: on tensor cores; gradients are sums in changing order. available: whether the
// library is there and has engines for heads of D on this device.
bool attention_cudnn_available(int64_t D);
void attention_cudnn_forward(real *out, int64_t ldo, float *lse, const real *q, int64_t ldq,
                             const real *k, int64_t ldk, const real *v, int64_t ldv,
                             const AttentionShape *shape, void *scratch, Stream stream);
void attention_cudnn_backward(const AttentionBackward *arguments, const AttentionShape *shape,
                              void *scratch, Stream stream);
int64_t attention_cudnn_scratch(const AttentionBounds *bounds, bool backward);
void attention_cudnn_prepare(const AttentionBounds *bounds, int64_t ldq, int64_t ldk, int64_t ldv,
                             int64_t ldo);

#endif
