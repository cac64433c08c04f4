/* Softwires of snabb-softwire v3: `softwire { ipv4 ...; ... }`. */

#include <errno.h>

#include "snabb_py/lwaftr/softwires.h"

enum { /* what has been read of a softwire */
    IPV4 = 1,
    PSID = 2,
    B4 = 4,
    BR = 8,
    PADDING = 16,
    PORT_SET = 32,
    PSID_LENGTH = 64,
    RESERVED = 128
};

struct key {
    const char *name;
    size_t size;
    uint32_t bit;
};

#define KEY(name, bit) {name, sizeof(name) - 1, bit}
static const struct key softwire_keys[] = {
    KEY("ipv4", IPV4),       KEY("psid", PSID),       KEY("b4-ipv6", B4),
    KEY("br-address", BR),   KEY("padding", PADDING), KEY("port-set", PORT_SET),
    {NULL, 0, 0},
};
static const struct key port_set_keys[] = {
    KEY("psid-length", PSID_LENGTH),
    KEY("reserved-ports-bit-count", RESERVED),
    {NULL, 0, 0},
};

struct reader {
    struct softwire_list *list;
    struct text *text;
    struct softwire_entry entry;
    uint32_t seen;
    uint64_t number;           /* of a leaf that is one */
    struct text_word last_br;  /* as it was written, and its index: mostly the same */
    uint16_t last_br_index;
};

static uint32_t find_key(const struct key *keys, const struct text_word *word)
{
    for (; keys->name; keys++)
        if (text_word_is(word, keys->name, keys->size))
            return keys->bit;
    return 0;
}

/* Note that a key has been read; -EINVAL: it is no key here, or is there twice. */
static int note(struct reader *r, const struct text_word *word, uint32_t bit,
                const char *known)
{
    if (!bit)
        return text_fail(&r->text->error, TEXT_UNKNOWN_KEY, word->at, word->size, "%s", known);
    if (r->seen & bit)
        return text_fail(&r->text->error, TEXT_WRONG, word->at, word->size,
                         "%.*s is there twice", (int)word->size, word->begin);
    r->seen |= bit;
    return 0;
}

static int read_number(struct reader *r, const struct text_word *value, uint64_t max,
                       const char *expected)
{
    if (text_uint(value, max, &r->number))
        return text_expected_instead(r->text, value, expected);
    return 0;
}

static int read_br(struct reader *r, const struct text_word *value)
{
    struct softwire *s = &r->entry.softwire;
    if (value->size && text_word_is(value, r->last_br.begin, r->last_br.size)) {
        s->br = r->last_br_index;
        return 0;
    }
    uint8_t br[16];
    if (text_ipv6(value, br))
        return text_expected_instead(r->text, value, "an IPv6 address");
    int64_t index = softwires_intern_br(r->list, br, value->at, &r->text->error);
    if (index < 0)
        return (int)index;
    s->br = (uint16_t)index;
    if (value->begin != r->text->joined) { /* which the next string overwrites */
        r->last_br = *value;
        r->last_br_index = s->br;
    }
    return 0;
}

static int read_leaf(struct reader *r, const struct text_word *value, uint32_t bit)
{
    struct softwire_entry *e = &r->entry;
    int error;
    switch (bit) {
    case IPV4:
        if (text_ipv4(value, &e->softwire.ipv4))
            return text_expected_instead(r->text, value, "an IPv4 address");
        return 0;
    case B4:
        if (text_ipv6(value, e->softwire.b4))
            return text_expected_instead(r->text, value, "an IPv6 address");
        return 0;
    case BR:
        return read_br(r, value);
    case PSID:
        error = read_number(r, value, 65535, "a PSID, 0 to 65535");
        e->softwire.psid = (uint16_t)r->number;
        return error;
    case PSID_LENGTH:
        error = read_number(r, value, 16, "a number of bits, 0 to 16");
        e->psid_length = (uint8_t)r->number;
        return error;
    case RESERVED:
        error = read_number(r, value, 16, "a number of bits, 0 to 16");
        e->reserved = (uint8_t)r->number;
        return error;
    case PADDING:
        return read_number(r, value, 65535, "0 to 65535");
    default:
        return text_expected_instead(r->text, value, "\"{\"");
    }
}

