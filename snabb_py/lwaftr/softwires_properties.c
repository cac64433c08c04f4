/* Softwires of the old format: psid_map, br_addresses, softwires, in this order. */

#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#include "snabb_py/lwaftr/softwires.h"

enum { /* what has been read of an entry */
    PSID_LENGTH = 1,
    SHIFT = 2,
    IPV4 = 1,
    PSID = 2,
    B4 = 4,
    AFTR = 8
};

struct reader {
    struct softwire_list *list;
    struct text *text;
    const struct softwire_range *range; /* of the last softwire: mostly the same */
    uint64_t naftr;
    uint16_t aftr[SOFTWIRES_MAX_BR]; /* the index in the list, where each is once */
};

static int expect(struct text *t, char c, const char *what)
{
    text_skip_properties(t);
    if (*t->at != c)
        return text_expected(t, what);
    t->at++;
    return 0;
}

static void pass(struct text *t, const char *separators)
{
    text_skip_properties(t);
    if (*t->at && strchr(separators, *t->at))
        t->at++;
}

/* Read a section's name and what opens it. */
static int read_heading(struct text *t, const char *name)
{
    size_t size = strlen(name);
    /* strncasecmp ends at the text's zero. */
    if (strncasecmp(t->at, name, size) || text_is(t->at[size], TEXT_IS_KEY))
        return text_expected(t, name);
    t->at += size;
    return expect(t, '{', "\"{\"");
}

/* Whether a section goes on; *is_open: it does. */
static int read_more(struct text *t, uint64_t begin, bool *is_open)
{
    text_skip_properties(t);
    *is_open = *t->at != '}';
    if (t->at == t->end)
        return text_unended(t, begin, "a section");
    if (!*is_open)
        t->at++;
    return 0;
}

static int note(struct text *t, uint32_t *seen, const struct text_word *key,
                uint32_t bit, const char *known)
{
    if (!bit)
        return text_fail(&t->error, TEXT_UNKNOWN_KEY, key->at, key->size, "%s", known);
    if (*seen & bit)
        return text_fail(&t->error, TEXT_WRONG, key->at, 0, "%.*s is there twice",
                         (int)key->size, key->begin);
    *seen |= bit;
    return 0;
}

static int read_address(struct text *t, uint32_t *ipv4)
{
    text_skip_properties(t);
    struct text_word word = {.begin = t->at, .at = text_offset(t)};
    while (*t->at != '-' && !text_is(*t->at, TEXT_ENDS_PROPERTY_WORD))
        t->at++;
    word.size = word.width = (uint64_t)(t->at - word.begin);
    if (text_ipv4(&word, ipv4))
        return text_expected_instead(t, &word, "an IPv4 address");
    text_skip_properties(t);
    return 0;
}

static int read_range(struct reader *r)
{
    struct text *t = r->text;
    text_skip_properties(t);
    struct softwire_range range = {.at = text_offset(t)};
    if (read_address(t, &range.first))
        return -EINVAL;
    range.last = range.first;
    if (*t->at == '-') {
        t->at++;
        if (read_address(t, &range.last))
            return -EINVAL;
    }
    return softwires_add_range(r->list, &range, &t->error);
}

/* Read { psid_length=..., shift=... }; each is 16 less the other. */
static int read_psid_length(struct text *t, uint8_t *psid_length)
{
    uint64_t numbers[2] = {0, 16};
    uint32_t seen = 0;
    text_skip_properties(t);
    uint64_t begin = text_offset(t);
    if (expect(t, '{', "\"{\""))
        return -EINVAL;
    for (;;) {
        struct text_word key, value;
        int kind = text_next_key(t, &key);
        if (kind < 0)
            return kind;
        if (kind == TEXT_CLOSE)
            break;
        if (kind == TEXT_END)
            return text_unended(t, begin, "an entry of psid_map");
        uint32_t bit = text_word_is(&key, "psid_length", 11) ? PSID_LENGTH
                       : text_word_is(&key, "shift", 5)      ? SHIFT
                                                             : 0;
        if (note(t, &seen, &key, bit, "psid_length shift") ||
            text_next_value(t, &value, false))
            return -EINVAL;
        if (text_uint(&value, 16, &numbers[bit == SHIFT]))
            return text_expected_instead(t, &value, "a number of bits, 0 to 16");
    }
    if (seen == SHIFT)
        numbers[0] = 16 - numbers[1];
    if (seen == (PSID_LENGTH | SHIFT) && numbers[0] + numbers[1] != 16)
        return text_fail(&t->error, TEXT_WRONG, begin, 0,
                         "psid_length and shift are %d together; they must be 16",
                         (int)(numbers[0] + numbers[1]));
    *psid_length = (uint8_t)numbers[0];
    return 0;
}

static int read_psid_map(struct reader *r)
{
    struct text *t = r->text;
    bool is_open;
    text_skip_properties(t);
    uint64_t begin = text_offset(t);
    if (read_heading(t, "psid_map"))
        return -EINVAL;
    r->list->has_psid_map = true;
    for (;;) {
        int error = read_more(t, begin, &is_open);
        if (error || !is_open)
            return error ? error : softwires_sort_ranges(r->list, &t->error);
        uint64_t first = r->list->nranges;
        do {
            pass(t, r->list->nranges > first ? "," : "");
            error = read_range(r);
            if (error)
                return error;
        } while (*t->at == ',');
        uint8_t psid_length = 0;
        if (read_psid_length(t, &psid_length))
            return -EINVAL;
        for (uint64_t i = first; i < r->list->nranges; i++)
            r->list->ranges[i].psid_length = psid_length;
        pass(t, ",;");
    }
}

