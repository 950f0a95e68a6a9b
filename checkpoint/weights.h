// Weights alone, from a transformer folder: one of a checkpoint of ours, or any that diffusers
// wrote (any order of tensors, any cut into files; F32, BF16, F16, F64). For finetuning and for
// sampling.
#ifndef CHECKPOINT_WEIGHTS_H
#define CHECKPOINT_WEIGHTS_H

#include "base/error.h"
#include "base/param.h"
#include "checkpoint/manifest.h"
#include "parallel/comm.h"

// Fills this rank's slices slice[unit], elements [slice_cut(index), slice_cut(index + 1)) of
// `size`, from the files of `folder`. Where the folder is part of a checkpoint (a MANIFEST lies
// beside it), its checksums are compared first, shared among the ranks. CORRUPT: `error` says where
// (exit 1). INCOMPATIBLE: every missing, unknown or differently shaped tensor is in `problems`
// (exit 78). Each rank reads what it needs. The verdict is the same on every rank. Collective over
// world.
Verdict checkpoint_load_weights(float *const *slice, const char *folder, const ParamTable *table,
                                int index, int size, Comm *world, Problems *problems, Error *error);

#endif
