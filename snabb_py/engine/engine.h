/* Packets, links and the freelist for apps written in C: the operations of
 * engine_abi.h that must be inline. An app's inner loop works on a burst:
 *
 *     struct packet *burst[LINK_CAPACITY];
 *     uint32_t n = link_receive_burst(in, burst, link_writable(out));
 *     ... work on burst[0..n) ...
 *     link_transmit_burst(out, burst, n);
 */
#ifndef SNABB_PY_ENGINE_ENGINE_H
#define SNABB_PY_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "snabb_py/engine/engine_abi.h"

_Static_assert(sizeof(struct packet) == 64, "packet metadata is one cache line");
_Static_assert(PACKET_SMALL_STRIDE ==
                   sizeof(struct packet) + PACKET_HEADROOM + PACKET_SMALL_SIZE,
               "a small slot is metadata, headroom, data");
_Static_assert(PACKET_LARGE_STRIDE ==
                   sizeof(struct packet) + PACKET_HEADROOM + PACKET_LARGE_SIZE,
               "a large slot is metadata, headroom, data");
_Static_assert(PACKET_SMALL_STRIDE / 64 % 2 == 1 && PACKET_LARGE_STRIDE / 64 % 2 == 1,
               "strides are odd multiples of a cache line");
_Static_assert(sizeof(((struct chunk *)0)->packets) == POOL_CHUNK * sizeof(void *),
               "chunk");
_Static_assert(sizeof(((struct stack *)0)->packets) ==
                   FREELIST_CAPACITY * sizeof(void *),
               "stack");
_Static_assert(sizeof(((struct link *)0)->ring) == LINK_CAPACITY * sizeof(void *),
               "ring");
_Static_assert(offsetof(struct link, ring) == 64, "cursors share one cache line");
_Static_assert(sizeof(struct link_counters) == 64, "counters are one cache line");
_Static_assert(sizeof(struct worker_counters) == 128, "worker counters");
_Static_assert(offsetof(struct pool, empty) == 64 &&
                   offsetof(struct pool, full_small) == 128 &&
                   offsetof(struct pool, full_large) == 192,
               "stack heads have cache lines of their own");
_Static_assert(offsetof(struct worker, next) % 64 == 0,
               "what Python writes is away from what the worker writes");

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Compiled for several instruction sets; the loader picks one. For functions whose
 * time goes into copying: a 64-byte packet is then one move, not four (bench basic1:
 * 5.9 -> 4.6 ns a packet). The sanitizers cannot stand the loader's choice. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) &&                   \
    !defined(__SANITIZE_ADDRESS__)
#define HOT __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define HOT
#endif

/* Not only near, but taken away from the other CPUs; __builtin_prefetch() does that only
 * when it is compiled for a newer machine than all. */
static inline void prefetch_to_write(const void *p)
{
#if defined(__x86_64__)
    __asm__("prefetchw %0" : : "m"(*(const char *)p));
#else
    __builtin_prefetch(p, 1);
#endif
}

/* Give a line up to the cache that all CPUs share: whoever writes it next need not ask
 * us. A processor that does not know the instruction (CLDEMOTE) passes over it. */
static inline void demote(const void *p)
{
#if defined(__x86_64__)
    __asm__("cldemote %0" : : "m"(*(const char *)p));
#else
    (void)p;
#endif
}

static inline uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Copy n pointers. Eight at a time in vector registers: what the compiler makes of a
 * memcpy of unknown size (rep movs) takes longer to start than a burst to copy. */
static inline void copy_pointers(struct packet **restrict to,
                                 struct packet *const *restrict from, uint32_t n)
{
    for (; n >= 8; n -= 8, to += 8, from += 8)
        memcpy(to, from, 8 * sizeof(*to));
    for (; n > 0; n--)
        *to++ = *from++;
}

/* What the operations below call: libraries of apps find it in the extension. */
#define EXPORTED __attribute__((visibility("default")))

/* ---- freelist ------------------------------------------------------------ */

/* Slow paths, in pool.c: take chunks until n packets are there or the pool is
 * empty; give half a share, and so much that at least n more fit. */
