/* A guest's network driver, for tests and benchmarks: the other side of net_device.
 *
 * Python (frontend.py) owns the memory and talks to the back end; C moves packets. It
 * takes buffers back in the order in which it gave them, and counts what breaks that.
 */

enum { /* names in frontend.py */
    FRONTEND_RX_PACKETS, /* received from the back end */
    FRONTEND_RX_BYTES,
    FRONTEND_TX_PACKETS,
    FRONTEND_TX_BYTES,
    FRONTEND_KICKS,
    FRONTEND_DROP_RX_NO_PACKET,
    FRONTEND_DROP_RX_BAD_OFFLOAD,
    FRONTEND_DROP_TX_BAD_OFFLOAD,
    FRONTEND_DROP_TX_TOO_LONG,
    FRONTEND_WRONG_USED, /* not the buffer that came next, or of an impossible length */
    FRONTEND_NCOUNTERS
};

/* A ring, with a buffer for each place. A buffer has `pieces` descriptors, the first of
 * which holds the header alone where there is more than one. */
struct frontend_ring {
    struct virtq_desc *desc;
    uint16_t *avail;
    uint16_t *used;
    struct virtq_desc *tables; /* of a place: `pieces` entries; NULL: not indirect */
    uint64_t tables_address;
    uint8_t *buffers;
    uint64_t address; /* of the buffers, in the guest */
    uint32_t stride;  /* bytes from one to the next */
    uint32_t room;    /* bytes that one holds, header included */
    uint32_t size;    /* places of the ring; 0: it does not run */
    uint32_t nbuffers; /* places that are used; a power of two, as 2^16 of cursors is */
    uint32_t pieces;
    uint32_t has_event_index;
    int32_t kick_fd;
    uint16_t given; /* cursor: avail.idx */
    uint16_t taken; /* cursor: the first that we have not back */
};

struct frontend {
    struct frontend_ring rx;
    struct frontend_ring tx;
    uint32_t header_size;
    uint32_t is_merging;
    int32_t call_fd; /* of both rings: what wakes us */
    uint32_t reserved;
    uint64_t counters[10];
};

/* Input 0 is sent to the back end, what comes from there goes to output 0. */
extern const struct app_ops frontend_ops;

/* Write all descriptors, and give the device the receive ring's buffers. */
void frontend_start(struct frontend *frontend);
