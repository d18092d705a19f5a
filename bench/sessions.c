/* Very many sessions of the native protocol over TCP: logins, sessions that stay, and a storm of them.
 *
 *   sessions serve PORT                                   the baseline: takes whoever greets, and says nothing else
 *   sessions login HOST PORT COUNT AT_ONCE stay|leave < tokens     logs COUNT in, AT_ONCE under way at a time
 *   sessions hold HOST PORT COUNT AT_ONCE RATE SIZE EVERY_S TAG < tokens
 *
 * hold: the users TAG0 … stay logged in, acknowledge what comes, and send a Ping as often as Welcome asks. The first token is
 * a publisher's, which sends RATE messages a second, each to one of them at random; the second is of TAG0. A line of JSON when
 * all are there, one every EVERY_S seconds, and for each signal one when it is done:
 *
 *   SIGUSR2   one message to each, which is not acknowledged, so that there is something to resume
 *   SIGHUP    what was not acknowledged is
 *   SIGUSR1   all connections are dropped at once, and all come back at once, each with where it was: when all are there, and
 *             have that message again
 *   SIGTERM   the end
 *
 * Whom the gateway closes is `lost`, or `refused` if it had no Welcome yet, and comes again after a second.
 *
 * A line of `tokens` for each session; a user who is not TAG0 … has his name after it. One thread, one epoll. Connections come
 * from 64 loopback addresses, for one has 28,000 ports.
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

#include "histogram.h"
#include "native.h"
#include "wire.h"

#define SOURCES 64
#define BACKLOG 4096
#define CATCH_UP_S 30
#define SETTLE_S 5
#define CONNECTS 64 /* in one turn: what arrives meanwhile is not to wait for thousands of them */

struct session {
    int fd;
    enum { AWAY, CONNECTING, GREETED, THERE } state;
    int left_len;
    uint8_t *left; /* an unfinished frame */
    char *token, *name; /* name: NULL: by its number */
    uint64_t epoch, seen, acked; /* up to where it has the messages, and has acknowledged them */
    double since, spoke;         /* away: when it may come */
    int asked, keeps;            /* a Ping is not answered yet; what came is not to be acknowledged */
};

static struct sockaddr_in gateway;
static struct session *sessions, publisher;
static int n_sessions, n_there, n_under_way, staying, holding, at_once, size, epoll_fd;
static uint64_t refused, lost, sent, answered, received, again, caught_up, missed, gaps, pings, unheard;
static double heartbeat_s = 30, stormed_at;
static struct histogram logins, latencies, recent;
static volatile sig_atomic_t over, storm, everybody, catch_up;
static uint8_t body[65536];
static char run_id[16];
static const char *tag = "s";

static void transmit(struct session *s, const uint8_t *data, int len) {
    while (len) {
        ssize_t n = send(s->fd, data, (size_t)len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) { usleep(100); continue; }
        if (n < 0) return; /* it is gone, and epoll says so */
        data += n;
        len -= (int)n;
    }
}

static void frame(struct session *s, int number, const uint8_t *content, int len) {
    uint8_t out[70000], *at = out + 16;
    int n = field(at, number, content, len);
    uint8_t head[8];
    int h = varint(head, (uint64_t)n);
    memcpy(at - h, head, (size_t)h);
    transmit(s, at - h, h + n);
    s->spoke = now();
}

static void name_of(char *to, const struct session *s) {
    if (s->name) sprintf(to, "user:%.50s", s->name);
    else sprintf(to, "user:%s%d", tag, (int)(s - sessions));
}

static void hello(struct session *s) {
    uint8_t out[4096], point[128];
    char name[64];
    int len = 0;
    if (s->epoch && s != &publisher) {
        name_of(name, s);
        len = point_into(point, name, s->epoch, s->acked);
    }
    frame(s, HELLO, out, hello_into(out, s->token, point, len));
    s->state = GREETED;
}

static void acknowledge(struct session *s) {
    uint8_t out[192];
    char name[64];
    name_of(name, s);
    frame(s, DELIVER_ACK, out, acknowledge_into(out, name, s->epoch, s->acked));
}

/* To one session, due at `due`; 0: it is not to be acknowledged. */
static void publish(int index, double due) {
    uint8_t out[70000];
    char id[64], name[64];
    sprintf(id, "%s-%llx", run_id, (unsigned long long)sent++);
    name_of(name, &sessions[index]);
    frame(&publisher, PUBLISH, out, publish_into(out, id, name, due, body, size));
}

