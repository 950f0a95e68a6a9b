// The recording calls that model files are written in: each adds one call to the program and gives
// its value.
#ifndef MODEL_RECORD_H
#define MODEL_RECORD_H

#include "model/ops/norm.h"
#include "model/program.h"

typedef enum { NO_BIAS, BIAS } Bias;
typedef enum { NO_WEIGHT, WEIGHT } Affine;

// x W^T + b with parameters NAME.weight [cols, columns of x] and NAME.bias [cols].
Value linear(Program *p, Value x, const char *name, int64_t cols, Bias bias, Init init);

// `n` such products of the same x as one: n tensors NAME.weight [cols, K] that lie next to each
// other, one product, n values that are columns of its result. No bias.
void linear_n(Program *p, Value x, int n, const char *const *names, int64_t cols, Init init,
              Value *out);

// x's columns cut into n values of equal width.
void chunk(Program *p, Value x, int n, Value *out);

Value gelu_tanh(Program *p, Value x);
Value silu(Program *p, Value x);  // Rows of segments only.

// silu(gate) * up, two values of one linear_n or chunk.
Value swiglu(Program *p, Value gate, Value up);

// The norm of x, with the learned NAME.weight where name is not NULL; then * (1 + scale) + shift
// where those are values.
Value norm_modulate(Program *p, Value x, NormKind kind, const char *name, float epsilon,
                    Value shift, Value scale);

// RMS norm over all heads with NAME.weight, then RoPE by the token's position where `rope`.
Value qk_norm(Program *p, Value x, const char *name, float epsilon, int64_t heads, bool rope);

// softmax(q k^T / sqrt(D)) v within each segment, q = qk_norm(qkv[0], q_norm), k = qk_norm(qkv[1],
// k_norm), both with RoPE, v = qkv[2]; all heads of all tokens of the pack. Under sequence
// parallelism tokens become heads before and heads tokens after it.
Value self_attention(Program *p, const Value qkv[3], const char *q_norm, const char *k_norm,
                     float epsilon, int64_t heads);

// The same from tokens to the text of their segment.
Value cross_attention(Program *p, Value q, Value k, Value v, int64_t heads);

// x + gate * h; gate NO_VALUE: x + h.
Value gate_residual(Program *p, Value x, Value h, Value gate);

// [cos | sin] of time * factor at `width` / 2 frequencies; time is an input of one float column.
Value time_embedding(Program *p, Value time, float factor, int64_t width);

#endif
