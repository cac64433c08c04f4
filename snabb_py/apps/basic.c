/* The basic apps: each a few lines around one loop over a burst. */
#include <endian.h>

#include "snabb_py/apps/basic.h"

#include "snabb_py/engine/offload.h"

_Static_assert(sizeof(((struct sink_state *)0)->seen) * 8 == SEQUENCE_WINDOW,
               "one bit a number");

/* ---- Source -------------------------------------------------------------- */

/* How many packets the rate allows now; an idle second does not become a burst. */
static uint32_t source_credit(struct source_state *state, double rate, uint64_t now,
                              uint32_t burst)
{
    if (state->since == 0)
        state->since = now;
    state->credit += (double)(now - state->since) * rate;
    state->since = now;
    double most = 4.0 * burst;
    if (state->credit > most)
        state->credit = most;
    return min_u32((uint32_t)state->credit, burst);
}

/* Make n packets and put them on a link that has room for them. */
static HOT void source_make(const struct source_config *config, struct link *out,
                            uint64_t number, uint32_t n)
{
    uint32_t size = config->size, offset = config->sequence;
    uint32_t slot_class = size <= PACKET_SMALL_SIZE ? PACKET_SMALL : PACKET_LARGE;
    const uint8_t *frame = config->frame;
    struct packet **fresh = freelist_take(out->freelist, slot_class, n);
    for (uint32_t i = n; i-- > 0;) {
        struct packet *packet = packet_fresh(fresh[i], slot_class, size);
        packet_copy_data(packet->data, frame, size);
    }
    if (offset)
        for (uint32_t i = 0; i < n; i++) {
            uint64_t bigendian = htobe64(number + i);
            memcpy(fresh[i]->data + offset, &bigendian, sizeof(bigendian));
        }
    link_transmit_known(out, fresh, n, (uint64_t)n * size);
}

static uint32_t source_pull(struct app *app)
{
    const struct source_config *config = app->config;
    struct source_state *state = app->state;
    struct link *out = app->output[0];
    uint32_t n = min_u32(app->worker->burst, link_writable(out));
    if (config->count) {
        uint64_t left = config->count > state->sent ? config->count - state->sent : 0;
        n = left < n ? (uint32_t)left : n;
    }
    if (config->rate > 0)
        n = min_u32(n, source_credit(state, config->rate, app->worker->now,
                                     app->worker->burst));
    n = freelist_reserve(out->freelist,
                         config->size <= PACKET_SMALL_SIZE ? PACKET_SMALL
                                                           : PACKET_LARGE,
                         n);
    if (n == 0)
        return 0;
    source_make(config, out, state->sent, n);
    state->sent += n;
    if (config->rate > 0)
        state->credit -= n;
    return n;
}

const struct app_ops source_ops = {.pull = source_pull};

/* ---- Sink ---------------------------------------------------------------- */

/* A number ahead of the expected one makes the gap lost; a late one was counted
 * lost and is taken off again, unless it has come before. Numbers further behind
 * than the window count as duplicates. */
static void sink_check(struct app *app, const struct packet *packet)
{
    const struct sink_config *config = app->config;
    struct sink_state *state = app->state;
    uint64_t number;
    if (packet->length < config->sequence + sizeof(number)) {
        app->counters[SINK_FOREIGN]++;
        return;
    }
    memcpy(&number, packet->data + config->sequence, sizeof(number));
    number = be64toh(number);
    uint64_t bit = 1ull << number % 64;
    uint64_t *word = &state->seen[number % SEQUENCE_WINDOW / 64];
    if (number >= state->expected) {
        app->counters[SINK_LOST] += number - state->expected;
        if (number - state->expected >= SEQUENCE_WINDOW)
            memset(state->seen, 0, sizeof(state->seen));
        else
            for (uint64_t n = state->expected; n < number; n++)
                state->seen[n % SEQUENCE_WINDOW / 64] &= ~(1ull << n % 64);
        state->expected = number + 1;
        *word |= bit;
    } else if (state->expected - number > SEQUENCE_WINDOW || *word & bit) {
        app->counters[SINK_DUPLICATED]++;
    } else {
        *word |= bit;
        app->counters[SINK_LOST]--;
        app->counters[SINK_REORDERED]++;
    }
}

static uint32_t sink_push(struct app *app)
{
    const struct sink_config *config = app->config;
    uint32_t moved = 0;
    for (uint32_t i = 0; i < app->ninput; i++) {
        struct link *in = app->input[i];
        uint32_t n = link_readable(in);
        if (config->sequence)
            for (uint32_t k = 0; k < n; k++)
                sink_check(app, *link_slot(in, in->read + k));
        moved += link_discard(in, n);
    }
    return moved;
}

const struct app_ops sink_ops = {.push = sink_push};

/* ---- Forward, Join ------------------------------------------------------- */

/* What does not fit waits on the input: the one who brings packets in from outside
 * sees that there is no room, and the loss is counted there. */
