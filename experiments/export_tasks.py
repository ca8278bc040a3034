"""What does each task of the catalogue hold? Writes its JSON lines, a `datasets` directory and a datasheet.

    launch/local.sh export_tasks --workdir=runs/tasks
    launch/local.sh export_tasks --workdir=runs/tasks --datasets=recall_job_16,rule_team_96

In --workdir a folder a task: train, validation and test.jsonl; hugging_face/, which `datasets.load_from_disk` and
`tune --train=` read; datasheet.md with counts, knobs, licence and examples. The same on every machine. Cost: about two
seconds a task.
"""

import dataclasses
from pathlib import Path

from experiments import program
from experiments.program import setting
from metaft.errors import InputError

LICENCE = 'CC0 1.0: made by the code of metaft from a seed, free for any use'


@dataclasses.dataclass(frozen=True)
class Settings:
    workdir: Path = setting(Path('runs/tasks'), 'where the folders go')
    datasets: tuple[str, ...] = setting((), 'names of the catalogue; all of it if empty')


def main(settings: Settings) -> None:
    """Write one folder a task."""
    import datasets
    from rich.progress import track

    from metaft.tasks import catalogue
    from metaft.tasks.dataset import save_to_disk, write_json_lines
    from metaft.tasks.datasheet import datasheet

    names = settings.datasets or catalogue.names()
    unknown = sorted(set(names) - set(catalogue.names()))
    if unknown:
        raise InputError(f'--datasets names {unknown[0]!r}; allowed: {", ".join(catalogue.names())}')
    workdir = program.prepare_workdir(settings.workdir, settings, ())
    datasets.disable_progress_bars()  # one a split; ours is one a task
    for name in track(names, description='tasks'):
        dataset, directory = catalogue.make(name), workdir / name
        directory.mkdir(exist_ok=True)
        for split in ('train', 'validation', 'test'):
            write_json_lines(directory / f'{split}.jsonl', getattr(dataset, split))
        save_to_disk(dataset, directory / 'hugging_face')
        held_out = name in catalogue.HELD_OUT
        sheet = datasheet(
            dataset,
            made='A dataset of the synthetic world (metaft/tasks/synthetic.py says what the knobs mean).',
            knobs=catalogue.knobs(name),
            licence=LICENCE,
            notes=['Held out: no design decision may look at results on it.'] if held_out else [],
        )
        program.write_text(directory / 'datasheet.md', sheet)
    print(f'wrote {len(names)} tasks to {workdir}')


if __name__ == '__main__':
    program.run(main, Settings)
