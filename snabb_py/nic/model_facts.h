/* What the receiver finds in a frame, in the places of an advanced write-back (data
 * sheet 7.1.6.2), and how it chooses a queue. */
#ifndef SNABB_PY_NIC_MODEL_FACTS_H
#define SNABB_PY_NIC_MODEL_FACTS_H

#include "snabb_py/nic/model82599.h"

enum { /* second word */
    STATUS_DD = 1 << 0,
    STATUS_EOP = 1 << 1,
    STATUS_VP = 1 << 3,
    STATUS_UDPCS = 1 << 4,
    STATUS_L4I = 1 << 5,
    STATUS_IPCS = 1 << 6,
    STATUS_PIF = 1 << 7,
    STATUS_LB = 1 << 18,
    ERROR_L4 = 1 << 30,
    ERROR_IP = 1u << 31
};

enum { /* packet type, first word */
    TYPE_IPV4 = 1 << 4,
    TYPE_IPV4_OPTIONS = 1 << 5,
    TYPE_IPV6 = 1 << 6,
    TYPE_IPV6_EXTENSIONS = 1 << 7,
    TYPE_TCP = 1 << 8,
    TYPE_UDP = 1 << 9,
    TYPE_SCTP = 1 << 10
};

enum {
    MRQC_MODE = 0xf,
    MRQC_RSS = 1,
    MRQC_VMDQ = 8,
    MRQC_VMDQ_RSS32 = 0xa,
    MRQC_VMDQ_RSS64 = 0xb,
    MRQC_TCP4 = 1 << 16,
    MRQC_IP4 = 1 << 17,
    MRQC_IP6 = 1 << 20,
    MRQC_TCP6 = 1 << 21,
    MRQC_UDP4 = 1 << 22,
    MRQC_UDP6 = 1 << 23,
    RXCSUM_PCSD = 1 << 13
};

struct facts {
    uint32_t type;
    uint32_t status;
    uint32_t hash;
    uint32_t rss_type; /* 0: no hash */
    uint32_t nwrong;   /* checksums */
    int32_t vlan;      /* tag, -1: none */
};

enum { /* RSS types */
    HASH_TCP4 = 1,
    HASH_IP4 = 2,
    HASH_TCP6 = 3,
    HASH_IP6 = 5,
    HASH_UDP4 = 7,
    HASH_UDP6 = 8
};

/* Read a frame. In model_receive.c. */
struct facts facts_of(struct model_card *card, const uint8_t *frame, uint32_t length);
/* Make rss_table, when rss_stale. */
void facts_rebuild_rss(struct model_card *card);

static inline uint32_t toeplitz(const struct model_card *card, uint32_t at,
                                const uint8_t *bytes, uint32_t n)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum ^= card->rss_table[at + i][bytes[i]];
    return sum;
}

/* Queues are chosen by a hash. */
static inline bool facts_has_rss(const struct model_card *card)
{
    uint32_t mode = get(card, REG_MRQC) & MRQC_MODE;
    return mode == MRQC_RSS || mode == MRQC_VMDQ_RSS32 || mode == MRQC_VMDQ_RSS64;
}

/* The redirection table (7.1.2.8). */
static inline uint32_t facts_queue(const struct model_card *card, uint32_t hash)
{
    uint32_t entry = hash & 0x7f;
    return get(card, REG_RETA + entry / 4 * 4) >> entry % 4 * 8 & 0xf;
}

#endif
