"""Errors of the firmware, each saying what was wrong; none of them may escape `Node.receive`."""


class BrownoutError(Exception):
    """Base of every error that the firmware raises on purpose."""


class MessageError(BrownoutError):
    """Bytes from outside that are not a message of the schema. The text names the field or offset."""


class ConfigError(BrownoutError):
    """A board's configuration that cannot be used. The text names the key and what is allowed."""


class JournalError(BrownoutError):
    """The journal region cannot hold what was asked: full, worn, or a record that is too large."""
