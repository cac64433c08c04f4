/* State and counters of Tap; what it does in tap.c, ports in tap.py. */

enum {
    TAP_RX_PACKETS,
    TAP_RX_BYTES,
    TAP_RX_SUPER_FRAMES, /* of rx-packets: to be cut up */
    TAP_TX_PACKETS,
    TAP_TX_BYTES,
    TAP_TX_SUPER_FRAMES,
    TAP_DROP_RX_NO_PACKET,   /* the engine's pool has run dry */
    TAP_DROP_RX_TRUNCATED,   /* longer than a large packet, or no whole header */
    TAP_DROP_RX_BAD_OFFLOAD, /* metadata that do not fit the frame, or none exist */
    TAP_DROP_TX_INTERFACE_DOWN,
    TAP_DROP_TX_REFUSED, /* the kernel had no memory for it */
    TAP_DROP_TX_BAD_OFFLOAD,
    TAP_DROP_TX_ERROR, /* the kernel says it is malformed */
    TAP_NCOUNTERS
};

/* An open tap. Made by Python; then the worker's. detached goes to and fro: the worker
 * sets it when the interface is no more, and does not use the fd while it is set;
 * whoever finds it set may attach the fd to another interface and clears it. */
struct tap {
    int fd;
    uint32_t detached;
    uint32_t expected; /* slot class of what comes next, a guess */
    uint32_t reserved;
    uint8_t overflow[57344]; /* PACKET_LARGE_SIZE - PACKET_SMALL_SIZE */
};

extern const struct app_ops tap_ops;

/* For Python: detached, with acquire; cleared, with release. */
uint32_t tap_is_detached(const struct tap *tap);
void tap_attached(struct tap *tap);
