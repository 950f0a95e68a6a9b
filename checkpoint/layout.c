#include "checkpoint/layout.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/real.h"
#include "base/safetensors.h"

// Folder and first part of the file names.
static const struct {
    const char *name, *folder, *stem;
} CLASSES[CLASS_COUNT] = {
    [CLASS_WEIGHTS] = {"transformer", "transformer", "diffusion_pytorch_model"},
    [CLASS_EMA] = {"transformer_ema", "transformer_ema", "diffusion_pytorch_model"},
    [CLASS_EXP_AVG] = {"exp_avg", "optimizer", "exp_avg"},
    [CLASS_EXP_AVG_SQ] = {"exp_avg_sq", "optimizer", "exp_avg_sq"},
};

const char *class_name(CheckpointClass class) {
    return CLASSES[class].name;
}

// The class of a file, by its path.
static CheckpointClass class_of(const char *path) {
    const size_t length = strlen(path);
    if (length < 12 || strcmp(path + length - 12, ".safetensors") != 0) return CLASS_COUNT;
    for (int c = 0; c < CLASS_COUNT; c++) {
        char start[CHECKPOINT_PATH_MAX];
        const int n = snprintf(start, sizeof(start), "%s/%s", CLASSES[c].folder, CLASSES[c].stem);
        // "exp_avg" is also the start of "exp_avg_sq".
        if (strncmp(path, start, (size_t)n) == 0 && (path[n] == '-' || path[n] == '.')) {
            return (CheckpointClass)c;
        }
    }
    return CLASS_COUNT;
}

void layout_add_file(Layout *layout, const char *path, int64_t bytes) {
    layout->files = realloc(layout->files, (size_t)(layout->count + 1) * sizeof(*layout->files));
    CHECK(layout->files != NULL, "no memory for %d files", layout->count + 1);
    LayoutFile *file = &layout->files[layout->count++];
    *file = (LayoutFile){.class = class_of(path), .bytes = bytes, .first_block = layout->blocks};
    CHECK(strlen(path) < sizeof(file->path), "%s: path too long", path);
    snprintf(file->path, sizeof(file->path), "%s", path);
    layout->blocks += div_up(bytes, CHECKPOINT_BLOCK);
}

static void add_text(Layout *layout, const char *folder, const char *name, const char *text) {
    char path[CHECKPOINT_PATH_MAX];
    snprintf(path, sizeof(path), "%s%s%s", folder, folder[0] == '\0' ? "" : "/", name);
    layout_add_file(layout, path, (int64_t)strlen(text));
    LayoutFile *file = &layout->files[layout->count - 1];
    file->head = strdup(text);
    CHECK(file->head != NULL, "no memory for %s", path);
    file->head_bytes = file->bytes;
}

// The end of the file that starts with row `first`.
static int file_end(const ParamTable *table, int first, int64_t file_bytes_max) {
    int64_t bytes = 0;
    int row = first;
    while (row < table->count) {
        bytes += table->rows[row].count * 4;
        if (bytes > file_bytes_max && row > first) break;
        row++;
    }
    return row;
}

static void add_tensors(Layout *layout, CheckpointClass class, const char *path, int first,
                        int end) {
    const int count = end - first;
    TensorInfo *tensors = malloc((size_t)count * sizeof(*tensors));
    LayoutExtent *extents = malloc((size_t)count * sizeof(*extents));
    CHECK(tensors != NULL && extents != NULL, "no memory for %d tensors", count);
    int64_t at = 0;
    for (int i = 0; i < count; i++) {
        const Param *row = &layout->table->rows[first + i];
        TensorInfo *t = &tensors[i];
        *t = (TensorInfo){.dtype = DTYPE_F32, .dims = row->dims, .count = row->count};
        snprintf(t->name, sizeof(t->name), "%s", row->name);
        for (int d = 0; d < row->dims; d++) t->shape[d] = row->shape[d];
        t->begin = at;
        t->end = at + row->count * 4;
        extents[i] = (LayoutExtent){.row = first + i, .begin = t->begin, .end = t->end};
        at = t->end;
    }
    int64_t head_bytes;
    char *head = safetensors_header(tensors, count, CHECKPOINT_ALIGNMENT, &head_bytes);
    for (int i = 0; i < count; i++) {
        extents[i].begin += head_bytes;
        extents[i].end += head_bytes;
    }
    layout_add_file(layout, path, head_bytes + at);
    LayoutFile *file = &layout->files[layout->count - 1];
    CHECK(file->class == class, "%s: not of class %s", path, class_name(class));
    file->head = head;
    file->head_bytes = head_bytes;
    file->extents = extents;
    file->extent_count = count;
    free(tensors);
}

