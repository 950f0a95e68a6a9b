#include "train/tfevents.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/die.h"

struct EventFile {
    FILE *file;
    char path[1024];
};

// ---- protobuf: bytes that grow

typedef struct {
    uint8_t *data;
    size_t bytes, room;
} Bytes;

static void put(Bytes *out, const void *data, size_t bytes) {
    if (out->bytes + bytes > out->room) {
        out->room = 2 * (out->bytes + bytes) + 64;
        out->data = realloc(out->data, out->room);
        CHECK(out->data != NULL, "no memory for an event of %zu bytes", out->room);
    }
    if (bytes > 0) memcpy(out->data + out->bytes, data, bytes);
    out->bytes += bytes;
}

static void put_varint(Bytes *out, uint64_t x) {
    uint8_t buffer[10];
    size_t n = 0;
    for (; x >= 0x80; x >>= 7) buffer[n++] = (uint8_t)(x | 0x80);
    buffer[n++] = (uint8_t)x;
    put(out, buffer, n);
}

// The key of a field: its number and wire type.
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
static void put_key(Bytes *out, int field, int wire) {
    put_varint(out, (uint64_t)field << 3 | (uint64_t)wire);
}

static void put_whole(Bytes *out, int field, int64_t x) {
    if (x == 0) return;  // As proto3 writers do.
    put_key(out, field, WIRE_VARINT);
    put_varint(out, (uint64_t)x);
}

static void put_bytes(Bytes *out, int field, const void *data, size_t bytes) {
    put_key(out, field, WIRE_BYTES);
    put_varint(out, bytes);
    put(out, data, bytes);
}

static void put_string(Bytes *out, int field, const char *text) {
    put_bytes(out, field, text, strlen(text));
}

// A message inside a message; `part` is emptied.
static void put_part(Bytes *out, int field, Bytes *part) {
    put_bytes(out, field, part->data, part->bytes);
    free(part->data);
    *part = (Bytes){0};
}

// ---- records

// TFRecord: u64 length | u32 crc of the length | data | u32 crc of the data, little-endian; crc is
// CRC-32C, rotated by 15 and shifted by a constant.
static uint32_t masked_crc(const void *data, size_t bytes) {
    const uint32_t crc = crc32c(0, data, (int64_t)bytes);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void write_record(EventFile *events, const Bytes *event) {
    const uint64_t length = event->bytes;
    const uint32_t length_crc = masked_crc(&length, sizeof(length));
    const uint32_t crc = masked_crc(event->data, event->bytes);
    fwrite(&length, sizeof(length), 1, events->file);
    fwrite(&length_crc, sizeof(length_crc), 1, events->file);
    fwrite(event->data, 1, event->bytes, events->file);
    fwrite(&crc, sizeof(crc), 1, events->file);
}

// Event {1 double wall_time, 2 int64 step, 3 string file_version, 5 Summary {1 repeated Value}}
static Bytes event_start(double wall_time, int64_t step) {
    Bytes event = {0};
    put_key(&event, 1, WIRE_64);
    put(&event, &wall_time, sizeof(wall_time));
    put_whole(&event, 2, step);
    return event;
}

static void write_value(EventFile *events, double wall_time, int64_t step, Bytes *value) {
    Bytes event = event_start(wall_time, step), summary = {0};
    put_part(&summary, 1, value);
    put_part(&event, 5, &summary);
    write_record(events, &event);
    free(event.data);
}

EventFile *events_create(const char *folder, double wall_time, Error *error) {
    EventFile *events = calloc(1, sizeof(*events));
    CHECK(events != NULL, "no memory for an event file");
    char host[128] = "";
    if (gethostname(host, sizeof(host) - 1) != 0 || host[0] == '\0') {
        snprintf(host, sizeof(host), "host");
    }
    for (int n = 0; events->file == NULL; n++) {
        const int length = snprintf(events->path, sizeof(events->path),
                                    "%s/events.out.tfevents.%010" PRId64 ".%s.%ld.%d", folder,
                                    (int64_t)wall_time, host, (long)getpid(), n);
        errno = length < (int)sizeof(events->path) ? 0 : ENAMETOOLONG;
        if (errno == 0) events->file = fopen(events->path, "wbx");
        if (events->file == NULL && errno != EEXIST) {
            error_set(error, "cannot make %s: %s", events->path, strerror(errno));
            free(events);
            return NULL;
        }
    }
    Bytes event = event_start(wall_time, 0);
    put_string(&event, 3, "brain.Event:2");
    write_record(events, &event);
    free(event.data);
    return events;
}

// Value {1 tag, 2 float simple_value, 4 Image, 8 Tensor, 9 Metadata}
void events_scalar(EventFile *events, double wall_time, int64_t step, const char *tag,
                   float number) {
    Bytes value = {0};
    put_string(&value, 1, tag);
    put_key(&value, 2, WIRE_32);
    put(&value, &number, sizeof(number));
    write_value(events, wall_time, step, &value);
}

// Image {1 height, 2 width, 3 colorspace, 4 encoded_image_string}
void events_image(EventFile *events, double wall_time, int64_t step, const char *tag,
                  const uint8_t *png, int64_t png_bytes, int width, int height, int channels) {
    Bytes value = {0}, image = {0};
    put_string(&value, 1, tag);
    put_whole(&image, 1, height);
    put_whole(&image, 2, width);
    put_whole(&image, 3, channels);
    put_bytes(&image, 4, png, (size_t)png_bytes);
    put_part(&value, 4, &image);
    write_value(events, wall_time, step, &value);
}

// Metadata {1 plugin_data {1 plugin_name}}; Tensor {1 dtype (7: string), 2 shape {2 dim {1 size}},
// 8 string_val}
void events_text(EventFile *events, double wall_time, int64_t step, const char *tag,
                 const char *text) {
    Bytes value = {0}, plugin = {0}, metadata = {0}, tensor = {0}, shape = {0}, dim = {0};
    put_string(&value, 1, tag);
    put_whole(&tensor, 1, 7);
    put_whole(&dim, 1, 1);
    put_part(&shape, 2, &dim);
    put_part(&tensor, 2, &shape);
    put_string(&tensor, 8, text);
    put_part(&value, 8, &tensor);
    put_string(&plugin, 1, "text");
    put_part(&metadata, 1, &plugin);
    put_part(&value, 9, &metadata);
    write_value(events, wall_time, step, &value);
}

bool events_flush(EventFile *events, Error *error) {
    errno = 0;
    if (fflush(events->file) == 0 && !ferror(events->file)) return true;
    return error_set(error, "cannot write %s: %s", events->path,
                     errno != 0 ? strerror(errno) : "an earlier write failed");
}

bool events_close(EventFile *events, Error *error) {
    if (events == NULL) return true;
    bool ok = events_flush(events, error);
    if (fclose(events->file) != 0 && ok) {
        ok = error_set(error, "cannot write %s: %s", events->path, strerror(errno));
    }
    free(events);
    return ok;
}
