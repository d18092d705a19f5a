/* Load of N pairs, each with a sender and a receiver: closed loop with W messages of a pair outstanding, or open loop.
 *
 * Closed loop: a message counts as done when its sender has the acknowledgement and its receiver has the message; only
 * then does the pair send another. The same loop speaks the native protocol, MobileIMSDK's with receipts, and MQTT 3.1.1 at QoS 1, so
 * all servers get the same load from the same program. One thread, one epoll; in C, so that the generator is not the limit.
 *
 *   pairs native|mobileimsdk|mqtt|mqtt-kept HOST PORT PAIRS WINDOW SIZE SECONDS TAG [RATE [QOS]] < tokens
 *   pairs native+websocket|mqtt+websocket|mqtt-kept+websocket HOST PORT …   the same in WebSocket's binary messages
 *   pairs idle HOST PORT SESSIONS 0 0 SECONDS TAG < tokens    (logs in, answers pings, acknowledges what it is sent)
 *
 * PORT may be a list, 7901,7902: a pair's sender is at one of them and its receiver at the next, so that every message
 * goes from one server to another. RATE: so many messages a second of all pairs, one at a time, instead of as many as go;
 * a pair whose window is full leaves its turn out.
 *
 * WINDOW 0, open loop: RATE messages a second at fixed times, whatever comes of those before. Latency counts from the time
 * at which a message should have been sent, so a server that makes the load wait has that in its figures. SIGUSR1: print
 * what was measured so far, and begin to measure anew. SIGTERM: it is over. late_p99_ms is by how much the generator was late.
 *
 * QOS 0: nothing is acknowledged; the body carries the message's number, and what is overtaken by a later one is `lost`.
 *
 * A line of `tokens` for each peer; a server that asks for none is given none. mqtt-kept: without clean session.
 *
 * The senders are the users TAGs0, TAGs1 ..., the receivers TAGr0, TAGr1 ...
 *
 * Prints one JSON object; and on stderr, when it begins to count, "measuring". `idle` prints one when all are logged in, and one
 * with what came when it is over or told to end.
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
#include "websocket.h"
#include "wire.h"
#ifdef UDP
#include "flow.h"
#else
struct flow;
#endif

#define IN_BYTES (1 << 18) /* more than the largest frame */
#define OUT_BYTES 65536
#define IDLE_BYTES 16384
#define MAX_WINDOW 64
#define ACK_EVERY 16
#define ACK_BYTES 65536 /* a quarter of what may be unacknowledged */
#define OUT_MOST (8 << 20)
#define SETTLE_S 5
#define STALL_S 1
#define NUMBER_BYTES 16
#define BODY 5 /* of Message */

struct peer {
    int fd, index, receiver, ready;
    uint8_t *in, *out;
    int in_len, out_len, out_cap;
    int upgraded, plain; /* WebSocket: `in` begins with so many bytes that are taken out of its frames */
    struct flow *flow;   /* UDP */
    /* receiver */
    uint64_t epoch, upto, acked_upto;
    int unacked, unacked_bytes;
};

struct pair {
    double sent_at[MAX_WINDOW * 2];
    uint64_t sent, acked, delivered; /* delivered: the number of the next one */
};

static enum { NATIVE, MQTT, MOBILE, IDLE } mode;
static struct peer *peers;
static struct pair *pairs;
static int n_pairs, n_peers, window, size, qos = 1, open_loop, n_ready, epoll_fd;
static uint64_t extra, received, lost;
static volatile sig_atomic_t over, anew;
static struct histogram latencies, late;
static int measuring, kept, websocket, udp;
static double rate, begin, start; /* start: when measuring begins */
static uint8_t body[65536];
static char run_id[16];
static const char *tag;

/* Closed loop: all of it, for the server reads soon. Open loop: what goes now; the rest keeps its place. */
static void flush(struct peer *p) {
    int done = 0;
#ifdef UDP
    done = flow_send(p->flow, p->out, p->out_len);
#else
    while (done < p->out_len) {
        ssize_t n = send(p->fd, p->out + done, p->out_len - done, MSG_NOSIGNAL | (open_loop ? MSG_DONTWAIT : 0));
        if (n < 0) {
            if (errno != EAGAIN) die("send");
            if (open_loop) break;
            usleep(100);
            continue;
        }
        done += (int)n;
    }
#endif
    p->out_len -= done;
    if (done && p->out_len) memmove(p->out, p->out + done, p->out_len);
}

