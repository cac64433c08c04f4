/* The binding table: looked up in bursts. Built in binding_build.c. */

#include "snabb_py/lwaftr/binding_table.h"

enum { CHUNK = 64 }; /* packets whose lines are on their way at once */

static const struct softwire none = {.br = BINDING_NO_BR};

/* The slot of an address: its own, or the free one that ends the search for it. */
static inline const struct binding_address *
probe_address(const struct binding_table *t, uint32_t ipv4, uint32_t slot)
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
static inline const struct softwire *place(const struct binding_table *t,
                                           const struct binding_address *a,
                                           uint32_t port, uint16_t *psid)
{
    *psid = 0;
    if (a->psid_length == BINDING_NO_ADDRESS || port < a->reserved)
        return &none;
    if (a->psid_length == 0)
        return &a->softwire;
    *psid = (uint16_t)(port >> a->shift & ((1u << a->psid_length) - 1));
    if (a->first != BINDING_HASHED)
        return &t->row[a->first + *psid];
    uint64_t key = binding_key(a->softwire.ipv4, *psid);
    return &t->hashed[binding_hash(t->seed, key) >> t->hashed_shift];
}

/* What place() led to, or NULL. In the row there is the right softwire or none; in the
 * hash it may stand further on. */
static inline const struct softwire *settle(const struct binding_table *t,
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

static void lookup_chunk(const struct binding_table *t, const uint32_t *ipv4,
                         const uint16_t *port, uint32_t n, const struct softwire **out)
{
    uint32_t slot[CHUNK];
    uint16_t psid[CHUNK];
    for (uint32_t i = 0; i < n; i++) {
        slot[i] = binding_address_slot(t, ipv4[i]);
        __builtin_prefetch(&t->addresses[slot[i]]);
    }
    for (uint32_t i = 0; i < n; i++) {
        out[i] = place(t, probe_address(t, ipv4[i], slot[i]), port[i], &psid[i]);
        __builtin_prefetch(out[i]);
    }
    for (uint32_t i = 0; i < n; i++)
        out[i] = settle(t, out[i], ipv4[i], psid[i]);
}

void binding_table_lookup(const struct binding_table *t, const uint32_t *ipv4,
                          const uint16_t *port, uint32_t n, const struct softwire **out)
{
    for (uint32_t i = 0; i < n; i += CHUNK)
        lookup_chunk(t, ipv4 + i, port + i, n - i < CHUNK ? n - i : CHUNK, out + i);
}

const struct softwire *binding_table_find(const struct binding_table *t, uint32_t ipv4,
                                          uint16_t port)
{
    const struct softwire *found;
    lookup_chunk(t, &ipv4, &port, 1, &found);
    return found;
}

static bool is_in_range(const struct binding_table *t, uint32_t ipv4)
{
    uint32_t low = 0, high = t->nranges; /* the first range that ends behind it */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->ranges[middle].last < ipv4)
            low = middle + 1;
        else
            high = middle;
    }
    return low < t->nranges && t->ranges[low].first <= ipv4;
}

const struct binding_address *binding_table_address(const struct binding_table *t,
                                                    uint32_t ipv4)
{
    uint32_t slot = binding_address_slot(t, ipv4);
    const struct binding_address *a = probe_address(t, ipv4, slot);
    return a->psid_length != BINDING_NO_ADDRESS ? a : NULL;
}

bool binding_table_has_address(const struct binding_table *t, uint32_t ipv4)
{
    return binding_table_address(t, ipv4) || is_in_range(t, ipv4);
}
