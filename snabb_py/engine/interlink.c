/* Packets from one worker to another. state: struct interlink, shared by both. */
#include <poll.h>
#include <unistd.h>

#include "snabb_py/engine/interlink.h"

_Static_assert(offsetof(struct interlink, read) == 64 &&
                   offsetof(struct interlink, sleeping) == 128 &&
                   offsetof(struct interlink, ring) == 192,
               "producer, consumer and bell have cache lines of their own");

/* What does not fit stays on the input link: the sender waits, nothing is lost. */
static uint32_t interlink_push(struct app *app)
{
    struct interlink *ring = app->state;
    struct link *in = app->input[0];
    uint32_t n = link_readable(in);
    if (n == 0)
        return 0;
    uint64_t cursor = ring->write;
    if (INTERLINK_CAPACITY - (cursor - ring->read_seen) < n)
        /* Acquire: the consumer has taken the pointers before it moved the cursor. */
        ring->read_seen = __atomic_load_n(&ring->read, __ATOMIC_ACQUIRE);
    n = min_u32(n, (uint32_t)(INTERLINK_CAPACITY - (cursor - ring->read_seen)));
    if (n == 0)
        return 0;
    uint64_t bytes = link_bytes(in, n);
    for (uint32_t i = 0; i < n; i++)
        ring->ring[(cursor + i) % INTERLINK_CAPACITY] = *link_slot(in, in->read + i);
    link_consume(in, n, bytes);
    /* Release: pointers and packets are written before the cursor says so. Then a
     * full fence: either we see the bell set, or the consumer, which sets it and
     * looks once more, sees the new cursor. */
    __atomic_store_n(&ring->write, cursor + n, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (unlikely(__atomic_load_n(&ring->sleeping, __ATOMIC_RELAXED)) &&
        __atomic_exchange_n(&ring->sleeping, 0, __ATOMIC_RELAXED)) {
        uint64_t one = 1;
        ssize_t ignored = write(ring->wake_fd, &one, sizeof(one));
        (void)ignored;
    }
    return n;
}

static uint32_t interlink_pull(struct app *app)
{
    struct interlink *ring = app->state;
    struct link *out = app->output[0];
    uint64_t cursor = ring->read;
    if (ring->write_seen == cursor) {
        /* Acquire: pairs with the producer's release; the packets are whole. */
        ring->write_seen = __atomic_load_n(&ring->write, __ATOMIC_ACQUIRE);
        if (ring->write_seen == cursor)
            return 0;
    }
    uint32_t n = min_u32((uint32_t)(ring->write_seen - cursor), link_writable(out));
    n = min_u32(n, app->worker->burst);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct packet *packet = ring->ring[(cursor + i) % INTERLINK_CAPACITY];
        __builtin_prefetch(ring->ring[(cursor + i + 8) % INTERLINK_CAPACITY]);
        bytes += packet->length;
        *link_slot(out, out->write + i) = packet;
    }
    link_produce(out, n, bytes);
    __atomic_store_n(&ring->read, cursor + n, __ATOMIC_RELEASE);
    return n;
}

static int interlink_arm(struct app *app, struct wake *wake)
{
    struct interlink *ring = app->state;
    uint64_t count;
    ssize_t ignored = read(ring->wake_fd, &count, sizeof(count));
    (void)ignored;
    __atomic_store_n(&ring->sleeping, 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* see interlink_push */
    if (__atomic_load_n(&ring->write, __ATOMIC_ACQUIRE) != ring->read)
        return ARM_BUSY;
    *wake = (struct wake){.fd = ring->wake_fd, .events = POLLIN};
    return ARM_READY;
}

uint32_t interlink_reclaim(struct interlink *ring, struct packet **packets,
                           uint32_t npackets)
{
    uint32_t n = 0;
    while (n < npackets && ring->read != ring->write)
        packets[n++] = ring->ring[ring->read++ % INTERLINK_CAPACITY];
    return n;
}

const struct app_ops interlink_transmitter_ops = {.push = interlink_push};
const struct app_ops interlink_receiver_ops = {
    .pull = interlink_pull,
    .arm = interlink_arm,
};
