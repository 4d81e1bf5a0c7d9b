"""Stand-in for MicroPython's `network`: one access point, which lets in who knows its password, after some time."""

name = None


def hostname(new=None):
    global name
    if new is not None:
        name = new
    return name


class WLAN:
    IF_STA = 0
    PM_NONE = 0

    password = "secret"
    log = []
    _active = False
    _asked = -1  # times that isconnected was asked since an accepted connect; -1: none
    _address = ("0.0.0.0", "0.0.0.0", "0.0.0.0", "0.0.0.0")

    def __init__(self, interface=0):
        assert interface == WLAN.IF_STA

    def active(self, on=None):
        if on is not None:
            WLAN._active = on
        return WLAN._active

    def config(self, **settings):
        assert WLAN._active, "the interface is down"
        WLAN.log.append(settings)

    def connect(self, ssid, password):
        assert WLAN._active, "the interface is down"
        WLAN.log.append("connect " + ssid)
        WLAN._asked = 0 if password == WLAN.password else -1

    def disconnect(self):
        WLAN.log.append("disconnect")
        WLAN._asked = -1

    def isconnected(self):
        if WLAN._asked < 0:
            return False
        WLAN._asked += 1
        return WLAN._asked > 3

    def ifconfig(self, new=None):
        if new is not None:
            WLAN._address = new
        return WLAN._address
