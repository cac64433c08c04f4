#ifndef SNABB_PY_LWAFTR_BINDING_TABLE_H
#define SNABB_PY_LWAFTR_BINDING_TABLE_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/lwaftr/binding_table_abi.h"

_Static_assert(sizeof(struct softwire) == 32, "two to a cache line");
_Static_assert(sizeof(struct binding_address) == 16, "four to a cache line");
_Static_assert(offsetof(struct softwire, br) == 0 && offsetof(struct softwire, psid) == 2 &&
                   offsetof(struct softwire, ipv4) == 4 &&
                   __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "binding_key() has the layout of a softwire");

/* The multipliers of MurmurHash3's finalizer; the top bits are the slot. */
static inline uint64_t binding_hash(uint64_t seed, uint64_t key)
{
    uint64_t h = (key ^ seed) * 0xff51afd7ed558ccd;
    h ^= h >> 32;
    return h * 0xc4ceb9fe1a85ec53;
}

/* What a softwire begins with, but for its br: 0 here. Of an address and a port what is
 * looked up, of an address and a PSID what is found. */
static inline uint64_t binding_key(uint32_t ipv4, uint16_t port_or_psid)
{
    return (uint64_t)ipv4 << 32 | (uint32_t)port_or_psid << 16;
}

static inline uint32_t binding_key_ipv4(uint64_t key)
{
    return (uint32_t)(key >> 32);
}

static inline uint64_t softwire_word(const struct softwire *s)
{
    uint64_t word;
    memcpy(&word, s, sizeof(word));
    return word;
}

/* One comparison: if all else is the same the difference is the br. */
static inline bool softwire_has_key(const struct softwire *s, uint64_t key)
{
    return (softwire_word(s) ^ key) < BINDING_NO_BR;
}

static inline uint32_t binding_address_mask(const struct binding_table *t)
{
    return UINT32_MAX >> t->address_shift;
}

static inline uint32_t binding_hashed_mask(const struct binding_table *t)
{
    return (uint32_t)(UINT64_MAX >> t->hashed_shift);
}

/* Multiplied by the golden ratio, addresses in a row, as they mostly are, fall far from
 * each other (Knuth, The Art of Computer Programming 3, 6.4): hardly a second probe. */
static inline uint32_t binding_address_slot(const struct binding_table *t,
                                            uint32_t ipv4)
{
    return ipv4 * t->multiplier >> t->address_shift;
}

/* ---- the steps of binding_table_lookup(), for bursts that do something else on the way:
 * what the first returns is prefetched before the second, and so on ---- */

extern const struct binding_address binding_no_address;
extern const struct softwire binding_no_softwire;

/* Where the search for the address of a key begins. */
static inline const struct binding_address *
binding_begin(const struct binding_table *t, uint64_t key)
{
    return &t->addresses[binding_address_slot(t, binding_key_ipv4(key))];
}

/* The slot of an address: its own, or the free one that ends the search for it. */
static inline const struct binding_address *
binding_probe(const struct binding_table *t, const struct binding_address *a, uint32_t ipv4)
{
    uint32_t mask = binding_address_mask(t);
    while (unlikely(a->ipv4 != ipv4) && a->psid_length != BINDING_NO_ADDRESS)
        a = &t->addresses[(uint32_t)(a - t->addresses + 1) & mask];
    return a;
}

/* Where the softwire of an address and port would be; *key becomes what must stand
 * there. */
static inline const struct softwire *binding_place(const struct binding_table *t,
                                                   const struct binding_address *a,
                                                   uint64_t *key)
{
    uint32_t port = (uint32_t)*key >> 16, psid = port >> a->shift & a->psid_mask;
    if (unlikely(port < a->reserved))
        return &binding_no_softwire;
    *key = (*key & ~0xffff0000ull) | psid << 16;
    if (likely(a->first < BINDING_NO_ROW))
        return &t->row[a->first + psid];
    if (a->first == BINDING_NO_ROW)
        return &binding_no_softwire;
    return &t->hashed[binding_hash(t->seed, *key) >> t->hashed_shift];
}

/* What binding_place() led to, or NULL. In the row there is the right softwire or none;
 * in the hash it may stand further on. */
static inline const struct softwire *
binding_settle(const struct binding_table *t, const struct softwire *s, uint64_t key)
{
    while (!softwire_has_key(s, key)) {
        if (s->br == BINDING_NO_BR)
            return NULL;
        uint32_t slot = (uint32_t)(s - t->hashed) + 1;
        s = &t->hashed[slot & binding_hashed_mask(t)];
    }
    return s;
}

/* Whether anything in the same /16 is managed. */
static inline uint32_t binding_has_neighbors(const struct binding_table *t, uint32_t ipv4)
{
    return t->managed[ipv4 >> 21] >> (ipv4 >> 16 & 31) & 1;
}

/* binding_table_has_address(), and what mostly answers it: packets to the internet are
 * to addresses that have nothing near them in the table. */
static inline bool binding_table_is_managed(const struct binding_table *t,
                                            uint32_t ipv4)
{
    return binding_has_neighbors(t, ipv4) && binding_table_has_address(t, ipv4);
}

#endif
