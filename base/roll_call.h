// Which ranks still answer, asked without MPI, which may be what hangs: each puts a line into a
// file of a folder that all of them see, waits for the others, and reads what they wrote.
#ifndef BASE_ROLL_CALL_H
#define BASE_ROLL_CALL_H

#include <stdbool.h>
#include <stdint.h>

enum { ROLL_CALL_LINE = 160 };

typedef struct {
    const char *folder;  // Of this start alone; created when it is needed.
    int rank, size;
    const bool *left;  // NULL, or true once nobody wants to know: who waits returns soon. Atomic.
} RollCall;

// Answers with `line`, of less than ROLL_CALL_LINE bytes, and waits until all others have, for
// `seconds` at most. Returns whether this is the first of the ranks that answer, which is the one
// to speak: text = what each rank says ("no word from ranks 3, 5 to 7 within 60 s; rank 2: ...;
// ranks 0, 1: ..."), or why that is not known; the others return as soon as they know. Hangs where
// the folder does. Local.
bool roll_call(char *text, int64_t bytes, const RollCall *call, const char *line, double seconds);

void roll_call_end(const RollCall *call);  // Takes the answer back.

#endif