static uint32_t forward_push(struct app *app)
{
    return link_move(app->input[0], app->output[0], LINK_CAPACITY);
}

const struct app_ops forward_ops = {.push = forward_push};

/* Another input is first each time, so that a full output is shared fairly. */
static uint32_t join_push(struct app *app)
{
    uint32_t *turn = app->state;
    uint32_t moved = 0;
    for (uint32_t i = 0; i < app->ninput; i++)
        moved += link_move(app->input[(*turn + i) % app->ninput], app->output[0],
                           LINK_CAPACITY);
    *turn = (*turn + 1) % app->ninput;
    return moved;
}

const struct app_ops join_ops = {.push = join_push};

/* ---- Tee ----------------------------------------------------------------- */

/* Copies of a burst onto a link, as many as it has room for. */
static HOT void tee_copy(struct app *app, struct packet *const *burst, uint32_t n,
                         struct link *out)
{
    struct freelist *freelist = out->freelist;
    uint32_t fits = min_u32(n, link_writable(out));
    uint32_t reserved = freelist_reserve(freelist, PACKET_SMALL, fits);
    struct packet **fresh = freelist_take(freelist, PACKET_SMALL, reserved);
    uint32_t left = reserved, made = 0, write = out->write;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < fits; i++) {
        const struct packet *packet = burst[i];
        uint32_t length = packet->length;
        struct packet *copy = NULL;
        if (likely(left > 0 && length <= PACKET_SMALL_SIZE)) {
            copy = packet_fresh(fresh[--left], PACKET_SMALL, length);
        } else if (length > PACKET_SMALL_SIZE) { /* from another stack than fresh */
            copy = packet_alloc(freelist, length);
        }
        if (unlikely(!copy)) {
            app->counters[TEE_DROP_NO_PACKET]++;
            continue;
        }
        if (unlikely(!packet_is_plain(packet)))
            packet_copy_metadata(copy, packet);
        packet_copy_data(copy->data, packet->data, length);
        bytes += length;
        *link_slot(out, write + made++) = copy;
    }
    link_produce(out, made, bytes);
    freelist->classes[PACKET_SMALL].npackets += left; /* what was not needed */
    out->counters->txdrop += n - fits;
}

/* The last output gets the original. A full output loses its copies (txdrop) and
 * holds nobody else up. */
static uint32_t tee_push(struct app *app)
{
    uint32_t moved = 0;
    for (uint32_t i = 0; i < app->ninput; i++) {
        struct link *in = app->input[i];
        while (link_readable(in)) {
            uint32_t n = POOL_CHUNK;
            struct packet *const *burst = link_run(in, &n);
            for (uint32_t k = 0; k + 1 < app->noutput; k++)
                tee_copy(app, burst, n, app->output[k]);
            struct link *last = app->output[app->noutput - 1];
            uint64_t bytes = link_bytes(in, n);
            if (likely(n <= link_writable(last)))
                link_transmit_known(last, burst, n, bytes);
            else
                link_transmit_burst(last, burst, n);
            link_consume(in, n, bytes);
            moved += n;
        }
    }
    return moved;
}

const struct app_ops tee_ops = {.push = tee_push};

/* ---- Split --------------------------------------------------------------- */

/* Packet by packet in turn. */
static uint32_t split_push(struct app *app)
{
    uint32_t *turn = app->state;
    struct packet *burst[LINK_CAPACITY], *share[LINK_CAPACITY];
    uint32_t moved = 0;
    *turn %= app->noutput; /* fewer outputs than before a hand-over */
    for (uint32_t i = 0; i < app->ninput; i++) {
        uint32_t n = link_receive_burst(app->input[i], burst, LINK_CAPACITY);
        for (uint32_t k = 0; k < app->noutput; k++) {
            uint32_t nshare = 0;
            for (uint32_t j = k; j < n; j += app->noutput)
                share[nshare++] = burst[j];
            link_transmit_burst(app->output[(*turn + k) % app->noutput], share, nshare);
        }
        *turn = (*turn + n) % app->noutput;
        moved += n;
    }
    return moved;
}

const struct app_ops split_ops = {.push = split_push};

/* ---- Repeater ------------------------------------------------------------ */

static uint32_t repeater_push(struct app *app)
{
    struct repeater_state *state = app->state;
    struct link *in = app->input[0];
    uint32_t room = state->limit - state->npackets;
    uint32_t n = link_receive_burst(in, state->packets + state->npackets, room);
    state->npackets += n;
    uint32_t dropped = link_discard(in, LINK_CAPACITY);
    app->counters[REPEATER_DROP_FULL] += dropped;
    return n + dropped;
}

