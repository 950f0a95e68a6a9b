#include "checkpoint/exchange.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/real.h"

#define WINDOW_BYTES ((int64_t)64 << 20)

// Elements that lie together in a file and belong to one rank.
typedef struct {
    CheckpointClass class;
    int unit, owner;
    int64_t begin, count;  // Elements of the unit's buffer.
    int64_t at;            // Byte in the window.
} Piece;

// A walk over all pieces of blocks [first_block, end_block) in the order of their bytes.
typedef struct {
    const Layout *layout;
    int owners;
    int64_t first_block, end_block;
    int file, extent;
    int64_t done;  // Bytes of the file before this are behind us.
} Walk;

static int64_t run_cut(const Exchange *x, int writer) {
    const int64_t writers = (int64_t)x->size * x->replicas;
    return x->layout->blocks * writer / writers;
}

// The windows are taken in an order that starts elsewhere for every writer: units are alike, and
// without that all windows of a round could fall into the slices of one rank.
static void window_of(const Exchange *x, int replica, int index, int64_t round, int64_t *first,
                      int64_t *end) {
    const int writer = replica * x->size + index;
    const int64_t window = (round + writer) % x->rounds;
    const int64_t run_end = run_cut(x, writer + 1);
    *first = min_i64(run_cut(x, writer) + window * x->window_blocks, run_end);
    *end = min_i64(*first + x->window_blocks, run_end);
}

void exchange_blocks(const Exchange *x, int64_t round, int64_t *first, int64_t *end) {
    window_of(x, x->replica, x->index, round, first, end);
}

// The rank of `size` whose slice has `element`.
static int owner_of(int64_t elements, int64_t element, int size) {
    return (int)(element / slice_most(elements, size));
}

static Walk walk_start(const Exchange *x, int replica, int index, int64_t round) {
    Walk walk = {.layout = x->layout, .owners = x->size};
    window_of(x, replica, index, round, &walk.first_block, &walk.end_block);
    if (walk.first_block == walk.end_block) {
        walk.file = x->layout->count;
        return walk;
    }
    int64_t bytes;
    walk.file = layout_block(x->layout, walk.first_block, &walk.done, &bytes);
    return walk;
}

static bool walk_next(Walk *walk, Piece *piece) {
    const Layout *layout = walk->layout;
    while (walk->file < layout->count) {
        const LayoutFile *file = &layout->files[walk->file];
        if (file->first_block >= walk->end_block) return false;
        const int64_t limit =
            min_i64(file->bytes, (walk->end_block - file->first_block) * CHECKPOINT_BLOCK);
        if (walk->extent == file->extent_count || file->extents[walk->extent].begin >= limit) {
            walk->file++;
            walk->extent = 0;
            walk->done = 0;
            continue;
        }
        const LayoutExtent *extent = &file->extents[walk->extent];
        const int64_t begin = max_i64(extent->begin, walk->done);
        const int64_t end = min_i64(extent->end, limit);
        if (begin >= end) {
            walk->extent++;
            continue;
        }
        const Param *row = &layout->table->rows[extent->row];
        const int64_t elements = layout->table->unit_elements[row->unit];
        const int64_t first = row->offset + (begin - extent->begin) / 4;
        const int owner = owner_of(elements, first, walk->owners);
        const int64_t last = min_i64(row->offset + (end - extent->begin) / 4,
                                     slice_cut(elements, owner + 1, walk->owners));
        *piece = (Piece){
            file->class,  row->unit,
            owner,        first,
            last - first, (file->first_block - walk->first_block) * CHECKPOINT_BLOCK + begin};
        walk->done = begin + (last - first) * 4;
        return true;
    }
    return false;
}

// Bytes of a window that `owner` owns.
static int64_t owned_bytes(const Exchange *x, int replica, int index, int64_t round, int owner) {
    Walk walk = walk_start(x, replica, index, round);
    int64_t bytes = 0;
    for (Piece piece; walk_next(&walk, &piece);)
        bytes += piece.owner == owner ? piece.count * 4 : 0;
    return bytes;
}

// All offsets of a round.
static void plan(Exchange *x, int64_t round) {
    memset(x->near_offsets, 0, (size_t)(x->size + 1) * sizeof(*x->near_offsets));
    Walk walk = walk_start(x, x->replica, x->index, round);
    for (Piece piece; walk_next(&walk, &piece);)
        x->near_offsets[piece.owner + 1] += piece.count * 4;
    x->replica_offsets[0] = 0;
    for (int replica = 0; replica < x->replicas; replica++) {
        int64_t sum = 0;
        const bool mine = replica == x->replica;
        for (int i = 0; i < x->size && (mine || x->kind == EXCHANGE_RESTORE); i++) {
            const int64_t bytes = owned_bytes(x, replica, i, round, x->index);
            if (mine) x->far_offsets[i + 1] = bytes;
            sum += bytes;
        }
        x->replica_offsets[replica + 1] = x->replica_offsets[replica] + sum;
    }
    x->far_offsets[0] = 0;
    for (int i = 0; i < x->size; i++) {
        x->near_offsets[i + 1] += x->near_offsets[i];
        x->far_offsets[i + 1] += x->far_offsets[i];
    }
}

