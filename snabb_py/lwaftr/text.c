/* What both languages of configuration text have: errors, strings, numbers, addresses. */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "snabb_py/lwaftr/text.h"

enum {
    SPACE = TEXT_IS_SPACE | TEXT_ENDS_STATEMENT_WORD | TEXT_ENDS_PROPERTY_WORD |
            TEXT_ENDS_BARE_STRING,
    WORD_END = TEXT_ENDS_STATEMENT_WORD | TEXT_ENDS_PROPERTY_WORD
};

const uint8_t text_class[256] = {
    ['\0'] = WORD_END | TEXT_ENDS_BARE_STRING,
    ['\t' ... '\r'] = SPACE,
    [' '] = SPACE,
    ['{'] = WORD_END,
    ['}'] = WORD_END,
    ['"'] = WORD_END,
    ['\''] = WORD_END,
    [';'] = WORD_END,
    ['#'] = TEXT_ENDS_PROPERTY_WORD,
    [','] = TEXT_ENDS_PROPERTY_WORD | TEXT_ENDS_BARE_STRING,
    ['='] = TEXT_ENDS_PROPERTY_WORD,
    ['0' ... '9'] = TEXT_IS_KEY,
    ['A' ... 'Z'] = TEXT_IS_KEY,
    ['_'] = TEXT_IS_KEY,
    ['a' ... 'z'] = TEXT_IS_KEY,
};

void text_init(struct text *t, const char *begin, uint64_t size)
{
    t->begin = t->at = begin;
    t->end = begin + size;
    memset(&t->error, 0, sizeof(t->error));
}

int text_fail(struct text_error *error, int kind, uint64_t at, uint64_t size,
              const char *format, ...)
{
    *error = (struct text_error){.kind = kind, .at = at, .size = size};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof(error->message), format, arguments);
    va_end(arguments);
    return -EINVAL;
}

int text_expected(struct text *t, const char *what)
{
    const char *p = t->at;
    while (!text_is(*p, WORD_END))
        p++;
    if (p == t->at && p < t->end)
        p++;
    return text_fail(&t->error, TEXT_EXPECTED, text_offset(t), (uint64_t)(p - t->at), "%s",
                     what);
}

int text_expected_instead(struct text *t, const struct text_word *word,
                          const char *what)
{
    return text_fail(&t->error, TEXT_EXPECTED, word->at, word->width, "%s", what);
}

int text_unended(struct text *t, uint64_t at, const char *what)
{
    return text_fail(&t->error, TEXT_WRONG, at, 0, "%s begins here and does not end", what);
}

int text_no_memory(struct text_error *error)
{
    *error = (struct text_error){.kind = TEXT_NO_MEMORY};
    return -ENOMEM;
}

/* The character that an escape sequence stands for; 0: there is none. */
static char unescape(char c, bool is_statement)
{
    if (!is_statement)
        return c;
    switch (c) { /* RFC 7950, 6.1.3 */
    case 'n':
        return '\n';
    case 't':
        return '\t';
    case '"':
    case '\\':
        return c;
    default:
        return 0;
    }
}

/* Append what is between two quotes to the joined string, which has `size` bytes. */
static int join(struct text *t, const char *p, const char *end, bool has_escapes,
                bool is_statement, uint64_t *size)
{
    for (; p < end; p++) {
        char c = *p;
        if (has_escapes && c == '\\') {
            c = unescape(*++p, is_statement);
            if (!c)
                return text_fail(&t->error, TEXT_EXPECTED, (uint64_t)(p - t->begin) - 1, 2,
                                 "one of \\n \\t \\\" \\\\");
        }
        if (*size == sizeof(t->joined))
            return text_fail(&t->error, TEXT_WRONG, (uint64_t)(p - t->begin), 0,
                             "a string of more than %d bytes", TEXT_VALUE_MAX);
        t->joined[(*size)++] = c;
    }
    return 0;
}

/* Find the quote that ends the string at t->at; *has_escapes: something needs join(). */
static const char *find_quote(struct text *t, bool escapes, bool *has_escapes)
{
    char quote = *t->at;
    const char *p = t->at + 1;
    *has_escapes = false;
    while (p < t->end && *p != quote) {
        if (escapes && *p == '\\') {
            *has_escapes = true;
            p++;
        }
        p++;
    }
    return p < t->end ? p : NULL;
}

