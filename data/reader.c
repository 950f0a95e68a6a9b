#include "data/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/die.h"
#include "base/real.h"
#include "data/shard_file.h"

enum { TRIES = 4, FIRST_WAIT_MS = 50 };  // Each wait is four times the one before.

// One decompressed shard.
typedef struct {
    int source;  // -1: empty.
    int64_t shard, used;
    bool corrupt;
    char reason[256];
    uint8_t *raw;  // [slot_bytes]
} Slot;

struct PackReader {
    const Planner *planner;
    Slot *slots;
    int64_t slot_count, slot_bytes;
    uint8_t *zip;     // A compressed shard.
    uint8_t *sample;  // A sample of a raw shard.
    int64_t clock;    // Counts uses of slots.
    int64_t shards_loaded;
};

// Bytes of everything that a reader needs, from the catalogues.
typedef struct {
    int64_t slot_bytes, slots, zip_bytes, sample_bytes;
} Sizes;

static Sizes measure(const Planner *planner, int64_t cache_bytes) {
    Sizes sizes = {0};
    int64_t zipped = 0;
    for (int s = 0; s < planner_sources(planner); s++) {
        const Catalogue *catalogue = planner_catalogue(planner, s);
        const MdsIndex *index = catalogue->index;
        sizes.zip_bytes = max_i64(sizes.zip_bytes, index->zip_bytes_max);
        for (int64_t i = 0; i < index->shard_count; i++) {
            if (index->shards[i].zip.name == NULL) continue;
            sizes.slot_bytes = max_i64(sizes.slot_bytes, index->shards[i].raw.bytes);
            zipped++;
        }
        for (int64_t i = 0; i < catalogue->count; i++) {
            const CatalogueRow *row = &catalogue->rows[i];
            if (index->shards[row->shard].zip.name != NULL) continue;
            sizes.sample_bytes = max_i64(sizes.sample_bytes, row->bytes);
        }
    }
    sizes.slots = zipped == 0 ? 0 : min_i64(zipped, cache_bytes / sizes.slot_bytes);
    return sizes;
}

int64_t pack_reader_bytes(const Planner *planner, int64_t cache_bytes) {
    const Sizes sizes = measure(planner, cache_bytes);
    return sizes.slots * sizes.slot_bytes + sizes.zip_bytes + sizes.sample_bytes;
}

static int64_t latent_floats(const Planner *planner) {
    const ModelNeeds *needs = planner_needs(planner);
    return planner_bounds(planner).tokens * needs->channels * needs->patch.t * needs->patch.h *
           needs->patch.w;
}

int64_t loaded_pack_bytes(const Planner *planner) {
    const PlanBounds b = planner_bounds(planner);
    return b.segments * (int64_t)sizeof(LoadedSample) +
           4 * (latent_floats(planner) + b.text_tokens * planner_needs(planner)->text_width);
}

// Touched at once, so that memory is had at the start or never.
static void *allocate(int64_t bytes, const char *what) {
    void *memory = malloc((size_t)max_i64(bytes, 1));
    CHECK(memory != NULL, "no memory for %s: %lld bytes", what, (long long)bytes);
    memset(memory, 0, (size_t)max_i64(bytes, 1));
    return memory;
}

LoadedPack *loaded_pack_create(const Planner *planner) {
    const PlanBounds b = planner_bounds(planner);
    LoadedPack *pack = allocate(sizeof(*pack), "a pack");
    pack->samples = allocate(b.segments * (int64_t)sizeof(LoadedSample), "samples");
    pack->latents = allocate(4 * latent_floats(planner), "latents");
    pack->texts = allocate(4 * b.text_tokens * planner_needs(planner)->text_width, "texts");
    return pack;
}

void loaded_pack_free(LoadedPack *pack) {
    if (pack == NULL) return;
    free(pack->samples);
    free(pack->latents);
    free(pack->texts);
    free(pack);
}

bool pack_reader_fits(const Planner *planner, int64_t cache_bytes, Error *error) {
    const Sizes sizes = measure(planner, cache_bytes);
    return sizes.slots > 0 || sizes.slot_bytes == 0 ||
           error_set(error,
                     "data.cache_bytes = %lld holds no shard; set it to at least %lld, the largest "
                     "shard's bytes",
                     (long long)cache_bytes, (long long)sizes.slot_bytes);
}