static uint8_t *room(struct peer *p, int bytes) {
    if (p->out_len + bytes > p->out_cap) flush(p);
    if (p->out_len + bytes > p->out_cap) {
        if (p->out_cap >= OUT_MOST) { fprintf(stderr, "pairs: the server does not read at this rate\n"); exit(1); }
        p->out = realloc(p->out, p->out_cap *= 2);
    }
    return p->out + p->out_len;
}

/* Where a frame of `len` bytes is to be written, which `put` then sends on its way. */
static uint8_t *frame(struct peer *p, int len) {
    if (!websocket) return room(p, len);
    return client_head(room(p, len + HEAD_MOST), len);
}

static void put(struct peer *p, uint8_t *to, int len) {
    if (websocket) mask(to, len);
    p->out_len = (int)(to - p->out) + len;
}

static void number_body(uint64_t number) {
    char text[NUMBER_BYTES + 1];
    if (qos) return;
    sprintf(text, "%016llx", (unsigned long long)number);
    memcpy(body, text, NUMBER_BYTES);
}

static int64_t number_in(const uint8_t *payload, uint64_t len) {
    char text[NUMBER_BYTES + 1] = "";
    if (len < NUMBER_BYTES) return -1;
    memcpy(text, payload, NUMBER_BYTES);
    return (int64_t)strtoull(text, NULL, 16);
}

/* ---- native: Frame in protobuf behind a varint32 length ---------------------------------------------------------- */

static void native_frame(struct peer *p, int number, const uint8_t *content, int len) {
    uint8_t key[16], length[16];
    int n = varint(key, (uint64_t)number << 3 | 2);
    n += varint(key + n, (uint64_t)len);
    int at = websocket ? 0 : varint(length, (uint64_t)(n + len)); /* a message has its length already */
    uint8_t *to = frame(p, at + n + len);
    memcpy(to, length, at);
    memcpy(to + at, key, n);
    memcpy(to + at + n, content, len);
    put(p, to, at + n + len);
}

static void native_hello(struct peer *p, const char *token) {
    uint8_t frame[4096];
    int n = field(frame, 1, token, (int)strlen(token));
    n += field(frame + n, 2, "bench", 5);
    native_frame(p, 7, frame, n);
}

static void native_publish(struct peer *p, uint64_t number) {
    uint8_t frame[70000];
    char text[64];
    int n = field(frame, 1, text, sprintf(text, "%s-%llx", run_id, (unsigned long long)number));
    n += field(frame + n, 2, text, sprintf(text, "user:%sr%d", tag, p->index));
    number_body(number);
    n += field(frame + n, 4, body, size);
    if (!qos) { frame[n++] = 5 << 3; frame[n++] = 0; }
    native_frame(p, 1, frame, n);
}

static void native_ack(struct peer *p) {
    uint8_t acked[64], frame[80];
    char text[32];
    int number = mode == IDLE ? p->index / 2 : p->index;
    int n = field(acked, 1, text, sprintf(text, "user:%s%c%d", tag, p->receiver ? 'r' : 's', number));
    acked[n++] = 2 << 3;
    n += varint(acked + n, p->epoch);
    acked[n++] = 3 << 3;
    n += varint(acked + n, p->upto);
    native_frame(p, 4, frame, field(frame, 1, acked, n));
    p->acked_upto = p->upto;
    p->unacked = p->unacked_bytes = 0;
}

/* ---- MQTT 3.1.1 --------------------------------------------------------------------------------------------------- */

static void mqtt_packet(struct peer *p, int type, const uint8_t *content, int len) {
    uint8_t head[16] = {(uint8_t)type};
    int n = 1 + varint(head + 1, (uint64_t)len);
    uint8_t *to = frame(p, n + len);
    memcpy(to, head, n);
    memcpy(to + n, content, len);
    put(p, to, n + len);
}

