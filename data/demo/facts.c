#include "data/demo/facts.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/files.h"
#include "data/demo/text.h"

static const char codec_name[] = "dct4-haar2", encoder_name[] = "hashed-words-end";

static json_t *numbers(const float *values) {
    json_t *array = json_array();
    for (int c = 0; c < CODEC_CHANNELS; c++) json_array_append_new(array, json_real(values[c]));
    return array;
}

bool demo_facts_write(const DemoFacts *facts, const char *folder, Error *error) {
    json_t *classes = json_array();
    for (int i = 0; i < DEMO_CLASSES; i++) {
        json_array_append_new(classes, json_string(facts->classes[i]));
    }
    json_t *json = json_pack(
        "{s:i, s:s, s:I, s:o, s:{s:s, s:i, s:b, s:o, s:o}, s:{s:i, s:i, s:i}, s:{s:s, s:i, s:i}}",
        "version", 1, "source", facts->source, "seed", (json_int_t)facts->seed, "classes", classes,
        "latent", "codec", codec_name, "channels", CODEC_CHANNELS, "applied", 1, "mean",
        numbers(facts->codec.mean), "std", numbers(facts->codec.std), "pixels", "channels", 1,
        "block", CODEC_BLOCK, "stride", CODEC_STRIDE, "text", "encoder", encoder_name, "width",
        TEXT_WIDTH, "tokens_max", TEXT_TOKENS_MAX);
    CHECK(json != NULL, "facts of a data set that are no JSON");
    char *text = json_dumps(json, JSON_INDENT(1));
    json_decref(json);
    CHECK(text != NULL, "no memory for dataset.json");
    char path[PATH_BYTES_MAX];
    const bool ok = path_join(path, folder, "dataset.json", error) &&
                    file_write(path, text, (int64_t)strlen(text), error);
    free(text);
    return ok;
}

static bool read_numbers(float *out, const json_t *array) {
    if (json_array_size(array) != CODEC_CHANNELS) return false;
    for (size_t c = 0; c < CODEC_CHANNELS; c++) {
        const json_t *number = json_array_get(array, c);
        out[c] = (float)json_number_value(number);
        if (!json_is_number(number) || !isfinite(out[c])) return false;
    }
    return true;
}

// What is wrong with the facts, NULL when nothing is.
static const char *parse(DemoFacts *facts, const json_t *json) {
    int version, channels, applied, pixels, block, stride, width, words;
    json_int_t seed;
    const char *source, *codec, *encoder;
    json_t *classes, *mean, *std;
    if (json_unpack((json_t *)(uintptr_t)json,
                    "{s:i, s:s, s:I, s:o, s:{s:s, s:i, s:b, s:o, s:o}, s:{s:i, s:i, s:i}, s:{s:s, "
                    "s:i, s:i}}",
                    "version", &version, "source", &source, "seed", &seed, "classes", &classes,
                    "latent", "codec", &codec, "channels", &channels, "applied", &applied, "mean",
                    &mean, "std", &std, "pixels", "channels", &pixels, "block", &block, "stride",
                    &stride, "text", "encoder", &encoder, "width", &width, "tokens_max",
                    &words) != 0) {
        return "lacks facts of a demo data set";
    }
    if (version != 1) return "is of a version that this program does not know";
    if (strcmp(codec, codec_name) != 0 || channels != CODEC_CHANNELS || !applied || pixels != 1 ||
        block != CODEC_BLOCK || stride != CODEC_STRIDE) {
        return "names another codec than this program has";
    }
    if (strcmp(encoder, encoder_name) != 0 || width != TEXT_WIDTH || words != TEXT_TOKENS_MAX) {
        return "names another text encoder than this program has";
    }
    if (!read_numbers(facts->codec.mean, mean) || !read_numbers(facts->codec.std, std)) {
        return "has a wrong mean or std";
    }
    for (int c = 0; c < CODEC_CHANNELS; c++) {
        if (facts->codec.std[c] <= 0.0f) return "has a std that is not positive";
    }
    if (json_array_size(classes) != DEMO_CLASSES) return "has a wrong number of classes";
    for (size_t i = 0; i < DEMO_CLASSES; i++) {
        const char *name = json_string_value(json_array_get(classes, i));
        if (name == NULL || strlen(name) >= DEMO_NAME_MAX) return "has a wrong class name";
        snprintf(facts->classes[i], DEMO_NAME_MAX, "%s", name);
    }
    snprintf(facts->source, sizeof(facts->source), "%s", source);
    facts->seed = (uint64_t)seed;
    return NULL;
}

bool demo_facts_read(DemoFacts *facts, const char *folder, Error *error) {
    char path[PATH_BYTES_MAX];
    if (!path_join(path, folder, "dataset.json", error)) return false;
    int64_t bytes;
    char *text = file_read(path, 1 << 20, &bytes, error);
    if (text == NULL) return false;
    json_error_t fault;
    json_t *json = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &fault);
    free(text);
    if (json == NULL) {
        return error_set(error, "%s:%d: %s; prepare the data again", path, fault.line, fault.text);
    }
    const char *finding = parse(facts, json);
    json_decref(json);
    if (finding == NULL) return true;
    return error_set(error, "%s: %s; prepare the data again", path, finding);
}
