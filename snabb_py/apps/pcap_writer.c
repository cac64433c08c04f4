/* PcapWriter: classic pcap (draft-ietf-opsawg-pcap), in the machine's byte order.
 * PcapngWriter: the same with the blocks of pcapng, which know the direction. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "snabb_py/engine/offload.h"

#include "snabb_py/apps/pcap.h"

enum {
    SLACK = 64, /* bytes that packet_copy_data() writes at least */
    NS_PER_S = 1000000000
};

/* ---- the file ------------------------------------------------------------ */

static int64_t clock_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

/* Bytes of the piece at p: the file's header, or a record. */
static uint32_t piece_size(const struct pcap_output *output, const uint8_t *p,
                           bool is_header)
{
    uint32_t length;
    memcpy(&length, p + (output->is_ng ? 4 : 8), sizeof(length));
    return is_header       ? output->header_size
           : output->is_ng ? length
                           : PCAP_RECORD_HEADER + length;
}

/* Take the pieces that are in the file whole out of the buffer. */
static void forget_written(struct pcap_output *output)
{
    uint32_t at = 0;
    bool is_header = output->has_header;
    while (at < output->used) {
        uint32_t size = piece_size(output, output->buffer + at, is_header);
        if (at + size > output->written)
            break;
        at += size;
        is_header = false;
    }
    output->has_header = is_header;
    output->used -= at;
    output->written -= at;
    memmove(output->buffer, output->buffer + at, output->used);
}

/* Write what waits, as far as the file takes it. */
static void flush(struct pcap_output *output)
{
    uint64_t before = output->size;
    output->stuck = 0;
    while (output->written < output->used) {
        ssize_t n = write(output->fd, output->buffer + output->written,
                          output->used - output->written);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            /* A pipe that is full for now is no error. */
            output->error = n < 0 && errno != EAGAIN ? (uint32_t)errno : 0;
            output->stuck = 1;
            if (output->size != before)
                forget_written(output);
            return;
        }
        output->written += (uint32_t)n;
        output->size += (uint64_t)n;
    }
    output->error = 0;
    output->used = output->written = 0;
    output->has_header = 0;
}

/* The file begins when the app runs for the first time, not while the network is
 * built: a network that is never adopted leaves the old file alone. */
static void begin_output(struct pcap_output *output,
                         const struct pcap_writer_config *config)
{
    uint16_t version[2] = {PCAP_VERSION_MAJOR, PCAP_VERSION_MINOR};
    uint32_t header[6] = {
        config->nanosecond ? PCAP_MAGIC_NANOSECOND : PCAP_MAGIC_MICROSECOND,
        0,
        0, /* reserved */
        0,
        config->snaplen,
        PCAP_LINKTYPE_ETHERNET,
    };
    memcpy(&header[1], version, sizeof(version));
    output->begun = 1;
    output->realtime = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);
    if (output->is_regular && ftruncate(output->fd, 0))
        output->error = (uint32_t)errno;
    output->is_ng = config->blocks != NULL;
    output->header_size = output->is_ng ? config->blocks_size : sizeof(header);
    memcpy(output->buffer, output->is_ng ? config->blocks : (const uint8_t *)header,
           output->header_size);
    output->used = output->header_size;
    output->has_header = 1;
}

uint32_t pcap_output_waiting(const struct pcap_output *output)
{
    uint32_t waiting = 0;
    bool is_header = output->has_header;
    for (uint32_t at = 0; at < output->used; is_header = false) {
        waiting += !is_header;
        at += piece_size(output, output->buffer + at, is_header);
    }
    return waiting;
}

