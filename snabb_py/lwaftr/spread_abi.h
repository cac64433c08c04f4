/* Packets spread over the workers of an lwAFTR; see spread.c. */

enum {
    SPREAD_MAX_OUTPUTS = 64,
    SPREAD_MAX_HELD = 512,           /* fragments that wait for their first ones */
    SPREAD_MAX_HELD_OF_ONE = 64,     /* of one datagram */
    SPREAD_MAX_DATAGRAMS = 65536     /* whose worker is known */
};

enum { /* names in spread.py */
    SPREAD_FRAGMENTS_HELD,
    SPREAD_DROP_FRAGMENT_TIMEOUT,  /* the first one has not come */
    SPREAD_DROP_FRAGMENT_EVICTED,  /* others needed the room */
    SPREAD_DROP_FRAGMENT_TOO_MANY, /* of one datagram */
    SPREAD_FORGOTTEN_DATAGRAMS,    /* others needed the room: what comes of it waits */
    SPREAD_NCOUNTERS
};

/* A datagram whose first fragment has come. */
struct spread_known {
    struct datagram datagram;
    uint32_t output;
    uint32_t expected; /* where the next fragment begins if they come in order */
};

/* A datagram whose first fragment has not come. Indices are + 1; 0: none. */
struct spread_waiting {
    struct datagram datagram;
    uint32_t n; /* 1 at least */
    uint32_t first; /* to come, and so to go */
    uint32_t last;
    uint32_t reserved;
};

struct spread_held {
    struct packet *packet;
    uint32_t next; /* of its datagram; of free ones: the next free one */
    uint32_t start; /* of its payload in the datagram's */
    uint32_t end;
    uint32_t is_last;
};

struct spread {
    uint64_t seed[2];
    struct datagram_table known;   /* of struct spread_known */
    struct datagram_table waiting; /* of struct spread_waiting */
    uint32_t nheld;
    uint32_t nfresh; /* of held, that were ever in use */
    uint32_t free;
    uint32_t reserved;
    struct spread_held held[512];
};

extern const struct app_ops spread_ops;

/* Bytes that the tables need besides struct spread. */
uint64_t spread_memory_needed(void);

/* Begin, with nothing held.
 *
 * Args:      memory: zeroed, on a cache line; untouched as long as no fragments come.
 *            timeout: ns that fragments wait for the first one, and that it is known.
 *            seeds: six random words, which nobody outside can guess.
 */
void spread_init(struct spread *spread, uint8_t *memory, uint64_t timeout,
                 const uint64_t *seeds);
