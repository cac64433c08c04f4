/* EEPROM, semaphores, MDIO and SFP+ module of the software 82599; see model_phy.h.
 *
 * Sections are the data sheet's. What comes in is a driver's and may be anything: every
 * index below is cut to its memory's size where it is made. */
#include "snabb_py/nic/model82599.h"

_Static_assert(MODEL_EEPROM_WORDS == 4096, "EEC.SIZE below says so");
_Static_assert(MODEL_SFP_SIZE == 256, "an I2C pointer wraps at the end of its memory");

enum { /* EEC, 8.2.3.2.1 */
    EEC_SK = 1 << 0,
    EEC_CS = 1 << 1, /* the wire's level: 1 is not selected */
    EEC_DI = 1 << 2,
    EEC_DO = 1 << 3,
    EEC_FWE = 1 << 4, /* 5:4, 1: no writing to flash */
    EEC_REQ = 1 << 6,
    EEC_GNT = 1 << 7,
    EEC_PRES = 1 << 8,
    EEC_ARD = 1 << 9,
    EEC_ADDR_SIZE = 1 << 10, /* 16-bit addresses */
    EEC_SIZE = 6 << 11,      /* 64 << 6 words */
    EEC_FIXED = EEC_PRES | EEC_ARD | EEC_ADDR_SIZE | EEC_SIZE,
    EEC_WRITABLE = EEC_SK | EEC_CS | EEC_DI | 3 << 4 | EEC_REQ
};

enum { /* EERD and EEWR, 8.2.3.2.2 */
    EEPROM_START = 1 << 0,
    EEPROM_DONE = 1 << 1,
    EEPROM_ADDRESS = 0x3fff << 2
};

enum { /* FLA, 8.2.3.2.4 */
    FLA_SO = 1 << 3,
    FLA_REQ = 1 << 4,
    FLA_GNT = 1 << 5,
    FLA_WRITABLE = 0x17
};

enum { /* I2CCTL, 8.2.3.1.5 */
    I2C_CLOCK_IN = 1 << 0,
    I2C_CLOCK_OUT = 1 << 1,
    I2C_DATA_IN = 1 << 2,
    I2C_DATA_OUT = 1 << 3
};

enum { MSCA_OPCODE_READ = 1 << 27, MSCA_COMMAND = 1 << 30 }; /* 8.2.3.22.11 */

enum { SWSM_SMBI = 1 << 0, SWSM_SWESMBI = 1 << 1 }; /* 8.2.3.4.11 */

/* ---- EEPROM -------------------------------------------------------------- */

enum { /* opcodes of the 25 family */
    SPI_WRSR = 1,
    SPI_WRITE = 2,
    SPI_READ = 3,
    SPI_WRDI = 4,
    SPI_RDSR = 5,
    SPI_WREN = 6
};

enum { SPI_STATUS_WEL = 1 << 1, SPI_STATUS_WRITABLE = 0x8c };

static uint32_t eeprom_bytes(void)
{
    return MODEL_EEPROM_WORDS * 2;
}

/* Words lie with their low byte first. */
static uint8_t eeprom_byte(const struct model_phy *phy, uint32_t address)
{
    address %= eeprom_bytes();
    return (uint8_t)(phy->eeprom[address / 2] >> (address % 2 * 8));
}

static void eeprom_set_byte(struct model_phy *phy, uint32_t address, uint8_t value)
{
    address %= eeprom_bytes();
    uint32_t shift = address % 2 * 8;
    uint16_t *word = &phy->eeprom[address / 2];
    *word = (uint16_t)((*word & ~(0xffu << shift)) | (uint32_t)value << shift);
}

/* BP1 and BP0 protect nothing, the last quarter, the last half, or all. */
static bool eeprom_is_protected(const struct model_phy *phy, uint32_t address)
{
    uint32_t protect = phy->spi.status >> 2 & 3;
    uint32_t size = protect ? eeprom_bytes() >> (3 - protect) : 0;
    return address % eeprom_bytes() >= eeprom_bytes() - size;
}

