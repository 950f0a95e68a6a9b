// No corruption of a data set is accepted silently: 1,000 seeded ones (bits flipped, files cut,
// grown, zeroed in part, missing, of another version) of index.json, shards (raw and zstd) and
// catalogue. Each is refused with its place, or every sample that it touched is reported as corrupt
// with its place, and all others have the values they had.
// ranks: 1
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "data/info.h"
#include "data/reader.h"
#include "tests/plan_maker.h"

enum { SAMPLES = 60, CASES = 500, FILES_MAX = 24 };

typedef enum { FLIP, CUT, GROW, ZERO, MISSING, VERSION, FAULTS } FaultKind;
static const char *const fault_names[FAULTS] = {"flip", "cut",     "grow",
                                                "zero", "missing", "version"};

// A data set, its files, and what its samples must be.
typedef struct {
    DataConfig config;
    StageData stage;
    char files[FILES_MAX][64];
    int file_count;  // files[0] is index.json, files[1] catalogue.bin, then the shards.
    uint64_t latents[SAMPLES], texts[SAMPLES];  // Hashes of the floats.
} Set;

static void hash_sample(uint64_t *latent, uint64_t *text, const LoadedSample *sample) {
    *latent = hash_bytes(sample->latent, 4 * latent_elements(sample->shape));
    *text = hash_bytes(sample->text, 4 * sample->text_length * MAKER_TEXT_WIDTH);
}

typedef struct {
    bool refused;     // The catalogue, or an I/O error.
    int64_t corrupt;  // Samples.
    char text[1024];  // The last reason.
} Verdict;

// Reads every sample as the loader would, one a pack. Wrong values that are not reported fail the
// test.
static Verdict load_all(Set *set, bool learn) {
    Verdict verdict = {0};
    static Problems problems;
    problems.count = 0;
    Planner *planner = planner_create(&set->config, &set->stage, 1, &plan_needs, 1, &problems);
    if (planner == NULL) {
        verdict.refused = true;
        snprintf(verdict.text, sizeof(verdict.text), "%s", problems.text[0]);
        return verdict;
    }
    Error error = {""};
    StepPlan *plan = step_plan_create(planner);
    LoadedPack *pack = loaded_pack_create(planner);
    PackReader *reader = pack_reader_create(planner, 1 << 20, &error);
    check_that(reader != NULL, "%s", error.text);
    plan->packs[0] = (PlanPack){.count = 1};
    for (int64_t i = 0; i < SAMPLES && !verdict.refused; i++) {
        const CatalogueRow *row = &planner_catalogue(planner, 0)->rows[i];
        plan->samples[0] = (PlanSample){.position = i,
                                        .row = (uint32_t)i,
                                        .shape = row->shape,
                                        .text_length = row->text_length};
        if (!pack_reader_load(pack, reader, plan, 0, &error)) {
            verdict.refused = true;
            snprintf(verdict.text, sizeof(verdict.text), "%s", error.text);
        } else if (pack->samples[0].corrupt) {
            verdict.corrupt++;
            snprintf(verdict.text, sizeof(verdict.text), "%s", pack->samples[0].reason);
        } else {
            uint64_t latent, text;
            hash_sample(&latent, &text, &pack->samples[0]);
            if (learn) set->latents[i] = latent;
            if (learn) set->texts[i] = text;
            check_that(latent == set->latents[i] && text == set->texts[i],
                       "sample %lld has other values, silently", (long long)i);
        }
    }
    pack_reader_free(reader);
    loaded_pack_free(pack);
    step_plan_free(plan);
    planner_free(planner);
    return verdict;
}

static void set_make(Set *set, const char *name, MdsCompression compression) {
    const Maker maker = {0, SAMPLES, 4, compression, 9000};
    *set = (Set){.stage = plan_stage(1, 0.5)};
    set->stage.tokens = 1000;
    set->config = (DataConfig){.source_count = 1, .window = 2};
    set->config.sources[0].weight = 1;
    check_path(set->config.sources[0].path, "%s", name);
    maker_build(&maker, set->config.sources[0].path);
    Error error = {""};
    MdsIndex *index = mds_index_open(set->config.sources[0].path, &error);
    check_that(index != NULL && index->shard_count + 2 <= FILES_MAX, "%s", error.text);
    snprintf(set->files[0], sizeof(set->files[0]), "index.json");
    snprintf(set->files[1], sizeof(set->files[1]), "catalogue.bin");
    set->file_count = 2;
    for (int64_t i = 0; i < index->shard_count; i++) {
        const MdsShard *shard = &index->shards[i];
        snprintf(set->files[set->file_count++], sizeof(set->files[0]), "%s",
                 compression == MDS_ZSTD ? shard->zip.name : shard->raw.name);
    }
    mds_index_free(index);
    const Verdict verdict = load_all(set, true);
    check_that(!verdict.refused && verdict.corrupt == 0, "%s", verdict.text);
}