uint32_t pcap_output_finish(struct pcap_output *output, int timeout_ms)
{
    if (!output->begun)
        return 0;
    int64_t deadline = clock_ns(CLOCK_MONOTONIC) + (int64_t)timeout_ms * 1000000;
    flush(output);
    while (output->used && !output->error) {
        int64_t left = deadline - clock_ns(CLOCK_MONOTONIC);
        struct pollfd wait = {.fd = output->fd, .events = POLLOUT};
        if (left <= 0 || poll(&wait, 1, (int)(left / 1000000) + 1) == 0)
            break;
        flush(output);
    }
    uint32_t lost = pcap_output_waiting(output);
    /* A disk that is full still lets us cut off what is no whole record. */
    if (output->is_regular && output->written &&
        ftruncate(output->fd, (off_t)(output->size - output->written)))
        output->error = (uint32_t)errno;
    output->used = output->written = 0;
    return lost;
}

/* ---- PcapWriter ---------------------------------------------------------- */

/* When, in the file's unit, and which way: what is alike for a burst. */
struct stamp {
    uint64_t seconds;
    uint64_t fraction;
    uint64_t ticks;     /* both together */
    uint32_t direction; /* 1: to whom the file is about, 2: from there (pcapng) */
};

static void put_header(uint8_t *to, const struct packet *packet, uint32_t length,
                       const struct stamp *stamp)
{
    uint32_t header[4] = {(uint32_t)stamp->seconds, (uint32_t)stamp->fraction, length,
                          packet->length};
    memcpy(to, header, sizeof(header));
}

/* All but the frame itself of an enhanced packet block of `size` bytes. */
static void put_block(uint8_t *to, const struct packet *packet, uint32_t length,
                      uint32_t size, const struct stamp *stamp)
{
    uint32_t header[7] = {PCAPNG_PACKET,
                          size,
                          0, /* interface */
                          (uint32_t)(stamp->ticks >> 32),
                          (uint32_t)stamp->ticks,
                          length,
                          packet->length};
    uint32_t trailer[4] = {PCAPNG_FLAGS | 4u << 16, stamp->direction, 0, size};
    memcpy(to, header, sizeof(header));
    memset(to + PCAPNG_HEADER + length, 0, size - PCAPNG_TRAILER - PCAPNG_HEADER - length);
    memcpy(to + size - PCAPNG_TRAILER, trailer, sizeof(trailer));
}

/* Append a record of a plain packet; it stays the caller's. */
static void put_record(struct app *app, const struct packet *packet,
                       const struct stamp *stamp)
{
    const struct pcap_writer_config *config = app->config;
    struct pcap_output *output = app->state;
    uint32_t length = min_u32(packet->length, config->snaplen);
    uint32_t before = output->is_ng ? PCAPNG_HEADER : PCAP_RECORD_HEADER;
    uint32_t size = output->is_ng ? before + (length + 3) / 4 * 4 + PCAPNG_TRAILER
                                  : before + length;
    if (unlikely(PCAP_OUTPUT_SIZE - output->used < size + SLACK)) {
        if (!output->stuck)
            flush(output);
        if (PCAP_OUTPUT_SIZE - output->used < size + SLACK) {
            app->counters[output->error ? PCAP_WRITER_DROP_WRITE_ERROR
                                        : PCAP_WRITER_DROP_OUTPUT_FULL]++;
            return;
        }
    }
    uint8_t *to = output->buffer + output->used;
    /* The frame first: whole cache lines of it overwrite what is behind it. */
    packet_copy_data(to + before, packet->data, length);
    if (output->is_ng)
        put_block(to, packet, length, size, stamp);
    else
        put_header(to, packet, length, stamp);
    output->used += size;
    app->counters[PCAP_WRITER_TRUNCATED] += length < packet->length;
}

