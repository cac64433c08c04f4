/* Fault: what a bad wire does to packets, on purpose and reproducibly.
 *
 * A packet goes through three stages: lost, corrupted or doubled; held back until
 * others have overtaken it; delayed. What happens to the n-th packet follows from the
 * seed and n alone: each packet draws the same number of random numbers, whatever
 * comes of them, and without a delay nothing is lost to a full link, the input waits.
 * So neither burst boundaries nor the other probabilities change the outcome. */
#include "snabb_py/engine/engine.h"
#include "snabb_py/engine/offload.h"

#include "snabb_py/apps/fault_abi.h"

_Static_assert(sizeof(((struct fault_state *)0)->held) ==
                   FAULT_MAX_HELD * sizeof(struct fault_held),
               "held packets");

enum { HOLD_NS = 50000000 }; /* a packet that nobody overtakes goes after so long */

/* ---- chance -------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
 * 2014): 64 bits of state, any seed is a good one. */
static uint64_t draw(uint64_t *random)
{
    uint64_t z = *random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* A number in 0..n-1 out of 32 random bits. */
static uint64_t scale(uint32_t bits, uint64_t n)
{
    return (uint64_t)((unsigned __int128)bits * n >> 32);
}

struct fate {
    bool is_dropped, is_corrupted, is_duplicate, is_reordered;
    uint32_t position; /* random bits */
    uint32_t distance; /* 1..config->distance */
    uint64_t delay;    /* ns */
};

/* Four draws, always: see the top. */
static struct fate draw_fate(struct fault_state *state,
                             const struct fault_config *config)
{
    uint64_t a = draw(&state->random), b = draw(&state->random);
    uint64_t c = draw(&state->random), d = draw(&state->random);
    return (struct fate){
        .is_dropped = (uint32_t)a < config->drop,
        .is_corrupted = a >> 32 < config->corrupt,
        .is_duplicate = (uint32_t)b < config->duplicate,
        .is_reordered = b >> 32 < config->reorder,
        .position = (uint32_t)c,
        .distance = 1 + (uint32_t)scale((uint32_t)(c >> 32), config->distance),
        .delay = config->delay + scale((uint32_t)d, config->jitter + 1),
    };
}

/* ---- out ----------------------------------------------------------------- */

/* What leaves the app at once: through the delay, or straight to the output, which
 * then has room for all of it. */
struct outlet {
    struct app *app;
    bool is_delaying;
    uint32_t n;
    struct packet *burst[LINK_CAPACITY];
};

static void send_or_delay(struct outlet *outlet, struct packet *packet, uint64_t delay)
{
    struct app *app = outlet->app;
    struct fault_state *state = app->state;
    if (!outlet->is_delaying) {
        outlet->burst[outlet->n++] = packet;
        return;
    }
    if (unlikely(state->write - state->read == FAULT_QUEUE)) {
        app->counters[FAULT_DROP_DELAY_QUEUE_FULL]++;
        packet_free(app->worker->freelist, packet);
        return;
    }
    /* First in, first out: jitter changes no order, that is what `reorder` is for. */
    app->counters[FAULT_DELAYED] += delay || state->write != state->read;
    state->queue[state->write++ % FAULT_QUEUE] =
        (struct fault_delayed){.packet = packet, .due = app->worker->now + delay};
}

/* Two of them if it is to be doubled; the copy comes right behind. */
static void emit(struct outlet *outlet, struct packet *packet, bool is_duplicate,
                 uint64_t delay)
{
    struct app *app = outlet->app;
    struct packet *copy = NULL;
    if (unlikely(is_duplicate)) {
        copy = packet_clone(app->worker->freelist, packet);
        app->counters[copy ? FAULT_DUPLICATED : FAULT_DROP_NO_PACKET]++;
    }
    send_or_delay(outlet, packet, delay);
    if (unlikely(copy))
        send_or_delay(outlet, copy, delay);
}

/* Let go, in the order they came, of the held packets that have been overtaken often
 * enough or are to be gone by now. */
static void release(struct outlet *outlet, uint64_t now)
{
    struct app *app = outlet->app;
    struct fault_state *state = app->state;
    const struct fault_config *config = app->config;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < state->nheld; i++) {
        struct fault_held held = state->held[i];
        if (held.left && now < held.until) {
            state->held[kept++] = held;
            continue;
        }
        app->counters[FAULT_REORDERED] += held.is_overtaken;
        emit(outlet, held.packet, held.is_duplicate, config->delay);
    }
    state->nheld = kept;
}

/* ---- in ------------------------------------------------------------------ */

/* Flip one bit. A checksum that the sender left unfinished is computed first, as a
 * card would before the wire: else it would cover the damage and hide it. In a
 * super-frame it does: there is no checksum yet for each segment. */
