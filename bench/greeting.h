/* How a connection over UDP begins: HELLO with a token's UDP key, RETRY with a cookie, ACCEPT with the connection's keys. */
#ifndef GREETING_H
#define GREETING_H

#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"
#include "sealed.h"
#include "wire.h"

#define LARGEST 1200
#define HELLO_HEAD 78
#define HELLO_ROOM (LARGEST - HELLO_HEAD - 16)
#define ACCEPT_HEAD 54

enum { RETRY = 0xf2, ACCEPT, REFUSED_HELLO, RESET };

struct keys {
    uint8_t cid[8], to_server[16], to_client[16];
};

struct hello {
    EVP_PKEY *private;
    uint8_t public[32], key[16], key_id[16], messages[HELLO_ROOM], datagram[LARGEST];
    uint32_t number;
};

static void no_hello(const char *why) {
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, why);
    exit(1);
}

static void from_hex(uint8_t *to, const char *text) {
    for (int i = 0; i < 16; i++)
        if (sscanf(text + 2 * i, "%2hhx", &to[i]) != 1) no_hello("a line of credentials is none");
}

/* The datagram, sealed anew. */
static void seal_hello(struct hello *h, const uint8_t *cookie) {
    uint8_t key[16], *d = h->datagram;
    uint32_t number = htonl(h->number);
    d[0] = 0xf1;
    d[1] = 1;
    memcpy(d + 2, h->key_id, 16);
    memcpy(d + 18, h->public, 32);
    memcpy(d + 50, cookie, 24);
    memcpy(d + 74, &number, 4);
    derive(key, h->key, 16, h->public, "hello");
    seal(d + HELLO_HEAD, key, h->number, d, HELLO_HEAD, h->messages, HELLO_ROOM);
}

/* `credentials`: token, key, key id, these two in hex; it is cut up. */
static void make_hello(struct hello *h, char *credentials) {
    static const uint8_t no_cookie[24];
    uint8_t content[4096], frame[4096];
    char *key = strchr(credentials, ' '), *key_id = key ? strchr(key + 1, ' ') : NULL;
    size_t len = 32;
    if (!key_id) no_hello("too few credentials");
    *key = 0;
    memset(h, 0, sizeof *h);
    from_hex(h->key, key + 1);
    from_hex(h->key_id, key_id + 1);
    if (!(h->private = EVP_PKEY_Q_keygen(NULL, NULL, "X25519"))) no_hello("no key");
    EVP_PKEY_get_raw_public_key(h->private, h->public, &len);
    int n = field(frame, HELLO, content, hello_into(content, credentials, NULL, 0)), at = 0;
    if (n > HELLO_ROOM - 8) no_hello("a token is too long");
    h->messages[at++] = 1; /* DATA, number 0 of channel 0 */
    h->messages[at++] = 0;
    h->messages[at++] = 0;
    at += varint(h->messages + at, (uint64_t)n);
    memcpy(h->messages + at, frame, (size_t)n);
    seal_hello(h, no_cookie);
}

static int is_for(const struct hello *h, const uint8_t *d, int len) {
    return len >= 10 && !memcmp(h->public, d + 2, 8);
}

/* A RETRY: the next datagram has its cookie. */
static void retried(struct hello *h, const uint8_t *d) {
    h->number++; /* other bytes under the same key */
    seal_hello(h, d + 10);
}

/* An ACCEPT: the keys, and what is in it; how many bytes. */
static int accepted(struct hello *h, const uint8_t *d, int len, struct keys *keys, uint8_t *messages, uint32_t *number) {
    uint8_t shared[32 + 16], hashed[16 + 32 + 32 + 8], salt[32];
    size_t shared_len = 32;
    if (len < ACCEPT_HEAD) no_hello("an ACCEPT is cut off");
    EVP_PKEY *theirs = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, d + 18, 32);
    EVP_PKEY_CTX *exchange = EVP_PKEY_CTX_new(h->private, NULL);
    if (!theirs || EVP_PKEY_derive_init(exchange) <= 0 || EVP_PKEY_derive_set_peer(exchange, theirs) <= 0
        || EVP_PKEY_derive(exchange, shared, &shared_len) <= 0)
        no_hello("no shared secret");
    EVP_PKEY_CTX_free(exchange);
    EVP_PKEY_free(theirs);
    EVP_PKEY_free(h->private);
    memcpy(shared + 32, h->key, 16);
    memcpy(hashed, h->key_id, 16);
    memcpy(hashed + 16, h->public, 32);
    memcpy(hashed + 48, d + 18, 32);
    memcpy(hashed + 80, d + 10, 8);
    SHA256(hashed, sizeof hashed, salt);
    derive(keys->to_server, shared, 48, salt, "c2s");
    derive(keys->to_client, shared, 48, salt, "s2c");
    memcpy(keys->cid, d + 10, 8);
    memcpy(number, d + 50, 4);
    *number = ntohl(*number);
    int n = unseal(messages, keys->to_client, *number, d, ACCEPT_HEAD, d + ACCEPT_HEAD, len - ACCEPT_HEAD);
    if (n < 0) no_hello("an ACCEPT does not open");
    return n;
}

#endif
