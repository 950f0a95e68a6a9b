// Demo data: the tiny set is whole, the same every time and left alone once it is there; garments
// move as their captions say and stay on the canvas; wrong files of Fashion-MNIST are refused, each
// with its place.
// ranks: 1
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <zlib.h>

#include "base/files.h"
#include "data/catalogue.h"
#include "data/demo/facts.h"
#include "data/demo/prepare.h"
#include "data/demo/scene.h"
#include "data/demo/sprites.h"
#include "data/demo/text.h"
#include "data/sample.h"
#include "tests/check.h"

static const char nowhere[] = "/nonexistent";

static void prepare_tiny(char folder[512]) {
    Error error;
    check_path(folder, "tiny");
    check_that(demo_prepare(folder, nowhere, DEMO_TINY, &error), "%s", error.text);
}

// ---- scenes

static void test_scenes_stay_on_canvas(void **state) {
    (void)state;
    static const int64_t sizes[][2] = {{32, 32}, {32, 40}, {48, 64}, {64, 48}, {16, 24}};
    for (int k = 0; k < 5 * DIRECTIONS * SPEEDS * 4; k++) {
        const int64_t height = sizes[k % 5][0], width = sizes[k % 5][1];
        const Scene scene = {MEDIUM_VIDEO, (Direction)(k / 5 % DIRECTIONS),
                             (Speed)(k / 20 % SPEEDS), k / 40 % 2 * 0.999, k / 80 * 0.999};
        for (int64_t f = 0; f < 9; f++) {
            const ScenePlace place = scene_place(&scene, f, 9, height, width);
            check_that(place.x > -1e-9 && place.x + place.side < (double)width + 1e-9 &&
                           place.y > -1e-9 && place.y + place.side < (double)height + 1e-9,
                       "scene %d, frame %d: %g, %g", k, (int)f, place.x, place.y);
        }
    }
}

static void test_drawing(void **state) {
    (void)state;
    uint8_t sprite[SPRITE_PIXELS];
    for (int i = 0; i < SPRITE_PIXELS; i++) sprite[i] = (uint8_t)(37 * i);
    // At its own size and a whole place a sprite is copied.
    const Scene scene = {.medium = MEDIUM_IMAGE};
    float pixels[32 * 40];
    scene_draw(pixels, &scene, sprite, 1, 32, 40);
    for (int y = 0; y < 32; y++) {
        for (int x = 0; x < 40; x++) {
            const bool inside = y >= 2 && y < 30 && x >= 6 && x < 34;
            const float want =
                inside ? (float)sprite[(y - 2) * SPRITE_SIDE + x - 6] / 127.5f - 1.0f : -1.0f;
            check_that(fabsf(pixels[y * 40 + x] - want) < 1e-6f, "%d, %d: got %g, want %g", x, y,
                       (double)pixels[y * 40 + x], (double)want);
        }
    }
    char caption[CAPTION_MAX];
    scene_caption(caption, &scene, "an ankle boot");
    check_that(strcmp(caption, "an ankle boot") == 0, "%s", caption);
    const Scene moving = {MEDIUM_VIDEO, MOVE_UP, QUICKLY, 0.5, 0.5};
    scene_caption(caption, &moving, "a bag");
    check_that(strcmp(caption, "a bag moving up quickly") == 0, "%s", caption);
}

// ---- the tiny set

// What a row's pixels show: the centre of brightness in the first and last frame, and its sum.
typedef struct {
    double x[2], y[2], mass[2], least, most;
} Seen;

static Seen look(const float *pixels, LatentShape s) {
    const int64_t height = s.H * CODEC_BLOCK, width = s.W * CODEC_BLOCK;
    Seen seen = {.least = INFINITY, .most = -INFINITY};
    for (int k = 0; k < 2; k++) {
        const float *frame = pixels + k * (codec_frames(s) - 1) * height * width;
        for (int64_t i = 0; i < height * width; i++) {
            const double mass = frame[i] + 1.0;
            seen.least = fmin(seen.least, frame[i]);
            seen.most = fmax(seen.most, frame[i]);
            seen.mass[k] += mass;
            seen.x[k] += mass * (double)(i % width);
            seen.y[k] += mass * (double)(i / width);
        }
        seen.x[k] /= seen.mass[k];
        seen.y[k] /= seen.mass[k];
    }
    return seen;
}

