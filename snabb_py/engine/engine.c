/* The breathe loop: what a worker does from its start to its end. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <x86intrin.h>
#endif

#include "snabb_py/engine/engine.h"

_Static_assert(sizeof(struct wake) == sizeof(struct pollfd) &&
                   offsetof(struct wake, events) == offsetof(struct pollfd, events),
               "struct wake is struct pollfd");

enum {
    NS_PER_TICK = 1000000,        /* ticks at 1 kHz */
    SPIN_NS = 30000,              /* idle for so long: begin to sleep */
    SLEEP_MAX_NS = 100000,        /* longest sleep of apps that must be polled */
    SLEEP_STEP_NS = 1000,         /* a sleep is so much longer than the last one */
    WAIT_MAX_NS = 100000000,      /* longest wait of armed apps without ticks */
    EXHALE_ROUNDS = 64,           /* pushes before links are taken away */
    CALIBRATION_NS = 10000000,    /* the counter is compared with the clock so long */
    ANCHOR_NS = 100000000         /* and set right again so often */
};

/* ---- clock --------------------------------------------------------------- */

uint64_t engine_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#if defined(__x86_64__)
/* The counter runs at one rate in all power states (CPUID 80000007h, EDX bit 8). */
static bool has_invariant_counter(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d & 1u << 8);
}

static uint64_t read_counter(void)
{
    return __rdtsc();
}
#else
static bool has_invariant_counter(void)
{
    return false;
}

static uint64_t read_counter(void)
{
    return 0;
}
#endif

static void clock_anchor(struct worker *worker, uint64_t counter, uint64_t ns)
{
    worker->clock_tsc = counter;
    worker->clock_ns = ns;
}

/* CLOCK_MONOTONIC in a third of clock_gettime()'s time (9 against 27 ns): counted on
 * from an anchor that tick_clock() renews. */
static uint64_t read_clock(const struct worker *worker)
{
    if (unlikely(worker->breath_ns))
        return worker->now + worker->breath_ns;
    if (unlikely(worker->clock_mult == 0))
        return engine_now();
    uint64_t count = read_counter() - worker->clock_tsc;
    return worker->clock_ns +
           (uint64_t)(((unsigned __int128)count * worker->clock_mult) >> 32);
}

/* Learn the counter's rate in the first milliseconds, then follow the clock: a
 * guest's counter may drift or jump (migration, suspend). */
static void tick_clock(struct worker *worker)
{
    if (worker->breath_ns || !has_invariant_counter() || worker->now - worker->clock_ns < CALIBRATION_NS ||
        (worker->clock_mult && worker->now - worker->clock_ns < ANCHOR_NS))
        return;
    uint64_t counter = read_counter(), ns = engine_now();
    uint64_t dcount = counter - worker->clock_tsc, dns = ns - worker->clock_ns;
    worker->clock_mult =
        dcount > dns / 16 ? (uint64_t)(((unsigned __int128)dns << 32) / dcount) : 0;
    clock_anchor(worker, counter, ns);
}

/* ---- hand-over ----------------------------------------------------------- */

static uint32_t push_all(struct worker *worker, const struct plan *plan)
{
    uint32_t moved = 0;
    for (uint32_t i = 0; i < plan->npushes; i++) {
        const struct step *step = &plan->pushes[i];
        worker->current = step->app;
        moved += step->run(step->app);
    }
    worker->current = NULL;
    return moved;
}

static uint32_t pull_all(struct worker *worker, const struct plan *plan, uint32_t n)
{
    uint32_t moved = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct step *step = &plan->pulls[i];
        worker->current = step->app;
        moved += step->run(step->app);
    }
    worker->current = NULL;
    return moved;
}

/* Make the published plan the running one. First what is on links that will go is
 * pushed on its way as long as it moves, so that only what is stuck is dropped. */
static void take_plan(struct worker *worker, struct plan *next)
{
    uint64_t dropped = 0;
    if (worker->plan && (next->nretired_links || next->nretired_apps))
        for (uint32_t i = 0; i < EXHALE_ROUNDS && push_all(worker, worker->plan); i++)
            ;
    for (uint32_t i = 0; i < next->nretired_links; i++)
        dropped += link_discard(next->retired_links[i], LINK_CAPACITY);
    for (uint32_t i = 0; i < next->nretired_apps; i++) {
        struct app *app = next->retired_apps[i];
        if (app->ops->retire)
            dropped += app->ops->retire(app);
    }
    for (uint32_t i = 0; i < next->nbindings; i++) {
        const struct binding *binding = &next->bindings[i];
        struct app *app = binding->app;
        app->ops = binding->ops;
        app->state = binding->state;
        app->config = binding->config;
        app->input = binding->input;
        app->output = binding->output;
        app->ninput = binding->ninput;
        app->noutput = binding->noutput;
    }
    worker->counters->drop_reconfigure += dropped;
    worker->counters->handovers++;
    worker->plan = next;
    worker->idle = 0;
    worker->drained = 0;
    /* Release: whoever sees this count may free what the old plan referred to. */
    __atomic_store_n(&worker->taken, worker->taken + 1, __ATOMIC_RELEASE);
}

