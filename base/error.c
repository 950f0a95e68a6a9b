#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

bool error_set(Error *error, const char *format, ...) {
    if (error == NULL) return false;
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    return false;
}

void problems_add(Problems *problems, const char *format, ...) {
    const int i = problems->count++;
    if (i >= PROBLEMS_MAX) return;
    va_list args;
    va_start(args, format);
    vsnprintf(problems->text[i], sizeof(problems->text[i]), format, args);
    va_end(args);
}

void problems_print(const Problems *problems, const char *what) {
    for (int i = 0; i < problems->count && i < PROBLEMS_MAX; i++) {
        fprintf(stderr, "%s\n", problems->text[i]);
    }
    fprintf(stderr, "%d error%s in %s; nothing was started\n", problems->count,
            problems->count == 1 ? "" : "s", what);
}
