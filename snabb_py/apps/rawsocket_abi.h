/* State and counters of RawSocket; what it does in rawsocket.c, ports in
 * rawsocket.py. */

enum {
    /* The receive ring: the kernel wants blocks of whole pages and frames of equal
     * size, and puts as many frames into a block as fit. A frame slot holds the
     * largest super-frame, 64 KiB of IP, behind the kernel's headers. */
    RAWSOCKET_BLOCK_SIZE = 2097152,
    RAWSOCKET_BLOCK_FRAMES = 30,
    RAWSOCKET_FRAME_SIZE = 69904, /* BLOCK_SIZE / 30, aligned to 16 */
    RAWSOCKET_RING_MIN = 64, /* frames; a power of two */
    RAWSOCKET_RING_MAX = 4096, /* 274 MiB */
    RAWSOCKET_RING_SIZE = 512  /* 36 MiB */
};

enum {
    RAWSOCKET_RX_PACKETS,
    RAWSOCKET_RX_BYTES,
    RAWSOCKET_RX_SUPER_FRAMES,     /* to be cut up */
    RAWSOCKET_RX_SUPER_FRAMES_CUT, /* of these: were, for they were in tunnels */
    RAWSOCKET_RX_RING_RENEWED,
    RAWSOCKET_TX_PACKETS,
    RAWSOCKET_TX_BYTES,
    RAWSOCKET_TX_SUPER_FRAMES,
    RAWSOCKET_DROP_RX_KERNEL_RING_FULL, /* the kernel found no free frame */
    RAWSOCKET_DROP_RX_KERNEL_RING_JAMMED, /* see rawsocket.c */
    RAWSOCKET_DROP_RX_NO_PACKET,   /* the engine's pool has run dry */
    RAWSOCKET_DROP_RX_TRUNCATED,   /* longer than a frame slot, or no whole header */
    RAWSOCKET_DROP_RX_BAD_OFFLOAD, /* metadata that do not fit the frame */
    RAWSOCKET_DROP_TX_INTERFACE_DOWN,
    RAWSOCKET_DROP_TX_REFUSED, /* by the interface's queue, or a filter there */
    RAWSOCKET_DROP_TX_TOO_LONG, /* for the interface's MTU */
    RAWSOCKET_DROP_TX_BAD_OFFLOAD,
    RAWSOCKET_DROP_TX_ERROR, /* the kernel says it is malformed */
    RAWSOCKET_NCOUNTERS
};

/* A bound packet socket and its ring. Made by Python; then the worker's, but for
 * jammed and ring: whoever finds jammed = 1 and is not the worker may replace the ring
 * and sets it to 0 (release) afterwards; meanwhile the worker does not touch it. */
struct rawsocket {
    int fd;
    uint32_t nframes;
    uint8_t *ring;
    uint32_t cursor;  /* frame to be looked at next */
    uint32_t jammed;
    uint32_t suspect; /* times in a row that the ring was both empty and full */
    uint32_t received; /* since statistics were last read */
    uint64_t suspect_drops;
    uint64_t next_statistics; /* ns */
};

extern const struct app_ops rawsocket_ops;

/* For Python: jammed, with acquire; and the renewed ring, with release. */
uint32_t rawsocket_is_jammed(const struct rawsocket *socket);
void rawsocket_renew(struct rawsocket *socket, uint8_t *ring, uint32_t nframes);