void worker_publish(struct worker *worker, struct plan *plan)
{
    __atomic_store_n(&worker->next, plan, __ATOMIC_RELEASE);
    worker_wake(worker);
}

uint64_t worker_taken(const struct worker *worker)
{
    return __atomic_load_n(&worker->taken, __ATOMIC_ACQUIRE);
}

int worker_retract(struct worker *worker)
{
    return __atomic_exchange_n(&worker->next, NULL, __ATOMIC_ACQ_REL) != NULL;
}

void worker_pause(struct worker *worker, int pause)
{
    __atomic_store_n(&worker->pause, (uint32_t)pause, __ATOMIC_RELEASE);
    worker_wake(worker);
}

int worker_is_paused(const struct worker *worker)
{
    return (int)__atomic_load_n(&worker->paused, __ATOMIC_ACQUIRE);
}

void worker_drain(struct worker *worker, int draining)
{
    __atomic_store_n(&worker->drained, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&worker->draining, (uint32_t)draining, __ATOMIC_RELEASE);
    worker_wake(worker);
}

uint32_t worker_drained(const struct worker *worker)
{
    return __atomic_load_n(&worker->drained, __ATOMIC_ACQUIRE);
}

void worker_stop(struct worker *worker)
{
    __atomic_store_n(&worker->stop, 1, __ATOMIC_RELEASE);
    worker_wake(worker);
}

void worker_wake(struct worker *worker)
{
    uint64_t one = 1;
    /* Fails only when the counter is full, and then the worker wakes anyway. */
    ssize_t ignored = write(worker->wake_fd, &one, sizeof(one));
    (void)ignored;
}

static bool has_orders(const struct worker *worker)
{
    return __atomic_load_n(&worker->next, __ATOMIC_ACQUIRE) ||
           __atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE) ||
           __atomic_load_n(&worker->pause, __ATOMIC_ACQUIRE);
}

static void answer_wake(const struct worker *worker)
{
    uint64_t count;
    ssize_t ignored = read(worker->wake_fd, &count, sizeof(count));
    (void)ignored;
}

/* Release and acquire on paused and pause: who pauses us may read all that is ours. */
static void stand_still(struct worker *worker)
{
    struct pollfd bell = {.fd = worker->wake_fd, .events = POLLIN};
    __atomic_store_n(&worker->paused, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&worker->pause, __ATOMIC_ACQUIRE) &&
           !__atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE)) {
        poll(&bell, 1, 100);
        answer_wake(worker);
    }
    __atomic_store_n(&worker->paused, 0, __ATOMIC_RELEASE);
    worker->now = read_clock(worker); /* standing still is not a gap */
}

/* ---- idle ---------------------------------------------------------------- */

enum wait { WAIT_NOT, WAIT_POLL, WAIT_ARMED };

/* Ready all wake-ups. An event ends the wait only if each pulling app can arm and
 * no packet is stuck in front of an app that cannot. */
static enum wait arm_all(struct plan *plan)
{
    enum wait wait = plan->can_wait ? WAIT_ARMED : WAIT_POLL;
    for (uint32_t i = 0; i < plan->narms; i++) {
        struct app *app = plan->arms[i];
        int answer = app->ops->arm(app, &plan->wakes[i]);
        if (answer == ARM_BUSY)
            return WAIT_NOT;
        if (answer != ARM_READY) {
            plan->wakes[i].fd = -1;
            wait = WAIT_POLL;
        }
    }
    for (uint32_t i = 0; i < plan->npushes && wait == WAIT_ARMED; i++) {
        const struct app *app = plan->pushes[i].app;
        if (app->ops->arm)
            continue;
        for (uint32_t k = 0; k < app->ninput; k++)
            if (app->input[k] && link_readable(app->input[k]))
                wait = WAIT_POLL;
    }
    return wait;
}

