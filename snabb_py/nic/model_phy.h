/* The slow side of the software 82599: serial EEPROM, semaphores, MDIO and the I2C bus
 * to the SFP+ module. Wires that a driver moves bit by bit are followed edge by edge;
 * commands are done when the write returns. Knows nothing of the rest of the card.
 * Included by model82599.h alone. */
#ifndef SNABB_PY_NIC_MODEL_PHY_H
#define SNABB_PY_NIC_MODEL_PHY_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { PHY_EEPROM_PAGE = 32 }; /* bytes that one WRITE can take */

/* A serial EEPROM of the 25 family with 16-bit addresses, such as the AT25640: SPI in
 * mode 0, most significant bit first. */
struct phy_spi {
    bool selected;
    bool clock;
    bool output;
    bool write_enabled;
    uint8_t status; /* WPEN, BP1, BP0: they survive */
    uint8_t in;
    uint8_t out;
    uint8_t nbits;  /* of `in` */
    uint8_t nbytes; /* of the command, up to 3: opcode, address */
    uint8_t opcode;
    uint16_t address;
    uint32_t latched; /* bit n: page[n] is to be written */
    uint8_t page[PHY_EEPROM_PAGE];
};

enum phy_i2c_state {
    PHY_I2C_IDLE,    /* waits for a start */
    PHY_I2C_ADDRESS, /* takes the device's address */
    PHY_I2C_POINTER, /* takes the first byte of a write */
    PHY_I2C_WRITE,
    PHY_I2C_READ
};

/* The module as an I2C slave: two memories of 256 bytes, each with a pointer. */
struct phy_i2c {
    bool present;
    bool clock; /* the wires */
    bool data;
    bool release; /* what we do to the data wire: let it be high, or hold it low */
    bool acknowledging;
    uint8_t state;
    uint8_t nbits; /* 0..7, 8: all are in or out, 9: acknowledged */
    uint8_t shift;
    uint8_t device; /* 0: 0xa0, 1: 0xa2 */
    uint8_t pointer[2];
    uint8_t memory[2][MODEL_SFP_SIZE];
};

struct model_phy {
    uint32_t eec;
    uint32_t eerd;
    uint32_t eewr;
    uint32_t fla;
    uint32_t i2cctl;
    uint32_t msca;
    uint32_t msrwd;
    uint32_t swsm;
    uint32_t sw_fw_sync;
    struct phy_spi spi;
    struct phy_i2c i2c;
    uint16_t eeprom[MODEL_EEPROM_WORDS];
};

/* eeprom: MODEL_EEPROM_WORDS, in host order. sfp: MODEL_SFP_SIZE bytes of the module at
 * I2C address 0xa0; NULL: none is plugged. Both are copied. */
void phy_init(struct model_phy *phy, const uint16_t *eeprom, const uint8_t *sfp);
/* Software reset: registers and wires, but no semaphore, and nothing that EEPROM or
 * module hold. */
void phy_reset(struct model_phy *phy);
/* Function level reset: semaphores as well, whose holder may be gone. */
void phy_reset_function(struct model_phy *phy);
/* False: the register is none of theirs. Reading may have effects. */
bool phy_read(struct model_phy *phy, uint32_t offset, uint32_t *value);
bool phy_write(struct model_phy *phy, uint32_t offset, uint32_t value);

#endif