static int read_br_addresses(struct reader *r)
{
    struct text *t = r->text;
    bool is_open;
    text_skip_properties(t);
    uint64_t begin = text_offset(t);
    if (read_heading(t, "br_addresses"))
        return -EINVAL;
    for (;;) {
        int error = read_more(t, begin, &is_open);
        if (error || !is_open)
            return error;
        struct text_word word = {.begin = t->at, .at = text_offset(t)};
        t->at = text_pass(t->at, TEXT_ENDS_PROPERTY_WORD, false);
        word.size = word.width = (uint64_t)(t->at - word.begin);
        uint8_t br[16];
        if (text_ipv6(&word, br))
            return text_expected_instead(t, &word, "an IPv6 address");
        int64_t index = softwires_intern_br(r->list, br, word.at, &t->error);
        if (index < 0)
            return (int)index;
        if (r->naftr == SOFTWIRES_MAX_BR)
            return text_fail(&t->error, TEXT_WRONG, word.at, 0,
                             "more than %d br_addresses", SOFTWIRES_MAX_BR);
        r->aftr[r->naftr++] = (uint16_t)index;
        pass(t, ",");
    }
}

static uint32_t find_key(const struct text_word *key)
{
    static const struct {
        const char *name;
        uint32_t bit;
    } keys[] = {{"ipv4", IPV4}, {"psid", PSID}, {"b4", B4}, {"aftr", AFTR}};
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        if (text_word_is(key, keys[i].name, strlen(keys[i].name)))
            return keys[i].bit;
    return 0;
}

static int read_field(struct reader *r, const struct text_word *value, uint32_t bit,
                      struct softwire *s)
{
    struct text *t = r->text;
    uint64_t number = 0;
    switch (bit) {
    case IPV4:
        if (text_ipv4(value, &s->ipv4))
            return text_expected_instead(t, value, "an IPv4 address");
        return 0;
    case B4:
        if (text_ipv6(value, s->b4))
            return text_expected_instead(t, value, "an IPv6 address");
        return 0;
    case PSID:
        if (text_uint(value, 65535, &number))
            return text_expected_instead(t, value, "a PSID, 0 to 65535");
        s->psid = (uint16_t)number;
        return 0;
    default:
        if (text_uint(value, SOFTWIRES_MAX_BR, &number))
            return text_expected_instead(t, value, "an index into br_addresses");
        if (number >= r->naftr)
            return text_fail(&t->error, TEXT_WRONG, value->at, 0,
                             "aftr %d, but there are %d br_addresses, counted from 0",
                             (int)number, (int)r->naftr);
        s->br = r->aftr[number];
        return 0;
    }
}

/* An address in no range is not shared. */
static uint8_t find_psid_length(struct reader *r, uint32_t ipv4)
{
    const struct softwire_range *range = r->range;
    if (!range || ipv4 < range->first || ipv4 > range->last)
        range = r->range = softwires_find_range(r->list, ipv4);
    return range ? range->psid_length : 0;
}

static int read_softwire(struct reader *r)
{
    struct text *t = r->text;
    struct softwire_entry entry = {.at = text_offset(t)};
    uint32_t seen = 0;
    if (expect(t, '{', "\"{\""))
        return -EINVAL;
    for (;;) {
        struct text_word key, value;
        int kind = text_next_key(t, &key);
        if (kind < 0)
            return kind;
        if (kind == TEXT_CLOSE)
            break;
        if (kind == TEXT_END)
            return text_unended(t, entry.at, "a softwire");
        uint32_t bit = find_key(&key);
        if (note(t, &seen, &key, bit, "ipv4 psid b4 aftr") ||
            text_next_value(t, &value, false) ||
            read_field(r, &value, bit, &entry.softwire))
            return -EINVAL;
    }
    if ((seen & (IPV4 | B4)) != (IPV4 | B4))
        return text_fail(&t->error, TEXT_WRONG, entry.at, 0, "softwire without %s",
                         seen & IPV4 ? "b4" : "ipv4");
    if (!(seen & AFTR)) {
        if (r->naftr == 0)
            return text_fail(&t->error, TEXT_WRONG, entry.at, 0,
                             "softwire, but br_addresses is empty");
        entry.softwire.br = r->aftr[0];
    }
    entry.psid_length = find_psid_length(r, entry.softwire.ipv4);
    return softwires_append(r->list, &entry, &t->error);
}

static int read_softwires(struct reader *r)
{
    struct text *t = r->text;
    bool is_open;
    text_skip_properties(t);
    uint64_t begin = text_offset(t);
    if (read_heading(t, "softwires"))
        return -EINVAL;
    for (;;) {
        int error = read_more(t, begin, &is_open);
        if (error || !is_open)
            return error;
        error = read_softwire(r);
        if (error)
            return error;
        pass(t, ",");
    }
}

static int read_table(struct reader *r)
{
    int error = read_psid_map(r);
    if (!error)
        error = read_br_addresses(r);
    if (!error)
        error = read_softwires(r);
    if (error)
        return error;
    text_skip_properties(r->text);
    if (r->text->at != r->text->end)
        return text_expected(r->text, "the end of the file");
    return 0;
}

int softwires_read_properties(struct softwire_list *list, struct text *text)
{
    struct reader *reader = calloc(1, sizeof(*reader));
    if (!reader)
        return text_no_memory(&text->error);
    reader->list = list;
    reader->text = text;
    int error = read_table(reader);
    free(reader);
    return error;
}
