"""What differs between boards, behind one interface; `load()` gives the port of the platform that this runs on.

    port.name                         "unix", "esp32", "rp2"
    port.flash_region()               block device for the journal (extended protocol: offsets, ioctl 4, 5 and 6)
    port.reset_cause()                why this boot began, as text
    port.unique_id()                  bytes that no other board has
    port.entropy()                    24 random bits
    await port.connect_network(c)     returns once the network of config `c` is there; may be asked again and again
    port.watchdog(timeout_ms)         starts it (0: none); returns the function that feeds it
    port.console()                    bytes in and out of the cable without waiting; see common.Console
    port.firmware_files()             names of the firmware's files on this board's file system, sorted
    port.power_off()                  as near to losing its supply as the board can come by itself; does not return
    port.release()                    give console and watchdog back, when the prompt takes over

Must not be imported by core.
"""

import sys


def load():
    name = "unix" if sys.platform in ("linux", "darwin") else sys.platform
    return __import__("brownout_node.ports." + name, None, None, ("Port",)).Port()
