/* Configuration of Rewrite; ports in rewrite.py. */

/* An address and a mask, in network order: bits of the mask are the address's. */
struct rewrite_bits {
    uint8_t value[16]; /* 0 where the mask is */
    uint8_t mask[16];
};

enum { REWRITE_SOURCE, REWRITE_DESTINATION, REWRITE_SIDES };

struct rewrite_config {
    struct rewrite_bits mac[2]; /* by side; 6 bytes */
    struct rewrite_bits ipv4[2];
    struct rewrite_bits ipv6[2];
};

extern const struct app_ops rewrite_ops;
