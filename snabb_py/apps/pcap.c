/* PcapReader: classic pcap and pcapng.
 *
 * Sources: draft-ietf-opsawg-pcap (classic), draft-ietf-opsawg-pcapng.
 *
 * A file is read in large pieces by pread(), not mapped: whoever shortens a mapped
 * file kills the process that reads it (SIGBUS); pread() just finds the end sooner.
 * Every length in a file is checked where it is read, before anything behind it is.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <byteswap.h>
#include <endian.h>
#include <errno.h>
#include <unistd.h>

#include "snabb_py/apps/pcap.h"

enum {
    MOST_STEPS = 2 * LINK_CAPACITY, /* records that one pull looks at */
    NS_PER_S = 1000000000
};

_Static_assert(sizeof(((struct pcap_reader_state *)0)->interfaces) ==
                   PCAP_MAX_INTERFACES * sizeof(struct pcap_interface),
               "one entry an interface");
_Static_assert(PCAP_PIECE_SIZE >= 64 + PACKET_LARGE_SIZE,
               "a packet of any size lies in one piece with its header");
_Static_assert(PCAP_BUFFER_SIZE == 2 * PCAP_PIECE_SIZE, "see have()");

/* ---- the file as a stream of bytes --------------------------------------- */

static uint16_t get16(const struct pcap_reader_state *state, const uint8_t *p)
{
    uint16_t value;
    memcpy(&value, p, sizeof(value));
    return state->swapped ? bswap_16(value) : value;
}

static uint32_t get32(const struct pcap_reader_state *state, const uint8_t *p)
{
    uint32_t value;
    memcpy(&value, p, sizeof(value));
    return state->swapped ? bswap_32(value) : value;
}

static uint64_t get64(const struct pcap_reader_state *state, const uint8_t *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof(value));
    return state->swapped ? bswap_64(value) : value;
}

/* Read at a position. Returns how many bytes there are, fewer than n at the file's
 * end or on an error, which stays in state->error. */
static uint32_t read_at(struct pcap_reader_state *state, uint8_t *to, uint32_t n,
                        uint64_t position)
{
    for (;;) {
        ssize_t got = pread(state->fd, to, n, (off_t)position);
        if (got >= 0)
            return (uint32_t)got;
        if (errno != EINTR) {
            state->error = (uint32_t)errno;
            return 0;
        }
    }
}

static const uint8_t *current(const struct pcap_reader_state *state)
{
    return state->buffer + state->begin;
}

/* Make sure of the next n bytes, n <= PCAP_PIECE_SIZE; current() may change. What is
 * left moves to the front only when more than half of the buffer is used up: so there
 * is always room for n, and a file of up to a piece stays in the buffer for good. */
static bool have(struct pcap_reader_state *state, uint32_t n)
{
    while (unlikely(state->end - state->begin < n)) {
        if (state->end > PCAP_PIECE_SIZE && state->begin) {
            memmove(state->buffer, current(state), state->end - state->begin);
            state->offset += state->begin;
            state->end -= state->begin;
            state->begin = 0;
        }
        uint32_t got =
            read_at(state, state->buffer + state->end, PCAP_BUFFER_SIZE - state->end,
                    state->offset + state->end);
        if (got == 0)
            return false;
        state->end += got;
    }
    return true;
}

/* Go on by n bytes, which need not be in the buffer. */
static void skip(struct pcap_reader_state *state, uint64_t n)
{
    if (n <= state->end - state->begin) {
        state->begin += (uint32_t)n;
    } else {
        state->offset += state->begin + n;
        state->begin = state->end = 0;
    }
}

/* ---- records ------------------------------------------------------------- */

enum found {
    FOUND_PACKET, /* a record is there; it is taken by skip(record.size) */
    FOUND_OTHER,  /* something else was there and is passed */
    FOUND_END     /* nothing can be read from here on */
};

struct record {
    const uint8_t *data;
    uint32_t length;   /* 1..PACKET_LARGE_SIZE bytes of data, in the buffer */
    uint32_t is_short; /* the frame was longer than what was captured */
    uint32_t is_over;  /* what was captured is longer than the snap length */
    uint32_t has_time;
    uint64_t size;  /* bytes in the file */
    uint64_t ticks; /* the timestamp, as the interface has it */
    const struct pcap_interface *interface;
};

