/* Very many sessions of the native protocol over UDP, which ping now and then and get messages.
 *
 *   datagrams HOST PORT SESSIONS AT_ONCE PING_S RATE TCP_PORT SIZE TAG < credentials
 *
 * Logs the users TAG0, TAG1 … in, AT_ONCE under way at a time; a line of JSON when all are there. Then come the parts, the
 * next one at SIGUSR1, the end at SIGTERM, and after each of them a line: each session pings every PING_S seconds, evenly spread;
 * RATE messages a second are published, over TCP at TCP_PORT of the same gateway, each to one of them at random, at fixed
 * times from which latencies count; both. PING_S may be a list, 300,60: the pings are tried with each, and both with the first.
 *
 * The last LATE sessions log in at the first SIGUSR1: the gateway remembers greetings for a while, and forgets them with those
 * that follow.
 *
 * A line of credentials for each session: token, key, key id, these two in hex; before them the tokens of PUBLISHERS publishers.
 *
 * A session is its keys and a few numbers, on one of a few sockets. What it sends is sent again until it is acknowledged; what
 * comes out of turn is left for the gateway to send again. One thread, one epoll.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"
#include "native.h"
#include "sealed.h"
#include "wire.h"

#define SOCKETS 8
#define PUBLISHERS 8
#define LATE 2
#define WINDOW 60 /* of a publisher; the gateway's is 64 */
#define MOST_AT_ONCE 256
#define LARGEST 1200
#define HELLO_HEAD 78
#define HELLO_ROOM (LARGEST - HELLO_HEAD - 16)
#define SAID 4 /* messages of a session that are not acknowledged yet */
#define REPEAT_S 1.0
#define REPEATS (1 << 22)
#define BATCH 64
#define AT_A_TIME 64 /* of what is due, before what comes is looked at again */
#define SETTLE_S 5

/* What stands inside the seal. */
enum { PADDING, DATA, DATA_AFTER, FRAGMENT, ACK, CHALLENGE, ANSWER, FORGET, CLOSE, RESET_TOKEN };

struct said {
    uint32_t datagram, number; /* the last datagram that it went in; its number in the channel */
    uint64_t upto;             /* a DeliverAck, or 0: a Ping */
    uint32_t tries;
};

/* The one message that is under way in fragments: what comes of later ones is left for the gateway to send again. */
struct partial {
    uint64_t channel, number, have;
    int len[64];
    uint8_t bytes[64][LARGEST];
};

struct session {
    uint8_t cid[8], to_server[16], to_client[16];
    uint32_t sent, next_said;       /* numbers of the next datagram, and of the next message */
    int64_t largest;                /* that came */
    uint64_t taken;
    uint32_t nexts[2];              /* per channel: the message that is next */
    uint64_t epoch, seen;
    struct said said[SAID];
    struct partial *partial;
    uint8_t n_said, socket, there, is_lost, owes; /* the latter: a DeliverAck, as soon as there is room for it */
};

struct repeat {
    double at;
    uint32_t session, number;
};

struct greeting {
    int session; /* -1: free */
    EVP_PKEY *private;
    uint8_t public[32], key[16], key_id[16], hello[HELLO_ROOM], datagram[LARGEST];
    uint32_t number;
    int is_accepted;
    double due, every_s, since;
};

struct publisher {
    int fd, is_ready, left_len;
    uint64_t sent, answered;
    uint8_t left[65536];
};

static struct session *sessions;
static uint32_t *by_cid, cid_mask; /* 1 + the session's index */
static struct greeting greetings[MOST_AT_ONCE];
static struct publisher publishers[PUBLISHERS];
static struct repeat *repeats;
static uint64_t repeats_head, repeats_tail;
static int sockets[SOCKETS], n_sessions, n_wanted, n_begun, n_there, n_under_way, at_once, size, epoll_fd;
static uint64_t pings, pongs, unheard, sent, answered, received, again, repeated, lost, ahead, bad;
static struct histogram logins, latencies;
static volatile sig_atomic_t over, next_part;
static uint8_t body[4096];
static char run_id[16];
static const char *tag;