static int mqtt_text(uint8_t *to, const char *text) {
    int len = (int)strlen(text);
    to[0] = (uint8_t)(len >> 8);
    to[1] = (uint8_t)len;
    memcpy(to + 2, text, len);
    return len + 2;
}

static void mqtt_connect(struct peer *p, const char *token) {
    uint8_t packet[4096];
    char id[32];
    int n = mqtt_text(packet, "MQTT");
    packet[n++] = 4;
    packet[n++] = (kept ? 0 : 2) | (token ? 0xc0 : 0); /* clean session; user name and password */
    packet[n++] = 0;
    packet[n++] = 0; /* no keepalive */
    sprintf(id, "%c%d", p->receiver ? 'r' : 's', p->index);
    n += mqtt_text(packet + n, id);
    if (token) {
        n += mqtt_text(packet + n, "");
        n += mqtt_text(packet + n, token);
    }
    mqtt_packet(p, 0x10, packet, n);
}

static void mqtt_subscribe(struct peer *p) {
    uint8_t packet[64];
    char topic[32];
    packet[0] = 0;
    packet[1] = 1;
    sprintf(topic, "user/%sr%d", tag, p->index);
    int n = 2 + mqtt_text(packet + 2, topic);
    packet[n++] = (uint8_t)qos;
    mqtt_packet(p, 0x82, packet, n);
}

static void mqtt_publish(struct peer *p, uint64_t number) {
    uint8_t packet[70000];
    char topic[32];
    sprintf(topic, "user/%sr%d", tag, p->index);
    int n = mqtt_text(packet, topic);
    if (qos) {
        uint16_t id = (uint16_t)(number % 65535 + 1);
        packet[n++] = (uint8_t)(id >> 8);
        packet[n++] = (uint8_t)id;
    }
    number_body(number);
    memcpy(packet + n, body, size);
    mqtt_packet(p, qos ? 0x32 : 0x30, packet, n + size);
}

/* ---- MobileIMSDK: JSON behind four bytes of length ----------------------------------------------------------------- */

static void mobile_packet(struct peer *p, const char *content, int len) {
    uint8_t *to = room(p, len + 4);
    to[0] = (uint8_t)(len >> 24);
    to[1] = (uint8_t)(len >> 16);
    to[2] = (uint8_t)(len >> 8);
    to[3] = (uint8_t)len;
    memcpy(to + 4, content, len);
    p->out_len += len + 4;
}

static void mobile_login(struct peer *p, const char *token) {
    static char packet[8192];
    char user[64];
    sprintf(user, "%s%c%d", tag, p->receiver ? 'r' : 's', p->index);
    mobile_packet(p, packet, snprintf(packet, sizeof packet,
        "{\"bridge\":false,\"type\":0,\"dataContent\":\"{\\\"loginUserId\\\":\\\"%s\\\",\\\"loginToken\\\":\\\"%s\\\","
        "\\\"firstLoginTime\\\":0}\",\"from\":\"%s\",\"to\":\"0\",\"QoS\":false,\"typeu\":-1,\"sm\":-1}", user, token, user));
}

static void mobile_publish(struct peer *p, uint64_t number) {
    static char packet[70000];
    mobile_packet(p, packet, snprintf(packet, sizeof packet,
        "{\"bridge\":false,\"type\":2,\"dataContent\":\"%.*s\",\"from\":\"%ss%d\",\"to\":\"%sr%d\","
        "\"fp\":\"%s-%d-%016llx\",\"QoS\":true,\"typeu\":-1,\"sm\":-1}",
        size, (const char *)body, tag, p->index, tag, p->index, run_id, p->index, (unsigned long long)number));
}

static void mobile_receipt(struct peer *p, const char *fp, int len) {
    char packet[512];
    mobile_packet(p, packet, snprintf(packet, sizeof packet,
        "{\"bridge\":false,\"type\":4,\"dataContent\":\"%.*s\",\"from\":\"%sr%d\",\"to\":\"%ss%d\",\"QoS\":false,"
        "\"typeu\":-1,\"sm\":-1}", len, fp, tag, p->index, tag, p->index));
}

