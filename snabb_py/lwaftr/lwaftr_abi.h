/* The lwAFTR's app: what is configured, what it keeps. The way of a packet is in
 * lwaftr_burst.c (the common ones), lwaftr_edge.c and lwaftr_core.c (all others). */

enum { /* sides: ports of the app, and packets by where they came from */
    LWAFTR_V4 = 0, /* external: the internet */
    LWAFTR_V6 = 1, /* internal: the B4s */
    LWAFTR_NSIDES = 2,
    LWAFTR_TUNNELLED = 2, /* a third reassembler, for IPv4 fragments in tunnels */
    LWAFTR_NREASSEMBLERS = 3,
    LWAFTR_BURST = 64 /* packets: so few that all that is known of them stays near */
};

/* A filter: no program, everything matches. */
struct lwaftr_filter {
    const struct bpf_instruction *program;
    bpf_fn code; /* the same, where there is machine code */
};

struct lwaftr_side {
    const struct neighbor_config *neighbor;
    struct next_hop *next_hop; /* known to all of several workers; NULL: to each */
    struct lwaftr_filter ingress;
    struct lwaftr_filter egress;
    uint64_t error_period; /* ns */
    uint32_t error_packets; /* ICMP errors in each period, at most */
    uint32_t mtu;           /* of IP packets */
    uint32_t max_fragments; /* of a packet to be reassembled */
    uint16_t vlan;
    uint8_t is_tagged; /* frames carry the tag of this VLAN */
    uint8_t allow_incoming_icmp;
    uint8_t generate_icmp_errors;
    uint8_t reserved[7];
};

struct lwaftr_config {
    uint64_t serial; /* tells one config from another that lay in the same place */
    const struct binding_table *table;
    struct lwaftr_side side[2];
    uint32_t flow_label;
    uint8_t hairpinning;
    uint8_t compat; /* as Snabb has it, where that is not what the RFCs say */
    uint8_t worker; /* of several: the first one (0) asks for next hops */
    uint8_t worker_bits; /* of an IPv6 fragment's identification, to tell them apart */
};

/* Packets on their way out, put on the link a burst at a time. */
struct lwaftr_queue {
    struct link *link;
    uint64_t bytes;
    uint32_t n;
    uint32_t reserved;
    struct packet *packets[64];
};

/* ICMP errors that were sent since. */
struct lwaftr_rate {
    uint64_t since;
    uint32_t n;
    uint32_t reserved;
};

struct lwaftr {
    struct neighbor *neighbor[2];
    struct neighbor_config *neighbor_config[2]; /* what that is set up for */
    struct reassembler *reassembler[3];
    uint64_t serial; /* of the config that all this is set up for */
    struct lwaftr_rate rate[2];
    uint32_t ipv4_id; /* of the datagram that was last cut up */
    uint32_t ipv6_id;
    /* Of this turn: from the app, so that all functions take one argument. */
    const struct lwaftr_config *config;
    uint64_t *counters;
    struct freelist *freelist;
    uint64_t now;
    struct lwaftr_queue out[2];
};

extern const struct app_ops lwaftr_ops;