static void check_motion(const char *caption, const Seen *seen, LatentShape s) {
    const double unit = (s.H < s.W ? s.H : s.W) / 8.0, frames = (double)codec_frames(s) - 1.0;
    const double way = frames * unit * (strstr(caption, "quickly") != NULL ? 1.4 : 0.5);
    const double x = strstr(caption, " left ") ? -way : strstr(caption, " right ") ? way : 0.0;
    const double y = strstr(caption, " up ") ? -way : strstr(caption, " down ") ? way : 0.0;
    check_that(fabs(seen->x[1] - seen->x[0] - x) < 0.1 && fabs(seen->y[1] - seen->y[0] - y) < 0.1,
               "'%s' moves by %g, %g, not %g, %g", caption, seen->x[1] - seen->x[0],
               seen->y[1] - seen->y[0], x, y);
    check_that(fabs(seen->mass[1] / seen->mass[0] - 1.0) < 0.02, "'%s' changes", caption);
}

// Decodes a stored sample and compares it with its caption and its row of the catalogue.
static void check_sample(const Sample *sample, const DemoFacts *facts, const CatalogueRow *row) {
    char caption[CAPTION_MAX];
    float want[TEXT_TOKENS_MAX * TEXT_WIDTH], text[TEXT_TOKENS_MAX * TEXT_WIDTH];
    const LatentShape s = sample->shape;
    snprintf(caption, sizeof(caption), "%.*s", (int)sample->caption_bytes, sample->caption);
    check_that(row->medium == sample->medium && row->shape.F == s.F && row->shape.W == s.W &&
                   row->text_length == sample->text_length,
               "%s: the catalogue differs", sample->id);
    check_that(sample->width == s.W * 4 && sample->num_frames == codec_frames(s), "%s", caption);
    check_that(text_encode(want, caption, NULL) == sample->text_length, "%s", caption);
    stored_to_float(text, sample->text, sample->text_type, sample->text_length * TEXT_WIDTH);
    check_equal("text", text, want, sample->text_length * TEXT_WIDTH);

    float *latent = malloc((size_t)latent_elements(s) * sizeof(float));
    float *pixels = malloc((size_t)codec_pixels(s) * sizeof(float));
    check_that(stored_to_float(latent, sample->latent, sample->latent_type, latent_elements(s)),
               "%s: not finite", sample->id);
    codec_decode(pixels, &facts->codec, latent, s);
    const Seen seen = look(pixels, s);
    check_that(seen.least > -1.03 && seen.least < -0.97 && seen.most > -0.3 && seen.most < 1.03,
               "%s: pixels from %g to %g", sample->id, seen.least, seen.most);
    if (sample->medium == MEDIUM_VIDEO) check_motion(caption, &seen, s);
    free(latent);
    free(pixels);
}

static void test_tiny_set(void **state) {
    (void)state;
    static const char *const folders[] = {"mixed", "images"};
    static const int64_t counts[] = {600, 160};
    char folder[512], path[PATH_BYTES_MAX];
    Error error;
    prepare_tiny(folder);
    for (int k = 0; k < 2; k++) {
        DemoFacts facts;
        check_that(path_join(path, folder, folders[k], &error), "%s", error.text);
        check_that(demo_facts_read(&facts, path, &error), "%s", error.text);
        check_that(strcmp(facts.source, "shapes") == 0, "source %s", facts.source);
        Catalogue *catalogue = catalogue_open(path, &error);
        check_that(catalogue != NULL, "%s", error.text);
        check_that(catalogue->count == counts[k], "%lld rows", (long long)catalogue->count);
        const MdsIndex *index = catalogue->index;
        check_that(k > 0 || index->shard_count >= 8, "%d shards", (int)index->shard_count);
        int64_t media[MEDIUM_COUNT] = {0}, row = 0;
        uint8_t *raw = malloc((size_t)index->raw_bytes_max);
        uint8_t *zip = malloc((size_t)index->zip_bytes_max);
        for (int64_t i = 0; i < index->shard_count; i++) {
            const MdsShard *shard = &index->shards[i];
            const MdsStatus status = mds_shard_load(raw, zip, index, i, &error);
            check_that(status == MDS_OK, "%s", error.text);
            for (int64_t j = 0; j < shard->samples; j++, row++) {
                Sample sample;
                check_that(sample_read(&sample, shard, mds_sample(shard, raw, j), NULL, 0, &error),
                           "%s", error.text);
                check_sample(&sample, &facts, &catalogue->rows[row]);
                media[sample.medium]++;
            }
        }
        check_that(media[MEDIUM_VIDEO] == (k == 0 ? 240 : 0), "%d videos", (int)media[1]);
        free(raw);
        free(zip);
        catalogue_close(catalogue);
    }
}

