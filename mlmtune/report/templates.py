"""Templates of pages, and their style sheet.

They are read when the modules that use them are imported: a report that ends a run of days is of
the version that began it, even if mlmtune was installed again meanwhile.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

STYLE = Markup(files(__package__).joinpath("report.css").read_text(encoding="utf-8"))


def read_template(
    package: str, name: str, filters: Mapping[str, Callable[..., Any]], *, escapes: bool
) -> Template:
    """Read a template of a package. With `escapes`, it is HTML, and values are escaped."""
    # StrictUndefined, because a misspelt field would otherwise be an empty cell.
    environment = Environment(
        autoescape=escapes, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters
    return environment.from_string(files(package).joinpath(name).read_text(encoding="utf-8"))
