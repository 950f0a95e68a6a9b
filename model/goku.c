// Goku's transformer, recorded. The block is the authors' released one (Saiyan-World/goku,
// goku/model.py); what paper and release leave open (stem, head, RoPE's split) is decided in
// DESIGN, section 4.
//
// Easy to get wrong, and noticed by tests/test_goku.c:
//   norm1 is a layer norm without weight; norm2 and norm3 are RMS norms with one.
//   adaLN's six chunks: shift, scale, gate of attention, then of the MLP.
//   The cross-attention branch has no gate and no modulation; its queries are turned by RoPE, its
//   keys are not. q and k are normalised over the full width (all heads), before the heads are
//   split. norm_out.linear's rows: shift, then scale.
#include "model/goku.h"

#include <math.h>
#include <stdio.h>

#include "model/record.h"

static const float EPSILON = 1e-6f;
enum { TIME_WIDTH = 256 };

UnitValues goku_stem(Program *p, const ModelConfig *config, ParamTable *params, const Mesh *mesh) {
    const int64_t C = model_width(config);
    program_begin(p, "stem", params, mesh, "");
    const Value patches = program_input(p, ROWS_TOKENS, model_token_elements(config), false);
    const Value time = program_input(p, ROWS_SEGMENTS, 1, false);

    const Value x = linear(p, patches, "x_embedder.proj", C, BIAS, INIT_XAVIER);
    Value c = time_embedding(p, time, (float)config->time_factor, TIME_WIDTH);
    c = silu(p, linear(p, c, "time_embedder.linear_1", C, BIAS, INIT_NORMAL));
    c = linear(p, c, "time_embedder.linear_2", C, BIAS, INIT_NORMAL);
    program_output(p, x);
    program_output(p, c);
    return (UnitValues){patches, NO_VALUE, NO_VALUE, time, x, c};
}

UnitValues goku_block(Program *p, const ModelConfig *config, ParamTable *params, const Mesh *mesh,
                      int block) {
    const int64_t C = model_width(config), heads = config->heads;
    const int64_t hidden = llround(config->mlp_ratio * (double)C);
    char prefix[32];
    snprintf(prefix, sizeof(prefix), "blocks.%d.", block);
    program_begin(p, "block", params, mesh, prefix);
    const Value x0 = program_input(p, ROWS_TOKENS, C, true);
    const Value cond = program_input(p, ROWS_SEGMENTS, C, true);
    const Value text = program_input(p, ROWS_TEXT, config->text_width, false);

    Value m[6];  // Shift, scale, gate of attention, then of the MLP.
    chunk(p, linear(p, silu(p, cond), "norm1.linear", 6 * C, BIAS, INIT_ZERO), 6, m);

    // x + gate * attention(modulate(norm(x)))
    Value h = norm_modulate(p, x0, NORM_LAYER, NULL, EPSILON, m[0], m[1]);
    Value qkv[3];
    linear_n(p, h, 3, (const char *[]){"attn1.q_proj", "attn1.k_proj", "attn1.v_proj"}, C,
             INIT_XAVIER, qkv);
    h = self_attention(p, qkv, "attn1.q_norm", "attn1.k_norm", EPSILON, heads);
    Value x = gate_residual(p, x0, linear(p, h, "attn1.o_proj", C, NO_BIAS, INIT_XAVIER), m[2]);

    // x + cross_attention(rms(x), text)
    h = norm_modulate(p, x, NORM_RMS, "norm2", EPSILON, NO_VALUE, NO_VALUE);
    const Value q2 = qk_norm(p, linear(p, h, "attn2.q_proj", C, NO_BIAS, INIT_XAVIER),
                             "attn2.q_norm", EPSILON, heads, true);
    Value kv[2];
    linear_n(p, text, 2, (const char *[]){"attn2.k_proj", "attn2.v_proj"}, C, INIT_XAVIER, kv);
    const Value k2 = qk_norm(p, kv[0], "attn2.k_norm", EPSILON, heads, false);
    h = cross_attention(p, q2, k2, kv[1], heads);
    x = gate_residual(p, x, linear(p, h, "attn2.o_proj", C, NO_BIAS, INIT_XAVIER), NO_VALUE);

    // x + gate * mlp(modulate(rms(x)))
    h = norm_modulate(p, x, NORM_RMS, "norm3", EPSILON, m[3], m[4]);
    h = gelu_tanh(p, linear(p, h, "mlp.fc1", hidden, BIAS, INIT_XAVIER));
    x = gate_residual(p, x, linear(p, h, "mlp.fc2", C, BIAS, INIT_XAVIER), m[5]);
    program_output(p, x);
    return (UnitValues){x0, cond, text, NO_VALUE, x, NO_VALUE};
}

UnitValues goku_head(Program *p, const ModelConfig *config, ParamTable *params, const Mesh *mesh) {
    const int64_t C = model_width(config);
    program_begin(p, "head", params, mesh, "");
    const Value x = program_input(p, ROWS_TOKENS, C, true);
    const Value cond = program_input(p, ROWS_SEGMENTS, C, true);

    Value m[2];  // Shift, scale.
    chunk(p, linear(p, silu(p, cond), "norm_out.linear", 2 * C, BIAS, INIT_ZERO), 2, m);
    const Value h = norm_modulate(p, x, NORM_LAYER, NULL, EPSILON, m[0], m[1]);
    const Value out = linear(p, h, "proj_out", model_token_elements(config), BIAS, INIT_ZERO);
    program_output(p, out);
    return (UnitValues){x, cond, NO_VALUE, NO_VALUE, out, NO_VALUE};
}
