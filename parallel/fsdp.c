#include "parallel/fsdp.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/die.h"
#include "base/vector.h"
#include "parallel/tree.h"

enum { NO_UNIT = -1, SLOTS = 2, LEAVES = 2, FLOAT = (int)sizeof(float) };

typedef struct {
    int64_t elements;    // Of the whole unit.
    int64_t room;        // Elements of a buffer that it is gathered into: equal parts of all ranks.
    int64_t begin, end;  // This rank's slice.
    int64_t piece;       // Of the slice, in equal parts for all replicas; buffers of the tree have
                         // room for all of them.
    float *master;
    Tree tree;
} Unit;

typedef struct {
    real *buffer;  // NULL where the source itself serves.
    int unit;      // What it holds, or NO_UNIT.
    int users;     // Fetches without a release.
    int64_t used;  // When it was fetched last; the oldest free slot is overwritten.
    Event gathered, released;
} Slot;

struct Fsdp {
    const ParamTable *table;
    const Mesh *mesh;
    FsdpConfig config;
    FsdpBytes bytes;
    Arena arena;
    int units, slots;
    Unit *unit;            // [units]
    Slot *slot;            // [slots]
    float *const *source;  // [units] What is gathered; NULL: the masters.
    int64_t fetches;
    // One unit's gradient of one pack, in the wire type: one is written while the other travels.
    struct {
        void *buffer;
        Event read;  // By its exchange.
    } leaf[LEAVES];
    int turn;         // Which leaf is, or was last, written.
    int leaf_unit;    // Whose leaf is being written, or NO_UNIT.
    void *receive;    // The leaves that came; the pieces of the replicas.
    bool *pack_ends;  // [shards] Whether a leaf that came is the last of its pack.
    int64_t *send_offsets, *receive_offsets;  // [ranks + 1] In bytes.
    int packs;
    ExactSum *square_sum;       // Of the owned slices of the gradient, on the device.
    Stream gathers, exchanges;  // Units come while gradients go and are summed.
    Event written, summed, changed;
};

// Whether units are used where their fp32 slices lie: whole, and not rounded.
static bool in_place(const Fsdp *f) {
    return f->mesh->shards == 1 && REAL_TYPE == TYPE_F32;
}

// Takes all memory; run once to measure and once for real.
static void lay_out(Fsdp *f) {
    const Mesh *mesh = f->mesh;
    Arena *arena = &f->arena;
    int64_t elements_max = 0, room_max = 0, slice_max = 0, pieces_max = 0;
    int64_t mark = arena->used;
    for (int u = 0; u < f->units; u++) {
        Unit *unit = &f->unit[u];
        const int64_t slice = unit->end - unit->begin;
        unit->master = arena_take(arena, slice * FLOAT);
        elements_max = max_i64(elements_max, unit->elements);
        room_max = max_i64(room_max, unit->room);
        slice_max = max_i64(slice_max, slice);
        pieces_max = max_i64(pieces_max, unit->piece * mesh->replicas);
    }
    f->bytes.master = arena->used - mark;
    mark = arena->used;
    for (int s = 0; s < f->slots && !in_place(f); s++) {
        const int64_t room = f->slots < f->units ? room_max : f->unit[s].room;
        f->slot[s].buffer = arena_take(arena, room * (int64_t)sizeof(real));
    }
    f->bytes.slots = arena->used - mark;
    mark = arena->used;
    for (int i = 0; i < LEAVES; i++) {
        f->leaf[i].buffer = arena_take(arena, elements_max * type_size(f->config.wire));
    }
    f->bytes.leaf = arena->used - mark;
    mark = arena->used;
    int64_t receive = 0;
    // A slice comes from every rank of the shard group; slices differ by up to a block.
    if (mesh->shards > 1) receive = slice_max * mesh->shards * type_size(f->config.wire);
    if (mesh->replicas > 1) receive = max_i64(receive, pieces_max * FLOAT);
    f->receive = arena_take(arena, receive);
    float *const pack_sum = mesh->sequences > 1 ? arena_take(arena, slice_max * FLOAT) : NULL;
    f->bytes.exchange = arena->used - mark;
    mark = arena->used;
    const int buffers = tree_buffers(mesh_leaves(mesh, f->config.packs_max));
    for (int u = 0; u < f->units; u++) {
        Tree *tree = &f->unit[u].tree;
        tree->count = f->unit[u].end - f->unit[u].begin;
        for (int i = 0; i < buffers; i++) {
            tree->buffer[i] = arena_take(arena, f->unit[u].piece * mesh->replicas * FLOAT);
        }
        tree->buffer[buffers] = pack_sum;  // While leaves of one pack are added.
    }
    f->square_sum = arena_take(arena, sizeof(*f->square_sum));
    f->bytes.stack = arena->used - mark;
    f->bytes.total = arena->used;
}

