/* Configuration, state and counters of Fault; ports in fault.py. */

enum {
    FAULT_MAX_HELD = 64, /* packets that wait to be overtaken */
    FAULT_QUEUE = 16384  /* packets that wait for their delay to pass */
};

/* Probabilities are in units of 2^-32: 0 never, 2^32 always. */
struct fault_config {
    uint64_t seed;
    uint64_t drop;
    uint64_t corrupt;
    uint64_t duplicate;
    uint64_t reorder;
    uint64_t delay;    /* ns */
    uint64_t jitter;   /* ns, most that is added to the delay */
    uint32_t distance; /* most packets that overtake one */
    uint32_t reserved;
};

struct fault_held {
    struct packet *packet;
    uint64_t until; /* ns; goes by then, overtaken or not */
    uint32_t left;  /* packets that are still to overtake it */
    uint16_t is_duplicate;
    uint16_t is_overtaken;
};

struct fault_delayed {
    struct packet *packet;
    uint64_t due; /* ns; goes then, or right after its predecessor */
};

/* Cursors run freely; 0 <= write - read <= FAULT_QUEUE; nheld <= FAULT_MAX_HELD. */
struct fault_state {
    uint64_t seed;   /* of the config that the state was made from */
    uint64_t random; /* 0 packets so far: the seed */
    uint32_t is_seeded;
    uint32_t nheld;
    uint32_t read;
    uint32_t write;
    struct fault_delayed *queue; /* room for FAULT_QUEUE of them */
    struct fault_held held[64];
};

enum {
    FAULT_DROP_FAULT,
    FAULT_CORRUPTED,
    FAULT_DUPLICATED,
    FAULT_REORDERED,
    FAULT_DELAYED,
    FAULT_DROP_DELAY_QUEUE_FULL,
    FAULT_DROP_NO_PACKET,
    FAULT_NCOUNTERS
};

extern const struct app_ops fault_ops;
