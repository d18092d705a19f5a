/* WebSocket as a client speaks it: the request, heads and masks of what it sends, heads of what it is sent. */
#ifndef WEBSOCKET_H
#define WEBSOCKET_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define HEAD_MOST 14

enum { CONTINUED, TEXT, BINARY, CLOSE = 8 };

static const uint8_t MASK[4] = {0x37, 0xfa, 0x21, 0x3d};

/* `subprotocol`: "" for none. */
static int upgrade_request(char *to, size_t most, const char *host, int port, const char *path, const char *subprotocol) {
    return snprintf(to, most,
        "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s%s%s\r\n",
        path, host, port, *subprotocol ? "Sec-WebSocket-Protocol: " : "", subprotocol, *subprotocol ? "\r\n" : "");
}

/* Writes the head of a binary message of `len` bytes; where the message goes. */
static uint8_t *client_head(uint8_t *to, int len) {
    *to++ = 0x80 | BINARY;
    if (len < 126) *to++ = (uint8_t)(0x80 | len);
    else {
        int bytes = len < 65536 ? 2 : 8;
        *to++ = 0x80 | (bytes == 2 ? 126 : 127);
        while (bytes--) *to++ = (uint8_t)((uint64_t)len >> 8 * bytes);
    }
    memcpy(to, MASK, 4);
    return to + 4;
}

static void mask(uint8_t *data, int len) {
    for (int i = 0; i < len; i++) data[i] ^= MASK[i & 3];
}

struct message {
    int kind, is_whole;
    uint64_t len;
    const uint8_t *body;
};

/* The frame that begins at `at`, if all of it is there. */
static int message_in(const uint8_t *at, const uint8_t *end, struct message *found) {
    if (end - at < 2) return 0;
    int bytes = (at[1] & 127) == 126 ? 2 : (at[1] & 127) == 127 ? 8 : 0;
    if (end - at < 2 + bytes) return 0;
    found->kind = at[0] & 15;
    found->is_whole = at[0] >> 7;
    found->len = bytes ? 0 : at[1] & 127;
    found->body = at + 2 + bytes;
    for (int i = 0; i < bytes; i++) found->len = found->len << 8 | at[2 + i];
    return found->len <= (uint64_t)(end - found->body);
}

#endif
