// UTF-8, in which all texts are that leave the program: JSON and YAML hold nothing else. Local.
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stdint.h>

// The bytes of the character that begins text[0, bytes), and which it is; 0 where none does: a
// stray or missing byte, more bytes than needed, a surrogate, beyond U+10FFFF.
int utf8_read(uint32_t *character, const char *text, int64_t bytes);

// The first byte of text[0, bytes) that is no UTF-8, or -1.
int64_t utf8_fault(const char *text, int64_t bytes);

// Whether a character prints nothing but tells a terminal something (C0, DEL, C1).
static inline bool utf8_is_control(uint32_t character) {
    return character < ' ' || (character >= 0x7f && character < 0xa0);
}

#endif