/* The first end that is none is what the user is told of. */
static enum found end_with(struct pcap_reader_state *state, uint32_t ending)
{
    if (state->ending <= PCAP_ENDED) {
        state->ended_at = state->offset + state->begin;
        state->ended_file = state->file;
        __atomic_store_n(&state->ending, ending, __ATOMIC_RELEASE);
    }
    return FOUND_END;
}

/* The file has ended, between two records or inside of one, or cannot be read. */
static enum found end_of_file(struct pcap_reader_state *state, uint64_t *counters)
{
    if (state->error) {
        counters[PCAP_READER_END_READ_ERROR]++;
        return end_with(state, PCAP_UNREADABLE);
    }
    if (state->end == state->begin)
        return end_with(state, PCAP_ENDED);
    counters[PCAP_READER_DROP_TRUNCATED_FILE]++;
    return end_with(state, PCAP_CUT_OFF);
}

static enum found end_of_sense(struct pcap_reader_state *state, uint64_t *counters)
{
    counters[PCAP_READER_DROP_DAMAGED_FILE]++;
    return end_with(state, PCAP_SENSELESS);
}

static enum found pass(struct pcap_reader_state *state, uint64_t *counters,
                       uint32_t reason, uint64_t size)
{
    counters[reason]++;
    skip(state, size);
    return FOUND_OTHER;
}

/* A record whose lengths are within bounds: decide what of it is the packet. `length`
 * bytes of `original` were captured; our packets are without FCS. */
static enum found take(struct pcap_reader_state *state, uint64_t *counters,
                       struct record *record, uint32_t length, uint32_t original)
{
    const struct pcap_interface *interface = record->interface;
    record->is_over = interface->snaplen && length > interface->snaplen;
    if (unlikely(interface->fcs)) {
        original = original > interface->fcs ? original - interface->fcs : 0;
        length = min_u32(length, original);
    }
    if (unlikely(length == 0))
        return pass(state, counters, PCAP_READER_DROP_EMPTY, record->size);
    record->length = length;
    record->is_short = length < original;
    return FOUND_PACKET;
}

/* ---- classic pcap -------------------------------------------------------- */

static enum found classic_next(struct pcap_reader_state *state, uint64_t *counters,
                               struct record *record)
{
    if (unlikely(!have(state, PCAP_RECORD_HEADER)))
        return end_of_file(state, counters);
    const struct pcap_interface *interface = &state->interfaces[0];
    const uint8_t *header = current(state);
    uint32_t length = get32(state, header + 8), original = get32(state, header + 12);
    /* Where the next record begins, this one's length alone tells: one that cannot
     * be true is the end. libpcap and Wireshark have the same limit. */
    if (unlikely(length > PCAP_MAX_SNAPLEN && length > interface->snaplen))
        return end_of_sense(state, counters);
    record->size = (uint64_t)PCAP_RECORD_HEADER + length;
    if (unlikely(length > PACKET_LARGE_SIZE)) {
        uint8_t last;
        if (!read_at(state, &last, 1, state->offset + state->begin + record->size - 1))
            return end_of_file(state, counters);
        return pass(state, counters, PCAP_READER_DROP_TOO_LONG, record->size);
    }
    if (unlikely(!have(state, PCAP_RECORD_HEADER + length)))
        return end_of_file(state, counters);
    header = current(state);
    /* From here on: the record is in the buffer whole. */
    record->interface = interface;
    record->data = header + PCAP_RECORD_HEADER;
    record->has_time = 1;
    record->ticks = get32(state, header) * (NS_PER_S / interface->multiplier) +
                    get32(state, header + 4);
    return take(state, counters, record, length, original);
}

/* ---- pcapng -------------------------------------------------------------- */

