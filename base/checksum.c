#include "base/checksum.h"

#include <string.h>

// One table step per byte where the processor lacks the instruction.
static uint32_t crc_byte(uint32_t crc, uint8_t byte) {
    crc ^= byte;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    return crc;
}

#ifdef __SSE4_2__
#include <nmmintrin.h>

uint32_t crc32c(uint32_t crc, const void *data, int64_t bytes) {
    const uint8_t *p = data;
    uint64_t c = crc ^ 0xffffffffu;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        c = _mm_crc32_u64(c, word);
    }
    uint32_t tail = (uint32_t)c;
    for (; bytes > 0; bytes--) tail = crc_byte(tail, *p++);
    return tail ^ 0xffffffffu;
}
#else
uint32_t crc32c(uint32_t crc, const void *data, int64_t bytes) {
    const uint8_t *p = data;
    uint32_t c = crc ^ 0xffffffffu;
    for (; bytes > 0; bytes--) c = crc_byte(c, *p++);
    return c ^ 0xffffffffu;
}
#endif
