/* Bridge: a learning bridge with VLANs (IEEE 802.1Q, 8).
 *
 * Each frame is in one VLAN inside, whatever tag it has outside: the number in its tag,
 * or its port's own for frames without one. An address is learned in its VLAN.
 *
 * The table is bounded in memory and in work: an address has one bucket of four entries
 * to be in, a port has a limit of its own, and no address that is alive gives way. So
 * who floods the table with addresses gets his own frames flooded, and nobody else's.
 *
 * A full output loses its packets (txdrop) and holds nobody up. */
#include "snabb_py/engine/engine.h"
#include "snabb_py/engine/wire.h"

#include "snabb_py/apps/bridge_abi.h"

_Static_assert(sizeof(struct bridge_entry) * BRIDGE_WAYS == 64, "a cache line");
_Static_assert(sizeof(((struct bridge_config *)0)->ports) ==
                   BRIDGE_PORTS * sizeof(struct bridge_port),
               "ports");
_Static_assert(sizeof(((struct bridge_state *)0)->staged) == BRIDGE_PORTS * 4,
               "a counter a port");

enum {
    BURST = 128,
    PREFETCH = 8,
    SWEEP = 8,           /* buckets a tick */
    ADDRESSES_SIZE = 12, /* bytes in front of a tag */
    NO_VLAN = -1,
    SENT = -1 /* no counter of a drop */
};

/* ---- addresses ----------------------------------------------------------- */

/* A VLAN's part of its keys: 12 bits above the address, and one that says it is there.
 * 64 bits wide from the first: what is stored narrow and read wide is waited for. */
static inline uint64_t vlan_key(uint64_t vlan)
{
    return vlan << 48 | 1ull << 63;
}

/* 48 bits of address. Eight bytes are read: six would go through memory in pieces, for
 * the same wait (both together, from a known address to a known one: 27 -> 9 ns). */
static inline uint64_t make_key(const uint8_t *mac, uint64_t vlan)
{
    uint64_t key;
    memcpy(&key, mac, sizeof(key));
    return (key & 0xffffffffffff) | vlan;
}

uint64_t bridge_key(const uint8_t *mac, uint16_t vlan)
{
    return make_key(mac, vlan_key(vlan));
}

static inline struct bridge_entry *bucket_of(const struct bridge_state *state,
                                             uint64_t key)
{
    /* Multiplied to 128 bits and folded, as in wyhash (Wang Yi). */
    unsigned __int128 product =
        (unsigned __int128)(key ^ state->seed) * 0xe7037ed1a0b428dbu;
    uint64_t hash = (uint64_t)product ^ (uint64_t)(product >> 64);
    return &state->entries[(hash & state->mask) * BRIDGE_WAYS];
}

static inline struct bridge_entry *find(const struct bridge_state *state, uint64_t key)
{
    struct bridge_entry *bucket = bucket_of(state, key);
    for (uint32_t i = 0; i < BRIDGE_WAYS; i++)
        if (bucket[i].key == key)
            return &bucket[i];
    return NULL;
}

static inline bool is_old(const struct bridge_entry *entry, uint32_t age_s,
                          uint32_t now_s)
{
    return !entry->is_owned && now_s - entry->seen >= age_s;
}

static void forget(struct bridge_state *state, struct bridge_entry *entry)
{
    if (entry->key && !entry->is_owned)
        state->learned[entry->port]--;
    *entry = (struct bridge_entry){0};
}

/* A new address, or one that has moved here. */
static __attribute__((noinline)) void learn(struct app *app, uint64_t key,
                                            struct bridge_entry *entry, uint32_t port,
                                            uint32_t now_s)
{
    const struct bridge_config *config = app->config;
    struct bridge_state *state = app->state;
    if (state->learned[port] >= config->ports[port].limit) {
        app->counters[BRIDGE_UNLEARNED_PORT_FULL]++;
        return;
    }
    bool has_moved = entry != NULL;
    struct bridge_entry *bucket = bucket_of(state, key);
    for (uint32_t i = 0; i < BRIDGE_WAYS && !entry; i++)
        if (bucket[i].key == 0 || is_old(&bucket[i], config->age_s, now_s))
            entry = &bucket[i];
    if (!entry) {
        app->counters[BRIDGE_UNLEARNED_TABLE_FULL]++;
        return;
    }
    forget(state, entry);
    *entry = (struct bridge_entry){.key = key, .seen = now_s, .port = (uint16_t)port};
    state->learned[port]++;
    app->counters[has_moved ? BRIDGE_MOVED : BRIDGE_LEARNED]++;
}

