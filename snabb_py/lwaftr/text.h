#ifndef SNABB_PY_LWAFTR_TEXT_H
#define SNABB_PY_LWAFTR_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "snabb_py/lwaftr/text_abi.h"

_Static_assert(sizeof(((struct text *)0)->joined) == TEXT_VALUE_MAX, "see text_abi.h");

enum { /* what a byte is, in both languages; a byte may be several */
    TEXT_IS_SPACE = 1,
    TEXT_ENDS_STATEMENT_WORD = 2,
    TEXT_ENDS_PROPERTY_WORD = 4,
    TEXT_ENDS_BARE_STRING = 8,
    TEXT_IS_KEY = 16 /* of a property */
};
extern const uint8_t text_class[256];

static inline bool text_is(char c, uint8_t class)
{
    return text_class[(uint8_t)c] & class;
}

/* Pass bytes that are of a class, or those that are not; ends at the text's zero. A
 * pointer of its own: t->at would go through memory at every byte. */
static inline const char *text_pass(const char *p, uint8_t class, bool is_in)
{
    while (text_is(*p, class) == is_in)
        p++;
    return p;
}

static inline uint64_t text_offset(const struct text *t)
{
    return (uint64_t)(t->at - t->begin);
}

static inline bool text_word_is(const struct text_word *word, const char *what,
                                size_t size)
{
    return word->size == size && memcmp(word->begin, what, size) == 0;
}

/* Set the error; the rest is as for printf. Returns -EINVAL. */
__attribute__((format(printf, 5, 6))) int text_fail(struct text_error *error, int kind,
                                                    uint64_t at, uint64_t size,
                                                    const char *format, ...);

/* Something else was expected where we are, or where a word stands; -EINVAL. */
int text_expected(struct text *t, const char *what);
int text_expected_instead(struct text *t, const struct text_word *word,
                          const char *what);

/* What begins at `at` does not end; -EINVAL. */
int text_unended(struct text *t, uint64_t at, const char *what);

/* No memory; -ENOMEM. */
int text_no_memory(struct text_error *error);

/* Read the rest of a string in quotes into `word`, with the next one joined to it
 * where `skip` is given and there is a "+" between them; else an escape stands for the
 * character behind it. Returns 0 or -EINVAL. */
typedef int (*text_skip_fn)(struct text *t);
int text_string(struct text *t, struct text_word *word, text_skip_fn skip);

/* Skip white space and comments of properties. */
void text_skip_properties(struct text *t);

#endif
