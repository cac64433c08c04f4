"""The registers of the Intel 82599: the table that its software model is made from.

Offsets are bytes in BAR 0. What is not in the table reads 0 and ignores writes. Names
are the data sheet's (331520, chapter 8), after a slash other names in use, mostly
Linux's. Reads without the extension; imports nothing of the package.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

SIZE: Final = 0x20000  #: bytes of registers in BAR 0
COUNT: Final = SIZE // 4

#: Ways to answer, in the numbers of model82599_abi.h (REGISTER_*).
ABSENT, RW, RO, RC, W1C, PAIR_LOW, PAIR_HIGH = range(7)
MODES: Final = {"RW": RW, "RO": RO, "RC": RC, "W1C": W1C}

# A line is
#
#     name    where    access    reset    mask    note
#
# where   first offset, and of an array +stride*count; a second block after a comma
#         holds the elements that follow. After "=": where else element 0 and on answer.
# access  RW, RO, RC (a read clears), W1C (writing ones clears). With a star that is the
#         nearest of them only, and the note says what the register really does.
# reset   after a reset; of an array "value@0" is element 0 alone, the rest is 0.
#         E: the EEPROM decides, this is what ours says. The value that a read would
#         return where the card makes it up while it runs.
# mask    bits that keep what is written; "-": all of a RW or W1C, none of a RO or RC.
#         Other bits keep their reset value. Reserved bits count as not writable where
#         the data sheet lists a register's fields.
#
# Words of the notes: SC clears itself when the command is done, RS a read returns the
# old value and sets the bit, W1S writing ones sets, WO reads 0. "pair": low and high
# half of a statistic of 36 bits; the low is read first, reading the high one clears
# both (8.2.3.23). Lines that begin with a blank continue the note.
TABLE = """
# General, 8.2.3.1
CTRL 0x00000=0x00004 RW* 0 0x00000004 LRST (3) and RST (26) are SC and reset; GIO_DIS
    (2) stops DMA
STATUS 0x00008 RO* 0x00080000 - GIO_MASTER (19) follows CTRL.GIO_DIS
CTRL_EXT/CTRL_EX 0x00018 RW* 0 0x14030000 PFRSTD (14) is SC
ESDP 0x00020 RW* 0x00000804 0x0003FFFB E; SDP2, in: a module is plugged (Linux wants 1
    for a link); SDP3, out: laser off
I2CCTL/EODSDP 0x00028 RW* 0x0000000F 0x0000000A CLK_IN (0) and DATA_IN (2) are what is
    on the bus: open drain, wired AND with the module
FRTIMER 0x00048 RO* 0 - counts microseconds
TCPTIMER 0x0004C RW* 0 0x00000AFF counts down; KS (8) and FINISH (10) are WO commands
LEDCTL 0x00200 RW 0x05840100 0xCFCFCFEF E: link up, 10G, activity (blinks), 1G
EXVET 0x05078 RW 0x81000000 0xFFFF0000

# EEPROM, flash, semaphores, firmware, 8.2.3.2 to 8.2.3.4
EEC 0x10010 RW* 0x00003710 0x00000077 GNT (7) answers REQ (6); SK, CS, DI, DO are the
    pins of the EEPROM while granted
EERD 0x10014 RW* 0 0x0000FFFC START (0) is SC: reads word 15:2 into 31:16, sets DONE (1)
EEWR 0x10018 RW* 0x00000002 0xFFFFFFFC START (0) is SC: writes 31:16 to word 15:2, sets
    DONE (1)
FLA 0x1001C RW* 0x00000008 0x00000017 GNT (5) answers REQ (4); there is no flash, SO (3)
    reads 1
EEMNGCTL 0x10110 RO 0x000C0000 - CFG_DONE0, CFG_DONE1: the firmware has configured
EEMNGDATA 0x10114 RO 0 -
FLMNGCTL 0x10118 RW 0 -
FLMNGDATA 0x1011C RW 0 -
FLMNGCNT 0x10120 RW 0 -
FLOP 0x1013C RW 0 -
SWSM 0x10140 RW* 0 0x00000003 SMBI (0) is RS, and cleared by writing 0
FWSM 0x10148 RO 0x00008000 - firmware valid, mode none
FACTPS 0x10150 RO 0x00000006 - function 0 in D0, its port is enabled
SW_FW_SYNC/GSSR 0x10160 RW 0 0x0000FFFF
GRC 0x10200 RW 0 0x00000003 E
VPDDIAG0 0x10204 RO 0 -
VPDDIAG1 0x10208 RO 0 -
PHYDBG 0x10218 RW 0 -
FLEX_MNG 0x15800+4*448 RW 0 -
HICR 0x15F00 RO 0 - EN (0) is 0: no firmware takes commands
HSMC0R 0x15F04 RW 0 -
HSMC1R 0x15F08 RW 0 -
FWSTS 0x15F0C RO 0 -
SWSR 0x15F10 RW 0 -
LSWFW 0x15F14 RW 0 -
HFDR 0x15FE8 RW 0 -

