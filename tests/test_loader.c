// loader: packs hold what their samples were written with, whatever share a rank runs and however
// far ahead it reads; a corrupt sample is reported with its place and carries zeros, a file that is
// missing ends the run; the cache is bounded and shards are not decompressed again and again.
// ranks: 1
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "data/loader.h"
#include "tests/plan_maker.h"

// Rank r of n: packs r, r + n, ...
typedef struct {
    int64_t rank, size;
} Share;

static int64_t round_robin(int64_t *packs, int64_t pack_count, int stage, const void *context) {
    const Share *share = context;
    (void)stage;
    int64_t count = 0;
    for (int64_t j = share->rank; j < pack_count; j += share->size) packs[count++] = j;
    return count;
}

static Loader *start(Planner *planner, const Cursor *cursor, int64_t end, int64_t ahead,
                     int64_t cache_bytes, const Share *share) {
    Error error = {""};
    Loader *loader =
        loader_create(planner, cursor, end, ahead, cache_bytes, round_robin, share, &error);
    check_that(loader != NULL, "%s", error.text);
    return loader;
}

static void check_sample(const LoadedSample *got, const PlanSample *plan) {
    static float latent[MAKER_ELEMENTS_MAX], text[128];
    const Maker *maker = &plan_makers[plan->source];
    const int64_t number = maker->first + plan->row;
    const Sample want = maker_sample(maker, number, latent, text);
    check_that(!got->corrupt, "%s", got->reason);
    check_that(strcmp(got->id, want.id) == 0 && got->position == plan->position &&
                   got->medium == want.medium && got->text_length == want.text_length &&
                   memcmp(&got->shape, &want.shape, sizeof(want.shape)) == 0,
               "%s is not %s", got->id, want.id);
    check_close("latent", got->latent, latent, latent_elements(want.shape),
                number % 2 == 0 ? 0.004 : 0);
    if (want.text_length > 0) check_close("text", got->text, text, want.text_length * 8, 0);
}

// Each of three ranks gets its packs, in order, with the right samples; the plans are those that
// plan_step gives.
static void test_packs(void **state) {
    (void)state;
    for (int64_t rank = 0; rank < 3; rank++) {
        Planner *planner = plan_open_default(), *mine = plan_open_default();
        StepPlan *want = step_plan_create(mine);
        Cursor cursor, moving;
        cursor_init(&cursor, planner);
        cursor_init(&moving, mine);
        const Share share = {rank, 3};
        Loader *loader = start(planner, &cursor, 1000, 1 + rank * 2, 60000 + rank * 100000, &share);
        for (int64_t step = 0; step < planner_steps(mine); step++) {
            Error error = {""};
            const StepPlan *plan = loader_step(loader, &error);
            check_that(plan != NULL, "%s", error.text);
            plan_step(want, mine, &moving);
            check_that(plan->step == step && plan->sample_count == want->sample_count &&
                           plan_same_samples(plan->samples, want->samples, want->sample_count) &&
                           plan->after.position == moving.position,
                       "plan of step %lld", (long long)step);
            for (int64_t j = rank; j < plan->pack_count; j += 3) {
                const LoadedPack *pack = loader_pack(loader, &error);
                check_that(pack != NULL, "%s", error.text);
                check_that(
                    pack->step == step && pack->pack == j && pack->count == want->packs[j].count,
                    "pack %lld of step %lld", (long long)j, (long long)step);
                for (int64_t i = 0; i < pack->count; i++) {
                    check_sample(&pack->samples[i], &want->samples[want->packs[j].first + i]);
                }
            }
        }
        loader_free(loader);
        cursor_free(&cursor);
        cursor_free(&moving);
        step_plan_free(want);
        planner_free(planner);
        planner_free(mine);
    }
}

// Leaving in the middle of a step, with the thread at work, ends cleanly.
static void test_leaving_early(void **state) {
    (void)state;
    Planner *planner = plan_open_default();
    Cursor cursor;
    cursor_init(&cursor, planner);
    const Share all = {0, 1};
    for (int i = 0; i < 4; i++) {
        Loader *loader = start(planner, &cursor, 50, 2, 100000, &all);
        Error error = {""};
        if (i > 0) loader_step(loader, &error);
        for (int k = 1; k < i; k++) loader_pack(loader, &error);
        loader_free(loader);
    }
    cursor_free(&cursor);
    planner_free(planner);
}

static void read_all(PackReader *reader, LoadedPack *pack, const StepPlan *plan, int64_t *corrupt,
                     char *reason) {
    for (int64_t j = 0; j < plan->pack_count; j++) {
        Error error = {""};
        check_that(pack_reader_load(pack, reader, plan, j, &error), "%s", error.text);
        for (int64_t i = 0; i < pack->count; i++) {
            const LoadedSample *sample = &pack->samples[i];
            if (!sample->corrupt) continue;
            ++*corrupt;
            snprintf(reason, sizeof(sample->reason), "%s", sample->reason);
            for (int64_t e = 0; e < latent_elements(sample->shape); e++) {
                check_that(sample->latent[e] == 0, "a corrupt sample has values");
            }
        }
    }
}