static void *allocate(int64_t count, size_t size) {
    void *memory = calloc((size_t)max_i64(count, 1), size);
    CHECK(memory != NULL, "no memory for %" PRId64 " x %zu bytes", count, size);
    return memory;
}

// Everything but the arena's memory.
static Fsdp *shape(const ParamTable *table, const Mesh *mesh, const FsdpConfig *config) {
    Fsdp *f = allocate(1, sizeof(*f));
    f->table = table;
    f->mesh = mesh;
    f->config = *config;
    f->arena.name = "parameters and gradients";
    f->units = table->units;
    const bool few = config->reshard_after_forward && mesh->shards > 1 && f->units > SLOTS;
    f->slots = few ? SLOTS : f->units;
    f->unit = allocate(f->units, sizeof(*f->unit));
    f->slot = allocate(f->slots, sizeof(*f->slot));
    f->leaf_unit = NO_UNIT;
    const int ranks = mesh->shards > mesh->replicas ? mesh->shards : mesh->replicas;
    f->pack_ends = allocate(mesh->shards, sizeof(*f->pack_ends));
    f->send_offsets = allocate(ranks + 1, sizeof(*f->send_offsets));
    f->receive_offsets = allocate(ranks + 1, sizeof(*f->receive_offsets));
    for (int u = 0; u < f->units; u++) {
        Unit *unit = &f->unit[u];
        unit->elements = table->unit_elements[u];
        unit->room = slice_most(unit->elements, mesh->shards) * mesh->shards;
        unit->begin = slice_cut(unit->elements, mesh->shard_index, mesh->shards);
        unit->end = slice_cut(unit->elements, mesh->shard_index + 1, mesh->shards);
        unit->piece = slice_most(unit->end - unit->begin, mesh->replicas);
    }
    for (int s = 0; s < f->slots; s++) f->slot[s].unit = NO_UNIT;
    lay_out(f);
    return f;
}

Fsdp *fsdp_create(const ParamTable *table, const Mesh *mesh, const FsdpConfig *config) {
    Fsdp *f = shape(table, mesh, config);
    arena_commit(&f->arena);
    lay_out(f);
    f->gathers = stream_create();
    f->exchanges = stream_create();
    f->written = event_create();
    f->summed = event_create();
    f->changed = event_create();
    for (int i = 0; i < LEAVES; i++) f->leaf[i].read = event_create();
    for (int s = 0; s < f->slots; s++) {
        f->slot[s].gathered = event_create();
        f->slot[s].released = event_create();
    }
    return f;
}

static void free_host(Fsdp *f) {
    free(f->unit);
    free(f->slot);
    free(f->pack_ends);
    free(f->send_offsets);
    free(f->receive_offsets);
    free(f);
}

