// Time that only goes forward, for measuring. Never for anything that reaches a checkpoint.
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

// Seconds since some fixed moment.
double clock_seconds(void);

// Seconds since 1970, for logs.
double clock_wall(void);

void clock_sleep(double seconds);

#endif
