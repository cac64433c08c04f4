/* Properties: `key = value`, a comma or a new line between two of them. */

#include <errno.h>

#include "snabb_py/lwaftr/text.h"

void text_skip_properties(struct text *t)
{
    for (;;) {
        t->at = text_pass(t->at, TEXT_IS_SPACE, true);
        if (*t->at != '#')
            return;
        const char *newline = memchr(t->at, '\n', (size_t)(t->end - t->at));
        t->at = newline ? newline : t->end;
    }
}

static void read_run(struct text *t, struct text_word *word, uint8_t class, bool is_in)
{
    word->begin = t->at;
    word->at = text_offset(t);
    t->at = text_pass(t->at, class, is_in);
    word->size = word->width = (uint64_t)(t->at - word->begin);
}

int text_next_key(struct text *t, struct text_word *key)
{
    text_skip_properties(t);
    if (t->at == t->end)
        return TEXT_END;
    if (*t->at == '}') {
        t->at++;
        return TEXT_CLOSE;
    }
    read_run(t, key, TEXT_IS_KEY, true);
    if (key->size == 0)
        return text_expected(t, "a key");
    text_skip_properties(t);
    if (*t->at != '=')
        return text_expected(t, "\"=\"");
    t->at++;
    text_skip_properties(t);
    return TEXT_LEAF;
}

/* What may stand between two properties. */
static int read_separator(struct text *t)
{
    const char *begin = t->at;
    text_skip_properties(t);
    if (*t->at == ',')
        t->at++;
    else if (t->at < t->end && *t->at != '}' &&
             !memchr(begin, '\n', (size_t)(t->at - begin)))
        return text_expected(t, "\",\" or a new line");
    return 0;
}

int text_next_value(struct text *t, struct text_word *value, bool is_string)
{
    if (*t->at == '"' || *t->at == '\'') {
        if (text_string(t, value, NULL))
            return -EINVAL;
    } else {
        read_run(t, value,
                 is_string ? TEXT_ENDS_BARE_STRING : TEXT_ENDS_PROPERTY_WORD, false);
        if (value->size == 0)
            return text_expected(t, "a value");
    }
    return read_separator(t);
}
