// Where an op puts what it gives to the gradient of a parameter. A pack gives to a parameter once,
// so that what goes to the wire is written as it travels: nothing is zeroed, added to or rounded
// in a pass of its own. Sums are float whatever the type; they are rounded once, at the end.
#ifndef BASE_GRADIENT_H
#define BASE_GRADIENT_H

#include <stddef.h>

#include "base/real.h"

typedef struct {
    void *at;  // Elements of `type`; NULL: not wanted.
    Type type;
    bool add;  // += in place of =.
} Gradient;

// The gradient from its element `offset` on.
REAL_INLINE Gradient gradient_from(Gradient g, int64_t offset) {
    if (g.at != NULL) g.at = (char *)g.at + offset * type_size(g.type);
    return g;
}

// Gives `x` to element i.
REAL_INLINE void gradient_put(Gradient g, int64_t i, float x) {
    if (g.type == TYPE_F32) {
        float *at = (float *)g.at + i;
        *at = g.add ? *at + x : x;
    } else {
        uint16_t *at = (uint16_t *)g.at + i;
        *at = float_to_bf16(g.add ? bf16_to_float(*at) + x : x);
    }
}

#endif