/* ---- connections ---------------------------------------------------------------------------------------------------- */

static void watch(struct session *s, uint32_t events, int how) {
    struct epoll_event event = {.events = events, .data.ptr = s};
    epoll_ctl(epoll_fd, how, s->fd, &event);
}

static void begin(struct session *s) {
    struct sockaddr_in from = {.sin_family = AF_INET};
    int one = 1;
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (s == &publisher ? 0 : (uint32_t)(s - sessions) % SOURCES));
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (s->fd < 0) die("socket");
    if (holding) setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* who only greets needs none */
    setsockopt(s->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(s->fd, (struct sockaddr *)&from, sizeof from) < 0) die("bind");
    s->since = stormed_at ? stormed_at : now();
    s->state = CONNECTING;
    s->asked = 0;
    n_under_way++;
    if (connect(s->fd, (struct sockaddr *)&gateway, sizeof gateway) < 0 && errno != EINPROGRESS) die("connect");
    watch(s, EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD);
}

static void leave(struct session *s) {
    if (s->state == THERE) n_there--;
    else n_under_way--;
    close(s->fd);
    free(s->left);
    s->left = NULL;
    s->left_len = 0;
    s->state = AWAY;
}

static void gone(struct session *s) {
    if (!holding || s == &publisher) { fprintf(stderr, "sessions: the server closed a connection\n"); exit(1); }
    if (s->state == THERE) lost++;
    else refused++;
    leave(s);
    s->since = now() + 1;
}

static void welcomed(struct session *s, const uint8_t *at, const uint8_t *end) {
    if (s->state != GREETED) return;
    for (uint64_t key, value; at < end; at += value) {
        at += read_varint(at, end, &key);
        if ((key & 7) == 1) {
            if (key >> 3 == 5) memcpy(&heartbeat_s, at, 8);
            value = 8;
            continue;
        }
        at += read_varint(at, end, &value);
        if ((key & 7) != 2) { value = 0; continue; }
        if (key >> 3 != 9) continue; /* Resumed: of the mailbox, for there is no room */
        uint64_t what, number, epoch = 0, position = 0, gap = 0;
        for (const uint8_t *in = at, *stop = at + value; in < stop;) {
            in += read_varint(in, stop, &what);
            in += read_varint(in, stop, &number);
            if ((what & 7) == 2) in += number;
            else if (what >> 3 == 3) epoch = number;
            else if (what >> 3 == 4) position = number;
            else if (what >> 3 == 6) gap = number;
        }
        if (!s->epoch) s->epoch = epoch, s->seen = s->acked = position;
        else gaps += gap || epoch != s->epoch || position != s->acked;
    }
    s->state = THERE;
    n_under_way--;
    n_there++;
    count(&logins, now() - s->since);
    if (!staying) {
        leave(s);
        n_there++; /* it was */
        s->since = 1e18;
    }
}

static void entry(void *who, uint64_t seq, double due) {
    struct session *s = who;
    if (seq <= s->seen) {
        again++;
        caught_up += !due;
        return;
    }
    s->seen = seq;
    received++;
    if (due) count(&latencies, now() - due), count(&recent, now() - due);
    else s->keeps = 1;
}

static void deliver(struct session *s, const uint8_t *at, const uint8_t *end) {
    uint64_t before = s->seen;
    s->keeps = 0;
    struct range range = delivered_range(at, end, entry, s);
    missed += range.after > before;
    if (range.upto > s->seen) s->seen = range.upto;
    if (s->keeps) return;
    s->acked = s->seen;
    acknowledge(s);
}

static void got(struct session *s, const uint8_t *at, const uint8_t *end) {
    static int said;
    uint64_t key, len;
    at += read_varint(at, end, &key);
    at += read_varint(at, end, &len);
    switch (key >> 3) {
    case WELCOME: welcomed(s, at, end); break;
    case PUBLISH_ACK: answered++; break;
    case DELIVER: deliver(s, at, end); break;
    case PING: frame(s, PONG, (const uint8_t *)"", 0); break;
    case PONG: s->asked = 0; break;
    case REFUSED: case BYE: if (said++ < 3) complain(key >> 3 == BYE ? "Bye" : "Refused", at, end); break;
    default: break;
    }
}