static void test_left_alone_and_repeatable(void **state) {
    (void)state;
    static const char *const files[] = {"mixed/index.json", "mixed/dataset.json",
                                        "mixed/catalogue.bin", "mixed/shard.00007.mds.zstd",
                                        "images/index.json"};
    char folder[512], again[512], path[512], unfinished[512];
    struct stat before, after;
    Error error;
    prepare_tiny(folder);
    check_that(stat(folder, &before) == 0, "stat");
    prepare_tiny(folder);
    check_that(stat(folder, &after) == 0 && before.st_ino == after.st_ino &&
                   before.st_mtime == after.st_mtime,
               "a finished folder was made anew");
    // The rest of one that was stopped goes; the new one has the same bytes.
    check_that(folder_create(check_path(unfinished, "again.unfinished/mixed"), &error), "%s",
               error.text);
    check_path(path, "again.unfinished/mixed/index.json");
    check_that(file_write(path, "half", 4, &error), "%s", error.text);
    check_path(again, "again");
    check_that(demo_prepare(again, nowhere, DEMO_TINY, &error), "%s", error.text);
    check_path(unfinished, "again.unfinished");
    check_that(!path_exists(unfinished), "the unfinished folder is still there");
    for (int i = 0; i < 5; i++) {
        int64_t bytes[2];
        check_path(path, "tiny/%s", files[i]);
        char *first = file_read(path, 1 << 24, &bytes[0], &error);
        check_path(path, "again/%s", files[i]);
        char *second = file_read(path, 1 << 24, &bytes[1], &error);
        check_that(first != NULL && second != NULL, "%s", error.text);
        check_that(bytes[0] == bytes[1] && memcmp(first, second, (size_t)bytes[0]) == 0,
                   "%s differs", files[i]);
        free(first);
        free(second);
    }
}

