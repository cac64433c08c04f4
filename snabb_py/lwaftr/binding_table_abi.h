/* The binding table: whose IPv4 address and ports are behind which B4 (RFC 7596, 6.1).
 *
 * Immutable once built; any number of workers read it without a lock. Addresses are in
 * a hash of their own. The softwires of an address lie in a row by PSID, or, where that
 * would be mostly holes, in a second hash: one line of the address, mostly in the cache,
 * and one of the softwire. */

enum {
    BINDING_NO_BR = 0xffff,          /* softwire.br: there is no softwire here */
    BINDING_NO_ADDRESS = 0xff,       /* binding_address.psid_length: a free slot */
    BINDING_NO_ROW = 0xfffffffe,     /* binding_address.first, of a free slot */
    BINDING_HASHED = 0xffffffff      /* the same: look in the second hash */
};

/* Half a cache line, so that none lies across two. The first 8 bytes are compared as
 * one; see binding_key(). */
struct softwire {
    uint16_t br;   /* index into binding_table.br, or BINDING_NO_BR */
    uint16_t psid;
    uint32_t ipv4; /* host order */
    uint8_t b4[16];
    uint64_t reserved;
};

struct binding_address {
    uint32_t ipv4;       /* host order */
    uint32_t first;      /* of the softwires in the row, or BINDING_HASHED */
    uint16_t reserved;   /* ports below this one are nobody's */
    uint16_t psid_mask;  /* PSID = port >> shift & psid_mask */
    uint8_t shift;
    uint8_t psid_length; /* bits of the mask, or BINDING_NO_ADDRESS */
    uint16_t padding;
};

struct binding_range { /* of addresses that are managed, with softwires or without */
    uint32_t first;
    uint32_t last;
};

struct binding_table {
    uint64_t seed;                     /* of the hash of softwires */
    struct binding_address *addresses; /* a hash; never full */
    struct softwire *row;              /* those of each address, by PSID */
    struct softwire *hashed;           /* a hash; never full */
    uint8_t (*br)[16];
    struct binding_range *ranges;      /* sorted, disjoint; only of the old format */
    uint64_t memory;                   /* bytes of all these, in one piece */
    uint64_t nrow;                     /* slots, with and without softwires */
    uint32_t multiplier;               /* of the hash of addresses; odd */
    uint32_t address_shift;            /* hash >> this: a slot */
    uint32_t hashed_shift;
    uint32_t nbr;
    uint32_t nranges;
    uint32_t naddresses;
    uint32_t nsoftwires;
    uint32_t reserved;
    uint32_t managed[2048];            /* a bit for each /16 that has a managed address */
};

/* The softwires of many packets at once: out[i] is that of ipv4[i] (host order) and
 * port[i] (host order), or NULL. Prefetches; any n. */
void binding_table_lookup(const struct binding_table *t, const uint32_t *ipv4,
                          const uint16_t *port, uint32_t n,
                          const struct softwire **out);

/* The same for one. */
const struct softwire *binding_table_find(const struct binding_table *t, uint32_t ipv4,
                                          uint16_t port);

/* What is known of an address, or NULL: it has no softwires. */
const struct binding_address *binding_table_address(const struct binding_table *t,
                                                    uint32_t ipv4);

/* Whether an address is behind us, all its ports, some or none: packets to it are
 * hairpinned. */
bool binding_table_has_address(const struct binding_table *t, uint32_t ipv4);
