"""Makes links of names in backticks in docstrings, where the reference has an entry for them."""

import re
from typing import Any

import griffe

NAME = re.compile(r"(?<![`\w])`([A-Za-z]\w*(?:\.\w+)*)`(?!`)")


class CrossReferences(griffe.Extension):
    """Writes the links; autorefs drops those that lead nowhere."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite all docstrings of a package."""
        self._link(pkg)

    def _link(self, parent: griffe.Object) -> None:
        if parent.docstring:
            parent.docstring.value = NAME.sub(
                lambda match: _reference(parent, match[1]), parent.docstring.value
            )
        for member in parent.members.values():
            if isinstance(member, griffe.Object):
                self._link(member)


def _reference(scope: griffe.Object, name: str) -> str:
    try:
        path = name if name.startswith("fotmem.") else scope.resolve(name)
    except griffe.NameResolutionError:
        return f"`{name}`"
    return f'<autoref optional identifier="{path}"><code>{name}</code></autoref>'