static void idle(struct worker *worker)
{
    struct plan *plan = worker->plan;
    if (worker->idle++ == 0)
        worker->idle_since = worker->now;
    if (worker->busy || worker->breath_ns || worker->now - worker->idle_since < SPIN_NS) {
#if defined(__x86_64__)
        _mm_pause();
#endif
        return;
    }
    enum wait wait = arm_all(plan);
    if (wait == WAIT_NOT || has_orders(worker))
        return;
    uint64_t longest = SLEEP_MAX_NS;
    if (wait == WAIT_POLL) {
        uint64_t grown = (uint64_t)worker->idle * SLEEP_STEP_NS;
        longest = grown < SLEEP_MAX_NS ? grown : SLEEP_MAX_NS;
        worker->counters->sleeps++;
    } else {
        longest = plan->nticks ? NS_PER_TICK : WAIT_MAX_NS;
        worker->counters->waits++;
    }
    plan->wakes[plan->narms] = (struct wake){.fd = worker->wake_fd, .events = POLLIN};
    struct timespec timeout = {.tv_sec = 0, .tv_nsec = (long)longest};
    uint64_t before = engine_now();
    /* ppoll rather than epoll: the set changes with each plan, is small, and
     * level-triggered polling closes the race between arming and sleeping. A short
     * sleep watches the same events: they end it early. */
    ppoll((struct pollfd *)plan->wakes, plan->narms + 1, &timeout, NULL);
    worker->counters->sleep_ns += engine_now() - before;
    if (plan->wakes[plan->narms].revents)
        answer_wake(worker);
}

/* ---- breath -------------------------------------------------------------- */

static void tick(struct worker *worker, const struct plan *plan)
{
    worker->next_tick = worker->now + NS_PER_TICK;
    for (uint32_t i = 0; i < plan->nticks; i++) {
        worker->current = plan->ticks[i];
        plan->ticks[i]->ops->tick(plan->ticks[i]);
    }
    worker->current = NULL;
    worker->counters->free_small = worker->freelist->classes[PACKET_SMALL].npackets;
    worker->counters->free_large = worker->freelist->classes[PACKET_LARGE].npackets;
    tick_clock(worker);
}

static void begin_breath(struct worker *worker)
{
    uint64_t now = read_clock(worker);
    /* A renewed anchor may lie a little behind: time never runs backwards. */
    if (unlikely(now < worker->now))
        now = worker->now;
    uint64_t gap = now - worker->now;
    worker->now = now;
    worker->counters->breaths++;
    if (worker->idle == 0) { /* a sleep by choice is not a gap */
        worker->gaps[histogram_bucket(gap)]++;
        worker->counters->busy_ns += gap;
        if (unlikely(gap > worker->counters->longest_gap_ns))
            worker->counters->longest_gap_ns = gap;
    }
}

static void breathe(struct worker *worker)
{
    const struct plan *plan = worker->plan;
    begin_breath(worker);
    bool draining = __atomic_load_n(&worker->draining, __ATOMIC_RELAXED);
    uint32_t moved = pull_all(worker, plan, draining ? plan->ninternal : plan->npulls);
    moved += push_all(worker, plan);
    if (worker->now >= worker->next_tick)
        tick(worker, plan);
    if (likely(moved)) {
        worker->idle = 0;
        if (unlikely(draining))
            __atomic_store_n(&worker->drained, 0, __ATOMIC_RELAXED);
        return;
    }
    worker->counters->idle_breaths++;
    if (draining)
        __atomic_store_n(&worker->drained, worker->drained + 1, __ATOMIC_RELAXED);
    idle(worker);
}

static int enter_thread(int cpu, const char *name)
{
    sigset_t others;
    sigfillset(&others);
    /* Raised by this thread's own access; blocked it would kill (guard.c). */
    sigdelset(&others, SIGBUS);
    pthread_sigmask(SIG_BLOCK, &others, NULL);
    prctl(PR_SET_NAME, name);
    prctl(PR_SET_TIMERSLACK, 1000); /* ns; the default of 50 us doubles a sleep */
    if (cpu < 0)
        return 0;
    cpu_set_t *set = CPU_ALLOC((size_t)cpu + 1);
    size_t size = CPU_ALLOC_SIZE((size_t)cpu + 1);
    if (!set)
        return -ENOMEM;
    CPU_ZERO_S(size, set);
    CPU_SET_S((size_t)cpu, size, set);
    int rc = sched_setaffinity(0, size, set) ? -errno : 0;
    CPU_FREE(set);
    return rc;
}

int worker_run(struct worker *worker, int cpu, const char *name)
{
    int rc = enter_thread(cpu, name);
    if (rc)
        return rc;
    clock_anchor(worker, read_counter(), engine_now());
    worker->now = worker->clock_ns;
    worker->next_tick = worker->now + NS_PER_TICK;
    __atomic_store_n(&worker->running, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE)) {
        if (unlikely(__atomic_load_n(&worker->pause, __ATOMIC_RELAXED)))
            stand_still(worker);
        /* A look before the exchange: an exchange each breath would own the line. */
        struct plan *next = __atomic_load_n(&worker->next, __ATOMIC_RELAXED);
        if (unlikely(next))
            next = __atomic_exchange_n(&worker->next, NULL, __ATOMIC_ACQUIRE);
        if (unlikely(next)) /* still: it may have been retracted */
            take_plan(worker, next);
        breathe(worker);
    }
    freelist_flush(worker->freelist);
    __atomic_store_n(&worker->running, 0, __ATOMIC_RELEASE);
    return 0;
}
