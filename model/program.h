// A model recorded as lists of ops. A model file records each kind of unit (stem, block, head)
// once; from the recording follow forward, recomputation, backward, the memory plan and the cost.
//
// A value is a matrix: a symbolic number of rows, fixed columns. Its bound is known from the
// configuration, so memory is planned once; the sizes of each pack are bound when it runs.
#ifndef MODEL_PROGRAM_H
#define MODEL_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/gradient.h"
#include "base/param.h"
#include "model/op_times.h"
#include "model/pack.h"
#include "parallel/mesh.h"

// What a value has one row of.
typedef enum {
    ROWS_TOKENS,    // Tokens of this rank.
    ROWS_PACK,      // Tokens of the whole pack (of some heads, under sequence parallelism).
    ROWS_TEXT,      // Text tokens of the segments that this rank touches.
    ROWS_SEGMENTS,  // Segments that this rank touches. Their gradients are float, and added up.
    ROWS_KINDS,
} Rows;

typedef enum {
    OP_LINEAR,
    OP_GELU,
    OP_SILU,
    OP_SWIGLU,
    OP_NORM_MODULATE,
    OP_QK_NORM_ROPE,
    OP_ATTENTION,
    OP_GATE_RESIDUAL,
    OP_TIME_EMBEDDING,
    OP_QKV_SEND,
    OP_TOKENS_TO_HEADS,
    OP_HEADS_TO_TOKENS,
    OP_KINDS,
} OpKind;

typedef enum { RECOMPUTE_NONE, RECOMPUTE_CHEAP, RECOMPUTE_LINEAR, RECOMPUTE_BLOCK } Recompute;

enum {
    VALUES_MAX = 64,
    CALLS_MAX = 48,
    OP_INPUTS_MAX = 4,
    OP_OUTPUTS_MAX = 3,
    OP_PARAMS_MAX = 2,
    NO_VALUE = -1,
};

typedef int Value;  // Number of a value in its program, or NO_VALUE.

typedef struct {
    Rows rows;
    int64_t cols;
    Type type;
    Value root;  // The value whose memory this is: itself, or the wider tensor it is columns of.
    int64_t column;  // First column in the root.
    bool gradient;   // Whether a gradient flows through it.
    bool boundary;   // An input or output of the unit: its memory is the model's.
    int producer;    // Number of the call that makes it, -1 for inputs.
} ValueInfo;

typedef struct {
    OpKind op;
    int inputs, outputs;
    Value in[OP_INPUTS_MAX];  // NO_VALUE where an optional input is missing.
    Value out[OP_OUTPUTS_MAX];
    int64_t param[OP_PARAMS_MAX];  // Offset in the unit's buffer, -1 where missing.
    float number;                  // Epsilon of norms, factor of the time embedding.
    int choice;                    // NormKind; 1: RoPE, cross-attention.
    int64_t heads;                 // Attention: of this rank; others: of all ranks.
    int64_t width;                 // Attention: columns of all heads of all ranks.
} Call;

// Where the planner put things: offsets into the regions `kept` (one per unit that runs, from
// forward to backward) and `work` (one for all).
typedef struct {
    bool kept[VALUES_MAX];
    int64_t kept_offset[VALUES_MAX];
    int64_t forward_offset[VALUES_MAX];   // In work, while the forward runs.
    int64_t backward_offset[VALUES_MAX];  // In work, while recomputation and backward run.
    int64_t gradient_offset[VALUES_MAX];  // In work.
    Value gradient_root[VALUES_MAX];      // The value whose gradient memory this one shares.
    int64_t forward_scratch[CALLS_MAX], recompute_scratch[CALLS_MAX], backward_scratch[CALLS_MAX];
    bool recompute[CALLS_MAX];  // Runs again before the backward.
    // Whether a linear's backward goes through the GELU before it: no gradient lies between them.
    bool gelu_backward[CALLS_MAX];
    bool add[CALLS_MAX][OP_INPUTS_MAX];   // Whether a gradient is there already.
    bool zero[CALLS_MAX][OP_INPUTS_MAX];  // Whether the gradient (float rows) starts here, as zero.
    int64_t kept_bytes, work_bytes;
} ProgramPlan;

typedef struct {
    const char *name;
    ParamTable *params;
    char prefix[48];         // Of the names of parameters: "blocks.3.".
    const Mesh *mesh;        // One rank per pack: the ops of sequence parallelism are left out.
    bool deterministic;      // Gradients may not depend on the order in which blocks run.
    const int64_t *lengths;  // [LENGTHS_MAX] of many segments; see AttentionBounds.
    int values, calls;
    ValueInfo value[VALUES_MAX];
    Call call[CALLS_MAX];
    ProgramPlan plan;
} Program;

// Model FLOPs (multiply and add are two) of a forward: per token, per text token, per segment, and
// for each segment per pair of tokens and per pair of token and text token. Sequence parallelism
// does not change them.
typedef struct {
    int64_t token, text, segment, token_token, token_text;
} Cost;

// Starts recording: the next parameter unit, an empty program.
void program_begin(Program *p, const char *name, ParamTable *params, const Mesh *mesh,
                   const char *prefix);

// An input of the unit; `gradient`: its gradient is wanted. And what the unit gives to the next.
Value program_input(Program *p, Rows rows, int64_t cols, bool gradient);
void program_output(Program *p, Value value);

// Adds the FLOPs of one run of the program to `cost`.
void program_cost(const Program *p, Cost *cost);

// Decides what is kept, recomputed and where everything lies, for at most bound[rows] rows of each
// kind.
void program_plan(Program *p, Recompute recompute, const int64_t bound[ROWS_KINDS]);

// What one run works on; `external` and `external_gradient` by value, boundary values only.
typedef struct {
    const PackBind *bind;
    const real *weights;  // The unit's parameters.
    Gradient gradient;    // Of the unit's parameters (backward only).
    char *kept, *work;
    void *external[VALUES_MAX];
    void *external_gradient[VALUES_MAX];
    OpTimes *op_times;  // NULL: not measured.
} ProgramRun;

void program_forward(const Program *p, const ProgramRun *run, Stream stream);

// Recomputes what is missing, then the backward. Gradients of the outputs are in external_gradient;
// those of inputs are written there: = for tokens (into the memory of the output's gradient where
// plan.gradient_root passes it through), += for segments. Parameters' go to run->gradient, whole.
void program_backward(const Program *p, const ProgramRun *run, Stream stream);

#endif