/* Note where a frame comes from. False: it may not come from there. */
static inline bool note_source(struct app *app, const uint8_t *mac, uint64_t vlan,
                               uint32_t port, uint32_t now_s)
{
    const struct bridge_config *config = app->config;
    struct bridge_state *state = app->state;
    uint64_t key = make_key(mac, vlan);
    if (unlikely(mac[0] & 1))
        return false;
    struct bridge_entry *entry = find(state, key);
    if (likely(entry && entry->port == port)) {
        if (unlikely(entry->seen != now_s))
            entry->seen = now_s;
        return entry->is_owned || !config->ports[port].check_source;
    }
    if (config->ports[port].check_source || (entry && entry->is_owned))
        return false;
    learn(app, key, entry, port, now_s);
    return true;
}

/* ---- configuration ------------------------------------------------------- */

/* The table as a new config wants it: what ports own, and nothing of ports that have
 * become others. A look at every entry, once. */
static void apply_config(struct app *app)
{
    const struct bridge_config *config = app->config;
    struct bridge_state *state = app->state;
    state->serial = config->serial;
    for (uint64_t i = 0; i < (state->mask + 1) * BRIDGE_WAYS; i++) {
        struct bridge_entry *entry = &state->entries[i];
        if (entry->key && (entry->is_owned || config->ports[entry->port].forget))
            forget(state, entry);
    }
    for (uint32_t i = 0; i < config->naddresses; i++) {
        const struct bridge_address *address = &config->addresses[i];
        struct bridge_entry *entry = find(state, address->key);
        struct bridge_entry *bucket = bucket_of(state, address->key);
        for (uint32_t k = 0; k < BRIDGE_WAYS && !entry; k++)
            if (bucket[k].key == 0)
                entry = &bucket[k];
        for (uint32_t k = 0; k < BRIDGE_WAYS && !entry; k++)
            if (!bucket[k].is_owned)
                entry = &bucket[k];
        if (!entry) {
            app->counters[BRIDGE_UNLEARNED_TABLE_FULL]++;
            continue;
        }
        forget(state, entry);
        *entry = (struct bridge_entry){
            .key = address->key, .port = address->port, .is_owned = 1};
    }
}

/* ---- tags ---------------------------------------------------------------- */

static inline bool has_vlan(const struct bridge_port *port, uint32_t vlan)
{
    return port->native == vlan || (port->tagged[vlan / 64] >> vlan % 64 & 1);
}

/* The VLAN of a frame that comes from a port; NO_VLAN: one that the port is not in.
 * 18 bytes may be read of any packet. */
static inline int classify(const struct bridge_port *port, const struct packet *packet)
{
    uint16_t type = load_be16(packet->data + ETHERNET_TYPE);
    if (likely(!wire_is_tag(type)))
        return port->native == BRIDGE_NO_VLAN ? NO_VLAN : port->native;
    if (type != WIRE_VLAN || packet->length < WIRE_ETHERNET_SIZE + WIRE_TAG_SIZE)
        return NO_VLAN; /* a provider's tag is not for us to look behind */
    uint32_t vlan = load_be16(packet->data + WIRE_ETHERNET_SIZE) & 0xfff;
    if (vlan == 0) /* a priority, and no VLAN */
        return port->native == BRIDGE_NO_VLAN ? NO_VLAN : port->native;
    return port->tagged[vlan / 64] >> vlan % 64 & 1 ? (int)vlan : NO_VLAN;
}

static void strip_tag(struct packet *packet)
{
    memmove(packet->data + WIRE_TAG_SIZE, packet->data, ADDRESSES_SIZE);
    packet_shift(packet, WIRE_TAG_SIZE);
}

