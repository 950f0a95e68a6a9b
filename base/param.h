// The table of parameters: one row per named tensor, filled by recording a model, walked by
// sharding, optimizer, checkpoints and initialisation. No code knows a parameter by its index.
//
// A unit (stem, one block, head) is one flat buffer in which its tensors follow each other in the
// order of the table, each at a multiple of PARAM_ALIGNMENT elements; the gaps are zero, decay
// nothing and are not stored. A slice is cut at multiples of SLICE_BLOCK elements.
#ifndef BASE_PARAM_H
#define BASE_PARAM_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PARAM_ALIGNMENT = 64,
    SLICE_BLOCK = 1024,
    PARAM_NAME_MAX = 96,
    PARAM_DIMS_MAX = 4,
};

typedef enum {
    INIT_ZERO,
    INIT_ONE,
    INIT_XAVIER,  // Uniform in +-sqrt(6 / (fan_in + fan_out)); shape [out, in].
    INIT_NORMAL,  // Normal with standard deviation 0.02 (time embedding, as DiT has it).
} Init;

typedef struct {
    char name[PARAM_NAME_MAX];  // As in the checkpoint: "blocks.3.attn1.q_proj.weight".
    int dims;
    int64_t shape[PARAM_DIMS_MAX];
    int64_t count;  // Elements.
    Init init;
    bool decay;  // Whether weight decay applies (matrices yes; biases and norms no).
    int unit;
    int64_t offset;  // Of its first element in the unit's buffer.
} Param;

typedef struct {
    Param *rows;
    int count, capacity;
    int units;  // Units so far; the rows of a unit are consecutive.
    int64_t
        *unit_elements;  // [units] Elements of each unit's buffer, a multiple of PARAM_ALIGNMENT.
} ParamTable;

// Starts the next unit and returns its number.
int param_unit_begin(ParamTable *table);

// Adds a row to the current unit and returns its number. `shape` has `dims` entries.
int param_add(ParamTable *table, const char *name, int dims, const int64_t *shape, Init init,
              bool decay);

// The row called `name`, or -1.
int param_find(const ParamTable *table, const char *name);

// Elements of all rows, without gaps: the number of parameters.
int64_t param_total(const ParamTable *table);

// First row of `unit`, and of unit + 1 with `unit` + 1; rows [first, end) are the unit's.
int param_unit_first(const ParamTable *table, int unit);

// Where rank `index` of `size` cuts a unit of `elements`: slice = [cut(index), cut(index + 1)).
// Slices have slice_most elements, whole blocks of SLICE_BLOCK, but the last ones what is left or
// nothing: equal parts are gathered by one call. cut(size) = elements.
int64_t slice_cut(int64_t elements, int index, int size);
int64_t slice_most(int64_t elements, int size);

// Writes the initial values of elements [begin, end) of `unit`'s buffer; out has end - begin
// elements. Functions of (seed, name, element), so every sharding starts alike.
void param_init(float *out, const ParamTable *table, int unit, int64_t begin, int64_t end,
                uint64_t seed);

void param_free(ParamTable *table);

#endif
