/* Frames that stay in a transmit ring: the card sends them round and round, and all that
 * is left to do is to move the tail.
 *
 * The ring holds them one time or several, whole; no descriptor asks for a report (RS), so
 * the card writes nothing to it, and TDH tells how far it is: it counts descriptors that
 * were fetched, not frames that were sent (7.2.2.4), which is near enough for a ring that
 * nothing is ever taken out of.
 */

struct intel82599_replay_config {
    uint32_t n;       /* descriptors: a multiple of nframes */
    uint32_t nframes;
    uint32_t ahead;   /* descriptors that the card may have at a time, below n */
    uint32_t reserved;
    uint64_t count;   /* frames to send; 0: without end */
    const uint64_t *bytes; /* of the first i frames, i up to nframes */
};

struct intel82599_replay {
    struct intel82599_queue *queue;
    const volatile uint32_t *head; /* TDH */
    uint64_t given; /* frames that the card may send */
    uint64_t sent;  /* sent <= given */
};

/* Write a frame's descriptor. */
void intel82599_replay_put(struct intel82599_queue *queue, uint32_t at, uint64_t iova,
                           uint32_t length);

/* Output 0, if it is linked: what the card receives. The state is a struct
 * intel82599_replay, whose ring is full. */
extern const struct app_ops intel82599_replay_ops;