static bool insert_tag(struct packet *packet, uint32_t vlan)
{
    if (!packet_prepend(packet, WIRE_TAG_SIZE))
        return false;
    memmove(packet->data, packet->data + WIRE_TAG_SIZE, ADDRESSES_SIZE);
    store_be16(packet->data + ETHERNET_TYPE, WIRE_VLAN);
    store_be16(packet->data + WIRE_ETHERNET_SIZE, (uint16_t)vlan);
    return true;
}

/* Give a frame the tag, or none, that it has at a port. False: there is no room. */
static inline bool set_tag(const struct bridge_port *port, struct packet *packet,
                           uint32_t vlan)
{
    bool is_tagged = load_be16(packet->data + ETHERNET_TYPE) == WIRE_VLAN;
    if (likely(port->native == vlan)) {
        if (unlikely(is_tagged))
            strip_tag(packet);
        return true;
    }
    if (!is_tagged)
        return insert_tag(packet, vlan);
    uint8_t *tag = packet->data + WIRE_ETHERNET_SIZE; /* priority stays */
    store_be16(tag, (uint16_t)((load_be16(tag) & 0xf000) | vlan));
    return true;
}

/* ---- out ----------------------------------------------------------------- */

/* What a push works with; outputs: the numbers of those that are linked. */
struct run {
    struct app *app;
    const struct bridge_config *config;
    struct bridge_state *state;
    uint32_t now_s;
    uint32_t noutputs;
    uint8_t outputs[BRIDGE_PORTS];
};

/* Put a packet behind an output's write cursor; flush() moves that on. */
static inline void stage(struct run *run, uint32_t port, struct packet *packet,
                         uint32_t vlan)
{
    struct bridge_state *state = run->state;
    struct link *out = run->app->output[port];
    if (unlikely(!set_tag(&run->config->ports[port], packet, vlan))) {
        run->app->counters[BRIDGE_DROP_NO_HEADROOM]++;
        packet_free(out->freelist, packet);
    } else if (unlikely(link_writable(out) == state->staged[port])) {
        out->counters->txdrop++;
        packet_free(out->freelist, packet);
    } else {
        *link_slot(out, out->write + state->staged[port]++) = packet;
        state->staged_bytes[port] += packet->length;
    }
}

static void flush(struct run *run)
{
    struct bridge_state *state = run->state;
    for (uint32_t i = 0; i < run->noutputs; i++) {
        uint32_t port = run->outputs[i];
        if (state->staged[port] == 0)
            continue;
        link_produce(run->app->output[port], state->staged[port],
                     state->staged_bytes[port]);
        state->staged[port] = 0;
        state->staged_bytes[port] = 0;
    }
}

/* To every port of the VLAN but its own; the last one gets the frame itself, so that a
 * copy is made only where there are two. Returns SENT, or why it was not. */
static __attribute__((noinline)) int flood(struct run *run, uint32_t from,
                                           struct packet *packet, uint32_t vlan,
                                           bool is_unknown)
{
    uint64_t *counters = run->app->counters;
    uint32_t last = BRIDGE_NOBODY;
    for (uint32_t i = 0; i < run->noutputs; i++) {
        uint32_t port = run->outputs[i];
        const struct bridge_port *to = &run->config->ports[port];
        if (port == from || !has_vlan(to, vlan) || (is_unknown && !to->flood))
            continue;
        if (last != BRIDGE_NOBODY) {
            struct packet *copy = packet_clone(run->app->worker->freelist, packet);
            if (likely(copy != NULL))
                stage(run, last, copy, vlan);
            else
                counters[BRIDGE_DROP_NO_PACKET]++;
        }
        last = port;
    }
    if (last == BRIDGE_NOBODY)
        return BRIDGE_DROP_NO_PORT;
    counters[BRIDGE_FLOODED]++;
    stage(run, last, packet, vlan);
    return SENT;
}

/* ---- Bridge -------------------------------------------------------------- */

static bool is_reserved(const uint8_t *mac)
{
    /* For the neighbour alone: spanning tree, pause, LLDP (802.1Q, 8.6.3). */
    static const uint8_t prefix[5] = {0x01, 0x80, 0xc2, 0x00, 0x00};
    return memcmp(mac, prefix, sizeof(prefix)) == 0 && mac[5] < 16;
}