# PCIe and DCA, 8.2.3.4, 8.2.3.11
GCR 0x11000 RW 0x00040000 0xFFFBFFFF CAP_VER2 (18): time-outs are in configuration space
GTV/PCIEPIPEADR 0x11004 RW 0 -
FUNCTAG/PCIEPIPEDAT 0x11008 RW 0 -
GLT 0x1100C RW 0 -
GSCL_1 0x11010 RW 0 -
GSCL_2 0x11014 RW 0 -
GSCL_3 0x11018 RW 0 -
GSCL_4 0x1101C RW 0 -
GSCN_0 0x11020 RW 0 -
GSCN_1 0x11024 RW 0 -
GSCN_2 0x11028 RW 0 -
GSCN_3 0x1102C RW 0 -
GSCL_5 0x11030 RW 0 -
GSCL_6 0x11034 RW 0 -
GSCL_7 0x11038 RW 0 -
GSCL_8 0x1103C RW 0 -
PCIEANACTL/PHYADR 0x11040 RW 0 -
PHYDAT 0x11044 RW 0 -
PHYCTL 0x11048 RW 0 -
GCR_EXT 0x11050 RW 0 0xC0000013
MREVID 0x11064 RO 0x00000001 -
PCIEECCCTL 0x1106C RW 0 -
DCA_ID 0x11070 RO 0 -
DCA_CTRL 0x11074 RW 0x00000001 0x0000001F
CIAA 0x11088 RW 0 -
CIAD 0x1108C RW 0 -
PCIE_DIAG 0x11090+4*8 RO 0 -
PICAUSE/GHECCR 0x110B0 W1C 0 -
CDQ_MBR 0x110B4 RW 0 -
PIENA 0x110B8 RW 0 -
PCIESPARE 0x110BC RW 0 -
ECC_STATUS 0x110E0 RW 0 -
MISC_REG 0x110F0 RW 0 -
BAR_CTRL/BARCTRL 0x110F4 RO 0 -
ECC_CTRL_0/PCIEECCCTL0 0x11100 RW 0 -
ECC_CTRL_1/PCIEECCCTL1 0x11104 RW 0 -
DCA_RXCTRL 0x0100C+0x40*64,0x0D00C+0x40*64=0x02200+4*16 RW 0x0000B200 0xFF00B2E0 bit
    12 is to be written 0
DCA_TXCTRL 0x0600C+0x40*128 RW 0x00002A00 0xFF002A20

# Interrupts, 8.2.3.5
EICR 0x00800 RC* 0 - W1C as well; a read clears by GPIE.OCD and masks by EIAM
EICS 0x00808 RO* 0 - W1S into EICR; reads the causes without clearing them
EIAC 0x00810 RW 0 0x4000FFFF
EITR 0x00820+4*24,0x12300+4*104 RW* 0 0x0FFF8FF8 CNT_WDIS (31) is WO: with it the
    counter (27:21) is not written
EIMS 0x00880 RO* 0 - W1S
EIMC 0x00888 RO* 0 - writing ones clears bits of EIMS; reads EIMS
EIAM 0x00890 RW 0 0x7FFFFFFF
EITRSEL 0x00894 RW 0 -
GPIE 0x00898 RW 0 0xC000FFFF
IVAR 0x00900+4*64 RW 0 0xBFBFBFBF
IVAR_MISC 0x00A00 RW 0 0x0000BFBF
EICS_EX 0x00A90+4*2 RO* 0 - W1S: vectors 31:0, 63:32; 15:0 are EICS's
EIMS_EX 0x00AA0+4*2 RO* 0 - W1S: as above
EIMC_EX 0x00AB0+4*2 RO* 0 - writing ones clears bits of EIMS_EX; reads EIMS_EX
EIAM_EX 0x00AD0+4*2 RW* 0 - 15:0 of the first are EIAM's
PBACL 0x110C0+4*8=0x11068 W1C* 0 - clears pending bits in BAR 4

# Flow control, 8.2.3.3
PFCTOP 0x03008 RW 0x01018808 - opcode and type of priority flow control
FCTTV 0x03200+4*4 RW 0 -
FCADBUL 0x03210 RW 0x00C28001 -
FCADBUH 0x03214 RW 0x00000100 0x0000FFFF
FCRTL 0x03220+4*8 RW 0 0x8007FFF0
FCRTH 0x03260+4*8 RW 0 0x8007FFF0
FCRTV 0x032A0 RW 0 0x0000FFFF
FCCFG 0x03D00 RW 0 0x00000018
TFCS 0x0CE00 RO* 0 - TXOFF (0): a pause frame holds the transmitter

