/* One connection over UDP: frames that fit into a datagram go out, any come in, in order and once.
 *
 * What is not acknowledged goes again when three later datagrams are, and after a while; what comes before its turn is kept until
 * what is missing is there. An acknowledgement waits a moment for something that it can go with. There is no pacing. */
#ifndef FLOW_H
#define FLOW_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "greeting.h"
#include "messages.h"
#include "sealed.h"
#include "wire.h"

#define NUMBERS 64 /* from the oldest message that is not acknowledged to the newest */
#define CHANNELS 64
#define MESSAGES_MOST (LARGEST - SHORT_HEAD - 16)
#define DATA_HEAD 12 /* at most */
#define FRAME_MOST (MESSAGES_MOST - ACK_LEN - DATA_HEAD)
#define GREET_S 0.5
#define AGAIN_S 0.25
#define DELAY_S 0.02
#define OVERTAKEN 3

struct unheard {
    uint32_t datagram; /* the last that it went in */
    int len, tries;    /* len 0: it was acknowledged */
    double at;
    uint8_t *frame;
};

struct flow {
    int fd;
    void *owner;
    struct hello *hello; /* until it is accepted */
    double greet_at, ack_at;
    struct keys keys;
    uint32_t sent, next, oldest; /* the next datagram, the next message, the oldest that is not acknowledged */
    struct taken taken;
    struct channel channels[CHANNELS];
    struct partial *partial;
    struct held *held;
    struct unheard unheard[NUMBERS]; /* by number % NUMBERS */
    int owed;
};

static uint64_t repeated;

static void flow_transmit(struct flow *f, const uint8_t *data, int len) {
    while (send(f->fd, data, (size_t)len, 0) < 0) {
        if (errno != EAGAIN && errno != ENOBUFS) die("send");
        usleep(50);
    }
}

static void flow_datagram(struct flow *f, const uint8_t *content, int len) {
    uint8_t out[LARGEST];
    int n = sealed_into(out, &f->keys, f->sent, content, len);
    f->sent++;
    flow_transmit(f, out, n);
}

/* The ACK that is owed. */
static int flow_ack_into(struct flow *f, uint8_t *to) {
    if (!f->owed) return 0;
    f->owed = 0;
    return ack_into(to, &f->taken);
}

static int flow_data_into(struct flow *f, uint8_t *to, uint32_t number) {
    struct unheard *u = &f->unheard[number % NUMBERS];
    int at = 0;
    to[at++] = DATA;
    to[at++] = 0;
    at += varint(to + at, number);
    at += varint(to + at, (uint64_t)u->len);
    memcpy(to + at, u->frame, (size_t)u->len);
    u->datagram = f->sent;
    u->at = now();
    return at + u->len;
}

/* Frames, each behind a varint of its length, as on a stream. How many bytes of them went: not all while too much is on its way. */
static int flow_send(struct flow *f, const uint8_t *frames, int len) {
    int done = 0;
    while (done < len && !f->hello && f->next - f->oldest < NUMBERS) {
        uint8_t content[MESSAGES_MOST];
        int n = flow_ack_into(f, content);
        while (done < len && f->next - f->oldest < NUMBERS) {
            uint64_t size;
            int head = read_varint(frames + done, frames + len, &size);
            if (size > FRAME_MOST) unexpected("a frame is too large for a datagram");
            if (n + DATA_HEAD + (int)size > MESSAGES_MOST) break;
            struct unheard *u = &f->unheard[f->next % NUMBERS];
            *u = (struct unheard){.len = (int)size, .frame = malloc(size)};
            memcpy(u->frame, frames + done + head, size);
            n += flow_data_into(f, content + n, f->next++);
            done += head + (int)size;
        }
        flow_datagram(f, content, n);
    }
    return done;
}