static void test_refusals(void **state) {
    (void)state;
    Error error;
    char folder[512], path[512];
    prepare_tiny(folder);
    // A folder of something else, or of another size, is not touched.
    check_that(folder_create(check_path(path, "other/images"), &error), "%s", error.text);
    check_path(path, "other");
    check_that(!demo_prepare(path, nowhere, DEMO_TINY, &error), "another folder was accepted");
    check_contains(error.text, "remove it or name another folder");
    check_that(!demo_prepare(folder, nowhere, DEMO_FULL, &error), "tiny was taken for the demo");
    check_contains(error.text, "no finished demo data of this size");
    // Data of an earlier text encoder is not taken for finished.
    char *facts = file_read(check_path(path, "tiny/images/dataset.json"), 1 << 20, NULL, &error);
    char *name = strstr(facts, "-end\"");
    check_that(name != NULL, "no name of the encoder");
    memcpy(name, "\"    ", 5);
    check_that(file_write(path, facts, (int64_t)strlen(facts), &error), "%s", error.text);
    check_that(!demo_prepare(folder, nowhere, DEMO_TINY, &error), "an earlier encoder's was taken");
    check_contains(error.text, "another text encoder");
    check_contains(error.text, "remove it or name another folder");
    memcpy(name, "-end\"", 5);
    check_that(file_write(path, facts, (int64_t)strlen(facts), &error), "%s", error.text);
    free(facts);
    // A folder that cannot be made.
    check_path(path, "tiny/mixed/index.json/new");
    check_that(!demo_prepare(path, nowhere, DEMO_TINY, &error), "a folder inside a file");
    char long_path[2000];
    memset(long_path, 'a', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';
    check_that(!demo_prepare(long_path, nowhere, DEMO_TINY, &error), "a name too long");
    check_contains(error.text, "name too long");
    // A disk that is full, by a limit on the size of files.
    struct rlimit old, none;
    check_that(getrlimit(RLIMIT_FSIZE, &old) == 0, "getrlimit");
    none = old;
    none.rlim_cur = 20000;
    signal(SIGXFSZ, SIG_IGN);
    check_path(path, "full");
    check_that(setrlimit(RLIMIT_FSIZE, &none) == 0, "setrlimit");
    const bool made = demo_prepare(path, nowhere, DEMO_TINY, &error);
    check_that(setrlimit(RLIMIT_FSIZE, &old) == 0, "setrlimit");
    check_that(!made && !path_exists(path), "writing over the limit was not noticed");
}

static void test_facts_refused(void **state) {
    (void)state;
    static const char *const changes[][3] = {
        {"dct4-haar2", "dct8-haar2", "another codec"},
        {"hashed-words-end", "hashed-words", "another text encoder"},
        {"\"version\": 1", "\"version\": 2", "a version"},
        {"\"std\": [", "\"std\": [-", "positive"},
        {"\"mean\": [", "\"mean\": [1, ", "wrong mean"},
        {"\"classes\": [", "\"classes\": [\"a\", ", "number of classes"},
        {"\"classes\"", "\"klasses\"", "lacks facts"},
        {"\"text\"", "text", "dataset.json:"},
    };
    char folder[512], path[512], changed[512];
    Error error;
    DemoFacts facts;
    prepare_tiny(folder);
    char *text = file_read(check_path(path, "tiny/mixed/dataset.json"), 1 << 20, NULL, &error);
    check_that(folder_create(check_path(changed, "changed"), &error), "%s", error.text);
    check_that(!demo_facts_read(&facts, changed, &error), "no file");
    check_path(path, "changed/dataset.json");
    for (int i = 0; i < 8; i++) {
        // Spaces after the bracket of an array do not matter, so the texts are found as written.
        const char *place = strstr(text, changes[i][0]);
        check_that(place != NULL, "no %s", changes[i][0]);
        char *other = malloc(strlen(text) + 100);
        const size_t before = (size_t)(place - text), length = strlen(changes[i][0]);
        const char *rest = place + length;
        if (changes[i][1][strlen(changes[i][1]) - 1] == '-') rest += strspn(rest, " \n");
        memcpy(other, text, before);
        snprintf(other + before, strlen(text) + 100 - before, "%s%s", changes[i][1], rest);
        check_that(file_write(path, other, (int64_t)strlen(other), &error), "%s", error.text);
        check_that(!demo_facts_read(&facts, changed, &error), "%s was accepted", changes[i][1]);
        check_contains(error.text, changes[i][2]);
        check_contains(error.text, "prepare the data again");
        free(other);
    }
    free(text);
}

// ---- Fashion-MNIST's files

// A gzipped IDX file of these dimensions, bytes of `value`; `cut` bytes are missing at the end of
// what is compressed, and the compressed file is `lost` bytes short.
static void write_idx(const char *path, const uint32_t *dims, int count, int value, int64_t cut,
                      int64_t lost) {
    uint8_t head[4 + 16] = {0, 0, 8, (uint8_t)count};
    int64_t size = 1;
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < 4; k++) head[4 + 4 * i + k] = (uint8_t)(dims[i] >> (24 - 8 * k));
        size *= dims[i];
    }
    gzFile file = gzopen(path, "wb");
    gzwrite(file, head, (unsigned)(4 + 4 * count));
    for (int64_t i = 0; i < size - cut; i++) gzputc(file, value + (int)(i * i % 7));
    gzclose(file);
    if (lost == 0) return;
    Error error;
    int64_t bytes;
    char *text = file_read(path, 1 << 20, &bytes, &error);
    check_that(file_write(path, text, bytes - lost, &error), "%s", error.text);
    free(text);
}

static void expect_wrong(const char *folder, const char *what, const char *reason) {
    Sprites sprites;
    Error error = {""};
    check_that(sprites_read(&sprites, folder, &error) == SPRITES_WRONG, "%s was accepted", what);
    check_contains(error.text, reason);
    // Preparing ends there, too; wrong files are no reason to draw shapes.
    char out[512];
    check_that(!demo_prepare(check_path(out, "wrong"), folder, DEMO_FULL, &error), "%s", what);
    check_contains(error.text, reason);
}

