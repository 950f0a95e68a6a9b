#include "base/utf8.h"

int utf8_read(uint32_t *character, const char *text, int64_t bytes) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (bytes < 1) return 0;
    const uint8_t first = (uint8_t)text[0];
    const int length = first < 0x80           ? 1
                       : (first >> 5) == 0x06 ? 2
                       : (first >> 4) == 0x0e ? 3
                       : (first >> 3) == 0x1e ? 4
                                              : 0;
    if (length == 0 || length > bytes) return 0;
    uint32_t value = length == 1 ? first : first & (0x7fu >> length);
    for (int i = 1; i < length; i++) {
        const uint8_t next = (uint8_t)text[i];
        if (next >> 6 != 2) return 0;
        value = value << 6 | (next & 0x3f);
    }
    if (value < least[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) return 0;
    *character = value;
    return length;
}

int64_t utf8_fault(const char *text, int64_t bytes) {
    uint32_t character;
    for (int64_t at = 0; at < bytes;) {
        const int length = utf8_read(&character, text + at, bytes - at);
        if (length == 0) return at;
        at += length;
    }
    return -1;
}
