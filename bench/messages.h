/* What stands inside the seal of a datagram: the order of messages, their fragments, and which datagrams came.
 *
 * Whoever includes this defines what a frame and an end mean to it. */
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
#define FRAGMENTS 64 /* of a message, at most */
#define HELD 64      /* messages that wait for an earlier one, and */
#define PARTIAL 4    /* for more of their fragments: as many as with the gateway, which has no more of the latter on their way */

static void on_frame(void *who, const uint8_t *at, const uint8_t *end);
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

static struct taken ack_from(const uint8_t *at) {
    uint32_t largest;
    uint64_t map;
    memcpy(&largest, at, 4);
    memcpy(&map, at + 4, 8);
    return (struct taken){ntohl(largest), be64toh(map)};
}

/* An ACK tells of this datagram. */
static int tells_of(const struct taken *t, uint32_t datagram) {
    int64_t behind = t->largest - datagram;
    return behind == 0 || (behind > 0 && behind <= 64 && t->map >> (behind - 1) & 1);
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

/* The message that a channel hands over next, and what will not come: what is missing below `forgotten`. */
struct channel {
    uint32_t next, forgotten;
};

/* A message with its place. */
struct numbered {
    uint32_t channel, number, barrier;
    int len;
    const uint8_t *at;
};

/* A message of which some fragments are there. */
struct partial {
    struct partial *next;
    uint32_t channel, number, barrier;
    int last, len[FRAGMENTS];
    uint64_t have;
    uint8_t bytes[FRAGMENTS][LARGEST];
};

/* One that came before its turn. */
struct held {
    struct held *next;
    struct numbered message;
    uint8_t bytes[];
};

/* Which messages are next, and what waits for others. `held` NULL: a whole message before its turn is left for the gateway to
 * send again. */
struct order {
    struct channel *channels;
    uint32_t n_channels;
    struct partial **partial;
    struct held **held;
};

/* What a datagram wants: an ACK, an ANSWER; and what it told of ours, if it had an ACK. */
struct wants {
    int ack, answer, is_told;
    uint8_t challenge[8];
    struct taken told;
};

/* Where this one is linked, if it is held: else NULL. */
static struct held **held_at(struct order o, uint32_t channel, uint32_t number) {
    struct held **at = o.held;
    while (at && *at && ((*at)->message.channel != channel || (*at)->message.number != number)) at = &(*at)->next;
    return at && *at ? at : NULL;
}

/* Keep it until it is its turn. 0: there is no room. */
static int hold(struct order o, const struct numbered *m) {
    int count = 0;
    if (!o.held) return 0;
    if (held_at(o, m->channel, m->number)) return 1;
    for (const struct held *h = *o.held; h; h = h->next) count++;
    if (count == HELD) return 0;
    struct held *new = malloc(sizeof *new + (size_t)m->len);
    new->next = *o.held;
    new->message = *m;
    memcpy(new->bytes, m->at, (size_t)m->len);
    *o.held = new;
    return 1;
}

/* What waited in this channel; if it is channel 0, also what waited behind a barrier. */
static void release(void *who, struct order o, uint32_t channel) {
    struct channel *c = &o.channels[channel];
    for (;;) {
        struct held **at = held_at(o, channel, c->next), *h;
        if (at) {
            h = *at;
            if (h->message.barrier > o.channels[0].next) break;
            *at = h->next;
            c->next++;
            on_frame(who, h->bytes, h->bytes + h->message.len);
            free(h);
        } else if (c->next < c->forgotten)
            c->next++;
        else
            break;
    }
    for (uint32_t other = 1; !channel && other < o.n_channels; other++) release(who, o, other);
}

/* A message, handed over if it is its turn, with what waited for it. 0: there is no room to hold it. */
static int data(void *who, struct order o, const struct numbered *m) {
    struct channel *c = &o.channels[m->channel];
    if (m->number < c->next) return 1;
    if (m->number > c->next || m->barrier > o.channels[0].next) return hold(o, m);
    c->next++;
    on_frame(who, m->at, m->at + m->len);
    if (o.held && *o.held) release(who, o, m->channel);
    return 1;
}

/* Fragment `index` of a message, and the message with the last that was missing. 0: there is no room for it. */
static int fragment(void *who, struct order o, const struct numbered *m, int index, int last) {
    static uint8_t whole[FRAGMENTS * LARGEST];
    const struct channel *c = &o.channels[m->channel];
    struct partial **at = o.partial, *p;
    int count = 0, n = 0;
    if (index > last || last < 1 || last >= FRAGMENTS || m->len > LARGEST) unexpected("a fragment outside its message");
    if (m->number < c->next || m->number < c->forgotten || held_at(o, m->channel, m->number)) return 1;
    for (; (p = *at) && (p->channel != m->channel || p->number != m->number); at = &p->next) count++;
    if (!p) {
        if (count == PARTIAL) return 0;
        p = *at = calloc(1, sizeof *p);
        p->channel = m->channel;
        p->number = m->number;
        p->barrier = m->barrier;
        p->last = last;
    }
    if (p->last != last || p->barrier != m->barrier) unexpected("fragments of one message that differ about it");
    if (p->have >> index & 1) return 1;
    p->have |= (uint64_t)1 << index;
    p->len[index] = m->len;
    memcpy(p->bytes[index], m->at, (size_t)m->len);
    if (p->have != ~(uint64_t)0 >> (63 - last)) return 1;
    for (int i = 0; i <= last; n += p->len[i++]) memcpy(whole + n, p->bytes[i], (size_t)p->len[i]);
    struct numbered all = {p->channel, p->number, p->barrier, n, whole};
    if (!data(who, o, &all)) {
        p->have &= ~((uint64_t)1 << index);
        return 0;
    }
    *at = p->next;
    free(p);
    return 1;
}

/* Wait no longer for what is missing of a channel below `upto`; what waited for it is handed over. */
static void pass_over(void *who, struct order o, uint32_t channel, uint32_t upto) {
    struct channel *c = &o.channels[channel];
    struct partial **at = o.partial, *p;
    if (upto <= c->next || upto <= c->forgotten) return;
    c->forgotten = upto;
    while ((p = *at)) {
        if (p->channel != channel || p->number >= upto) { at = &p->next; continue; }
        *at = p->next;
        free(p);
    }
    release(who, o, channel);
}

/* `len` bytes, and on to what follows them. */
static const uint8_t *read_bytes(const uint8_t **at, const uint8_t *end, uint32_t len) {
    const uint8_t *from = *at;
    if (len > (uint64_t)(end - from)) unexpected("a message that its datagram cuts off");
    *at += len;
    return from;
}

static uint32_t read_number(const uint8_t **at, const uint8_t *end) {
    uint64_t value;
    int n = read_varint(*at, end, &value);
    if (!n) unexpected("a message that its datagram cuts off");
    if (value > UINT32_MAX) unexpected("a number that no message here has");
    *at += n;
    return (uint32_t)value;
}

static uint32_t read_channel(const uint8_t **at, const uint8_t *end, struct order o) {
    uint32_t channel = read_number(at, end);
    if (channel >= o.n_channels) unexpected("a channel that is none here");
    return channel;
}

/* All messages of a datagram. 0: one is ahead of its turn and cannot be kept: the datagram was not taken. */
static int messages(void *who, struct order o, const uint8_t *at, const uint8_t *end, struct wants *wants) {
    while (at < end) {
        int kind = *at++;
        switch (kind) {
        case PADDING: break;
        case ACK: wants->told = ack_from(read_bytes(&at, end, 12)); wants->is_told = 1; break;
        case RESET_TOKEN: read_bytes(&at, end, 16); wants->ack = 1; break;
        case CHALLENGE: memcpy(wants->challenge, read_bytes(&at, end, 8), 8); wants->ack = wants->answer = 1; break;
        case ANSWER: read_bytes(&at, end, 8); break;
        case CLOSED: read_bytes(&at, end, 2); on_closed(who); break;
        case FORGET: {
            uint32_t channel = read_channel(&at, end, o);
            pass_over(who, o, channel, read_number(&at, end));
            wants->ack = 1;
            break;
        }
        case DATA:
        case DATA_AFTER:
        case FRAGMENT: {
            struct numbered m = {.channel = read_channel(&at, end, o)};
            const uint8_t *part = NULL;
            m.number = read_number(&at, end);
            if (kind != DATA) m.barrier = read_number(&at, end);
            if (kind == FRAGMENT) part = read_bytes(&at, end, 2);
            uint32_t len = read_number(&at, end);
            m.at = read_bytes(&at, end, len);
            m.len = (int)len;
            wants->ack = 1;
            if (!(part ? fragment(who, o, &m, part[0], part[1]) : data(who, o, &m))) return 0;
            break;
        }
        default: unexpected("a message of a kind that is not expected");
        }
    }
    return 1;
}

#endif