static uint32_t repeater_pull(struct app *app)
{
    struct repeater_state *state = app->state;
    struct link *out = app->output[0];
    struct packet *burst[LINK_CAPACITY];
    uint32_t n = min_u32(app->worker->burst, link_writable(out));
    if (state->npackets == 0)
        return 0;
    uint32_t made = 0;
    while (made < n) {
        burst[made] = packet_clone(out->freelist, state->packets[state->turn]);
        if (!burst[made])
            break;
        made++;
        state->turn = (state->turn + 1) % state->npackets;
    }
    return link_transmit_burst(out, burst, made);
}

static uint32_t repeater_retire(struct app *app)
{
    struct repeater_state *state = app->state;
    uint32_t n = state->npackets;
    packet_free_burst(app->worker->freelist, state->packets, n);
    state->npackets = 0;
    return n;
}

static uint32_t repeater_held(const struct app *app)
{
    const struct repeater_state *state = app->state;
    return state->npackets;
}

const struct app_ops repeater_ops = {
    .pull = repeater_pull,
    .push = repeater_push,
    .retire = repeater_retire,
    .held = repeater_held,
};

/* ---- Truncate ------------------------------------------------------------ */

static uint32_t truncate_push(struct app *app)
{
    const struct truncate_config *config = app->config;
    struct packet *burst[LINK_CAPACITY];
    struct link *out = app->output[0];
    uint32_t n = link_receive_burst(app->input[0], burst, link_writable(out));
    for (uint32_t i = 0; i < n; i++) {
        struct packet *packet = burst[i];
        if (packet->length > config->length) {
            packet->length = config->length;
        } else if (config->pad && packet->length < config->length) {
            uint32_t more = min_u32(config->length - packet->length,
                                    packet_tailroom(packet));
            memset(packet->data + packet->length, 0, more);
            packet->length += more;
        }
        /* What was left to finish reached beyond the new end, or may. */
        packet->flags = 0;
        packet->gso_type = PACKET_GSO_NONE;
    }
    return link_transmit_burst(out, burst, n);
}

const struct app_ops truncate_ops = {.push = truncate_push};

/* ---- Sample -------------------------------------------------------------- */

static uint32_t sample_push(struct app *app)
{
    const struct sample_config *config = app->config;
    uint32_t *since = app->state;
    struct packet *burst[LINK_CAPACITY];
    struct link *in = app->input[0], *out = app->output[0];
    uint32_t n = link_receive_burst(in, burst, link_writable(out));
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (++*since >= config->n) {
            *since = 0;
            burst[kept++] = burst[i];
        } else {
            packet_free(in->freelist, burst[i]);
        }
    }
    app->counters[SAMPLE_DROP_UNSAMPLED] += n - kept;
    link_transmit_burst(out, burst, kept);
    return n;
}

const struct app_ops sample_ops = {.push = sample_push};

/* ---- Police -------------------------------------------------------------- */

/* Pay for a packet's bytes on the wire. Of a super-frame each segment pays, as it would
 * behind the card that cuts it, and those for which nothing is left are cut off: dropped
 * whole, it would take a TCP dozens of segments back for one too many. Returns how many
 * were cut off; -1: the packet is to be dropped. */
static int32_t police_pay(struct packet *packet, uint32_t overhead, double *tokens)
{
    struct segments segments;
    double cost = (double)packet->length + overhead;
    if (unlikely(packet->gso_type) && packet_count_segments(packet, &segments)) {
        double each = (double)segments.length + overhead;
        cost = (segments.n - 1) * each + segments.last + overhead;
        if (cost > *tokens && *tokens >= each) {
            uint32_t n = min_u32((uint32_t)(*tokens / each), segments.n - 1);
            packet_keep_segments(packet, n);
            *tokens -= n * each;
            return (int32_t)(segments.n - n);
        }
    }
    if (cost > *tokens)
        return -1;
    *tokens -= cost;
    return 0;
}

/* A token bucket (RFC 2697 with one colour): filled at the rate up to the burst, a
 * packet that finds enough tokens takes them and passes. */
static uint32_t police_push(struct app *app)
{
    const struct police_config *config = app->config;
    struct police_state *state = app->state;
    struct packet *burst[LINK_CAPACITY];
    struct link *in = app->input[0], *out = app->output[0];
    uint32_t n = link_receive_burst(in, burst, link_writable(out));
    if (n == 0)
        return 0;
    uint64_t now = app->worker->now;
    double tokens = config->burst; /* the first packet finds a full bucket */
    if (state->since) {
        tokens = state->tokens + (double)(now - state->since) * config->rate;
        if (tokens > config->burst)
            tokens = config->burst;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        int32_t cut = police_pay(burst[i], config->overhead, &tokens);
        if (cut >= 0) {
            app->counters[POLICE_DROP_POLICED_SEGMENTS] += (uint32_t)cut;
            burst[kept++] = burst[i];
        } else {
            packet_free(in->freelist, burst[i]);
        }
    }
    state->tokens = tokens;
    state->since = now;
    app->counters[POLICE_DROP_POLICED] += n - kept;
    link_transmit_burst(out, burst, kept);
    return n;
}

const struct app_ops police_ops = {.push = police_push};
