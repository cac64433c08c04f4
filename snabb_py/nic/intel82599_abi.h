/* The 82599 driver's data path: one receive and one transmit ring, an app.
 *
 * Python (intel82599.py) sets the card up and owns all memory here; C moves packets
 * and touches no register but the two tails, and the interrupt's mask before it sleeps.
 * Descriptors are little-endian words as the data sheet has them (7.1.6, 7.2.3.2).
 */

enum {
    INTEL82599_RING_MIN = 64, /* descriptors; a power of two */
    INTEL82599_RING_MAX = 4096,
    INTEL82599_BUFFER_KIB = 10, /* SRRCTL.BSIZEPACKET: a small slot's data room */
    /* Descriptors between two reports of completion (RS), and between two writes of the
     * receive tail: a write to a card takes as long as the work on many packets. */
    INTEL82599_BATCH = 32
};

/* A queue's counters, then those of the whole card, which Python reads from its
 * statistics registers. Names in intel82599.py. */
enum {
    INTEL82599_RX_PACKETS, /* handed on */
    INTEL82599_RX_BYTES,   /* without FCS */
    INTEL82599_TX_PACKETS, /* given to the card */
    INTEL82599_TX_BYTES,
    INTEL82599_RX_NO_PACKET,       /* times the pool was dry; they wait in the ring */
    INTEL82599_DROP_RX_BAD_FRAME,  /* the card says so (RXE) */
    INTEL82599_DROP_RX_TOO_LONG,   /* in several buffers, or of no length */
    INTEL82599_DROP_TX_TOO_LONG,   /* longer than the MTU lets through, or of no length */
    INTEL82599_DROP_TX_BAD_OFFLOAD,
    INTEL82599_DROP_TX_CARD_GONE,
    INTEL82599_NCOUNTERS
};

struct intel82599_rx {
    uint64_t *ring;           /* two words to the descriptor */
    struct packet **packets;  /* whose buffer each descriptor has */
    volatile uint32_t *tail;
    uint32_t n;      /* descriptors; 0: this queue does not receive */
    uint32_t filled; /* descriptors that have a packet: all, once it runs */
    uint32_t next;   /* cursor: the first descriptor that we have not taken back */
    uint32_t given; /* cursor: the card has all before; next <= given <= next + n - 1 */
};

struct intel82599_tx {
    uint64_t *ring;
    struct packet **packets; /* at the last descriptor of each packet, else NULL */
    uint32_t *marks;         /* n / BATCH cursors: descriptors that report */
    volatile uint32_t *tail;
    uint32_t n;     /* descriptors; 0: this queue does not transmit */
    uint32_t next;  /* cursor: the first free descriptor */
    uint32_t clean; /* cursor: the first that may still be the card's */
    uint32_t unreported; /* descriptors since the last mark */
    uint32_t first_mark; /* cursors in marks */
    uint32_t last_mark;
    uint32_t holes;      /* of [clean, next): descriptors without a packet */
    uint32_t max_length; /* bytes of a frame without FCS */
    uint32_t has_context; /* context 1 on the card is as below */
    uint64_t context[2];
    uint64_t command; /* bits that each data descriptor has: CC with pools */
    uint64_t reported; /* descriptors that have come back: Python sees it move */
};

/* A queue pair, the app's state. */
struct intel82599_queue {
    struct intel82599_rx rx;
    struct intel82599_tx tx;
    uint32_t is_gone; /* Python has seen that the card is dead */
    /* To be woken by the card: -1, or its eventfd, and how to unmask the interrupt. */
    int32_t wake_fd;
    volatile uint32_t *unmask;
    uint32_t unmask_bit;
    uint32_t reserved;
    uint64_t counters[10];  /* INTEL82599_* */
    uint64_t statistics[64]; /* of the card; copied behind the counters */
    uint32_t nstatistics;
};

/* Packets come from output 0's other side: input 0 goes to the card, what it receives
 * goes to output 0. The rings keep their packets when the app leaves: the card may still
 * be writing to them. See intel82599_release(). */
extern const struct app_ops intel82599_ops;

/* Set the card's context 0 of a queue that is enabled and that no worker has yet. */
void intel82599_put_context(struct intel82599_queue *queue, uint64_t low, uint64_t high);

/* Give all packets of a queue back; both directions are disabled on the card, or it
 * is no bus master any more. head: TDH. Returns how many packets are lost so: received
 * and not handed on, or not sent. */
uint32_t intel82599_release(struct intel82599_queue *queue, struct pool *pool,
                            uint32_t head);
