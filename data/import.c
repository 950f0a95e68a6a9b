#include "data/import.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/files.h"
#include "base/real.h"
#include "base/safetensors.h"
#include "base/utf8.h"
#include "data/catalogue.h"
#include "data/members.h"
#include "data/sample.h"

enum { MEMBERS_MAX = 16, SHARD_BYTES = 1 << 26 };

// An array as it came, without leading ones.
typedef struct {
    const void *data;  // NULL: not there.
    Stored type;
    int dims;
    int64_t shape[TENSOR_DIMS_MAX];
} Array;

// The sample in work: its members, and what was found in them.
typedef struct {
    const char *input;
    Member members[MEMBERS_MAX];
    int count;
    Array latent, text;
    json_t *facts;  // Of KEY.json, or NULL.
    Member *caption;
} Group;

typedef struct {
    const char *out;
    MdsWriter *writer;  // Made with the first sample, whose numbers name the qualities.
    char qualities[QUALITIES_MAX][QUALITY_NAME_MAX];
    int quality_count;
    ImportCounts *counts;
    Problems *problems;
} Import;

static bool has_ending(const char *text, const char *ending) {
    const size_t a = strlen(text), b = strlen(ending);
    return a >= b && strcmp(text + a - b, ending) == 0 && (a == b || text[a - b - 1] == '.');
}

// What an array is for, by its name: 'l'atent, 't'ext, or 0.
static char role(const char *name) {
    if (strstr(name, "text") || strstr(name, "embed") || strstr(name, "t5")) return 't';
    return strstr(name, "latent") || strstr(name, "vae") ? 'l' : 0;
}

static bool keep_array(Group *group, char which, Array array, Error *error) {
    const int want = which == 'l' ? 4 : 2;
    while (array.dims > want && array.shape[0] == 1) {
        array.dims--;
        memmove(array.shape, array.shape + 1, (size_t)array.dims * sizeof(int64_t));
    }
    Array *place = which == 'l' ? &group->latent : &group->text;
    if (place->data != NULL) {
        return error_set(error, "two arrays may be its %s", which == 'l' ? "latent" : "text");
    }
    if (array.dims != want && !(which == 'l' && array.dims == 3)) {
        return error_set(error, "a %s of %d dimensions; [C, F, H, W] and [L, width] are wanted",
                         which == 'l' ? "latent" : "text", array.dims);
    }
    *place = array;
    return true;
}

// ---- npy

// The text behind 'key': in the header's dict, or NULL.
static const char *npy_entry(const char *header, const char *key) {
    const char *at = strstr(header, key);
    if (at == NULL) return NULL;
    at += strlen(key);
    return at + strspn(at, " :");
}

static bool npy_shape(Array *array, int64_t *count, const char *text) {
    *count = 1;
    if (text == NULL || *text++ != '(') return false;
    while (*text != ')') {
        char *end;
        const long long size = strtoll(text, &end, 10);
        if (end == text || size < 0 || array->dims == TENSOR_DIMS_MAX) return false;
        if (size > 0 && *count > ((int64_t)1 << 40) / size) return false;
        array->shape[array->dims++] = size;
        *count *= size;
        text = end + strspn(end, ", ");
    }
    return true;
}

static bool read_npy(Group *group, const Member *member, Error *error) {
    const uint8_t *bytes = (const uint8_t *)member->data;
    uint32_t length = 0;
    const int64_t start = member->bytes > 7 && bytes[6] == 1 ? 10 : 12;
    if (member->bytes < start || memcmp(bytes, "\x93NUMPY", 6) != 0) {
        return error_set(error, "not an npy file");
    }
    memcpy(&length, bytes + 8, (size_t)start - 8);
    if (length > 65536 || start + length > member->bytes) return error_set(error, "a cut header");
    char header[65537];
    snprintf(header, sizeof(header), "%.*s", (int)length, member->data + start);
    const char *type = npy_entry(header, "'descr'"), *order = npy_entry(header, "'fortran_order'");
    Array array = {.data = bytes + start + length};
    if (type != NULL && strncmp(type, "'<f2'", 5) == 0) {
        array.type = STORED_FLOAT16;
    } else if (type != NULL && strncmp(type, "'<f4'", 5) == 0) {
        array.type = STORED_FLOAT32;
    } else {
        return error_set(error, "descr %.10s; '<f2' and '<f4' are read (bfloat16: as safetensors)",
                         type == NULL ? "is missing" : type);
    }
    int64_t count;
    if (order == NULL || strncmp(order, "False", 5) != 0) {
        return error_set(error, "fortran_order must be False");
    }
    if (!npy_shape(&array, &count, npy_entry(header, "'shape'")) ||
        start + length + count * stored_size(array.type) != member->bytes) {
        return error_set(error, "its shape does not fit its bytes");
    }
    const char which = role(member->extension);
    if (which == 0 && strcmp(member->extension, "npy") != 0) {
        return error_set(error, "neither latent nor text; call it KEY.latent.npy or KEY.text.npy");
    }
    return keep_array(group, which == 0 ? 'l' : which, array, error);
}

