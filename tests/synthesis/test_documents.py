"""Four kinds of files become text; passages cover it with spans that hold."""

import pytest

from metaft.errors import DataError
from metaft.synthesis import documents, passages

PAGE = """<?xml version="1.0"?><!DOCTYPE html><html><head><title>T</title><style>p {}</style></head><body>
<nav>Home | Blog</nav><main><h1>The  harbour</h1><p>It opened in <b>1903</b>
and is <i>old</i>.</p><ul><li>one</li><li>two &amp; three</li></ul>
<table><tr><th>year</th><td>1903</td></tr></table><script>var x = 1;</script></main>
<footer>imprint</footer></body></html>"""


def pdf(*lines):
    """The smallest PDF with a page of these lines."""
    text = ''.join(f'({line}) Tj 0 -14 Td\n' for line in lines)
    stream = f'BT /F1 12 Tf 72 720 Td\n{text}ET'
    bodies = [
        '<< /Type /Catalog /Pages 2 0 R >>',
        '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
        '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R '
        '/Resources << /Font << /F1 5 0 R >> >> >>',
        f'<< /Length {len(stream)} >>\nstream\n{stream}\nendstream',
        '<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>',
    ]
    found, places = '%PDF-1.4\n', []
    for number, body in enumerate(bodies, start=1):
        places.append(len(found))
        found += f'{number} 0 obj\n{body}\nendobj\n'
    table = ''.join(f'{place:010d} 00000 n \n' for place in places)
    start = len(found)
    found += f'xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n{table}'
    return (found + f'trailer << /Size {len(bodies) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n').encode()


def test_a_page_gives_its_main_part_by_paragraphs(tmp_path):
    (tmp_path / 'page.html').write_text(PAGE)
    assert documents.read_document(tmp_path / 'page.html') == (
        'The harbour\n\nIt opened in 1903 and is old.\n\none\n\ntwo & three\n\nyear 1903'
    )


def test_markdown_gives_its_words(tmp_path):
    (tmp_path / 'page.md').write_text(
        '---\ntitle: x\n---\n# The harbour\n\nIt *opened*\nin [1903](http://x).\n\n- a\n- b\n'
    )
    assert documents.read_document(tmp_path / 'page.md') == 'The harbour\n\nIt opened in 1903.\n\na\n\nb'


def test_pdf_lines_are_joined_and_cut_words_made_whole(tmp_path):
    (tmp_path / 'page.pdf').write_bytes(pdf('The harbour was op-', 'ened in 1903', 'by the town.'))
    assert documents.read_document(tmp_path / 'page.pdf') == 'The harbour was opened in 1903 by the town.'


def test_directories_are_searched_and_what_cannot_be_read_is_told(tmp_path):
    for name, content in {
        'a/one.txt': b'\xef\xbb\xbfOne.\r\n\r\nTwo.',
        'b/two.TXT': b'Other.',
        'b/again.txt': b'One.\n\nTwo.\n',
        'b/binary.txt': b'\xff\xfe\x00',
        'b/broken.pdf': b'%PDF-1.4 nothing',
        'b/scan.pdf': pdf(),
        'b/picture.png': b'x',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    read = documents.read_documents([tmp_path])
    assert [(d.name, d.text) for d in read.documents] == [('a/one.txt', 'One.\n\nTwo.'), ('b/two.TXT', 'Other.')]
    assert read.skipped.keys() == {'b/again.txt', 'b/binary.txt', 'b/broken.pdf', 'b/scan.pdf'}
    for name, told in (('binary.txt', 'not UTF-8'), ('broken.pdf', 'is damaged'), ('scan.pdf', 'no text')):
        assert told in read.skipped[f'b/{name}']
        with pytest.raises(DataError, match=told):  # named itself, it must be readable
            documents.read_documents([tmp_path / 'b' / name])


def test_what_is_no_document_is_named(tmp_path):
    (tmp_path / 'picture.png').write_bytes(b'x')
    for place, told in (
        ('gone.txt', 'there is no document'),
        ('picture.png', "unknown kind '.png'"),
        ('.', 'no document'),
    ):
        with pytest.raises(DataError, match=told):
            documents.read_documents([tmp_path / place])


@pytest.mark.parametrize('most', [80, 150, 1000])
def test_passages_cover_the_text_in_order_and_their_spans_hold(most):
    long = ' '.join(f'Sentence {n} has a few words.' for n in range(40))
    text = f'Title\n\nA first paragraph of some words.\n\n{long}\n \n{"x" * 400}\n\nEnd.'
    found = passages.cut(documents.Document('d', text), most)
    assert all(text[p.start : p.end] == p.text == p.text.strip() for p in found)
    assert all(a.end <= b.start and not text[a.end : b.start].strip() for a, b in zip(found, found[1:]))
    assert ''.join(''.join(p.text.split()) for p in found) == ''.join(text.split())
    assert max(len(p.text) for p in found) <= most + passages.MIN_CHARACTERS + 2
    assert found[0].text.startswith('Title\n\nA first') and found[-1].text.endswith('End.')
    if most == 150:
        assert sum(p.text.endswith('words.') for p in found) >= 7  # cut between sentences
