#include "model/ops/cpu/onednn.h"

#include <dnnl.h>
#include <omp.h>
#include <stdlib.h>

#include "base/device.h"
#include "base/die.h"

enum { TILES_MAX = 1024, PACKS_MAX = 1024, LAYOUTS_MAX = 512, THREADS_MIN = 4, THREADS_MAX = 256 };

#define DNNL_CHECK(call)                                                              \
    do {                                                                              \
        const dnnl_status_t status_ = (call);                                         \
        CHECK(status_ == dnnl_success, "oneDNN: %s: status %d", #call, (int)status_); \
    } while (0)

// 2.x has descriptions by value, 3.x behind a pointer.
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t Desc;
typedef const_dnnl_memory_desc_t DescRef;
#define REF(desc) (desc)
#else
typedef dnnl_memory_desc_t Desc;
typedef const dnnl_memory_desc_t *DescRef;
#define REF(desc) (&(desc))
#endif

// One primitive and, for each thread, the memory objects of its arguments.
typedef struct {
    dnnl_primitive_t primitive;
    int arguments;
    dnnl_exec_arg_t *argument;  // [threads, arguments]; the data is set before each run.
} Op;

struct Tile {
    TileShape shape;
    Op op;
};

struct Pack {
    PackKind kind;
    int64_t rows, columns, ld;
    Op op;
};

// How right factors [K, N] are packed, as the library chose for blocks of 256 rows.
typedef struct {
    int64_t K, N, size;
    Desc desc;
} Layout;

// The library's handles: they live as long as the process.
static struct {
    dnnl_engine_t engine;
    int threads;
    dnnl_stream_t stream[THREADS_MAX];
    char *scratch[THREADS_MAX];
    int64_t scratch_size;
    int tiles, packs, layouts;
    Tile tile[TILES_MAX];
    Pack pack[PACKS_MAX];
    Layout layout[LAYOUTS_MAX];
} library;

#define REAL_DNNL (REAL_TYPE == TYPE_BF16 ? dnnl_bf16 : dnnl_f32)

static void library_start(void) {
    if (library.threads) return;
    const int64_t wanted = max_i64(omp_get_max_threads(), THREADS_MIN);
    library.threads = (int)min_i64(wanted, THREADS_MAX);
    DNNL_CHECK(dnnl_engine_create(&library.engine, dnnl_cpu, 0));
    for (int t = 0; t < library.threads; t++) {
        DNNL_CHECK(dnnl_stream_create(&library.stream[t], library.engine,
                                      (unsigned)dnnl_stream_default_flags));
    }
}

int onednn_threads(void) {
    library_start();
    return library.threads;
}

int64_t onednn_scratch_bytes(void) {
    return library.threads * library.scratch_size;
}

int64_t tile_depth(int64_t K) {
    if (REAL_TYPE == TYPE_F32) return K;
    // AMX multiplies 32 deep: 256 x 512 x 80 takes twice as long as 256 x 512 x 96.
    const bool amx = dnnl_get_effective_cpu_isa() >= dnnl_cpu_isa_avx512_core_amx;
    return round_up(K, amx ? 32 : 2);
}

static Desc desc_strides(dnnl_data_type_t type, int64_t rows, int64_t columns, int64_t row_stride,
                         int64_t column_stride) {
    const dnnl_dims_t dims = {rows, columns};
    const dnnl_dims_t strides = {row_stride, column_stride};
    Desc desc;
#if DNNL_VERSION_MAJOR >= 3
    DNNL_CHECK(dnnl_memory_desc_create_with_strides(&desc, 2, dims, type, strides));
#else
    DNNL_CHECK(dnnl_memory_desc_init_by_strides(&desc, 2, dims, type, strides));
#endif
    return desc;
}

static Desc desc_any(dnnl_data_type_t type, int64_t rows, int64_t columns) {
    const dnnl_dims_t dims = {rows, columns};
    Desc desc;
#if DNNL_VERSION_MAJOR >= 3
    DNNL_CHECK(dnnl_memory_desc_create_with_tag(&desc, 2, dims, type, dnnl_format_tag_any));
#else
    DNNL_CHECK(dnnl_memory_desc_init_by_tag(&desc, 2, dims, type, dnnl_format_tag_any));
#endif
    return desc;
}

static void desc_free(Desc *desc) {
#if DNNL_VERSION_MAJOR >= 3
    DNNL_CHECK(dnnl_memory_desc_destroy(*desc));
#else
    (void)desc;
#endif
}

// The library plans for as many threads as OpenMP has at this moment: here always for one, since
// one thread runs a tile, so that neither plans nor bits depend on their number.
static int threads_hide(void) {
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    return threads;
}

static dnnl_primitive_desc_t product_describe(const TileShape *s, const Desc *right) {
    const int threads = threads_hide();
    Desc a = s->a_transposed ? desc_strides(REAL_DNNL, s->M, s->K, 1, s->M)
                             : desc_strides(REAL_DNNL, s->M, s->K, s->K, 1);
    Desc c = desc_strides(dnnl_f32, s->M, s->N, s->N, 1);
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t post;
    DNNL_CHECK(dnnl_primitive_attr_create(&attr));
    DNNL_CHECK(dnnl_post_ops_create(&post));
    dnnl_primitive_desc_t result;
#if DNNL_VERSION_MAJOR >= 3
    if (s->add) DNNL_CHECK(dnnl_post_ops_append_sum(post, 1.0f, 0, dnnl_data_type_undef));
#else
    if (s->add) DNNL_CHECK(dnnl_post_ops_append_sum(post, 1.0f));
#endif
    DNNL_CHECK(dnnl_primitive_attr_set_post_ops(attr, post));
    DNNL_CHECK(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
#if DNNL_VERSION_MAJOR >= 3
    const dnnl_status_t status =
        dnnl_matmul_primitive_desc_create(&result, library.engine, a, *right, NULL, c, attr);
#else
    dnnl_matmul_desc_t matmul;
    DNNL_CHECK(dnnl_matmul_desc_init(&matmul, &a, right, NULL, &c));
    const dnnl_status_t status =
        dnnl_primitive_desc_create(&result, &matmul, attr, library.engine, NULL);
#endif
    CHECK(status == dnnl_success,
          "oneDNN has no product of %s here (status %d): use the fp32 build on this processor",
          REAL_NAME, (int)status);
    omp_set_num_threads(threads);
    DNNL_CHECK(dnnl_post_ops_destroy(post));
    DNNL_CHECK(dnnl_primitive_attr_destroy(attr));
    desc_free(&a);
    desc_free(&c);
    return result;
}

static void argument_add(Op *op, int kind, DescRef desc) {
    for (int t = 0; t < library.threads; t++) {
        dnnl_exec_arg_t *argument = &op->argument[t * 4 + op->arguments];
        argument->arg = kind;
        DNNL_CHECK(dnnl_memory_create(&argument->memory, desc, library.engine, DNNL_MEMORY_NONE));
    }
    op->arguments++;
}

static void op_create(Op *op, dnnl_primitive_desc_t describe) {
    DNNL_CHECK(dnnl_primitive_create(&op->primitive, describe));
    op->argument = calloc((size_t)library.threads * 4, sizeof(*op->argument));
    CHECK(op->argument != NULL, "no memory for the arguments of a oneDNN primitive");
}

static void op_run(const Op *op, int thread, void *const data[]) {
    dnnl_exec_arg_t *argument = &op->argument[thread * 4];
    for (int i = 0; i < op->arguments; i++) {
        DNNL_CHECK(dnnl_memory_set_data_handle(argument[i].memory, data[i]));
    }
    DNNL_CHECK(
        dnnl_primitive_execute(op->primitive, library.stream[thread], op->arguments, argument));
}

static void op_destroy(Op *op) {
    for (int i = 0; i < library.threads * 4; i++) {
        if (op->argument[i].memory) DNNL_CHECK(dnnl_memory_destroy(op->argument[i].memory));
    }
    free(op->argument);
    DNNL_CHECK(dnnl_primitive_destroy(op->primitive));
}

static void scratch_grow(int64_t size) {
    if (size <= library.scratch_size) return;
    for (int t = 0; t < library.threads; t++) {
        device_free(library.scratch[t]);
        library.scratch[t] = device_allocate("oneDNN scratch", size);
    }
    library.scratch_size = size;
}

static const Layout *layout_get(int64_t K, int64_t N) {
    library_start();
    for (int i = 0; i < library.layouts; i++) {
        if (library.layout[i].K == K && library.layout[i].N == N) return &library.layout[i];
    }
    CHECK(library.layouts < LAYOUTS_MAX, "more than %d shapes of factors", LAYOUTS_MAX);
    Layout *layout = &library.layout[library.layouts++];
    const TileShape shape = {.M = 256, .N = N, .K = K};
    Desc any = desc_any(REAL_DNNL, K, N);
    dnnl_primitive_desc_t describe = product_describe(&shape, &any);
    DescRef weights = dnnl_primitive_desc_query_md(describe, dnnl_query_weights_md, 0);
    layout->K = K;
    layout->N = N;
    layout->size =
        round_up((int64_t)dnnl_memory_desc_get_size(weights) / (int64_t)sizeof(real), 64);
#if DNNL_VERSION_MAJOR >= 3
    DNNL_CHECK(dnnl_memory_desc_clone(&layout->desc, weights));
#else
    layout->desc = *weights;
#endif
    desc_free(&any);
    DNNL_CHECK(dnnl_primitive_desc_destroy(describe));
    return layout;
}

int64_t packed_size(int64_t K, int64_t N) {
    return layout_get(K, N)->size;
}

const Tile *tile_get(TileShape shape) {
    for (int i = 0; i < library.tiles; i++) {
        const TileShape *s = &library.tile[i].shape;
        if (s->M == shape.M && s->N == shape.N && s->K == shape.K && s->add == shape.add &&
            s->a_transposed == shape.a_transposed && s->b_plain == shape.b_plain) {
            return &library.tile[i];
        }
    }
    library_start();
    Desc right = shape.b_plain ? desc_strides(REAL_DNNL, shape.K, shape.N, shape.N, 1)
                               : layout_get(shape.K, shape.N)->desc;
    CHECK(library.tiles < TILES_MAX, "more than %d shapes of tiles", TILES_MAX);
    Tile *tile = &library.tile[library.tiles++];
    tile->shape = shape;
    dnnl_primitive_desc_t describe = product_describe(&shape, &right);
    op_create(&tile->op, describe);
    argument_add(&tile->op, DNNL_ARG_SRC,
                 dnnl_primitive_desc_query_md(describe, dnnl_query_src_md, 0));
    argument_add(&tile->op, DNNL_ARG_WEIGHTS, REF(right));
    argument_add(&tile->op, DNNL_ARG_DST,
                 dnnl_primitive_desc_query_md(describe, dnnl_query_dst_md, 0));
    DescRef scratch = dnnl_primitive_desc_query_md(describe, dnnl_query_scratchpad_md, 0);
    argument_add(&tile->op, DNNL_ARG_SCRATCHPAD, scratch);
    scratch_grow((int64_t)dnnl_memory_desc_get_size(scratch));
    DNNL_CHECK(dnnl_primitive_desc_destroy(describe));
    if (shape.b_plain) desc_free(&right);
    return tile;
}

void tile_run(const Tile *tile, int thread, float *c, const real *a, const real *b) {
    op_run(&tile->op, thread, (void *[]){(void *)a, (void *)b, c, library.scratch[thread]});
}

const Pack *pack_get(PackKind kind, int64_t rows, int64_t columns, int64_t ld) {
    for (int i = 0; i < library.packs; i++) {
        const Pack *p = &library.pack[i];
        if (p->kind == kind && p->rows == rows && p->columns == columns && p->ld == ld) return p;
    }
    library_start();
    CHECK(library.packs < PACKS_MAX, "more than %d shapes of packing", PACKS_MAX);
    Pack *pack = &library.pack[library.packs++];
    *pack = (Pack){.kind = kind, .rows = rows, .columns = columns, .ld = ld};
    Desc in, out;
    if (kind == PACK_RIGHT) {
        in = desc_strides(REAL_DNNL, rows, columns, ld, 1);
        out = layout_get(rows, columns)->desc;
    } else {
        in = desc_strides(REAL_DNNL, columns, rows, 1, ld);
        out = layout_get(columns, rows)->desc;
    }
    dnnl_primitive_attr_t attr;
    DNNL_CHECK(dnnl_primitive_attr_create(&attr));
    DNNL_CHECK(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
    dnnl_primitive_desc_t describe;
    const int threads = threads_hide();
    DNNL_CHECK(dnnl_reorder_primitive_desc_create(&describe, REF(in), library.engine, REF(out),
                                                  library.engine, attr));
    omp_set_num_threads(threads);
    op_create(&pack->op, describe);
    argument_add(&pack->op, DNNL_ARG_FROM, REF(in));
    argument_add(&pack->op, DNNL_ARG_TO, REF(out));
    DescRef scratch = dnnl_primitive_desc_query_md(describe, dnnl_query_scratchpad_md, 0);
    argument_add(&pack->op, DNNL_ARG_SCRATCHPAD, scratch);
    scratch_grow((int64_t)dnnl_memory_desc_get_size(scratch));
    DNNL_CHECK(dnnl_primitive_attr_destroy(attr));
    DNNL_CHECK(dnnl_primitive_desc_destroy(describe));
    desc_free(&in);
    return pack;
}

void pack_run(const Pack *pack, int thread, real *out, const real *in) {
    op_run(&pack->op, thread, (void *[]){(void *)in, out, library.scratch[thread]});
}

double onednn_plain_gflops(int64_t T, int64_t N, int64_t K) {
    library_start();
    Desc a = desc_strides(REAL_DNNL, T, K, K, 1), b = desc_strides(REAL_DNNL, K, N, 1, K);
    Desc c = desc_strides(REAL_DNNL, T, N, N, 1);
    dnnl_primitive_desc_t describe;
#if DNNL_VERSION_MAJOR >= 3
    DNNL_CHECK(dnnl_matmul_primitive_desc_create(&describe, library.engine, a, b, NULL, c, NULL));
#else
    dnnl_matmul_desc_t matmul;
    DNNL_CHECK(dnnl_matmul_desc_init(&matmul, &a, &b, NULL, &c));
    DNNL_CHECK(dnnl_primitive_desc_create(&describe, &matmul, NULL, library.engine, NULL));
#endif
    Op op = {0};
    op_create(&op, describe);
    argument_add(&op, DNNL_ARG_SRC, REF(a));
    argument_add(&op, DNNL_ARG_WEIGHTS, REF(b));
    argument_add(&op, DNNL_ARG_DST, REF(c));
    void *data[3];
    const int64_t sizes[3] = {T * K, N * K, T * N};
    for (int i = 0; i < 3; i++) {
        real *x = data[i] = device_allocate("plain product", sizes[i] * (int64_t)sizeof(real));
        for (int64_t j = 0; j < sizes[i]; j++) x[j] = to_real((float)(j % 509) / 509.0f - 0.5f);
    }
    double best = 1e9;
    for (int i = 0; i < 10; i++) {
        const double start = omp_get_wtime();
        op_run(&op, 0, data);
        const double seconds = omp_get_wtime() - start;
        if (seconds < best) best = seconds;
    }
    for (int i = 0; i < 3; i++) device_free(data[i]);
    op_destroy(&op);
    DNNL_CHECK(dnnl_primitive_desc_destroy(describe));
    desc_free(&a);
    desc_free(&b);
    desc_free(&c);
    return 2e-9 * (double)T * (double)N * (double)K / best;
}