/* ---- the loop ----------------------------------------------------------------------------------------------------- */

static void publish(int index) {
    struct pair *pair = &pairs[index];
    struct peer *sender = &peers[2 * index];
    if (mode == NATIVE) native_publish(sender, pair->sent);
    else if (mode == MOBILE) mobile_publish(sender, pair->sent);
    else mqtt_publish(sender, pair->sent);
    pair->sent++;
}

static void pump(int index, int most) {
    struct pair *pair = &pairs[index];
    while (most-- > 0) {
        uint64_t done = !qos || pair->acked > pair->delivered ? pair->delivered : pair->acked;
        if (pair->sent - done >= (uint64_t)window) break;
        pair->sent_at[pair->sent % (MAX_WINDOW * 2)] = now();
        publish(index);
    }
}

/* When the pair's message with this number was to be sent: the pairs take turns. */
static double due(int index, uint64_t number) {
    return begin + ((double)number * n_pairs + index) / rate;
}

/* The pair's next message is there, or, without acknowledgements, the one with this number. */
static void delivered(struct peer *p, int64_t number, double t) {
    struct pair *pair = &pairs[p->index];
    uint64_t this = number < 0 ? pair->delivered : (uint64_t)number;
    if (this >= pair->sent || this < pair->delivered) { extra++; return; }
    double since = open_loop ? due(p->index, this) : pair->sent_at[this % (MAX_WINDOW * 2)];
    if (measuring && (!open_loop || since >= start)) count(&latencies, t - since);
    lost += this - pair->delivered;
    pair->delivered = this + 1;
}

static void became_ready(struct peer *p) {
    if (!p->ready) { p->ready = 1; n_ready++; }
}

/* The number in an entry's body: Entry.message, Message.body. */
static int64_t native_number(const uint8_t *at, const uint8_t *end) {
    for (uint64_t wanted = 2; at < end;) {
        uint64_t key, value;
        at += read_varint(at, end, &key);
        at += read_varint(at, end, &value);
        if ((key & 7) != 2) continue;
        if (key >> 3 != wanted) at += value;
        else if (wanted == BODY) return number_in(at, value);
        else end = at + value, wanted = BODY;
    }
    return -1;
}

static void native_got(struct peer *p, const uint8_t *frame, const uint8_t *end) {
    uint64_t key, len, value;
    int n = read_varint(frame, end, &key);
    n += read_varint(frame + n, end, &len);
    const uint8_t *at = frame + n;
    switch (key >> 3) {
    case 8: became_ready(p); break;
    case 2: pairs[p->index].acked++; break;
    case 3: {
        int entries = 0;
        uint64_t upto = 0;
        double t = now();
        while (at < end) {
            at += read_varint(at, end, &key);
            at += read_varint(at, end, &value);
            if ((key & 7) == 2) at += value;
            if (key >> 3 == 3) p->epoch = value;
            else if (key >> 3 == 5) upto = value;
            else if (key >> 3 == 6) {
                entries++;
                if (mode == IDLE) received++;
                else delivered(p, qos ? -1 : native_number(at - value, at), t);
            }
        }
        if (!upto) break; /* outside any log: nothing to acknowledge */
        p->unacked += entries;
        p->unacked_bytes += (int)(end - frame);
        if (upto > p->upto) p->upto = upto;
        else extra += (uint64_t)entries;
        if (p->unacked >= ACK_EVERY || p->unacked_bytes >= ACK_BYTES) native_ack(p);
        break;
    }
    case 5: native_frame(p, 6, (const uint8_t *)"", 0); break;
    case 21: complain("Bye", at, end); exit(1);
    default: break;
    }
}

static int take_native(struct peer *p) {
    int at = 0;
    for (;;) {
        uint64_t len;
        int n = read_varint(p->in + at, p->in + p->plain, &len);
        if (!n || at + n + (int)len > p->plain) return at;
        native_got(p, p->in + at + n, p->in + at + n + len);
        at += n + (int)len;
    }
}

