// Sums over packs in a fixed binary tree, so that the bits do not depend on who adds what where.
// The tree over n leaves splits them into the first ceil(n / 2) and the rest, and so on; a node is
// the fp32 sum of its two halves. Leaves 0 to n - 1 arrive in order and are merged as soon as both
// halves of a node are there. Where G is a power of two that divides n, the sums over the G runs of
// n / G leaves are nodes of the tree over n, so G replicas can each build one and add them along
// its top.
#ifndef PARALLEL_TREE_H
#define PARALLEL_TREE_H

#include "base/vector.h"

enum { TREE_BUFFERS_MAX = 32 };

typedef struct {
    int64_t count;                    // Elements of every leaf and buffer.
    float *buffer[TREE_BUFFERS_MAX];  // The caller's memory, tree_buffers of them, and one more
                                      // where leaves come in parts.
    int leaves;                       // n.
    int arrived;                      // Leaves so far.
    int pending;                      // Buffers that hold sums that wait for their other half.
} Tree;

// Buffers that a tree over up to `leaves` leaves needs: 1 for 1, floor(log2(leaves)) for more.
int tree_buffers(int leaves);

// Starts a sum over `leaves` leaves; count and buffer are set.
void tree_begin(Tree *tree, int leaves);

// Adds the next leaves, none to all; parts are [count]. Parts up to one with ends[i] are one leaf,
// whole in this call, and are added one by one; ends NULL: every part is a leaf.
void tree_push(Tree *tree, const Vectors *parts, const bool *ends, Stream stream);

// The sum, once all leaves have arrived: buffer[0].
float *tree_sum(Tree *tree);

// The same tree over n pieces that are there already: piece i is sums[i * stride], [count]. The
// result replaces piece 0; the others are lost.
void tree_add_pieces(float *sums, int64_t stride, int n, int64_t count, Stream stream);

#endif
