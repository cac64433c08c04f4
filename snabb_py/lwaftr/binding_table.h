#ifndef SNABB_PY_LWAFTR_BINDING_TABLE_H
#define SNABB_PY_LWAFTR_BINDING_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "snabb_py/lwaftr/binding_table_abi.h"

_Static_assert(sizeof(struct softwire) == 24, "no padding");
_Static_assert(sizeof(struct binding_address) == 32, "two to a cache line");

/* The multipliers of MurmurHash3's finalizer; the top bits are the slot. */
static inline uint64_t binding_hash(uint64_t seed, uint64_t key)
{
    uint64_t h = (key ^ seed) * 0xff51afd7ed558ccd;
    h ^= h >> 32;
    return h * 0xc4ceb9fe1a85ec53;
}

static inline uint64_t binding_key(uint32_t ipv4, uint16_t psid)
{
    return (uint64_t)ipv4 << 16 | psid;
}

static inline uint32_t binding_slot_mask(uint32_t shift)
{
    return (uint32_t)(UINT64_MAX >> shift);
}

/* Multiplied by the golden ratio, addresses in a row, as they mostly are, fall far from
 * each other (Knuth, The Art of Computer Programming 3, 6.4): hardly a second probe, and
 * no branch mispredicted for it. */
static inline uint32_t binding_address_slot(const struct binding_table *t,
                                            uint32_t ipv4)
{
    return (uint32_t)(ipv4 * t->multiplier >> t->address_shift);
}

/* ---- the steps of binding_table_lookup(), for bursts that do something else on the way:
 * the slot is prefetched before the first, what the second finds before the third ---- */

extern const struct softwire binding_no_softwire;

/* The slot of an address: its own, or the free one that ends the search for it. */
static inline const struct binding_address *
binding_probe(const struct binding_table *t, uint32_t ipv4, uint32_t slot)
{
    uint32_t mask = binding_slot_mask(t->address_shift);
    const struct binding_address *a = &t->addresses[slot];
    while (a->softwire.ipv4 != ipv4 && a->psid_length != BINDING_NO_ADDRESS) {
        slot = (slot + 1) & mask;
        a = &t->addresses[slot];
    }
    return a;
}

/* Where the softwire of an address and port would be; *psid: what must stand there. */
static inline const struct softwire *binding_place(const struct binding_table *t,
                                           const struct binding_address *a,
                                           uint32_t port, uint16_t *psid)
{
    *psid = 0;
    if (a->psid_length == BINDING_NO_ADDRESS || port < a->reserved)
        return &binding_no_softwire;
    if (a->psid_length == 0)
        return &a->softwire;
    *psid = (uint16_t)(port >> a->shift & ((1u << a->psid_length) - 1));
    if (a->first != BINDING_HASHED)
        return &t->row[a->first + *psid];
    uint64_t key = binding_key(a->softwire.ipv4, *psid);
    return &t->hashed[binding_hash(t->seed, key) >> t->hashed_shift];
}

/* What binding_place() led to, or NULL. In the row there is the right softwire or none; in the
 * hash it may stand further on. */
static inline const struct softwire *binding_settle(const struct binding_table *t,
                                            const struct softwire *s, uint32_t ipv4,
                                            uint16_t psid)
{
    while (s->br != BINDING_NO_BR) {
        if (s->psid == psid && s->ipv4 == ipv4)
            return s;
        uint32_t slot = (uint32_t)(s - t->hashed) + 1;
        s = &t->hashed[slot & binding_slot_mask(t->hashed_shift)];
    }
    return NULL;
}

/* binding_table_has_address(), and what mostly answers it: packets to the internet are
 * to addresses that have nothing near them in the table. */
static inline bool binding_table_is_managed(const struct binding_table *t,
                                            uint32_t ipv4)
{
    return (t->managed[ipv4 >> 22] >> (ipv4 >> 16 & 63) & 1) &&
           binding_table_has_address(t, ipv4);
}

#endif
