"""HMAC-SHA256 (RFC 2104, RFC 4231) per recipient: who sent a message, to whom, and that nothing in it was changed.

Two boards share each key, so a seal convinces its recipient and nobody else: no board can show a third one what it was
sent. A seal covers recipient, sender, cluster, kind and every field; replays are for the protocol to make harmless. The
row of a sealed kind ends with `mac:b`. This file must not send, and must not know what a message means.
"""

from hashlib import sha256

try:
    from micropython import const
except ImportError:
    const = int

from . import codec
from .errors import ConfigError, MessageError

_MAC_BYTES = const(16)  # of the 32 that HMAC-SHA256 gives, as RFC 2104 allows
_BLOCK_BYTES = const(64)  # of SHA-256


class Seal:
    """What `config.keys` can seal and open."""

    def __init__(self, config):
        self._config = config
        self._pads = {}  # board -> what goes before the text and before its hash
        for row in config.roster:
            if row[0] != config.board and row[0] not in config.keys:
                raise ConfigError("keys: none for board %d; give each pair of boards one" % row[0])
        for board in config.keys:
            key = config.keys[board] + bytes(_BLOCK_BYTES - 32)
            self._pads[board] = (bytes([byte ^ 0x36 for byte in key]), bytes([byte ^ 0x5C for byte in key]))

    def close(self, to, kind, fields):
        """`fields` (those before the seal) with the seal for board `to`."""
        fields = tuple(fields)
        return fields + (self._mac(to, self._config.board, to, kind, fields),)

    def open(self, source, kind, fields):
        """The fields before the seal, if `source` sent them to this board."""
        if source not in self._pads or fields[-1] != self._mac(source, source, self._config.board, kind, fields[:-1]):
            raise MessageError("kind %d: the seal is not board %d's" % (kind, source))
        return fields[:-1]

    def _mac(self, peer, source, to, kind, fields):
        # Over the recipient and the message as it would be without boot, sequence and seal.
        text = codec.encode_message(self._config.cluster, source, 0, 0, kind, fields + (b"",))
        inner, outer = self._pads[peer]
        return sha256(outer + sha256(inner + codec.pack("u", (to,)) + text).digest()).digest()[:_MAC_BYTES]