# Receive: filters and classification, 8.2.3.7
FCTRL 0x05080 RW 0 0x00000702
VLNCTRL 0x05088 RW 0x00008100 0x7000FFFF
MCSTCTRL 0x05090 RW 0 0x00000007
RFVAL 0x050A4 RW 0 -
RXCSUM 0x05000 RW 0 0x00003000
RFCTL 0x05008 RW 0 0x00034FFF
MTA 0x05200+4*128 RW 0 -
VFTA 0x0A000+4*128 RW 0 -
RAL 0x0A200+8*128=0x05400+8*16 RW* 0 - the first is the card's own address
RAH 0x0A204+8*128=0x05404+8*16 RW* 0 0x8000FFFF as RAL; AV (31) of the first is set
MPSAR_LO 0x0A600+8*128 RW 1@0 - the card's own address belongs to pool 0
MPSAR_HI 0x0A604+8*128 RW 0 -
PSRTYPE 0x0EA00+4*64=0x05480+4*16 RW 0 0xE0001330
MRQC 0x0EC80=0x05818 RW 0 0x00F3000F
RQTC 0x0EC70 RW 0x44444444 0x77777777
RETA 0x0EB00+4*32=0x05C00+4*32 RW 0 0x0F0F0F0F
RSSRK 0x0EB80+4*10=0x05C80+4*10 RW 0 -
ETQF 0x05128+4*8 RW 0 0xEFF0FFFF
ETQS 0x0EC00+4*8 RW 0 0xA07F0000
SYNQF 0x0EC30 RW 0 0x800000FF
LLITHRESH 0x0EC90 RW 0 0x00000FFF
SAQF 0x0E000+4*128 RW 0 -
DAQF 0x0E200+4*128 RW 0 -
SDPQF 0x0E400+4*128 RW 0 -
FTQF 0x0E600+4*128 RW 0 0xFE003F1F
L34T_IMIR 0x0E800+4*128 RW 0 0x0FFFF000

# Receive: DMA, 8.2.3.8
RXCTRL 0x03000 RW 0 0x00000003
RDBAL 0x01000+0x40*64,0x0D000+0x40*64 RW 0 0xFFFFFF80
RDBAH 0x01004+0x40*64,0x0D004+0x40*64 RW 0 -
RDLEN 0x01008+0x40*64,0x0D008+0x40*64 RW 0 0x000FFF80
RDH 0x01010+0x40*64,0x0D010+0x40*64 RW* 0 0x0000FFFF moves; written only while the
    queue is disabled
RDT 0x01018+0x40*64,0x0D018+0x40*64 RW* 0 0x0000FFFF gives descriptors to the card
SRRCTL 0x01014+0x40*64,0x0D014+0x40*64=0x02100+4*16 RW 0x00000402 0x1FC03F1F
RXDCTL 0x01028+0x40*64,0x0D028+0x40*64 RW* 0 0x42000000 ENABLE (25) starts and stops
RSCCTL 0x0102C+0x40*64,0x0D02C+0x40*64 RW 0 0x0000000D
RSCDBU 0x03028 RW 0 0x00000080
RDRXCTL 0x02F00 RW 0x0010000A 0x06BF0002 DMAIDONE (3) is RO
RXPBSIZE 0x03C00+4*8 RW 0x00080000@0 0x000FFC00
RDDCC/RDPROBE 0x02F20 RW 0 -
RDHMPN 0x02F08 RW 0 -
RDMAM 0x02F30 RW 0 -
RDMAD 0x02F34 RW 0 -
STARCTRL 0x03024 RW 0 -
RXMEMWRAP 0x03190 RO 0 -
PBRXECC 0x03300 RW 0 -
RXBUFCTRL 0x03600 RW 0 -
RXBUFDATA0 0x03610 RW 0 -
RXBUFDATA1 0x03614 RW 0 -
RXBUFDATA2 0x03618 RW 0 -
RXBUFDATA3 0x0361C RW 0 -
RXDBUECC 0x03F70 RW 0 -
RXDBUEST 0x03F74 RW 0 -
RXMTRL 0x05120 RW 0 -

# Transmit, 8.2.3.9
DMATXCTL 0x04A80 RW 0x81000004 0xFFFF0009
DTXTCPFLGL 0x04A88 RW 0x0FF60FF6 0x0FFF0FFF
DTXTCPFLGH 0x04A8C RW 0x00000F7F 0x00000FFF
DTXMXSZRQ 0x08100 RW 0x00000010 0x00000FFF
TDBAL 0x06000+0x40*128 RW 0 0xFFFFFF80
TDBAH 0x06004+0x40*128 RW 0 -
TDLEN 0x06008+0x40*128 RW 0 0x000FFF80
TDH 0x06010+0x40*128 RW* 0 0x0000FFFF moves; written only while the queue is disabled
TDT 0x06018+0x40*128 RW* 0 0x0000FFFF gives descriptors to the card
TXDCTL 0x06028+0x40*128 RW* 0 0x027F7F7F ENABLE (25) starts and stops; SWFLSH (26) is SC
TDWBAL 0x06038+0x40*128 RW 0 0xFFFFFFFD
TDWBAH 0x0603C+0x40*128 RW 0 -
TXPBSIZE 0x0CC00+4*8 RW 0x00028000@0 0x000FFC00
TXPBTHRESH 0x04950+4*8 RW 0x00000096@0 0x000003FF
MTQC 0x08120 RW 0 0x0000000F
TXDESCIC 0x082CC RW 0 -
TXLLQ 0x082E0+4*4 RW 0 -
TDHMPN2 0x082FC RW 0 -
PBTXECC 0x0C300 RW 0 -
TXBUFCTRL 0x0C600 RW 0 -
TXBUFDATA0 0x0C610 RW 0 -
TXBUFDATA1 0x0C614 RW 0 -
TXBUFDATA2 0x0C618 RW 0 -
TXBUFDATA3 0x0C61C RW 0 -
LBDRPEN 0x0CA00 RW 0 -
TIPG 0x0CB00 RW 0x00000003 0x000000FF
MNGTXMAP 0x0CD10 RW 0 -
TXDBUECC 0x0CF70 RW 0 -
TXDBUEST 0x0CF74 RW 0 -