static void test_idx_errors(void **state) {
    (void)state;
    char folder[512], images[512], labels[512];
    Error error;
    Sprites sprites;
    check_that(folder_create(check_path(folder, "idx"), &error), "%s", error.text);
    check_path(images, "idx/train-images-idx3-ubyte.gz");
    check_path(labels, "idx/train-labels-idx1-ubyte.gz");
    check_that(sprites_read(&sprites, folder, &error) == SPRITES_ABSENT, "nothing is there");
    check_contains(error.text, "no Fashion-MNIST in");

    const uint32_t dims[] = {50, 28, 28}, small[] = {50, 14, 28}, none[] = {0, 28, 28};
    write_idx(images, dims, 3, 0, 0, 0);
    expect_wrong(folder, "a missing file", "train-labels-idx1-ubyte.gz: No such file");
    write_idx(labels, dims, 1, 0, 0, 0);
    check_that(sprites_read(&sprites, folder, &error) == SPRITES_READ, "%s", error.text);
    check_that(sprites.count == 50 && sprites.pixels[3] == 2 && sprites.labels[2] == 4, "values");
    sprites_free(&sprites);

    write_idx(labels, dims, 1, 0, 0, 9);
    expect_wrong(folder, "a file cut short", "install the package again");
    write_idx(labels, dims, 1, 0, 1, 0);
    expect_wrong(folder, "a missing label", "labels-idx1-ubyte.gz: ends too early");
    write_idx(labels, dims, 1, 0, -1, 0);
    expect_wrong(folder, "one label more", "goes on after the last item");
    write_idx(labels, (const uint32_t[]){49}, 1, 0, 0, 0);
    expect_wrong(folder, "fewer labels", "49 labels for 50 images");
    write_idx(labels, dims, 1, 6, 0, 0);
    expect_wrong(folder, "a label of 10 or more", "is 10, of 10 classes");
    write_idx(labels, dims, 3, 0, 0, 0);
    expect_wrong(folder, "another kind of file", "starts with 00 00 08 03");
    check_that(file_write(labels, "no gzip at all", 14, &error), "%s", error.text);
    expect_wrong(folder, "a plain file", "starts with 6e 6f 20 67");
    check_that(file_write(labels, "", 0, &error), "%s", error.text);
    expect_wrong(folder, "an empty file", "ends too early");
    write_idx(images, small, 3, 0, 0, 0);
    expect_wrong(folder, "images of another size", "dimension 1 is 14, not 28");
    write_idx(images, none, 3, 0, 0, 0);
    expect_wrong(folder, "no images", "0 items");
    // A flipped bit is found by gzip's own checksum, if nothing else.
    write_idx(images, dims, 3, 0, 0, 0);
    int64_t bytes;
    char *file = file_read(images, 1 << 20, &bytes, &error);
    file[bytes - 6] ^= 1;
    check_that(file_write(images, file, bytes, &error), "%s", error.text);
    free(file);
    expect_wrong(folder, "a flipped bit", "install the package again");
}

static void test_real_fashion_mnist(void **state) {
    (void)state;
    Sprites sprites;
    Error error;
    const SpritesStatus status = sprites_read(&sprites, DEMO_SPRITES_FOLDER, &error);
    if (status == SPRITES_ABSENT) skip();
    check_that(status == SPRITES_READ, "%s", error.text);
    int64_t counts[DEMO_CLASSES] = {0}, sum = 0;
    for (int64_t i = 0; i < sprites.count; i++) counts[sprites.labels[i]]++;
    for (int64_t i = 0; i < sprites.count * SPRITE_PIXELS; i++) sum += sprites.pixels[i];
    check_that(sprites.count == 60000, "%lld images", (long long)sprites.count);
    for (int i = 0; i < DEMO_CLASSES; i++) check_that(counts[i] == 6000, "class %d", i);
    const double mean = (double)sum / (double)(sprites.count * SPRITE_PIXELS);
    check_that(fabs(mean - 72.94) < 0.01, "mean brightness %g", mean);
    check_that(sprites.labels[0] == 9, "the first is an ankle boot");
    sprites_free(&sprites);
}

static void test_command(void **state) {
    (void)state;
    char out[512], none[512];
    check_path(out, "command/below");
    check_path(none, "tiny/mixed/index.json/x");
    char *good[] = {"demo", out, "--tiny"}, *missing[] = {"demo"}, *two[] = {"demo", out, out},
         *unknown[] = {"demo", "--small", out}, *from[] = {"demo", out, "--from"},
         *help[] = {"demo", "--help"}, *bad[] = {"demo", none, "--tiny"};
    check_that(demo_command(3, good) == 0 && path_exists(out), "the command");
    check_that(demo_command(1, missing) == 78, "no folder");
    check_that(demo_command(3, two) == 78, "two folders");
    check_that(demo_command(3, unknown) == 78, "an unknown option");
    check_that(demo_command(3, from) == 78, "an option without its value");
    check_that(demo_command(2, help) == 0, "--help");
    check_that(demo_command(3, bad) == 1, "a folder that cannot be made");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scenes_stay_on_canvas),
        cmocka_unit_test(test_drawing),
        cmocka_unit_test(test_tiny_set),
        cmocka_unit_test(test_left_alone_and_repeatable),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_facts_refused),
        cmocka_unit_test(test_idx_errors),
        cmocka_unit_test(test_real_fashion_mnist),
        cmocka_unit_test(test_command),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
