// Sequence parallelism around self-attention (DeepSpeed-Ulysses, arXiv 2309.14509): outside of it a
// rank holds all heads of a slice of the pack's tokens, inside of it some heads of all tokens. Two
// data movements, each the backward of the other. Tokens and heads need not divide by the ranks:
// 28 heads on 8 ranks are 4, 4, 4, 4, 3, 3, 3, 3; a rank without tokens or heads takes part with 0.
//
// P tokens of the pack, T of them on this rank; H heads, h of them on this rank; n ranks.
#ifndef PARALLEL_ULYSSES_H
#define PARALLEL_ULYSSES_H

#include "base/real.h"
#include "parallel/comm.h"

enum { ULYSSES_RANKS_MAX = 512 };

// Rank i has tokens [cut(i), cut(i + 1)) of the pack: cut = floor(P * i / n).
int64_t ulysses_token_cut(int64_t P, int i, int n);

// Rank i has heads [cut(i), cut(i + 1)): the first H % n ranks have one more than the others.
int64_t ulysses_head_cut(int64_t H, int i, int n);

// One tensor of a movement: rows of tokens, in each of them heads of D elements.
typedef struct {
    real *out;
    const real *in;
    int64_t out_stride, in_stride;  // Elements from row to row.
    int64_t D;                      // With grouped heads: those of one group together.
} UlyssesTensor;

// out [P, h * D] = this rank's heads of all tokens, from every rank's in [T, H * D]. `count`
// tensors of the same tokens and H move in one exchange. scratch has ulysses_scratch elements.
// Collective over comm.
void ulysses_tokens_to_heads(Comm *comm, const UlyssesTensor *tensors, int count, int64_t P,
                             int64_t H, real *scratch, Stream stream);

// out [T, H * D] = all heads of this rank's tokens, from every rank's in [P, h * D].
// Collective over comm.
void ulysses_heads_to_tokens(Comm *comm, const UlyssesTensor *tensors, int count, int64_t P,
                             int64_t H, real *scratch, Stream stream);

// Elements of scratch that suffice for either movement on every rank: D_sum adds up the D of the
// tensors, P_max bounds the tokens.
int64_t ulysses_scratch(int64_t P_max, int64_t H, int64_t D_sum, int n);

#endif