# Traffic classes and rate limits, 8.2.3.10
RTRPCS 0x02430 RW 0 0x00000046
RTRUP2TC 0x03020 RW 0 0x00FFFFFF
RTRPT4C 0x02140+4*8 RW 0 0xC0FFFFFF
RTRPT4S 0x02160+4*8 RO 0 -
RTTDCS 0x04900 RW 0x00C00000 0x80C20053
RTTDQSEL 0x04904 RW* 0 0x0000007F chooses the queue of RTTDT1C, RTTDT1S, RTTBCNRC
RTTDT1C 0x04908 RW* 0 0x00003FFF one for each queue
RTTDT1S 0x0490C RO* 0 - one for each queue
RTTDT2C 0x04910+4*8 RW 0 0xC0FFFFFF
RTTDT2S 0x04930+4*8 RO 0 -
RTTBCNRM/RTTQCNRM 0x04980 RW 0 -
RTTBCNRC/RTTQCNRC 0x04984 RW* 0 0x80FFFFFF one for each queue
RTTBCNRS 0x04988 RW 0 -
RTTBCNRD 0x0498C RW 0 -
RTTDTECC 0x04990 RW 0 -
RTTBCNTG 0x04A90 RW 0 -
RTTBCNRTT 0x05150 RW 0 -
RTTBCNCR 0x08B00 RW 0 -
RTTBCNACH 0x08B04 RW 0 -
RTTBCNACL 0x08B08 RW 0 -
RTTBCNIDX 0x08B0C RW 0 -
RTTBCNCP 0x08B10 RW 0 -
RTFRTIMER 0x08B14 RO 0 -
RTTUP2TC 0x0C800 RW 0 0x00FFFFFF
RTTPCS 0x0CD00 RW 0 0xFFC00160
RTTPT2C 0x0CD20+4*8 RW 0 0xC0FFFFFF
RTTPT2S 0x0CD40+4*8 RO 0 -

# Flow director, 8.2.3.21
FDIRCTRL 0x0EE00 RW* 0 0xFF1F7FB3 a write makes the table: INIT_DONE (3) is set
FDIRSIPV6/FDIRSIPv6 0x0EE0C+4*3 RW 0 -
FDIRIPSA 0x0EE18 RW 0 -
FDIRIPDA 0x0EE1C RW 0 -
FDIRPORT 0x0EE20 RW 0 -
FDIRVLAN 0x0EE24 RW 0 -
FDIRHASH 0x0EE28 RW 0 -
FDIRCMD 0x0EE2C RW* 0 0xFFFFFFFC CMD (1:0) is SC
FDIRFREE 0x0EE38 RO 0x00008000 -
FDIRDIP4M 0x0EE3C RW 0 -
FDIRSIP4M 0x0EE40 RW 0 -
FDIRTCPM 0x0EE44 RW 0 -
FDIRUDPM 0x0EE48 RW 0 -
FDIRLEN 0x0EE4C RC 0 -
FDIRUSTAT 0x0EE50 RC 0 -
FDIRFSTAT 0x0EE54 RC 0 -
FDIRMATCH 0x0EE58 RC 0 -
FDIRMISS 0x0EE5C RC 0 -
FDIRHKEY 0x0EE68 RW 0x80000001 -
FDIRSKEY 0x0EE6C RW 0x80800101 -
FDIRM 0x0EE70 RW 0 0x0000007F
FDIRIP6M 0x0EE74 RW 0 -
FDIRSCTPM 0x0EE78 RW 0 -

# MAC, link, MDIO, 8.2.3.22
PCS1GCFIG 0x04200 RW 0 -
PCS1GLCTL 0x04208 RW 0 -
PCS1GLSTA 0x0420C RO* 0 - link state at 1G
PCS1GDBG0 0x04210 RW 0 -
PCS1GDBG1 0x04214 RW 0 -
PCS1GANA 0x04218 RW 0 -
PCS1GANLP 0x0421C RO 0 -
PCS1GANNP 0x04220 RW 0 -
PCS1GANLPNP 0x04224 RO 0 -
HLREG0 0x04240 RW 0x08000C03 0x18F38407
HLREG1 0x04244 RW 0 -
PAP 0x04248 RW 0x0000FFFF 0x000FFFFF
MACA 0x0424C RW 0 -
APAE 0x04250 RW 0 -
ARD 0x04254 RW 0 -
AIS 0x04258 RW 0 -
MSCA 0x0425C RW* 0 0xBFFFFFFF MDICMD (30) is SC: does the transaction
MSRWD 0x04260 RW* 0 0x0000FFFF 31:16 are what the last transaction read
MLADD 0x04264 RW 0 -
MAXFRS/MHADD 0x04268 RW 0x05EE0000 0xFFFF0000
TREG 0x0426C RW 0 -
PCSS1 0x04288 RO 0 -
PCSS2 0x0428C RO 0 -
XPCSS 0x04290 RO 0 -
MFLCN 0x04294 RW 0 0x0000000F
SERDESC 0x04298 RW 0 -
MACS 0x0429C RO 0 -
AUTOC 0x042A0 RW* 0xC0006000 0xFFFFEFFF E: 10G serial; AN_RESTART (12) is SC
LINKS 0x042A4 RO* 0 - link state
AUTOC2 0x042A8 RW 0x00020000 - E: SFI
AUTOC3 0x042AC RW 0 -
ANLP1 0x042B0 RO* 0 - 19:16 is not 0 after AUTOC.AN_RESTART
ANLP2 0x042B4 RO 0 -
MDFTC1 0x042B8 RW 0 -
MDFTC2 0x042C0 RW 0 -
MDFTFIFO1 0x042C4 RW 0 -
MDFTFIFO2 0x042C8 RW 0 -
MDFTS 0x042CC RW 0 -
MMNGC 0x042D0 RO 0 - the firmware's; MNG_VETO (0) is 0
ANLPNP1 0x042D4 RO 0 -
ANLPNP2 0x042D8 RO 0 -
KRPCSFC 0x042E0 RW 0 -
KRPCSS 0x042E4 RO 0 -
FECS1 0x042E8 RO 0 -
FECS2 0x042EC RO 0 -
SGMIIC 0x04314 RW 0 -
MPVC 0x04318 RW 0 -
LINKS2 0x04324 RO 0 -
CORECTL 0x14F00 RW 0 0x0001FFFF
SMADARCTL 0x14F10 RW 0 -

