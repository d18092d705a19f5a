/* The load of pairs.c over UDP; apart from it, as this one needs OpenSSL.
 *
 *   pairs_udp native+udp HOST PORT …   as pairs.c; a line of `tokens` is a token, its UDP key and key id, these two in hex
 */
#define UDP
#include "pairs.c"
