/* Capture: what passes a link, copied for somebody who may be slow. */
#include <time.h>

#include "snabb_py/engine/capture.h"

enum {
    PACKET_BLOCK = 6,  /* pcapng: enhanced packet block */
    BLOCK_HEADER = 28, /* bytes in front of the frame */
    BLOCK_TRAILER = 4, /* behind it and its padding: the block's length once more */
    RENEW_NS = 1000000 /* CLOCK_REALTIME may be set while we run */
};

static void put(struct capture *capture, uint64_t at, const void *from, uint32_t n)
{
    uint8_t *blocks = capture->ring->blocks;
    uint32_t start = (uint32_t)(at & (CAPTURE_RING_SIZE - 1));
    uint32_t first = min_u32(n, CAPTURE_RING_SIZE - start);
    memcpy(blocks + start, from, first);
    memcpy(blocks, (const uint8_t *)from + first, n - first);
}

static bool matches(const struct capture *capture, const struct packet *packet)
{
    if (!capture->filter)
        return true;
    if (capture->code)
        return bpf_jit_run(capture->code, packet->data, packet->length) != 0;
    return bpf_run(capture->filter, packet->data, packet->length) != 0;
}

/* Append a block, if it is asked for and there is room. */
static void copy_packet(struct capture *capture, const struct packet *packet, uint64_t time)
{
    static const uint8_t padding[4];
    uint32_t length = packet->length, pad = -length & 3;
    uint32_t size = BLOCK_HEADER + length + pad + BLOCK_TRAILER;
    if (size > capture->bytes_left) {
        capture->ended = CAPTURE_SIZE;
        return;
    }
    /* From the other process: a cursor that cannot be makes `used` too much. */
    uint64_t used = capture->write - __atomic_load_n(&capture->ring->read, __ATOMIC_ACQUIRE);
    if (used > CAPTURE_RING_SIZE || size > CAPTURE_RING_SIZE - used) {
        capture->lost++;
        return;
    }
    uint32_t header[7] = {PACKET_BLOCK,   size,   0, (uint32_t)(time >> 32),
                          (uint32_t)time, length, length};
    uint64_t at = capture->write;
    put(capture, at, header, BLOCK_HEADER);
    put(capture, at + BLOCK_HEADER, packet->data, length);
    put(capture, at + BLOCK_HEADER + length, padding, pad);
    put(capture, at + size - BLOCK_TRAILER, &size, BLOCK_TRAILER);
    capture->write += size;
    capture->bytes_left -= size;
    capture->packets++;
    if (--capture->packets_left == 0)
        capture->ended = CAPTURE_COUNT;
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static uint64_t real_time(struct capture *capture, uint64_t now)
{
    if (!capture->renewed || now - capture->renewed > RENEW_NS) {
        capture->realtime = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);
        capture->renewed = now;
    }
    return now + (uint64_t)capture->realtime;
}

/* Packets that are on the link now and were not when we last looked. The app behind us
 * is the only one that takes any off, in its push: none passes unseen. */
static uint32_t capture_push(struct app *app)
{
    struct capture *capture = app->state;
    const struct link *link = app->input[0];
    if (unlikely(capture->link != link)) {
        capture->link = link;
        capture->seen = link->read;
    }
    uint32_t from = capture->seen;
    if (unlikely((int32_t)(from - link->read) < 0))
        from = link->read;
    capture->seen = link->write;
    if (from == link->write || capture->ended)
        return 0;
    uint64_t time = real_time(capture, app->worker->now);
    for (; from != link->write && !capture->ended; from++) {
        const struct packet *packet = link->ring[from % LINK_CAPACITY];
        if (matches(capture, packet))
            copy_packet(capture, packet, time);
    }
    struct capture_ring *ring = capture->ring;
    __atomic_store_n(&ring->packets, capture->packets, __ATOMIC_RELAXED);
    __atomic_store_n(&ring->lost, capture->lost, __ATOMIC_RELAXED);
    __atomic_store_n(&ring->write, capture->write, __ATOMIC_RELEASE);
    if (capture->ended)
        __atomic_store_n(&ring->ended, capture->ended, __ATOMIC_RELEASE);
    return 0;
}

const struct app_ops capture_ops = {.push = capture_push};

uint64_t capture_ring_written(const struct capture_ring *ring)
{
    return __atomic_load_n(&ring->write, __ATOMIC_ACQUIRE);
}

uint64_t capture_ring_whole(const struct capture_ring *ring, uint64_t from, uint64_t to,
                            uint64_t *packets)
{
    for (*packets = 0;; ++*packets) {
        /* Blocks and their fields begin at multiples of 4: none lies across the end. */
        uint32_t size;
        memcpy(&size, ring->blocks + ((from + 4) & (CAPTURE_RING_SIZE - 4)), sizeof(size));
        if (size < BLOCK_HEADER + BLOCK_TRAILER || size & 3 || size > to - from)
            return from;
        from += size;
    }
}

void capture_ring_release(struct capture_ring *ring, uint64_t read)
{
    __atomic_store_n(&ring->read, read, __ATOMIC_RELEASE);
}
