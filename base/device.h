// The device: its memory and its streams. On the CPU backend memory is the host's and streams are
// synchronous, but the order of calls is the same.
#ifndef BASE_DEVICE_H
#define BASE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct StreamState *Stream;  // NULL is the compute stream.
typedef struct EventState *Event;

const char *device_backend(void);  // "cpu" or "cuda".

// Takes this process's device before anything below: number `local_rank` of those it sees, counted
// round. False, with a reason that a user can act on, where a device, its driver or its libraries
// are missing or too old. The CPU is always there. Local; comm_device_start calls it on all ranks.
bool device_start(int local_rank, Error *error);

// Names this node's device: ranks that run on the same one have the same number. -1 on the CPU,
// which ranks may always share.
int64_t device_identity(void);

// Tells device_memory_free how many ranks run on this rank's device.
void device_shared_by(int ranks);

// Zeroed memory of the device at a multiple of 256; dies with name and size when there is none
// left. The host must not touch it.
void *device_allocate(const char *name, int64_t bytes);

// The same, but the host reaches it, too; slower. The host reads after stream_wait what the device
// wrote. For tests and small facts.
void *device_allocate_shared(const char *name, int64_t bytes);
void device_free(void *memory);  // Of either.

// Zeroed memory of the host that the device copies from and to without staging (pinned).
void *host_allocate(const char *name, int64_t bytes);
void host_free(void *memory);

// Copies between any two places, in the order of `stream`. May not overlap. A source on the host
// may be changed when the call returns, but one from host_allocate only once `stream` is past the
// copy; a destination on the host is read after stream_wait.
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
void event_wait(Event event);  // The host waits.

// An event with a clock, for measuring; seconds between two of them in one stream, which the host
// has waited for.
Event event_create_timed(void);
double event_seconds(Event begin, Event end);

// Bytes resident in memory now (the process on the CPU; the device on CUDA).
int64_t device_memory_used(void);

// Bytes that this rank could still have. CPU: of the node (within its control group's limit, too),
// in equal parts for its `local_ranks` ranks. CUDA: of its device, in equal parts for the ranks
// that share it.
int64_t device_memory_free(int local_ranks);

// What this rank runs on, for the log and for comparing ranks: processor model and instruction
// sets; or name, architecture and versions of the GPU.
void device_describe(char *text, int64_t size);

#endif