void fsdp_free(Fsdp *f) {
    if (f == NULL) return;
    for (int s = 0; s < f->slots; s++) {
        event_free(f->slot[s].gathered);
        event_free(f->slot[s].released);
    }
    event_free(f->written);
    event_free(f->summed);
    event_free(f->changed);
    for (int i = 0; i < LEAVES; i++) event_free(f->leaf[i].read);
    stream_free(f->gathers);
    stream_free(f->exchanges);
    arena_free(&f->arena);
    free_host(f);
}

FsdpBytes fsdp_plan(const ParamTable *table, const Mesh *mesh, const FsdpConfig *config) {
    Fsdp *f = shape(table, mesh, config);
    const FsdpBytes bytes = f->bytes;
    free_host(f);
    return bytes;
}

FsdpBytes fsdp_bytes(const Fsdp *f) {
    return f->bytes;
}

static Unit *unit_of(const Fsdp *f, int unit) {
    CHECK(unit >= 0 && unit < f->units, "unit %d of %d", unit, f->units);
    return &f->unit[unit];
}

int64_t fsdp_slice_begin(const Fsdp *f, int unit) {
    return unit_of(f, unit)->begin;
}

int64_t fsdp_slice_end(const Fsdp *f, int unit) {
    return unit_of(f, unit)->end;
}

float *fsdp_master(Fsdp *f, int unit) {
    return unit_of(f, unit)->master;
}

void fsdp_source(Fsdp *f, float *const *slices) {
    f->source = slices;
    fsdp_invalidate(f);
}

// What the compute stream does to the slices comes before what is done with them from now on.
static void follow_compute(Fsdp *f) {
    event_record(f->changed, NULL);
    stream_await(f->gathers, f->changed);
    stream_await(f->exchanges, f->changed);
}

void fsdp_invalidate(Fsdp *f) {
    for (int s = 0; s < f->slots; s++) {
        CHECK(f->slot[s].users == 0, "unit %d is still held", f->slot[s].unit);
        f->slot[s].unit = NO_UNIT;
    }
    follow_compute(f);
}

static Slot *slot_of(Fsdp *f, int unit) {
    for (int s = 0; s < f->slots; s++) {
        if (f->slot[s].unit == unit) return &f->slot[s];
    }
    return NULL;
}

static Slot *free_slot(Fsdp *f, int unit) {
    if (f->slots == f->units) return &f->slot[unit];
    Slot *oldest = NULL;
    for (int s = 0; s < f->slots; s++) {
        Slot *slot = &f->slot[s];
        if (slot->users == 0 && (oldest == NULL || slot->used < oldest->used)) oldest = slot;
    }
    CHECK(oldest != NULL, "unit %d: units %d and %d are still held", unit, f->slot[0].unit,
          f->slot[1].unit);
    return oldest;
}

// Where each rank of the shard group has its slice of a unit, in bytes.
static void slice_offsets(const Fsdp *f, int64_t *offsets, int64_t elements, int64_t size) {
    for (int i = 0; i <= f->mesh->shards; i++) {
        offsets[i] = slice_cut(elements, i, f->mesh->shards) * size;
    }
}

// Every rank gives its slice of a unit, of `size` bytes per element, and what lies behind it where
// it is short.
static void gather_slices(Fsdp *f, void *buffer, const Unit *unit, int64_t size) {
    const int n = f->mesh->shards;
    for (int i = 0; i <= n; i++) f->send_offsets[i] = unit->room / n * i * size;
    comm_all_gather_slices(f->mesh->shard, buffer, f->send_offsets, f->gathers);
}

static const float *source_of(const Fsdp *f, int unit) {
    return f->source == NULL ? f->unit[unit].master : f->source[unit];
}