static void fail(const char *what) {
    fprintf(stderr, "datagrams: %s\n", what);
    exit(1);
}

/* ---- datagrams of a session ------------------------------------------------------------------------------------------ */

static void transmit(int socket, const uint8_t *data, int len) {
    while (send(sockets[socket], data, (size_t)len, 0) < 0) {
        if (errno != EAGAIN && errno != ENOBUFS) return; /* as if it were lost */
        usleep(50);
    }
}

static void datagram(struct session *s, const uint8_t *payload, int len) {
    uint8_t out[LARGEST];
    uint32_t number = htonl(s->sent);
    memcpy(out, s->cid, 8);
    memcpy(out + 8, &number, 4);
    seal(out + 12, s->to_server, s->sent++, out, 12, payload, len);
    transmit(s->socket, out, 12 + len + 16);
}

static int ack_into(uint8_t *to, const struct session *s) {
    uint32_t largest = htonl((uint32_t)s->largest);
    uint64_t map = htobe64(s->taken);
    to[0] = ACK;
    memcpy(to + 1, &largest, 4);
    memcpy(to + 5, &map, 8);
    return 13;
}

static int said_into(uint8_t *to, const struct session *s, const struct said *said) {
    uint8_t content[192], frame[224];
    char name[64];
    sprintf(name, "user:%s%d", tag, (int)(s - sessions));
    int n = said->upto ? field(frame, DELIVER_ACK, content, acknowledge_into(content, name, s->epoch, said->upto))
                       : field(frame, PING, content, 0);
    int at = 0;
    to[at++] = DATA;
    to[at++] = 0;
    at += varint(to + at, said->number);
    at += varint(to + at, (uint64_t)n);
    memcpy(to + at, frame, (size_t)n);
    return at + n;
}

static void repeat(const struct session *s, uint32_t number) {
    if (repeats_tail - repeats_head == REPEATS) fail("the gateway acknowledges nothing");
    repeats[repeats_tail++ % REPEATS] = (struct repeat){now() + REPEAT_S, (uint32_t)(s - sessions), number};
}

/* A Ping (upto 0) or a DeliverAck, with what else is to say; nothing, if too much is on its way. */
static int say(struct session *s, uint64_t upto, const uint8_t *before, int before_len) {
    uint8_t payload[320];
    if (s->n_said == SAID) return 0;
    struct said *said = &s->said[s->n_said++];
    *said = (struct said){s->sent, s->next_said++, upto, 0};
    if (before_len) memcpy(payload, before, (size_t)before_len);
    datagram(s, payload, before_len + said_into(payload + before_len, s, said));
    repeat(s, said->number);
    return 1;
}

static void repeat_due(void) {
    for (double t = now(); repeats_head < repeats_tail && repeats[repeats_head % REPEATS].at <= t; repeats_head++) {
        struct repeat due = repeats[repeats_head % REPEATS];
        struct session *s = &sessions[due.session];
        uint8_t payload[320];
        for (int i = 0; i < s->n_said && !s->is_lost; i++) {
            struct said *said = &s->said[i];
            if (said->number != due.number) continue;
            repeat(s, due.number);
            said->tries++;
            if (said->tries & (said->tries - 1)) continue; /* after 1, 2, 4 … seconds */
            said->datagram = s->sent;
            datagram(s, payload, said_into(payload, s, said));
            repeated++;
        }
    }
}

/* ---- what comes ------------------------------------------------------------------------------------------------------- */

static void gone(struct session *s) {
    if (s->is_lost) return;
    s->is_lost = 1;
    lost++;
    n_there -= s->there;
}

static void acknowledged(struct session *s, const uint8_t *at) {
    uint32_t largest;
    uint64_t map;
    memcpy(&largest, at, 4);
    memcpy(&map, at + 4, 8);
    largest = ntohl(largest);
    map = be64toh(map);
    int kept = 0;
    for (int i = 0; i < s->n_said; i++) {
        int64_t behind = (int64_t)largest - s->said[i].datagram;
        if (!(behind == 0 || (behind > 0 && behind <= 64 && map >> (behind - 1) & 1))) s->said[kept++] = s->said[i];
    }
    s->n_said = (uint8_t)kept;
}

