// Reads the samples of a pack: finds their bytes (in a shard file, or in a cache of decompressed
// shards), judges them by the catalogue's XXH3, and converts latents and texts to float32. Used by
// the loader's thread, and directly for validation. One reader is for one thread.
//
// Only bytes make a sample corrupt (short file, wrong hash, not finite), so all peers that read the
// same file agree. I/O errors are retried some times and then reported: the job should end.
#ifndef DATA_READER_H
#define DATA_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "data/plan.h"
#include "data/sample.h"

typedef struct {
    int64_t position;
    int32_t source;
    uint32_t row;
    Medium medium;
    char id[SAMPLE_ID_MAX];  // Source, shard and index instead when the sample is corrupt.
    LatentShape shape;
    float *latent;        // [C, F, H, W]; zeros when corrupt.
    int64_t text_length;  // May be 0.
    float *text;          // [L, text_width]; zeros when corrupt.
    bool corrupt;         // Carries no loss; the planned denominator stays.
    char reason[256];     // Why, with file and place.
} LoadedSample;

typedef struct {
    int64_t step;
    int64_t pack;   // Its index in the plan.
    int64_t count;  // Samples, in the order of the plan.
    LoadedSample *samples;
    float *latents;  // What the samples point into.
    float *texts;
} LoadedPack;

// Room for any pack of the planner's stages.
LoadedPack *loaded_pack_create(const Planner *planner);
void loaded_pack_free(LoadedPack *pack);

typedef struct PackReader PackReader;

// False, with the remedy, where the largest of the compressed shards does not fit into a cache of
// cache_bytes.
bool pack_reader_fits(const Planner *planner, int64_t cache_bytes, Error *error);

// A reader with a cache of at most cache_bytes, all of it allocated and touched here. NULL where
// pack_reader_fits says no.
PackReader *pack_reader_create(const Planner *planner, int64_t cache_bytes, Error *error);
void pack_reader_free(PackReader *reader);

// Fills `out` with pack `pack` of the plan. False and the reason after an I/O error that stayed.
bool pack_reader_load(LoadedPack *out, PackReader *reader, const StepPlan *plan, int64_t pack,
                      Error *error);

// Shards decompressed so far.
int64_t pack_reader_shards_loaded(const PackReader *reader);

// What a reader and a LoadedPack allocate.
int64_t pack_reader_bytes(const Planner *planner, int64_t cache_bytes);
int64_t loaded_pack_bytes(const Planner *planner);

#endif
