/* Interrupts: causes, masks, moderation, messages (data sheet 7.3, 8.2.3.5).
 *
 * Two kinds of causes: bits of vectors (EICR 15:0, EIMS_EX and its like), which queues
 * set through IVAR, and others (EICR 31:16), which share the vector in IVAR_MISC. An
 * event sets its cause and makes it pending; a message takes it off pending; what the
 * driver reads or clears is the cause. Messages are sent by the step alone, so that all
 * of a burst's events make one.
 */
#include "snabb_py/nic/model82599.h"

enum {
    GPIE_MSIX_MODE = 1 << 4,
    GPIE_OCD = 1 << 5,
    GPIE_EIAME = 1 << 30,
    IVAR_VALID = 0x80,
    IVAR_VECTOR = 0x3f,
    LOW_VECTORS = 0xffff,     /* of EICR, EIMS, ... */
    OTHER_CAUSES = 0x7fff0000, /* bit 31 is no cause of its own */
    OCD_CLEARS = 0x3fff0000,  /* what a read of EICR clears then: 29:16 */
    TCP_TIMER_CAUSE = 1 << 30,
    TCPTIMER_DURATION = 0xff,
    TCPTIMER_KICK = 1 << 8,
    TCPTIMER_ENABLE = 1 << 9,
    TCPTIMER_FINISH = 1 << 10,
    TCPTIMER_LOOP = 1 << 11,
    EITR_COUNTER = 0x7f << 21
};

enum { EITR_CNT_WDIS = 1u << 31 }; /* a write leaves the counter alone */

static bool is_msix(const struct model_card *card)
{
    return get(card, REG_GPIE) & GPIE_MSIX_MODE;
}

static void add_vector(struct model_card *card, uint32_t entry)
{
    if (!(entry & IVAR_VALID))
        return;
    uint64_t bit = 1ull << (entry & IVAR_VECTOR);
    card->vector_cause |= bit;
    card->vector_pending |= bit;
}

void interrupt_queue(struct model_card *card, uint32_t queue, bool is_tx)
{
    uint32_t ivar = get(card, REG_IVAR + queue / 2 * 4);
    add_vector(card, ivar >> (16 * (queue & 1) + 8 * is_tx) & 0xff);
}

void interrupt_other(struct model_card *card, uint32_t causes)
{
    card->other_cause |= causes & OTHER_CAUSES;
    card->other_pending |= causes & OTHER_CAUSES;
}

void interrupt_reset(struct model_card *card)
{
    card->vector_cause = card->vector_pending = 0;
    card->vector_mask = card->vector_automask = 0;
    card->other_cause = card->other_pending = card->other_mask = 0;
    card->intx_masked = false;
    card->tcp_timer = 0;
    memset(card->vector_next, 0, sizeof(card->vector_next));
}

/* ---- registers ----------------------------------------------------------- */

static void clear_causes(struct model_card *card, uint64_t vectors, uint32_t others)
{
    card->vector_cause &= ~vectors;
    card->vector_pending &= ~vectors;
    card->other_cause &= ~others;
    card->other_pending &= ~others;
}

/* What EIAM names is masked when EICR is read or written; with EIAME by the message
 * instead (8.2.3.5.5). */
static void mask_by_access(struct model_card *card)
{
    if (get(card, REG_GPIE) & GPIE_EIAME)
        return;
    uint32_t eiam = get(card, REG_EIAM);
    card->vector_mask &= ~(uint64_t)(eiam & LOW_VECTORS);
    card->other_mask &= ~(eiam & OTHER_CAUSES);
}

static uint32_t causes(const struct model_card *card)
{
    return (uint32_t)(card->vector_cause & LOW_VECTORS) | card->other_cause;
}

static uint32_t read_eicr(struct model_card *card)
{
    uint32_t value = causes(card);
    if (is_msix(card) && get(card, REG_GPIE) & GPIE_OCD)
        clear_causes(card, 0, OCD_CLEARS);
    else
        clear_causes(card, LOW_VECTORS, OTHER_CAUSES);
    mask_by_access(card);
    return value;
}

bool interrupt_read(struct model_card *card, uint32_t offset, uint32_t *value)
{
    switch (offset) {
    case REG_EICR:
        *value = read_eicr(card);
        return true;
    case REG_EICS: /* pending, nothing is cleared */
        *value = causes(card);
        return true;
    case REG_EIMS:
    case REG_EIMC:
        *value = (uint32_t)(card->vector_mask & LOW_VECTORS) | card->other_mask;
        return true;
    case REG_EICS_EX:
        *value = (uint32_t)card->vector_cause;
        return true;
    case REG_EICS_EX + 4:
        *value = (uint32_t)(card->vector_cause >> 32);
        return true;
    case REG_EIMS_EX:
    case REG_EIMC_EX:
        *value = (uint32_t)card->vector_mask;
        return true;
    case REG_EIMS_EX + 4:
    case REG_EIMC_EX + 4:
        *value = (uint32_t)(card->vector_mask >> 32);
        return true;
    case REG_EIAM_EX:
        *value = (uint32_t)card->vector_automask;
        return true;
    case REG_EIAM_EX + 4:
        *value = (uint32_t)(card->vector_automask >> 32);
        return true;
    default:
        return false;
    }
}