/* Say which of the leaves that must be there is not. */
static int require(struct reader *r, uint32_t bits, const char *block)
{
    uint32_t missing = bits & ~r->seen;
    if (!missing)
        return 0;
    for (const struct key *k = softwire_keys; k->name; k++)
        if (missing & k->bit)
            return text_fail(&r->text->error, TEXT_WRONG, r->entry.at, 0, "%s without %s", block,
                             k->name);
    return text_fail(&r->text->error, TEXT_WRONG, r->entry.at, 0,
                     "softwire with a port-set without psid-length");
}

static int read_port_set(struct reader *r)
{
    struct text_word key, value;
    uint64_t begin = text_offset(r->text) - 1;
    for (;;) {
        int kind = text_next_statement(r->text, &key, &value);
        switch (kind) {
        case TEXT_CLOSE:
            return 0;
        case TEXT_END:
            return text_unended(r->text, begin, "a port-set");
        case TEXT_LEAF:
        case TEXT_OPEN:
            break;
        default:
            return kind;
        }
        uint32_t bit = find_key(port_set_keys, &key);
        if (note(r, &key, bit, "psid-length reserved-ports-bit-count"))
            return -EINVAL;
        if (kind == TEXT_OPEN)
            return text_fail(&r->text->error, TEXT_WRONG, key.at, 0, "%.*s has a value, no {",
                             (int)key.size, key.begin);
        if (read_leaf(r, &value, bit))
            return -EINVAL;
    }
}

/* Read what follows `softwire {`, to its end. */
static int read_softwire(struct reader *r, uint64_t at)
{
    struct text_word key, value;
    r->entry = (struct softwire_entry){.at = at};
    r->seen = 0;
    for (;;) {
        int kind = text_next_statement(r->text, &key, &value);
        if (kind < 0)
            return kind;
        if (kind == TEXT_END)
            return text_unended(r->text, at, "a softwire");
        if (kind == TEXT_CLOSE)
            break;
        uint32_t bit = find_key(softwire_keys, &key);
        int error = note(r, &key, bit, "ipv4 psid b4-ipv6 br-address port-set padding");
        if (error)
            return error;
        if (kind == TEXT_LEAF)
            error = read_leaf(r, &value, bit);
        else if (bit == PORT_SET)
            error = read_port_set(r);
        else
            error = text_fail(&r->text->error, TEXT_WRONG, key.at, 0, "%.*s has a value, no {",
                              (int)key.size, key.begin);
        if (error)
            return error;
    }
    if (require(r, IPV4 | PSID | B4 | BR | PORT_SET, "softwire") ||
        require(r, PSID_LENGTH, "softwire"))
        return -EINVAL;
    return softwires_append(r->list, &r->entry, &r->text->error);
}

/* Read what follows `version {`: a number and a date, which nobody asks for. */
static int read_version(struct reader *r, uint64_t at)
{
    struct text_word key, value;
    for (;;) {
        int kind = text_next_statement(r->text, &key, &value);
        if (kind == TEXT_CLOSE || kind < 0)
            return kind < 0 ? kind : 0;
        if (kind == TEXT_END)
            return text_unended(r->text, at, "a version");
        bool is_number = text_word_is(&key, "number", 6);
        if (kind == TEXT_OPEN || !(is_number || text_word_is(&key, "date", 4)))
            return text_fail(&r->text->error, TEXT_UNKNOWN_KEY, key.at, key.size, "number date");
        if (is_number && read_number(r, &value, UINT64_MAX, "a number"))
            return -EINVAL;
    }
}

int softwires_read_statements(struct softwire_list *list, struct text *text)
{
    struct reader reader = {.list = list, .text = text, .last_br = {.begin = ""}};
    struct text_word key, value;
    uint64_t begin = text_offset(text) - 1;
    bool has_version = false;
    for (;;) {
        int kind = text_next_statement(text, &key, &value);
        if (kind == TEXT_CLOSE || kind < 0)
            return kind < 0 ? kind : 0;
        if (kind == TEXT_END)
            return text_unended(text, begin, "the binding-table");
        bool is_version = text_word_is(&key, "version", 7);
        if (!is_version && !text_word_is(&key, "softwire", 8))
            return text_fail(&text->error, TEXT_UNKNOWN_KEY, key.at, key.size,
                             "softwire version");
        if (kind == TEXT_LEAF)
            return text_expected_instead(text, &value, "\"{\"");
        if (is_version && has_version)
            return text_fail(&text->error, TEXT_WRONG, key.at, 0, "version is there twice");
        has_version |= is_version;
        int error =
            is_version ? read_version(&reader, key.at) : read_softwire(&reader, key.at);
        if (error)
            return error;
    }
}