enum { /* draft-ietf-opsawg-pcapng, 4 and 11.1 */
       BLOCK_INTERFACE = 1,
       BLOCK_PACKET = 2, /* obsolete */
       BLOCK_SIMPLE_PACKET = 3,
       BLOCK_ENHANCED_PACKET = 6,
       BLOCK_SECTION = 0x0a0d0d0a, /* the same in both byte orders */
       BYTE_ORDER_MAGIC = 0x1a2b3c4d,
       BLOCK_OVERHEAD = 12, /* type, length, length once more */
       SECTION_SIZE = 28,   /* least of a section header */
       INTERFACE_SIZE = 20,
       ENHANCED_SIZE = 32,
       SIMPLE_SIZE = 16,
       OPTION_END = 0,
       OPTION_TSRESOL = 9,
       OPTION_FCSLEN = 13,
       OPTION_TSOFFSET = 14
};

/* Learn the byte order of the section that begins here; 12 bytes are there. */
static bool section_byte_order(struct pcap_reader_state *state, const uint8_t *block)
{
    uint32_t magic;
    memcpy(&magic, block + 8, sizeof(magic));
    if (magic != BYTE_ORDER_MAGIC && magic != bswap_32(BYTE_ORDER_MAGIC))
        return false;
    state->swapped = magic != BYTE_ORDER_MAGIC;
    return true;
}

/* if_tsresol (4.2): 10^-n s, or 2^-n s with the top bit set. */
static void set_resolution(struct pcap_interface *interface, uint8_t tsresol)
{
    uint32_t n = tsresol & 0x7f;
    interface->shift = 0;
    interface->multiplier = interface->divisor = 1;
    if (tsresol & 0x80) {
        interface->multiplier = NS_PER_S;
        interface->shift = n;
        return;
    }
    for (; n < 9; n++)
        interface->multiplier *= 10;
    /* 10^19 is the largest that fits, and makes 0 of any finer time as well. */
    for (; n > 9 && interface->divisor < UINT64_MAX / 10; n--)
        interface->divisor *= 10;
}

/* Options (3.5): code, length, value padded to 4 bytes; each is checked to lie
 * before end. */
static void read_interface_options(const struct pcap_reader_state *state,
                                   struct pcap_interface *interface, const uint8_t *p,
                                   const uint8_t *end)
{
    while (end - p >= 4) {
        uint32_t code = get16(state, p), length = get16(state, p + 2);
        uint32_t padded = (length + 3) & ~3u;
        p += 4;
        if (code == OPTION_END || end - p < (ptrdiff_t)padded)
            return;
        if (code == OPTION_TSRESOL && length == 1)
            set_resolution(interface, *p);
        else if (code == OPTION_TSOFFSET && length == 8)
            interface->offset = (int64_t)get64(state, p);
        /* In bits, says the draft; in bytes, say some writers. */
        else if (code == OPTION_FCSLEN && length == 1)
            interface->fcs = *p == 32 || *p == 4 ? 4 : 0;
        p += padded;
    }
}

/* An interface description whose first `loaded` bytes are in the buffer. What has no
 * entry any more keeps the number it would have had: its packets are not found. */
static void add_interface(struct pcap_reader_state *state, const uint8_t *block,
                          uint32_t total, uint32_t loaded)
{
    if (state->ninterfaces == PCAP_MAX_INTERFACES)
        return;
    struct pcap_interface *interface = &state->interfaces[state->ninterfaces++];
    *interface = (struct pcap_interface){
        .link_type = get16(state, block + 8),
        .snaplen = get32(state, block + 12),
    };
    set_resolution(interface, 6);
    read_interface_options(state, interface, block + 16,
                           block + min_u32(total - 4, loaded));
}

/* A packet block of `total` bytes: at least its fixed part is in the buffer, and so
 * much behind it as the largest packet takes, if the block is that long. */