static void flow_again(struct flow *f, uint32_t number) {
    uint8_t content[MESSAGES_MOST];
    int n = flow_ack_into(f, content);
    f->unheard[number % NUMBERS].tries++;
    repeated++;
    flow_datagram(f, content, n + flow_data_into(f, content + n, number));
}

static void flow_told(struct flow *f, const struct taken *told) {
    for (uint32_t number = f->oldest; number != f->next; number++) {
        struct unheard *u = &f->unheard[number % NUMBERS];
        if (!u->len) continue;
        if (tells_of(told, u->datagram)) {
            free(u->frame);
            u->len = 0;
        } else if ((int64_t)u->datagram + OVERTAKEN <= told->largest)
            flow_again(f, number);
    }
    while (f->oldest != f->next && !f->unheard[f->oldest % NUMBERS].len) f->oldest++;
}

static void flow_opened(struct flow *f, uint32_t number, const uint8_t *content, int len) {
    struct wants wants = {0};
    struct order order = {f->channels, CHANNELS, &f->partial, &f->held};
    int is_next = number == f->taken.largest + 1;
    int is_taken = messages(f, order, content, content + len, &wants);
    if (wants.is_told) flow_told(f, &wants.told);
    if (!is_taken) return;
    take(&f->taken, number);
    if (wants.ack) f->ack_at = f->owed++ || !is_next ? 0 : now() + DELAY_S;
    if (wants.answer) {
        uint8_t answer[ACK_LEN + 9];
        int n = flow_ack_into(f, answer);
        answer[n++] = ANSWER;
        memcpy(answer + n, wants.challenge, 8);
        flow_datagram(f, answer, n + 8);
    }
}

static void flow_greet(struct flow *f) {
    flow_transmit(f, f->hello->datagram, LARGEST);
    f->greet_at = now() + GREET_S;
}

/* `credentials`: as `make_hello` takes them. */
static void flow_begin(struct flow *f, int fd, void *owner, char *credentials) {
    f->fd = fd;
    f->owner = owner;
    f->sent = f->next = f->oldest = 1; /* the HELLO was 0 */
    f->taken.largest = -1;
    f->hello = malloc(sizeof *f->hello);
    make_hello(f->hello, credentials);
    flow_greet(f);
}

static void flow_came(struct flow *f, const uint8_t *d, int len) {
    uint8_t content[LARGEST];
    uint32_t number;
    int n;
    if (len < SHORT_HEAD || len > LARGEST) return;
    if (d[0] == RESET) unexpected("the gateway does not know a connection any more");
    if (f->hello) {
        if (!is_for(f->hello, d, len)) return; /* a datagram that overtook its ACCEPT comes again */
        if (d[0] == REFUSED_HELLO) unexpected("a HELLO was refused");
        if (d[0] == RETRY) {
            retried(f->hello, d);
            flow_greet(f);
        } else if (d[0] == ACCEPT) {
            n = accepted(f->hello, d, len, &f->keys, content, &number);
            free(f->hello);
            f->hello = NULL;
            flow_opened(f, number, content, n);
        }
    } else if (d[0] < 0xf0) {
        n = opened_from(content, &f->keys, &f->taken, d, len, &number);
        if (n == -2 && !f->owed++) f->ack_at = 0; /* its acknowledgement was lost */
        if (n >= 0) flow_opened(f, number, content, n);
    }
}

/* What is due by `t`. */
static void flow_due(struct flow *f, double t) {
    if (f->hello) {
        if (f->greet_at <= t) flow_greet(f);
        return;
    }
    for (uint32_t number = f->oldest; number != f->next; number++) {
        const struct unheard *u = &f->unheard[number % NUMBERS];
        if (u->len && t - u->at > AGAIN_S * (1 << (u->tries < 5 ? u->tries : 5))) flow_again(f, number);
    }
    if (f->owed && f->ack_at <= t) {
        uint8_t content[ACK_LEN];
        flow_datagram(f, content, flow_ack_into(f, content));
    }
}

#endif
