"""HMAC-SHA256 (RFC 2104, RFC 4231) per recipient: who sent a message, to whom, and that nothing in it was changed.

Two boards share each key, so a seal convinces its recipient and nobody else: no board can show a third one what it was
sent. A seal covers cluster, sender, recipient, kind and every field; replays are for the protocol to make harmless.
A row of MESSAGES that is sealed ends with `mac:b`. This file must not send, and must not know what a message means.
"""

from hashlib import sha256

from . import codec
from .errors import ConfigError, MessageError

MAC_BYTES = 16  # of the 32 that HMAC-SHA256 gives, as RFC 2104 allows
_BLOCK_BYTES = 64  # of SHA-256


class Seal:
    """messages: rows as in schema.py; those that end with `mac:b` are sealed."""

    def __init__(self, config, messages):
        self._config = config
        self._pads = {}
        self._specs = {}
        for row in config.roster:
            board = row[0]
            if board != config.board and board not in config.keys:
                raise ConfigError("keys: none for board %d; give each pair of boards one" % board)
        for board in config.keys:
            key = config.keys[board] + bytes(_BLOCK_BYTES - 32)
            self._pads[board] = (bytes([byte ^ 0x36 for byte in key]), bytes([byte ^ 0x5C for byte in key]))
        for row in messages:
            fields = row[2].split()
            if fields[-1] == "mac:b":
                self._specs[row[0]] = "uuuu" + "".join([field.split(":")[1] for field in fields[:-1]])

    def covers(self, kind):
        return kind in self._specs

    def close(self, to, kind, fields):
        """`fields` (those before the seal) with the seal for board `to`."""
        fields = tuple(fields)
        return fields + (self._mac(to, self._config.board, to, kind, fields),)

    def open(self, source, kind, fields):
        """The fields before the seal, if `source` sent them to this board."""
        pads = self._pads.get(source)
        if pads is None or fields[-1] != self._mac(source, source, self._config.board, kind, fields[:-1]):
            raise MessageError("kind %d: the seal is not board %d's" % (kind, source))
        return fields[:-1]

    def _mac(self, peer, source, to, kind, fields):
        inner, outer = self._pads[peer]
        text = codec.pack(self._specs[kind], (self._config.cluster, source, to, kind) + fields)
        return sha256(outer + sha256(inner + text).digest()).digest()[:MAC_BYTES]
