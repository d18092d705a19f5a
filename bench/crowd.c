/* A crowd in one room: N members who read, one who publishes, and if wanted a pair of bystanders.
 *
 *   crowd native|websocket HOST PORT MEMBERS SIZE SECONDS RATE PAIR < tokens   (publisher, [sender, receiver,] members)
 *   crowd raw|autobahn HOST PORT MEMBERS SIZE SECONDS                           (baselines: no login)
 *   crowd serve HOST PORT MEMBERS SIZE                       (the bare loop: one send() of SIZE bytes to each member)
 *
 * RATE 0: closed loop: the next message goes when all members have the one before; else so many a second. What counts is
 * what the members received. The same program reads for all servers. One thread, one epoll.
 *
 * Prints one JSON object.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "websocket.h"
#include "wire.h"

#define LATENCIES (1 << 22)

struct peer {
    int fd, ready, upgraded;
    uint8_t *left; /* an unfinished frame */
    int left_len, left_cap;
};

static enum { NATIVE, WEBSOCKET, RAW, AUTOBAHN } mode;
static struct peer *peers;
static int members, size, pair, n_ready, epoll_fd, first; /* peers[first..] are the members */
static uint64_t entries, deliveries, bytes, published, pair_got;
static uint8_t body[65536];
static char run_id[16];
static uint64_t pair_epoch, pair_upto;

static void send_all(struct peer *p, const uint8_t *data, int len) {
    while (len) {
        ssize_t n = send(p->fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) { usleep(100); continue; }
        if (n < 0) die("send");
        data += n;
        len -= (int)n;
    }
}

static void send_message(struct peer *p, const uint8_t *data, int len) {
    uint8_t out[70000], *to = client_head(out, len);
    memcpy(to, data, len);
    mask(to, len);
    send_all(p, out, (int)(to - out) + len);
}

static void frame(struct peer *p, int number, const uint8_t *content, int len) {
    uint8_t out[70000], whole[70000];
    int n = field(out, number, content, len);
    if (mode == WEBSOCKET) { send_message(p, out, n); return; }
    int at = varint(whole, (uint64_t)n);
    memcpy(whole + at, out, n);
    send_all(p, whole, at + n);
}

static void hello(struct peer *p, const char *token) {
    uint8_t out[4096];
    int n = field(out, 1, token, (int)strlen(token));
    n += field(out + n, 2, "bench", 5);
    frame(p, 7, out, n);
}

static void publish(struct peer *p, const char *to, int qos) {
    uint8_t out[70000];
    char text[64];
    int n = field(out, 1, text, sprintf(text, "%s-%llx", run_id, (unsigned long long)++published));
    n += field(out + n, 2, to, (int)strlen(to));
    n += field(out + n, 4, body, size);
    out[n++] = 5 << 3;
    out[n++] = (uint8_t)qos;
    frame(p, 1, out, n);
}

static void pair_ack(void) {
    uint8_t acked[64], out[80];
    int n = field(acked, 1, "user:pair1", 10);
    acked[n++] = 2 << 3;
    n += varint(acked + n, pair_epoch);
    acked[n++] = 3 << 3;
    n += varint(acked + n, pair_upto);
    frame(&peers[2], 4, out, field(out, 1, acked, n));
}

static void ready(struct peer *p) {
    if (!p->ready) { p->ready = 1; n_ready++; }
}

static void got(struct peer *p, const uint8_t *at, const uint8_t *end) {
    uint64_t key, len, value;
    int index = (int)(p - peers), n = read_varint(at, end, &key);
    n += read_varint(at + n, end, &len);
    at += n;
    switch (key >> 3) {
    case 8:
        if (index < first) ready(p);
        else {
            uint8_t out[64];
            frame(p, 11, out, field(out, 1, "room:bench", 10));
        }
        break;
    case 12: ready(p); break;
    case 3:
        if (index >= first) deliveries++;
        while (at < end) {
            at += read_varint(at, end, &key);
            at += read_varint(at, end, &value);
            if ((key & 7) == 2) at += value;
            if (key >> 3 == 6 && index >= first) entries++;
            if (index == 2 && pair && key >> 3 == 3) pair_epoch = value;
            if (index == 2 && pair && key >> 3 == 5) pair_upto = value;
        }
        if (index == 2 && pair) { pair_got++; pair_ack(); }
        break;
    case 5: frame(p, 6, (const uint8_t *)"", 0); break;
    case 21: complain("Bye", at, end); exit(1);
    default: break;
    }
}

