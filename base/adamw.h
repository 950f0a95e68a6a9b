// One element of vector_adamw (vector.h): the same bits on every backend, for all multiply-adds are
// written out.
#ifndef BASE_ADAMW_H
#define BASE_ADAMW_H

#include <math.h>

#include "base/vector.h"

// arXiv 1711.05101, algorithm 2, with the learning rate times the decay as in PyTorch:
// w -= lr * (m_hat / (sqrt(v_hat) + epsilon) + decay * w).
REAL_INLINE void adamw_element(float *w, float *m, float *v, float *ema, float g, const AdamW *a) {
    const float gi = g * a->gradient_scale;
    *m = fmaf(a->beta1, *m, (1.0f - a->beta1) * gi);
    *v = fmaf(a->beta2, *v, (1.0f - a->beta2) * gi * gi);
    const float direction = (*m / a->correction1) / (sqrtf(*v / a->correction2) + a->epsilon);
    *w = fmaf(-a->lr, fmaf(a->decay, *w, direction), *w);
    *ema = fmaf(a->ema_keep, *ema, (1.0f - a->ema_keep) * *w);
}

#endif
