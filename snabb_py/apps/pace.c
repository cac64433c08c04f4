/* Pace: packets at an exact rate, whoever makes them. */
#include "snabb_py/engine/engine.h"

#include "snabb_py/apps/pace_abi.h"

enum { WIRE_OVERHEAD = 24, LEAST_FRAME = 60 };

static double cost_of(const struct pace_config *config, const struct packet *packet)
{
    uint32_t length = packet->length < LEAST_FRAME ? LEAST_FRAME : packet->length;
    return config->per_packet + config->per_byte * (length + WIRE_OVERHEAD);
}

/* Give the time since the last look as credit. What is more than is made up for was
 * time of packets that will come later, if any come. */
static void earn(struct app *app)
{
    const struct pace_config *config = app->config;
    struct pace_state *state = app->state;
    uint64_t now = app->worker->now;
    if (state->since == 0) /* the first packet goes at once */
        state->since = state->begun = now;
    state->credit += (double)(now - state->since);
    state->since = now;
    if (likely(state->credit <= config->catch_up))
        return;
    state->lost += state->credit - config->catch_up;
    state->credit = config->catch_up;
}

/* Spend credit on a packet. One that had been due in time that was lost is late. */
static void spend(struct app *app, double cost)
{
    struct pace_state *state = app->state;
    state->credit -= cost;
    if (unlikely(state->lost >= cost) && cost > 0) {
        state->lost -= cost;
        app->counters[PACE_MISSED_LATE]++;
    }
}

static uint32_t pace_push(struct app *app)
{
    const struct pace_config *config = app->config;
    struct pace_state *state = app->state;
    struct link *in = app->input[0], *out = app->output[0];
    if (config->count && state->passed >= config->count)
        return 0;
    uint32_t n = min_u32(link_readable(in), link_writable(out)), paid = 0;
    if (n == 0 && state->passed == 0)
        return 0; /* the time begins with the first packet */
    if (config->count && config->count - state->passed < n)
        n = (uint32_t)(config->count - state->passed);
    earn(app);
    for (; paid < n && state->credit >= 0; paid++)
        spend(app, cost_of(config, *link_slot(in, in->read + paid)));
    if (paid) {
        state->last = state->since;
        state->before = state->passed;
        state->passed += paid;
    }
    return link_move(in, out, paid);
}

const struct app_ops pace_ops = {.push = pace_push};
