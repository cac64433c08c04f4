/* What a library of apps includes, in place of engine.h; docs/tutorial.md writes one.
 *
 *     #include "snabb_py/engine/library.h"
 *     SNABB_LIBRARY
 *     SNABB_APP(sample_ops) = {.push = sample_push};
 */
#ifndef SNABB_PY_ENGINE_LIBRARY_H
#define SNABB_PY_ENGINE_LIBRARY_H

#include "snabb_py/engine/engine.h"
#include "snabb_py/engine/library_abi.h"

/* Sizes and places of all that the inline operations touch: a library that was compiled
 * for other ones would write where it must not. */
#define ENGINE_LAYOUTS                                                                   \
    {                                                                                    \
        sizeof(struct packet), sizeof(struct link), sizeof(struct app),                  \
            sizeof(struct app_ops), sizeof(struct freelist), sizeof(struct worker),      \
            offsetof(struct packet, gso_size), offsetof(struct packet, hash),            \
            offsetof(struct packet, iova), offsetof(struct link, counters),              \
            offsetof(struct link, freelist), offsetof(struct link_counters, txdrop),     \
            offsetof(struct app, config), offsetof(struct app, input),                   \
            offsetof(struct app, counters), offsetof(struct app, worker),                \
            offsetof(struct worker, now), offsetof(struct worker, burst),                \
            offsetof(struct stack, packets), PACKET_HEADROOM, PACKET_SMALL_SIZE,         \
            PACKET_LARGE_SIZE, LINK_CAPACITY, FREELIST_CAPACITY                          \
    }

/* Once in each library. */
#define SNABB_LIBRARY                                                                    \
    extern const uint32_t snabb_layouts[ENGINE_NLAYOUTS];                                \
    EXPORTED const uint32_t snabb_layouts[ENGINE_NLAYOUTS] = ENGINE_LAYOUTS;

/* An app class by this name. */
#define SNABB_APP(name)                                                                  \
    extern const struct app_ops name;                                                    \
    EXPORTED const struct app_ops name

#endif