// ---- safetensors, json

static bool keep_tensor(Group *group, const Member *member, const Safetensors *file,
                        const TensorInfo *tensor, Error *error) {
    char which = role(tensor->name);
    if (which == 0) which = role(member->extension);
    if (which == 0 || strstr(tensor->name, "mask") != NULL) return true;
    Array array = {.data = member->data + file->data_start + tensor->begin, .dims = tensor->dims};
    memcpy(array.shape, tensor->shape, sizeof(tensor->shape));
    switch (tensor->dtype) {
        case DTYPE_F32:
            array.type = STORED_FLOAT32;
            break;
        case DTYPE_BF16:
            array.type = STORED_BFLOAT16;
            break;
        case DTYPE_F16:
            array.type = STORED_FLOAT16;
            break;
        default:
            return error_set(error, "tensor '%s' is %s; F32, BF16, F16 are read", tensor->name,
                             dtype_name(tensor->dtype));
    }
    return keep_array(group, which, array, error);
}

static bool read_safetensors(Group *group, const Member *member, Error *error) {
    Safetensors file;
    if (!safetensors_parse(&file, member->name, member->data, member->bytes, member->bytes,
                           error)) {
        return false;
    }
    bool ok = true;
    for (int i = 0; i < file.count && ok; i++) {
        ok = keep_tensor(group, member, &file, &file.tensors[i], error);
    }
    safetensors_close(&file);
    return ok;
}

static bool read_json(Group *group, const Member *member, Error *error) {
    json_error_t found;
    if (group->facts != NULL) return error_set(error, "a second JSON file");
    group->facts = json_loadb(member->data, (size_t)member->bytes, JSON_REJECT_DUPLICATES, &found);
    if (json_is_object(group->facts)) return true;
    return error_set(error, "line %d: not a JSON object: %s", found.line, found.text);
}

// Whether read_member looks into files of this extension.
static bool is_read(const char *extension) {
    return has_ending(extension, "npy") || has_ending(extension, "safetensors") ||
           has_ending(extension, "json") || has_ending(extension, "txt");
}

static bool read_member(Group *group, Member *member, Import *import, Error *error) {
    static const char *const pickles[] = {"pt", "pth", "pkl", "pickle", "meta"};
    for (size_t i = 0; i < sizeof(pickles) / sizeof(pickles[0]); i++) {
        if (has_ending(member->extension, pickles[i])) {
            return error_set(error,
                             "a pickle, which would run code when it is read; write it "
                             "again in Python with safetensors.torch.save_file");
        }
    }
    if (has_ending(member->extension, "npy")) return read_npy(group, member, error);
    if (has_ending(member->extension, "safetensors")) return read_safetensors(group, member, error);
    if (has_ending(member->extension, "json")) return read_json(group, member, error);
    if (has_ending(member->extension, "txt")) {
        group->caption = member;
    } else {
        import->counts->passed_over++;
    }
    return true;
}

// ---- samples

static double fact(const Group *group, const char *key, double missing) {
    const json_t *value = json_object_get(group->facts, key);
    return json_is_number(value) ? json_number_value(value) : missing;
}

static int64_t count_of(const Group *group, const char *key) {
    return (int64_t)fmin(fmax(fact(group, key, 0), 0), 1e9);
}

static const char *words(const Group *group, const char *key) {
    return json_string_value(json_object_get(group->facts, key));
}

// Whether a number of the JSON has a column of its own.
static bool is_fact(const char *key) {
    static const char *const known[] = {"fps", "width", "height", "num_frames", "id"};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(key, known[i]) == 0) return true;
    }
    return false;
}

