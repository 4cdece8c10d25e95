"""Results on pages: markdown tables between markers."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def markers(name: str) -> tuple[str, str]:
    """
    Say what surrounds a generated part of a page.

    :param name: of the part
    :return: what stands before it and after it
    """
    return f"<!-- {name}:start -->", f"<!-- {name}:end -->"


def update_page(file: Path, parts: Mapping[str, str]) -> None:
    """
    Replace what stands between the :func:`markers` of each part; a page keeps what has none.

    :param file: markdown
    :param parts: text by name
    """
    text = file.read_text(encoding="utf-8")
    for name, part in parts.items():
        start, end = markers(name)
        if start in text and end in text:
            before, _, rest = text.partition(start)
            text = f"{before}{start}\n{part}\n{end}{rest.partition(end)[2]}"
    file.write_text(text, encoding="utf-8")


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """
    Write a table.

    :param header: its columns
    :param body: its lines
    :return: markdown
    """
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ("---",) * len(header), *body))
