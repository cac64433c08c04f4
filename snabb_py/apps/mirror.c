/* Mirror: copies of what passes, as far as somebody takes them. */
#include "snabb_py/engine/engine.h"

#include "snabb_py/apps/mirror_abi.h"

enum { WAYS = 2, FIRST_COPY = 2 }; /* outputs: to, from, copies of both */

/* Copies of the first n packets of a link. What there is no room for is not copied:
 * traffic waits for no copy. */
static void copy_packets(struct app *app, const struct link *in, struct link *out,
                         uint32_t n)
{
    uint32_t fits = min_u32(n, link_writable(out)), made = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < fits; i++) {
        const struct packet *packet = in->ring[(in->read + i) % LINK_CAPACITY];
        struct packet *copy = packet_clone(out->freelist, packet);
        if (unlikely(!copy)) {
            app->counters[MIRROR_NO_PACKET]++;
            continue;
        }
        *link_slot(out, out->write + made++) = copy;
        bytes += copy->length;
    }
    link_produce(out, made, bytes);
    app->counters[MIRROR_LOST] += n - fits;
}

static uint32_t mirror_push(struct app *app)
{
    uint32_t moved = 0;
    for (uint32_t i = 0; i < WAYS; i++) {
        struct link *in = app->input[i], *out = app->output[i];
        struct link *copies = app->output[FIRST_COPY + i];
        if (!in)
            continue;
        if (!out) {
            moved += link_discard(in, LINK_CAPACITY);
            continue;
        }
        uint32_t n = min_u32(link_readable(in), link_writable(out));
        if (copies && n)
            copy_packets(app, in, copies, n);
        moved += link_move(in, out, n);
    }
    return moved;
}

const struct app_ops mirror_ops = {.push = mirror_push};
