"""Reads measurements from a table into groups of points, one law a group; says what it left out.

Tidy: a row a measurement, columns for the loss, the data size, other sizes (factors) and the group. Wide: a row a law,
columns whose names are data sizes. CSV and Parquet alike.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from metaft.errors import DataError
from metaft.scaling import points as points_lib
from metaft.scaling.points import Points

_MIN_WIDE_COLUMNS = 2
_UNIT_FACTORS = (1e3, 1e6, 1e9)
_UNIT_GAP = 100.0  # sizes this far apart, with nothing between, may be in different units


@dataclasses.dataclass(frozen=True)
class Columns:
    """Where a tidy table holds what."""

    loss: str = 'loss'
    data_size: str = 'data_size'
    factors: tuple[str, ...] = ()
    group: str | None = None


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """What was read and not used, counted and named.

    Attributes:
      size_zero: measurements without finetuning, for which a power law has no value.
      empty_cells: cells of a wide table with nothing in them.
      columns: names of columns that no one asked for.
    """

    size_zero: int = 0
    empty_cells: int = 0
    columns: tuple[str, ...] = ()


def read(path: Path, columns: Columns, allow_mixed_units: bool = False) -> tuple[dict[str, Points], LeftOut]:
    """Returns the points of every group by name, in the order of the table, and what was left out.

    Args:
      path: a CSV file, or Parquet by its ending.
      columns: of a tidy table; of a wide one (two columns or more whose names are numbers) only `group` is used.
      allow_mixed_units: accepts sizes that look like thousands among ones.

    Raises:
      DataError: the file, its columns or its values cannot be used.
    """
    table = _read_table(path)
    sizes = {name: size for name in table.columns if (size := _as_number(name)) is not None}
    rows, left_out = (
        _from_wide(table, sizes, columns, path) if len(sizes) >= _MIN_WIDE_COLUMNS else _from_tidy(table, columns, path)
    )
    names = list(columns.factors) if len(sizes) < _MIN_WIDE_COLUMNS else []
    _check_values(rows, ['data_size', *names], path)
    used = rows[rows['data_size'] > 0]
    if used.empty:
        raise DataError(f'{path}: no measurement with a data size above 0')
    if not allow_mixed_units:
        for name in ['data_size', *names]:
            _check_units(np.unique(used[name]), columns.data_size if name == 'data_size' else name, path)
    groups = {
        str(group): points_lib.make(part['loss'], part['data_size'], [part[name] for name in names], names)
        for group, part in used.groupby('group', sort=False)
    }
    return groups, dataclasses.replace(left_out, size_zero=len(rows) - len(used))


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f'there is no table {path}')
    try:
        table = pd.read_parquet(path) if path.suffix == '.parquet' else pd.read_csv(path)
    except (ValueError, OSError) as error:  # what pandas and pyarrow raise for a broken or empty file
        raise DataError(f'{path} cannot be read as a table: {" ".join(str(error).split())}') from None
    if table.empty:
        raise DataError(f'{path} has no rows')
    return table.rename(columns=str)


def _as_number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None


def _from_wide(
    table: pd.DataFrame, sizes: dict[str, float], columns: Columns, path: Path
) -> tuple[pd.DataFrame, LeftOut]:
    others = [name for name in table.columns if name not in sizes]
    group = columns.group or next((name for name in others if not pd.api.types.is_numeric_dtype(table[name])), None)
    if group is not None:
        _require(table, [group], path)
        twice = table.loc[table[group].duplicated(), group]
        if len(twice):
            raise DataError(f'{path}: {group} {twice.iloc[0]!r} has more than one row; a wide table has one row a law')
    names = table[group] if group is not None else [f'row {number + 1}' for number in range(len(table))]
    long = table[list(sizes)].set_axis(list(sizes.values()), axis=1).assign(group=list(names))
    long = long.melt('group', var_name='data_size', value_name='loss')
    long['row'] = np.tile(np.arange(len(table)) + 2, len(sizes))
    long = _numeric(long, ['data_size', 'loss'], path)
    present = long.dropna(subset='loss')
    unused = tuple(name for name in others if name != group)
    in_order = present.sort_values(['row', 'data_size'], kind='stable')
    return in_order, LeftOut(empty_cells=len(long) - len(present), columns=unused)


def _from_tidy(table: pd.DataFrame, columns: Columns, path: Path) -> tuple[pd.DataFrame, LeftOut]:
    group = [columns.group] if columns.group else []
    wanted = [columns.loss, columns.data_size, *columns.factors, *group]
    _require(table, wanted, path)
    names = [columns.loss, columns.data_size, *columns.factors]
    rows = _numeric(table[wanted].assign(row=np.arange(len(table)) + 2), names, path)
    twice = rows[rows.duplicated(subset=wanted)]
    if len(twice):
        raise DataError(
            f'{path}: row {twice["row"].iloc[0]} repeats an earlier one, loss included ({len(twice)} such rows); '
            f'measurements with another seed differ in their loss, so remove the copies'
        )
    rows['group'] = rows[columns.group].astype(str) if columns.group else 'all'
    unused = tuple(name for name in table.columns if name not in wanted)
    return rows.rename(columns={columns.loss: 'loss', columns.data_size: 'data_size'}), LeftOut(columns=unused)


def _require(table: pd.DataFrame, wanted: Sequence[str], path: Path) -> None:
    for name in wanted:
        if name not in table.columns:
            near = difflib.get_close_matches(name, table.columns, n=1)
            hint = f'did you mean {near[0]}?' if near else f'found are {", ".join(table.columns)}'
            raise DataError(f'{path} has no column {name!r}; {hint}')


def _numeric(table: pd.DataFrame, names: Sequence[str], path: Path) -> pd.DataFrame:
    for name in names:
        numbers = pd.to_numeric(table[name], errors='coerce')
        broken = table[numbers.isna() & table[name].notna()]
        if len(broken):
            raise DataError(
                f'{path}: row {broken["row"].iloc[0]} has {name} {broken[name].iloc[0]!r}, a number is expected'
            )
        table = table.assign(**{name: numbers.astype(np.float64)})
    return table


def _check_values(rows: pd.DataFrame, sizes: Sequence[str], path: Path) -> None:
    tests = [('loss', ~np.isfinite(rows['loss']) | (rows['loss'] <= 0), 'a positive number')]
    tests += [('data_size', ~np.isfinite(rows['data_size']) | (rows['data_size'] < 0), 'a number of at least 0')]
    tests += [(name, ~np.isfinite(rows[name]) | (rows[name] <= 0), 'a positive number') for name in sizes[1:]]
    for name, wrong, wanted in tests:
        if wrong.any():
            first = rows[wrong].iloc[0]
            raise DataError(
                f'{path}: row {first["row"]:.0f} has {name} {first[name]:g}, {wanted} is expected '
                f'({wrong.sum()} such values)'
            )


def _check_units(sizes: np.ndarray, name: str, path: Path) -> None:
    """Refuses sizes that fall into two far clusters of which the lower one, in other units, covers the upper one."""
    for split in np.flatnonzero(sizes[1:] / sizes[:-1] >= _UNIT_GAP) + 1:
        low, high = sizes[:split], sizes[split:]
        for factor in _UNIT_FACTORS:
            if low[0] * factor <= high[-1] and high[0] <= low[-1] * factor:
                raise DataError(
                    f'{path}: {name} seems to mix units: {low[0]:g} to {low[-1]:g} and {high[0]:g} to {high[-1]:g} '
                    f'overlap after multiplying the first by {factor:g}; use one unit, or --allow_mixed_units '
                    f'if it is meant'
                )