// The shards of the windows that a step draws from fit into the cache: each is decompressed about
// once an epoch.
static void test_cache(void **state) {
    (void)state;
    DataConfig config = plan_config();
    config.sources[0].weight = 0;
    StageData stage = plan_stage(60, 0);
    Planner *planner = plan_open(&config, &stage, 1);
    StepPlan *plan = step_plan_create(planner);
    LoadedPack *pack = loaded_pack_create(planner);
    Cursor cursor;
    Error error = {""};
    cursor_init(&cursor, planner);
    const int64_t largest = planner_catalogue(planner, 1)->index->raw_bytes_max;
    check_that(pack_reader_create(planner, largest - 1, &error) == NULL, "too small a cache");
    check_contains(error.text, "data.cache_bytes");
    PackReader *reader = pack_reader_create(planner, 12 * largest, &error);
    char reason[256];
    int64_t corrupt = 0;
    while (cursor.step < 60) {
        plan_step(plan, planner, &cursor);
        read_all(reader, pack, plan, &corrupt, reason);
    }
    const int64_t shards = planner_catalogue(planner, 1)->index->shard_count;
    const int64_t epochs = cursor.places[1][MEDIUM_VIDEO].epoch + 1;
    check_that(epochs > 4 && shards > 8, "%lld epochs, %lld shards", (long long)epochs,
               (long long)shards);
    check_that(pack_reader_shards_loaded(reader) <= epochs * (shards + 3),
               "%lld shards loaded in %lld epochs of %lld",
               (long long)pack_reader_shards_loaded(reader), (long long)epochs, (long long)shards);
    check_that(corrupt == 0, "%s", reason);
    check_that(pack_reader_bytes(planner, 12 * largest) <= 14 * largest, "bytes");
    pack_reader_free(reader);
    loaded_pack_free(pack);
    step_plan_free(plan);
    cursor_free(&cursor);
    planner_free(planner);
}

// ---- faults

// Data of its own in `name`, one source, one step of the plan.
typedef struct {
    Planner *planner;
    StepPlan *plan;
    LoadedPack *pack;
    PackReader *reader;
    char folder[512];
} Fault;

static void fault_open(Fault *fault, const char *name, MdsCompression compression,
                       const char *dataset_json) {
    const Maker maker = {0, 100, 4, compression, 9000};
    check_path(fault->folder, "%s", name);
    maker_write(&maker, fault->folder);
    if (dataset_json != NULL) {
        char path[600];
        snprintf(path, sizeof(path), "%s/dataset.json", fault->folder);
        maker_overwrite(path, dataset_json, (int64_t)strlen(dataset_json));
    }
    static Problems problems;
    problems.count = 0;
    check_that(catalogue_build(fault->folder, &problems), "%s", problems.text[0]);
    DataConfig config = {.source_count = 1, .window = 100, .holdout = 0};
    snprintf(config.sources[0].path, 512, "%s", fault->folder);
    config.sources[0].weight = 1;
    StageData stage = plan_stage(5, 0.5);
    stage.packs = 40;
    fault->planner = plan_open(&config, &stage, 1);
    fault->plan = step_plan_create(fault->planner);
    fault->pack = loaded_pack_create(fault->planner);
    Error error = {""};
    fault->reader = pack_reader_create(fault->planner, 1 << 20, &error);
    check_that(fault->reader != NULL, "%s", error.text);
    Cursor cursor;
    cursor_init(&cursor, fault->planner);
    plan_step(fault->plan, fault->planner, &cursor);
    cursor_free(&cursor);
}

static void fault_close(Fault *fault) {
    pack_reader_free(fault->reader);
    loaded_pack_free(fault->pack);
    step_plan_free(fault->plan);
    planner_free(fault->planner);
}

static void fault_path(char path[600], const Fault *fault, int shard) {
    const MdsShard *s = &planner_catalogue(fault->planner, 0)->index->shards[shard];
    snprintf(path, 600, "%s/%s", fault->folder, s->zip.name != NULL ? s->zip.name : s->raw.name);
}

