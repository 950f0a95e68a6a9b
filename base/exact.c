// ExactSum (vector.h): sums without an order, after the long accumulator of U. Kulisch.
#include <math.h>
#include <stdbool.h>

#include "base/vector.h"

enum { LOWEST_BIT = -640, LIMB_BITS = 32 };

void exact_add(ExactSum *sum, double term) {
    if (!(term >= 0.0 && term < 0x1p600)) {
        sum->bad++;
        return;
    }
    int exponent = 0;
    const double fraction = frexp(term, &exponent);     // In [0.5, 1), or 0.
    uint64_t mantissa = (uint64_t)ldexp(fraction, 53);  // term = mantissa * 2^(exponent - 53).
    int bit = exponent - 53 - LOWEST_BIT;
    if (bit < 0) {
        mantissa = bit > -64 ? mantissa >> -bit : 0;
        bit = 0;
    }
    const int limb = bit / LIMB_BITS, shift = bit % LIMB_BITS;
    // The mantissa's 53 bits, moved by up to 31, touch three limbs.
    const uint64_t low = (mantissa & 0xffffffffu) << shift;
    const uint64_t high = (mantissa >> 32) << shift;
    sum->limb[limb] += (int64_t)(low & 0xffffffffu);
    sum->limb[limb + 1] += (int64_t)((low >> 32) + (high & 0xffffffffu));
    sum->limb[limb + 2] += (int64_t)(high >> 32);
}

double exact_value(const ExactSum *sum) {
    if (sum->bad > 0) return NAN;
    // Two digits more than limbs take the last carries.
    uint64_t digit[EXACT_LIMBS + 2] = {0};
    uint64_t carry = 0;
    for (int i = 0; i < EXACT_LIMBS + 2; i++) {
        const uint64_t word = carry + (i < EXACT_LIMBS ? (uint64_t)sum->limb[i] : 0);
        digit[i] = word & 0xffffffffu;
        carry = word >> 32;
    }
    int top = EXACT_LIMBS + 1;
    while (top > 0 && digit[top] == 0) top--;
    if (digit[top] == 0) return 0.0;
    // The highest 64 bits, the lowest of them standing for all that follows as well, so that the
    // conversion to double rounds as if it saw the whole number.
    int shift = 0;
    while ((digit[top] << shift & 0x80000000u) == 0) shift++;
    const uint64_t next = top > 0 ? digit[top - 1] : 0, last = top > 1 ? digit[top - 2] : 0;
    uint64_t bits = digit[top] << (32 + shift) | next << shift | last >> (32 - shift);
    bool rest = (last << shift & 0xffffffffu) != 0;
    for (int i = 0; i + 2 < top; i++) rest = rest || digit[i] != 0;
    if (rest) bits |= 1;
    return ldexp((double)bits, LIMB_BITS * (top - 1) - shift + LOWEST_BIT);
}
