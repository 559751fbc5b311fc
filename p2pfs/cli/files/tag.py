"""`p2pfs tag PATH [WORD...]`: words and a note that a file can be found by."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from p2pfs import exitcodes
from p2pfs.cli import asking
from p2pfs.cli.options import json_option
from p2pfs.cli.show import print_json
from p2pfs.errors import UserError
from p2pfs.runtime.terminal import printable


@click.command("tag")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("words", metavar="[WORD...]", nargs=-1)
@click.option("--remove", metavar="WORD", multiple=True, help="A tag to take away; may be repeated.")
@click.option("--note", metavar="TEXT", help="A note, whose words are found too; an empty one takes it away.")
@click.option("--content", "has_content", is_flag=True, help="Have the file found by its content (search --hash).")
@click.option("--reindex", is_flag=True, help="After index_names or index_prefixes of the volume was changed.")
@click.option("-r", "--recursive", "is_deep", is_flag=True, help="And everything below PATH.")
@click.option("--show", "shows", is_flag=True, help="Only show tags and note.")
@json_option
def command(
    path: Path,
    words: tuple[str, ...],
    remove: tuple[str, ...],
    note: str | None,
    has_content: bool,
    reindex: bool,
    is_deep: bool,
    shows: bool,
    as_json: bool,
) -> None:
    """Tag a file or directory with words that `p2pfs search` finds it by, or show its tags and note.

    Case and way of writing do not count; what is neither letter nor digit separates words. The pool sees no word, only
    that some files have one in common.

    \b
    Examples:
      p2pfs tag ~/papers/bill.pdf invoice 2026 --note 'paid in March'
      p2pfs tag -r ~/papers/2026 tax
      p2pfs tag ~/papers/bill.pdf --remove invoice
      p2pfs tag -r --content ~/photos
      p2pfs tag ~/papers/bill.pdf
    """
    changes = bool(words or remove or note is not None or has_content)
    if shows and (changes or reindex or is_deep):
        raise UserError("--show changes nothing: leave the rest away", exitcodes.USAGE)
    if reindex and changes:
        raise UserError("--reindex goes alone, or with -r", exitcodes.USAGE)
    if is_deep and not (changes or reindex):
        raise UserError("say what to do with everything below: words, --remove, --note, --content", exitcodes.USAGE)
    mounted, inode = asking.located(path)
    changed = None
    if reindex:
        changed = _followed(mounted.ask("tag reindex", inode=inode, deep=is_deep))
    elif changes:
        request = {"add": list(words), "remove": list(remove), "note": note, "content": has_content, "deep": is_deep}
        changed = _followed(mounted.ask("tag change", inode=inode, **request))
    (line,) = mounted.ask("tag show", inode=inode)
    _show(path, line, changed, as_json)


def _followed(lines: Iterator[dict[str, Any]]) -> int:
    """How many inodes it was in the end; a bar for who watches a terminal."""
    from p2pfs.cli import progress

    changed = 0
    with progress.counted_bar("tagging") as show:
        for line in lines:
            changed = line["changed"]
            show(changed, line["of"], line["read_bytes"])
    return changed


def _show(path: Path, label: dict[str, Any], changed: int | None, as_json: bool) -> None:
    if as_json:
        more = {} if changed is None else {"changed": changed}
        print_json({"path": str(path), **label, **more})
        return
    if changed is not None and changed != 1:
        click.echo(f"{changed} files and directories")
    click.echo(f"tags: {' '.join(printable(tag) for tag in label['tags']) or 'none'}")
    if label["note"]:
        click.echo(f"note: {printable(label['note'])}")
    if label["content"]:
        click.echo("found by its content")
