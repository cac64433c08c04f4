/* A card that completes each descriptor at once and moves no data: to measure the
 * driver alone. */

struct idle_card {
    uint64_t *rx_ring;
    uint64_t *tx_ring;
    uint32_t rx_n; /* descriptors; a power of two */
    uint32_t tx_n;
    uint32_t rx_head;
    uint32_t tx_head;
    uint32_t rx_tail; /* the driver writes them */
    uint32_t tx_tail;
    uint32_t length; /* bytes of each frame that it receives */
    uint32_t reserved;
};

extern const struct app_ops idle_card_ops;
