// What every step trains on: a pure function of (settings, catalogues, cursor), the same on every
// rank without communication. DESIGN section 6.
//
// A step draws samples until its tokens, segments or text tokens, those of deferred samples
// included, reach packs x limit. Deferred samples first, oldest first, then the others, longest
// first (ties: lower position), each goes into the pack with the least work among those that have
// room in all three (ties: lower index). What finds no room is deferred. A step that starts with 16
// x packs or more deferred samples draws none. A new stage starts at epoch 0 with none deferred.
#ifndef DATA_PLAN_H
#define DATA_PLAN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "data/catalogue.h"
#include "data/config.h"

typedef struct {
    int64_t epoch, place;  // The next one to draw.
} DrawPlace;

typedef struct {
    int64_t position;
    int32_t source;
    uint32_t row;
} Deferred;

// More than a cursor that is read may have counted, so that it can count on.
#define CURSOR_COUNT_MAX ((int64_t)1 << 62)

// Where the run is in its data. All zero is the start; only `deferred` is allocated.
typedef struct {
    int64_t step;      // The next step to plan, counted from 0 over all stages.
    int64_t stage;     // Of the step planned last.
    int64_t position;  // The next one.
    int64_t dropped;   // Samples that were deferred when their stage ended.
    DrawPlace places[SOURCES_MAX][MEDIUM_COUNT];
    int64_t deferred_count;
    Deferred *deferred;  // Ascending positions.
} Cursor;

typedef struct {
    int64_t position;  // Of the sample in the run; randomness is keyed by it.
    int32_t source;
    uint32_t row;  // Of the source's catalogue.
    Medium medium;
    LatentShape shape;
    int64_t tokens;
    int64_t text_length;  // As stored; 0 takes the room of one token.
    int64_t work;
} PlanSample;

typedef struct {
    int64_t first, count;  // samples[first .. first + count)
    int64_t tokens, text_tokens, work;
} PlanPack;

typedef struct {
    int64_t step;
    int stage;
    int64_t pack_count, sample_count;
    PlanPack *packs;      // [pack_count], none of them empty (but see planner_validation).
    PlanSample *samples;  // [sample_count], those of a pack next to each other.
    int64_t tokens;       // In all packs.
    int64_t drawn;        // New samples this step.
    Cursor after;         // What a checkpoint after this step keeps.
} StepPlan;

typedef struct Planner Planner;

// Opens the catalogues and lists the rows that pass each stage. NULL, and all problems, when the
// settings cannot be met: a share or weight without rows, limits that admit nothing, a work that
// could overflow. All memory is allocated here.
Planner *planner_create(const DataConfig *config, const StageData stages[], int stage_count,
                        const ModelNeeds *needs, uint64_t seed, Problems *problems);
void planner_free(Planner *planner);

// Room for the plan of any stage; its cursor is at the start.
StepPlan *step_plan_create(const Planner *planner);
void step_plan_free(StepPlan *plan);

void cursor_init(Cursor *cursor, const Planner *planner);
void cursor_copy(Cursor *to, const Cursor *from);  // Both made for the same planner.
void cursor_free(Cursor *cursor);

// An object with all of the cursor (owned by the caller), and back. cursor_from_json fills a cursor
// made by cursor_init; false and the reason when it does not fit the planner's data.
json_t *cursor_to_json(const Cursor *cursor, const Planner *planner);
bool cursor_from_json(Cursor *cursor, const Planner *planner, const json_t *json, Error *error);

// Plans step cursor->step and moves the cursor behind it. The planner itself keeps only tables that
// follow from its arguments: the result depends on the cursor alone. Not for two threads at once.
void plan_step(StepPlan *plan, Planner *planner, Cursor *cursor);

// The held-out samples that pass the filters of `stage`, packed alike into at most its number of
// packs (some may be empty); position is the sample's number among all held-out ones. What finds no
// room is left out. `after` is not touched. May run while a loader uses the planner.
void planner_validation(StepPlan *plan, const Planner *planner, int stage);

// All held-out samples, in the order of their numbers: position, source, row, medium, shape,
// text_length. Returns the count.
int64_t planner_held_out(const Planner *planner, const PlanSample **samples);

// ---- facts

int64_t planner_steps(const Planner *planner);               // Of all stages.
int planner_stage_of(const Planner *planner, int64_t step);  // The last one for later steps.
int planner_sources(const Planner *planner);
const Catalogue *planner_catalogue(const Planner *planner, int source);
const StageData *planner_stage(const Planner *planner, int stage);
const ModelNeeds *planner_needs(const Planner *planner);

// Rows of a source by verdict, over both media.
const int64_t *planner_verdicts(const Planner *planner, int stage, int source);  // [ROW_VERDICTS]

// Rows that pass, of one medium of a source.
int64_t planner_rows(const Planner *planner, int stage, int source, Medium medium);
// The numbers of tokens whose samples have the most pairs of tokens in all, the most first; then 0.
void planner_lengths(const Planner *planner, int64_t lengths[LENGTHS_MAX]);

// One number for all catalogues in their order; another one is a changed recipe.
uint64_t planner_checksum(const Planner *planner);

// Bounds over all stages, for whoever sizes memory by them.
typedef struct {
    int64_t packs, tokens, segments, text_tokens, deferred;
} PlanBounds;
PlanBounds planner_bounds(const Planner *planner);

#endif
