// Stand-in for CUDA's arithmetic, memory and integer atomic functions. C++ only. Atomics on floats
// are left out on purpose: a kernel that uses one does not compile.
#ifndef TESTS_EMULATOR_DEVICE_MATH_H
#define TESTS_EMULATOR_DEVICE_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

template <class A, class B>
static constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    return (T)b < (T)a ? (T)b : (T)a;
}
template <class A, class B>
static constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    return (T)a < (T)b ? (T)b : (T)a;
}

template <class To, class From>
static To emulator_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bytes");
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}

// glibc has declared these names for itself.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __sincosf(x, sine, cosine) sincosf(x, sine, cosine)

// clang-format off
#define EMULATOR_FUNCTION(type, name, arguments, value) \
    static inline type name arguments { return value; }
EMULATOR_FUNCTION(float, __uint_as_float, (unsigned x), emulator_bits<float>(x))
EMULATOR_FUNCTION(float, __int_as_float, (int x), emulator_bits<float>(x))
EMULATOR_FUNCTION(unsigned, __float_as_uint, (float x), emulator_bits<unsigned>(x))
EMULATOR_FUNCTION(int, __float_as_int, (float x), emulator_bits<int>(x))
EMULATOR_FUNCTION(double, __longlong_as_double, (long long x), emulator_bits<double>(x))
EMULATOR_FUNCTION(long long, __double_as_longlong, (double x), emulator_bits<long long>(x))

EMULATOR_FUNCTION(float, __fmaf_rn, (float a, float b, float c), fmaf(a, b, c))
EMULATOR_FUNCTION(double, __fma_rn, (double a, double b, double c), fma(a, b, c))
EMULATOR_FUNCTION(float, __fdiv_rn, (float a, float b), a / b)
EMULATOR_FUNCTION(float, __fdividef, (float a, float b), a / b)
EMULATOR_FUNCTION(float, __frcp_rn, (float x), 1.0f / x)
EMULATOR_FUNCTION(float, __fsqrt_rn, (float x), sqrtf(x))
EMULATOR_FUNCTION(float, __saturatef, (float x), x > 0.0f ? fminf(x, 1.0f) : 0.0f)
EMULATOR_FUNCTION(float, rsqrtf, (float x), 1.0f / sqrtf(x))
EMULATOR_FUNCTION(double, rsqrt, (double x), 1.0 / sqrt(x))

EMULATOR_FUNCTION(int, __float2int_rn, (float x), (int)lrintf(x))
EMULATOR_FUNCTION(int, __float2int_rz, (float x), (int)x)
EMULATOR_FUNCTION(int, __float2int_rd, (float x), (int)floorf(x))
EMULATOR_FUNCTION(float, __int2float_rn, (int x), (float)x)
EMULATOR_FUNCTION(float, __uint2float_rn, (unsigned x), (float)x)
EMULATOR_FUNCTION(float, __double2float_rn, (double x), (float)x)
EMULATOR_FUNCTION(long long, __double2ll_rn, (double x), llrint(x))

EMULATOR_FUNCTION(unsigned, __umulhi, (unsigned a, unsigned b),
                  (unsigned)((uint64_t)a * b >> 32))
EMULATOR_FUNCTION(int, __mulhi, (int a, int b), (int)((int64_t)a * b >> 32))
EMULATOR_FUNCTION(unsigned long long, __umul64hi, (unsigned long long a, unsigned long long b),
                  (unsigned long long)((unsigned __int128)a * b >> 64))
EMULATOR_FUNCTION(int, __popc, (unsigned x), __builtin_popcount(x))
EMULATOR_FUNCTION(int, __popcll, (unsigned long long x), __builtin_popcountll(x))
EMULATOR_FUNCTION(int, __clz, (int x), x == 0 ? 32 : __builtin_clz((unsigned)x))
EMULATOR_FUNCTION(int, __clzll, (long long x), x == 0 ? 64 : __builtin_clzll((uint64_t)x))
EMULATOR_FUNCTION(int, __ffs, (int x), __builtin_ffs(x))
EMULATOR_FUNCTION(int, __ffsll, (long long x), __builtin_ffsll(x))
EMULATOR_FUNCTION(unsigned, __funnelshift_l, (unsigned low, unsigned high, unsigned bits),
                  (unsigned)((((uint64_t)high << 32 | low) << (bits & 31u)) >> 32))
EMULATOR_FUNCTION(unsigned, __funnelshift_r, (unsigned low, unsigned high, unsigned bits),
                  (unsigned)(((uint64_t)high << 32 | low) >> (bits & 31u)))

#define EMULATOR_LOAD(name) \
    template <class T> static T name(const T *from) { return *from; }
#define EMULATOR_STORE(name) \
    template <class T> static void name(T *to, T value) { *to = value; }
EMULATOR_LOAD(__ldg) EMULATOR_LOAD(__ldcs) EMULATOR_LOAD(__ldcg) EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldlu) EMULATOR_LOAD(__ldcv)
EMULATOR_STORE(__stcs) EMULATOR_STORE(__stcg) EMULATOR_STORE(__stwb) EMULATOR_STORE(__stwt)

// Blocks and threads take turns, so that nothing comes between the reading and the writing.
#define EMULATOR_ATOMIC(name, type, result)                \
    static inline type name(type *memory, type value) {    \
        const type old = *memory;                          \
        *memory = result;                                  \
        return old;                                        \
    }
#define EMULATOR_ATOMICS(type)                                                      \
    EMULATOR_ATOMIC(atomicAdd, type, (type)(0ull + old + value))                          \
    EMULATOR_ATOMIC(atomicMin, type, value < old ? value : old)                     \
    EMULATOR_ATOMIC(atomicMax, type, value < old ? old : value)                     \
    EMULATOR_ATOMIC(atomicAnd, type, old & value)                                   \
    EMULATOR_ATOMIC(atomicOr, type, old | value)                                    \
    EMULATOR_ATOMIC(atomicXor, type, old ^ value)                                   \
    EMULATOR_ATOMIC(atomicExch, type, value)                                        \
    static inline type atomicCAS(type *memory, type expected, type value) {         \
        const type old = *memory;                                                   \
        if (old == expected) *memory = value;                                       \
        return old;                                                                 \
    }
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned)
EMULATOR_ATOMICS(unsigned long long)
// clang-format on

#endif