static void entry(void *who, uint64_t seq, double due_s) {
    struct session *s = who;
    if (seq <= s->seen) { again++; return; }
    s->seen = seq;
    received++;
    count(&latencies, now() - due_s);
}

static void welcomed(struct session *s) {
    if (s->there) return;
    s->there = 1;
    n_there++;
    n_under_way--;
    for (int i = 0; i < at_once; i++)
        if (greetings[i].session == (int)(s - sessions)) {
            count(&logins, now() - greetings[i].since);
            EVP_PKEY_free(greetings[i].private);
            greetings[i].session = -1;
        }
}

/* One frame; 1 if the mailbox has moved. */
static int frame(struct session *s, const uint8_t *at, const uint8_t *end) {
    uint64_t key, len;
    at += read_varint(at, end, &key);
    at += read_varint(at, end, &len);
    switch (key >> 3) {
    case WELCOME: welcomed(s); break;
    case PONG: pongs++; break;
    case BYE: gone(s); break;
    case DELIVER: {
        struct range range = delivered_range(at, end, entry, s);
        s->epoch = range.epoch;
        if (range.upto > s->seen) s->seen = range.upto;
        return 1;
    }
    default: break;
    }
    return 0;
}

/* A message's fragment, in its turn; as `frame` when it was the last that was missing. */
static int fragment(struct session *s, uint64_t channel, uint64_t number, int index, int last, const uint8_t *at, int len) {
    static uint8_t whole[64 * LARGEST];
    struct partial *p = s->partial;
    int n = 0;
    if (!p || p->channel != channel || p->number != number) {
        free(p);
        p = s->partial = calloc(1, sizeof *p);
        p->channel = channel;
        p->number = number;
    }
    if (index > last || last > 63 || len > LARGEST) fail("a fragment outside its message");
    p->have |= (uint64_t)1 << index;
    p->len[index] = len;
    memcpy(p->bytes[index], at, (size_t)len);
    if (p->have != (last == 63 ? ~(uint64_t)0 : ((uint64_t)1 << (last + 1)) - 1)) return 0;
    for (int i = 0; i <= last; n += p->len[i++]) memcpy(whole + n, p->bytes[i], (size_t)p->len[i]);
    free(p);
    s->partial = NULL;
    s->nexts[channel]++;
    return frame(s, whole, whole + n);
}

/* All messages of a datagram. 0: one is ahead of its turn, and the datagram was not taken. */
static int messages(struct session *s, const uint8_t *at, const uint8_t *end, int *answers, int *moved, uint8_t *challenge) {
    uint64_t channel, number, barrier, len;
    while (at < end) {
        switch (*at++) {
        case PADDING: break;
        case ACK: acknowledged(s, at); at += 12; break;
        case RESET_TOKEN: *answers = 1; at += 16; break;
        case CHALLENGE: *answers = 2; memcpy(challenge, at, 8); at += 8; break;
        case ANSWER: at += 8; break;
        case CLOSE: gone(s); at += 2; break;
        case FORGET:
            at += read_varint(at, end, &channel);
            at += read_varint(at, end, &number);
            *answers = 1;
            if (channel < 2 && s->nexts[channel] < number) s->nexts[channel] = (uint32_t)number;
            break;
        case DATA:
        case DATA_AFTER:
        case FRAGMENT: {
            int kind = at[-1], index = 0, last = 0;
            barrier = 0;
            at += read_varint(at, end, &channel);
            at += read_varint(at, end, &number);
            if (kind != DATA) at += read_varint(at, end, &barrier);
            if (kind == FRAGMENT) index = *at++, last = *at++;
            at += read_varint(at, end, &len);
            *answers = 1;
            if (channel > 1) fail("a session has more than one log");
            if (number > s->nexts[channel] || barrier > s->nexts[0]) { ahead++; return 0; }
            if (number == s->nexts[channel] && kind == FRAGMENT) *moved |= fragment(s, channel, number, index, last, at, (int)len);
            else if (number == s->nexts[channel]) {
                s->nexts[channel]++;
                *moved |= frame(s, at, at + len);
            }
            at += len;
            break;
        }
        default: fail("a message of a kind that is not expected");
        }
    }
    return 1;
}

