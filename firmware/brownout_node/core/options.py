"""What stays of a board's configuration once config.py has checked it: attributes, and the options of protocols.

Protocols are loaded after that check, each with rows of its own. This file must not know any option.
"""

from .errors import ConfigError


def fail(key, value, allowed):
    raise ConfigError("%s: %s; allowed: %s" % (key, repr(value)[:60], allowed))


def number(key, value, least, most):
    """`value`, an integer within bounds."""
    if type(value) is not int or not least <= value <= most:
        fail(key, value, "integer, %d to %d" % (least, most))
    return value


def numbers(place, rows, table):
    """[(key, checked value), ..] of rows "key:default:least:most"; a row without a default has to be in `table`."""
    checked = []
    for row in rows.split():
        key, default, least, most = row.split(":")
        checked.append((key, number(place + key, table[key] if key in table else int(default), int(least), int(most))))
    return checked


class Options:
    """The checked configuration, as attributes. options: {protocol: {option: integer}}, not yet held to any rows."""

    options = {}

    def options_of(self, name, rows):
        """The options of protocol `name` as a dict; rows: its module's OPTIONS. ConfigError names what is wrong."""
        table = self.options.get(name, {})
        checked = dict(numbers("options." + name + ".", rows, table))
        for key in table:
            if key not in checked:
                fail("options." + name, key, " ".join(sorted(checked)))
        return checked
