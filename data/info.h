// What the commands of data sets do and say.
#ifndef DATA_INFO_H
#define DATA_INFO_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

// Prints what a data set holds: shards, hashes, columns and, once it has a catalogue, samples by
// medium and shape.
bool data_info(FILE *out, const char *folder, Error *error);

// Reads every byte and checks every hash, offset, sample and value, and the catalogue where there
// is one, row by row. Every bad place is a problem. *samples_good counts those that passed.
bool data_verify(int64_t *samples_good, const char *folder, Problems *problems);

#endif