// The numbers in the first sample's JSON that are not columns of their own.
static void name_qualities(Import *import, const Group *group) {
    const char *key;
    json_t *value;
    json_object_foreach(group->facts, key, value) {
        if (!json_is_number(value) || is_fact(key) || strlen(key) >= QUALITY_NAME_MAX) continue;
        if (import->quality_count == QUALITIES_MAX) return;
        memcpy(import->qualities[import->quality_count++], key, strlen(key) + 1);
    }
}

// Counts the numbers of a sample's JSON that no quality holds.
static void count_left_out(const Import *import, const Group *group) {
    ImportCounts *counts = import->counts;
    const char *key;
    json_t *value;
    json_object_foreach(group->facts, key, value) {
        bool kept = !json_is_number(value) || is_fact(key);
        for (int i = 0; i < import->quality_count; i++) {
            kept = kept || strcmp(key, import->qualities[i]) == 0;
        }
        if (!kept && counts->left_out++ == 0) {
            snprintf(counts->first_left_out, sizeof(counts->first_left_out), "%s", key);
        }
    }
}

static bool make_writer(Import *import, const Group *group, Error *error) {
    if (import->writer != NULL) return true;
    name_qualities(import, group);
    const char *names[QUALITIES_MAX];
    for (int i = 0; i < QUALITIES_MAX; i++) names[i] = import->qualities[i];
    import->writer = sample_writer_create(import->out, names, import->quality_count, MDS_ZSTD,
                                          SHARD_BYTES, error);
    return import->writer != NULL;
}

// Training does not read captions: one in another encoding is no reason to stop.
static void mend_caption(Import *import, Member *caption) {
    int64_t at = 0, good;
    bool mended = false;
    while ((good = utf8_fault(caption->data + at, caption->bytes - at)) >= 0) {
        at += good;
        caption->data[at] = '?';
        mended = true;
    }
    import->counts->mended += mended;
}

// The bytes of the caption, without the ends of lines behind it.
static int64_t caption_of(Import *import, const Group *group, const char **caption) {
    static const char *const keys[] = {"caption", "prompt", "text"};
    *caption = NULL;
    for (int i = 0; i < 3 && *caption == NULL; i++) *caption = words(group, keys[i]);
    int64_t bytes = *caption == NULL ? 0 : (int64_t)strlen(*caption);
    if (*caption == NULL && group->caption != NULL) {
        mend_caption(import, group->caption);
        *caption = group->caption->data;
        bytes = group->caption->bytes;
    }
    while (bytes > 0 && ((*caption)[bytes - 1] == '\n' || (*caption)[bytes - 1] == '\r')) bytes--;
    return bytes;
}

static bool write_sample(Import *import, const Group *group, const char *key, Error *error) {
    const Array *latent = &group->latent, *text = &group->text;
    if (latent->data == NULL) return error_set(error, "has no latent");
    if (text->data == NULL) return error_set(error, "has no text");
    for (int i = 0; i < latent->dims; i++) {
        if (latent->shape[i] > 65536) return error_set(error, "a latent dimension above 65536");
    }
    const int64_t *s = latent->shape;
    const int last = latent->dims - 1;
    const char *media = words(group, "media_type"), *caption;
    const int64_t caption_bytes = caption_of(import, group, &caption);
    const int64_t frames = last == 3 ? s[1] : 1;
    const bool video = media == NULL ? frames > 1 : strcmp(media, "video") == 0;
    Sample sample = {
        .caption = caption,
        .caption_bytes = caption_bytes,
        .medium = video ? MEDIUM_VIDEO : MEDIUM_IMAGE,
        .shape = {(int32_t)s[0], (int32_t)frames, (int32_t)s[last - 1], (int32_t)s[last]},
        .latent = latent->data,
        .latent_type = latent->type,
        .text_length = text->shape[0],
        .text_width = text->shape[1],
        .text = text->data,
        .text_type = text->type,
        .width = count_of(group, "width"),
        .height = count_of(group, "height"),
        .num_frames = count_of(group, "num_frames"),
        .fps = fact(group, "fps", 0),
    };
    const char *id = words(group, "id");
    if (id == NULL || id[0] == 0) id = key;
    snprintf(sample.id, sizeof(sample.id), "%.127s", id);
    const int64_t cut = utf8_fault(sample.id, (int64_t)strlen(sample.id));
    if (strlen(id) > strlen(sample.id) && cut >= 0) sample.id[cut] = '\0';  // In a character.
    if (!make_writer(import, group, error)) return false;
    for (int i = 0; i < import->quality_count; i++) {
        sample.qualities[i] = fact(group, import->qualities[i], (double)NAN);
    }
    if (!sample_write(import->writer, &sample, error)) return false;
    import->counts->samples++;
    count_left_out(import, group);
    return true;
}