static void set_causes(struct model_card *card, uint64_t vectors, uint32_t others)
{
    card->vector_cause |= vectors;
    card->vector_pending |= vectors;
    interrupt_other(card, others);
}

/* FINISH is an interrupt whatever the timer does, and a loop begins anew with it
 * (8.2.3.5.20). */
static void write_tcptimer(struct model_card *card, uint32_t value)
{
    const uint32_t again = TCPTIMER_FINISH | TCPTIMER_LOOP;
    bool goes_on = card->tcp_timer && (value & again) == again;
    *reg(card, REG_TCPTIMER) = value & card->mask[REG_TCPTIMER / 4];
    if (value & TCPTIMER_FINISH)
        interrupt_other(card, TCP_TIMER_CAUSE);
    if (!(value & TCPTIMER_ENABLE) || value & TCPTIMER_FINISH)
        card->tcp_timer = 0;
    if ((value & TCPTIMER_KICK || goes_on) && value & TCPTIMER_ENABLE)
        card->tcp_timer =
            model_now(card) + (value & TCPTIMER_DURATION) * 1000000ull + 1;
}

/* False: the register is no EITR. */
static bool write_eitr(struct model_card *card, uint32_t offset, uint32_t value)
{
    bool is_eitr = (offset >= REG_EITR && offset < REG_EITR + 24 * 4) ||
                   (offset >= REG_EITR_HIGH && offset < REG_EITR_HIGH + 104 * 4);
    if (!is_eitr)
        return false;
    if (value & EITR_CNT_WDIS)
        value = (value & ~(uint32_t)EITR_COUNTER) | (get(card, offset) & EITR_COUNTER);
    *reg(card, offset) = value & card->mask[offset / 4];
    return true;
}

bool interrupt_write(struct model_card *card, uint32_t offset, uint32_t value)
{
    uint64_t high = (uint64_t)value << 32;
    switch (offset) {
    case REG_EICR:
        clear_causes(card, value & LOW_VECTORS, value & OTHER_CAUSES);
        mask_by_access(card);
        return true;
    case REG_EICS:
        set_causes(card, value & LOW_VECTORS, value);
        return true;
    case REG_EIMS:
        card->vector_mask |= value & LOW_VECTORS;
        card->other_mask |= value & OTHER_CAUSES;
        return true;
    case REG_EIMC:
        card->vector_mask &= ~(uint64_t)(value & LOW_VECTORS);
        card->other_mask &= ~value;
        return true;
    case REG_EICS_EX:
        set_causes(card, value, 0);
        return true;
    case REG_EICS_EX + 4:
        set_causes(card, high, 0);
        return true;
    case REG_EIMS_EX:
        card->vector_mask |= value;
        return true;
    case REG_EIMS_EX + 4:
        card->vector_mask |= high;
        return true;
    case REG_EIMC_EX:
        card->vector_mask &= ~(uint64_t)value;
        return true;
    case REG_EIMC_EX + 4:
        card->vector_mask &= ~high;
        return true;
    case REG_EIAM:
        /* its low half is EIAM_EX's too (8.2.3.5.10) */
        card->vector_automask =
            (card->vector_automask & ~(uint64_t)LOW_VECTORS) | (value & LOW_VECTORS);
        *reg(card, REG_EIAM) = value & (LOW_VECTORS | OTHER_CAUSES);
        return true;
    case REG_EIAM_EX:
        card->vector_automask = (card->vector_automask & ~(uint64_t)UINT32_MAX) | value;
        *reg(card, REG_EIAM) =
            (get(card, REG_EIAM) & OTHER_CAUSES) | (value & LOW_VECTORS);
        return true;
    case REG_EIAM_EX + 4:
        card->vector_automask = (card->vector_automask & UINT32_MAX) | high;
        return true;
    case REG_TCPTIMER:
        write_tcptimer(card, value);
        return true;
    default:
        return write_eitr(card, offset, value);
    }
}

/* ---- messages ------------------------------------------------------------ */

static void send_message(struct model_card *card, uint32_t index, uint32_t vector)
{
    int fd = card->interrupt_fd[index][vector];
    count(card, MODEL_INTERRUPTS);
    if (fd >= 0)
        event_signal_send(&card->signal, fd);
}

/* The interval of EITR: 11:3, in units of 2.048 us (8.2.3.5.12). */
static void moderate(struct model_card *card, uint32_t vector)
{
    uint32_t offset =
        vector < 24 ? REG_EITR + vector * 4 : REG_EITR_HIGH + (vector - 24) * 4;
    card->vector_next[vector] = card->now + (get(card, offset) >> 3 & 0x1ff) * 2048;
}