/* A byte of a command is complete. */
static void spi_byte(struct model_phy *phy)
{
    struct phy_spi *spi = &phy->spi;
    bool has_address = spi->nbytes == 3;
    switch (spi->nbytes) {
    case 0:
        spi->opcode = spi->in;
        break;
    case 1:
    case 2:
        spi->address = (uint16_t)(spi->address << 8 | spi->in);
        has_address = spi->nbytes == 2;
        break;
    }
    switch (spi->opcode) {
    case SPI_READ:
        if (has_address)
            spi->out = eeprom_byte(phy, spi->address++);
        break;
    case SPI_WRITE:
        if (spi->nbytes == 3) {
            /* Only the place in the page counts on: a long write wraps within it. */
            uint32_t place = spi->address % PHY_EEPROM_PAGE;
            spi->page[place] = spi->in;
            spi->latched |= 1u << place;
            spi->address =
                (uint16_t)(spi->address - place + (place + 1) % PHY_EEPROM_PAGE);
        }
        break;
    case SPI_RDSR:
        spi->out = (uint8_t)(spi->status | (spi->write_enabled ? SPI_STATUS_WEL : 0));
        break;
    }
    if (spi->nbytes < 3)
        spi->nbytes++;
}

static void spi_select(struct phy_spi *spi)
{
    spi->selected = true;
    spi->output = false;
    spi->out = 0;
    spi->nbits = 0;
    spi->nbytes = 0;
    spi->opcode = 0;
    spi->address = 0;
    spi->latched = 0;
}

/* What a command changes, it changes when it is deselected behind a whole byte. */
static void spi_deselect(struct model_phy *phy)
{
    struct phy_spi *spi = &phy->spi;
    spi->selected = false;
    spi->output = false;
    if (spi->nbits != 0)
        return;
    uint32_t base = spi->address & ~(uint32_t)(PHY_EEPROM_PAGE - 1);
    switch (spi->opcode) {
    case SPI_WREN:
        spi->write_enabled = true;
        break;
    case SPI_WRDI:
        spi->write_enabled = false;
        break;
    case SPI_WRSR:
        if (spi->write_enabled && spi->nbytes == 2)
            spi->status = spi->in & SPI_STATUS_WRITABLE;
        spi->write_enabled = false;
        break;
    case SPI_WRITE:
        for (uint32_t i = 0; i < PHY_EEPROM_PAGE && spi->write_enabled; i++)
            if (spi->latched >> i & 1 && !eeprom_is_protected(phy, base + i))
                eeprom_set_byte(phy, base + i, spi->page[i]);
        spi->write_enabled = false;
        break;
    }
}

/* The wires have these levels now. */
static void spi_wires(struct model_phy *phy, bool select, bool clock, bool data)
{
    struct phy_spi *spi = &phy->spi;
    if (select && !spi->selected)
        spi_select(spi);
    else if (!select && spi->selected)
        spi_deselect(phy);
    if (spi->selected && clock && !spi->clock) {
        spi->in = (uint8_t)(spi->in << 1 | data);
        spi->nbits = (uint8_t)((spi->nbits + 1) % 8);
        if (spi->nbits == 0)
            spi_byte(phy);
    } else if (spi->selected && !clock && spi->clock) {
        spi->output = spi->out & 0x80;
        spi->out = (uint8_t)(spi->out << 1);
    }
    spi->clock = clock;
}

static void write_eec(struct model_phy *phy, uint32_t value)
{
    phy->eec = value & EEC_WRITABLE;
    bool granted = value & EEC_REQ;
    spi_wires(phy, granted && !(value & EEC_CS), granted && value & EEC_SK,
              value & EEC_DI);
}

