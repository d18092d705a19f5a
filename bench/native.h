/* The native protocol's frames, as far as sessions that publish, receive and acknowledge need them. */
#ifndef NATIVE_H
#define NATIVE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

#define NUMBER_BYTES 16 /* of a body: in hex, the nanoseconds at which it was to be sent */
#define BODY 5          /* of Message */

enum { PUBLISH = 1, PUBLISH_ACK, DELIVER, DELIVER_ACK, PING, PONG, HELLO, WELCOME, REFUSED = 20, BYE };

static int number_field(uint8_t *to, int number, uint64_t value) {
    int n = varint(to, (uint64_t)number << 3);
    return n + varint(to + n, value);
}

/* `point`: where it was in its mailbox, or 0 bytes. */
static int hello_into(uint8_t *to, const char *token, const uint8_t *point, int point_len) {
    int n = field(to, 1, token, (int)strlen(token));
    n += field(to + n, 2, "bench", 5);
    return point_len ? n + field(to + n, 7, point, point_len) : n;
}

static int point_into(uint8_t *to, const char *address, uint64_t epoch, uint64_t seq) {
    int n = field(to, 1, address, (int)strlen(address));
    n += number_field(to + n, 3, epoch);
    return n + number_field(to + n, 4, seq);
}

/* `body` has `size` bytes, the first of which become `due_s`. */
static int publish_into(uint8_t *to, const char *id, const char *address, double due_s, uint8_t *body, int size) {
    char text[NUMBER_BYTES + 1];
    sprintf(text, "%016llx", (unsigned long long)(due_s * 1e9));
    memcpy(body, text, NUMBER_BYTES);
    int n = field(to, 1, id, (int)strlen(id));
    n += field(to + n, 2, address, (int)strlen(address));
    return n + field(to + n, 4, body, size);
}

static int acknowledge_into(uint8_t *to, const char *address, uint64_t epoch, uint64_t upto) {
    uint8_t acked[160];
    int n = field(acked, 1, address, (int)strlen(address));
    n += number_field(acked + n, 2, epoch);
    n += number_field(acked + n, 3, upto);
    return field(to, 1, acked, n);
}

/* When the message in an entry was to be sent. */
static double due_of(const uint8_t *at, const uint8_t *end) {
    char text[NUMBER_BYTES + 1] = "";
    for (uint64_t wanted = 2, key, value; at < end;) { /* Entry.message, Message.body */
        at += read_varint(at, end, &key);
        at += read_varint(at, end, &value);
        if ((key & 7) != 2) continue;
        if (key >> 3 != wanted) at += value;
        else if (wanted == BODY) {
            memcpy(text, at, value < NUMBER_BYTES ? value : NUMBER_BYTES);
            return (double)strtoull(text, NULL, 16) / 1e9;
        } else
            end = at + value, wanted = BODY;
    }
    return 0;
}

struct range {
    uint64_t epoch, after, upto;
};

/* A Deliver; `each` is called for every entry in it. */
static struct range delivered_range(const uint8_t *at, const uint8_t *end, void (*each)(void *, uint64_t seq, double due_s), void *who) {
    struct range range = {0, 0, 0};
    for (uint64_t key, value, seq; at < end;) {
        at += read_varint(at, end, &key);
        at += read_varint(at, end, &value);
        if ((key & 7) == 2) at += value;
        if (key >> 3 == 3) range.epoch = value;
        else if (key >> 3 == 4) range.after = value;
        else if (key >> 3 == 5) range.upto = value;
        else if (key >> 3 == 6) {
            const uint8_t *in = at - value;
            in += read_varint(in, at, &seq); /* the key of Entry.seq */
            read_varint(in, at, &seq);
            each(who, seq, due_of(at - value, at));
        }
    }
    return range;
}

#endif
