/* AES-128-GCM and HKDF as the gateway's datagrams have them; OpenSSL's. */
#ifndef SEALED_H
#define SEALED_H

#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static EVP_CIPHER_CTX *cipher;
static const EVP_CIPHER *gcm;

static void sealing(void) { /* once, before anything else here */
    cipher = EVP_CIPHER_CTX_new();
    gcm = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL);
}

static void nonce_of(uint8_t *nonce, uint32_t number) {
    memset(nonce, 0, 8);
    number = htonl(number);
    memcpy(nonce + 8, &number, 4);
}

/* Writes len + 16 bytes. */
static void seal(uint8_t *to, const uint8_t *key, uint32_t number, const uint8_t *clear, int clear_len, const uint8_t *data, int len) {
    uint8_t nonce[12];
    int n;
    nonce_of(nonce, number);
    EVP_EncryptInit_ex(cipher, gcm, NULL, key, nonce);
    EVP_EncryptUpdate(cipher, NULL, &n, clear, clear_len);
    EVP_EncryptUpdate(cipher, to, &n, data, len);
    EVP_EncryptFinal_ex(cipher, to + n, &n);
    EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_GET_TAG, 16, to + len);
}

/* Writes len - 16 bytes; how many, or -1. */
static int unseal(uint8_t *to, const uint8_t *key, uint32_t number, const uint8_t *clear, int clear_len, const uint8_t *sealed, int len) {
    uint8_t nonce[12];
    int n;
    if ((len -= 16) < 0) return -1;
    nonce_of(nonce, number);
    EVP_DecryptInit_ex(cipher, gcm, NULL, key, nonce);
    EVP_DecryptUpdate(cipher, NULL, &n, clear, clear_len);
    EVP_DecryptUpdate(cipher, to, &n, sealed, len);
    EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_SET_TAG, 16, (void *)(sealed + len));
    return EVP_DecryptFinal_ex(cipher, to + n, &n) > 0 ? len : -1;
}

/* HKDF-SHA256, 16 bytes. */
static void derive(uint8_t *to, const uint8_t *material, int len, const uint8_t *salt, const char *what) {
    uint8_t prk[32], info[64], out[32];
    unsigned n = 32;
    HMAC(EVP_sha256(), salt, 32, material, (size_t)len, prk, &n);
    int info_len = sprintf((char *)info, "imgateway udp 1 %s", what);
    info[info_len++] = 1;
    HMAC(EVP_sha256(), prk, 32, info, (size_t)info_len, out, &n);
    memcpy(to, out, 16);
}

#endif
