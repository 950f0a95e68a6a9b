// oneDNN as this backend uses it: products of a few fixed shapes ("tiles"), made once and run by
// one thread each, so that no sum is ever split by thread. The left factor is dense, the right one
// is packed beforehand into the layout the processor's matrix instructions want (measured on
// AMX: 2.0 TFLOP/s a core with a packed 576 x 256 factor, 1.1 with a plain one). Works with
// oneDNN 2.6 (Debian 12) and 3.x (Ubuntu 24.04). Nothing else includes <dnnl.h>.
#ifndef MODEL_OPS_CPU_ONEDNN_H
#define MODEL_OPS_CPU_ONEDNN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/real.h"

// c = a b, or c += a b where `add`. c [M, N] float, dense; a [M, K] real, dense, or stored as its
// transpose [K, M] where `a_transposed`; b packed from [K, N], or as it is, dense, where `b_plain`.
typedef struct {
    int64_t M, N, K;
    bool add, a_transposed, b_plain;
} TileShape;
typedef struct Tile Tile;

// The tile of this shape, made on first need: not inside a parallel region.
const Tile *tile_get(TileShape shape);
// thread < onednn_threads().
void tile_run(const Tile *tile, int thread, float *c, const real *a, const real *b);

// A reordering of a real matrix [rows, columns] whose rows lie ld elements apart.
typedef enum {
    PACK_RIGHT,             // As right factor [K, N] = [rows, columns].
    PACK_RIGHT_TRANSPOSED,  // As right factor [K, N] = [columns, rows].
} PackKind;
typedef struct Pack Pack;

const Pack *pack_get(PackKind kind, int64_t rows, int64_t columns, int64_t ld);
void pack_run(const Pack *pack, int thread, real *out, const real *in);

// Elements that a packed right factor [K, N] takes, a multiple of 64.
int64_t packed_size(int64_t K, int64_t N);

// K rounded up to a depth that the processor multiplies without a slow remainder.
int64_t tile_depth(int64_t K);

// Memory of all threads that the tiles made so far work in.
int64_t onednn_scratch_bytes(void);

// How many threads may run tiles at once; a parallel region must not have more.
int onednn_threads(void);

// GFLOP/s of one plain library call out [T, N] = x [T, K] w [N, K]^T with all threads, best of 10:
// what benchmarks compare with.
double onednn_plain_gflops(int64_t T, int64_t N, int64_t K);

#endif
