// Dying where the fault is found: one line that names rank, place and values, and the whole job is
// over. For what must not happen. What a user may get wrong goes through error.h instead.
#ifndef BASE_DIE_H
#define BASE_DIE_H

#ifdef __cplusplus
#define NORETURN [[noreturn]]
#else
#define NORETURN _Noreturn
#endif

// Exit codes of every command.
enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_REQUEUE = 75,  // Saved, wants to go on.
    EXIT_CONFIG = 78,   // The configuration is wrong.
};

// Prints "[rank r/n host] file:line func: message" in one write, then ends the whole job.
NORETURN void die_at(const char *file, int line, const char *func, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// Called once at start, so that base/ need not know MPI: who we are, and how to end the job.
void die_setup(int rank, int size, void (*abort_job)(int status));

// Once a thread is ending the job no other returns from this. The first to die is the one that
// speaks.
void die_join(void);

// Ends this process (and, once die_setup was called, the whole job) with `status`.
NORETURN void end_job(int status);

#define DIE(...) die_at(__FILE__, __LINE__, __func__, __VA_ARGS__)

// Always on, also in release builds. CHECK(heads > 0, "heads = %d must be positive", heads).
#define CHECK(condition, ...) \
    do {                      \
        if (!(condition)) {   \
            DIE(__VA_ARGS__); \
        }                     \
    } while (0)

#endif