# Statistics, 8.2.3.23
CRCERRS 0x04000 RC 0 -
ILLERRC 0x04004 RC 0 -
ERRBC 0x04008 RC 0 -
MSPDC 0x04010 RC 0 -
MLFC 0x04034 RC 0 -
MRFC 0x04038 RC 0 -
RLEC 0x04040 RC 0 -
PRC64 0x0405C RC 0 -
PRC127 0x04060 RC 0 -
PRC255 0x04064 RC 0 -
PRC511 0x04068 RC 0 -
PRC1023 0x0406C RC 0 -
PRC1522 0x04070 RC 0 -
GPRC 0x04074 RC 0 -
BPRC 0x04078 RC 0 -
MPRC 0x0407C RC 0 -
GPTC 0x04080 RC 0 -
GORCL 0x04088 RC* 0 - pair
GORCH 0x0408C RC* 0 - pair
GOTCL 0x04090 RC* 0 - pair
GOTCH 0x04094 RC* 0 - pair
RUC 0x040A4 RC 0 -
RFC 0x040A8 RC 0 -
ROC 0x040AC RC 0 -
RJC 0x040B0 RC 0 -
MNGPRC 0x040B4 RC 0 -
MNGPDC 0x040B8 RC 0 -
MNGPTC 0x0CF90 RC 0 -
TORL 0x040C0 RC* 0 - pair
TORH 0x040C4 RC* 0 - pair
TPR 0x040D0 RC 0 -
TPT 0x040D4 RC 0 -
PTC64 0x040D8 RC 0 -
PTC127 0x040DC RC 0 -
PTC255 0x040E0 RC 0 -
PTC511 0x040E4 RC 0 -
PTC1023 0x040E8 RC 0 -
PTC1522 0x040EC RC 0 -
MPTC 0x040F0 RC 0 -
BPTC 0x040F4 RC 0 -
XEC 0x04120 RC 0 -
RXMPC/MPC 0x03FA0+4*8 RC 0 -
PXONTXC 0x03F00+4*8 RC 0 -
PXOFFTXC 0x03F20+4*8 RC 0 -
LXONTXC 0x03F60 RC 0 -
LXOFFTXC 0x03F68 RC 0 -
PXON2OFFCNT 0x03240+4*8 RC 0 -
PXONRXCNT 0x04140+4*8 RC 0 -
PXOFFRXCNT 0x04160+4*8 RC 0 -
LXONRXCNT 0x041A4 RC 0 -
LXOFFRXCNT 0x041A8 RC 0 -
RXNFGPC 0x041B0 RC 0 -
RXNFGBCL 0x041B4 RC* 0 - pair
RXNFGBCH 0x041B8 RC* 0 - pair
RXDSTATCTRL 0x02F40 RW 0 0x0000001F
RXDGPC 0x02F50 RC 0 -
RXDGBCL 0x02F54 RC* 0 - pair
RXDGBCH 0x02F58 RC* 0 - pair
RXDDGPC/RXDDPC 0x02F5C RC 0 -
RXDDGBCL 0x02F60 RC* 0 - pair
RXDDGBCH 0x02F64 RC* 0 - pair
RXLPBKGPC 0x02F68 RC 0 -
RXLPBKGBCL 0x02F6C RC* 0 - pair
RXLPBKGBCH 0x02F70 RC* 0 - pair
RXDLPBKGPC 0x02F74 RC 0 -
RXDLPBKGBCL 0x02F78 RC* 0 - pair
RXDLPBKGBCH 0x02F7C RC* 0 - pair
TXDGPC 0x087A0 RC 0 -
TXDGBCL 0x087A4 RC* 0 - pair
TXDGBCH 0x087A8 RC* 0 - pair
SSVPC 0x08780 RC 0 -
RQSMR 0x02300+4*32 RW 0 0x0F0F0F0F
TQSM/TQSMR 0x08600+4*32 RW 0 0x0F0F0F0F
QPRC 0x01030+0x40*16 RC 0 -
QBRC_L 0x01034+0x40*16 RC* 0 - pair
QBRC_H 0x01038+0x40*16 RC* 0 - pair
QPRDC 0x01430+0x40*16 RC 0 -
QPTC 0x08680+4*16=0x06030+0x40*16 RC 0 -
QBTC_L 0x08700+8*16 RC* 0 - pair
QBTC_H 0x08704+8*16 RC* 0 - pair

