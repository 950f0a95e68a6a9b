#include "base/exact.h"

#include <math.h>
#include <stdbool.h>

#include "base/vector.h"

void exact_add(ExactSum *sum, double term) {
    const ExactTerm t = exact_term(term);
    if (t.limb < 0) {
        sum->bad++;
        return;
    }
    for (int i = 0; i < 3; i++) sum->limb[t.limb + i] += (int64_t)t.digit[i];
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
    return ldexp((double)bits, EXACT_LIMB_BITS * (top - 1) - shift + EXACT_LOWEST_BIT);
}