static uint32_t read_eec(const struct model_phy *phy)
{
    return EEC_FIXED | phy->eec | (phy->eec & EEC_REQ ? EEC_GNT : 0) |
           (phy->spi.output ? EEC_DO : 0);
}

static uint16_t *eeprom_word(struct model_phy *phy, uint32_t value)
{
    return &phy->eeprom[(value & EEPROM_ADDRESS) >> 2 & (MODEL_EEPROM_WORDS - 1)];
}

static void write_eerd(struct model_phy *phy, uint32_t value)
{
    phy->eerd = value & EEPROM_ADDRESS;
    if (value & EEPROM_START)
        phy->eerd |= (uint32_t)*eeprom_word(phy, value) << 16 | EEPROM_DONE;
}

static void write_eewr(struct model_phy *phy, uint32_t value)
{
    /* Done even if nothing was begun: Linux waits for it before it begins. */
    phy->eewr = (value & ~(uint32_t)EEPROM_START) | EEPROM_DONE;
    if (value & EEPROM_START)
        *eeprom_word(phy, value) = (uint16_t)(value >> 16);
}

/* ---- SFP+ module --------------------------------------------------------- */

enum { /* bytes of SFF-8472 */
    SFP_DIAGNOSTICS = 92, /* at 0xa0 */
    SFP_HAS_DIAGNOSTICS = 1 << 6,
    SFP_LIVE = 96, /* at 0xa2 */
    SFP_STATUS = 110,
    SFP_EXTENDED_STATUS = 118,
    SFP_USER = 128,
    SFP_USER_END = 248
};

/* Alarm high, alarm low, warning high, warning low, and what is measured: always the
 * same, a module that is well. SFF-8472 9.4, 9.8. */
static const int16_t SFP_TEMPERATURE[5] = {19200, -1280, 17920, 0, 10240}; /* 1/256 C */
static const uint16_t SFP_READINGS[4][5] = {
    {36000, 30000, 35000, 31000, 33000}, /* 100 uV: supply */
    {6000, 1000, 5000, 1500, 3000},      /* 2 uA: bias of the laser */
    {10000, 1500, 8000, 2000, 5500},     /* 0.1 uW: power out */
    {10000, 100, 8000, 200, 5000},       /* 0.1 uW: power in */
};