# Virtualisation, 8.2.3.27
PFVTCTL/VT_CTL 0x051B0 RW 0 0x60001F81
PFVFRE/VFRE 0x051E0+4*2 RW 0 -
PFVFTE/VFTE 0x08110+4*2 RW 0 -
PFVML2FLT/VMOLR 0x0F000+4*64 RW 0 0x1FC00000
PFVLVF/VLVF 0x0F100+4*64 RW 0 0x80000FFF
PFVLVFB/VLVFB 0x0F200+4*128 RW 0 -
PFUTA/UTA 0x0F400+4*128 RW 0 -
PFVMVIR/VMVIR 0x08000+4*64 RW 0 0xC000FFFF
PFVFSPOOF 0x08200+4*8 RW 0 0x0000FFFF
PFDTXGSWC 0x08220 RW 0 0x00000001
PFVMTXSW/VMTXSW 0x05180+4*2 RW 0 -
PFQDE/QDE 0x02F04 RW* 0 0x00007F03 WE (16) and RE (17) are SC: write or read the drop
    enable of queue 14:8
LVMMC 0x08108 RC 0 -
PFMRCTL/MRCTL 0x0F600+4*4 RW 0 0x00003F0F
PFMRVLAN/VMRVLAN 0x0F610+4*8 RW 0 -
PFMRVM/VMRVM 0x0F630+4*8 RW 0 -
PFMAILBOX 0x04B00+4*64 RW 0 0x0000001F
PFMBMEM 0x13000+4*1024 RW 0 - 16 of each mailbox
PFMBICR 0x00710+4*4 W1C 0 -
PFMBIMR 0x00720+4*4 RW 0 -
PFVFLRE/VFLRE 0x00600,0x001C0 RO 0 -
PFVFLREC/VFLREC 0x00700+4*2 W1C 0 -

# MACsec and IPsec, 8.2.3.12, 8.2.3.13
SECTXCTRL 0x08800 RW 0x00000001 0x00000007
SECTXSTAT 0x08804 RO* 0x00000002 - RDY (0) while SECTXCTRL.TX_DIS; OFF_DIS (1): there
    is no offload
SECTXBUFFAF 0x08808 RW 0x00000250 0x000003FF
SECTXMINIFG 0x08810 RW 0x00001001 0x0007FF0F
SECRXCTRL 0x08D00 RW 0x00000001 0x00000003
SECRXSTAT 0x08D04 RO* 0x00000002 - RDY (0) while SECRXCTRL.RX_DIS; OFF_DIS (1)
LSECTXCAP 0x08A00 RO 0 -
LSECTXCTRL 0x08A04 RW 0 -
LSECTXSCL 0x08A08 RW 0 -
LSECTXSCH 0x08A0C RW 0 -
LSECTXSA 0x08A10 RW 0 -
LSECTXPN0 0x08A14 RW 0 -
LSECTXPN1 0x08A18 RW 0 -
LSECTXKEY0 0x08A1C+4*4 RW 0 -
LSECTXKEY1 0x08A2C+4*4 RW 0 -
LSECTXUT 0x08A3C RC 0 -
LSECTXPKTE 0x08A40 RC 0 -
LSECTXPKTP 0x08A44 RC 0 -
LSECTXOCTE 0x08A48 RC 0 -
LSECTXOCTP 0x08A4C RC 0 -
LSECRXCAP 0x08F00 RO 0 -
LSECRXCTRL 0x08F04 RW 0 -
LSECRXSCL 0x08F08 RW 0 -
LSECRXSCH 0x08F0C RW 0 -
LSECRXSA 0x08F10+4*2 RW 0 -
LSECRXPN 0x08F18+4*2 RW 0 -
LSECRXKEY 0x08F20+4*8 RW 0 -
LSECRXUT 0x08F40 RC 0 -
LSECRXOCTD 0x08F44 RC 0 -
LSECRXOCTV 0x08F48 RC 0 -
LSECRXBAD 0x08F4C RC 0 -
LSECRXNOSCI 0x08F50 RC 0 -
LSECRXUNSCI 0x08F54 RC 0 -
LSECRXUNCH 0x08F58 RC 0 -
LSECRXDELAY 0x08F5C RC 0 -
LSECRXLATE 0x08F60 RC 0 -
LSECRXOK 0x08F64+4*2 RC 0 -
LSECRXINV 0x08F6C+4*2 RC 0 -
LSECRXNV 0x08F74+4*2 RC 0 -
LSECRXUNSA 0x08F7C RC 0 -
LSECRXNUSA 0x08F80 RC 0 -
IPSTXIDX 0x08900 RW 0 -
IPSTXSALT 0x08904 RW 0 -
IPSTXKEY 0x08908+4*4 RW 0 -
IPSRXIDX 0x08E00 RW 0 -
IPSRXIPADDR 0x08E04+4*4 RW 0 -
IPSRXSPI 0x08E14 RW 0 -
IPSRXIPIDX 0x08E18 RW 0 -
IPSRXKEY 0x08E1C+4*4 RW 0 -
IPSRXSALT 0x08E2C RW 0 -
IPSRXMOD 0x08E30 RW 0 -

