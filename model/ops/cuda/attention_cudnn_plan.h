// Fused attention of cuDNN 9 as execution plans of its graph API, for batches of segments of any
// lengths up to a plan's bounds. What is batched, and where, is attention_cudnn.c's work.
#ifndef MODEL_OPS_CUDA_ATTENTION_CUDNN_PLAN_H
#define MODEL_OPS_CUDA_ATTENTION_CUDNN_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/device.h"

// What a plan is built for. Rows of q and dq are ldq elements apart, of k and dk ldk, of v and dv
// ldv, of out and dout ldo; heads * D elements of a row belong to the tensor.
typedef struct {
    bool backward;
    // All segments are as long as said here, and follow each other: nothing is masked.
    bool even;
    int64_t batch;          // Segments at most; unused ones have length 0.
    int64_t queries, keys;  // Rows of one segment at most.
    int64_t heads, D;
    int64_t ldq, ldk, ldv, ldo;
} PlanShape;

// Everything that a plan reads or writes, on the device.
typedef enum {
    PLAN_Q,
    PLAN_K,
    PLAN_V,
    PLAN_OUT,
    PLAN_LSE,  // [T, heads] float
    // These are the backward's alone.
    PLAN_DOUT,
    PLAN_DQ,
    PLAN_DK,
    PLAN_DV,
    PLAN_SUM,     // float [batch, heads, queries]: sum over D of dout * out.
    PLAN_DQ_SUM,  // float [batch, heads, queries, D]: dq, not yet rounded.
    // Of each batch entry: its lengths, int32 [batch], and where it begins in tensors of a row
    // stride, in elements, int64 [batch + 1].
    PLAN_QUERIES,
    PLAN_KEYS,
    PLAN_START_Q,
    PLAN_START_K,
    PLAN_START_V,
    PLAN_START_OUT,
    PLAN_START_LSE,
    PLAN_TENSORS
} PlanTensor;

typedef struct AttentionPlan AttentionPlan;

// Whether cuDNN has engines, forward and backward, for heads of D on GPUs of this compute
// capability (90: Hopper). Not on 8x and 12x, whose backward takes no [T, heads] log-sum-exp.
bool plan_supported(int capability, int64_t D);

// The library's version: 91900 is 9.19.0.
int64_t plan_library_version(void);

// Builds a plan, which takes up to a second; dies with cuDNN's reason where there is no engine.
// device: NULL for this process's device, else a description of one as cuDNN writes it in JSON.
// Local.
AttentionPlan *plan_create(const PlanShape *shape, const char *device);
void plan_free(AttentionPlan *plan);

const PlanShape *plan_shape(const AttentionPlan *plan);

// Bytes of scratch that cuDNN wants for itself.
int64_t plan_workspace(const AttentionPlan *plan);

// Starts it on `stream`. tensor [PLAN_TENSORS]; those that its kind lacks are not looked at.
void plan_run(const AttentionPlan *plan, void *const *tensor, float scale, void *workspace,
              Stream stream);

#endif
