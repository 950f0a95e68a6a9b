#include "parallel/ulysses.h"

#include "base/die.h"
#include "base/vector.h"

enum {
    ELEMENT = (int)sizeof(real),
    BANDS = 64,  // That are copied at once.
};

int64_t ulysses_token_cut(int64_t P, int i, int n) {
    return P * i / n;
}

int64_t ulysses_head_cut(int64_t H, int i, int n) {
    return H / n * i + min_i64(i, H % n);
}

int64_t ulysses_scratch(int64_t P_max, int64_t H, int64_t D_sum, int n) {
    return (div_up(P_max, n) * H + P_max * div_up(H, n)) * D_sum;
}

// The parts that this rank exchanges with each other: by its tokens (peer i's heads of them) and by
// its heads (of peer i's tokens). Offsets in bytes of scratch, tensor after tensor inside a part.
typedef struct {
    int n;
    int64_t token[ULYSSES_RANKS_MAX + 1], head[ULYSSES_RANKS_MAX + 1];  // Cuts.
    int64_t by_token[ULYSSES_RANKS_MAX + 1], by_head[ULYSSES_RANKS_MAX + 1];
    int64_t T, h;
} Parts;

static void parts_init(Parts *parts, const Comm *comm, const UlyssesTensor *tensors, int count,
                       int64_t P, int64_t H) {
    const int n = comm_size(comm), rank = comm_rank(comm);
    CHECK(n <= ULYSSES_RANKS_MAX, "%d ranks split a pack, at most %d can", n, ULYSSES_RANKS_MAX);
    parts->n = n;
    for (int i = 0; i <= n; i++) {
        parts->token[i] = ulysses_token_cut(P, i, n);
        parts->head[i] = ulysses_head_cut(H, i, n);
    }
    parts->T = parts->token[rank + 1] - parts->token[rank];
    parts->h = parts->head[rank + 1] - parts->head[rank];
    int64_t D_sum = 0;
    for (int k = 0; k < count; k++) D_sum += tensors[k].D;
    for (int i = 0; i <= n; i++) {
        parts->by_token[i] = parts->T * parts->head[i] * D_sum * ELEMENT;
        parts->by_head[i] = parts->token[i] * parts->h * D_sum * ELEMENT;
    }
}

// Copies between the tensors and the parts in `buffer`: where `by_token`, part i is peer i's heads
// of this rank's tokens, a band of columns; else this rank's heads of peer i's tokens, whole rows.
static void copy_parts(const Parts *parts, const UlyssesTensor *tensors, int count, char *buffer,
                       bool by_token, bool to_buffer, Stream stream) {
    CopyBand bands[BANDS];
    int used = 0;
    for (int i = 0; i < parts->n; i++) {
        const int64_t tokens = parts->token[i + 1] - parts->token[i];
        const int64_t heads = parts->head[i + 1] - parts->head[i];
        for (int k = 0; k < count; k++) {
            const UlyssesTensor *x = &tensors[k];
            const int64_t rows = by_token ? parts->T : tokens;
            const int64_t bytes = (by_token ? heads : parts->h) * x->D * ELEMENT;
            const int64_t row = by_token ? 0 : parts->token[i];
            const int64_t column = by_token ? parts->head[i] * x->D : 0;
            const int64_t stride = (to_buffer ? x->in_stride : x->out_stride) * ELEMENT;
            bands[used++] = to_buffer ? (CopyBand){buffer, x->in + row * x->in_stride + column,
                                                   bytes,  stride,
                                                   rows,   bytes}
                                      : (CopyBand){x->out + row * x->out_stride + column,
                                                   buffer,
                                                   stride,
                                                   bytes,
                                                   rows,
                                                   bytes};
            buffer += rows * bytes;
            if (used < BANDS) continue;
            vector_copy_bands(bands, used, stream);
            used = 0;
        }
    }
    vector_copy_bands(bands, used, stream);
}

// One tensor of this rank's heads without gaps between its rows lies in memory as it travels.
static bool travels(const Parts *parts, const UlyssesTensor *tensors, int count, int64_t stride) {
    return count == 1 && stride == parts->h * tensors[0].D;
}

void ulysses_tokens_to_heads(Comm *comm, const UlyssesTensor *tensors, int count, int64_t P,
                             int64_t H, real *scratch, Stream stream) {
    Parts parts;
    parts_init(&parts, comm, tensors, count, P, H);
    const bool there = travels(&parts, tensors, count, tensors[0].out_stride);
    char *const send = (char *)scratch, *const behind = send + parts.by_token[parts.n];
    char *const receive = there ? (char *)tensors[0].out : behind;
    copy_parts(&parts, tensors, count, send, true, true, stream);
    comm_all_to_all(comm, receive, parts.by_head, send, parts.by_token, stream);
    if (!there) copy_parts(&parts, tensors, count, receive, false, false, stream);
}

void ulysses_heads_to_tokens(Comm *comm, const UlyssesTensor *tensors, int count, int64_t P,
                             int64_t H, real *scratch, Stream stream) {
    Parts parts;
    parts_init(&parts, comm, tensors, count, P, H);
    const bool there = travels(&parts, tensors, count, tensors[0].in_stride);
    char *const packed = (char *)scratch, *const receive = packed + parts.by_head[parts.n];
    const void *const send = there ? (const void *)tensors[0].in : packed;
    if (!there) copy_parts(&parts, tensors, count, packed, false, true, stream);
    comm_all_to_all(comm, receive, parts.by_token, send, parts.by_head, stream);
    copy_parts(&parts, tensors, count, receive, true, false, stream);
}