PackReader *pack_reader_create(const Planner *planner, int64_t cache_bytes, Error *error) {
    const Sizes sizes = measure(planner, cache_bytes);
    if (!pack_reader_fits(planner, cache_bytes, error)) return NULL;
    PackReader *reader = allocate(sizeof(*reader), "the reader");
    *reader = (PackReader){
        .planner = planner,
        .slots = allocate(sizes.slots * (int64_t)sizeof(Slot), "the cache"),
        .slot_count = sizes.slots,
        .slot_bytes = sizes.slot_bytes,
        .zip = allocate(sizes.zip_bytes, "a compressed shard"),
        .sample = allocate(sizes.sample_bytes, "a sample"),
    };
    for (int64_t i = 0; i < sizes.slots; i++) {
        reader->slots[i].source = -1;
        reader->slots[i].raw = allocate(sizes.slot_bytes, "a shard of the cache");
    }
    return reader;
}

void pack_reader_free(PackReader *reader) {
    if (reader == NULL) return;
    for (int64_t i = 0; i < reader->slot_count; i++) free(reader->slots[i].raw);
    free(reader->slots);
    free(reader->zip);
    free(reader->sample);
    free(reader);
}

int64_t pack_reader_shards_loaded(const PackReader *reader) {
    return reader->shards_loaded;
}

static void wait_before(int attempt) {
    int64_t ms = FIRST_WAIT_MS;
    for (int i = 1; i < attempt; i++) ms *= 4;
    clock_sleep(1e-3 * (double)ms);
}

// The slot that holds the shard, loading it over the one not used for longest. NULL: I/O error.
static Slot *shard_slot(PackReader *reader, int source, int64_t shard, Error *error) {
    Slot *oldest = &reader->slots[0];
    for (int64_t i = 0; i < reader->slot_count; i++) {
        Slot *slot = &reader->slots[i];
        if (slot->source == source && slot->shard == shard) {
            slot->used = ++reader->clock;
            return slot;
        }
        if (slot->used < oldest->used) oldest = slot;
    }
    oldest->source = -1;
    const MdsIndex *index = planner_catalogue(reader->planner, source)->index;
    MdsStatus status = MDS_IO;
    for (int attempt = 0; attempt < TRIES && status == MDS_IO; attempt++) {
        if (attempt > 0) wait_before(attempt);
        status = mds_shard_load(oldest->raw, reader->zip, index, shard, error);
    }
    if (status == MDS_IO) return NULL;
    reader->shards_loaded++;
    oldest->corrupt = status == MDS_CORRUPT;
    if (oldest->corrupt) {
        snprintf(oldest->reason, sizeof(oldest->reason), "%.*s", 255, error->text);
    }
    oldest->source = source;
    oldest->shard = shard;
    oldest->used = ++reader->clock;
    return oldest;
}

// The row's bytes, from the cache or from the file of a raw shard. MDS_CORRUPT fills out->reason.
static MdsStatus row_bytes(MdsValue *bytes, LoadedSample *out, PackReader *reader,
                           const CatalogueRow *row, Error *error) {
    const MdsIndex *index = planner_catalogue(reader->planner, out->source)->index;
    const MdsShard *shard = &index->shards[row->shard];
    if (shard->zip.name != NULL) {
        const Slot *slot = shard_slot(reader, out->source, row->shard, error);
        if (slot == NULL) return MDS_IO;
        *bytes = (MdsValue){slot->raw + row->offset, row->bytes};
        if (slot->corrupt) snprintf(out->reason, sizeof(out->reason), "%s", slot->reason);
        return slot->corrupt ? MDS_CORRUPT : MDS_OK;
    }
    char path[FILE_PATH_MAX];
    file_path(path, index->folder, shard->raw.name);
    int64_t done = -1;
    for (int attempt = 0; attempt < TRIES && done < 0; attempt++) {
        if (attempt > 0) wait_before(attempt);
        done = file_read_part(reader->sample, path, (int64_t)row->offset, row->bytes, NULL, error);
    }
    if (done < 0) return MDS_IO;
    *bytes = (MdsValue){reader->sample, row->bytes};
    if (done == row->bytes) return MDS_OK;
    snprintf(out->reason, sizeof(out->reason), "the file is short");
    return MDS_CORRUPT;
}

