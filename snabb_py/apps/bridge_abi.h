/* Configuration, state and counters of Bridge; ports in bridge.py. */

enum {
    BRIDGE_PORTS = 128,
    BRIDGE_WAYS = 4,         /* entries of a bucket, one cache line */
    BRIDGE_NO_VLAN = 0xffff, /* bridge_port.native: untagged frames are refused */
    BRIDGE_NOBODY = 0xffff   /* a port's number where there is none */
};

/* A port as Python has described it; one that is linked and not described is that of a
 * plain bridge: native 0, nothing tagged. */
struct bridge_port {
    uint64_t tagged[64]; /* bit n: frames in VLAN n come and go with their tag */
    uint16_t native;     /* VLAN of frames without one; 0 is one of its own */
    uint8_t flood;       /* gets frames to addresses that nobody has been seen with */
    uint8_t check_source; /* may send from its own addresses only */
    uint8_t forget;      /* it is another port than before: forget its addresses */
    uint8_t reserved[3];
    uint32_t limit; /* addresses that it may have learned */
    uint32_t reserved1;
};

struct bridge_address {
    uint64_t key; /* see bridge.c */
    uint16_t port;
    uint16_t reserved[3];
};

struct bridge_config {
    struct bridge_port ports[128];
    const struct bridge_address *addresses; /* that ports own */
    uint32_t naddresses;
    uint32_t age_s;
    uint64_t serial; /* another one for each config that a bridge gets */
};

struct bridge_entry {
    uint64_t key;  /* 0: free */
    uint32_t seen; /* s on CLOCK_MONOTONIC */
    uint16_t port;
    uint16_t is_owned; /* by config: does not age, does not move */
};

struct bridge_state {
    struct bridge_entry *entries; /* buckets of BRIDGE_WAYS */
    uint64_t mask;                /* number of buckets - 1, they are a power of 2 */
    uint64_t seed;                /* nobody outside can fill a bucket on purpose */
    uint64_t serial;              /* of the config that is applied */
    uint32_t swept;               /* bucket where the next tick goes on */
    uint32_t turn;                /* port that is served first */
    uint32_t learned[128];        /* addresses of each port that may age */
    uint32_t staged[128];         /* packets behind the write cursor of an output */
    uint64_t staged_bytes[128];
};

enum {
    BRIDGE_DROP_RUNT,
    BRIDGE_DROP_VLAN,
    BRIDGE_DROP_SOURCE,
    BRIDGE_DROP_RESERVED,
    BRIDGE_DROP_SAME_PORT,
    BRIDGE_DROP_NO_PORT,
    BRIDGE_DROP_NO_PACKET,
    BRIDGE_DROP_NO_HEADROOM,
    BRIDGE_FLOODED,
    BRIDGE_LEARNED,
    BRIDGE_MOVED,
    BRIDGE_UNLEARNED_PORT_FULL,
    BRIDGE_UNLEARNED_TABLE_FULL,
    BRIDGE_NCOUNTERS
};
extern const struct app_ops bridge_ops;

/* The key of an address in a VLAN; mac: eight bytes, the last two do not matter. */
uint64_t bridge_key(const uint8_t *mac, uint16_t vlan);
