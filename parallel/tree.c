#include "parallel/tree.h"

#include <stddef.h>

#include "base/die.h"

// A right half of one leaf is added to its left half where that lies, and needs no buffer of its
// own.
int tree_buffers(int leaves) {
    int buffers = 0;
    while (leaves > 1) {
        buffers++;
        leaves /= 2;
    }
    return buffers > 1 ? buffers : 1;
}

void tree_begin(Tree *tree, int leaves) {
    CHECK(leaves >= 1, "%d leaves", leaves);
    tree->leaves = leaves;
    tree->arrived = 0;
    tree->pending = 0;
}

// How many nodes of the tree over n leaves are complete with leaf i: those that end there.
static int nodes_ending(int n, int i) {
    int begin = 0, end = n, nodes = 0;
    while (end - begin > 1) {
        if (end == i + 1) nodes++;
        const int middle = begin + (end - begin + 1) / 2;
        if (i < middle) {
            end = middle;
        } else {
            begin = middle;
        }
    }
    return nodes;
}

void tree_push(Tree *tree, const Vectors *parts, const bool *ends, Stream stream) {
    enum { RUN = 64 };
    uint8_t merges[RUN];
    bool begins = true;
    for (int first = 0; first < parts->n; first += RUN) {
        Vectors run = *parts;
        run.x = (const char *)parts->x + first * parts->stride * type_size(parts->type);
        run.n = parts->n - first < RUN ? parts->n - first : RUN;
        for (int i = 0; i < run.n; i++) {
            merges[i] = begins ? 0 : 1;
            begins = ends == NULL || ends[first + i];
            if (!begins) continue;
            CHECK(tree->arrived < tree->leaves, "leaf %d of %d", tree->arrived, tree->leaves);
            merges[i] += (uint8_t)nodes_ending(tree->leaves, tree->arrived++);
        }
        tree->pending =
            vector_sum_stack(tree->buffer, tree->pending, &run, merges, tree->count, stream);
    }
    CHECK(begins, "leaf %d of %d does not end", tree->arrived, tree->leaves);
}

float *tree_sum(Tree *tree) {
    CHECK(tree->leaves > 0 && tree->arrived == tree->leaves, "%d of %d leaves", tree->arrived,
          tree->leaves);
    return tree->buffer[0];
}

void tree_add_pieces(float *sums, int64_t stride, int n, int64_t count, Stream stream) {
    if (n <= 1) return;
    const int left = (n + 1) / 2;
    float *const right = sums + left * stride;
    tree_add_pieces(sums, stride, left, count, stream);
    tree_add_pieces(right, stride, n - left, count, stream);
    vector_add(sums, right, TYPE_F32, count, stream);
}