EXPORTED void freelist_refill(struct freelist *freelist, uint32_t slot_class, uint32_t n);
EXPORTED void freelist_spill(struct freelist *freelist, uint32_t slot_class, uint32_t n);

/* Make sure of n packets and return how many of them there are (n, or fewer when
 * the pool has run dry); so many freelist_pop() will then succeed.
 * n <= FREELIST_CAPACITY - POOL_CHUNK. */
static inline uint32_t freelist_reserve(struct freelist *freelist, uint32_t slot_class,
                                        uint32_t n)
{
    struct stack *stack = &freelist->classes[slot_class];
    if (unlikely(stack->npackets < n)) {
        freelist_refill(freelist, slot_class, n);
        return min_u32(stack->npackets, n);
    }
    return n;
}

/* Take n reserved packets: the array, the coldest first, holds them until the
 * freelist is used again. Each must go through packet_fresh(). */
static inline struct packet **freelist_take(struct freelist *freelist,
                                            uint32_t slot_class, uint32_t n)
{
    struct stack *stack = &freelist->classes[slot_class];
    stack->npackets -= n;
    return &stack->packets[stack->npackets];
}

/* The second word of struct packet is length, flags, gso_type, slot_class: written at
 * once, it costs one store instead of four (bench basic1: 5.8 -> 5.1 ns). */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian");
_Static_assert(offsetof(struct packet, length) == 8 &&
                   offsetof(struct packet, slot_class) == 15,
               "length to slot_class are one word");

/* Where the data of a packet off the freelist begin. */
static inline uint8_t *packet_fresh_data(struct packet *packet)
{
    return (uint8_t *)packet + sizeof(*packet) + PACKET_HEADROOM;
}

/* Make a packet off the freelist one of `length` bytes with plain metadata. Nothing is
 * prefetched: the freelist's top is warm, and a miss on a store waits in the store
 * buffer (with prefetches, bench basic1: 4.4 -> 5.0 ns). */
static inline struct packet *packet_fresh(struct packet *packet, uint32_t slot_class,
                                          uint32_t length)
{
    uint64_t word = length | (uint64_t)slot_class << 56;
    packet->data = packet_fresh_data(packet);
    memcpy(&packet->length, &word, sizeof(word));
    return packet;
}

/* No offload rides on the packet. */
static inline bool packet_is_plain(const struct packet *packet)
{
    return packet->flags == 0 && packet->gso_type == PACKET_GSO_NONE;
}

/* A fresh packet of `length` bytes (contents arbitrary), or NULL when the pool is
 * empty or no slot is that large. */
static inline struct packet *packet_alloc(struct freelist *freelist, uint32_t length)
{
    uint32_t slot_class = length <= PACKET_SMALL_SIZE ? PACKET_SMALL : PACKET_LARGE;
    if (unlikely(length > PACKET_LARGE_SIZE) ||
        unlikely(freelist_reserve(freelist, slot_class, 1) == 0))
        return NULL;
    return packet_fresh(*freelist_take(freelist, slot_class, 1), slot_class, length);
}

/* The slot class follows from the address: freeing does not touch the packet. For one;
 * see packet_free_burst(). */
static inline void packet_free(struct freelist *freelist, struct packet *packet)
{
    uint32_t slot_class = packet >= freelist->first_large;
    struct stack *stack = &freelist->classes[slot_class];
    if (unlikely(stack->npackets >= stack->share))
        freelist_spill(freelist, slot_class, 1);
    stack->packets[stack->npackets++] = packet;
}

/* Free n packets, n <= FREELIST_CAPACITY / 2. In pool.c. */
EXPORTED void packet_free_burst(struct freelist *freelist,
                                struct packet *const *packets, uint32_t n);

/* ---- packets ------------------------------------------------------------- */

/* The slot of a packet, from its first data byte to its end. */
static inline uint8_t *packet_slot_data(const struct packet *packet)
{
    return (uint8_t *)(uintptr_t)packet + sizeof(*packet);
}