// One bit in one sample of a raw shard: that sample, wherever it is drawn, and no other.
static void test_flipped_bit(void **state) {
    (void)state;
    Fault fault;
    fault_open(&fault, "flipped", MDS_PLAIN, NULL);
    const CatalogueRow *row = &planner_catalogue(fault.planner, 0)->rows[60];
    char path[600], reason[256] = "", want[64];
    fault_path(path, &fault, (int)row->shard);
    int64_t bytes, corrupt = 0, drawn = 0;
    uint8_t *shard = maker_read(path, &bytes);
    shard[row->offset + row->bytes / 2] ^= 1;
    maker_overwrite(path, shard, bytes);
    free(shard);
    for (int64_t i = 0; i < fault.plan->sample_count; i++)
        drawn += fault.plan->samples[i].row == 60;
    check_that(drawn > 0, "the sample is not in the step");
    read_all(fault.reader, fault.pack, fault.plan, &corrupt, reason);
    check_that(corrupt == drawn, "%lld of %lld", (long long)corrupt, (long long)drawn);
    snprintf(want, sizeof(want), "shard.%05u.mds: sample %u: its XXH3", row->shard, row->index);
    check_contains(reason, want);
    fault_close(&fault);
}

// A short shard is corrupt from there on.
static void test_short_shard(void **state) {
    (void)state;
    for (int compression = MDS_PLAIN; compression <= MDS_ZSTD; compression++) {
        Fault fault;
        fault_open(&fault, compression == MDS_PLAIN ? "short" : "short-zstd",
                   (MdsCompression)compression, NULL);
        const Catalogue *catalogue = planner_catalogue(fault.planner, 0);
        char path[600], reason[256] = "";
        fault_path(path, &fault, 1);
        int64_t bytes, corrupt = 0, want = 0;
        uint8_t *shard = maker_read(path, &bytes);
        maker_overwrite(path, shard, bytes / 2);
        free(shard);
        for (int64_t i = 0; i < fault.plan->sample_count; i++) {
            const CatalogueRow *row = &catalogue->rows[fault.plan->samples[i].row];
            want += row->shard == 1 &&
                    (compression == MDS_ZSTD || (int64_t)row->offset + row->bytes > bytes / 2);
        }
        read_all(fault.reader, fault.pack, fault.plan, &corrupt, reason);
        check_that(want > 0 && corrupt == want, "%lld corrupt, want %lld", (long long)corrupt,
                   (long long)want);
        check_contains(reason, "shard.00001.mds: sample ");
        check_contains(reason, compression == MDS_ZSTD ? "corrupt" : "short");
        fault_close(&fault);
    }
}

// A missing file is nobody's bytes: the run ends, through the loader too.
static void test_missing_shard(void **state) {
    (void)state;
    Fault fault;
    fault_open(&fault, "missing", MDS_ZSTD, NULL);
    char path[600];
    fault_path(path, &fault, 2);
    unlink(path);
    Error error = {""};
    bool ok = true;
    for (int64_t j = 0; ok && j < fault.plan->pack_count; j++) {
        ok = pack_reader_load(fault.pack, fault.reader, fault.plan, j, &error);
    }
    check_that(!ok, "a missing shard was not noticed");
    check_contains(error.text, "shard.00002.mds.zstd: cannot be opened");
    Cursor cursor;
    cursor_init(&cursor, fault.planner);
    const Share all = {0, 1};
    Loader *loader = start(fault.planner, &cursor, 5, 2, 1 << 20, &all);
    check_that(loader_step(loader, &error) != NULL, "the first plan");
    error.text[0] = 0;
    while (loader_pack(loader, &error) != NULL) {
    }
    check_contains(error.text, "shard.00002.mds.zstd: cannot be opened");
    loader_free(loader);
    cursor_free(&cursor);
    fault_close(&fault);
}

// dataset.json says that latents are not normalised yet.
static void test_normalised(void **state) {
    (void)state;
    Fault fault;
    fault_open(
        &fault, "normalised", MDS_ZSTD,
        "{\"latent\": {\"mean\": [0, 1, 2, 3], \"std\": [1, 2, 0.5, 4], \"applied\": false}}");
    const float mean[4] = {0, 1, 2, 3}, std[4] = {1, 2, 0.5f, 4};
    Error error = {""};
    check_that(pack_reader_load(fault.pack, fault.reader, fault.plan, 0, &error), "%s", error.text);
    const Maker maker = {0, 100, 4, MDS_ZSTD, 9000};
    for (int64_t i = 0; i < fault.pack->count; i++) {
        static float latent[MAKER_ELEMENTS_MAX], text[128];
        const LoadedSample *got = &fault.pack->samples[i];
        const Sample want = maker_sample(&maker, got->row, latent, text);
        const int64_t plane = latent_elements(want.shape) / 4;
        for (int64_t e = 0; e < 4 * plane; e++) {
            latent[e] = (latent[e] - mean[e / plane]) / std[e / plane];
        }
        check_close("latent", got->latent, latent, 4 * plane, 0.004);
    }
    fault_close(&fault);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packs),       cmocka_unit_test(test_leaving_early),
        cmocka_unit_test(test_cache),       cmocka_unit_test(test_flipped_bit),
        cmocka_unit_test(test_short_shard), cmocka_unit_test(test_missing_shard),
        cmocka_unit_test(test_normalised),
    };
    return cmocka_run_group_tests(tests, plan_data, NULL);
}
