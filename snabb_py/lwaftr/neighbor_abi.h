/* The next hop of a side, and answers to who asks for ours: ARP (RFC 826) and neighbour
 * discovery (RFC 4861); see neighbor.c. */

enum { NEIGHBOR_WAITING_MAX = 1024 }; /* frames that wait for the next hop's MAC */

/* What is configured: immutable. IPv4 addresses are the first 4 bytes. */
struct neighbor_config {
    uint8_t mac[6];          /* own */
    uint8_t next_hop_mac[6]; /* when the next hop is given by its MAC */
    uint8_t ip[16];          /* own */
    uint8_t next_hop[16];    /* when it is given by its address */
    uint8_t is_ipv6;
    uint8_t is_static; /* given by its MAC: nothing is ever asked */
    uint8_t compat;    /* as Snabb has it: never refreshed; DAD is not answered */
    uint8_t reserved;
};

enum { /* neighbor.state (RFC 4861, 7.3.2; RFC 7048) */
    NEIGHBOR_INCOMPLETE,  /* frames wait */
    NEIGHBOR_STATIC,
    NEIGHBOR_REACHABLE,   /* until deadline; then it is probed */
    NEIGHBOR_STALE,       /* known, not confirmed; at deadline it is probed */
    NEIGHBOR_PROBE,       /* asked directly; the next time at deadline */
    NEIGHBOR_UNREACHABLE  /* asked by multicast; its last address is still used */
};

struct neighbor {
    uint8_t ethernet[12]; /* destination and source of frames to the next hop */
    uint32_t state;
    uint64_t deadline; /* of the state; of a request while it is not resolved */
    uint32_t nprobes;
    uint32_t nwaiting;
    struct packet *waiting[1024];
};

/* Where a next hop is, told by the worker that asks for it to the others, which forward
 * to it, too: a MAC address, and a bit that it is one. */
struct next_hop {
    uint64_t told;
    uint64_t reserved[7]; /* of its cache line */
};

enum {                 /* what became of a frame */
    NEIGHBOR_PASS,     /* not for neighbours: it goes on */
    NEIGHBOR_CONSUMED, /* free it; the next hop may have become known */
    NEIGHBOR_REPLY     /* it has become the reply, to be sent out of the same side */
};

/* Begin: a next hop with a MAC is known at once, another one is asked for at the first
 * tick. */
void neighbor_init(struct neighbor *neighbor, const struct neighbor_config *config);

/* Take over another config; what is known of the same next hop stays known, frames that
 * wait go on waiting. */
void neighbor_reconfigure(struct neighbor *neighbor, const struct neighbor_config *old,
                          const struct neighbor_config *config);

/* An untagged frame that came in: NEIGHBOR_PASS and so on. counters: the LWAFTR_* of
 * the app; a reply is counted, too. */
int neighbor_input_arp(struct neighbor *neighbor, const struct neighbor_config *config,
                       struct packet *packet, uint64_t now, uint64_t *counters);
int neighbor_input_ndp(struct neighbor *neighbor, const struct neighbor_config *config,
                       struct packet *packet, uint64_t now, uint64_t *counters);

/* The request that is due, to be sent, or NULL; call it at every tick. */
struct packet *neighbor_tick(struct neighbor *neighbor,
                             const struct neighbor_config *config,
                             struct freelist *freelist, uint64_t now,
                             uint64_t *counters);

/* Keep a frame until the next hop is known. False: too many are; it is the caller's to
 * drop and count. */
bool neighbor_wait(struct neighbor *neighbor, struct packet *packet);

/* Once the next hop is known: take up to max of the frames that waited, the first
 * first, addressed. Returns how many. */
uint32_t neighbor_release(struct neighbor *neighbor, struct packet **out, uint32_t max);

/* Tell other workers where the next hop is. */
void neighbor_tell(const struct neighbor *neighbor, struct next_hop *next_hop);
/* Take over what another worker knows of it; for who never calls neighbor_tick(). */
void neighbor_heed(struct neighbor *neighbor, const struct next_hop *next_hop);

/* Free the frames that wait. Returns how many. */
uint32_t neighbor_retire(struct neighbor *neighbor, struct freelist *freelist);