static void opened(struct session *s, int64_t number, const uint8_t *payload, int len) {
    uint8_t out[32], challenge[8];
    int answers = 0, moved = 0, n;
    if (!messages(s, payload, payload + len, &answers, &moved, challenge)) return;
    if (number > s->largest) {
        int64_t by = number - s->largest;
        s->taken = s->largest < 0 || by > 64 ? 0 : by == 64 ? (uint64_t)1 << 63 : (s->taken << 1 | 1) << (by - 1);
        s->largest = number;
    } else
        s->taken |= (uint64_t)1 << (s->largest - number - 1);
    if (moved) s->owes = 1;
    if (!(answers || s->owes) || s->is_lost) return;
    n = answers ? ack_into(out, s) : 0;
    if (answers == 2) {
        out[n++] = ANSWER;
        memcpy(out + n, challenge, 8);
        n += 8;
    }
    if (s->owes && say(s, s->seen, out, n)) s->owes = 0;
    else if (answers) datagram(s, out, n);
}

static uint32_t *place_of(const uint8_t *cid) {
    uint64_t key;
    memcpy(&key, cid, 8);
    uint32_t at = (uint32_t)(key * 0x9e3779b97f4a7c15 >> 32) & cid_mask;
    while (by_cid[at] && memcmp(sessions[by_cid[at] - 1].cid, cid, 8)) at = (at + 1) & cid_mask;
    return &by_cid[at];
}

static void hello(struct greeting *g, const uint8_t *cookie) {
    uint8_t key[16], *d = g->datagram;
    uint32_t number = htonl(g->number);
    d[0] = 0xf1;
    d[1] = 1;
    memcpy(d + 2, g->key_id, 16);
    memcpy(d + 18, g->public, 32);
    memcpy(d + 50, cookie, 24);
    memcpy(d + 74, &number, 4);
    derive(key, g->key, 16, g->public, "hello");
    seal(d + HELLO_HEAD, key, g->number, d, HELLO_HEAD, g->hello, HELLO_ROOM);
    g->due = 0;
}

static void accepted(struct greeting *g, const uint8_t *d, int len) {
    uint8_t shared[32 + 16], hashed[16 + 32 + 32 + 8], salt[32], payload[LARGEST];
    size_t shared_len = 32;
    uint32_t number;
    struct session *s = &sessions[g->session];
    EVP_PKEY *theirs = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, d + 18, 32);
    EVP_PKEY_CTX *exchange = EVP_PKEY_CTX_new(g->private, NULL);
    if (!theirs || EVP_PKEY_derive_init(exchange) <= 0 || EVP_PKEY_derive_set_peer(exchange, theirs) <= 0
        || EVP_PKEY_derive(exchange, shared, &shared_len) <= 0)
        fail("no shared secret");
    EVP_PKEY_CTX_free(exchange);
    EVP_PKEY_free(theirs);
    memcpy(shared + 32, g->key, 16);
    memcpy(hashed, g->key_id, 16);
    memcpy(hashed + 16, g->public, 32);
    memcpy(hashed + 48, d + 18, 32);
    memcpy(hashed + 80, d + 10, 8);
    SHA256(hashed, sizeof hashed, salt);
    derive(s->to_server, shared, 48, salt, "c2s");
    derive(s->to_client, shared, 48, salt, "s2c");
    memcpy(s->cid, d + 10, 8);
    *place_of(s->cid) = (uint32_t)g->session + 1;
    memcpy(&number, d + 50, 4);
    number = ntohl(number);
    int n = unseal(payload, s->to_client, number, d, 54, d + 54, len - 54);
    if (n < 0) fail("an ACCEPT does not open");
    g->is_accepted = 1;
    s->sent = s->next_said = 1; /* the HELLO was 0 */
    s->largest = -1;
    opened(s, number, payload, n);
}

