// One term of an ExactSum (vector.h) as digits, after the long accumulator of U. Kulisch: the same
// arithmetic wherever sums are made.
#ifndef BASE_EXACT_H
#define BASE_EXACT_H

#include "base/real.h"

enum { EXACT_LOWEST_BIT = -640, EXACT_LIMB_BITS = 32 };

// What a term adds to three limbs from `limb` on; limb -1: it is bad.
typedef struct {
    int limb;
    uint64_t digit[3];
} ExactTerm;

REAL_INLINE ExactTerm exact_term(double term) {
    ExactTerm result = {-1, {0, 0, 0}};
    union {
        double value;
        uint64_t bits;
    } u;
    if (!(term >= 0.0 && term < 0x1p600)) return result;
    u.value = term;
    const int field = (int)(u.bits >> 52 & 0x7ff);  // term = mantissa * 2^(exponent - 1075).
    const int exponent = field > 0 ? field : 1;
    uint64_t mantissa = (u.bits & 0xfffffffffffffu) | (uint64_t)(field > 0) << 52;
    int bit = exponent - 1075 - EXACT_LOWEST_BIT;
    if (bit < 0) {
        mantissa = bit > -64 ? mantissa >> -bit : 0;
        bit = 0;
    }
    // The mantissa's 53 bits, moved by up to 31, touch three limbs.
    const int shift = bit % EXACT_LIMB_BITS;
    const uint64_t low = (mantissa & 0xffffffffu) << shift;
    const uint64_t high = (mantissa >> 32) << shift;
    result.limb = bit / EXACT_LIMB_BITS;
    result.digit[0] = low & 0xffffffffu;
    result.digit[1] = (low >> 32) + (high & 0xffffffffu);
    result.digit[2] = high >> 32;
    return result;
}

#endif
