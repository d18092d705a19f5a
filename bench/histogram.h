/* Counts of latencies by their size: a value is told by at most 0.4 % off, however many there are and however they lie.
 *
 * As HdrHistogram does it: 128 equal steps between one power of two and the next.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define STEPS 128
#define SLOTS (58 * STEPS)

struct histogram {
    uint64_t n, max; /* nanoseconds */
    uint64_t counts[SLOTS];
};

static int slot_of(uint64_t value) {
    int shift = value < STEPS ? 0 : 63 - __builtin_clzll(value) - 7;
    return shift * STEPS + (int)(value >> shift);
}

static uint64_t value_of(int slot) { /* the middle of what it stands for */
    if (slot < 2 * STEPS) return (uint64_t)slot;
    int shift = slot / STEPS - 1;
    return ((uint64_t)(slot % STEPS + STEPS) << shift) + ((uint64_t)1 << shift >> 1);
}

static void count(struct histogram *h, double seconds) {
    uint64_t value = seconds > 0 ? (uint64_t)(seconds * 1e9) : 0;
    h->counts[slot_of(value)]++;
    h->n++;
    if (value > h->max) h->max = value;
}

static double percentile_ms(const struct histogram *h, double percent) {
    uint64_t rank = (uint64_t)(percent / 100 * (double)h->n + 0.999999), seen = 0;
    if (!rank) rank = 1;
    for (int slot = 0; slot < SLOTS; slot++)
        if ((seen += h->counts[slot]) >= rank) {
            uint64_t value = value_of(slot);
            return (double)(value < h->max ? value : h->max) / 1e6;
        }
    return 0;
}

/* "p50_ms": …, "p90_ms": …, "p99_ms": …, "p99.9_ms": …, "max_ms": … */
static void print_latencies(FILE *to, const struct histogram *h) {
    fprintf(to, "\"p50_ms\": %.3f, \"p90_ms\": %.3f, \"p99_ms\": %.3f, \"p99.9_ms\": %.3f, \"max_ms\": %.3f",
            percentile_ms(h, 50), percentile_ms(h, 90), percentile_ms(h, 99), percentile_ms(h, 99.9), (double)h->max / 1e6);
}

static void forget(struct histogram *h) { memset(h, 0, sizeof *h); }

#endif