static int take_mqtt(struct peer *p) {
    int at = 0;
    for (;;) {
        if (at + 2 > p->plain) return at;
        uint64_t len;
        int n = read_varint(p->in + at + 1, p->in + p->plain, &len);
        if (!n || at + 1 + n + (int)len > p->plain) return at;
        uint8_t *content = p->in + at + 1 + n;
        switch (p->in[at] >> 4) {
        case 2:
            if (p->receiver) mqtt_subscribe(p);
            else became_ready(p);
            break;
        case 9: became_ready(p); break;
        case 4: pairs[p->index].acked++; break;
        case 3: {
            int topic = content[0] << 8 | content[1];
            if (qos) mqtt_packet(p, 0x40, content + 2 + topic, 2);
            delivered(p, qos ? -1 : number_in(content + 2 + topic, len - 2 - (uint64_t)topic), now());
            break;
        }
        default: break;
        }
        at += 1 + n + (int)len;
    }
}

static void mobile_got(struct peer *p, const char *content, int len) {
    static const char head[] = "{\"bridge\":false,\"type\":", fp_head[] = "\",\"fp\":\"";
    int type = len > (int)sizeof head ? atoi(content + sizeof head - 1) : -1;
    if (type == 50 && memmem(content, len, "\\\"code\\\":0,", 11)) became_ready(p);
    else if (type == 4) pairs[p->index].acked++;
    else if (type == 2) {
        const char *fp = memmem(content, len, fp_head, sizeof fp_head - 1);
        if (fp) {
            fp += sizeof fp_head - 1;
            mobile_receipt(p, fp, (int)strcspn(fp, "\""));
        }
        delivered(p, -1, now());
    } else {
        fprintf(stderr, "pairs: unexpected: %.*s\n", len, content);
        exit(1);
    }
}

static int take_mobile(struct peer *p) {
    int at = 0;
    for (;;) {
        const uint8_t *in = p->in + at;
        if (at + 4 > p->plain) return at;
        int len = in[0] << 24 | in[1] << 16 | in[2] << 8 | in[3];
        if (at + 4 + len > p->plain) return at;
        mobile_got(p, (const char *)in + 4, len);
        at += 4 + len;
    }
}

/* ---- WebSocket ---------------------------------------------------------------------------------------------------- */

static void upgrade(struct peer *p, const char *host, int port) {
    uint8_t *to = room(p, 512);
    p->out_len += upgrade_request((char *)to, 512, host, port, mode == MQTT ? "/mqtt" : "/",
                                  mode == MQTT ? "mqtt" : "imgateway.v1.protobuf");
}

/* What is whole of `in` without WebSocket's frames, and with their lengths as the native stream has them. */
static void unframe(struct peer *p) {
    uint8_t *to = p->in + p->plain;
    const uint8_t *at = to, *end = p->in + p->in_len;
    if (!p->upgraded) {
        const uint8_t *blank = memmem(at, (size_t)(end - at), "\r\n\r\n", 4);
        if (!blank) return;
        if (end - at < 12 || memcmp(at + 8, " 101", 4)) {
            fprintf(stderr, "pairs: no WebSocket: %.*s\n", (int)strcspn((char *)at, "\r"), (char *)at);
            exit(1);
        }
        p->upgraded = 1;
        at = blank + 4;
    }
    for (struct message message; message_in(at, end, &message); at = message.body + message.len) {
        if (message.kind == CLOSE) {
            fprintf(stderr, "pairs: WebSocket closed: %.*s (%d)\n", (int)(message.len > 2 ? message.len - 2 : 0),
                    (char *)message.body + 2, message.len > 1 ? message.body[0] << 8 | message.body[1] : 0);
            exit(1);
        }
        if (message.kind > BINARY) continue; /* pings and pongs */
        if (mode == NATIVE && (!message.is_whole || message.kind != BINARY)) {
            fprintf(stderr, "pairs: a part of a message, or text\n");
            exit(1);
        }
        if (mode == NATIVE) to += varint(to, message.len); /* never longer than the head that was there */
        memmove(to, message.body, message.len);
        to += message.len;
    }
    p->plain = (int)(to - p->in);
    memmove(to, at, (size_t)(end - at));
    p->in_len = p->plain + (int)(end - at);
}

#ifdef UDP

