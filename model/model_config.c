#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "model/model.h"

static const char *const CLASS_NAME = "GokuTransformer3DModel";

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
    return ok;
}