static int take(struct peer *p, const uint8_t *data, int len) { /* how much of it was whole */
    int at = 0;
    for (;;) {
        const uint8_t *from = data + at, *end = data + len;
        uint64_t size_here;
        int n;
        if (mode == RAW) {
            if (at + size > len) return at;
            at += size;
            deliveries++, entries++;
            continue;
        }
        if (mode == NATIVE) {
            n = read_varint(from, end, &size_here);
            if (!n) return at;
        } else if (!p->upgraded) {
            const uint8_t *blank = memmem(from, (size_t)(end - from), "\r\n\r\n", 4);
            if (!blank) return at;
            p->upgraded = 1;
            at = (int)(blank + 4 - data);
            continue;
        } else {
            struct message message;
            if (!message_in(from, end, &message)) return at;
            size_here = message.len;
            n = (int)(message.body - from);
        }
        if (at + n + (int64_t)size_here > len) return at;
        if (mode == AUTOBAHN) deliveries++, entries++;
        else got(p, data + at + n, data + at + n + size_here);
        at += n + (int)size_here;
    }
}

static void readable(struct peer *p) {
    static uint8_t buffer[1 << 20];
    memcpy(buffer, p->left, p->left_len);
    ssize_t n = recv(p->fd, buffer + p->left_len, sizeof buffer - p->left_len, 0);
    if (n == 0) { fprintf(stderr, "crowd: the server closed a connection\n"); exit(1); }
    if (n < 0) { if (errno == EAGAIN) return; die("recv"); }
    if (p >= peers + first) bytes += (uint64_t)n;
    int len = p->left_len + (int)n, used = take(p, buffer, len);
    p->left_len = len - used;
    if (p->left_len > p->left_cap) p->left = realloc(p->left, p->left_cap = p->left_len);
    if (p->left_len) memcpy(p->left, buffer + used, p->left_len);
}

static void turn(int timeout_ms) {
    static struct epoll_event events[1024];
    int n = epoll_wait(epoll_fd, events, 1024, timeout_ms);
    for (int i = 0; i < n; i++) readable(&peers[events[i].data.u32]);
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static void connect_all(const char *host, int port, int count) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    char *line = NULL, greeting[512];
    size_t cap = 0;
    for (int i = 0; i < count; i++) {
        struct peer *p = &peers[i];
        p->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&to, sizeof to) < 0) die("connect");
        int one = 1;
        setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->fd, &event);
        if (mode == WEBSOCKET || mode == AUTOBAHN) {
            const char *subprotocol = mode == WEBSOCKET ? "imgateway.v1.protobuf" : "";
            send_all(p, (uint8_t *)greeting, upgrade_request(greeting, sizeof greeting, host, port, "/", subprotocol));
            while (!p->upgraded) turn(1000);
        }
        if (mode == NATIVE || mode == WEBSOCKET) {
            ssize_t len = getline(&line, &cap, stdin);
            if (len <= 0) { fprintf(stderr, "crowd: too few tokens\n"); exit(1); }
            line[strcspn(line, "\n")] = 0;
            hello(p, line);
            while (n_ready < i - 100) turn(1000);
        }
    }
    double until = now() + 60;
    while ((mode == NATIVE || mode == WEBSOCKET) && n_ready < count) {
        if (now() > until) { fprintf(stderr, "crowd: %d of %d are ready\n", n_ready, count); exit(1); }
        turn(100);
    }
    free(line);
}

