"""What is refused before anything is trained."""

import pytest


def test_an_unknown_architecture_is_refused_with_the_known_ones(run_experiment, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_experiment('train_surrogate', f'--workdir={tmp_path / "a"}', '--architecture=deep_sea')
    assert stop.value.code == 2 and 'deep_set' in capsys.readouterr().err
    assert not (tmp_path / 'a').exists()
