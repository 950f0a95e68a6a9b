// Stand-in for CUDA's vector types, for C and C++.
#ifndef TESTS_EMULATOR_VECTOR_TYPES_H
#define TESTS_EMULATOR_VECTOR_TYPES_H

// clang-format off
#define EMULATOR_VECTORS(type, name)                                                            \
    typedef struct __attribute__((aligned(2 * sizeof(type)))) { type x, y; } name##2;           \
    typedef struct { type x, y, z; } name##3;                                                   \
    typedef struct __attribute__((aligned(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16))) {    \
        type x, y, z, w;                                                                        \
    } name##4;                                                                                  \
    static inline name##2 make_##name##2(type x, type y) {                                      \
        const name##2 v = {x, y};                                                               \
        return v;                                                                               \
    }                                                                                           \
    static inline name##3 make_##name##3(type x, type y, type z) {                              \
        const name##3 v = {x, y, z};                                                            \
        return v;                                                                               \
    }                                                                                           \
    static inline name##4 make_##name##4(type x, type y, type z, type w) {                      \
        const name##4 v = {x, y, z, w};                                                         \
        return v;                                                                               \
    }
// clang-format on

EMULATOR_VECTORS(signed char, char)
EMULATOR_VECTORS(unsigned char, uchar)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(unsigned short, ushort)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(unsigned, uint)
EMULATOR_VECTORS(long long, longlong)
EMULATOR_VECTORS(unsigned long long, ulonglong)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)

#ifdef __cplusplus
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
#else
typedef struct {
    unsigned x, y, z;
} dim3;
#endif

#endif
