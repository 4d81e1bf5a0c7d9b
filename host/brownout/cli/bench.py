"""brownout bench: the figures that the project holds itself to, measured here."""

from __future__ import annotations

import click

from .common import json_option


@click.command()
@click.argument("names", nargs=-1)
@json_option
def bench(names: tuple[str, ...], as_json: bool) -> int:
    """Measure everything, or what NAMES name, and print it beside what it is compared to."""
    from ..bench import main

    return main(list(names), as_json)