static void came(int socket, const uint8_t *d, int len) {
    uint8_t payload[LARGEST];
    if (len < 12) { bad++; return; }
    if (d[0] < 0xf0) {
        uint32_t number, at = *place_of(d);
        if (!at) return; /* it overtook its ACCEPT, and comes again */
        struct session *s = &sessions[at - 1];
        memcpy(&number, d + 8, 4);
        number = ntohl(number);
        int64_t behind = s->largest - (int64_t)number;
        if (behind == 0 || behind > 64 || (behind > 0 && s->taken >> (behind - 1) & 1)) { repeated++; return; }
        int n = unseal(payload, s->to_client, number, d, 12, d + 12, len - 12);
        if (n < 0) { bad++; return; }
        opened(s, number, payload, n);
        return;
    }
    if (d[0] == 0xf5) {
        uint32_t at = *place_of(d + 1);
        if (at) gone(&sessions[at - 1]);
        return;
    }
    for (int i = 0; i < at_once; i++) {
        struct greeting *g = &greetings[i];
        if (g->session < 0 || g->is_accepted || memcmp(g->public, d + 2, 8)) continue;
        if (d[0] == 0xf4) fail("a HELLO was refused");
        if (d[0] == 0xf3) accepted(g, d, len);
        else if (d[0] == 0xf2) {
            g->number++;
            hello(g, d + 10);
            transmit(socket, g->datagram, LARGEST);
            g->due = now() + g->every_s;
        }
        return;
    }
}

/* ---- logins ------------------------------------------------------------------------------------------------------------ */

static void hex(uint8_t *to, const char *text) {
    for (int i = 0; i < 16; i++)
        if (sscanf(text + 2 * i, "%2hhx", &to[i]) != 1) fail("a line of credentials is none");
}

static void begin(struct greeting *g, int index) {
    static char *line;
    static size_t cap;
    static const uint8_t no_cookie[24];
    uint8_t content[4096], frame_bytes[4096];
    char *key, *key_id;
    size_t len = 32;
    if (getline(&line, &cap, stdin) <= 0 || !(key = strchr(line, ' ')) || !(key_id = strchr(key + 1, ' '))) fail("too few credentials");
    *key = 0;
    memset(g, 0, sizeof *g);
    g->session = index;
    g->since = now();
    g->every_s = 0.5;
    hex(g->key, key + 1);
    hex(g->key_id, key_id + 1);
    if (!(g->private = EVP_PKEY_Q_keygen(NULL, NULL, "X25519"))) fail("no key");
    EVP_PKEY_get_raw_public_key(g->private, g->public, &len);
    int n = field(frame_bytes, HELLO, content, hello_into(content, line, NULL, 0)), at = 0;
    if (n > HELLO_ROOM - 8) fail("a token is too long");
    g->hello[at++] = DATA;
    g->hello[at++] = 0;
    g->hello[at++] = 0;
    at += varint(g->hello + at, (uint64_t)n);
    memcpy(g->hello + at, frame_bytes, (size_t)n);
    sessions[index].socket = (uint8_t)(index % SOCKETS);
    hello(g, no_cookie);
    n_under_way++;
}

static void greet(void) {
    double t = now();
    for (int i = 0; i < at_once; i++) {
        struct greeting *g = &greetings[i];
        if (g->session < 0) {
            if (n_begun == n_wanted) continue;
            begin(g, n_begun++);
        }
        if (g->is_accepted || t < g->due) continue; /* once accepted, the gateway sees to it that Welcome comes */
        transmit(sessions[g->session].socket, g->datagram, LARGEST);
        g->due = t + g->every_s;
        g->every_s = g->every_s * 1.5 < 2 ? g->every_s * 1.5 : 2;
    }
}

static void turn(double timeout_s);

static void log_in(int wanted) {
    n_wanted = wanted;
    while (n_there < n_wanted) {
        greet();
        turn(0.01);
        repeat_due();
        if (lost) fail("a session was closed while others log in");
    }
}

