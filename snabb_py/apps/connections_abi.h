/* Connections that a filter has let through, so that replies may come back; see
 * connections.c. */

enum {
    CONNECTIONS_WAYS = 8, /* entries of a bucket */
    CONNECTION_MAX_TAGS = 2
};

/* Ends of a connection in an order of their own, so that both directions have the same
 * key. Whole words: what is stored in pieces and read as words is waited for (a packet of
 * a known connection: 23 -> 17 ns). */
struct connection_key {
    uint64_t address[2][2]; /* IPv4: 4 bytes, then zeros */
    uint64_t ids;  /* 16 bits each: of the ends (ports of TCP and UDP, the identifier of
                      an ICMP query, twice), VLANs outer and inner (0: none) */
    uint64_t kind; /* 8 bits each: protocol and version of IP, CONNECTION_* */
};

enum { /* in connection_key.kind */
    CONNECTION_PLAIN = 0,
    CONNECTION_FRAGMENT = 1 << 16 /* fragments of one datagram, in one direction */
};

/* Tags and deadlines are one cache line: a bucket is searched in it alone. */
struct connection_bucket {
    uint32_t tag[8];      /* of the hash, 0: free */
    uint32_t deadline[8]; /* s on CLOCK_MONOTONIC; over: free */
    uint8_t seen[8];      /* CONNECTION_SEEN_* */
    uint8_t reserved[56];
    struct connection_key key[8];
};

enum {
    CONNECTION_SEEN_A = 1, /* a packet in this direction */
    CONNECTION_SEEN_B = 2,
    CONNECTION_FIN_A = 4, /* the last one in this direction */
    CONNECTION_FIN_B = 8
};

/* Shared by the apps of one worker, which the first of them to come makes its own. */
struct connections {
    struct connection_bucket *buckets;
    uint64_t mask; /* number of buckets - 1, they are a power of 2 */
    uint64_t seed; /* nobody outside can choose keys that fall into one bucket */
    struct worker *owner;
};

enum { /* s without a packet, after which a connection is forgotten */
    CONNECTION_TCP_S = 7200,    /* packets went both ways */
    CONNECTION_TCP_HALF_S = 60, /* not yet */
    CONNECTION_TCP_END_S = 20,  /* both ends have sent FIN, or one RST */
    CONNECTION_UDP_S = 180,
    CONNECTION_ICMP_S = 30,
    CONNECTION_OTHER_S = 600,
    CONNECTION_FRAGMENT_S = 30
};
