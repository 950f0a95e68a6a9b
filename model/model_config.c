#include "model/model_config.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "model/model.h"

static const char *const CLASS_NAME = "GokuTransformer3DModel";

// What the ops hold: a row of `width` on the stack, heads of HEAD_MAX; the rest keeps every product
// of sizes far below 2^63.
enum { LAYERS_MAX = 1024, WIDTH_MAX = 8192, HEAD_MAX = 256, COLUMNS_MAX = 1 << 20 };

void model_config_check(const ModelConfig *c, const char *where, Problems *problems) {
    if (c->layers > LAYERS_MAX) {
        problems_add(problems, "%slayers = %" PRId64 " must be at most %d", where, c->layers,
                     LAYERS_MAX);
    }
    if (c->head_dim % 8 != 0 || c->head_dim > HEAD_MAX) {
        problems_add(problems, "%shead_dim = %" PRId64 " must be a multiple of 8, at most %d",
                     where, c->head_dim, HEAD_MAX);
    }
    if (c->heads > WIDTH_MAX / c->head_dim) {
        problems_add(problems,
                     "%sheads * head_dim = %" PRId64 " * %" PRId64
                     " is the model's width, which must be at most %d",
                     where, c->heads, c->head_dim, WIDTH_MAX);
    }
    if (c->text_width % 8 != 0 || c->text_width > COLUMNS_MAX) {
        problems_add(problems, "%stext_width = %" PRId64 " must be a multiple of 8, at most %d",
                     where, c->text_width, COLUMNS_MAX);
    }
    const double patch = (double)c->patch;
    const double elements = (double)c->in_channels * (double)c->patch_t * patch * patch;
    if (elements > COLUMNS_MAX) {
        problems_add(problems, "%sin_channels * patch_t * patch^2 = %g must be at most %d", where,
                     elements, COLUMNS_MAX);
    }
    const double hidden = c->mlp_ratio * (double)c->heads * (double)c->head_dim;
    if (hidden != floor(hidden) || hidden < 1 || hidden > COLUMNS_MAX) {
        problems_add(problems,
                     "%smlp_ratio = %g gives %g hidden channels, must be a whole number from 1 to "
                     "%d",
                     where, c->mlp_ratio, hidden, COLUMNS_MAX);
    }
}

char *model_config_json(const ModelConfig *c) {
    json_t *json = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "_class_name", CLASS_NAME,
        "num_layers", (json_int_t)c->layers, "num_attention_heads", (json_int_t)c->heads,
        "attention_head_dim", (json_int_t)c->head_dim, "in_channels", (json_int_t)c->in_channels,
        "patch_size", (json_int_t)c->patch, "patch_size_t", (json_int_t)c->patch_t,
        "cross_attention_dim", (json_int_t)c->text_width, "mlp_ratio", c->mlp_ratio, "rope_theta",
        c->rope_theta, "time_factor", c->time_factor);
    CHECK(json != NULL, "config.json could not be made");
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    json_decref(json);
    CHECK(text != NULL, "no memory for config.json");
    return text;
}

static bool whole(const json_t *json, const char *key, int64_t *out, Error *error) {
    const json_t *value = json_object_get(json, key);
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > 1 << 20) {
        return error_set(error, "config.json: '%s' must be a whole number from 1 to 1048576", key);
    }
    *out = json_integer_value(value);
    return true;
}

static bool number(const json_t *json, const char *key, double fallback, double *out,
                   Error *error) {
    const json_t *value = json_object_get(json, key);
    *out = fallback;
    if (value == NULL) return true;
    *out = json_number_value(value);
    if (!json_is_number(value) || !(*out > 0)) {
        return error_set(error, "config.json: '%s' must be a positive number", key);
    }
    return true;
}

static bool read_config(ModelConfig *c, const json_t *json, Error *error) {
    const char *name = json_string_value(json_object_get(json, "_class_name"));
    if (name == NULL || strcmp(name, CLASS_NAME) != 0) {
        return error_set(error, "config.json: '_class_name' is '%s'; known: %s",
                         name == NULL ? "missing" : name, CLASS_NAME);
    }
    c->architecture = ARCHITECTURE_GOKU;
    c->recompute = RECOMPUTE_NONE;
    return whole(json, "num_layers", &c->layers, error) &&
           whole(json, "num_attention_heads", &c->heads, error) &&
           whole(json, "attention_head_dim", &c->head_dim, error) &&
           whole(json, "in_channels", &c->in_channels, error) &&
           whole(json, "patch_size", &c->patch, error) &&
           whole(json, "patch_size_t", &c->patch_t, error) &&
           whole(json, "cross_attention_dim", &c->text_width, error) &&
           number(json, "mlp_ratio", 4, &c->mlp_ratio, error) &&
           number(json, "rope_theta", 1e4, &c->rope_theta, error) &&
           number(json, "time_factor", 1000, &c->time_factor, error);
}

bool model_config_parse(ModelConfig *config, const char *text, Error *error) {
    json_error_t where;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &where);
    if (json == NULL) {
        return error_set(error, "config.json:%d:%d: %s", where.line, where.column, where.text);
    }
    memset(config, 0, sizeof(*config));
    const bool ok = read_config(config, json, error);
    json_decref(json);
    if (!ok) return false;
    Problems problems = {.count = 0};
    model_config_check(config, "config.json: ", &problems);
    return problems.count == 0 || error_set(error, "%s", problems.text[0]);
}