static void put_big_endian(uint8_t *to, uint16_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

static void sfp_diagnose(uint8_t *memory)
{
    for (uint32_t i = 0; i < 5; i++) {
        uint16_t value = (uint16_t)SFP_TEMPERATURE[i];
        uint8_t *live = memory + SFP_LIVE, *limits = memory + 2 * i;
        put_big_endian(i == 4 ? live : limits, value);
        for (uint32_t j = 0; j < 4; j++)
            put_big_endian(i == 4 ? live + 2 + 2 * j : limits + 8 + 8 * j,
                           SFP_READINGS[j][i]);
    }
    for (uint32_t i = 0; i < SFP_LIVE - 1; i++)
        memory[SFP_LIVE - 1] = (uint8_t)(memory[SFP_LIVE - 1] + memory[i]);
}

/* 0xa0 is written by the maker alone; at 0xa2 there are switches, and room for the
 * user. SFF-8472 9.9 to 9.11. */
static void sfp_write(struct phy_i2c *i2c, uint8_t value)
{
    uint8_t at = i2c->pointer[i2c->device]++, mask = 0;
    if (i2c->device == 0)
        return;
    if (at == SFP_STATUS)
        mask = 0x48; /* soft transmitter disable, rate select */
    else if (at == SFP_EXTENDED_STATUS)
        mask = 0x08; /* transmitter's rate select */
    else if (at >= SFP_USER && at < SFP_USER_END)
        mask = 0xff;
    uint8_t *byte = &i2c->memory[1][at];
    *byte = (uint8_t)((*byte & ~mask) | (value & mask));
}

/* Whether we answer to the address byte. */
static bool sfp_is_addressed(struct phy_i2c *i2c, uint8_t address)
{
    switch (address & 0xfe) {
    case 0xa0:
        i2c->device = 0;
        return i2c->present;
    case 0xa2:
        i2c->device = 1;
        return i2c->present && i2c->memory[0][SFP_DIAGNOSTICS] & SFP_HAS_DIAGNOSTICS;
    default:
        return false;
    }
}

/* A byte came. Returns whether to acknowledge. */
static bool i2c_byte(struct phy_i2c *i2c)
{
    switch (i2c->state) {
    case PHY_I2C_ADDRESS:
        if (!sfp_is_addressed(i2c, i2c->shift))
            return false;
        i2c->state = i2c->shift & 1 ? PHY_I2C_READ : PHY_I2C_POINTER;
        return true;
    case PHY_I2C_POINTER:
        i2c->pointer[i2c->device] = i2c->shift;
        i2c->state = PHY_I2C_WRITE;
        return true;
    case PHY_I2C_WRITE:
        sfp_write(i2c, i2c->shift);
        return true;
    default:
        return false;
    }
}

static void i2c_clock_rises(struct phy_i2c *i2c)
{
    if (i2c->nbits < 8) {
        if (i2c->state != PHY_I2C_READ)
            i2c->shift = (uint8_t)(i2c->shift << 1 | i2c->data);
        i2c->nbits++;
    } else {
        i2c->nbits = 9;
        if (!i2c->acknowledging && i2c->data)
            i2c->state = PHY_I2C_IDLE; /* the master has read enough */
    }
}

/* The time to change what we do to the data wire. */
static void i2c_clock_falls(struct phy_i2c *i2c)
{
    if (i2c->nbits == 8) {
        /* The ninth bit: the receiver's. */
        i2c->acknowledging = i2c->state != PHY_I2C_READ;
        i2c->release = true;
        if (!i2c->acknowledging)
            return;
        i2c->release = !i2c_byte(i2c);
        if (i2c->release)
            i2c->state = PHY_I2C_IDLE;
        return;
    }
    if (i2c->nbits == 9) {
        i2c->nbits = 0;
        i2c->release = true;
        if (i2c->state == PHY_I2C_READ)
            i2c->shift = i2c->memory[i2c->device][i2c->pointer[i2c->device]++];
    }
    if (i2c->state == PHY_I2C_READ)
        i2c->release = i2c->shift >> (7 - i2c->nbits) & 1;
}

static void i2c_clock(struct phy_i2c *i2c, bool level)
{
    if (level == i2c->clock)
        return;
    i2c->clock = level;
    if (i2c->state == PHY_I2C_IDLE)
        i2c->release = true;
    else if (level)
        i2c_clock_rises(i2c);
    else
        i2c_clock_falls(i2c);
}

/* Data that moves while the clock is high is a start or a stop. */
static void i2c_data(struct phy_i2c *i2c, bool level)
{
    bool before = i2c->data;
    i2c->data = level && i2c->release;
    if (!i2c->clock || i2c->data == before)
        return;
    i2c->state = before ? PHY_I2C_ADDRESS : PHY_I2C_IDLE;
    i2c->nbits = 0;
    i2c->release = true;
}

static void write_i2cctl(struct model_phy *phy, uint32_t value)
{
    struct phy_i2c *i2c = &phy->i2c;
    bool clock = value & I2C_CLOCK_OUT, data = value & I2C_DATA_OUT;
    phy->i2cctl = value & (I2C_CLOCK_OUT | I2C_DATA_OUT);
    /* Of two that move at once, data moves while the clock is low. */
    if (!clock)
        i2c_clock(i2c, clock);
    i2c_data(i2c, data);
    if (clock)
        i2c_clock(i2c, clock);
    /* What the module drives from the clock's edge on. */
    i2c->data = data && i2c->release;
}

static uint32_t read_i2cctl(const struct model_phy *phy)
{
    return phy->i2cctl | (phy->i2c.clock ? I2C_CLOCK_IN : 0) |
           (phy->i2c.data ? I2C_DATA_IN : 0);
}

/* ---- the rest ------------------------------------------------------------ */

/* No PHY is on the MDIO bus: nobody pulls the wire down, and reads are all ones. */
static void write_msca(struct model_phy *phy, uint32_t value)
{
    phy->msca = value & ~(uint32_t)MSCA_COMMAND;
    if (value & MSCA_COMMAND && value & MSCA_OPCODE_READ)
        phy->msrwd |= 0xffff0000;
}

/* Who reads SMBI as 0 has it. */
static uint32_t read_swsm(struct model_phy *phy)
{
    uint32_t before = phy->swsm;
    phy->swsm |= SWSM_SMBI;
    return before;
}

bool phy_read(struct model_phy *phy, uint32_t offset, uint32_t *value)
{
    switch (offset) {
    case REG_EEC:
        *value = read_eec(phy);
        return true;
    case REG_EERD:
        *value = phy->eerd;
        return true;
    case REG_EEWR:
        *value = phy->eewr;
        return true;
    case REG_FLA:
        *value = phy->fla | FLA_SO | (phy->fla & FLA_REQ ? FLA_GNT : 0);
        return true;
    case REG_I2CCTL:
        *value = read_i2cctl(phy);
        return true;
    case REG_MSCA:
        *value = phy->msca;
        return true;
    case REG_MSRWD:
        *value = phy->msrwd;
        return true;
    case REG_SWSM:
        *value = read_swsm(phy);
        return true;
    case REG_SW_FW_SYNC:
        *value = phy->sw_fw_sync;
        return true;
    default:
        return false;
    }
}

bool phy_write(struct model_phy *phy, uint32_t offset, uint32_t value)
{
    switch (offset) {
    case REG_EEC:
        write_eec(phy, value);
        return true;
    case REG_EERD:
        write_eerd(phy, value);
        return true;
    case REG_EEWR:
        write_eewr(phy, value);
        return true;
    case REG_FLA:
        phy->fla = value & FLA_WRITABLE;
        return true;
    case REG_I2CCTL:
        write_i2cctl(phy, value);
        return true;
    case REG_MSCA:
        write_msca(phy, value);
        return true;
    case REG_MSRWD:
        phy->msrwd = (phy->msrwd & 0xffff0000) | (value & 0xffff);
        return true;
    case REG_SWSM:
        /* SMBI is set by reading alone. There is no firmware that holds SWESMBI. */
        phy->swsm = (value & SWSM_SWESMBI) | (value & phy->swsm & SWSM_SMBI);
        return true;
    case REG_SW_FW_SYNC:
        phy->sw_fw_sync = value & 0xffff;
        return true;
    default:
        return false;
    }
}

void phy_reset(struct model_phy *phy)
{
    write_eec(phy, EEC_FWE);
    write_i2cctl(phy, I2C_CLOCK_OUT | I2C_DATA_OUT);
    phy->eerd = 0;
    phy->eewr = EEPROM_DONE;
    phy->fla = 0;
    phy->msca = 0;
    phy->msrwd = 0;
}

void phy_reset_function(struct model_phy *phy)
{
    phy_reset(phy);
    phy->swsm = 0;
    phy->sw_fw_sync = 0;
}

void phy_init(struct model_phy *phy, const uint16_t *eeprom, const uint8_t *sfp)
{
    memset(phy, 0, sizeof(*phy));
    memcpy(phy->eeprom, eeprom, sizeof(phy->eeprom));
    phy->i2c.clock = phy->i2c.data = phy->i2c.release = true;
    if (sfp) {
        phy->i2c.present = true;
        memcpy(phy->i2c.memory[0], sfp, MODEL_SFP_SIZE);
        sfp_diagnose(phy->i2c.memory[1]);
    }
    phy_reset_function(phy);
}
