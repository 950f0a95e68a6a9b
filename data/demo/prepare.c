#include "data/demo/prepare.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/files.h"
#include "base/rng.h"
#include "data/catalogue.h"
#include "data/demo/facts.h"
#include "data/demo/scene.h"
#include "data/demo/sprites.h"
#include "data/demo/text.h"
#include "data/order.h"
#include "data/sample.h"

static const uint64_t demo_seed = 1;

enum { PARTS_MAX = 6, STATISTICS_ROWS = 4096 };

typedef struct {
    int64_t count, frames, height, width;
} Part;

// Rows that lie in `folder` in random order. Those of the same folder follow each other.
typedef struct {
    const char *folder;
    int64_t shard_bytes;
    Part parts[PARTS_MAX];
} Group;

static const Group full_groups[] = {
    {"images", 8 << 20, {{32000, 1, 32, 32}, {4000, 1, 32, 40}, {4000, 1, 40, 32}}},
    {"images", 8 << 20, {{4800, 1, 48, 48}, {1600, 1, 48, 64}, {1600, 1, 64, 48}}},
    {"videos", 8 << 20, {{9600, 9, 32, 32}, {1200, 9, 32, 40}, {1200, 9, 40, 32}}},
    {"videos", 8 << 20, {{2400, 9, 48, 48}, {800, 9, 48, 64}, {800, 9, 64, 48}}},
    {NULL, 0, {{0}}},
};

static const Group tiny_groups[] = {
    {"mixed",
     200 << 10,
     {{160, 1, 16, 16},
      {100, 1, 16, 24},
      {100, 1, 32, 24},
      {100, 3, 16, 16},
      {80, 5, 24, 16},
      {60, 9, 16, 24}}},
    {"images", 64 << 10, {{120, 1, 16, 16}, {40, 1, 24, 24}}},
    {NULL, 0, {{0}}},
};

typedef struct {
    const Group *groups;  // Up to one without a folder.
    Sprites sprites;
    DemoFacts facts;
    float *pixels, *latent;  // Room for the largest row.
    uint16_t *stored;
} Preparation;

static int64_t group_rows(const Group *group) {
    int64_t rows = 0;
    for (int i = 0; i < PARTS_MAX; i++) rows += group->parts[i].count;
    return rows;
}

// The part to which row i of a group belongs.
static const Part *group_part(const Group *group, int64_t i) {
    int64_t place = order_permute(i, group_rows(group), demo_seed);
    const Part *part = group->parts;
    while (place >= part->count) place -= part++->count;
    return part;
}

// Row `row`, counted over all groups: its scene and sprite.
static Scene choose_scene(int64_t row, Medium medium) {
    double draw[4];
    for (uint64_t k = 0; k < 4; k++) {
        draw[k] = rng_uniform(demo_seed, RNG_DEMO, (uint64_t)1 << 32 | (uint64_t)row, k);
    }
    return (Scene){medium, (Direction)(draw[0] * DIRECTIONS), (Speed)(draw[1] * SPEEDS), draw[2],
                   draw[3]};
}

// Draws and encodes a row into p->latent.
static LatentShape make_row(Preparation *p, const Codec *codec, const Part *part, int64_t row,
                            const Scene *scene) {
    const uint8_t *sprite = p->sprites.pixels + row % p->sprites.count * SPRITE_PIXELS;
    const LatentShape shape = codec_shape(part->frames, part->height, part->width);
    scene_draw(p->pixels, scene, sprite, part->frames, part->height, part->width);
    codec_encode(p->latent, codec, p->pixels, shape);
    return shape;
}

static Medium part_medium(const Part *part) {
    return part->frames == 1 ? MEDIUM_IMAGE : MEDIUM_VIDEO;
}

// Means and deviations over evenly spaced rows of all groups.
static void measure(Preparation *p) {
    int64_t total = 0, row = 0;
    for (const Group *g = p->groups; g->folder != NULL; g++) total += group_rows(g);
    const int64_t every = total / STATISTICS_ROWS + 1;
    CodecStatistics *statistics = calloc(1, sizeof(*statistics));
    CHECK(statistics != NULL, "no memory for statistics");
    Codec plain;
    codec_init(&plain);
    for (const Group *g = p->groups; g->folder != NULL; g++) {
        for (int64_t i = 0; i < group_rows(g); i++, row++) {
            if (row % every != 0) continue;
            const Part *part = group_part(g, i);
            const Scene scene = choose_scene(row, part_medium(part));
            const LatentShape shape = make_row(p, &plain, part, row, &scene);
            codec_statistics_add(statistics, p->latent, shape);
        }
    }
    codec_statistics_finish(&p->facts.codec, statistics);
    free(statistics);
}

