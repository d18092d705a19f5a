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
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "greeting.h"
#include "histogram.h"
#include "messages.h"
#include "native.h"
#include "wire.h"

#define SOCKETS 8
#define PUBLISHERS 8
#define LATE 2
#define WINDOW 60 /* of a publisher; the gateway's is 64 */
#define MOST_AT_ONCE 256
#define SAID 4 /* messages of a session that are not acknowledged yet */
#define REPEAT_S 1.0
#define REPEATS (1 << 22)
#define BATCH 64
#define AT_A_TIME 64 /* of what is due, before what comes is looked at again */
#define SETTLE_S 5

struct said {
    uint32_t datagram, number; /* the last datagram that it went in; its number in the channel */
    uint64_t upto;             /* a DeliverAck, or 0: a Ping */
    uint32_t tries;
};

struct session {
    struct keys keys;
    uint32_t sent, next_said;       /* numbers of the next datagram, and of the next message */
    struct taken taken;
    struct channel channels[2];
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
    struct hello hello;
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
    int n = sealed_into(out, &s->keys, s->sent, payload, len);
    s->sent++;
    transmit(s->socket, out, n);
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

static void on_closed(void *who) {
    gone(who);
}

static void unexpected(const char *what) {
    fail(what);
}

static void session_told(struct session *s, const struct taken *told) {
    int kept = 0;
    for (int i = 0; i < s->n_said; i++)
        if (!tells_of(told, s->said[i].datagram)) s->said[kept++] = s->said[i];
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
            greetings[i].session = -1;
        }
}

static void on_frame(void *who, const uint8_t *at, const uint8_t *end) {
    struct session *s = who;
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
        s->owes = 1;
        break;
    }
    default: break;
    }
}

static void opened(struct session *s, int64_t number, const uint8_t *payload, int len) {
    uint8_t out[32];
    struct wants wants = {0};
    struct order order = {s->channels, sizeof s->channels / sizeof *s->channels, &s->partial, NULL};
    int n = 0;
    int is_taken = messages(s, order, payload, payload + len, &wants);
    if (wants.is_told) session_told(s, &wants.told);
    if (!is_taken) { ahead++; return; }
    take(&s->taken, number);
    if (!(wants.ack || s->owes) || s->is_lost) return;
    if (wants.ack) n = ack_into(out, &s->taken);
    if (wants.answer) {
        out[n++] = ANSWER;
        memcpy(out + n, wants.challenge, 8);
        n += 8;
    }
    if (s->owes && say(s, s->seen, out, n)) s->owes = 0;
    else if (wants.ack) datagram(s, out, n);
}

static uint32_t *place_of(const uint8_t *cid) {
    uint64_t key;
    memcpy(&key, cid, 8);
    uint32_t at = (uint32_t)(key * 0x9e3779b97f4a7c15 >> 32) & cid_mask;
    while (by_cid[at] && memcmp(sessions[by_cid[at] - 1].keys.cid, cid, 8)) at = (at + 1) & cid_mask;
    return &by_cid[at];
}

static void let_in(struct greeting *g, const uint8_t *d, int len) {
    uint8_t payload[LARGEST];
    uint32_t number;
    struct session *s = &sessions[g->session];
    int n = accepted(&g->hello, d, len, &s->keys, payload, &number);
    *place_of(s->keys.cid) = (uint32_t)g->session + 1;
    g->is_accepted = 1;
    s->sent = s->next_said = 1; /* the HELLO was 0 */
    s->taken.largest = -1;
    opened(s, number, payload, n);
}

static void came(int socket, const uint8_t *d, int len) {
    uint8_t payload[LARGEST];
    if (len < SHORT_HEAD || len > LARGEST) { bad++; return; }
    if (d[0] < 0xf0) {
        uint32_t number, at = *place_of(d);
        if (!at) return; /* it overtook its ACCEPT, and comes again */
        struct session *s = &sessions[at - 1];
        int n = opened_from(payload, &s->keys, &s->taken, d, len, &number);
        if (n == -2) repeated++;
        else if (n < 0) bad++;
        if (n < 0) return;
        opened(s, number, payload, n);
        return;
    }
    if (d[0] == RESET) {
        uint32_t at = *place_of(d + 1);
        if (at) gone(&sessions[at - 1]);
        return;
    }
    for (int i = 0; i < at_once; i++) {
        struct greeting *g = &greetings[i];
        if (g->session < 0 || g->is_accepted || !is_for(&g->hello, d, len)) continue;
        if (d[0] == REFUSED_HELLO) fail("a HELLO was refused");
        if (d[0] == ACCEPT) let_in(g, d, len);
        else if (d[0] == RETRY) {
            retried(&g->hello, d);
            transmit(socket, g->hello.datagram, LARGEST);
            g->due = now() + g->every_s;
        }
        return;
    }
}

/* ---- logins ------------------------------------------------------------------------------------------------------------ */

static void begin(struct greeting *g, int index) {
    static char *line;
    static size_t cap;
    if (getline(&line, &cap, stdin) <= 0) fail("too few credentials");
    make_hello(&g->hello, line);
    g->session = index;
    g->is_accepted = 0;
    g->due = 0;
    g->since = now();
    g->every_s = 0.5;
    sessions[index].socket = (uint8_t)(index % SOCKETS);
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
        transmit(sessions[g->session].socket, g->hello.datagram, LARGEST);
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
