/* Datagrams of which fragments have come, by what all their fragments say of them; see
 * datagram_table.c. Indices are + 1; 0: none. */

enum { DATAGRAM_QUEUES = 256 };

/* What an entry of a table begins with. */
struct datagram {
    uint64_t key[5];
    uint64_t deadline;
    uint32_t next;  /* in its bucket; of free ones: the next free one */
    uint32_t newer; /* in its queue */
    uint32_t older;
    uint32_t queue;
};

/* The datagrams of one subscriber, or of a few: of those whose address, on his side of
 * the fragments, has one keyed hash. The oldest is the next to expire. */
struct datagram_queue {
    uint32_t oldest;
    uint32_t newest;
    uint32_t n;
};

struct datagram_table {
    uint8_t *entries;
    uint32_t *buckets;
    uint64_t seed[2];
    uint64_t timeout; /* ns; 0: never */
    uint32_t stride;  /* bytes of an entry */
    uint32_t mask;    /* buckets - 1, they are a power of two */
    uint32_t capacity;
    uint32_t n;
    uint32_t nfresh; /* entries that were ever in use */
    uint32_t free;
    uint32_t swept;   /* queue where the search for who has expired goes on */
    uint32_t longest; /* queue that has had the most datagrams */
    struct datagram_queue queues[256];
};
