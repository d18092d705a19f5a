/* What stands inside the seal of a datagram: the order of messages, their fragments, and which datagrams came.
 *
 * Whoever includes this defines what a frame, an acknowledgement and an end mean to it. */
#ifndef MESSAGES_H
#define MESSAGES_H

#include <arpa/inet.h>
#include <endian.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "greeting.h"
#include "sealed.h"
#include "wire.h"

enum { PADDING, DATA, DATA_AFTER, FRAGMENT, ACK, CHALLENGE, ANSWER, FORGET, CLOSED, RESET_TOKEN };

#define SHORT_HEAD 12
#define ACK_LEN 13
#define HELD 320 /* as the gateway has it: 64 messages, and four in 64 fragments each */

static void on_frame(void *who, const uint8_t *at, const uint8_t *end);
static void on_ack(void *who, uint32_t largest, uint64_t map);
static void on_closed(void *who);
static void unexpected(const char *what); /* does not return */

/* The datagrams that came: the largest number, and a bit for each of the 64 before it. */
struct taken {
    int64_t largest;
    uint64_t map;
};

static int is_new(const struct taken *t, uint32_t number) {
    int64_t behind = t->largest - (int64_t)number;
    return behind < 0 || (behind > 0 && behind <= 64 && !(t->map >> (behind - 1) & 1));
}

static void take(struct taken *t, int64_t number) {
    if (number > t->largest) {
        int64_t by = number - t->largest;
        t->map = t->largest < 0 || by > 64 ? 0 : by == 64 ? (uint64_t)1 << 63 : (t->map << 1 | 1) << (by - 1);
        t->largest = number;
    } else
        t->map |= (uint64_t)1 << (t->largest - number - 1);
}

static int ack_into(uint8_t *to, const struct taken *t) {
    uint32_t largest = htonl((uint32_t)t->largest);
    uint64_t map = htobe64(t->map);
    to[0] = ACK;
    memcpy(to + 1, &largest, 4);
    memcpy(to + 5, &map, 8);
    return ACK_LEN;
}

/* An ACK tells of this datagram. */
static int tells_of(uint32_t largest, uint64_t map, uint32_t datagram) {
    int64_t behind = (int64_t)largest - datagram;
    return behind == 0 || (behind > 0 && behind <= 64 && map >> (behind - 1) & 1);
}

/* The short datagram `number` with these messages, into `out`; how many bytes. */
static int sealed_into(uint8_t *out, const struct keys *keys, uint32_t number, const uint8_t *messages, int len) {
    uint32_t ordered = htonl(number);
    memcpy(out, keys->cid, 8);
    memcpy(out + 8, &ordered, 4);
    seal(out + SHORT_HEAD, keys->to_server, number, out, SHORT_HEAD, messages, len);
    return SHORT_HEAD + len + 16;
}

/* A short datagram that is new, opened; how many bytes: -1: forged, -2: it was there before. */
static int opened_from(uint8_t *messages, const struct keys *keys, const struct taken *t, const uint8_t *d, int len, uint32_t *number) {
    memcpy(number, d + 8, 4);
    *number = ntohl(*number);
    if (!is_new(t, *number)) return -2;
    return unseal(messages, keys->to_client, *number, d, SHORT_HEAD, d + SHORT_HEAD, len - SHORT_HEAD);
}

/* The one message that is under way in fragments: what comes of later ones is left for the gateway to send again. */
struct partial {
    uint64_t channel, number, have;
    int len[64];
    uint8_t bytes[64][LARGEST];
};

/* A whole message, or a fragment of one. */
struct piece {
    uint64_t channel, number, barrier;
    int is_fragment, index, last, len;
    const uint8_t *at;
};

/* One that came before its turn. */
struct held {
    struct held *next;
    struct piece piece;
    uint8_t bytes[];
};

/* Which messages are next, of so many channels. `held` NULL: what comes before its turn is left for the gateway to send again. */
struct order {
    uint32_t *nexts;
    int channels;
    struct partial **partial;
    struct held **held;
};

/* What a datagram wants: an ACK, an ANSWER. */
struct wants {
    int ack, answer;
    uint8_t challenge[8];
};