# FCoE, 8.2.3.7, 8.2.3.23
FCPTRL 0x02410 RW 0 -
FCPTRH 0x02414 RW 0 -
FCBUFF 0x02418 RW 0 -
FCOERPDC 0x0241C RC 0 -
FCDMARW 0x02420 RW 0 -
FCLAST 0x02424 RC 0 -
FCOEPRC 0x02428 RC 0 -
FCOEDWRC 0x0242C RC 0 -
FCRXCTRL 0x05100 RW 0 -
FCFLT 0x05108 RW 0 -
FCSMAC 0x0510C RW 0 -
FCFLTRW 0x05110 RW 0 -
FCD_ID 0x05114 RW 0 -
FCCRC 0x05118 RC 0 -
FCPARAM 0x051D8 RW 0 -
FCOEPTC 0x08784 RC 0 -
FCOEDWTC 0x08788 RC 0 -
FCRECTL 0x0ED00 RW 0 -
FCRETA0 0x0ED10+4*8 RW 0 -
TEOFF 0x04A94 RW 0 -
TSOFF 0x04A98 RW 0 -
REOFF 0x05158 RW 0 -
RSOFF 0x051F8 RW 0 -

# Time stamps (IEEE 1588), 8.2.3.26
TSYNCRXCTL 0x05188 RW 0 0x0000001E
RXSATRL 0x051A0 RO 0 -
RXSATRH 0x051A8 RO 0 -
RXSTMPL 0x051E8 RO 0 -
RXSTMPH 0x051A4 RO 0 -
TSYNCTXCTL 0x08C00 RW 0 0x00000010
TXSTMPL 0x08C04 RO 0 -
TXSTMPH 0x08C08 RO 0 -
SYSTIML 0x08C0C RW 0 -
SYSTIMH 0x08C10 RW 0 -
TIMINCA 0x08C14 RW 0 -
TIMADJL 0x08C18 RW 0 -
TIMADJH 0x08C1C RW 0 -
TSAUXC 0x08C20 RW 0 -
TRGTTIML0 0x08C24 RW 0 -
TRGTTIMH0 0x08C28 RW 0 -
TRGTTIML1 0x08C2C RW 0 -
TRGTTIMH1 0x08C30 RW 0 -
CLKTIML 0x08C34 RW 0 -
CLKTIMH 0x08C38 RW 0 -
AUXSTMPL0 0x08C3C RO 0 -
AUXSTMPH0 0x08C40 RO 0 -
AUXSTMPL1 0x08C44 RO 0 -
AUXSTMPH1 0x08C48 RO 0 -

# Wake up and manageability, 8.2.3.24, 8.2.3.25
WUC 0x05800 RW 0 -
WUFC 0x05808 RW 0 0x003F80FF
WUS 0x05810 W1C 0 -
IPAV 0x05838 RW 0 -
IP4AT 0x05840+8*4 RW 0 -
IP6AT 0x05880+4*4 RW 0 -
WUPL 0x05900 RO 0 -
WUPM 0x05A00+4*32 RO 0 -
FHFT 0x09000+4*256 RW 0 - 64 of each filter
FHFT_EXT 0x09800+4*128 RW 0 - 64 of each filter
FTFT 0x09400+4*256 RW 0 -
MANC 0x05820 RW 0 -
MFVAL 0x05824 RW 0 -
MANC2H 0x05860 RW 0 -
MDEF 0x05890+4*8 RW 0 -
MDEF_EXT 0x05160+4*8 RW 0 -
METF 0x05190+4*4 RW 0 -
MIPAF 0x058B0+4*16 RW 0 -
MMAL 0x05910+8*4 RW 0 -
MMAH 0x05914+8*4 RW 0 -
MAVTV 0x05010+4*8 RW 0 -
MFUTP 0x05030+4*8 RW 0 -
BMCIP 0x05050+4*4 RW 0 -
BMCIPVAL 0x05060 RW 0 -
"""

#: Statistics of two registers: low half to high half.
PAIRS: Final = {
    "GORCL": "GORCH",
    "GOTCL": "GOTCH",
    "TORL": "TORH",
    "RXNFGBCL": "RXNFGBCH",
    "RXDGBCL": "RXDGBCH",
    "RXDDGBCL": "RXDDGBCH",
    "RXLPBKGBCL": "RXLPBKGBCH",
    "RXDLPBKGBCL": "RXDLPBKGBCH",
    "TXDGBCL": "TXDGBCH",
    "QBRC_L": "QBRC_H",
    "QBTC_L": "QBTC_H",
}

LINE = re.compile(
    r"(?P<names>\S+) (?P<where>[^\s=]+)(=(?P<also>\S+))? (?P<access>\w+)(?P<star>\*?)"
    r" (?P<reset>\w+)(?P<first>@0)? (?P<mask>\w+|-)( (?P<note>.+))?"
)
WHERE = re.compile(r"(?P<first>\w+)(\+(?P<stride>\w+)\*(?P<count>\d+))?")


@dataclass(frozen=True)
class Segment:
    """Elements of a register at equal distances."""

    first: int  # byte offset
    stride: int  # bytes
    count: int

    def offsets(self) -> range:
        """Return the byte offset of every element."""
        return range(self.first, self.first + self.stride * self.count, self.stride)


@dataclass(frozen=True)
class Register:
    """A register, or an array of registers that are alike.

    Args:
        name: the data sheet's.
        names: others in use, Linux's.
        segments: where it is; elements count through.
        aliases: where else elements 0 and on answer.
        access: "RW", "RO", "RC" or "W1C".
        special: it does something else or more; `note` says what.
        reset: value after a reset, of every element or of the first.
        reset_first: only element 0 has this value, the others 0.
        mask: bits that keep what is written; of W1C those that can be cleared.
        note: what is particular about it; may be empty.
    """

    name: str
    names: tuple[str, ...]
    segments: tuple[Segment, ...]
    aliases: tuple[Segment, ...]
    access: str
    special: bool
    reset: int
    reset_first: bool
    mask: int
    note: str

    def offsets(self) -> list[int]:
        """Return the byte offset of every element."""
        return [offset for segment in self.segments for offset in segment.offsets()]


def parse_where(text: str | None) -> tuple[Segment, ...]:
    """Return the segments that a table's column says."""
    return tuple(
        Segment(
            int(match["first"], 0),
            int(match["stride"] or "4", 0),
            int(match["count"] or 1),
        )
        for match in WHERE.finditer(text or "")
    )