static void readable(struct session *s) {
    static uint8_t in[1 << 18];
    if (s->left_len) memcpy(in, s->left, (size_t)s->left_len);
    ssize_t n = recv(s->fd, in + s->left_len, sizeof in - (size_t)s->left_len, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { gone(s); return; }
    int len = s->left_len + (int)n, at = 0;
    for (uint64_t whole; s->state != AWAY;) {
        int head = read_varint(in + at, in + len, &whole);
        if (!head || at + head + (int64_t)whole > len) break;
        got(s, in + at + head, in + at + head + whole);
        at += head + (int)whole;
    }
    if (s->state == AWAY) return;
    if (at == len) free(s->left), s->left = NULL;
    else s->left = memcpy(realloc(s->left, (size_t)(len - at)), in + at, (size_t)(len - at));
    s->left_len = len - at;
}

static void turn(double timeout_s) {
    static struct epoll_event events[256];
    struct timespec timeout = {0, (long)(timeout_s * 1e9)};
    int n = epoll_pwait2(epoll_fd, events, 256, &timeout, NULL);
    for (int i = 0; i < n; i++) {
        struct session *s = events[i].data.ptr;
        if (s->state == AWAY) continue;
        if (s->state == CONNECTING && events[i].events & EPOLLOUT) {
            watch(s, EPOLLIN, EPOLL_CTL_MOD);
            hello(s);
        }
        if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) readable(s);
    }
}

/* Those that are away come, so many at a time. */
static void come(void) {
    static int next;
    if (n_there + n_under_way == n_sessions) return;
    double t = now();
    for (int looked = 0, begun = 0; looked < n_sessions && begun < CONNECTS && n_under_way < at_once; looked++) {
        struct session *s = &sessions[next++ % n_sessions];
        next %= n_sessions;
        if (s->state == AWAY && s->since <= t) begin(s), begun++;
    }
}

static void log_in(void) {
    while (n_there < n_sessions) {
        come();
        turn(0.01);
    }
}

static void heartbeats(void) {
    double t = now();
    for (int i = 0; i < n_sessions; i++) {
        struct session *s = &sessions[i];
        if (s->state != THERE || t - s->spoke < heartbeat_s - 0.2) continue;
        unheard += (uint64_t)s->asked;
        s->asked = 1;
        pings++;
        frame(s, PING, (const uint8_t *)"", 0);
    }
}

/* ---- what is done with them ----------------------------------------------------------------------------------------- */

static void print_line(double at, const struct histogram *h) {
    const struct { const char *name; uint64_t value; } all[] = {
        {"lost", lost}, {"refused", refused}, {"sent", sent}, {"answered", answered}, {"received", received}, {"again", again},
        {"missed", missed}, {"gaps", gaps}, {"pings", pings}, {"unheard", unheard},
    };
    printf("{\"at_s\": %.2f, \"sessions\": %d, ", at, n_there);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) printf("\"%s\": %llu, ", all[i].name, (unsigned long long)all[i].value);
    print_latencies(stdout, h);
    printf("}\n");
    fflush(stdout);
}

static void drop_all(void) {
    forget(&logins);
    stormed_at = now();
    caught_up = 0;
    for (int i = 0; i < n_sessions; i++)
        if (sessions[i].state != AWAY) leave(&sessions[i]);
    at_once = n_sessions;
}

static void hold(double rate, double every_s) {
    double began = now(), said = began, looked = began, back_s = 0, t;
    uint64_t due = 0, before = 0;
    int telling = 0, told = 0, kept = 0; /* kept: so many have a message that they have not acknowledged */
    while (!over) {
        t = now();
        if (storm) {
            storm = 0;
            drop_all();
        }
        if (everybody) {
            everybody = told = 0;
            telling = 1;
            before = received;
        }
        for (; telling && told < n_sessions && sent - answered < 32; told++) publish(told, 0);
        for (; rate && began + (double)due / rate <= t && sent - answered < 64; due++)
            publish((int)(random() % n_sessions), began + (double)due / rate);
        if (catch_up) {
            catch_up = kept = 0;
            for (int i = 0; i < n_sessions; i++)
                if (sessions[i].state == THERE && sessions[i].acked < sessions[i].seen) {
                    sessions[i].acked = sessions[i].seen;
                    acknowledge(&sessions[i]);
                }
            printf("{\"acknowledged\": %d}\n", n_there);
            fflush(stdout);
        }
        come();
        turn(rate || telling ? 0.001 : 0.02);
        if (t - looked >= 0.1) {
            looked = t;
            heartbeats();
        }
        if (telling && told == n_sessions && sent == answered && received - before >= (uint64_t)told) {
            telling = 0;
            kept = told;
            printf("{\"told\": %d}\n", told);
            fflush(stdout);
        }
        if (stormed_at && n_there == n_sessions) {
            if (!back_s) back_s = t - stormed_at;
            if (caught_up >= (uint64_t)kept || t - stormed_at - back_s > CATCH_UP_S) {
                printf("{\"back_s\": %.3f, \"caught_up\": %llu, \"caught_up_s\": %.3f, \"refused\": %llu, \"lost\": %llu, \"gaps\": %llu, ",
                       back_s, (unsigned long long)caught_up, t - stormed_at, (unsigned long long)refused, (unsigned long long)lost,
                       (unsigned long long)gaps);
                print_latencies(stdout, &logins);
                printf("}\n");
                fflush(stdout);
                stormed_at = back_s = 0;
                kept = 0;
            }
        }
        if (every_s && t - said >= every_s) {
            said = t;
            print_line(t - began, &recent);
            forget(&recent);
        }
    }
    for (double until = now() + SETTLE_S; (received < sent || answered < sent) && now() < until;) turn(0.02);
    print_line(now() - began, &latencies);
}

