// The settings that the tests of plan and loader share: two sources, three stages.
#ifndef TESTS_PLAN_MAKER_H
#define TESTS_PLAN_MAKER_H

#include "data/plan.h"
#include "tests/data_maker.h"

// Source 0: images, in raw shards; source 1: images and videos, compressed.
static const Maker plan_makers[2] = {{0, 150, 0, MDS_PLAIN, 12000},
                                     {1000, 240, 3, MDS_ZSTD, 24000}};

static const ModelNeeds plan_needs = {.channels = MAKER_CHANNELS,
                                      .patch = {1, 2, 2},
                                      .text_width = MAKER_TEXT_WIDTH,
                                      .cost = {1000, 3, 2, 50}};

static inline DataConfig plan_config(void) {
    DataConfig config = {.source_count = 2,
                         .holdout = 6,
                         .window = 3,
                         .cache_bytes = 100000,
                         .ahead = 3,
                         .corrupt_max = 10};
    for (int s = 0; s < 2; s++) {
        char path[512];
        snprintf(config.sources[s].path, sizeof(config.sources[s].path), "%s",
                 check_path(path, "source-%d", s));
        config.sources[s].weight = s == 0 ? 3 : 1;
    }
    return config;
}

// Makes the data sets once.
static inline int plan_data(void **state) {
    (void)state;
    const DataConfig config = plan_config();
    for (int s = 0; s < 2; s++) maker_build(&plan_makers[s], config.sources[s].path);
    return 0;
}

static inline StageData plan_stage(int64_t steps, double image_share) {
    return (StageData){.steps = steps,
                       .packs = 4,
                       .tokens = 400,
                       .segments = 24,
                       .text_tokens = 120,
                       .image_share = image_share,
                       .frames_min = 1,
                       .frames_max = 5,
                       .height_min = 2,
                       .height_max = 12,
                       .width_min = 2,
                       .width_max = 12};
}

// Images; images and videos; videos with fewer packs and tighter bounds.
static inline void plan_stages(StageData stages[3]) {
    stages[0] = plan_stage(30, 1);
    stages[1] = plan_stage(40, 0.6);
    stages[2] = plan_stage(20, 0);
    stages[2].packs = 3;
    stages[2].segments = 5;
    stages[2].filter_count = 1;
    stages[2].filters[0] = (QualityFilter){"aesthetic", 0.2, 0.7};
}

static inline Planner *plan_open(const DataConfig *config, const StageData *stages, int count) {
    static Problems problems;
    problems.count = 0;
    Planner *planner = planner_create(config, stages, count, &plan_needs, 11, &problems);
    check_that(planner != NULL, "%s", problems.text[0]);
    return planner;
}

static inline Planner *plan_open_default(void) {
    StageData stages[3];
    plan_stages(stages);
    const DataConfig config = plan_config();
    return plan_open(&config, stages, 3);
}

// Field by field: structs have gaps.
static inline bool plan_same_samples(const PlanSample *a, const PlanSample *b, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        if (a[i].position != b[i].position || a[i].source != b[i].source || a[i].row != b[i].row ||
            a[i].medium != b[i].medium || a[i].tokens != b[i].tokens ||
            a[i].text_length != b[i].text_length || a[i].work != b[i].work ||
            memcmp(&a[i].shape, &b[i].shape, sizeof(LatentShape)) != 0) {
            return false;
        }
    }
    return true;
}

#endif