// Ends the sample in work: writes it, or says why not.
static void finish(Import *import, Group *group) {
    if (group->count == 0) return;
    char key[MEMBER_NAME_MAX];
    Error error = {""};
    const Member *first = &group->members[0];
    snprintf(key, sizeof(key), "%.*s", (int)first->key_bytes, first->name);
    bool ok = true;
    int64_t over = import->counts->passed_over;
    for (int i = 0; i < group->count && ok; i++) {
        ok = read_member(group, &group->members[i], import, &error);
        if (!ok) {
            problems_add(import->problems, "%s: %s: %s", group->input, group->members[i].name,
                         error.text);
        }
    }
    // Files that are all of other kinds are no sample.
    const bool foreign = import->counts->passed_over - over == group->count;
    if (ok && !foreign && !write_sample(import, group, key, &error)) {
        problems_add(import->problems, "%s: sample '%s': %s", group->input, key, error.text);
    }
    for (int i = 0; i < group->count; i++) free(group->members[i].data);
    json_decref(group->facts);
    *group = (Group){.input = group->input};
}

static bool belongs(const Group *group, const Member *member) {
    if (group->count == 0) return true;
    const Member *first = &group->members[0];
    return first->key_bytes == member->key_bytes &&
           memcmp(first->name, member->name, (size_t)first->key_bytes) == 0;
}

static void add_member(Import *import, Group *group, Member *member) {
    for (int i = 0; i < group->count; i++) {
        if (strcmp(group->members[i].name, member->name) == 0) {
            problems_add(import->problems, "%s: %s: twice in one sample", group->input,
                         member->name);
        }
    }
    if (group->count == MEMBERS_MAX) {
        problems_add(import->problems, "%s: %s: more than %d files of one sample", group->input,
                     member->name, MEMBERS_MAX);
        free(member->data);
        return;
    }
    Member *place = &group->members[group->count++];
    *place = *member;
    place->extension = place->name + place->key_bytes + 1;
}

static void import_input(Import *import, const char *input) {
    Error error = {""};
    Members *members = members_open(input, is_read, &error);
    Group group = {.input = input};
    int more = members == NULL ? -1 : 1;
    while (more > 0) {
        Member member;
        more = members_next(&member, members, &error);
        if (more <= 0) break;
        if (!belongs(&group, &member)) finish(import, &group);
        add_member(import, &group, &member);
    }
    finish(import, &group);
    if (more < 0) problems_add(import->problems, "%s", error.text);
    members_close(members);
}

bool data_import(ImportCounts *counts, const char *out, char *const inputs[], int input_count,
                 Problems *problems) {
    const int before = problems->count;
    *counts = (ImportCounts){0};
    Import import = {.out = out, .counts = counts, .problems = problems};
    char index[PATH_BYTES_MAX];
    Error error = {""};
    if (!path_join(index, out, "index.json", &error)) {
        problems_add(problems, "%s", error.text);
    } else if (path_exists(index)) {
        problems_add(problems, "%s: is already there; import into an empty folder", index);
    }
    const bool free_folder = problems->count == before;
    for (int i = 0; i < input_count && free_folder; i++) {
        import_input(&import, inputs[i]);
    }
    if (import.writer == NULL && problems->count == before) {
        problems_add(problems, "%s: nothing to import was found", inputs[0]);
    }
    if (problems->count > before) {
        mds_writer_abandon(import.writer);
    } else if (!mds_writer_close(import.writer, &error)) {
        problems_add(problems, "%s", error.text);
    } else if (!catalogue_build(out, problems) && !folder_remove(index, &error)) {
        problems_add(problems, "%s", error.text);
    }
    return problems->count == before;
}
