// Which plans of cuDNN's attention the packs of a model need: for attention_cudnn_prepare, and for
// tests that build them all without a device.
#ifndef MODEL_OPS_CUDA_ATTENTION_CUDNN_H
#define MODEL_OPS_CUDA_ATTENTION_CUDNN_H

#include "model/ops/attention.h"
#include "model/ops/cuda/attention_cudnn_plan.h"

// Classes of lengths that a pack's segments fall in; plans of a call.
enum { CLASSES_MAX = 40, PLAN_SHAPES_MAX = CLASSES_MAX + LENGTHS_MAX };

// Writes the shapes [PLAN_SHAPES_MAX] of the plans, forward or backward, for calls within `bounds`;
// returns how many.
int attention_cudnn_shapes(PlanShape *list, const AttentionBounds *bounds, int64_t ldq, int64_t ldk,
                           int64_t ldv, int64_t ldo, bool backward);

// Bytes that a plan may want for itself; attention_cudnn_scratch has room for so many.
int64_t attention_cudnn_workspace(int64_t batch);

#endif