void fsdp_fetch(Fsdp *f, int unit) {
    const Unit *const u = unit_of(f, unit);
    Slot *slot = slot_of(f, unit);
    if (slot == NULL) {
        slot = free_slot(f, unit);
        slot->unit = unit;
        stream_await(f->gathers, slot->released);
        if (!in_place(f)) {
            vector_round(slot->buffer + u->begin, REAL_TYPE, source_of(f, unit), u->end - u->begin,
                         f->gathers);
        }
        if (f->mesh->shards > 1) {
            gather_slices(f, slot->buffer, u, sizeof(real));
        }
        event_record(slot->gathered, f->gathers);
    }
    slot->users++;
    slot->used = ++f->fetches;
}

const real *fsdp_wait(Fsdp *f, int unit) {
    const Slot *slot = slot_of(f, unit);
    CHECK(slot != NULL && slot->users > 0, "unit %d was not fetched", unit);
    stream_await(NULL, slot->gathered);
    return in_place(f) ? (const void *)source_of(f, unit) : slot->buffer;
}

real *fsdp_rounded(Fsdp *f, int unit) {
    unit_of(f, unit);
    const bool holds = f->mesh->shards == 1 && f->slot[unit].unit == unit && f->source == NULL;
    return holds ? f->slot[unit].buffer : NULL;
}

void fsdp_release(Fsdp *f, int unit) {
    Slot *slot = slot_of(f, unit);
    CHECK(slot != NULL && slot->users > 0, "unit %d is not held", unit);
    slot->users--;
    event_record(slot->released, NULL);
}

void fsdp_begin_step(Fsdp *f, int packs) {
    CHECK(packs >= 1 && packs <= f->config.packs_max, "%d packs of at most %d", packs,
          f->config.packs_max);
    f->packs = packs;
    follow_compute(f);
    device_zero(f->square_sum, sizeof(*f->square_sum), f->exchanges);
    const int leaves = mesh_leaves(f->mesh, packs);
    for (int u = 0; u < f->units; u++) tree_begin(&f->unit[u].tree, leaves);
}

// Between the tensors of a unit, which their ops write whole.
static void zero_gaps(const Fsdp *f, int unit, char *leaf) {
    const int64_t size = type_size(f->config.wire);
    const Param *row = f->table->rows + param_unit_first(f->table, unit);
    const Param *end = f->table->rows + param_unit_first(f->table, unit + 1);
    for (; row < end; row++) {
        const int64_t gap = row->offset + row->count;
        const int64_t elements = round_up(gap, PARAM_ALIGNMENT) - gap;
        if (elements > 0) device_zero(leaf + gap * size, elements * size, NULL);
    }
}

Gradient fsdp_leaf(Fsdp *f, int unit) {
    CHECK(f->leaf_unit == NO_UNIT, "unit %d: the leaf of unit %d was not reduced", unit,
          f->leaf_unit);
    unit_of(f, unit);
    f->leaf_unit = unit;
    f->turn = (f->turn + 1) % LEAVES;
    void *buffer = f->leaf[f->turn].buffer;
    stream_await(NULL, f->leaf[f->turn].read);
    zero_gaps(f, unit, buffer);
    return (Gradient){.at = buffer, .type = f->config.wire};
}

// Adds what the shard group sent for this rank's slice: the leaves of one pack one by one by
// sequence index, then the packs in their order to the tree.
static void add_leaves(Fsdp *f, Unit *unit, const void *received, int round) {
    const Mesh *mesh = f->mesh;
    int parts = 0, sequence_index = 0, last = -1;
    for (int i = 0; i < mesh->shards; i++) {
        const int pack = mesh_pack_of(mesh, f->packs, round, i, &sequence_index);
        if (pack < 0) continue;
        if (parts > 0) f->pack_ends[parts - 1] = pack != last;
        f->pack_ends[parts++] = true;
        last = pack;
    }
    const Vectors v = {received, unit->end - unit->begin, f->config.wire, parts};
    tree_push(&unit->tree, &v, f->pack_ends, f->exchanges);
}

