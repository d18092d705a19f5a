/* What all generators need: the clock, an end with a reason, and protobuf's varints and fields. */
#ifndef WIRE_H
#define WIRE_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

static int varint(uint8_t *to, uint64_t value) {
    int n = 0;
    while (value >= 128) {
        to[n++] = (uint8_t)(value | 128);
        value >>= 7;
    }
    to[n++] = (uint8_t)value;
    return n;
}

static int read_varint(const uint8_t *from, const uint8_t *end, uint64_t *value) {
    int shift = 0, n = 0;
    *value = 0;
    while (from + n < end && n < 10) {
        *value |= (uint64_t)(from[n] & 127) << shift;
        if (!(from[n++] & 128)) return n;
        shift += 7;
    }
    return 0;
}

static int field(uint8_t *to, int number, const void *data, int len) {
    int n = varint(to, (uint64_t)number << 3 | 2);
    n += varint(to + n, (uint64_t)len);
    memcpy(to + n, data, len);
    return n + len;
}

/* Code and reason of a Bye or Refused, a line on stderr: the texts in it, and the last number. */
static void complain(const char *what, const uint8_t *at, const uint8_t *end) {
    uint64_t key, value, code = 0;
    fprintf(stderr, "%s: %s:", program_invocation_short_name, what);
    while (at < end) {
        at += read_varint(at, end, &key);
        at += read_varint(at, end, &value);
        if ((key & 7) == 0) { code = value; continue; }
        if ((key & 7) != 2 || value > (uint64_t)(end - at)) break;
        fprintf(stderr, " %.*s", (int)value, (const char *)at);
        at += value;
    }
    fprintf(stderr, " (%llu)\n", (unsigned long long)code);
}

#endif
