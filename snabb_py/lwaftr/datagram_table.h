#ifndef SNABB_PY_LWAFTR_DATAGRAM_TABLE_H
#define SNABB_PY_LWAFTR_DATAGRAM_TABLE_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/lwaftr/datagram_table_abi.h"

_Static_assert(sizeof(struct datagram) == 64, "what is looked at first is one line");

/* Multiplied to 128 bits and folded, a word at a time, as in wyhash (Wang Yi). Nobody
 * who does not know the seed can make words of one hash. */
static inline uint64_t keyed_hash(const uint64_t *seed, const uint64_t *words, uint32_t n)
{
    uint64_t hash = seed[0];
    for (uint32_t i = 0; i <= n; i++) {
        uint64_t a = i < n ? words[i] ^ hash : hash;
        uint64_t b = i < n ? seed[1] ^ 0xa0761d6478bd642fu : seed[0] ^ 0xe7037ed1a0b428dbu;
        unsigned __int128 product = (unsigned __int128)a * b;
        hash = (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    return hash;
}

/* Bytes that a table needs besides its struct. */
uint64_t datagram_table_memory_needed(uint32_t stride, uint32_t capacity);

/* Make an empty table.
 *
 * Args:      memory: zeroed, on a cache line; untouched as long as no datagrams come.
 *            stride: bytes of an entry, which begins with a struct datagram.
 *            capacity: datagrams at once, 1 at least.
 *            timeout: ns from when one was inserted; 0: never.
 *            seed: two random words, which nobody outside can guess.
 */
void datagram_table_init(struct datagram_table *table, uint8_t *memory, uint32_t stride,
                         uint32_t capacity, uint64_t timeout, const uint64_t *seed);

/* NULL: there is none. */
void *datagram_find(const struct datagram_table *table, const uint64_t *key);

/* Add a datagram of a subscriber (two words), which is not there; there is room. What
 * its entry holds behind the struct datagram is the caller's to fill in. */
void *datagram_insert(struct datagram_table *table, const uint64_t *key,
                      const uint64_t *subscriber, uint64_t now);

/* Take a datagram out; the rest of its entry stays as it is until the next insert. */
void datagram_remove(struct datagram_table *table, void *entry);

/* Who has to make room. There is a datagram. */
void *datagram_victim(struct datagram_table *table);

/* The next datagram whose time is over, to be removed, in as many queues as *nqueues
 * says, which counts down; NULL: there is none any more. */
void *datagram_expired(struct datagram_table *table, uint64_t now, uint32_t *nqueues);

#endif
