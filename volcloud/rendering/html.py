"""What is rendered for a terminal, as HTML for a notebook. Every word in it is escaped; colours stay."""

from __future__ import annotations

import io

from rich.console import RenderableType

from volcloud.screen import PIPE_WIDTH, Screen

_FORMAT = '<pre style="line-height:normal;overflow-x:auto">{code}</pre>'


def html(renderable: RenderableType) -> str:
    """Give a rendering as one ``pre`` element."""
    screen = Screen(record=True, file=io.StringIO(), width=PIPE_WIDTH)
    screen.print(renderable)
    return screen.export_html(inline_styles=True, code_format=_FORMAT)
