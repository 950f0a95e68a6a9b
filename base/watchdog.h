// Ends the job where a rank waits for others without end: Open MPI and NCCL notice neither a rank
// that is stopped nor one that is stuck, and a run would hang until somebody looks.
#ifndef BASE_WATCHDOG_H
#define BASE_WATCHDOG_H

#include <stdint.h>

// Starts a thread that dies, naming the last wait, once `seconds` have passed without the begin or
// end of one. Time in which this process was stopped itself does not count. `look` is called now
// and then, to die for faults of its own. Local.
void watchdog_start(double seconds, void (*look)(void));
// From now on the line names what every rank says, asked in `folder` (roll_call.h): a tenth of
// `seconds`, or 5, are waited for answers. Local.
void watchdog_roll_call(const char *folder, int rank, int size);
void watchdog_stop(void);  // Nothing where it was not started.

// Around each wait, on one thread: in collective `call`, number `number` of communicator `name`; or
// for the device. They cost a few stores, watched or not, and do not return once another thread is
// ending the job.
void watchdog_collective(const char *call, const char *name, int64_t number);
void watchdog_device(void);
void watchdog_done(void);

#endif
