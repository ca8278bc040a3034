"""What is refused before anything is trained."""

import pytest


@pytest.mark.parametrize(('flag', 'known'), [('--architecture=deep_sea', 'deep_set'), ('--head=bent', 'anchored')])
def test_an_unknown_network_is_refused_with_the_known_ones(flag, known, run_experiment, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_experiment('train_surrogate', f'--workdir={tmp_path / "a"}', flag)
    assert stop.value.code == 2 and known in capsys.readouterr().err
    assert not (tmp_path / 'a').exists()