/* ---- UDP ---------------------------------------------------------------------------------------------------------- */

#define BATCH 64
#define LOOK_S 0.005 /* for what is due */
#define UDP_BODY 1000

static void on_frame(void *who, const uint8_t *at, const uint8_t *end) {
    native_got(((struct flow *)who)->owner, at, end);
}

static void unexpected(const char *what) {
    fprintf(stderr, "pairs: %s\n", what);
    exit(1);
}

static void on_closed(void *who) {
    (void)who;
    unexpected("the server closed a connection");
}

static void greet(struct peer *p, char *credentials) {
    int bytes = 1 << 20;
    setsockopt(p->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    p->flow = calloc(1, sizeof *p->flow);
    flow_begin(p->flow, p->fd, p, credentials);
}

static void look(double t) {
    static double next;
    if (t < next) return;
    next = t + LOOK_S;
    for (int i = 0; i < n_peers && peers[i].flow; i++) flow_due(peers[i].flow, t);
}

static void readable(struct peer *p) {
    static uint8_t in[2048];
    for (int i = 0; i < BATCH; i++) {
        ssize_t n = recv(p->fd, in, sizeof in, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) die("recv");
        flow_came(p->flow, in, (int)n);
    }
}

#else

static void readable(struct peer *p) {
    ssize_t n = recv(p->fd, p->in + p->in_len, (mode == IDLE ? IDLE_BYTES : IN_BYTES) - p->in_len, 0);
    if (n == 0) { fprintf(stderr, "pairs: the server closed a connection\n"); exit(1); }
    if (n < 0) { if (errno == EAGAIN) return; die("recv"); }
    p->in_len += (int)n;
    if (websocket) unframe(p);
    else p->plain = p->in_len;
    int used = mode == MQTT ? take_mqtt(p) : mode == MOBILE ? take_mobile(p) : take_native(p);
    memmove(p->in, p->in + used, p->in_len - used);
    p->in_len -= used;
    p->plain -= used;
}

#endif

static void turn(double timeout_s, int pumping) {
    static struct epoll_event events[512];
#ifdef UDP
    if (timeout_s > LOOK_S) timeout_s = LOOK_S;
#endif
    struct timespec timeout = {(time_t)timeout_s, (long)((timeout_s - (double)(time_t)timeout_s) * 1e9)};
    int n = epoll_pwait2(epoll_fd, events, 512, &timeout, NULL);
    for (int i = 0; i < n; i++) readable(&peers[events[i].data.u32]);
    for (int i = 0; i < n; i++) {
        struct peer *p = &peers[events[i].data.u32];
        if (pumping) pump(p->index, MAX_WINDOW);
    }
    for (int i = 0; i < n; i++) {
        struct peer *p = &peers[events[i].data.u32];
        if (p->out_len) flush(p);
        if (mode != IDLE && peers[2 * p->index].out_len) flush(&peers[2 * p->index]);
    }
#ifdef UDP
    double t = now();
    for (int i = 0; i < n; i++) flow_due(peers[events[i].data.u32].flow, t);
    look(t);
#endif
}

/* What is due by `t` at `rate` messages a second. */
static void pace(uint64_t *sent, double t) {
    for (; begin + (double)*sent / rate < t; ++*sent) {
        int index = (int)(*sent % (uint64_t)n_pairs);
        if (open_loop) {
            if (measuring) count(&late, now() - due(index, pairs[index].sent));
            publish(index);
        } else
            pump(index, 1);
        flush(&peers[2 * index]);
    }
}

/* Without acknowledgements a pair whose last messages were lost would wait for them for good. */
static void give_up(void) {
    double t = now();
    for (int i = 0; i < n_pairs; i++) {
        struct pair *pair = &pairs[i];
        if (pair->sent == pair->delivered || t - pair->sent_at[(pair->sent - 1) % (MAX_WINDOW * 2)] < STALL_S) continue;
        lost += pair->sent - pair->delivered;
        pair->delivered = pair->sent;
        pump(i, MAX_WINDOW);
        flush(&peers[2 * i]);
    }
}

static uint64_t outstanding(void) {
    uint64_t sum = 0;
    for (int i = 0; i < n_pairs; i++) sum += pairs[i].sent - pairs[i].delivered;
    return sum;
}

static void acknowledge(int first, int step) {
    for (int i = first; i < n_peers; i += step)
        if (peers[i].unacked) { native_ack(&peers[i]); flush(&peers[i]); }
}

static void end(int number) {
    (void)number;
    over = 1;
}

static void mark(int number) {
    (void)number;
    anew = 1;
}

static void report(double took) {
    printf("{\"rate\": %.0f, \"messages\": %llu, \"twice\": %llu, \"lost\": %llu, ", (double)latencies.n / took,
           (unsigned long long)latencies.n, (unsigned long long)extra, (unsigned long long)lost);
    print_latencies(stdout, &latencies);
    if (open_loop) printf(", \"late_p99_ms\": %.3f", percentile_ms(&late, 99));
#ifdef UDP
    printf(", \"repeated\": %llu", (unsigned long long)repeated);
#endif
    printf("}\n");
    fflush(stdout);
}

static void connect_all(const char *host, const char *list) {
    struct sockaddr_in to = {.sin_family = AF_INET};
    int ports[64], n_ports = 0;
    for (const char *at = list - 1; at && n_ports < 64; at = strchr(at + 1, ',')) ports[n_ports++] = atoi(at + 1);
    inet_pton(AF_INET, host, &to.sin_addr);
    char *line = NULL;
    size_t cap = 0;
    for (int i = 0; i < n_peers; i++) {
        struct peer *p = &peers[i];
        p->index = mode == IDLE ? i : i / 2;
        p->receiver = i % 2;
        p->in = malloc(mode == IDLE ? IDLE_BYTES : IN_BYTES);
        p->out = malloc(p->out_cap = mode == IDLE ? IDLE_BYTES : OUT_BYTES);
        to.sin_port = htons((uint16_t)ports[(p->index + (mode == IDLE ? 0 : p->receiver)) % n_ports]);
        p->fd = socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
        if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&to, sizeof to) < 0) die("connect");
        int one = 1;
        if (!udp) setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->fd, &event);
        if (websocket) {
            upgrade(p, host, ntohs(to.sin_port));
            for (flush(p); !p->upgraded;) turn(1, 0);
        }
        ssize_t len = getline(&line, &cap, stdin);
        if (mode == MQTT) {
            if (len > 0) line[strcspn(line, "\n")] = 0;
            mqtt_connect(p, len > 0 ? line : NULL);
        } else {
            if (len <= 0) { fprintf(stderr, "pairs: too few tokens\n"); exit(1); }
            line[strcspn(line, "\n")] = 0;
#ifdef UDP
            greet(p, line);
#else
            if (mode == MOBILE) mobile_login(p, line);
            else native_hello(p, line);
#endif
        }
        flush(p);
        while (n_ready < i - 100) turn(1, 0); /* a login storm is another scene */
    }
    double until = now() + 30;
    while (n_ready < n_peers) {
        if (now() > until) { fprintf(stderr, "pairs: %d of %d are ready\n", n_ready, n_peers); exit(1); }
        turn(0.1, 0);
    }
    free(line);
}

