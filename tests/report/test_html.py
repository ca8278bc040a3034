"""The page holds everything it shows, fetches nothing, and says what the data say."""

import base64
import html.parser
import re

import pytest

from metaft.errors import WorkdirError
from metaft.report import archive
from metaft.report import html as report_html
from metaft.report.data import Outcome
from metaft.search.observations import Observations
from tests.report.examples import FRACTIONS_T, report_data

VOID = {'meta', 'img', 'br', 'link', 'input', 'hr'}


class Page(html.parser.HTMLParser):
    """Reads a page: its text, its addresses, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.text, self.tables = [], [], [], 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tables += tag == 'table'
        self.addresses += [value for name, value in attrs if name in ('src', 'href', 'action', 'srcset', 'data')]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f'</{tag}> closes something else'

    def handle_data(self, data):
        if self.open and self.open[-1] != 'style':
            self.text.append(data)


@pytest.fixture(scope='module')
def rendered():
    return report_html.render(report_data())


def test_the_page_is_well_formed_and_fetches_nothing(rendered):
    page = Page(rendered)
    assert page.open == [] and page.tables >= 6
    assert len(page.addresses) == 3 and all(address.startswith('data:image/png;base64,') for address in page.addresses)
    without_images = re.sub(r'base64,[A-Za-z0-9+/=]+', '', rendered)
    assert not re.search(r'https?://|//[a-z]|@import|url\(|<script|<link', without_images)
    for address in page.addresses:
        assert base64.b64decode(address.partition(',')[2]).startswith(b'\x89PNG')
    assert len(rendered) < 2_000_000


def test_the_page_says_what_was_asked_found_and_run(rendered):
    text = ' '.join(' '.join(Page(rendered).text).split())
    for wanted in (
        'Finetune with LoRA, rank 8, learning rate 1e-4, batch 8 for 512 steps',
        'The search started 6 runs of 40 candidates, 1 of which diverged,',
        'museum.jsonl, 80 questions <of a person>',
        'outside of what the surrogate has seen',
        '--budget_seconds=24',
        'metaft 0.1.0',
    ):
        assert wanted in text, wanted
    for state in ('incumbent', 'frozen', 'diverged'):
        assert f'class="state {state}"' in rendered


@pytest.mark.parametrize(
    'changes',
    [
        {
            'incumbent': None,
            'default': None,
            'next_suggestion': None,
            'warnings': (),
            'next_command': '',
            'observations': Observations.empty(40, FRACTIONS_T, 3.1),
        },
        {'metric': 'exact_match', 'default': None},
    ],
)
def test_a_job_without_results_and_another_metric_have_a_page_too(changes):
    page = Page(report_html.render(report_data(**changes)))
    assert page.open == [] and not any(part.strip() in ('None', 'nan') for part in page.text)


def test_scaling_laws_are_told_of_only_where_there_are_some(rendered):
    assert 'id="scaling"' not in rendered
    page = report_html.render(report_data(scaling=('Twice the data would change the loss by -0.1.',)))
    assert 'More data, or a larger model' in page and 'Twice the data would change the loss by -0.1.' in page


def test_the_page_can_be_made_again_from_the_workdir(tmp_path, rendered):
    data = report_data()
    archive.save(tmp_path / 'report.npz', data)
    again = archive.load(tmp_path / 'report.npz')
    assert again.incumbent == data.incumbent and isinstance(again.incumbent, Outcome)
    report_html.write(tmp_path / 'report.html', again)
    assert (tmp_path / 'report.html').read_text() == rendered
    (tmp_path / 'other.npz').write_bytes(b'nothing')
    with pytest.raises(WorkdirError, match='holds no report'):
        archive.load(tmp_path / 'other.npz')
