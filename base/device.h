// The device: its memory and its streams. On the CPU backend memory is the host's and streams are
// synchronous, but the order of calls is the same.
#ifndef BASE_DEVICE_H
#define BASE_DEVICE_H

#include <stdint.h>

typedef struct StreamState *Stream;  // NULL is the compute stream.
typedef struct EventState *Event;

// Zeroed memory at a multiple of 256; dies with name and size when there is none left.
void *device_allocate(const char *name, int64_t bytes);
void device_free(void *memory);

// Copies between any two places, in the order of `stream`. May not overlap. A source on the host
// may be changed when the call returns; a destination on the host is read after stream_wait.
void device_copy(void *to, const void *from, int64_t bytes, Stream stream);
void device_zero(void *memory, int64_t bytes, Stream stream);

// A stream beside the compute stream.
Stream stream_create(void);
void stream_free(Stream stream);

// Returns once everything in `stream` is done.
void stream_wait(Stream stream);

// Marks in streams: what is given to `stream` after stream_await starts when all that was given to
// the other stream before its event_record is done. An event that was never recorded is done.
Event event_create(void);
void event_free(Event event);
void event_record(Event event, Stream stream);
void stream_await(Stream stream, Event event);

// Bytes resident in memory now (the process on the CPU; the device on CUDA).
int64_t device_memory_used(void);

// Bytes that could still be had on this node (CPU: within its control group's limit, too) or
// device.
int64_t device_memory_free(void);

// What this rank runs on, for the log and for comparing ranks: processor model and instruction
// sets.
void device_describe(char *text, int64_t size);

#endif