static void idle(double seconds) {
    printf("{\"ready\": %d}\n", n_ready);
    fflush(stdout);
    for (double until = now() + seconds, acked = now(); !over && now() < until;) {
        turn(0.1, 0);
        if (now() - acked > 0.2) {
            acked = now();
            acknowledge(0, 1);
        }
    }
    printf("{\"received\": %llu, \"twice\": %llu}\n", (unsigned long long)received, (unsigned long long)extra);
}

static void load(double seconds) {
    begin = now();
    if (!rate)
        for (int i = 0; i < n_pairs; i++) { pump(i, MAX_WINDOW); flush(&peers[2 * i]); }
    double acked = begin, looked = begin, until = begin + 1 + seconds, since = start = begin + 1, t;
    uint64_t sent = 0;
    while (!over && (t = now()) < until) {
        if (!measuring && t >= start) {
            measuring = 1;
            fprintf(stderr, "measuring\n");
        }
        if (anew) {
            anew = 0;
            report(t - since);
            since = t;
            forget(&latencies);
            forget(&late);
        }
        double wait = rate ? begin + (double)sent / rate - t : 0.05;
        turn(wait < 0 ? 0 : wait > 0.05 ? 0.05 : wait, !rate);
        if (rate) pace(&sent, (t = now()) < until ? t : until);
        if (mode == NATIVE && measuring && t - acked > 0.2) {
            acked = t;
            acknowledge(1, 2);
        }
        if (!qos && !open_loop && t - looked > STALL_S) {
            looked = t;
            give_up();
        }
    }
    if (over || !open_loop) until = now();
    else pace(&sent, until); /* it may have had no turn for a while */
    double took = until - since;
    /* The slow ones count too. */
    uint64_t waiting = open_loop ? outstanding() : 0, before = 0;
    for (double settled = 0; waiting && (waiting != before || now() < settled); waiting = outstanding()) {
        if (waiting != before) settled = now() + SETTLE_S;
        before = waiting;
        turn(0.01, 0);
        if (mode == NATIVE) acknowledge(1, 2);
        for (int i = 0; i < n_peers; i++) flush(&peers[i]);
    }
    if (open_loop) lost += outstanding();
    report(took);
}

