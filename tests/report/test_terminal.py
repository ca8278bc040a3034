"""The terminal: the same facts live and as plain lines."""

import io

from rich.console import Console

from metaft.report import wording
from metaft.report.terminal import Terminal
from metaft.search.observations import Observations, Suggestion
from tests.report.examples import FRACTIONS_T, report_data


def plain(width=120):
    file = io.StringIO()
    return Terminal(Console(file=file, width=width, highlight=False)), file


def test_without_a_terminal_a_search_is_a_few_plain_lines():
    terminal, file = plain()
    data, observations = report_data(), Observations.empty(40, FRACTIONS_T, 3.1)
    with terminal.search(100.0, data.configurations, observations) as view:
        view.update(observations, 0.0, [Suggestion(3, 2)])
        for k in range(40):  # forty measurements; the incumbent gets better twice, one run diverges
            value = 2.0 if k == 10 else 1.5 if k == 20 else float('nan') if k == 30 else 2.5
            observations = observations.observe(k, 0, value, 1.0)
            view.update(observations, 1.0 + k, [Suggestion((k + 1) % 40, 2)])
    lines = file.getvalue().splitlines()
    assert 5 <= len(lines) <= 12 and not any('\x1b' in line for line in lines)
    assert 'incumbent none yet' in lines[0] and 'advancing 3 to 1/32' in lines[0]
    assert 'incumbent 1.50 by 20 at 1/64' in lines[-1] and '1 diverged' in lines[-1] and lines[-1].startswith('40 of 1')


def test_on_a_terminal_it_is_redrawn_and_shows_the_time_left():
    file = io.StringIO()
    terminal = Terminal(Console(file=file, force_terminal=True, width=120, highlight=False))
    data = report_data()
    with terminal.search(120.0, data.configurations, data.observations) as view:
        view.update(data.observations, 60.0, [Suggestion(1, 6)])
        drawn = io.StringIO()
        Console(file=drawn, width=120).print(view)
    for wanted in ('left', 'incumbent', 'advancing', '1 to 1/8, from 1/16', '3 frozen, 1 finished, 1 diverged'):
        assert wanted in drawn.getvalue(), wanted
    assert '\x1b' in file.getvalue()


def test_the_ranking_and_the_results_are_tables():
    terminal, file = plain()
    data = report_data()
    terminal.ranking(data.ranking, 'loss', num=5)
    terminal.results({'found': data.incumbent, 'default': None, 'no finetuning': data.zero_shot})
    lines = file.getvalue().splitlines()
    assert lines[0].startswith('Zero-shot ranking of 40 configurations: validation loss')
    assert lines[2].split()[:2] == ['1', '0.600'] and 'lora' in lines[2] and '8' in lines[2].split()
    assert sum(line.startswith(('found', 'no finetuning')) for line in lines) == 2
    assert not any(line.startswith('default') for line in lines)


def test_a_portfolio_is_in_the_order_of_its_choice_with_what_it_promises():
    terminal, file = plain()
    data = report_data()
    terminal.portfolio(data.portfolio, 'loss')
    lines = file.getvalue().splitlines()
    assert lines[0].startswith('To run 3 of them') and 'best so far' in lines[1]
    assert [line.split()[0] for line in lines[2:]] == [str(place) for place in data.portfolio['place']]


def test_a_budget_of_flops_is_shown_in_flops():
    terminal, file = plain()
    data = report_data(unit='flops', budget=2e12, spent=1.5e12)
    with terminal.search(2e12, data.configurations, data.observations, 'flops') as view:
        view.update(data.observations, 1.5e12)
    assert file.getvalue().startswith('1.5e12 of 2.0e12\xa0FLOPs') and 'FLOPs' in ' '.join(wording.answer(data))


def test_text_is_never_read_as_markup():
    terminal, file = plain()
    terminal.say('a [red]file[/red] [x]')
    terminal.warn('[bold]careful')
    terminal.meta_features({'log_examples': 6.25, 'missing': None}, seconds=0.5)
    text = file.getvalue()
    assert 'a [red]file[/red] [x]' in text and 'warning: [bold]careful' in text
    assert '6.25' in text and '–' in text