/* A packet that is not yet what a wire would carry: finish it first. */
static void put_offloaded(struct app *app, struct packet *packet,
                          const struct stamp *stamp)
{
    struct freelist *freelist = app->worker->freelist;
    struct packet *segments[SEGMENTS_MAX];
    if (packet->gso_type == PACKET_GSO_NONE) {
        if (packet_finish_checksum(packet))
            put_record(app, packet, stamp);
        else
            app->counters[PCAP_WRITER_DROP_BAD_OFFLOAD]++;
        return;
    }
    int n = packet_segment(freelist, packet, segments, SEGMENTS_MAX);
    if (n < 0) {
        app->counters[n == -ENOMEM ? PCAP_WRITER_DROP_NO_PACKET
                                   : PCAP_WRITER_DROP_BAD_OFFLOAD]++;
        return;
    }
    for (int i = 0; i < n; i++)
        put_record(app, segments[i], stamp);
    packet_free_burst(freelist, segments, (uint32_t)n);
}

/* Bytes that a packet takes at most in the buffer. Headers that repeat in each
 * segment are taken for 256 bytes: who has longer ones may lose a segment. */
static uint32_t most_bytes(const struct packet *packet)
{
    uint32_t segments = 1;
    if (unlikely(packet->gso_type && packet->gso_size))
        segments = min_u32(1 + packet->length / packet->gso_size, SEGMENTS_MAX);
    return packet->length + segments * (PCAPNG_HEADER + PCAPNG_TRAILER + SLACK) +
           (segments - 1) * 256;
}

/* How many packets of the input fit while a pipe is full; the others wait there, as
 * in front of any app that is held up. On a disk's errors nobody waits. */
static uint32_t count_fitting(struct pcap_output *output, struct link *in)
{
    uint32_t n = link_readable(in), room = PCAP_OUTPUT_SIZE - output->used;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t size = most_bytes(*link_slot(in, in->read + i));
        if (size > room)
            return i;
        room -= size;
    }
    return n;
}

static uint32_t write_input(struct app *app, struct link *in, struct stamp stamp)
{
    struct pcap_output *output = app->state;
    struct packet *burst[LINK_CAPACITY];
    uint32_t n = LINK_CAPACITY;
    if (unlikely(!output->is_regular && !output->error))
        n = count_fitting(output, in);
    n = link_receive_burst(in, burst, n);
    for (uint32_t i = 0; i < n; i++) {
        struct packet *packet = burst[i];
        if (unlikely(packet->flags & PACKET_CSUM_PARTIAL || packet->gso_type))
            put_offloaded(app, packet, &stamp);
        else
            put_record(app, packet, &stamp);
    }
    packet_free_burst(in->freelist, burst, n);
    if (output->used >= PCAP_OUTPUT_PIECE && !output->stuck)
        flush(output);
    return n;
}

/* The first input has what goes to whom the file is about, a second one what comes. */
static uint32_t pcap_writer_push(struct app *app)
{
    const struct pcap_writer_config *config = app->config;
    struct pcap_output *output = app->state;
    uint32_t moved = 0;
    for (uint32_t i = 0; i < app->ninput; i++) {
        struct link *in = app->input[i];
        if (!in || link_readable(in) == 0)
            continue;
        if (unlikely(!output->begun))
            begin_output(output, config);
        uint64_t now = app->worker->now + (uint64_t)output->realtime;
        uint64_t unit = config->nanosecond ? 1 : 1000; /* ns */
        moved += write_input(app, in,
                             (struct stamp){
                                 .seconds = now / NS_PER_S,
                                 .fraction = now % NS_PER_S / unit,
                                 .ticks = now / unit,
                                 .direction = i + 1,
                             });
    }
    return moved;
}

static void pcap_writer_tick(struct app *app)
{
    struct pcap_output *output = app->state;
    if (unlikely(!output->begun))
        begin_output(output, app->config);
    /* Anew each time: CLOCK_REALTIME may be set while we run. */
    output->realtime = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);
    if (output->used)
        flush(output);
}

static uint32_t pcap_writer_retire(struct app *app)
{
    pcap_writer_tick(app);
    return 0;
}

const struct app_ops pcap_writer_ops = {
    .push = pcap_writer_push,
    .tick = pcap_writer_tick,
    .retire = pcap_writer_retire,
};
