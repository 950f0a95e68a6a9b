#include "parallel/ulysses.h"

#include "base/die.h"
#include "base/vector.h"

enum { ELEMENT = (int)sizeof(real) };

int64_t ulysses_token_cut(int64_t P, int i, int n) {
    return P * i / n;
}

int64_t ulysses_head_cut(int64_t H, int i, int n) {
    return H / n * i + min_i64(i, H % n);
}

static void check_ranks(int n) {
    CHECK(n <= ULYSSES_RANKS_MAX, "%d ranks split a pack, at most %d can", n, ULYSSES_RANKS_MAX);
}

void ulysses_parts(PeerPart parts[ULYSSES_RANKS_MAX], PeerOrder order, int64_t T, int64_t H,
                   int64_t D) {
    check_ranks(order.ranks);
    for (int i = 0; i < order.ranks; i++) {
        const int64_t first = ulysses_head_cut(H, i, order.ranks);
        const int64_t columns = (ulysses_head_cut(H, i + 1, order.ranks) - first) * D;
        parts[i] = (PeerPart){.begin = order.tensors * T * first * D + order.tensor * columns,
                              .stride = order.tensors * columns,
                              .column = first * D,
                              .columns = columns};
    }
}

void ulysses_pack(real *parts, const real *x, int64_t ldx, PeerOrder order, int64_t T, int64_t H,
                  int64_t D, Stream stream) {
    PeerPart part[ULYSSES_RANKS_MAX];
    CopyBand band[ULYSSES_RANKS_MAX];
    ulysses_parts(part, order, T, H, D);
    for (int i = 0; i < order.ranks; i++) {
        const PeerPart *p = &part[i];
        band[i] = (CopyBand){.out = parts + p->begin,
                             .in = x + p->column,
                             .out_stride = p->stride * ELEMENT,
                             .in_stride = ldx * ELEMENT,
                             .rows = T,
                             .row_bytes = p->columns * ELEMENT};
    }
    vector_copy_bands(band, order.ranks, stream);
}

void ulysses_unpack(real *x, int64_t ldx, const real *parts, PeerOrder order, int64_t T, int64_t H,
                    int64_t D, Stream stream) {
    PeerPart part[ULYSSES_RANKS_MAX];
    CopyBand band[ULYSSES_RANKS_MAX];
    ulysses_parts(part, order, T, H, D);
    for (int i = 0; i < order.ranks; i++) {
        const PeerPart *p = &part[i];
        band[i] = (CopyBand){.out = x + p->column,
                             .in = parts + p->begin,
                             .out_stride = ldx * ELEMENT,
                             .in_stride = p->stride * ELEMENT,
                             .rows = T,
                             .row_bytes = p->columns * ELEMENT};
    }
    vector_copy_bands(band, order.ranks, stream);
}

// What this rank exchanges with each other: peer i's heads of its tokens, its heads of peer i's
// tokens. Offsets in bytes.
typedef struct {
    int64_t tokens[ULYSSES_RANKS_MAX + 1], heads[ULYSSES_RANKS_MAX + 1];
} Parts;

static void parts_init(Parts *parts, const Comm *comm, int64_t P, int64_t H, int64_t D) {
    const int n = comm_size(comm), rank = comm_rank(comm);
    check_ranks(n);
    const int64_t T = ulysses_token_cut(P, rank + 1, n) - ulysses_token_cut(P, rank, n);
    const int64_t h = ulysses_head_cut(H, rank + 1, n) - ulysses_head_cut(H, rank, n);
    for (int i = 0; i <= n; i++) {
        parts->tokens[i] = T * ulysses_head_cut(H, i, n) * D * ELEMENT;
        parts->heads[i] = ulysses_token_cut(P, i, n) * h * D * ELEMENT;
    }
}

void ulysses_tokens_to_heads(Comm *comm, real *heads, const real *parts, int64_t P, int64_t H,
                             int64_t D, Stream stream) {
    Parts cut;
    parts_init(&cut, comm, P, H, D);
    comm_all_to_all(comm, heads, cut.heads, parts, cut.tokens, stream);
}

void ulysses_heads_to_tokens(Comm *comm, real *parts, const real *heads, int64_t P, int64_t H,
                             int64_t D, Stream stream) {
    Parts cut;
    parts_init(&cut, comm, P, H, D);
    comm_all_to_all(comm, parts, cut.tokens, heads, cut.heads, stream);
}
