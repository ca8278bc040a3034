"""metaft/scaling/tables.py: tidy and wide tables, what is left out, and a sentence for what cannot be used."""

import numpy as np
import pandas as pd
import pytest

from metaft.errors import DataError
from metaft.scaling import tables
from metaft.scaling.tables import Columns

SIZES = [100, 200, 400, 800, 1600]


def write(tmp_path, table, name='t.csv'):
    path = tmp_path / name
    table.to_parquet(path) if path.suffix == '.parquet' else table.to_csv(path, index=False)
    return path


def tidy(**changes):
    return pd.DataFrame({'data_size': SIZES, 'loss': [5.0, 4.0, 3.5, 3.2, 3.0]} | changes)


@pytest.mark.parametrize('name', ['t.csv', 't.parquet'])
def test_a_tidy_table_gives_a_group_a_law(tmp_path, name):
    both = pd.concat([tidy().assign(method='lora', rank=8), tidy().assign(method='full', rank=8)])
    both = both.assign(model=np.tile([1e6, 4e6, 1e6, 4e6, 1e6], 2))
    columns = Columns(group='method', factors=('model',))
    groups, left_out = tables.read(write(tmp_path, both, name), columns)
    assert list(groups) == ['lora', 'full'] and left_out == tables.LeftOut(columns=('rank',))
    assert groups['full'].factors == ('model',) and groups['full'].factors_IX.ravel().tolist() == [
        1e6,
        4e6,
        1e6,
        4e6,
        1e6,
    ]
    assert groups['lora'].data_size_I.tolist() == SIZES


def test_other_columns_may_bear_the_names_used_inside(tmp_path):
    table = tidy(row=7, group='x').rename(columns={'loss': 'test_loss'}).assign(loss=0.0)
    groups, left_out = tables.read(write(tmp_path, table), Columns(loss='test_loss'))
    assert groups['all'].loss_I.tolist() == [5.0, 4.0, 3.5, 3.2, 3.0]
    assert set(left_out.columns) == {'row', 'group', 'loss'}


def test_a_wide_table_gives_a_row_a_law_and_counts_what_is_left_out(tmp_path):
    table = pd.DataFrame(
        {
            'name': ['a', 'b'],
            '0': [9.0, 8.0],
            '100': [5.0, 6.0],
            '200': [4.0, np.nan],
            '400': [3.0, 5.0],
            'size': [1, 2],
        }
    )
    groups, left_out = tables.read(write(tmp_path, table), Columns())
    assert groups['a'].loss_I.tolist() == [5.0, 4.0, 3.0] and groups['b'].data_size_I.tolist() == [100.0, 400.0]
    assert left_out == tables.LeftOut(size_zero=2, empty_cells=1, columns=('size',))


def test_repeats_with_another_loss_are_averaged(tmp_path):
    table = pd.concat([tidy(), tidy(loss=[5.2, 4.2, 3.7, 3.4, 3.2])])
    groups, _ = tables.read(write(tmp_path, table), Columns())
    np.testing.assert_allclose(groups['all'].loss_I, [5.1, 4.1, 3.6, 3.3, 3.1])
    assert groups['all'].repeats_I.tolist() == [2.0] * 5


@pytest.mark.parametrize(
    ('table', 'columns', 'sentence'),
    [
        (tidy().rename(columns={'loss': 'los'}), Columns(), "no column 'loss'; did you mean los?"),
        (tidy(), Columns(factors=('depth',)), "no column 'depth'; found are data_size, loss"),
        (tidy(data_size=[-100, 200, 400, 800, 1600]), Columns(), 'row 2 has data_size -100, a number of at least 0'),
        (tidy(loss=[5, 4, np.nan, 3, 2]), Columns(), 'row 4 has loss nan, a positive number is expected'),
        (tidy(loss=[5, 4, 3, 2, -1]), Columns(), 'row 6 has loss -1'),
        (tidy(loss=[5, 4, 3, 'x', 1]), Columns(), "row 5 has loss 'x', a number is expected"),
        (tidy(model=[1, 1, 0, 1, 1]), Columns(factors=('model',)), 'row 4 has model 0, a positive number'),
        (
            pd.concat([tidy(), tidy().tail(2)]),
            Columns(),
            r'row 7 repeats an earlier one, loss included \(2 such rows\)',
        ),
        (tidy(data_size=[1, 2, 1000, 2000, 4000]), Columns(), '1 to 2 and 1000 to 4000 overlap .* by 1000'),
        (tidy(data_size=0), Columns(), 'no measurement with a data size above 0'),
        (tidy().head(0), Columns(), 'has no rows'),
        (pd.DataFrame({'n': ['a', 'a'], '1': [2, 2], '2': [1, 1]}), Columns(), "n 'a' has more than one row"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path, table, columns, sentence):
    with pytest.raises(DataError, match=sentence):
        tables.read(write(tmp_path, table), columns)


def test_mixed_units_may_be_meant(tmp_path):
    path = write(tmp_path, tidy(data_size=[1, 2, 1000, 2000, 4000]))
    assert len(tables.read(path, Columns(), allow_mixed_units=True)[0]['all']) == 5


def test_a_missing_an_empty_and_a_broken_file_are_told(tmp_path):
    with pytest.raises(DataError, match='there is no table'):
        tables.read(tmp_path / 'no.csv', Columns())
    (tmp_path / 'empty.csv').write_text('')
    (tmp_path / 'broken.parquet').write_text('not parquet')
    for name in ('empty.csv', 'broken.parquet'):
        with pytest.raises(DataError, match='cannot be read as a table'):
            tables.read(tmp_path / name, Columns())