static bool write_row(Preparation *p, MdsWriter *writer, const Part *part, int64_t row,
                      Error *error) {
    const Scene scene = choose_scene(row, part_medium(part));
    const LatentShape shape = make_row(p, &p->facts.codec, part, row, &scene);
    char caption[CAPTION_MAX];
    scene_caption(caption, &scene, p->facts.classes[p->sprites.labels[row % p->sprites.count]]);
    float tokens[TEXT_TOKENS_MAX * TEXT_WIDTH];
    uint16_t text[TEXT_TOKENS_MAX * TEXT_WIDTH];
    const int length = text_encode(tokens, caption, error);
    if (length < 0) return false;
    stored_from_float(text, STORED_BFLOAT16, tokens, (int64_t)length * TEXT_WIDTH);
    stored_from_float(p->stored, STORED_BFLOAT16, p->latent, latent_elements(shape));
    Sample sample = {.caption = caption,
                     .caption_bytes = (int64_t)strlen(caption),
                     .medium = scene.medium,
                     .shape = shape,
                     .latent = p->stored,
                     .latent_type = STORED_BFLOAT16,
                     .text_length = length,
                     .text_width = TEXT_WIDTH,
                     .text = text,
                     .text_type = STORED_BFLOAT16,
                     .width = part->width,
                     .height = part->height,
                     .num_frames = part->frames,
                     .fps = scene.medium == MEDIUM_VIDEO ? 8.0 : 0.0};
    snprintf(sample.id, sizeof(sample.id), "%s/%06" PRId64, p->sprites.source, row);
    return sample_write(writer, &sample, error);
}

// Writes the groups of one folder, from *group on, which is moved behind them.
static bool write_folder(Preparation *p, const char *out, const Group **group, int64_t *row,
                         Error *error) {
    const char *name = (*group)->folder;
    char folder[PATH_BYTES_MAX];
    if (!path_join(folder, out, name, error)) return false;
    MdsWriter *writer =
        sample_writer_create(folder, NULL, 0, MDS_ZSTD, (*group)->shard_bytes, error);
    if (writer == NULL) return false;
    for (; (*group)->folder != NULL && strcmp((*group)->folder, name) == 0; ++*group) {
        for (int64_t i = 0; i < group_rows(*group); i++, ++*row) {
            if (write_row(p, writer, group_part(*group, i), *row, error)) continue;
            mds_writer_abandon(writer);
            return false;
        }
    }
    if (!mds_writer_close(writer, error) || !demo_facts_write(&p->facts, folder, error)) {
        return false;
    }
    Problems *problems = calloc(1, sizeof(*problems));
    CHECK(problems != NULL, "no memory for problems");
    const bool ok = catalogue_build(folder, problems) || error_set(error, "%s", problems->text[0]);
    free(problems);
    return ok;
}

// Whether `out` is finished data of these groups. False without a reason in *wrong: there is
// nothing yet.
static bool is_finished(const char *out, const Group *groups, bool *wrong, Error *error) {
    *wrong = false;
    if (!path_exists(out)) return false;
    for (const Group *g = groups; g->folder != NULL; g++) {
        char folder[PATH_BYTES_MAX];
        DemoFacts facts;
        Error reason;
        Catalogue *catalogue = NULL;
        if (path_join(folder, out, g->folder, &reason) &&
            demo_facts_read(&facts, folder, &reason)) {
            catalogue = catalogue_open(folder, &reason);
        }
        if (catalogue == NULL) {
            *wrong = true;
            return error_set(error,
                             "%s is there but is no finished demo data of this size (%.600s); "
                             "remove it or name another folder",
                             out, reason.text);
        }
        catalogue_close(catalogue);
    }
    return true;
}

