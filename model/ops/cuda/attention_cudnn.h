// Which plans of cuDNN's attention the packs of a model need: for attention_cudnn_prepare, and for
// tests that build them all without a device.
#ifndef MODEL_OPS_CUDA_ATTENTION_CUDNN_H
#define MODEL_OPS_CUDA_ATTENTION_CUDNN_H

#include "model/ops/attention.h"
#include "model/ops/cuda/attention_cudnn_plan.h"

enum { CLASSES_MAX = 40 };  // Classes of lengths that a pack's segments fall in.

// Writes the shapes [CLASSES_MAX] of the plans, forward or backward, for calls within `bounds`;
// returns how many.
int attention_cudnn_shapes(PlanShape *list, const AttentionBounds *bounds, int64_t ldq, int64_t ldk,
                           int64_t ldv, int64_t ldo, bool backward);

// Bytes that a plan may want for itself; attention_cudnn_scratch has room for so many.
int64_t attention_cudnn_workspace(int64_t batch);

#endif
