/* Vectors of eight numbers, one for each of eight packets: what is decided of one is
 * decided of all of them at once. The compiler makes of it what the machine has; see
 * WIDE in lwaftr_burst.c. */
#ifndef SNABB_PY_LWAFTR_LANES_H
#define SNABB_PY_LWAFTR_LANES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 8 };

#define LANES_INLINE static inline __attribute__((always_inline))

typedef uint32_t lanes __attribute__((vector_size(32)));
typedef int32_t signed_lanes __attribute__((vector_size(32)));
typedef uint64_t lane_words __attribute__((vector_size(32))); /* of four lanes */
typedef uint32_t quarter __attribute__((vector_size(16)));

LANES_INLINE lanes lanes_load(const uint32_t *from)
{
    lanes x;
    memcpy(&x, from, sizeof(x));
    return x;
}

LANES_INLINE void lanes_store(uint32_t *to, lanes x)
{
    memcpy(to, &x, sizeof(x));
}

/* Words of which these are the lower and the upper halves. */
LANES_INLINE void lanes_store_pairs(uint64_t *to, lanes low, lanes high)
{
    lanes first = __builtin_shufflevector(low, high, 0, 8, 1, 9, 2, 10, 3, 11);
    lanes last = __builtin_shufflevector(low, high, 4, 12, 5, 13, 6, 14, 7, 15);
    memcpy(to, &first, sizeof(first));
    memcpy(to + LANES / 2, &last, sizeof(last));
}

/* The places of elements of so many bytes, a power of two, in an array. */
LANES_INLINE void lanes_store_places(uintptr_t *to, lanes index, uintptr_t base,
                                     uint32_t size)
{
    quarter low = __builtin_shufflevector(index, index, 0, 1, 2, 3);
    quarter high = __builtin_shufflevector(index, index, 4, 5, 6, 7);
    lane_words first = __builtin_convertvector(low, lane_words) * size + base;
    lane_words last = __builtin_convertvector(high, lane_words) * size + base;
    memcpy(to, &first, sizeof(first));
    memcpy(to + LANES / 2, &last, sizeof(last));
}

/* The bytes of each number the other way round. */
LANES_INLINE lanes lanes_swap(lanes x)
{
    typedef uint8_t bytes __attribute__((vector_size(32)));
    bytes b = (bytes)x;
    return (lanes)__builtin_shufflevector(b, b, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15,
                                          14, 13, 12, 19, 18, 17, 16, 23, 22, 21, 20, 27,
                                          26, 25, 24, 31, 30, 29, 28);
}

/* Comparisons answer all ones or 0. Of numbers below 2^31. */
LANES_INLINE lanes lanes_less(lanes a, lanes b)
{
    return (lanes)((signed_lanes)a < (signed_lanes)b);
}

LANES_INLINE bool lanes_any(lanes x)
{
    lane_words w = (lane_words)x;
    return (w[0] | w[1] | w[2] | w[3]) != 0;
}

/* The words of 16 bytes of each of eight places, as memory has them. */
struct columns {
    lanes word[4];
};

LANES_INLINE lanes lanes_join(const uint8_t *low, const uint8_t *high)
{
    quarter a, b;
    memcpy(&a, low, sizeof(a));
    memcpy(&b, high, sizeof(b));
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
}

LANES_INLINE struct columns lanes_columns(const uint8_t *const *places, uint32_t offset)
{
    lanes row[4], half[4];
    for (uint32_t k = 0; k < 4; k++)
        row[k] = lanes_join(places[k] + offset, places[k + 4] + offset);
    for (uint32_t k = 0; k < 2; k++) {
        lanes a = row[2 * k], b = row[2 * k + 1];
        half[k] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
        half[k + 2] = __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    }
    struct columns columns;
    for (uint32_t k = 0; k < 2; k++) {
        lanes a = half[2 * k], b = half[2 * k + 1];
        columns.word[2 * k] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
        columns.word[2 * k + 1] =
            __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    return columns;
}

#endif
