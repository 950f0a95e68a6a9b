// The speed that products reach on this rank: what MFU is measured against.
#ifndef TRAIN_CEILING_H
#define TRAIN_CEILING_H

#include <stdint.h>

// FLOP/s of 2048 x width x 4 width products, the best of a few. Takes well under a second. Local.
double ceiling_flops(int64_t width);

#endif
