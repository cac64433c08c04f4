/* A guest's network driver: see frontend_abi.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <poll.h>
#include <unistd.h>

#include "snabb_py/engine/offload.h"

#include "snabb_py/virtio/virtq.h"

#include "snabb_py/virtio/frontend_abi.h"

_Static_assert(sizeof(((struct frontend *)0)->counters) ==
                   FRONTEND_NCOUNTERS * sizeof(uint64_t),
               "counters");

/* ---- descriptors --------------------------------------------------------- */

static uint32_t place_of(const struct frontend_ring *ring, uint16_t cursor)
{
    return cursor % ring->nbuffers;
}

static uint8_t *buffer_of(const struct frontend_ring *ring, uint32_t place)
{
    return ring->buffers + (uint64_t)place * ring->stride;
}

static uint32_t head_of(const struct frontend_ring *ring, uint32_t place)
{
    return ring->tables ? place : place * ring->pieces;
}

/* Describe `length` bytes of a place's buffer: the header alone, then equal parts. */
static void describe(const struct frontend_ring *ring, uint32_t place, uint32_t header,
                     uint32_t length, uint16_t flags)
{
    uint32_t head = head_of(ring, place), n = ring->pieces, done = 0;
    struct virtq_desc *desc = ring->tables ? ring->tables + place * n : ring->desc + head;
    uint64_t address = ring->address + (uint64_t)place * ring->stride;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t end = i == n - 1 ? length
                       : i == 0   ? header
                                  : header + (length - header) / (n - 1) * i;
        desc[i] = (struct virtq_desc){
            .address = address + done,
            .length = end - done,
            .flags = (uint16_t)(flags | (i == n - 1 ? 0 : VIRTQ_NEXT)),
            .next = (uint16_t)((ring->tables ? 0 : head) + i + 1),
        };
        done = end;
    }
    if (ring->tables)
        ring->desc[head] = (struct virtq_desc){
            .address = ring->tables_address + (uint64_t)place * n * sizeof(*desc),
            .length = n * (uint32_t)sizeof(*desc),
            .flags = VIRTQ_INDIRECT,
        };
}

/* Put a place on the ring; publish() shows it. */
static void give(struct frontend_ring *ring)
{
    uint32_t place = place_of(ring, ring->given);
    ring->avail[2 + (ring->given & (ring->size - 1))] = (uint16_t)head_of(ring, place);
    ring->given++;
}

