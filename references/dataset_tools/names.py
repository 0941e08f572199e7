"""Names of files and labels: in text files, on the disk, and to a reader's eye.

Inside the scripts a name is spelled as `os.listdir` would give it. That differs from its text where the locale's
encoding is not UTF-8: the bytes on the disk are UTF-8 under every locale.
"""

import os
import sys
import unicodedata

IS_UTF8 = sys.getfilesystemencoding() == "utf-8"


def to_name(text: str) -> str:
    """How the file system spells the name that is `text` in a JSON or another text file."""
    return text if IS_UTF8 or text.isascii() else os.fsdecode(text.encode("utf-8", "surrogateescape"))


def to_text(name: str) -> str:
    """The inverse of `to_name`: what a text file holds for a name. Bytes that are not UTF-8 are surrogates in it."""
    return name if IS_UTF8 or name.isascii() else os.fsencode(name).decode("utf-8", "surrogateescape")


def composed(name: str) -> str:
    """The text of a name in Unicode's composed form (NFC), whichever form the disk holds."""
    return unicodedata.normalize("NFC", to_text(name))


def folded(name: str) -> str:
    """The name without case and Unicode form: the same for names that are one name to macOS or Windows."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", to_text(name)).casefold())


def appearance(label: str) -> str:
    """The label without what is hard to see: case, spaces, `_`, Unicode form, invisible characters, a last dot."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKD", to_text(label)).casefold())
    seen = (character for character in text if character != "_" and not is_invisible(character))
    return "".join(seen).rstrip(".")


def is_invisible(character: str) -> bool:
    """Whether `character` is a space of any width, a control or format character, or a variation selector."""
    return (
        character.isspace()
        or unicodedata.category(character) in ("Cc", "Cf")
        or "\ufe00" <= character <= "\ufe0f"
        or character in "\u034f\u115f\u1160\u3164"  # letters and marks that have no glyph
    )