static void corrupt(struct app *app, struct packet *packet, uint32_t position)
{
    if (packet->length == 0)
        return;
    if (packet->gso_type == PACKET_GSO_NONE)
        packet_finish_checksum(packet);
    uint64_t bit = scale(position, (uint64_t)packet->length * 8);
    packet->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    packet->flags &= (uint16_t)~PACKET_CSUM_VALID;
    app->counters[FAULT_CORRUPTED]++;
}

static void suffer(struct outlet *outlet, struct packet *packet)
{
    struct app *app = outlet->app;
    struct fault_state *state = app->state;
    struct fate fate = draw_fate(state, app->config);
    if (fate.is_dropped) {
        app->counters[FAULT_DROP_FAULT]++;
        packet_free(app->worker->freelist, packet);
        return;
    }
    if (fate.is_corrupted)
        corrupt(app, packet, fate.position);
    if (fate.is_reordered && state->nheld < FAULT_MAX_HELD) {
        state->held[state->nheld++] = (struct fault_held){
            .packet = packet,
            .until = app->worker->now + HOLD_NS,
            .left = fate.distance,
            .is_duplicate = fate.is_duplicate,
        };
        return;
    }
    emit(outlet, packet, fate.is_duplicate, fate.delay);
    if (unlikely(state->nheld)) {
        for (uint32_t i = 0; i < state->nheld; i++) {
            state->held[i].left--;
            state->held[i].is_overtaken = 1;
        }
        release(outlet, 0);
    }
}

/* ---- Fault --------------------------------------------------------------- */

static bool is_delaying(const struct app *app)
{
    const struct fault_config *config = app->config;
    const struct fault_state *state = app->state;
    return config->delay || config->jitter || state->write != state->read;
}

/* The room of the output, or as much as anyone could want: the delay takes all. */
static uint32_t room_of(const struct outlet *outlet)
{
    return outlet->is_delaying ? 4 * LINK_CAPACITY
                               : link_writable(outlet->app->output[0]);
}

/* Send what has been delayed for long enough. Returns how many. */
static uint32_t send_due(struct app *app)
{
    struct fault_state *state = app->state;
    struct link *out = app->output[0];
    struct packet *burst[LINK_CAPACITY];
    uint32_t room = link_writable(out), n = 0;
    while (n < room && state->read != state->write &&
           state->queue[state->read % FAULT_QUEUE].due <= app->worker->now)
        burst[n++] = state->queue[state->read++ % FAULT_QUEUE].packet;
    return link_transmit_burst(out, burst, n);
}

static uint32_t fault_push(struct app *app)
{
    const struct fault_config *config = app->config;
    struct fault_state *state = app->state;
    struct packet *burst[LINK_CAPACITY];
    uint32_t moved = send_due(app);
    if (unlikely(!state->is_seeded || state->seed != config->seed)) {
        state->seed = state->random = config->seed;
        state->is_seeded = 1;
    }
    struct outlet outlet;
    outlet.app = app;
    outlet.is_delaying = is_delaying(app);
    outlet.n = 0;
    /* n packets set free at most themselves and all that are held, each doubled. */
    uint32_t room = room_of(&outlet) / 2;
    if (room <= state->nheld)
        return moved;
    uint32_t n = link_receive_burst(app->input[0], burst,
                                    min_u32(room - state->nheld, LINK_CAPACITY));
    for (uint32_t i = 0; i < n; i++)
        suffer(&outlet, burst[i]);
    link_transmit_burst(app->output[0], outlet.burst, outlet.n);
    return moved + n;
}

/* Nothing is held for ever, even if nothing comes that could overtake it. */
static void fault_tick(struct app *app)
{
    struct fault_state *state = app->state;
    struct outlet outlet;
    outlet.app = app;
    outlet.is_delaying = is_delaying(app);
    outlet.n = 0;
    if (state->nheld == 0 || room_of(&outlet) / 2 < state->nheld)
        return;
    release(&outlet, app->worker->now);
    link_transmit_burst(app->output[0], outlet.burst, outlet.n);
}

static uint32_t fault_held(const struct app *app)
{
    const struct fault_state *state = app->state;
    return state->nheld + (state->write - state->read);
}

static uint32_t fault_retire(struct app *app)
{
    struct fault_state *state = app->state;
    struct freelist *freelist = app->worker->freelist;
    uint32_t n = fault_held(app);
    while (state->nheld)
        packet_free(freelist, state->held[--state->nheld].packet);
    while (state->read != state->write)
        packet_free(freelist, state->queue[state->read++ % FAULT_QUEUE].packet);
    return n;
}

/* Time alone ends the wait of a packet: no event does. */
static int fault_arm(struct app *app, struct wake *wake)
{
    const struct fault_state *state = app->state;
    *wake = (struct wake){.fd = -1};
    return state->read != state->write || link_readable(app->input[0]) ? ARM_NEVER
                                                                       : ARM_READY;
}

const struct app_ops fault_ops = {
    .push = fault_push,
    .tick = fault_tick,
    .retire = fault_retire,
    .arm = fault_arm,
    .held = fault_held,
};