static inline uint32_t packet_slot_size(const struct packet *packet)
{
    return PACKET_HEADROOM +
           (packet->slot_class == PACKET_SMALL ? PACKET_SMALL_SIZE : PACKET_LARGE_SIZE);
}

/* Bytes that still fit in front of and behind the data. */
static inline uint32_t packet_headroom(const struct packet *packet)
{
    return (uint32_t)(packet->data - packet_slot_data(packet));
}

static inline uint32_t packet_tailroom(const struct packet *packet)
{
    return packet_slot_size(packet) - packet_headroom(packet) - packet->length;
}

/* Make room for n bytes in front; no copy. False: the headroom is used up. */
static inline bool packet_prepend(struct packet *packet, uint32_t n)
{
    if (unlikely(packet_headroom(packet) < n))
        return false;
    packet->data -= n;
    packet->length += n;
    packet->csum_start = (uint16_t)(packet->csum_start + n);
    return true;
}

/* Take n bytes away in front. False: it is not that long. */
static inline bool packet_shift(struct packet *packet, uint32_t n)
{
    if (unlikely(packet->length < n))
        return false;
    packet->data += n;
    packet->length -= n;
    packet->csum_start = (uint16_t)(packet->csum_start - n);
    return true;
}

/* The packet as a device sees it. */
static inline uint64_t packet_iova(const struct packet *packet)
{
    return packet->iova + (uint64_t)(packet->data - (const uint8_t *)packet);
}

static inline void packet_copy_metadata(struct packet *to, const struct packet *from)
{
    to->flags = from->flags;
    to->gso_type = from->gso_type;
    to->gso_size = from->gso_size;
    to->csum_start = from->csum_start;
    to->csum_offset = from->csum_offset;
    to->hash = from->hash;
    to->rx_time = from->rx_time;
}

/* Copy a frame into a fresh packet, whole cache lines at a time: a slot's data room
 * is a multiple of 64 bytes, so that writing ends within it, and behind the last slot
 * of a page there is room to read. */
static inline void packet_copy_data(uint8_t *restrict to, const uint8_t *restrict from,
                                    uint32_t length)
{
    memcpy(to, from, 64);
    for (uint32_t i = 64; unlikely(i < length); i += 64)
        memcpy(to + i, from + i, 64);
}

/* A copy with data and metadata of its own, or NULL. */
static inline struct packet *packet_clone(struct freelist *freelist,
                                          const struct packet *packet)
{
    struct packet *copy = packet_alloc(freelist, packet->length);
    if (unlikely(!copy))
        return NULL;
    packet_copy_metadata(copy, packet);
    packet_copy_data(copy->data, packet->data, packet->length);
    return copy;
}

/* ---- links --------------------------------------------------------------- */

static inline uint32_t link_readable(const struct link *link)
{
    return link->write - link->read;
}

static inline uint32_t link_writable(const struct link *link)
{
    return LINK_CAPACITY - link_readable(link);
}

static inline struct packet **link_slot(struct link *link, uint32_t cursor)
{
    return &link->ring[cursor % LINK_CAPACITY];
}

/* The packets at the front of the ring that lie in one piece: sets *n to how many of
 * at most *n there are. They stay on the link until link_consume(). */
static inline struct packet *const *link_run(const struct link *link, uint32_t *n)
{
    uint32_t at = link->read % LINK_CAPACITY;
    *n = min_u32(min_u32(*n, link_readable(link)), LINK_CAPACITY - at);
    return &link->ring[at];
}

/* Copy n pointers out of or into the ring, around its end. */
static inline void link_peek(const struct link *link, struct packet **packets,
                             uint32_t n)
{
    uint32_t at = link->read % LINK_CAPACITY;
    uint32_t first = min_u32(n, LINK_CAPACITY - at);
    copy_pointers(packets, &link->ring[at], first);
    copy_pointers(packets + first, link->ring, n - first);
}

static inline void link_poke(struct link *link, struct packet *const *packets,
                             uint32_t n)
{
    uint32_t at = link->write % LINK_CAPACITY;
    uint32_t first = min_u32(n, LINK_CAPACITY - at);
    copy_pointers(&link->ring[at], packets, first);
    copy_pointers(link->ring, packets + first, n - first);
}