int text_string(struct text *t, struct text_word *word, text_skip_fn skip)
{
    bool is_joined = false;
    uint64_t size = 0;
    word->at = text_offset(t);
    for (;;) {
        bool has_escapes;
        const char *begin = t->at + 1;
        const char *end = find_quote(t, !skip || *t->at == '"', &has_escapes);
        if (!end)
            return text_unended(t, text_offset(t), "a string");
        t->at = end + 1;
        word->width = text_offset(t) - word->at;
        if (skip && skip(t))
            return -EINVAL;
        bool has_more = skip && *t->at == '+';
        if (!is_joined && !has_escapes && !has_more) {
            word->begin = begin;
            word->size = (uint64_t)(end - begin);
            return 0;
        }
        if (join(t, begin, end, has_escapes, skip, &size))
            return -EINVAL;
        if (!has_more) {
            word->begin = t->joined;
            word->size = size;
            return 0;
        }
        is_joined = true;
        t->at++;
        if (skip(t))
            return -EINVAL;
        if (*t->at != '"' && *t->at != '\'')
            return text_expected(t, "a string in quotes");
    }
}

int text_uint(const struct text_word *word, uint64_t max, uint64_t *number)
{
    uint64_t n = 0;
    if (word->size == 0)
        return -EINVAL;
    for (uint64_t i = 0; i < word->size; i++) {
        uint8_t digit = (uint8_t)(word->begin[i] - '0');
        if (digit > 9 || digit > max || n > (max - digit) / 10)
            return -EINVAL;
        n = n * 10 + digit;
    }
    *number = n;
    return 0;
}

/* Read four decimal numbers without needless zeros, as inet_pton does. */
static int read_ipv4(const char *p, const char *end, uint32_t *ipv4)
{
    uint32_t address = 0;
    for (int i = 0; i < 4; i++) {
        if (i > 0 && (p == end || *p++ != '.'))
            return -EINVAL;
        const char *begin = p;
        uint32_t n = 0;
        for (; p < end && (uint8_t)(*p - '0') <= 9 && p - begin < 3; p++)
            n = n * 10 + (uint8_t)(*p - '0');
        if (p == begin || n > 255 || (*begin == '0' && p - begin > 1))
            return -EINVAL;
        address = address << 8 | n;
    }
    if (p != end)
        return -EINVAL;
    *ipv4 = address;
    return 0;
}

int text_ipv4(const struct text_word *word, uint32_t *ipv4)
{
    return read_ipv4(word->begin, word->begin + word->size, ipv4);
}

static uint32_t hex_digit(char c) /* 16: it is none */
{
    uint8_t digit = (uint8_t)(c - '0');
    uint8_t letter = (uint8_t)((c | 0x20) - 'a');
    return digit <= 9 ? digit : letter < 6 ? letter + 10u : 16;
}

/* Read up to four digits; *p moves behind them. Returns 0x10000 if there are none. */
static uint32_t read_group(const char **p, const char *end)
{
    uint32_t group = 0;
    const char *begin = *p;
    for (; *p < end && *p - begin < 4; (*p)++) {
        uint32_t digit = hex_digit(**p);
        if (digit == 16)
            break;
        group = group << 4 | digit;
    }
    return *p == begin ? 0x10000 : group;
}

static void put_be16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

/* RFC 4291, 2.2, all three forms. */
int text_ipv6(const struct text_word *word, uint8_t *ipv6)
{
    const char *p = word->begin, *end = p + word->size;
    int n = 0;    /* bytes read */
    int gap = -1; /* of them, before the "::" */
    uint8_t bytes[16];

    if (end - p >= 2 && p[0] == ':' && p[1] == ':') {
        gap = 0;
        p += 2;
    }
    while (p < end) {
        const char *begin = p;
        uint32_t group = read_group(&p, end);
        if (p < end && *p == '.') { /* the last four bytes as an IPv4 address */
            uint32_t ipv4;
            if (n > 12 || read_ipv4(begin, end, &ipv4))
                return -EINVAL;
            put_be16(bytes + n, ipv4 >> 16);
            put_be16(bytes + n + 2, ipv4 & 0xffff);
            n += 4;
            break;
        }
        if (group == 0x10000 || n == 16)
            return -EINVAL;
        put_be16(bytes + n, group);
        n += 2;
        if (p == end)
            break;
        if (*p++ != ':' || p == end)
            return -EINVAL;
        if (*p == ':') {
            if (gap >= 0)
                return -EINVAL;
            gap = n;
            p++;
        }
    }
    if (gap < 0 ? n != 16 : n > 14)
        return -EINVAL;
    if (gap < 0)
        gap = n;
    memset(ipv6, 0, 16);
    memcpy(ipv6, bytes, (size_t)gap);
    memcpy(ipv6 + 16 - (n - gap), bytes + gap, (size_t)(n - gap));
    return 0;
}