def parse_line(line: str) -> Register:
    """Return the register of a line of the table."""
    match = LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"not a register: {line!r}")
    name, *names = match["names"].split("/")
    writable = 0xFFFFFFFF if match["access"] in {"RW", "W1C"} else 0
    return Register(
        name=name,
        names=tuple(names),
        segments=parse_where(match["where"]),
        aliases=parse_where(match["also"]),
        access=match["access"],
        special=bool(match["star"]),
        reset=int(match["reset"], 0),
        reset_first=bool(match["first"]),
        mask=writable if match["mask"] == "-" else int(match["mask"], 0),
        note=match["note"] or "",
    )


def parse_table(table: str) -> dict[str, Register]:
    """Return the registers of a table by name."""
    lines = re.sub(r"\n +", " ", table).splitlines()
    registers = map(parse_line, (x for x in lines if x and not x.startswith("#")))
    return {register.name: register for register in registers}


#: All registers by the data sheet's name.
REGISTERS: Final = parse_table(TABLE)
#: The data sheet's name of any name.
NAMES: Final = {
    name: register.name
    for register in REGISTERS.values()
    for name in (register.name, *register.names)
}


def make_aliases() -> list[int]:
    """Return, by offset // 4, the byte offset that really answers there."""
    flat = list(range(0, SIZE, 4))
    for register in REGISTERS.values():
        others = (at for segment in register.aliases for at in segment.offsets())
        for other, true in zip(others, register.offsets(), strict=False):
            flat[other // 4] = true
    return flat


#: By offset // 4, the byte offset of the register that answers there: itself, or for
#: another address of the same register that which access(), reset(), mask() know.
ALIASES: Final = make_aliases()


def offset(name: str, n: int = 0) -> int:
    """Return the byte offset of a register.

    Args:
        name: any of its names.
        n: element of an array.

    Raises:
        KeyError: no register is called so.
        IndexError: it has not so many elements.
    """
    register, left = REGISTERS[NAMES[name]], n
    for segment in register.segments:
        if 0 <= left < segment.count:
            return segment.first + segment.stride * left
        left -= segment.count
    raise IndexError(f"{name} has {len(register.offsets())} elements, not {n}")


@cache
def names_by_offset() -> dict[int, str]:
    """Return what to call the registers, by their byte offset, aliases left out."""
    return {
        at: f"{register.name}[{n}]" if len(register.offsets()) > 1 else register.name
        for register in REGISTERS.values()
        for n, at in enumerate(register.offsets())
    }


def name_at(at: int) -> str:
    """Return what to call a byte offset in a log: "RDT[3]", or "0x01234"."""
    true = ALIASES[at // 4] if 0 <= at < SIZE and at % 4 == 0 else at
    return names_by_offset().get(true, f"{at:#07x}")


def access() -> list[int]:
    """Return how each register answers, by offset // 4: ABSENT, RW, RO, RC or W1C."""
    flat = [ABSENT] * COUNT
    for register in REGISTERS.values():
        for at in register.offsets():
            flat[at // 4] = MODES[register.access]
    return flat


def answers() -> list[int]:
    """Return the same with the halves of pairs told apart: PAIR_LOW, PAIR_HIGH."""
    flat = access()
    for pair in PAIRS.items():
        for name, half in zip(pair, (PAIR_LOW, PAIR_HIGH), strict=True):
            for at in REGISTERS[name].offsets():
                flat[at // 4] = half
    return flat


def reset() -> list[int]:
    """Return the value after a reset, by offset // 4."""
    flat = [0] * COUNT
    for register in REGISTERS.values():
        offsets = register.offsets()
        for at in offsets[:1] if register.reset_first else offsets:
            flat[at // 4] = register.reset
    return flat


def mask() -> list[int]:
    """Return the bits that can be written, by offset // 4; of W1C cleared."""
    flat = [0] * COUNT
    for register in REGISTERS.values():
        for at in register.offsets():
            flat[at // 4] = register.mask
    return flat