// Every replica adds one piece of the slice, for all. What lies behind the slice travels, too, and
// is nothing: equal pieces are what collectives are fast with.
static void add_replicas(Fsdp *f, Unit *unit) {
    const Mesh *mesh = f->mesh;
    const int n = mesh->replicas;
    const int64_t piece = unit->piece, bytes = piece * FLOAT;
    float *const sum = tree_sum(&unit->tree), *const pieces = f->receive;
    for (int i = 0; i <= n; i++) f->send_offsets[i] = f->receive_offsets[i] = i * bytes;
    comm_all_to_all(mesh->replica, pieces, f->receive_offsets, sum, f->send_offsets, f->exchanges);
    if (mesh->invariant) {
        tree_add_pieces(pieces, piece, n, piece, f->exchanges);
    } else {
        for (int i = 1; i < n; i++) {
            vector_add(pieces, pieces + i * piece, TYPE_F32, piece, f->exchanges);
        }
    }
    device_copy(sum + mesh->replica_index * piece, pieces, bytes, f->exchanges);
    comm_all_gather_slices(mesh->replica, sum, f->send_offsets, f->exchanges);
}

void fsdp_reduce(Fsdp *f, int unit, int round) {
    const Mesh *mesh = f->mesh;
    Unit *const u = unit_of(f, unit);
    const int64_t size = type_size(f->config.wire), slice = (u->end - u->begin) * size;
    const bool gives = mesh_pack(mesh, f->packs, round) >= 0;
    CHECK(f->leaf_unit == (gives ? unit : NO_UNIT),
          "unit %d, round %d: this rank has %s pack, but the leaf is of unit %d", unit, round,
          gives ? "a" : "no", f->leaf_unit);
    f->leaf_unit = NO_UNIT;
    const void *leaf = f->leaf[f->turn].buffer;
    if (gives) {
        event_record(f->written, NULL);
        stream_await(f->exchanges, f->written);
    }
    slice_offsets(f, f->send_offsets, gives ? u->elements : 0, size);
    f->receive_offsets[0] = 0;
    for (int i = 0; i < mesh->shards; i++) {
        int sequence_index = 0;
        const bool has = mesh_pack_of(mesh, f->packs, round, i, &sequence_index) >= 0;
        f->receive_offsets[i + 1] = f->receive_offsets[i] + (has ? slice : 0);
    }
    if (mesh->shards > 1) {
        comm_all_to_all(mesh->exchange, f->receive, f->receive_offsets, leaf, f->send_offsets,
                        f->exchanges);
    }
    add_leaves(f, u, mesh->shards > 1 ? f->receive : leaf, round);
    event_record(f->leaf[f->turn].read, f->exchanges);
    if (round < mesh_rounds(mesh, f->packs) - 1) return;
    if (mesh->replicas > 1) add_replicas(f, u);
    if (mesh->replica_index > 0) return;
    vector_square_sum(f->square_sum, tree_sum(&u->tree), u->tree.count, f->exchanges);
}

void fsdp_end_step(Fsdp *f) {
    event_record(f->summed, f->exchanges);
    stream_await(NULL, f->summed);
}

float *fsdp_gradient(Fsdp *f, int unit) {
    return tree_sum(&unit_of(f, unit)->tree);
}

void fsdp_square_sum(Fsdp *f, ExactSum *sum) {
    device_copy(sum, f->square_sum, sizeof(*sum), NULL);
    stream_wait(NULL);
}

void fsdp_gather(Fsdp *f, float *out, int unit, const float *slice) {
    const Unit *const u = unit_of(f, unit);
    float *const whole = device_allocate("a whole unit", u->room * FLOAT);
    event_record(f->written, NULL);
    stream_await(f->gathers, f->written);
    device_copy(whole + u->begin, slice, (u->end - u->begin) * FLOAT, f->gathers);
    if (f->mesh->shards > 1) gather_slices(f, whole, u, FLOAT);
    device_copy(out, whole, u->elements * FLOAT, f->gathers);
    stream_wait(f->gathers);
    device_free(whole);
}
