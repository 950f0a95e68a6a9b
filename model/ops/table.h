// The closed table of ops: what each is called, runs, costs, needs and keeps.
#ifndef MODEL_OPS_TABLE_H
#define MODEL_OPS_TABLE_H

#include "model/program.h"

// How dear a value is to make again; decides what a recomputation policy drops.
typedef enum {
    KEEP_CHEAP,    // Bound by memory: dropped from `cheap` on.
    KEEP_PRODUCT,  // A matrix product: dropped from `linear` on.
    KEEP_DEAR,     // Attention: dropped at `block` only.
} Keep;

// One recorded call with everything bound. Rows of in[i] and din[i] are in_ld[i] elements apart,
// those of out[i] and dout[i] out_ld[i].
typedef struct {
    const Program *program;
    const Call *call;
    const PackBind *bind;
    int64_t rows;                   // Of out[0].
    const void *in[OP_INPUTS_MAX];  // NULL where missing.
    int64_t in_ld[OP_INPUTS_MAX], in_cols[OP_INPUTS_MAX];
    void *out[OP_OUTPUTS_MAX];
    int64_t out_ld[OP_OUTPUTS_MAX], out_cols[OP_OUTPUTS_MAX];
    void *din[OP_INPUTS_MAX];  // NULL where no gradient is wanted.
    bool add[OP_INPUTS_MAX];   // Add to din instead of overwriting it.
    const void *dout[OP_OUTPUTS_MAX];
    const real *param[OP_PARAMS_MAX];  // NULL where missing.
    Gradient dparam[OP_PARAMS_MAX];
    const void *gelu_in;  // A linear's backward: what in[0] is the GELU of, if din[0] is to be the
                          // gradient of that; else NULL.
    void *scratch;
    Stream stream;
} OpRun;

typedef struct {
    const char *name;
    void (*forward)(const OpRun *run);
    void (*backward)(const OpRun *run);
    void (*cost)(const Program *p, const Call *call, Cost *cost);  // NULL: counted as nothing.
    // Bytes of scratch for at most bound[rows] rows of each kind; NULL: none.
    int64_t (*scratch)(const Program *p, const Call *call, const int64_t *bound, bool backward);
    // Makes what later runs need (library handles), for at most bound[rows] rows; NULL: nothing.
    void (*prepare)(const Program *p, const Call *call, const int64_t *bound);
    // Bytes of memory that prepare makes and all such ops share (the most counts); NULL: none.
    int64_t (*shared)(const Program *p, const Call *call, const int64_t *bound);
    Keep keep;
    unsigned needs_in, needs_out;  // Bit i: the backward reads input i, output i.
    unsigned adds;                 // Bit i: the backward can add to the gradient of input i.
    bool passes;                   // The gradient of input 0 is that of output 0, unchanged.
} OpInfo;

extern const OpInfo op_table[OP_KINDS];

// Rows of a kind in a bound pack.
int64_t rows_of(const PackBind *bind, Rows rows);

#endif