static enum found read_packet_block(struct pcap_reader_state *state, uint64_t *counters,
                                    struct record *record, uint32_t type,
                                    const uint8_t *block, uint32_t total)
{
    bool is_simple = type == BLOCK_SIMPLE_PACKET;
    uint32_t overhead = is_simple ? SIMPLE_SIZE : ENHANCED_SIZE;
    if (unlikely(total < overhead))
        return pass(state, counters, PCAP_READER_DROP_BAD_RECORD, total);
    uint32_t number = is_simple              ? 0
                      : type == BLOCK_PACKET ? get16(state, block + 8)
                                             : get32(state, block + 8);
    if (unlikely(number >= state->ninterfaces))
        return pass(state, counters, PCAP_READER_DROP_NO_INTERFACE, total);
    const struct pcap_interface *interface = &state->interfaces[number];
    if (unlikely(interface->link_type != PCAP_LINKTYPE_ETHERNET))
        return pass(state, counters, PCAP_READER_DROP_LINK_TYPE, total);
    uint32_t length, original;
    record->interface = interface;
    record->size = total;
    if (is_simple) {
        original = get32(state, block + 8);
        length = interface->snaplen ? min_u32(original, interface->snaplen) : original;
        record->data = block + 12;
        record->has_time = 0;
        record->ticks = 0;
    } else {
        length = get32(state, block + 20);
        original = get32(state, block + 24);
        record->data = block + 28;
        record->has_time = 1;
        record->ticks =
            (uint64_t)get32(state, block + 12) << 32 | get32(state, block + 16);
    }
    if (unlikely(length > total - overhead))
        return pass(state, counters, PCAP_READER_DROP_BAD_RECORD, total);
    if (unlikely(length > PACKET_LARGE_SIZE))
        return pass(state, counters, PCAP_READER_DROP_TOO_LONG, total);
    /* From here on: data[0..length) is inside of the block and of the buffer. */
    return take(state, counters, record, length, original);
}

/* The length at a block's end is the one at its beginning. The block is in the
 * buffer, or so much of it as fits a piece; *is_cut: the file ends before it does. */
static bool has_same_end(struct pcap_reader_state *state, const uint8_t *block,
                         uint32_t total, bool *is_cut)
{
    *is_cut = false;
    if (likely(total <= PCAP_PIECE_SIZE))
        return get32(state, block + total - 4) == total;
    uint8_t end[4];
    if (read_at(state, end, 4, state->offset + state->begin + total - 4) < 4) {
        *is_cut = true;
        return false;
    }
    return get32(state, end) == total;
}

static enum found ng_next(struct pcap_reader_state *state, uint64_t *counters,
                          struct record *record)
{
    if (unlikely(!have(state, BLOCK_OVERHEAD)))
        return end_of_file(state, counters);
    const uint8_t *block = current(state);
    uint32_t type = get32(state, block);
    if (unlikely(type == BLOCK_SECTION) && !section_byte_order(state, block))
        return end_of_sense(state, counters);
    uint32_t total = get32(state, block + 4);
    if (unlikely(total < BLOCK_OVERHEAD || total % 4))
        return end_of_sense(state, counters);
    uint32_t loaded = min_u32(total, PCAP_PIECE_SIZE);
    if (unlikely(!have(state, loaded)))
        return end_of_file(state, counters);
    block = current(state);
    bool is_cut;
    if (unlikely(!has_same_end(state, block, total, &is_cut)))
        return is_cut ? end_of_file(state, counters) : end_of_sense(state, counters);
    /* From here on: the whole block is in the file, `loaded` bytes in the buffer. */
    switch (type) {
    case BLOCK_ENHANCED_PACKET:
    case BLOCK_SIMPLE_PACKET:
    case BLOCK_PACKET:
        return read_packet_block(state, counters, record, type, block, total);
    case BLOCK_SECTION:
        if (total < SECTION_SIZE || get16(state, block + 12) != 1)
            return end_of_sense(state, counters);
        state->ninterfaces = 0;
        break;
    case BLOCK_INTERFACE:
        if (total < INTERFACE_SIZE)
            return end_of_sense(state, counters);
        add_interface(state, block, total, loaded);
        break;
    default:
        break;
    }
    skip(state, total);
    return FOUND_OTHER;
}

/* ---- either -------------------------------------------------------------- */

static int classic_begin(struct pcap_reader_state *state, bool is_nanosecond)
{
    if (!have(state, PCAP_FILE_HEADER))
        return PCAP_SHORT;
    const uint8_t *header = current(state);
    uint32_t major = get16(state, header + 4), minor = get16(state, header + 6);
    if (major != PCAP_VERSION_MAJOR || minor != PCAP_VERSION_MINOR) {
        state->detail = major << 16 | minor;
        return PCAP_VERSION;
    }
    /* FCS length (4 bits, in units of 2 bytes), reserved, P (the length is given),
     * reserved, link type (16 bits). */
    uint32_t type = get32(state, header + 20);
    state->detail = type & 0xffff;
    if (state->detail != PCAP_LINKTYPE_ETHERNET)
        return PCAP_LINK_TYPE;
    state->interfaces[0] = (struct pcap_interface){
        .link_type = PCAP_LINKTYPE_ETHERNET,
        .snaplen = get32(state, header + 16),
        .fcs = type & 0x04000000 ? type >> 28 << 1 : 0,
        .multiplier = is_nanosecond ? 1 : 1000,
        .divisor = 1,
    };
    state->ninterfaces = 1;
    state->format = PCAP_CLASSIC;
    skip(state, PCAP_FILE_HEADER);
    return PCAP_OK;
}

