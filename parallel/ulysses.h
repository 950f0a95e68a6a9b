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

// Where this rank's tokens lie as they travel: a part for each of `ranks` ranks, in their order.
// Part i [T, tensors * heads * D] has rank i's heads in rows of tokens, `tensors` tensors next to
// each other; this one is number `tensor`. So what arrives from all ranks is rows of the whole
// pack. 1 rank and 1 tensor are rows [T, H * D] as anywhere else.
typedef struct {
    int ranks, tensors, tensor;
} PeerOrder;

// The rows of one tensor in a part: they begin at element `begin` of the parts and are `stride`
// apart; they are columns [column, column + columns) of the tensor.
typedef struct {
    int64_t begin, stride, column, columns;
} PeerPart;

// Fills parts [order.ranks]. Local. (order_of in model/ops/cuda/qk_norm_rope.cu knows this order,
// too.)
void ulysses_parts(PeerPart parts[ULYSSES_RANKS_MAX], PeerOrder order, int64_t T, int64_t H,
                   int64_t D);

// Copies one tensor [T, H * D], rows ldx apart, to its place in the parts, and back. Local.
void ulysses_pack(real *parts, const real *x, int64_t ldx, PeerOrder order, int64_t T, int64_t H,
                  int64_t D, Stream stream);
void ulysses_unpack(real *x, int64_t ldx, const real *parts, PeerOrder order, int64_t T, int64_t H,
                    int64_t D, Stream stream);

// heads [P, h * D] = this rank's heads of all tokens, from every rank's parts. D: the elements of a
// head, those of all tensors together. Collective over comm.
void ulysses_tokens_to_heads(Comm *comm, real *heads, const real *parts, int64_t P, int64_t H,
                             int64_t D, Stream stream);

// parts = all heads of this rank's tokens, from every rank's heads. Collective over comm.
void ulysses_heads_to_tokens(Comm *comm, real *parts, const real *heads, int64_t P, int64_t H,
                             int64_t D, Stream stream);

#endif