/* ---- publishers --------------------------------------------------------------------------------------------------------- */

static void tcp_frame(struct publisher *p, int number, const uint8_t *content, int len) {
    uint8_t out[8192], head[8];
    int n = field(out + 8, number, content, len), h = varint(head, (uint64_t)n);
    memcpy(out + 8 - h, head, (size_t)h);
    if (send(p->fd, out + 8 - h, (size_t)(h + n), MSG_NOSIGNAL) != h + n) fail("a publisher cannot send");
}

static void publish(double due_s) {
    uint8_t out[8192];
    char id[64], name[64];
    struct publisher *p = &publishers[sent % PUBLISHERS];
    sprintf(id, "%s-%llx", run_id, (unsigned long long)sent++);
    sprintf(name, "user:%s%d", tag, (int)(random() % n_sessions));
    p->sent++;
    tcp_frame(p, PUBLISH, out, publish_into(out, id, name, due_s, body, size));
}

static void tcp_readable(struct publisher *p) {
    ssize_t n = recv(p->fd, p->left + p->left_len, sizeof p->left - (size_t)p->left_len, 0);
    if (n <= 0) fail("a publisher was sent away");
    p->left_len += (int)n;
    int at = 0;
    for (uint64_t len, key;;) {
        int head = read_varint(p->left + at, p->left + p->left_len, &len);
        if (!head || at + head + (int)len > p->left_len) break;
        read_varint(p->left + at + head, p->left + p->left_len, &key);
        if (key >> 3 == WELCOME) p->is_ready = 1;
        else if (key >> 3 == PUBLISH_ACK) p->answered++, answered++;
        else if (key >> 3 == PING) tcp_frame(p, PONG, body, 0);
        else if (key >> 3 == BYE) fail("a publisher was sent away");
        at += head + (int)len;
    }
    memmove(p->left, p->left + at, (size_t)(p->left_len -= at));
}

static void connect_publishers(struct sockaddr_in to, int port) {
    char *line = NULL;
    size_t cap = 0;
    uint8_t content[4096];
    to.sin_port = htons((uint16_t)port);
    for (int i = 0; i < PUBLISHERS; i++) {
        struct publisher *p = &publishers[i];
        int one = 1;
        if (getline(&line, &cap, stdin) <= 0) fail("too few credentials");
        line[strcspn(line, "\n")] = 0;
        p->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&to, sizeof to) < 0) die("connect");
        setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)(SOCKETS + i)};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->fd, &event);
        tcp_frame(p, HELLO, content, hello_into(content, line, NULL, 0));
        while (!p->is_ready) turn(0.01);
    }
    free(line);
}

/* ---- the loop ------------------------------------------------------------------------------------------------------------ */

static void hear(int socket) {
    static uint8_t in[BATCH][2048];
    static struct iovec parts[BATCH];
    static struct mmsghdr got[BATCH];
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){in[i], sizeof in[i]};
        got[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int n = recvmmsg(sockets[socket], got, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < n; i++) came(socket, in[i], (int)got[i].msg_len);
}

static void turn(double timeout_s) {
    struct epoll_event events[SOCKETS + PUBLISHERS];
    struct timespec timeout = {0, (long)(timeout_s * 1e9)};
    int n = epoll_pwait2(epoll_fd, events, SOCKETS + PUBLISHERS, &timeout, NULL);
    for (int i = 0; i < n; i++) {
        uint32_t which = events[i].data.u32;
        if (which < SOCKETS) hear((int)which);
        else tcp_readable(&publishers[which - SOCKETS]);
    }
}

static void report(double seconds) {
    const struct { const char *name; uint64_t value; } all[] = {
        {"lost", lost}, {"pings", pings}, {"pongs", pongs}, {"unheard", unheard}, {"sent", sent}, {"answered", answered},
        {"received", received}, {"again", again}, {"repeated", repeated}, {"ahead", ahead}, {"bad", bad},
    };
    printf("{\"seconds\": %.3f, \"sessions\": %d, ", seconds, n_there);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) printf("\"%s\": %llu, ", all[i].name, (unsigned long long)all[i].value);
    print_latencies(stdout, &latencies);
    printf("}\n");
    fflush(stdout);
}