/* Leaves the section header for ng_next(). */
static int ng_begin(struct pcap_reader_state *state)
{
    if (!have(state, SECTION_SIZE))
        return PCAP_SHORT;
    const uint8_t *block = current(state);
    if (!section_byte_order(state, block))
        return PCAP_CORRUPT;
    uint32_t major = get16(state, block + 12), minor = get16(state, block + 14);
    if (major != 1) {
        state->detail = major << 16 | minor;
        return PCAP_VERSION;
    }
    state->ninterfaces = 0;
    state->format = PCAP_NG;
    return PCAP_OK;
}

/* Read the file's header. Returns PCAP_*, or -errno. */
static int begin(struct pcap_reader_state *state)
{
    int rc;
    state->swapped = 0;
    state->npackets = 0;
    if (!have(state, 4)) {
        rc = state->end == state->begin ? PCAP_EMPTY : PCAP_SHORT;
    } else {
        uint32_t magic = get32(state, current(state)), swapped = bswap_32(magic);
        state->detail = be32toh(magic);
        state->swapped =
            swapped == PCAP_MAGIC_MICROSECOND || swapped == PCAP_MAGIC_NANOSECOND;
        if (state->swapped)
            magic = swapped;
        if (magic == PCAP_MAGIC_MICROSECOND || magic == PCAP_MAGIC_NANOSECOND)
            rc = classic_begin(state, magic == PCAP_MAGIC_NANOSECOND);
        else
            rc = magic == BLOCK_SECTION ? ng_begin(state) : PCAP_FOREIGN;
    }
    return state->error ? -(int)state->error : rc;
}

static enum found next(struct pcap_reader_state *state, uint64_t *counters,
                       struct record *record)
{
    if (unlikely(state->format == PCAP_UNKNOWN)) {
        /* pcap_reader_start() was content: the file has changed since. */
        int rc = begin(state);
        if (rc)
            return rc < 0 ? end_of_file(state, counters)
                          : end_of_sense(state, counters);
    }
    return state->format == PCAP_CLASSIC ? classic_next(state, counters, record)
                                         : ng_next(state, counters, record);
}

/* Back to the beginning. What is in the buffer stays if that is the beginning. */
static void rewind_file(struct pcap_reader_state *state)
{
    if (state->offset) {
        state->offset = 0;
        state->end = 0;
    }
    state->begin = 0;
    state->format = PCAP_UNKNOWN;
}

static void open_file(struct pcap_reader_state *state, uint32_t file)
{
    if (state->fd != state->fds[file]) {
        state->offset = 0;
        state->end = 0;
    }
    state->file = file;
    state->fd = state->fds[file];
    rewind_file(state);
}

static bool has_ethernet(const struct pcap_reader_state *state)
{
    for (uint32_t i = 0; i < state->ninterfaces; i++)
        if (state->interfaces[i].link_type == PCAP_LINKTYPE_ETHERNET)
            return true;
    return false;
}

int pcap_reader_start(struct pcap_reader_state *state, uint32_t file)
{
    uint64_t counters[PCAP_READER_NCOUNTERS] = {0};
    struct record record;
    enum found found = FOUND_OTHER;
    open_file(state, file);
    int rc = begin(state);
    if (rc)
        return rc;
    /* A capture that holds nothing else than foreign frames is refused now; one
     * without any frame is fine. */
    while (found == FOUND_OTHER && !counters[PCAP_READER_DROP_LINK_TYPE])
        found = next(state, counters, &record);
    if (state->error)
        return -(int)state->error;
    if (found == FOUND_END && state->ended_at == 0)
        return state->ending == PCAP_CUT_OFF ? PCAP_SHORT : PCAP_CORRUPT;
    if (state->ninterfaces && !has_ethernet(state)) {
        state->detail = state->interfaces[0].link_type;
        return PCAP_LINK_TYPE;
    }
    open_file(state, file);
    state->ending = PCAP_NOT_ENDED;
    return PCAP_OK;
}