// Adds the files of a class and returns which file has which tensor, as the index lists it.
static json_t *add_class(Layout *layout, CheckpointClass class, int64_t file_bytes_max) {
    const ParamTable *table = layout->table;
    int files = 0;
    for (int row = 0; row < table->count; files++) row = file_end(table, row, file_bytes_max);
    const bool plain = files == 1 && class <= CLASS_EMA;
    json_t *map = json_object();
    int number = 0;
    for (int row = 0; row < table->count;) {
        const int end = file_end(table, row, file_bytes_max);
        char name[CHECKPOINT_PATH_MAX], path[CHECKPOINT_PATH_MAX];
        if (plain) {
            snprintf(name, sizeof(name), "%s.safetensors", CLASSES[class].stem);
        } else {
            snprintf(name, sizeof(name), "%.32s-%05d-of-%05d.safetensors", CLASSES[class].stem,
                     ++number, files);
        }
        snprintf(path, sizeof(path), "%.32s/%.90s", CLASSES[class].folder, name);
        add_tensors(layout, class, path, row, end);
        for (; row < end; row++) {
            json_object_set_new(map, table->rows[row].name, json_string(name));
        }
    }
    if (!plain) return map;
    json_decref(map);
    return NULL;
}

static void add_index(Layout *layout, CheckpointClass class, json_t *map) {
    json_t *index = json_pack("{s{sI} so}", "metadata", "total_size",
                              (json_int_t)(param_total(layout->table) * 4), "weight_map", map);
    char *text = json_dumps(index, JSON_INDENT(2));
    CHECK(text != NULL, "no memory for an index");
    add_text(layout, CLASSES[class].folder, "diffusion_pytorch_model.safetensors.index.json", text);
    free(text);
    json_decref(index);
}

void layout_build(Layout *layout, const ParamTable *table, int64_t file_bytes_max,
                  const char *config, const char *state) {
    *layout = (Layout){.table = table};
    CHECK(config[0] != '\0' && state[0] != '\0', "config.json and state.json may not be empty");
    for (int c = 0; c < CLASS_COUNT; c++) {
        const CheckpointClass class = (CheckpointClass)c;
        if (class <= CLASS_EMA) add_text(layout, CLASSES[c].folder, "config.json", config);
        json_t *map = add_class(layout, class, file_bytes_max);
        if (class <= CLASS_EMA && map != NULL) add_index(layout, class, json_incref(map));
        json_decref(map);
    }
    add_text(layout, "", "state.json", state);
}

static void shape_text(char *text, size_t size, int dims, const int64_t *shape) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (int d = 0; d < dims && used < size; d++) {
        used +=
            (size_t)snprintf(text + used, size - used, "%s%" PRId64, d == 0 ? "" : ", ", shape[d]);
    }
    if (used < size) snprintf(text + used, size - used, "]");
}