static void normalise(float *latent, LatentShape shape, const CatalogueHeader *header) {
    if (header->channels == 0) return;
    const int64_t plane = (int64_t)shape.F * shape.H * shape.W;
    for (int64_t c = 0; c < shape.C; c++) {
        for (int64_t i = 0; i < plane; i++) {
            latent[c * plane + i] = (latent[c * plane + i] - header->mean[c]) / header->std[c];
        }
    }
}

static bool same_shape(LatentShape a, LatentShape b) {
    return a.C == b.C && a.F == b.F && a.H == b.H && a.W == b.W;
}

// Judges and converts; false, with out->reason, when the bytes are corrupt.
static bool convert(LoadedSample *out, const Catalogue *catalogue, const CatalogueRow *row,
                    MdsValue bytes, int64_t text_width) {
    Error error;
    Sample sample;
    if (XXH3_64bits(bytes.data, (size_t)bytes.bytes) != row->hash) {
        snprintf(out->reason, sizeof(out->reason), "its XXH3 is not the catalogue's");
        return false;
    }
    if (!sample_read(&sample, &catalogue->index->shards[row->shard], bytes, NULL, 0, &error)) {
        snprintf(out->reason, sizeof(out->reason), "%.*s", 255, error.text);
        return false;
    }
    if (!same_shape(sample.shape, out->shape) || sample.text_length != out->text_length ||
        sample.text_width != text_width) {
        snprintf(out->reason, sizeof(out->reason), "another shape than in the catalogue");
        return false;
    }
    const bool finite = stored_to_float(out->latent, sample.latent, sample.latent_type,
                                        latent_elements(out->shape));
    if (!stored_to_float(out->text, sample.text, sample.text_type, out->text_length * text_width) ||
        !finite) {
        snprintf(out->reason, sizeof(out->reason), "a value is not finite");
        return false;
    }
    normalise(out->latent, out->shape, catalogue->header);
    memcpy(out->id, sample.id, sizeof(out->id));
    return true;
}

static bool load_sample(LoadedSample *out, PackReader *reader, const PlanSample *sample,
                        Error *error) {
    const Catalogue *catalogue = planner_catalogue(reader->planner, sample->source);
    const CatalogueRow *row = &catalogue->rows[sample->row];
    const int64_t text_width = planner_needs(reader->planner)->text_width;
    MdsValue bytes;
    const MdsStatus status = row_bytes(&bytes, out, reader, row, error);
    if (status == MDS_IO) return false;
    out->corrupt = status == MDS_CORRUPT || !convert(out, catalogue, row, bytes, text_width);
    if (!out->corrupt) return true;
    snprintf(out->id, sizeof(out->id), "source %d, shard %u, sample %u", sample->source, row->shard,
             row->index);
    char reason[sizeof(out->reason)];
    memcpy(reason, out->reason, sizeof(reason));
    snprintf(out->reason, sizeof(out->reason), "%.100s: sample %u: %.120s",
             catalogue->index->shards[row->shard].raw.name, row->index, reason);
    memset(out->latent, 0, (size_t)latent_elements(out->shape) * 4);
    memset(out->text, 0, (size_t)(out->text_length * text_width) * 4);
    return true;
}

bool pack_reader_load(LoadedPack *out, PackReader *reader, const StepPlan *plan, int64_t pack,
                      Error *error) {
    const PlanPack *p = &plan->packs[pack];
    const int64_t text_width = planner_needs(reader->planner)->text_width;
    float *latent = out->latents, *text = out->texts;
    out->step = plan->step;
    out->pack = pack;
    out->count = p->count;
    for (int64_t i = 0; i < p->count; i++) {
        const PlanSample *sample = &plan->samples[p->first + i];
        LoadedSample *loaded = &out->samples[i];
        *loaded = (LoadedSample){
            .position = sample->position,
            .source = sample->source,
            .row = sample->row,
            .medium = sample->medium,
            .shape = sample->shape,
            .latent = latent,
            .text_length = sample->text_length,
            .text = text,
        };
        if (!load_sample(loaded, reader, sample, error)) return false;
        latent += latent_elements(sample->shape);
        text += sample->text_length * text_width;
    }
    return true;
}
