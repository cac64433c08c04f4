/* Configuration text, token by token: the two languages that Snabb's lwAFTR has had.
 *
 *   statements   snabb-softwire v3: `key value;` and `key { ... }` as in YANG (RFC 7950,
 *                6.1), comments of C and C++
 *   properties   the old files: `key = value`, a comma or a new line between two,
 *                comments that begin with #
 *
 * The text ends with a zero byte, which no token contains: nothing is read behind it. */

enum { TEXT_VALUE_MAX = 16384 }; /* bytes of a string put together from several */

enum { /* text_error.kind */
    TEXT_WRONG = 1,   /* the message says all */
    TEXT_EXPECTED,    /* what the message says was expected instead of the token */
    TEXT_UNKNOWN_KEY, /* the message lists those that are known */
    TEXT_REPEATS,     /* what the message says contradicts what is at `other` */
    TEXT_NO_MEMORY
};

struct text_error {
    uint64_t at;    /* bytes from the beginning of the text */
    uint64_t size;  /* of the token there; 0: the text ends there */
    uint64_t other;
    int32_t kind;
    char message[124];
};

struct text_word {
    const char *begin; /* in the text, or in text.joined: until the next word is read */
    uint64_t size;
    uint64_t at;       /* bytes from the beginning of the text, quote included */
    uint64_t width;    /* bytes there, quotes included */
};

struct text {
    const char *begin;
    const char *at;
    const char *end;         /* here is the zero */
    struct text_error error; /* of the call that answered a negative number */
    char joined[16384];
};

enum { /* text_next_statement() and text_next_key() answer */
    TEXT_END,
    TEXT_CLOSE, /* } */
    TEXT_OPEN,  /* key { */
    TEXT_LEAF   /* key value; or key = */
};

/* `size` bytes, behind which there is a zero. */
void text_init(struct text *t, const char *begin, uint64_t size);

/* Read a statement: its key and, of a leaf, its value. Returns what it is, or -EINVAL. */
int text_next_statement(struct text *t, struct text_word *key, struct text_word *value);

/* Read a property's key and the "=". Returns TEXT_LEAF, TEXT_CLOSE, TEXT_END; -EINVAL */
int text_next_key(struct text *t, struct text_word *key);

/* Read a property's value and what ends it. `is_string`: one that has no quotes ends at
 * white space or a comma alone. Returns 0 or -EINVAL. */
int text_next_value(struct text *t, struct text_word *value, bool is_string);

/* Read what a word says. Return 0, or -EINVAL if it is no such thing. */
int text_ipv4(const struct text_word *word, uint32_t *ipv4); /* host order */
int text_ipv6(const struct text_word *word, uint8_t *ipv6);  /* 16 bytes */
int text_uint(const struct text_word *word, uint64_t max, uint64_t *number);