void exchange_shape(Exchange *exchange, ExchangeKind kind, const Layout *layout, int index,
                    int size, int replica, int replicas, int64_t window_bytes) {
    Exchange x = {.layout = layout,
                  .kind = kind,
                  .index = index,
                  .size = size,
                  .replica = replica,
                  .replicas = replicas};
    const int64_t writers = (int64_t)x.size * x.replicas;
    const int64_t run_max = div_up(layout->blocks, writers);
    const int64_t bytes = window_bytes > 0 ? window_bytes : WINDOW_BYTES;
    x.window_blocks = max_i64(1, bytes / CHECKPOINT_BLOCK / writers);
    x.window_blocks = min_i64(x.window_blocks, run_max);
    x.rounds = div_up(run_max, x.window_blocks);
    x.near_offsets = calloc((size_t)x.size + 1, sizeof(int64_t));
    x.far_offsets = calloc((size_t)x.size + 1, sizeof(int64_t));
    x.replica_offsets = calloc((size_t)x.replicas + 1, sizeof(int64_t));
    CHECK(x.near_offsets != NULL && x.far_offsets != NULL && x.replica_offsets != NULL,
          "no memory for the offsets of %" PRId64 " ranks", writers);
    for (int64_t round = 0; round < x.rounds; round++) {
        plan(&x, round);
        x.near_bytes = max_i64(x.near_bytes, x.near_offsets[x.size]);
        x.far_bytes = max_i64(x.far_bytes, x.replica_offsets[x.replicas]);
    }
    *exchange = x;
}

void exchange_init(Exchange *x, ExchangeKind kind, const Layout *layout,
                   const CheckpointShards *shards) {
    exchange_shape(x, kind, layout, comm_rank(shards->shard), comm_size(shards->shard),
                   comm_rank(shards->replica), comm_size(shards->replica), shards->window_bytes);
    x->shards = shards;
    x->near = device_allocate("pieces of this rank's blocks", x->near_bytes);
    x->far = device_allocate("pieces of this rank's slices", x->far_bytes);
    x->window = host_allocate("blocks of files", x->window_blocks * CHECKPOINT_BLOCK);
}

void exchange_free(Exchange *x) {
    free(x->near_offsets);
    free(x->far_offsets);
    free(x->replica_offsets);
    host_free(x->window);
    device_free(x->near);
    device_free(x->far);
    *x = (Exchange){0};
}

// Copies this rank's pieces of one window between the slices and `packed`, and returns where they
// end.
static char *copy_slices(const Exchange *x, int replica, int index, int64_t round, char *packed) {
    Walk walk = walk_start(x, replica, index, round);
    for (Piece piece; walk_next(&walk, &piece);) {
        if (piece.owner != x->index) continue;
        const int64_t elements = x->layout->table->unit_elements[piece.unit];
        float *slice = x->shards->slice[piece.class][piece.unit] + piece.begin -
                       slice_cut(elements, x->index, x->size);
        if (x->kind == EXCHANGE_SAVE) {
            device_copy(packed, slice, piece.count * 4, NULL);
        } else {
            device_copy(slice, packed, piece.count * 4, NULL);
        }
        packed += piece.count * 4;
    }
    return packed;
}

// Copies all pieces of this rank's window between it and `near`, where they lie by owner.
static void copy_window(const Exchange *x, int64_t round) {
    int64_t *at = malloc((size_t)x->size * sizeof(*at));
    CHECK(at != NULL, "no memory for the offsets of %d ranks", x->size);
    memcpy(at, x->near_offsets, (size_t)x->size * sizeof(*at));
    Walk walk = walk_start(x, x->replica, x->index, round);
    for (Piece piece; walk_next(&walk, &piece);) {
        char *near = x->near + at[piece.owner], *window = x->window + piece.at;
        if (x->kind == EXCHANGE_SAVE) {
            device_copy(window, near, piece.count * 4, NULL);
        } else {
            device_copy(near, window, piece.count * 4, NULL);
        }
        at[piece.owner] += piece.count * 4;
    }
    stream_wait(NULL);
    free(at);
}

void exchange_gather(Exchange *x, int64_t round) {
    plan(x, round);
    char *packed = x->far;
    for (int i = 0; i < x->size; i++) packed = copy_slices(x, x->replica, i, round, packed);
    comm_all_to_all(x->shards->shard, x->near, x->near_offsets, x->far, x->far_offsets, NULL);
    copy_window(x, round);
}

void exchange_scatter(Exchange *x, int64_t round) {
    plan(x, round);
    copy_window(x, round);
    comm_all_to_all(x->shards->shard, x->far + x->replica_offsets[x->replica], x->far_offsets,
                    x->near, x->near_offsets, NULL);
    comm_all_gather_slices(x->shards->replica, x->far, x->replica_offsets, NULL);
    char *packed = x->far;
    for (int replica = 0; replica < x->replicas; replica++) {
        for (int i = 0; i < x->size; i++) packed = copy_slices(x, replica, i, round, packed);
    }
    stream_wait(NULL);
}