static void ping(int index) {
    struct session *s = &sessions[index];
    if (!s->there || s->is_lost) return;
    if (say(s, 0, NULL, 0)) pings++;
    else unheard++;
}

/* What is under way at its end belongs to a part. */
static void settle(double began) {
    double t = now();
    while ((received < sent || pongs < pings) && now() < t + SETTLE_S) {
        repeat_due();
        turn(0.001);
    }
    report(t - began);
    forget(&latencies);
}

static void steady(const char *every, double rate) {
    const double first_ping_s = atof(every);
    double began = now(), ping_s = first_ping_s;
    uint64_t due = 0, pinged = 0;
    int pinging = 1, publishing = 0;
    while (!over) {
        double t = now();
        if (next_part) {
            next_part = 0;
            if (publishing) pinging = 1;
            else if ((every = strchr(every, ','))) ping_s = atof(++every);
            else pinging = 0, publishing = 1;
            if (publishing && pinging) ping_s = first_ping_s;
            settle(began);
            if (n_wanted < n_sessions) log_in(n_sessions);
            t = began = now();
            due = pinged = 0;
        }
        if (pinging && ping_s)
            for (int most = AT_A_TIME; most && began + (double)pinged * ping_s / n_sessions <= t; pinged++, most--)
                ping((int)(pinged % (uint64_t)n_sessions));
        if (publishing && rate)
            for (int most = AT_A_TIME; most && began + (double)due / rate <= t; due++, most--) {
                struct publisher *p = &publishers[sent % PUBLISHERS];
                if (p->sent - p->answered >= WINDOW) break; /* it goes later, and counts from when it was due */
                publish(began + (double)due / rate);
            }
        repeat_due();
        turn(0.0005);
    }
    settle(began);
}

static void told(int number) {
    if (number == SIGTERM) over = 1;
    else next_part = 1;
}

int main(int argc, char **argv) {
    if (argc != 10) { fprintf(stderr, "usage: see the source\n"); return 2; }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    n_sessions = atoi(argv[3]);
    at_once = atoi(argv[4]);
    size = atoi(argv[8]);
    tag = argv[9];
    if (at_once > MOST_AT_ONCE || size < NUMBER_BYTES || size > 1000) fail("too many at once, or the size is wrong");
    sessions = calloc((size_t)n_sessions, sizeof *sessions);
    for (cid_mask = 1; cid_mask < 2 * (uint32_t)n_sessions; cid_mask *= 2) {}
    by_cid = calloc(cid_mask--, sizeof *by_cid);
    repeats = malloc(REPEATS * sizeof *repeats);
    for (int i = 0; i < at_once; i++) greetings[i].session = -1;
    memset(body, 'x', sizeof body);
    sprintf(run_id, "%08x", (unsigned)(now() * 1e6));
    sealing();
    epoll_fd = epoll_create1(0);
    for (int i = 0; i < SOCKETS; i++) {
        struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)i)};
        int bytes = 4 << 20;
        sockets[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        setsockopt(sockets[i], SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
        if (bind(sockets[i], (struct sockaddr *)&from, sizeof from) < 0) die("bind");
        if (connect(sockets[i], (struct sockaddr *)&to, sizeof to) < 0) die("connect");
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sockets[i], &event);
    }
    signal(SIGTERM, told);
    signal(SIGUSR1, told);
    double rate = atof(argv[6]), began;
    if (rate) connect_publishers(to, atoi(argv[7]));
    began = now();
    log_in(n_sessions > LATE ? n_sessions - LATE : n_sessions);
    printf("{\"ready\": %d, \"seconds\": %.3f, \"rate\": %.0f, ", n_there, now() - began, n_there / (now() - began));
    print_latencies(stdout, &logins);
    printf("}\n");
    fflush(stdout);
    steady(argv[5], rate);
    return 0;
}
