/* A host for a card that does nothing but give each descriptor back at once; what is
 * then measured is the card. */

struct idle_host {
    volatile uint32_t *registers; /* model_registers() */
    uint32_t n;                   /* descriptors of queue 0, each way */
    uint32_t receives;
    uint32_t transmits;
};

/* The app: no ports; state: struct idle_host. */
extern const struct app_ops idle_host_ops;
