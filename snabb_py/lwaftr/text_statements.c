/* Statements: `key value;` and `key { ... }`, RFC 7950, 6.1 and 6.3. */

#define _GNU_SOURCE
#include <errno.h>

#include "snabb_py/lwaftr/text.h"

static int skip(struct text *t)
{
    for (;;) {
        t->at = text_pass(t->at, TEXT_IS_SPACE, true);
        if (t->at[0] != '/' || (t->at[1] != '/' && t->at[1] != '*'))
            return 0;
        size_t left = (size_t)(t->end - t->at);
        if (t->at[1] == '/') {
            const char *newline = memchr(t->at, '\n', left);
            t->at = newline ? newline : t->end;
            continue;
        }
        const char *close = memmem(t->at + 2, left - 2, "*/", 2);
        if (!close)
            return text_unended(t, text_offset(t), "a comment");
        t->at = close + 2;
    }
}

static int read_word(struct text *t, struct text_word *word, const char *expected)
{
    const char *begin = t->at;
    t->at = text_pass(begin, TEXT_ENDS_STATEMENT_WORD, false);
    if (t->at == begin)
        return text_expected(t, expected);
    word->begin = begin;
    word->size = word->width = (uint64_t)(t->at - begin);
    word->at = (uint64_t)(begin - t->begin);
    return skip(t);
}

static int read_value(struct text *t, struct text_word *value)
{
    if (*t->at == '"' || *t->at == '\'')
        return text_string(t, value, skip);
    return read_word(t, value, "a value or {");
}

int text_next_statement(struct text *t, struct text_word *key, struct text_word *value)
{
    if (skip(t))
        return -EINVAL;
    if (t->at == t->end)
        return TEXT_END;
    if (*t->at == '}') {
        t->at++;
        return TEXT_CLOSE;
    }
    if (read_word(t, key, "a key or }"))
        return -EINVAL;
    if (*t->at == '{') {
        t->at++;
        return TEXT_OPEN;
    }
    if (read_value(t, value))
        return -EINVAL;
    if (*t->at != ';')
        return text_expected(t, "\";\"");
    t->at++;
    return TEXT_LEAF;
}