// The row that a tensor of a file belongs to, or -1 and a problem.
static int match_row(const Layout *layout, const LayoutFile *file, const TensorInfo *tensor,
                     Problems *problems) {
    const int row = param_find(layout->table, tensor->name);
    if (row < 0) {
        problems_add(problems, "%s: tensor '%s' is not in this model", file->path, tensor->name);
        return -1;
    }
    const Param *param = &layout->table->rows[row];
    if (tensor->dtype != DTYPE_F32) {
        problems_add(problems, "%s: tensor '%s' is %s, must be F32", file->path, tensor->name,
                     dtype_name(tensor->dtype));
        return -1;
    }
    if (tensor->dims != param->dims ||
        memcmp(tensor->shape, param->shape, (size_t)param->dims * sizeof(int64_t)) != 0) {
        char have[96], want[96];
        shape_text(have, sizeof(have), tensor->dims, tensor->shape);
        shape_text(want, sizeof(want), param->dims, param->shape);
        problems_add(problems, "%s: tensor '%s' has shape %s, this model needs %s", file->path,
                     tensor->name, have, want);
        return -1;
    }
    return row;
}

bool layout_set_head(Layout *layout, int index, char *head, int64_t head_bytes, Problems *problems,
                     Error *error) {
    LayoutFile *file = &layout->files[index];
    file->head = head;
    file->head_bytes = head_bytes;
    if (file->class == CLASS_COUNT) return true;
    Safetensors parsed;
    if (!safetensors_parse(&parsed, file->path, head, head_bytes, file->bytes, error)) return false;
    const bool aligned = parsed.data_start % CHECKPOINT_ALIGNMENT == 0;
    file->extents = malloc((size_t)(parsed.count + 1) * sizeof(*file->extents));
    CHECK(file->extents != NULL, "no memory for %d tensors", parsed.count);
    for (int i = 0; i < parsed.count; i++) {
        const TensorInfo *t = &parsed.tensors[i];
        const int row = match_row(layout, file, t, problems);
        if (row < 0) continue;
        file->extents[file->extent_count++] =
            (LayoutExtent){row, parsed.data_start + t->begin, parsed.data_start + t->end};
    }
    safetensors_close(&parsed);
    if (aligned) return true;
    return error_set(error, "%s: its data does not start at a multiple of %d bytes", file->path,
                     CHECKPOINT_ALIGNMENT);
}

void layout_check_complete(const Layout *layout, Problems *problems) {
    const int rows = layout->table->count;
    int *seen = calloc((size_t)CLASS_COUNT * (size_t)rows, sizeof(*seen));
    CHECK(seen != NULL, "no memory for %d rows", rows);
    for (int f = 0; f < layout->count; f++) {
        const LayoutFile *file = &layout->files[f];
        for (int i = 0; i < file->extent_count; i++) {
            seen[(int)file->class * rows + file->extents[i].row]++;
        }
    }
    for (int i = 0; i < CLASS_COUNT * rows; i++) {
        if (seen[i] == 1) continue;
        problems_add(problems, "%s: tensor '%s' is %s", class_name((CheckpointClass)(i / rows)),
                     layout->table->rows[i % rows].name,
                     seen[i] == 0 ? "missing" : "in several files");
    }
    free(seen);
}

void layout_free(Layout *layout) {
    for (int f = 0; f < layout->count; f++) {
        free(layout->files[f].head);
        free(layout->files[f].extents);
    }
    free(layout->files);
    *layout = (Layout){0};
}

int layout_block(const Layout *layout, int64_t block, int64_t *offset, int64_t *bytes) {
    CHECK(block >= 0 && block < layout->blocks, "block %" PRId64 " of %" PRId64, block,
          layout->blocks);
    int low = 0, high = layout->count;  // files[low].first_block <= block < files[high].first_block
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (layout->files[middle].first_block <= block) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const LayoutFile *file = &layout->files[low];
    *offset = (block - file->first_block) * CHECKPOINT_BLOCK;
    *bytes = min_i64(CHECKPOINT_BLOCK, file->bytes - *offset);
    return low;
}

int layout_find(const Layout *layout, const char *path) {
    for (int f = 0; f < layout->count; f++) {
        if (strcmp(layout->files[f].path, path) == 0) return f;
    }
    return -1;
}