/* Send a frame on. Returns SENT, or the counter of why it could not be. */
static inline int forward(struct run *run, uint32_t from, struct packet *packet)
{
    const struct bridge_config *config = run->config;
    if (unlikely(packet->length < WIRE_ETHERNET_SIZE))
        return BRIDGE_DROP_RUNT;
    int vlan = classify(&config->ports[from], packet);
    if (unlikely(vlan == NO_VLAN))
        return BRIDGE_DROP_VLAN;
    uint64_t inside = vlan_key((uint32_t)vlan);
    if (unlikely(!note_source(run->app, packet->data + 6, inside, from, run->now_s)))
        return BRIDGE_DROP_SOURCE;
    if (unlikely(packet->data[0] & 1))
        return is_reserved(packet->data)
                   ? BRIDGE_DROP_RESERVED
                   : flood(run, from, packet, (uint32_t)vlan, false);
    const struct bridge_entry *entry = find(run->state, make_key(packet->data, inside));
    if (unlikely(!entry || is_old(entry, config->age_s, run->now_s)))
        return flood(run, from, packet, (uint32_t)vlan, true);
    uint32_t to = entry->port;
    if (unlikely(to == from))
        return BRIDGE_DROP_SAME_PORT;
    /* The table may know ports that are no more, or no more in this VLAN. */
    if (unlikely(to >= run->app->noutput || !run->app->output[to]))
        return BRIDGE_DROP_NO_PORT;
    if (unlikely(!has_vlan(&config->ports[to], (uint32_t)vlan)))
        return BRIDGE_DROP_VLAN;
    stage(run, to, packet, (uint32_t)vlan);
    return SENT;
}

static void forward_burst(struct run *run, uint32_t from, struct packet *const *burst,
                          uint32_t n)
{
    struct packet *dropped[BURST];
    uint32_t ndropped = 0;
    for (uint32_t i = 0; i < min_u32(n, PREFETCH); i++)
        __builtin_prefetch(burst[i]->data);
    for (uint32_t i = 0; i < n; i++) {
        if (i + 2 * PREFETCH < n)
            __builtin_prefetch(burst[i + 2 * PREFETCH]);
        if (i + PREFETCH < n)
            __builtin_prefetch(burst[i + PREFETCH]->data);
        int counter = forward(run, from, burst[i]);
        if (unlikely(counter != SENT)) {
            run->app->counters[counter]++;
            dropped[ndropped++] = burst[i];
        }
    }
    packet_free_burst(run->app->worker->freelist, dropped, ndropped);
    flush(run);
}

static uint32_t bridge_push(struct app *app)
{
    struct run run = {
        .app = app,
        .config = app->config,
        .state = app->state,
        .now_s = (uint32_t)(app->worker->now / 1000000000u),
    };
    struct packet *burst[BURST];
    uint32_t moved = 0;
    if (unlikely(run.state->serial != run.config->serial))
        apply_config(app);
    for (uint32_t port = 0; port < app->noutput; port++) {
        run.outputs[run.noutputs] = (uint8_t)port;
        run.noutputs += app->output[port] != NULL;
    }
    /* Another port is first each time, so that a full output is shared fairly. */
    uint32_t turn = ++run.state->turn;
    for (uint32_t i = 0; i < app->ninput; i++) {
        uint32_t port = (turn + i) % BRIDGE_PORTS;
        struct link *in = app->input[port];
        for (uint32_t n = 1; in && n > 0; moved += n) {
            n = link_receive_burst(in, burst, BURST);
            if (n)
                forward_burst(&run, port, burst, n);
        }
    }
    return moved;
}

/* Addresses that have aged make room, and no longer count for their ports. */
static void bridge_tick(struct app *app)
{
    const struct bridge_config *config = app->config;
    struct bridge_state *state = app->state;
    uint32_t now_s = (uint32_t)(app->worker->now / 1000000000u);
    for (uint32_t i = 0; i < SWEEP; i++, state->swept++) {
        struct bridge_entry *bucket =
            &state->entries[(state->swept & state->mask) * BRIDGE_WAYS];
        for (uint32_t k = 0; k < BRIDGE_WAYS; k++)
            if (bucket[k].key && is_old(&bucket[k], config->age_s, now_s))
                forget(state, &bucket[k]);
    }
}

const struct app_ops bridge_ops = {.push = bridge_push, .tick = bridge_tick};
