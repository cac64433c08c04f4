/* A capture: copies of what passes a link, as far as somebody takes them. It is a step
 * in front of the app that takes packets off the link and takes none itself.
 *
 * Copies are blocks of pcapng (draft-ietf-opsawg-pcapng, 4.3) in a ring of bytes that
 * another process reads, and nothing waits for that: what there is no room for is
 * counted. Of what that process may write, only `read` is looked at; if it is not
 * within what has been written, the ring counts as full. */

enum { CAPTURE_RING_SIZE = 16777216 }; /* bytes of blocks; a power of two */

enum { /* capture_ring.ended */
    CAPTURE_RUNS = 0,
    CAPTURE_COUNT = 1, /* as many packets as were asked for are there */
    CAPTURE_SIZE = 2,  /* the next one would be too much */
    CAPTURE_GONE = 3   /* the link is gone, or another worker's; written by Python */
};

/* In shared memory, in front of the blocks. */
struct capture_ring {
    uint64_t write; /* worker's line: bytes of whole blocks so far */
    uint64_t packets;
    uint64_t lost; /* they matched, and there was no room */
    uint64_t ended;
    uint64_t reserved0[4];
    uint64_t read; /* reader's line: bytes that were taken */
    uint64_t reserved1[7];
    uint8_t blocks[16777216];
};

struct capture {
    struct capture_ring *ring;
    const struct bpf_instruction *filter; /* verified; NULL: everything matches */
    bpf_fn code;                          /* the same for the machine, or NULL */
    uint64_t packets_left;                /* until it ends */
    uint64_t bytes_left;
    /* The worker's own, whatever the ring says. */
    uint64_t write;
    uint64_t packets;
    uint64_t lost;
    uint64_t ended;
    const struct link *link; /* that `seen` belongs to */
    uint32_t seen;           /* cursor: packets in front of it have been looked at */
    uint32_t reserved;
    int64_t realtime; /* ns from CLOCK_MONOTONIC to CLOCK_REALTIME */
    uint64_t renewed; /* ns, when that was found out */
};

/* push looks at input[0]; state: struct capture. */
extern const struct app_ops capture_ops;

/* For the reader: bytes written so far, with acquire. */
uint64_t capture_ring_written(const struct capture_ring *ring);
/* Where the last whole block between two places ends, and how many packets there are. */
uint64_t capture_ring_whole(const struct capture_ring *ring, uint64_t from, uint64_t to,
                            uint64_t *packets);
/* Give back all bytes before this one, with release. */
void capture_ring_release(struct capture_ring *ring, uint64_t read);