/* A message's fragment, in its turn; the whole is handed over with the last that was missing. */
static void fragment(void *who, struct order o, uint64_t channel, uint64_t number, int index, int last, const uint8_t *at, int len) {
    static uint8_t whole[64 * LARGEST];
    struct partial *p = *o.partial;
    int n = 0;
    if (!p || p->channel != channel || p->number != number) {
        free(p);
        p = *o.partial = calloc(1, sizeof *p);
        p->channel = channel;
        p->number = number;
    }
    if (index > last || last > 63 || len > LARGEST) unexpected("a fragment outside its message");
    p->have |= (uint64_t)1 << index;
    p->len[index] = len;
    memcpy(p->bytes[index], at, (size_t)len);
    if (p->have != (last == 63 ? ~(uint64_t)0 : ((uint64_t)1 << (last + 1)) - 1)) return;
    for (int i = 0; i <= last; n += p->len[i++]) memcpy(whole + n, p->bytes[i], (size_t)p->len[i]);
    free(p);
    *o.partial = NULL;
    o.nexts[channel]++;
    on_frame(who, whole, whole + n);
}

/* Nothing has to come before it any more. */
static int is_due(struct order o, const struct piece *p) {
    return p->number < o.nexts[p->channel] || (p->number == o.nexts[p->channel] && p->barrier <= o.nexts[0]);
}

/* What is due is handed over, if it is not there already. */
static void hand_over(void *who, struct order o, const struct piece *p) {
    if (p->number < o.nexts[p->channel]) return;
    if (p->is_fragment) fragment(who, o, p->channel, p->number, p->index, p->last, p->at, p->len);
    else {
        o.nexts[p->channel]++;
        on_frame(who, p->at, p->at + p->len);
    }
}

/* Keep it until it is due. 0: it cannot be kept. */
static int hold(struct order o, const struct piece *p) {
    int count = 0;
    if (!o.held) return 0;
    for (const struct held *h = *o.held; h; h = h->next, count++)
        if (h->piece.channel == p->channel && h->piece.number == p->number && h->piece.index == p->index) return 1;
    if (count == HELD) return 0;
    struct held *new = malloc(sizeof *new + (size_t)p->len);
    new->next = *o.held;
    new->piece = *p;
    new->piece.at = memcpy(new->bytes, p->at, (size_t)p->len);
    *o.held = new;
    return 1;
}

/* What waited for the one that was missing. */
static void release(void *who, struct order o) {
    struct held **at = o.held;
    while (at && *at) {
        struct held *h = *at;
        if (!is_due(o, &h->piece)) { at = &h->next; continue; }
        *at = h->next;
        hand_over(who, o, &h->piece);
        free(h);
        at = o.held; /* others may be due now */
    }
}

/* All messages of a datagram. 0: one is ahead of its turn and cannot be kept: the datagram was not taken. */
static int messages(void *who, struct order o, const uint8_t *at, const uint8_t *end, struct wants *wants) {
    uint64_t channel, number, len;
    while (at < end) {
        switch (*at++) {
        case PADDING: break;
        case ACK: {
            uint32_t largest;
            uint64_t map;
            memcpy(&largest, at, 4);
            memcpy(&map, at + 4, 8);
            on_ack(who, ntohl(largest), be64toh(map));
            at += 12;
            break;
        }
        case RESET_TOKEN: wants->ack = 1; at += 16; break;
        case CHALLENGE: wants->ack = wants->answer = 1; memcpy(wants->challenge, at, 8); at += 8; break;
        case ANSWER: at += 8; break;
        case CLOSED: on_closed(who); at += 2; break;
        case FORGET:
            at += read_varint(at, end, &channel);
            at += read_varint(at, end, &number);
            wants->ack = 1;
            while (channel < (uint64_t)o.channels && o.nexts[channel] < number) {
                o.nexts[channel]++;
                release(who, o);
            }
            break;
        case DATA:
        case DATA_AFTER:
        case FRAGMENT: {
            struct piece p = {.is_fragment = at[-1] == FRAGMENT};
            int has_barrier = at[-1] != DATA;
            at += read_varint(at, end, &p.channel);
            at += read_varint(at, end, &p.number);
            if (has_barrier) at += read_varint(at, end, &p.barrier);
            if (p.is_fragment) p.index = *at++, p.last = *at++;
            at += read_varint(at, end, &len);
            p.at = at;
            p.len = (int)len;
            wants->ack = 1;
            if (p.channel >= (uint64_t)o.channels) unexpected("a session has more than one log");
            if (is_due(o, &p)) {
                hand_over(who, o, &p);
                release(who, o);
            } else if (!hold(o, &p)) return 0;
            at += len;
            break;
        }
        default: unexpected("a message of a kind that is not expected");
        }
    }
    return 1;
}

#endif
