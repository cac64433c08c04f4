/* Frames that stay in a transmit ring: see intel82599_replay_abi.h. */
#include "snabb_py/nic/intel82599_ring.h"

#include "snabb_py/nic/intel82599_replay_abi.h"

void intel82599_replay_put(struct intel82599_queue *queue, uint32_t at, uint64_t iova,
                           uint32_t length)
{
    queue->tx.ring[2 * at] = iova;
    queue->tx.ring[2 * at + 1] = tx_frame(&queue->tx, length);
}

/* See how far the card is. False: it does not say. */
static bool look(const struct intel82599_replay_config *config,
                 struct intel82599_replay *replay)
{
    struct intel82599_queue *queue = replay->queue;
    uint32_t head = *replay->head, seen = (uint32_t)(replay->sent % config->n);
    if (head >= config->n) /* all ones: it is gone */
        return false;
    uint64_t passed = (head + config->n - seen) % config->n;
    if (passed > replay->given - replay->sent)
        return false;
    replay->sent += passed;
    uint64_t rounds = replay->sent / config->nframes, rest = replay->sent % config->nframes;
    queue->counters[INTEL82599_TX_PACKETS] = replay->sent;
    queue->counters[INTEL82599_TX_BYTES] =
        rounds * config->bytes[config->nframes] + config->bytes[rest];
    return true;
}

/* Let the card go on, a good part of the ring at a time: a write to it takes long. */
static void give(const struct intel82599_replay_config *config,
                 struct intel82599_replay *replay)
{
    uint64_t more = config->ahead - (replay->given - replay->sent);
    uint64_t left = config->count ? config->count - replay->given : UINT64_MAX;
    if (left < more)
        more = left;
    else if (more < config->ahead / 4)
        return;
    if (more == 0)
        return;
    replay->given += more;
    write_tail(replay->queue->tx.tail, (uint32_t)(replay->given % config->n));
}

static uint32_t replay_pull(struct app *app)
{
    struct intel82599_replay *replay = app->state;
    if (unlikely(replay->queue->is_gone))
        return 0;
    if (look(app->config, replay) &&
        !__atomic_load_n(&app->worker->draining, __ATOMIC_RELAXED))
        give(app->config, replay);
    return intel82599_receive(replay->queue, app);
}

static void replay_tick(struct app *app)
{
    const struct intel82599_replay *replay = app->state;
    intel82599_show(replay->queue, app);
}

static uint32_t replay_held(const struct app *app)
{
    const struct intel82599_replay *replay = app->state;
    return replay->queue->rx.filled;
}

const struct app_ops intel82599_replay_ops = {
    .pull = replay_pull,
    .tick = replay_tick,
    .held = replay_held,
};
