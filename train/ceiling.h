// The speeds that plain work reaches on this rank: what steps and kernels are measured against.
#ifndef TRAIN_CEILING_H
#define TRAIN_CEILING_H

#include <stdint.h>

// FLOP/s of a plain product of 2,048 (on a GPU 8,192) x width x 4 width, the best of a few. Takes
// well under a second. Local.
double ceiling_flops(int64_t width);

// Bytes per second of a plain copy of 256 MiB inside the device's memory, read and written both
// counted, the best of a few. Local.
double ceiling_copy(void);

#endif
