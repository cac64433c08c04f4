/* A host for a card that does nothing but give each descriptor back at once; what is
 * then measured is the card. */

struct idle_descriptor {
    uint64_t low;
    uint64_t high;
};

enum { IDLE_HOST_QUEUES = 16 };

struct idle_host {
    volatile uint32_t *registers; /* model_registers() */
    /* What is received goes to the first queues, whose rings lie one behind the other;
     * what is sent comes from queue 0. */
    uint32_t nqueues;
    uint32_t n; /* descriptors of a queue */
    uint32_t receives;
    uint32_t transmits;
    struct idle_descriptor *rings;
    const struct idle_descriptor *fresh; /* the rings as they are posted */
    uint32_t posted[16];                 /* tail of each queue */
};

/* The app: no ports; state: struct idle_host. */
extern const struct app_ops idle_host_ops;
