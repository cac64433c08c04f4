"""What QEMU or libvirt is told of a port: how its virtual machine gets at it."""

from xml.etree import ElementTree as ET

from snabb_py.virtio.nfv_config import PortConfig

#: Of a virtual machine: a Virtio card of n queue pairs has 2 n + 2 interrupts.
OTHER_VECTORS = 2


def _comma(value: str) -> str:
    """Return a value as QEMU's options have it: a comma in it is doubled."""
    return value.replace(",", ",,")


def features(port: PortConfig) -> dict[str, str]:
    """Return the properties of the card that say what it is not to have."""
    names = {
        "mrg_rxbuf": port.disable_mrg_rxbuf,
        "indirect_desc": port.disable_indirect_desc,
    }
    return {name: "off" for name, is_off in names.items() if is_off}


def qemu_arguments(
    port: PortConfig, path: str, *, is_server: bool, memory: str, has_mgmt: bool
) -> list[list[str]]:
    """Return QEMU's arguments, those that belong together in one list.

    Args:
        port: of the virtual machine.
        path: of its socket.
        is_server: we make it, and QEMU connects.
        memory: size, as QEMU has it.
        has_mgmt: a card of user networking comes with it.
    """
    mode = "reconnect-ms=1000" if is_server else "server=on,wait=off"
    netdev = "vhost-user,id=net0,chardev=char0"
    device = {"netdev": "net0"}
    if port.macs:
        device["mac"] = port.macs[0]
    if port.queues > 1:
        netdev += f",queues={port.queues}"
        device["mq"] = "on"
        device["vectors"] = str(2 * port.queues + OTHER_VECTORS)
    if port.mtu is not None:
        device["host_mtu"] = str(port.mtu)
    device |= features(port)
    card = ",".join(f"{key}={value}" for key, value in device.items())
    groups = [
        ["-machine", "q35,memory-backend=mem", "-m", memory],
        ["-object", f"memory-backend-memfd,id=mem,size={memory},share=on"],
        ["-chardev", f"socket,id=char0,path={_comma(path)},{mode}"],
        ["-netdev", netdev],
        ["-device", f"virtio-net-pci,{card}"],
    ]
    if has_mgmt:
        groups.append(["-netdev", "user,id=mgmt", "-device"])
        groups[-1].append("virtio-net-pci,netdev=mgmt")
    return groups


def libvirt_xml(
    port: PortConfig, path: str, *, is_server: bool, has_mgmt: bool
) -> list[str]:
    """Return the elements of a domain, memory and each card.

    The arguments are those of `qemu_arguments`.
    """
    memory = ET.Element("memoryBacking")
    ET.SubElement(memory, "source", type="memfd")
    ET.SubElement(memory, "access", mode="shared")
    card = ET.Element("interface", type="vhostuser")
    if port.macs:
        ET.SubElement(card, "mac", address=port.macs[0])
    mode = "client" if is_server else "server"
    source = ET.SubElement(card, "source", type="unix", path=path, mode=mode)
    if is_server:
        ET.SubElement(source, "reconnect", enabled="yes", timeout="1")
    ET.SubElement(card, "model", type="virtio")
    if port.mtu is not None:
        ET.SubElement(card, "mtu", size=str(port.mtu))
    # Of indirect descriptors libvirt has no word.
    if port.queues > 1 or port.disable_mrg_rxbuf:
        driver = ET.SubElement(card, "driver")
        if port.queues > 1:
            driver.set("queues", str(port.queues))
        if port.disable_mrg_rxbuf:
            ET.SubElement(driver, "host", mrg_rxbuf="off")
    elements = [memory, card]
    if has_mgmt:
        mgmt = ET.Element("interface", type="user")
        ET.SubElement(mgmt, "model", type="virtio")
        elements.append(mgmt)
    for element in elements:
        ET.indent(element)
    return [ET.tostring(element, encoding="unicode") for element in elements]
