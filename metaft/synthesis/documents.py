"""Files to plain text: text, Markdown, HTML and PDF, by the libraries that know the formats.

Character spans of passages count in the text that is made here.
"""

import dataclasses
import io
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from metaft.errors import DataError

_NOT_CONTENT = ('head', 'script', 'style', 'noscript', 'template', 'nav', 'footer', 'aside', 'form', 'button', 'svg')
_BLOCKS = ('address article blockquote dd div dl dt figcaption figure h1 h2 h3 h4 h5 h6 header hr li main ol p pre '
           'section table tr ul').split()  # fmt: skip
_FRONT_MATTER = re.compile(r'\A---\n.*?\n---\n', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Document:
    """A file's plain text, paragraphs set apart by blank lines; `name` is unique among those read together."""

    name: str
    text: str


class Documents(NamedTuple):
    """What was read, and the files of directories that could not be, with the reason."""

    documents: list[Document]
    skipped: dict[str, str]


def read_documents(places: Sequence[str | os.PathLike[str]]) -> Documents:
    """Reads files and whole directories.

    Args:
      places: files, and directories that are searched to any depth for files with one of the suffixes of READERS.

    Returns:
      The documents in the order of their names. A file that a directory holds and that cannot be read is skipped.

    Raises:
      DataError: a place does not exist, a file that is named itself cannot be read, or no document is left.
    """
    texts: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for place in map(Path, places):
        if not place.exists():
            raise DataError(f'there is no document {place}; give files or directories')
        files = sorted(p for p in place.rglob('*') if p.is_file()) if place.is_dir() else [place]
        for file in files:
            if place.is_dir() and file.suffix.lower() not in READERS:
                continue
            name = file.relative_to(place).as_posix() if place.is_dir() else file.name
            name = file.as_posix() if name in texts else name
            try:
                text = read_document(file)
            except DataError as error:
                if not place.is_dir():
                    raise
                skipped[name] = str(error)
                continue
            twin = next((other for other, known in texts.items() if known == text), None)
            if twin is None:
                texts[name] = text
            else:
                skipped[name] = f'it has the same text as {twin}'
    if not texts:
        why = f' ({next(iter(skipped.values()))})' if skipped else ''
        raise DataError(f'no document in {", ".join(map(str, places))}{why}; give files with {", ".join(READERS)}')
    return Documents([Document(name, text) for name, text in sorted(texts.items())], skipped)


def read_document(path: str | os.PathLike[str]) -> str:
    """Returns a file's text.

    Raises:
      DataError: it cannot be read, is of an unknown kind, is damaged, or holds no text.
    """
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise DataError(f'{path} is of unknown kind {path.suffix!r}; allowed are {", ".join(READERS)}')
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f'document {path} cannot be read ({error.strerror})') from None
    try:
        text = READERS[path.suffix.lower()](content)
    except UnicodeDecodeError as error:
        raise DataError(f'document {path} is not UTF-8 text (byte {error.start}); save it as UTF-8') from None
    except ValueError as error:
        raise DataError(f'document {path} is damaged or locked ({error}); mend it or take it out') from error
    text = text.encode(errors='replace').decode()  # half characters, which PDF files hold, cannot be written
    if not text:
        raise DataError(f'document {path} holds no text (a scan?); take it out, or put its text into a .txt file')
    return text


def _plain(content: bytes) -> str:
    return content.decode('utf-8-sig').replace('\r\n', '\n').replace('\r', '\n').strip()


def _markdown(content: bytes) -> str:
    from markdown_it import MarkdownIt

    return _html(MarkdownIt('commonmark').enable('table').render(_FRONT_MATTER.sub('', _plain(content))))


def _html(content: bytes | str) -> str:
    """Takes the text of a page's main part; each block becomes a paragraph."""
    import bs4

    with warnings.catch_warnings():  # XHTML reads well as HTML, and a page of one word is no file name
        warnings.simplefilter('ignore')
        page = bs4.BeautifulSoup(content, 'html.parser')
    for node in page(_NOT_CONTENT):
        node.decompose()
    main = page.find('main') or page.body or page
    for node in main.find_all(_BLOCKS):
        node.insert_before('\n\n')
        node.insert_after('\n\n')
    for node in main.find_all(('td', 'th', 'br')):
        node.insert_after(' ')
    return _paragraphs(main.get_text())


def _pdf(content: bytes) -> str:
    """Joins the pages' text; a line's end is no paragraph's end, and words cut there are made whole."""
    import pypdf

    try:
        pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages]
    except Exception as error:  # its faults on damaged files are of many types, told in one sentence by the caller
        raise ValueError(f'{type(error).__name__}: {error}') from error
    return _paragraphs('\n\n'.join(re.sub(r'(?<=[a-z])-\n(?=[a-z])', '', page) for page in pages))


def _paragraphs(text: str) -> str:
    """Sets paragraphs apart by one blank line, each with single spaces."""
    return '\n\n'.join(filter(None, (' '.join(part.split()) for part in re.split(r'\n[^\S\n]*\n', text))))


READERS: dict[str, Callable[[bytes], str]] = {
    '.txt': _plain,
    '.md': _markdown,
    '.markdown': _markdown,
    '.html': _html,
    '.htm': _html,
    '.pdf': _pdf,
}
