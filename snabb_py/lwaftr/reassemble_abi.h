/* Reassembly of IPv4, IPv6 and tunnelled IPv4 datagrams; see reassemble.c.
 *
 * All fragments of a datagram must come to one reassembler, that is to one worker:
 * spread.c sees to it. Their order does not matter.
 */

enum {
    REASSEMBLY_MAX_FRAGMENTS = 128, /* more are never taken for one datagram */
    REASSEMBLY_IPV4 = 0, /* reassembler.kind */
    REASSEMBLY_IPV6 = 1,
    REASSEMBLY_TUNNELLED = 2 /* IPv4 fragments in whole IPv6 packets */
};

/* Payload bytes [start, end) of a datagram. */
struct reassembly_range {
    uint16_t start;
    uint16_t end;
};

/* A datagram of which fragments have come. */
struct reassembly {
    struct datagram datagram;
    /* The first fragment to come; the others are copied into its slot: payload byte i is
     * at data + header + i. */
    struct packet *packet;
    uint16_t header;   /* bytes of the frame in front of the payload */
    uint16_t received; /* payload bytes */
    uint16_t highest;  /* end of the furthest fragment */
    uint16_t length;   /* of the whole payload; 0: the last fragment has not come */
    uint16_t nranges; /* fragments that have come, but for duplicates */
    uint16_t reserved[3];
    struct reassembly_range ranges[128]; /* in order, disjoint */
    uint64_t reserved1[5];
};

/* One for each side of a worker. */
struct reassembler {
    struct datagram_table table; /* of struct reassembly; each holds a packet */
    uint32_t max_fragments;
    uint32_t kind;
    uint32_t compat;     /* as Snabb has it */
    uint32_t nfragments; /* of all datagrams in the table */
};

/* Bytes that a reassembler of so many datagrams needs besides its struct. */
uint64_t reassembler_memory_needed(uint32_t capacity);

/* Make an empty reassembler.
 *
 * Args:      memory: zeroed, on a cache line; untouched as long as no fragments come.
 *            capacity: datagrams at once, 1 at least. Each holds one packet of the
 *            pool, which must have them to spare: not more than a part of it.
 *            max_fragments: of a datagram; REASSEMBLY_MAX_FRAGMENTS at most counts.
 *            timeout: ns from a datagram's first fragment to come; 0: never.
 *            seed: two random words, which nobody outside can guess.
 *            compat: Snabb's behaviour, bugs included.
 */
void reassembler_init(struct reassembler *reassembler, uint8_t *memory, uint32_t kind,
                      uint32_t capacity, uint32_t max_fragments, uint64_t timeout,
                      const uint64_t *seed, bool compat);

/* Take an untagged frame, whatever it is, to the reassembler of its side. One that is
 * not a fragment comes back at once; a fragment may complete its datagram, which comes
 * back whole. NULL: it is kept, or dropped. All is counted.
 *
 * Args:      counters: the LWAFTR_* of the app.
 */
struct packet *reassemble_ipv4(struct reassembler *reassembler,
                               struct freelist *freelist, struct packet *packet,
                               uint64_t now, uint64_t *counters);
struct packet *reassemble_ipv6(struct reassembler *reassembler,
                               struct freelist *freelist, struct packet *packet,
                               uint64_t now, uint64_t *counters);
/* The same for a frame of IPv6 in which IPv4 is tunnelled, behind the header or behind
 * destination options (RFC 7597, 8.3): fragments from one source become one IPv6 packet
 * with one datagram.
 * Any other frame comes back uncounted; datagrams count with those of IPv4. */
struct packet *reassemble_tunnelled(struct reassembler *reassembler,
                                    struct freelist *freelist, struct packet *packet,
                                    uint64_t now, uint64_t *counters);

/* Let datagrams go whose time is over, max at most; call it at every tick.
 *
 * Args:      expired: room for max packets: the first fragments (offset 0) of those
 *            that had theirs, as they came. They are the caller's, to be quoted in ICMP
 *            "fragment reassembly time exceeded" (11/1, ICMPv6 3/1) and freed. None in
 *            compat.
 * Returns:   how many are in expired.
 */
uint32_t reassembler_tick(struct reassembler *reassembler, struct freelist *freelist,
                          uint64_t now, uint64_t *counters, struct packet **expired,
                          uint32_t max);

/* Free all packets that are held and forget all datagrams. Returns how many packets. */
uint32_t reassembler_retire(struct reassembler *reassembler, struct freelist *freelist);

/* Packets that are held. */
uint32_t reassembler_held(const struct reassembler *reassembler);
