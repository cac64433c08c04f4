/* The binding table: looked up in bursts. Built in binding_build.c. */

#include "snabb_py/lwaftr/binding_table.h"

enum { CHUNK = 64 }; /* packets whose lines are on their way at once */

const struct binding_address binding_no_address = {.first = BINDING_NO_ROW,
                                                   .psid_length = BINDING_NO_ADDRESS};
const struct softwire binding_no_softwire = {.br = BINDING_NO_BR};

static void lookup_chunk(const struct binding_table *t, const uint32_t *ipv4,
                         const uint16_t *port, uint32_t n, const struct softwire **out)
{
    const struct binding_address *addresses[CHUNK];
    uint64_t keys[CHUNK];
    for (uint32_t i = 0; i < n; i++) {
        keys[i] = binding_key(ipv4[i], port[i]);
        addresses[i] = binding_begin(t, keys[i]);
        __builtin_prefetch(addresses[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        out[i] = binding_place(t, binding_probe(t, addresses[i], ipv4[i]), &keys[i]);
        __builtin_prefetch(out[i]);
    }
    for (uint32_t i = 0; i < n; i++)
        out[i] = binding_settle(t, out[i], keys[i]);
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
    const struct binding_address *a =
        binding_probe(t, binding_begin(t, binding_key(ipv4, 0)), ipv4);
    return a->psid_length != BINDING_NO_ADDRESS ? a : NULL;
}

bool binding_table_has_address(const struct binding_table *t, uint32_t ipv4)
{
    return binding_table_address(t, ipv4) || is_in_range(t, ipv4);
}