// Changes the version: of index.json or the catalogue; of a shard its count of samples.
static void change_version(uint8_t *data, const char *file, uint32_t bits) {
    if (strcmp(file, "catalogue.bin") == 0) {
        data[8] = (uint8_t)(data[8] + 1 + bits % 200);
        return;
    }
    uint8_t *at = data;
    if (strcmp(file, "index.json") == 0) {
        at = (uint8_t *)strstr((char *)data, "\"version\": 2");
        for (uint32_t skip = bits % 4; skip > 0 && at != NULL; skip--) {
            uint8_t *next = (uint8_t *)strstr((char *)at + 1, "\"version\": 2");
            if (next == NULL) break;
            at = next;
        }
        check_that(at != NULL, "no version in %s", file);
        at[11] = (uint8_t)('3' + bits % 7);
        return;
    }
    at[0] = (uint8_t)(at[0] + 1 + bits % 100);
}

// Applies fault number `n`; says whether the file is another one now.
static bool damage(const char *path, const char *file, FaultKind kind, uint64_t n,
                   const uint8_t *good, int64_t bytes) {
    const uint32_t where = rng_bits(9, RNG_TEST, n, 0), what = rng_bits(9, RNG_TEST, n, 1);
    uint8_t *bad = malloc((size_t)bytes + 64);
    check_that(bad != NULL, "no memory");
    memcpy(bad, good, (size_t)bytes);
    memset(bad + bytes, 0, 64);  // What strstr needs, and what GROW appends.
    int64_t size = bytes;
    const int64_t at = where % bytes;
    if (kind == FLIP) bad[at] ^= (uint8_t)(1u << what % 8);
    if (kind == CUT) size = at;
    if (kind == GROW) size = bytes + 1 + what % 64;
    if (kind == ZERO) memset(bad + at, 0, (size_t)(bytes - at < 32 ? bytes - at : 32));
    if (kind == VERSION) change_version(bad, file, what);
    const bool differs = size != bytes || memcmp(bad, good, (size_t)bytes) != 0;
    if (kind == MISSING) {
        unlink(path);
    } else {
        maker_overwrite(path, bad, size);
    }
    free(bad);
    return differs || kind == MISSING;
}

// "shard.00001" of "shard.00001.mds.zstd", which every message about it has.
static void stem(char out[64], const char *file) {
    snprintf(out, 64, "%.11s", file);
}

static void check_fault(Set *set, uint64_t n, int64_t *corrupt, int64_t *refused) {
    const FaultKind kind = (FaultKind)(n % FAULTS);
    const uint32_t pick = rng_bits(9, RNG_TEST, n, 2);
    const int which =
        pick % 4 < 2 ? (int)(pick % 4) : 2 + (int)(pick / 4 % (uint32_t)(set->file_count - 2));
    const char *file = set->files[which];
    char path[600], name[64];
    snprintf(path, sizeof(path), "%s/%s", set->config.sources[0].path, file);
    stem(name, file);
    int64_t bytes, good_samples;
    uint8_t *good = maker_read(path, &bytes);
    const bool differs = damage(path, file, kind, n, good, bytes);
    static Problems problems;
    problems.count = 0;
    const bool clean = data_verify(&good_samples, set->config.sources[0].path, &problems);
    // A missing catalogue is no fault of the data, but planning refuses it, below.
    const bool may_be_clean = !differs || (kind == MISSING && which == 1);
    check_that(!clean || may_be_clean, "verify: case %llu, %s of %s was accepted",
               (unsigned long long)n, fault_names[kind], file);
    if (!clean) {
        check_that(strstr(problems.text[0], name) != NULL ||
                       strstr(problems.text[0], "catalogue.bin") != NULL,
                   "case %llu, %s of %s: '%s'", (unsigned long long)n, fault_names[kind], file,
                   problems.text[0]);
    }
    if (which < 2 || kind != MISSING || n < 30) {  // Waiting for a missing shard takes a second.
        const Verdict verdict = load_all(set, false);
        *corrupt += verdict.corrupt;
        *refused += verdict.refused;
        if (which < 2 && differs) {
            check_that(verdict.refused, "case %llu, %s of %s was loaded", (unsigned long long)n,
                       fault_names[kind], file);
        }
        if (verdict.refused || verdict.corrupt > 0) {
            check_that(
                strstr(verdict.text, name) != NULL || strstr(verdict.text, "catalogue.bin") != NULL,
                "case %llu, %s of %s: '%s'", (unsigned long long)n, fault_names[kind], file,
                verdict.text);
        }
    }
    maker_overwrite(path, good, bytes);
    free(good);
}

static void run(const char *name, MdsCompression compression) {
    static Set set;
    set_make(&set, name, compression);
    int64_t corrupt = 0, refused = 0;
    for (uint64_t n = 0; n < CASES; n++) {
        check_fault(&set, n + (compression == MDS_ZSTD ? 1000 * FAULTS : 0), &corrupt, &refused);
    }
    const Verdict verdict = load_all(&set, false);
    check_that(!verdict.refused && verdict.corrupt == 0, "not whole afterwards: %s", verdict.text);
    check_that(corrupt > 50 && refused > CASES / 3, "%lld corrupt samples, %lld refusals",
               (long long)corrupt, (long long)refused);
}

static void test_raw(void **state) {
    (void)state;
    run("raw", MDS_PLAIN);
}

static void test_zstd(void **state) {
    (void)state;
    run("zstd", MDS_ZSTD);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_raw), cmocka_unit_test(test_zstd)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