static bool choose_sprites(Sprites *sprites, const char *folder, DemoSize size, Error *error) {
    if (size == DEMO_TINY) {
        sprites_draw(sprites, 256, demo_seed);
        return true;
    }
    Error reason;
    const SpritesStatus status = sprites_read(sprites, folder, &reason);
    if (status == SPRITES_WRONG) return error_set(error, "%s", reason.text);
    if (status == SPRITES_ABSENT) {
        printf("%s (apt-get install dataset-fashion-mnist brings it): drawing shapes instead\n",
               reason.text);
        sprites_draw(sprites, 20000, demo_seed);
    }
    return true;
}

static void make_room(Preparation *p) {
    int64_t elements = 0;
    for (const Group *g = p->groups; g->folder != NULL; g++) {
        for (int i = 0; i < PARTS_MAX && g->parts[i].count > 0; i++) {
            const Part *part = &g->parts[i];
            const LatentShape shape = codec_shape(part->frames, part->height, part->width);
            // A latent has more elements than its pixels: the first frame's high bands.
            elements = latent_elements(shape) > elements ? latent_elements(shape) : elements;
        }
    }
    p->pixels = malloc((size_t)elements * sizeof(float));
    p->latent = malloc((size_t)elements * sizeof(float));
    p->stored = malloc((size_t)elements * sizeof(uint16_t));
    CHECK(p->pixels != NULL && p->latent != NULL && p->stored != NULL,
          "no memory for a row of %" PRId64 " elements", elements);
}

bool demo_prepare(const char *out, const char *sprites, DemoSize size, Error *error) {
    Preparation p = {.groups = size == DEMO_TINY ? tiny_groups : full_groups};
    char unfinished[PATH_BYTES_MAX];
    bool wrong;
    if (strlen(out) > PATH_BYTES_MAX / 2) return error_set(error, "%.99s...: name too long", out);
    snprintf(unfinished, sizeof(unfinished), "%s.unfinished", out);
    if (is_finished(out, p.groups, &wrong, error)) {
        printf("%s: the data is there\n", out);
        return true;
    }
    if (wrong || !choose_sprites(&p.sprites, sprites, size, error)) return false;
    snprintf(p.facts.source, sizeof(p.facts.source), "%s", p.sprites.source);
    p.facts.seed = demo_seed;
    for (int i = 0; i < DEMO_CLASSES; i++) {
        snprintf(p.facts.classes[i], DEMO_NAME_MAX, "%s", p.sprites.classes[i]);
    }
    make_room(&p);
    measure(&p);
    bool ok = folder_remove(unfinished, error);
    int64_t row = 0;
    for (const Group *g = p.groups; ok && g->folder != NULL;) {
        ok = write_folder(&p, unfinished, &g, &row, error);
    }
    if (ok && rename(unfinished, out) != 0) {
        ok = error_set(error, "cannot rename %s to %s: %s", unfinished, out, strerror(errno));
    }
    if (ok) {
        printf("%s: %" PRId64 " pictures and videos of %s\n", out, row, p.sprites.source);
    }
    sprites_free(&p.sprites);
    free(p.pixels);
    free(p.latent);
    free(p.stored);
    return ok;
}

static const char usage[] =
    "usage: kintoun data demo OUT [--tiny] [--from FOLDER]\n"
    "Makes the demo's data in OUT, from Fashion-MNIST or, without it, drawn shapes.\n"
    "  --tiny         a few hundred small samples, for tests\n"
    "  --from FOLDER  where Fashion-MNIST's train-*-ubyte.gz are (" DEMO_SPRITES_FOLDER ")\n";

int demo_command(int argc, char **argv) {
    const char *out = NULL, *sprites = DEMO_SPRITES_FOLDER;
    DemoSize size = DEMO_FULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return EXIT_DONE;
        }
        if (strcmp(argv[i], "--tiny") == 0) {
            size = DEMO_TINY;
        } else if (strcmp(argv[i], "--from") == 0 && i + 1 < argc) {
            sprites = argv[++i];
        } else if (argv[i][0] != '-' && argv[i][0] != '\0' && out == NULL) {
            out = argv[i];
        } else {
            fprintf(stderr, "data demo: '%s' is not understood\n%s", argv[i], usage);
            return EXIT_CONFIG;
        }
    }
    if (out == NULL) {
        fprintf(stderr, "data demo: no folder is named\n%s", usage);
        return EXIT_CONFIG;
    }
    Error error;
    if (demo_prepare(out, sprites, size, &error)) return EXIT_DONE;
    fprintf(stderr, "%s\n", error.text);
    return EXIT_FAILED;
}
