/* The bare disk: messages that are due at a rate go to the end of a file, all that have come since the last sync together,
 * and count when they are synced. One plain way to have them on the disk, a write and an fdatasync, and not
 * the fastest: it tells how much of a server's latencies may be this disk's.
 *
 *   disk FILE RATE SIZE SECONDS          (the file is written over and over; it has its length before the first message)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

#include "histogram.h"
#include "wire.h"

#define LENGTH (8 << 20)
#define MOST (1 << 20) /* bytes of one write */

static char bytes[LENGTH];
static struct histogram latencies;

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: disk FILE RATE SIZE SECONDS\n");
        return 2;
    }
    double rate = atof(argv[2]), seconds = atof(argv[4]);
    size_t size = (size_t)atoi(argv[3]);
    if (!(rate > 0) || !(seconds > 0) || !(rate * seconds < 1e15) || size < 1 || size > MOST) { /* nor is any of them NaN */
        fprintf(stderr, "disk: a rate above 0, and 1 to %d bytes, for some seconds\n", MOST);
        return 2;
    }
    memset(bytes, 'x', sizeof bytes);
    int file = open(argv[1], O_RDWR | O_CREAT, 0600);
    if (file < 0) die(argv[1]);
    if (write(file, bytes, sizeof bytes) != sizeof bytes || fsync(file)) die(argv[1]);
    uint64_t sent = 0, all = (uint64_t)(rate * seconds), syncs = 0;
    off_t at = 0;
    double begin = now();
    while (sent < all) {
        double wait = begin + (double)sent / rate - now();
        if (wait > 0) {
            struct timespec rest = {(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)};
            nanosleep(&rest, NULL);
            continue;
        }
        uint64_t due = (uint64_t)((now() - begin) * rate) + 1;
        if (due > all) due = all;
        if (due - sent > MOST / size) due = sent + MOST / size;
        size_t length = (due - sent) * size;
        if (at + (off_t)length > LENGTH) at = 0;
        if (pwrite(file, bytes, length, at) != (ssize_t)length || fdatasync(file)) die(argv[1]);
        at += (off_t)length;
        syncs++;
        for (double t = now(); sent < due; sent++) count(&latencies, t - begin - (double)sent / rate);
    }
    printf("{\"messages\": %llu, \"syncs\": %llu, ", (unsigned long long)sent, (unsigned long long)syncs);
    print_latencies(stdout, &latencies);
    printf("}\n");
    return 0;
}