/* Bytes of the first n packets on the ring. All of them: the difference of two
 * counters, no packet is touched (bench hops: 0.6 -> 0.2 ns a hop). */
static inline uint64_t link_bytes(struct link *link, uint32_t n)
{
    if (likely(n == link_readable(link)))
        return link->counters->txbytes - link->counters->rxbytes;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        bytes += (*link_slot(link, link->read + i))->length;
    return bytes;
}

static inline void link_consume(struct link *link, uint32_t n, uint64_t bytes)
{
    link->read += n;
    link->counters->rxpackets += n;
    link->counters->rxbytes += bytes;
}

static inline void link_produce(struct link *link, uint32_t n, uint64_t bytes)
{
    link->write += n;
    link->counters->txpackets += n;
    link->counters->txbytes += bytes;
}

/* Take up to n packets off a link. Returns how many. */
static inline uint32_t link_receive_burst(struct link *link, struct packet **packets,
                                          uint32_t n)
{
    n = min_u32(n, link_readable(link));
    if (n == 0)
        return 0;
    link_peek(link, packets, n);
    link_consume(link, n, link_bytes(link, n));
    return n;
}

/* Put n packets of `bytes` bytes in sum on a link that has room for them: the
 * caller has looked at link_writable(). */
static inline void link_transmit_known(struct link *link,
                                       struct packet *const *packets, uint32_t n,
                                       uint64_t bytes)
{
    link_poke(link, packets, n);
    link_produce(link, n, bytes);
}

/* Put n packets on a link; what does not fit is freed and counted (txdrop).
 * Returns how many fitted. */
static inline uint32_t link_transmit_burst(struct link *link,
                                           struct packet *const *packets, uint32_t n)
{
    uint32_t fits = min_u32(n, link_writable(link));
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < fits; i++)
        bytes += packets[i]->length;
    link_transmit_known(link, packets, fits, bytes);
    if (unlikely(fits < n)) {
        link->counters->txdrop += n - fits;
        packet_free_burst(link->freelist, packets + fits, n - fits);
    }
    return fits;
}

static inline void link_transmit(struct link *link, struct packet *packet)
{
    link_transmit_burst(link, &packet, 1);
}

/* Move up to n packets from one link to another, as many as fit; the packets
 * themselves are not touched. Returns how many. */
static inline uint32_t link_move(struct link *from, struct link *to, uint32_t n)
{
    n = min_u32(n, min_u32(link_readable(from), link_writable(to)));
    for (uint32_t left = n; left > 0;) {
        uint32_t run = left;
        struct packet *const *packets = link_run(from, &run);
        uint64_t bytes = link_bytes(from, run);
        link_transmit_known(to, packets, run, bytes);
        link_consume(from, run, bytes);
        left -= run;
    }
    return n;
}

/* Free up to n packets of a link. Returns how many. */
static inline uint32_t link_discard(struct link *link, uint32_t n)
{
    n = min_u32(n, link_readable(link));
    for (uint32_t left = n; left > 0;) {
        uint32_t run = left;
        struct packet *const *packets = link_run(link, &run);
        uint64_t bytes = link_bytes(link, run);
        packet_free_burst(link->freelist, packets, run);
        link_consume(link, run, bytes);
        left -= run;
    }
    return n;
}

/* ---- histogram ----------------------------------------------------------- */

/* Buckets of equal width on a logarithmic scale: values below 4 have one each,
 * every octave above has four. Python's inverse is engine/histogram.py. */
static inline uint32_t histogram_bucket(uint64_t value)
{
    if (value < 1u << HISTOGRAM_SUBBITS)
        return (uint32_t)value;
    uint32_t octave = 63u - (uint32_t)__builtin_clzll(value);
    uint32_t sub = (uint32_t)(value >> (octave - HISTOGRAM_SUBBITS)) & 3u;
    return ((octave - HISTOGRAM_SUBBITS + 1) << HISTOGRAM_SUBBITS) + sub;
}

#endif
