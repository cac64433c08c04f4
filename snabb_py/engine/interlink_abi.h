/* A ring between two workers: single producer, single consumer. Each side has a
 * cache line of its own and a remembered copy of the other's cursor, so that the
 * lines travel once per burst. Invariant: 0 <= write - read <= INTERLINK_CAPACITY. */

enum { INTERLINK_CAPACITY = 2048 };

struct interlink {
    uint64_t write; /* producer's line */
    uint64_t read_seen;
    uint64_t reserved0[6];
    uint64_t read; /* consumer's line */
    uint64_t write_seen;
    uint64_t reserved1[6];
    uint64_t sleeping; /* the consumer waits on wake_fd */
    int wake_fd;       /* eventfd */
    int reserved2;
    uint64_t reserved3[6];
    struct packet *ring[2048];
};

extern const struct app_ops interlink_transmitter_ops;
extern const struct app_ops interlink_receiver_ops;

/* Take back what neither side will: up to npackets of what is still on the ring,
 * once both apps have left the network. Returns how many. */
uint32_t interlink_reclaim(struct interlink *interlink, struct packet **packets,
                           uint32_t npackets);