/* Show what was given since `old`, and kick if the device wants it. */
static void publish(struct frontend *frontend, struct frontend_ring *ring, uint16_t old)
{
    uint64_t one = 1;
    if (old == ring->given)
        return;
    __atomic_store_n(&ring->avail[1], ring->given, __ATOMIC_RELEASE);
    /* As virtq_signal(), seen from here. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (ring->has_event_index) {
        uint16_t event = READ_ONCE(ring->used[2 + 4 * ring->size]);
        if ((uint16_t)(ring->given - event - 1) >= (uint16_t)(ring->given - old))
            return;
    } else if (READ_ONCE(ring->used[0]) & VIRTQ_NO_NOTIFY) {
        return;
    }
    if (ring->kick_fd < 0)
        return;
    frontend->counters[FRONTEND_KICKS]++;
    ssize_t ignored = write(ring->kick_fd, &one, sizeof(one));
    (void)ignored;
}

/* Buffers that the device has used. */
static uint32_t count_used(const struct frontend_ring *ring)
{
    return (uint16_t)(__atomic_load_n(&ring->used[1], __ATOMIC_ACQUIRE) - ring->taken);
}

/* The i-th of them; false: it is not the one that it should be. */
static bool take_used(struct frontend *frontend, const struct frontend_ring *ring,
                      uint32_t i, uint32_t *length)
{
    uint16_t cursor = (uint16_t)(ring->taken + i);
    const struct virtq_used *used = (const struct virtq_used *)(void *)(ring->used + 2);
    uint32_t id = READ_ONCE(used[cursor & (ring->size - 1)].id);
    *length = READ_ONCE(used[cursor & (ring->size - 1)].length);
    if (likely(id == head_of(ring, place_of(ring, cursor)) && *length <= ring->room))
        return true;
    frontend->counters[FRONTEND_WRONG_USED]++;
    *length = 0;
    return false;
}

void frontend_start(struct frontend *frontend)
{
    struct frontend_ring *rx = &frontend->rx, *tx = &frontend->tx;
    for (uint32_t i = 0; i < rx->nbuffers; i++)
        describe(rx, i, frontend->header_size, rx->room, VIRTQ_WRITE);
    for (uint32_t i = 0; i < rx->nbuffers; i++)
        give(rx);
    publish(frontend, rx, (uint16_t)(rx->given - rx->nbuffers));
    for (uint32_t i = 0; i < tx->nbuffers; i++)
        describe(tx, i, frontend->header_size, tx->room, 0);
}

/* ---- receive ------------------------------------------------------------- */

/* Bytes of a packet that lies in `n` buffers from the i-th used one on; header included.
 * 0: it does not: one of them is wrong, or has no header. */
static uint32_t measure(struct frontend *frontend, uint32_t i, uint32_t n)
{
    uint32_t sum = 0, length;
    for (uint32_t k = 0; k < n; k++) {
        if (!take_used(frontend, &frontend->rx, i + k, &length))
            return 0;
        sum += length;
    }
    return sum > frontend->header_size ? sum : 0;
}

static struct packet *receive_one(struct frontend *frontend, struct freelist *freelist,
                                  uint32_t i, uint32_t nbuffers)
{
    const struct frontend_ring *rx = &frontend->rx;
    struct virtio_net_header header = {0};
    uint32_t total = measure(frontend, i, nbuffers), skip = frontend->header_size;
    if (total == 0) {
        frontend->counters[FRONTEND_WRONG_USED]++;
        return NULL;
    }
    struct packet *packet = packet_alloc(freelist, total - skip);
    if (!packet) {
        frontend->counters[FRONTEND_DROP_RX_NO_PACKET]++;
        return NULL;
    }
    uint8_t *to = packet->data;
    for (uint32_t k = 0; k < nbuffers; k++) {
        uint32_t length;
        take_used(frontend, rx, i + k, &length);
        const uint8_t *from = buffer_of(rx, place_of(rx, (uint16_t)(rx->taken + i + k)));
        if (k == 0)
            memcpy(&header, from, skip);
        if (likely(length >= skip)) {
            memcpy(to, from + skip, length - skip);
            to += length - skip;
        }
        skip = 0;
    }
    if (packet_read_virtio(packet, &header)) {
        frontend->counters[FRONTEND_DROP_RX_BAD_OFFLOAD]++;
        packet_free(freelist, packet);
        return NULL;
    }
    return packet;
}

static uint32_t frontend_pull(struct app *app)
{
    struct frontend *frontend = app->state;
    struct frontend_ring *rx = &frontend->rx;
    struct link *out = app->output[0];
    struct packet *packets[LINK_CAPACITY];
    uint32_t kept = 0, used, most, i = 0;
    uint64_t bytes = 0;
    if (!out || rx->size == 0)
        return 0;
    used = count_used(rx);
    most = min_u32(app->worker->burst, link_writable(out));
    while (i < used && kept < most) {
        uint32_t nbuffers = 1;
        if (frontend->is_merging) {
            struct virtio_net_header header;
            memcpy(&header, buffer_of(rx, place_of(rx, (uint16_t)(rx->taken + i))),
                   sizeof(header));
            nbuffers = header.num_buffers;
        }
        if (unlikely(nbuffers == 0 || nbuffers > used - i)) {
            frontend->counters[FRONTEND_WRONG_USED]++;
            nbuffers = used - i; /* half a packet was shown */
        }
        struct packet *packet =
            receive_one(frontend, app->worker->freelist, i, nbuffers);
        i += nbuffers;
        if (!packet)
            continue;
        bytes += packet->length;
        packets[kept++] = packet;
    }
    if (i == 0)
        return 0;
    uint16_t old = rx->given;
    rx->taken = (uint16_t)(rx->taken + i);
    for (uint32_t k = 0; k < i; k++)
        give(rx);
    publish(frontend, rx, old);
    link_transmit_known(out, packets, kept, bytes);
    frontend->counters[FRONTEND_RX_PACKETS] += kept;
    frontend->counters[FRONTEND_RX_BYTES] += bytes;
    return i;
}

/* ---- transmit ------------------------------------------------------------ */

/* Returns the counter of what became of it. */
static uint32_t send_one(struct frontend *frontend, const struct packet *packet)
{
    struct frontend_ring *tx = &frontend->tx;
    struct virtio_net_header header;
    uint32_t place = place_of(tx, tx->given), length;
    if (packet_write_virtio(packet, &header))
        return FRONTEND_DROP_TX_BAD_OFFLOAD;
    length = frontend->header_size + packet->length;
    if (length > tx->room)
        return FRONTEND_DROP_TX_TOO_LONG;
    header.num_buffers = 0; /* virtio 1.2, 5.1.6.2.1 */
    uint8_t *to = buffer_of(tx, place);
    memcpy(to, &header, frontend->header_size);
    memcpy(to + frontend->header_size, packet->data, packet->length);
    describe(tx, place, frontend->header_size, length, 0);
    give(tx);
    return FRONTEND_TX_PACKETS;
}

static uint32_t frontend_push(struct app *app)
{
    struct frontend *frontend = app->state;
    struct frontend_ring *tx = &frontend->tx;
    struct link *in = app->input[0];
    struct packet *packets[LINK_CAPACITY];
    uint32_t n, length, sent = 0;
    uint64_t bytes = 0;
    if (!in || tx->size == 0)
        return 0;
    uint32_t used = count_used(tx);
    for (uint32_t i = 0; i < used; i++)
        take_used(frontend, tx, i, &length);
    tx->taken = (uint16_t)(tx->taken + used);
    n = link_readable(in);
    link_peek(in, packets, n);
    uint16_t old = tx->given;
    for (; sent < n && (uint16_t)(tx->given - tx->taken) < tx->nbuffers; sent++) {
        uint32_t counter = send_one(frontend, packets[sent]);
        frontend->counters[counter]++;
        bytes += packets[sent]->length;
        if (counter == FRONTEND_TX_PACKETS)
            frontend->counters[FRONTEND_TX_BYTES] += packets[sent]->length;
    }
    publish(frontend, tx, old);
    packet_free_burst(app->worker->freelist, packets, sent);
    link_consume(in, sent, bytes);
    return sent;
}

/* ---- the rest ------------------------------------------------------------ */

static void frontend_tick(struct app *app)
{
    const struct frontend *frontend = app->state;
    memcpy(app->counters, frontend->counters, sizeof(frontend->counters));
}

static void ask_for_interrupt(struct frontend_ring *ring)
{
    if (ring->has_event_index)
        __atomic_store_n(&ring->avail[2 + ring->size], ring->taken, __ATOMIC_RELAXED);
}

static int frontend_arm(struct app *app, struct wake *wake)
{
    struct frontend *frontend = app->state;
    const struct link *in = app->input[0];
    uint64_t ignored;
    if (frontend->call_fd < 0)
        return ARM_NEVER;
    ssize_t taken = read(frontend->call_fd, &ignored, sizeof(ignored));
    (void)taken;
    if (frontend->rx.size) {
        ask_for_interrupt(&frontend->rx);
        ask_for_interrupt(&frontend->tx);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (count_used(&frontend->rx) ||
            (in && link_readable(in) && count_used(&frontend->tx)))
            return ARM_BUSY;
    }
    *wake = (struct wake){.fd = frontend->call_fd, .events = POLLIN};
    return ARM_READY;
}

const struct app_ops frontend_ops = {
    .pull = frontend_pull,
    .push = frontend_push,
    .tick = frontend_tick,
    .arm = frontend_arm,
};