int main(int argc, char **argv) {
    if (argc < 9 || argc > 11) {
        fprintf(stderr, "usage: pairs native|mobileimsdk|mqtt|mqtt-kept|idle[+websocket] HOST PORT PAIRS WINDOW SIZE SECONDS TAG [RATE [QOS]]\n");
        return 2;
    }
    char *over_what = strchr(argv[1], '+');
    if (over_what) *over_what++ = 0;
    websocket = over_what && !strcmp(over_what, "websocket");
#ifdef UDP
    udp = over_what && !strcmp(over_what, "udp") && !strcmp(argv[1], "native");
    if (!udp) { fprintf(stderr, "pairs: this one speaks native+udp\n"); return 2; }
    sealing();
#endif
    kept = !strcmp(argv[1], "mqtt-kept");
    mode = !strcmp(argv[1], "native") ? NATIVE : !strncmp(argv[1], "mqtt", 4) ? MQTT : argv[1][0] == 'm' ? MOBILE : IDLE;
    n_pairs = atoi(argv[4]);
    window = atoi(argv[5]);
    size = atoi(argv[6]);
    rate = argc > 9 ? atof(argv[9]) : 0;
    qos = argc > 10 ? atoi(argv[10]) : 1;
    tag = argv[8];
    n_peers = mode == IDLE ? n_pairs : 2 * n_pairs;
    open_loop = mode != IDLE && !window;
    if (over_what && !udp && (!websocket || mode == MOBILE || mode == IDLE)) {
        fprintf(stderr, "pairs: native and mqtt go over WebSocket, and nothing goes over %s else\n", over_what);
        return 2;
    }
    if (window > MAX_WINDOW || size > (int)sizeof body) { fprintf(stderr, "pairs: window or size too large\n"); return 2; }
#ifdef UDP
    if (size > UDP_BODY) { fprintf(stderr, "pairs: over UDP a body has at most %d bytes\n", UDP_BODY); return 2; }
#endif
    if (open_loop && rate <= 0) { fprintf(stderr, "pairs: without a window there must be a rate\n"); return 2; }
    if (!qos && (mode == MOBILE || size < NUMBER_BYTES)) {
        fprintf(stderr, "pairs: QoS 0 is for native and mqtt, with bodies of %d bytes or more\n", NUMBER_BYTES);
        return 2;
    }
    memset(body, 'x', sizeof body);
    sprintf(run_id, "%08x", (unsigned)(now() * 1e6));
    peers = calloc((size_t)n_peers, sizeof *peers);
    pairs = calloc((size_t)n_pairs, sizeof *pairs);
    epoll_fd = epoll_create1(0);
    signal(SIGTERM, end);
    signal(SIGUSR1, mark);
    connect_all(argv[2], argv[3]);
    if (mode == IDLE) idle(atof(argv[7]));
    else load(atof(argv[7]));
    return 0;
}