static void next(void) {
    if (mode == RAW) send_all(&peers[first], (const uint8_t *)"n", 1);
    else if (mode == AUTOBAHN) send_message(&peers[first], (const uint8_t *)"n", 1);
    else publish(&peers[0], "room:bench", 0);
}

static void serve(int port) {
    int listening = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&at, sizeof at) < 0 || listen(listening, 4096) < 0) die("listen");
    int *fds = calloc((size_t)members, sizeof *fds);
    for (int i = 0; i < members; i++) {
        fds[i] = accept(listening, NULL, NULL);
        if (fds[i] < 0) die("accept");
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    char word;
    while (recv(fds[0], &word, 1, 0) == 1)
        for (int i = 0; i < members; i++)
            if (send(fds[i], body, (size_t)size, MSG_NOSIGNAL) < 0) die("send");
}

int main(int argc, char **argv) {
    if (argc < 6) { fprintf(stderr, "usage: see the source\n"); return 2; }
    members = atoi(argv[4]);
    size = atoi(argv[5]);
    memset(body, 'x', sizeof body);
    if (!strcmp(argv[1], "serve")) { serve(atoi(argv[3])); return 0; }
    mode = argv[1][0] == 'n' ? NATIVE : argv[1][0] == 'w' ? WEBSOCKET : argv[1][0] == 'r' ? RAW : AUTOBAHN;
    double seconds = atof(argv[6]), rate = argc > 7 ? atof(argv[7]) : 0;
    pair = argc > 8 ? atoi(argv[8]) : 0;
    first = mode == NATIVE || mode == WEBSOCKET ? 1 + 2 * pair : 0;
    sprintf(run_id, "%08x", (unsigned)(now() * 1e6));
    peers = calloc((size_t)(first + members), sizeof *peers);
    float *latencies = malloc(LATENCIES * sizeof *latencies);
    uint64_t n_latencies = 0, asked = 0;
    epoll_fd = epoll_create1(0);
    connect_all(argv[2], atoi(argv[3]), first + members);

    double warm = now() + 1, start = 0, due = now(), pair_sent = 0;
    uint64_t base_entries = 0, base_deliveries = 0, base_bytes = 0, pair_seen = 0, rounds = 0;
    if (members) printf("{\"ready\": %d}\n", members), fflush(stdout);
    if (!rate && members) next(), rounds++;
    for (;;) {
        double t = now();
        if (!start && t >= warm) {
            start = t;
            base_entries = entries, base_deliveries = deliveries, base_bytes = bytes;
            n_latencies = 0;
        }
        if (start && t >= start + seconds) break;
        if (rate > 0 && members)
            for (; due <= t; due += 1 / rate) next();
        else if (members && entries >= rounds * (uint64_t)members) next(), rounds++;
        if (pair && (pair_got > pair_seen || !asked)) {
            if (asked && n_latencies < LATENCIES) latencies[n_latencies++] = (float)(t - pair_sent);
            pair_seen = pair_got;
            asked++;
            pair_sent = now();
            publish(&peers[1], "user:pair1", 1);
        }
        turn(rate > 0 ? 1 : 20);
    }
    double took = now() - start;
    qsort(latencies, n_latencies, sizeof *latencies, compare);
    printf("{\"deliveries\": %.0f, \"entries\": %.0f, \"bytes\": %.0f, \"frame\": %.1f, \"seconds\": %.2f",
           (deliveries - base_deliveries) / took, (entries - base_entries) / took, (bytes - base_bytes) / took,
           deliveries > base_deliveries ? (double)(bytes - base_bytes) / (deliveries - base_deliveries) : 0, took);
    if (n_latencies)
        printf(", \"pair_p50_ms\": %.2f, \"pair_p99_ms\": %.2f, \"pair_max_ms\": %.2f, \"pair_n\": %llu",
               latencies[n_latencies / 2] * 1e3, latencies[(uint64_t)(n_latencies * 0.99)] * 1e3,
               latencies[n_latencies - 1] * 1e3, (unsigned long long)n_latencies);
    printf("}\n");
    return 0;
}