/* Takes whoever greets; the answer is as long as a Welcome. */
static void serve(int port) {
    static struct epoll_event events[512];
    static uint8_t in[8192], content[512], answer[640];
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&at, sizeof at) < 0 || listen(listening, BACKLOG) < 0) die("listen");
    int inner = field(content, 1, in, 160), n = varint(answer, (uint64_t)(inner + 3));
    n += field(answer + n, WELCOME, content, inner);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listening};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listening, &event);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listening) {
                if (recv(fd, in, sizeof in, 0) <= 0) close(fd);
                else if (send(fd, answer, (size_t)n, MSG_NOSIGNAL) < 0) close(fd);
                continue;
            }
            while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.data.fd = fd;
                epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}

static char *token_line(void) {
    char *line = NULL;
    size_t cap = 0;
    if (getline(&line, &cap, stdin) <= 0) { fprintf(stderr, "sessions: too few tokens\n"); exit(1); }
    line[strcspn(line, "\n")] = 0;
    return line;
}

static void told(int number) {
    if (number == SIGTERM) over = 1;
    else if (number == SIGUSR1) storm = 1;
    else if (number == SIGHUP) catch_up = 1;
    else everybody = 1;
}

int main(int argc, char **argv) {
    epoll_fd = epoll_create1(0);
    if (argc == 3 && !strcmp(argv[1], "serve")) { serve(atoi(argv[2])); return 0; }
    holding = argc == 10 && !strcmp(argv[1], "hold");
    if (!holding && !(argc == 7 && !strcmp(argv[1], "login"))) { fprintf(stderr, "usage: see the source\n"); return 2; }
    gateway.sin_family = AF_INET;
    gateway.sin_port = htons((uint16_t)atoi(argv[3]));
    inet_pton(AF_INET, argv[2], &gateway.sin_addr);
    n_sessions = atoi(argv[4]);
    at_once = atoi(argv[5]);
    staying = holding || !strcmp(argv[6], "stay");
    memset(body, 'x', sizeof body);
    sprintf(run_id, "%08x", (unsigned)(now() * 1e6));
    sessions = calloc((size_t)n_sessions, sizeof *sessions);
    if (holding) publisher.token = token_line();
    for (int i = 0; i < n_sessions; i++) {
        sessions[i].token = token_line();
        if ((sessions[i].name = strchr(sessions[i].token, ' '))) *sessions[i].name++ = 0;
    }
    signal(SIGTERM, told);
    signal(SIGUSR1, told);
    signal(SIGUSR2, told);
    signal(SIGHUP, told);
    if (holding) {
        size = atoi(argv[7]);
        tag = argv[9];
        if (size < NUMBER_BYTES || size > (int)sizeof body) { fprintf(stderr, "sessions: the size is wrong\n"); return 2; }
        begin(&publisher);
        while (publisher.state != THERE) turn(0.01);
        n_there = 0;
    }
    double began = now();
    log_in();
    printf("{\"ready\": %d, \"seconds\": %.3f, \"rate\": %.0f, ", n_there, now() - began, n_there / (now() - began));
    print_latencies(stdout, &logins);
    printf("}\n");
    fflush(stdout);
    if (holding) hold(atof(argv[6]), atof(argv[8]));
    else while (!over) turn(0.1);
    return 0;
}