static uint32_t other_vector(const struct model_card *card, uint32_t cause)
{
    return get(card, REG_IVAR_MISC) >> (cause == TCP_TIMER_CAUSE ? 0 : 8) & 0xff;
}

/* Vectors for which an other cause is pending and not masked. */
static uint64_t other_vectors(const struct model_card *card)
{
    uint32_t ready = card->other_pending & card->other_mask;
    uint64_t vectors = 0;
    if (ready & ~(uint32_t)TCP_TIMER_CAUSE) {
        uint32_t entry = other_vector(card, 0);
        vectors |= (uint64_t)(entry >> 7) << (entry & IVAR_VECTOR);
    }
    if (ready & TCP_TIMER_CAUSE) {
        uint32_t entry = other_vector(card, TCP_TIMER_CAUSE);
        vectors |= (uint64_t)(entry >> 7) << (entry & IVAR_VECTOR);
    }
    return vectors;
}

static void send_msix(struct model_card *card)
{
    uint64_t others = other_vectors(card);
    uint64_t ready = (card->vector_pending & card->vector_mask) | others;
    while (ready) {
        uint32_t vector = (uint32_t)__builtin_ctzll(ready);
        uint64_t bit = 1ull << vector;
        ready &= ready - 1;
        if (card->now < card->vector_next[vector])
            continue;
        send_message(card, MODEL_MSIX, vector);
        moderate(card, vector);
        card->vector_pending &= ~bit;
        /* EIAC has 16 bits; causes above clear themselves always (7.3.1.1). */
        if (vector >= 16 || get(card, REG_EIAC) & bit)
            card->vector_cause &= ~bit;
        if (get(card, REG_GPIE) & GPIE_EIAME)
            card->vector_mask &= ~(card->vector_automask & bit);
        if (others & bit) {
            uint32_t sent = card->other_pending & card->other_mask;
            card->other_pending &= ~sent;
            card->other_cause &= ~(sent & get(card, REG_EIAC));
            if (get(card, REG_GPIE) & GPIE_EIAME)
                card->other_mask &= ~(sent & get(card, REG_EIAM));
        }
    }
}

/* Without MSI-X there is one line or one message for all. INTx is a level: it comes
 * again while a cause lasts and the host has taken the last one; a message comes for new
 * events alone. */
static bool is_msi(const struct model_card *card)
{
    return card->interrupt_fd[MODEL_MSI][0] >= 0;
}

static bool legacy_ready(const struct model_card *card)
{
    uint64_t vectors = card->vector_pending;
    uint32_t others = card->other_pending;
    if (!is_msi(card)) {
        if (card->intx_masked || !model_has_intx(card))
            return false;
        vectors = card->vector_cause;
        others = card->other_cause;
    }
    return vectors & card->vector_mask & LOW_VECTORS || others & card->other_mask;
}

static void send_legacy(struct model_card *card)
{
    if (!legacy_ready(card) || card->now < card->vector_next[0])
        return;
    send_message(card, is_msi(card) ? MODEL_MSI : MODEL_INTX, 0);
    moderate(card, 0);
    card->vector_pending &= ~card->vector_mask;
    card->other_pending &= ~card->other_mask;
    card->intx_masked = !is_msi(card);
}

/* TCPTIMER: milliseconds, once or again and again (8.2.3.5.20). */
static void step_tcp_timer(struct model_card *card)
{
    if (likely(card->tcp_timer == 0) || card->now < card->tcp_timer)
        return;
    uint32_t timer = get(card, REG_TCPTIMER);
    interrupt_other(card, TCP_TIMER_CAUSE);
    card->tcp_timer = timer & TCPTIMER_LOOP
                          ? card->now + (timer & TCPTIMER_DURATION) * 1000000ull
                          : 0;
}

void interrupt_step(struct model_card *card)
{
    step_tcp_timer(card);
    for (uint32_t i = 0; i < 2; i++) {
        for (; card->rx_causes[i]; card->rx_causes[i] &= card->rx_causes[i] - 1)
            interrupt_queue(card, 64 * i + (uint32_t)__builtin_ctzll(card->rx_causes[i]),
                            false);
        for (; card->tx_causes[i]; card->tx_causes[i] &= card->tx_causes[i] - 1)
            interrupt_queue(card, 64 * i + (uint32_t)__builtin_ctzll(card->tx_causes[i]),
                            true);
    }
    if (is_msix(card))
        send_msix(card);
    else
        send_legacy(card);
}

uint64_t interrupt_next(const struct model_card *card)
{
    uint64_t next = card->tcp_timer ? card->tcp_timer : UINT64_MAX;
    uint64_t ready = 0;
    if (is_msix(card))
        ready = (card->vector_pending & card->vector_mask) | other_vectors(card);
    else
        ready = legacy_ready(card);
    for (; ready; ready &= ready - 1) {
        uint64_t at = card->vector_next[__builtin_ctzll(ready)];
        next = at < next ? at : next;
    }
    return next;
}
