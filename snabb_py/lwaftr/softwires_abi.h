/* Softwires as they are configured: what a binding table is built of. */

enum {
    SOFTWIRES_MAX = 0x10000000,
    SOFTWIRES_MAX_BR = 0xffff,      /* different addresses of our own */
    SOFTWIRES_NO_PSID_LENGTH = 0xff /* of a range: it says nothing of ports */
};

struct softwire_entry {
    struct softwire softwire;
    uint64_t at;         /* in the text, or in whatever else they came from */
    uint8_t psid_length; /* 0..16 */
    uint8_t reserved;    /* bits before the PSID; the two together 16 at most */
    uint8_t padding[6];
};

struct softwire_range { /* of addresses that are managed, with softwires or without */
    uint64_t at;
    uint32_t first;
    uint32_t last;
    uint8_t psid_length; /* of their softwires, or SOFTWIRES_NO_PSID_LENGTH */
    uint8_t padding[7];
};

struct softwire_list {
    struct softwire_entry *entries;
    struct softwire_range *ranges;
    uint8_t (*br)[16];
    uint16_t *br_slots; /* a hash of br: index + 1, or 0 */
    uint64_t nentries, entries_room;
    uint64_t nranges, ranges_room;
    uint64_t nbr, br_room;
    uint8_t (*own)[16]; /* addresses of our interfaces, not the list's; NULL: none */
    uint64_t nown;
    bool has_psid_map;  /* ranges say how ports are shared; else entries do */
};

/* An empty list, or NULL: no memory. */
struct softwire_list *softwires_new(void);
void softwires_free(struct softwire_list *list);

/* Append; the softwire's `br` is found by its address. Return 0, or -EINVAL or -ENOMEM
 * with the error set. */
int softwires_add(struct softwire_list *list, const struct softwire_entry *entry,
                  const uint8_t *br, struct text_error *error);
int softwires_add_range(struct softwire_list *list, const struct softwire_range *range,
                        struct text_error *error);

/* Read what follows `binding-table {` in snabb-softwire v3, to its end; or a whole file
 * of the old format. Return 0, or -EINVAL or -ENOMEM with text->error set. */
int softwires_read_statements(struct softwire_list *list, struct text *text);
int softwires_read_properties(struct softwire_list *list, struct text *text);

/* The table of a list, or NULL with the error set. `compat`: the first softwire of an
 * address decides how its ports are divided, what contradicts it is never found, and
 * reserved ports are those below 2^bits, as in Snabb; else such a list is refused, and
 * reserved are ports whose first bits are all 0 (RFC 7597, 5.1). So is one with a
 * softwire that cannot be: its IPv4 address no host has (RFC 1812, 5.3.7), or its B4 is
 * nobody, a group, or us. */
struct binding_table *binding_table_build(struct softwire_list *list, bool compat,
                                          uint64_t seed, struct text_error *error);
void binding_table_free(struct binding_table *table);

/* Copy the softwires, by address and PSID, with what else was configured (but `at`) to
 * room for table->nsoftwires. */
void binding_table_entries(const struct binding_table *table,
                           struct softwire_entry *entries);

/* How many softwires of two tables differ, told apart by address and PSID. */
struct binding_difference {
    uint64_t added;   /* in the second table alone */
    uint64_t removed; /* in the first one alone */
    uint64_t changed; /* B4, our end, or how ports are shared */
    bool is_managed;  /* the ranges without softwires are others, too */
};

struct binding_difference binding_table_compare(const struct binding_table *before,
                                                const struct binding_table *after);