/* ---- PcapReader ---------------------------------------------------------- */

/* The timestamp in ns since 1970; one outside of 64 bits becomes the nearest. */
static uint64_t record_time(const struct record *record)
{
    const struct pcap_interface *interface = record->interface;
    if (interface->multiplier == 1 && interface->shift == 0 &&
        interface->divisor == 1 && interface->offset == 0)
        return record->ticks;
    unsigned __int128 ns =
        (unsigned __int128)record->ticks * interface->multiplier / interface->divisor >>
        interface->shift;
    __int128 time = (__int128)ns + (__int128)interface->offset * NS_PER_S;
    return time<0 ? 0 : time>(__int128) UINT64_MAX ? UINT64_MAX : (uint64_t)time;
}

/* Whether the time has come: as long after the first packet as in the capture. One
 * without a time, or with one before the first, goes at once. */
static bool is_due(struct pcap_reader_state *state, const struct record *record,
                   uint64_t now)
{
    if (!record->has_time)
        return true;
    uint64_t time = record_time(record);
    if (state->npackets == 0) {
        state->first_time = time;
        state->first_now = now;
    }
    return time <= state->first_time ||
           time - state->first_time <= now - state->first_now;
}

/* At the end: go on with the next file, or begin again if asked to, and if the last round
 * gave a packet. */
static bool go_on(struct pcap_reader_state *state, uint32_t rounds)
{
    uint32_t file = state->file + 1;
    state->in_round += state->npackets;
    bool is_last = file == state->nfiles && ++state->rounds == rounds && rounds;
    if (state->error || is_last || (file == state->nfiles && state->in_round == 0)) {
        __atomic_store_n(&state->done, 1, __ATOMIC_RELEASE);
        return false;
    }
    if (file == state->nfiles) {
        file = 0;
        state->in_round = 0;
    }
    open_file(state, file);
    return true;
}

static uint32_t pcap_reader_pull(struct app *app)
{
    const struct pcap_reader_config *config = app->config;
    struct pcap_reader_state *state = app->state;
    struct link *out = app->output[0];
    struct packet *burst[LINK_CAPACITY];
    uint32_t n = min_u32(app->worker->burst, link_writable(out));
    uint32_t made = 0, steps = 0;
    uint64_t bytes = 0;
    /* Bounds on both: a file may hold millions of blocks that are no packets. */
    while (made < n && steps < MOST_STEPS && !state->done) {
        struct record record;
        steps++;
        enum found found = next(state, app->counters, &record);
        if (unlikely(found == FOUND_END && !go_on(state, config->rounds)))
            break;
        if (unlikely(found != FOUND_PACKET))
            continue;
        if (config->timing && !is_due(state, &record, app->worker->now))
            break;
        struct packet *packet = packet_alloc(out->freelist, record.length);
        if (unlikely(!packet))
            break; /* no loss: the record waits in the file */
        packet_copy_data(packet->data, record.data, record.length);
        app->counters[PCAP_READER_SHORT_CAPTURE] += record.is_short;
        app->counters[PCAP_READER_OVER_SNAPLEN] += record.is_over;
        skip(state, record.size);
        state->npackets++;
        bytes += record.length;
        burst[made++] = packet;
    }
    link_transmit_known(out, burst, made, bytes);
    /* Not idle while there is something to pass over. */
    return made == 0 && steps == MOST_STEPS ? 1 : made;
}

/* At the end of the file there is nothing to wake up for. */
static int pcap_reader_arm(struct app *app, struct wake *wake)
{
    const struct pcap_reader_state *state = app->state;
    *wake = (struct wake){.fd = -1};
    return state->done ? ARM_READY : ARM_NEVER;
}

const struct app_ops pcap_reader_ops = {
    .pull = pcap_reader_pull,
    .arm = pcap_reader_arm,
};
