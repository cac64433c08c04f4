/* State and counters of Xdp; what it does in xdp.c and xdp_socket.c, ports in xdp.py. */

enum {
    XDP_RING_SIZE = 2048, /* entries of each of the four rings */
    /* What the kernel is given of a packet's slot: as much as it takes, a page. The
     * frame comes behind the headroom that the kernel leaves, which is ours. */
    XDP_CHUNK_SIZE = 4096,
    XDP_FRAME_MAX = 3840, /* so much is left: the longest frame that is received */
    XDP_CELL_SIZE = 8192  /* no two slots begin in one cell of memory */
};

enum {
    XDP_RX_PACKETS,
    XDP_RX_BYTES,
    XDP_RX_UNFINISHED_CHECKSUMS, /* of the packets: came from a stack of this machine */
    XDP_RX_FILL_RING_EMPTY,      /* times that the kernel found no packet to fill */
    XDP_TX_PACKETS,
    XDP_TX_BYTES,
    XDP_TX_SUPER_FRAMES, /* cut up; their segments are the packets */
    XDP_DROP_RX_KERNEL_RING_FULL, /* or there was nothing left to fill: we are late */
    XDP_DROP_RX_NO_PACKET,        /* the same, for the pool has run dry */
    XDP_DROP_RX_TOO_LONG,       /* for a packet here, says the kernel */
    XDP_DROP_RX_BAD_DESCRIPTOR, /* one of the kernel's, or of ours it says */
    XDP_DROP_TX_INTERFACE_DOWN,
    XDP_DROP_TX_REFUSED, /* the interface has no carrier */
    XDP_DROP_TX_TOO_LONG,
    XDP_DROP_TX_NO_PACKET, /* for the segments of a super-frame */
    XDP_DROP_TX_BAD_OFFLOAD,
    XDP_DROP_TX_ERROR, /* malformed */
    XDP_NCOUNTERS
};

/* A ring shared with the kernel, mapped by Python. Cursors run freely; ours is written
 * to the ring once a burst, theirs is read when what was known of it is used up. */
struct xdp_ring {
    uint32_t *producer;
    uint32_t *consumer;
    uint32_t *flags;
    void *slots; /* descriptors (receive, transmit) or addresses (fill, completion) */
    uint32_t cursor;
    uint32_t reserved;
};

/* A socket bound to a queue, and its rings. The UMEM is all packets of the engine: what
 * is received is a packet at once, and what is sent needs no copy.
 *
 * Made by Python; then the worker's, but for leave, left and longest. To change the
 * socket Python sets leave to 1 (release); the worker then lets go of all rings and sets
 * left to 1 (release); whoever finds left = 1 and is not the worker has everything, and
 * hands it over again by xdp_renew(). */
struct xdp_socket {
    int fd;
    uint32_t is_zero_copy;
    uint32_t is_checked; /* look for unfinished checksums in what comes */
    uint32_t leave;
    uint32_t left;
    uint32_t longest; /* bytes of a frame that the interface sends */
    uint32_t is_down; /* the interface would not send */
    uint32_t nreceiving; /* packets that the kernel has: to be filled or with a frame */
    uint32_t nsending;   /* the same, to be sent */
    uint32_t is_dry;     /* the pool had not as many as were asked of it */
    uint8_t *umem;
    uint64_t umem_size;
    uint64_t *held; /* a bit for each cell: the slot that begins there is the kernel's */
    uint64_t next_statistics;   /* ns */
    uint64_t statistics[6];     /* as last read */
    struct xdp_ring fill;       /* packets for frames to come */
    struct xdp_ring completion; /* packets that were sent */
    struct xdp_ring receive;
    struct xdp_ring transmit;
};

extern const struct app_ops xdp_ops;

/* bpf(2); a file descriptor, 0 or -errno. */
int xdp_bpf(int command, const void *attributes, uint32_t size);
/* Register size bytes at an address as a socket's UMEM, for packets of a pool; 0 or
 * -errno. */
int xdp_register(int fd, const uint8_t *memory, uint64_t size);
/* Bind a socket to an interface's queue; flags: XDP_COPY and the like. 0 or -errno. */
int xdp_bind(int fd, uint32_t ifindex, uint32_t queue, uint16_t flags);

/* For Python: see struct xdp_socket. */
void xdp_leave(struct xdp_socket *socket);
uint32_t xdp_has_left(const struct xdp_socket *socket);
void xdp_renew(struct xdp_socket *socket);
/* Give all packets that the kernel had back to the pool: the socket is closed. */
void xdp_reclaim(struct xdp_socket *socket, struct pool *pool);
/* Frames in the transmit ring that the kernel has not taken; the worker stands still. */
uint32_t xdp_unsent(const struct xdp_socket *socket);
void xdp_set_longest(struct xdp_socket *socket, uint32_t longest);
