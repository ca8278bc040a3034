"""Which questions do my documents answer? Text, Markdown, HTML and PDF become question-answer splits that `tune` reads.

    launch/local.sh synthesize_qa --documents=manuals/ --generator=openai --generator_model=gpt-4.1-mini
    launch/local.sh synthesize_qa --documents=a.pdf,notes/ --generator=openai --base_url=http://localhost:8000/v1 \\
        --generator_model=NAME --workdir=runs/manuals         # vLLM, llama.cpp and the like
    launch/local.sh synthesize_qa --documents=manuals/ --generator=DIR_OF_A_PHI3

A generating model is asked once about each passage; each answer is on the disk before the next is waited for, so the
same command goes on after an interruption, and asks only for what is new when documents are added. Every example is
checked (supported by its passage, not given away by its question, understandable alone, nothing asked twice) and keeps
its span. In --workdir: train, validation and test.jsonl, split by document; rejects.json with reasons; datasheet.md;
the documents' text, in which the spans count; answers.jsonl. The key of an endpoint is read from OPENAI_API_KEY. Cost:
a request a passage (about 600 tokens in, 200 out, at the defaults).
"""

import dataclasses
import json
import typing
from collections import Counter
from pathlib import Path

from experiments import program
from experiments.program import REQUIRED, setting
from metaft.errors import DataError, InputError
from metaft.synthesis.endpoint import RESPONSE_FORMATS

if typing.TYPE_CHECKING:
    from metaft.synthesis.answers import Answer, Model
    from metaft.synthesis.documents import Documents
    from metaft.synthesis.passages import Passage
    from metaft.synthesis.splitting import SourcedExample, Splits


@dataclasses.dataclass(frozen=True)
class Settings:
    documents: tuple[Path, ...] = setting(REQUIRED, 'files and directories of text, Markdown, HTML and PDF')
    generator: str = setting(
        REQUIRED, "'openai' for an OpenAI-compatible endpoint, or the directory or Hugging Face id of a Phi-3"
    )
    generator_model: str = setting('', "the model's name at the endpoint")
    base_url: str = setting('', "the endpoint, mostly ending in /v1; OpenAI's own if empty")
    workdir: Path = setting(Path('runs/synthesize_qa'), 'where splits and answers go')
    questions_per_passage: int = setting(4, 'examples asked for at most')
    passage_characters: int = setting(1500, 'the longest passage', unit='characters')
    with_context: bool = setting(False, 'write the passage beside each question: reading instead of knowing')
    duplicate_similarity: float = setting(0.8, 'shared words from which two examples are the same (Jaccard)')
    licence: str = setting("as the documents'", 'of the examples, told in the datasheet')
    temperature: float | None = setting(None, "of the generating model; the endpoint's own (a Phi-3: 0) if empty")
    max_new_tokens: int = setting(1024, 'the longest answer of the generating model', unit='tokens')
    response_format: str = setting(
        'schema', 'what the endpoint is asked for; less where it knows no JSON schemas', choices=tuple(RESPONSE_FORMATS)
    )
    concurrency: int = setting(4, 'requests in flight at an endpoint')
    timeout_seconds: float = setting(120.0, 'of a request to an endpoint', unit='seconds')
    max_retries: int = setting(4, 'of a request that met 429, 5xx or a time-out, waiting longer each time')
    batch_size: int = setting(8, 'passages that a Phi-3 answers together')
    seed: int = setting(0, 'of the split, and of what a Phi-3 draws')

    def __post_init__(self):
        for name in ('questions_per_passage', 'max_new_tokens', 'concurrency', 'batch_size'):
            if getattr(self, name) < 1:
                raise InputError(f'--{name} is {getattr(self, name)}; it must be at least 1')
        if self.passage_characters < 80:
            raise InputError(f'--passage_characters is {self.passage_characters}; it must be at least 80')
        if not 0 < self.duplicate_similarity <= 1:
            raise InputError(f'--duplicate_similarity is {self.duplicate_similarity}; it must be above 0, at most 1')
        if not self.timeout_seconds > 0 or self.max_retries < 0:
            raise InputError('--timeout_seconds must be above 0 and --max_retries at least 0')
        if self.temperature is not None and not 0 <= self.temperature < float('inf'):
            raise InputError(f'--temperature is {self.temperature}; it must be 0 or a positive number')
        if self.generator == 'openai' and not self.generator_model:
            raise InputError('--generator=openai needs --generator_model, the name of the model at the endpoint')


def main(settings: Settings) -> None:
    """Read, ask, check, split and write."""
    from metaft import journal
    from metaft.synthesis import passages
    from metaft.synthesis.documents import read_documents

    read = read_documents(settings.documents)
    workdir = program.prepare_workdir(settings.workdir, settings, ())
    for name, reason in read.skipped.items():
        print(f'skipped {name}: {reason}')
    cut = [p for document in read.documents for p in passages.cut(document, settings.passage_characters)]
    unique = list({p.text: p for p in cut}.values())  # what stands in many documents is asked about once
    print(f'{len(read.documents)} documents, {len(unique)} different passages')
    generator = make_generator(settings)
    with journal.sole_writer(workdir / 'answers.jsonl'):
        answers, failed = ask(settings, unique, generator)
    good, rejects = check(settings, unique, generator.name, answers)
    try:
        found = split(settings, read, good, rejects)
    finally:
        counts = Counter(reject['reason'] for reject in rejects)
        record = {'counts': dict(counts.most_common()), 'failed_requests': Counter(failed.values()), 'rejects': rejects}
        program.write_json(workdir / 'rejects.json', record)
        rejected = ', '.join(f'{reason} {count}' for reason, count in counts.most_common()) or 'none'
        print(f'rejected: {rejected} (rejects.json)')
        if failed:
            print(f'{len(failed)} passages got no answer ({next(iter(failed.values()))}); the same command asks again')
    write(settings, read, found, counts, generator.name)


def make_generator(settings: Settings) -> 'Model':
    """Return the generating model that the flags name."""
    if settings.generator == 'openai':
        from metaft.synthesis.endpoint import Endpoint

        return Endpoint(
            settings.generator_model,
            settings.base_url or None,
            concurrency=settings.concurrency,
            timeout_seconds=settings.timeout_seconds,
            max_retries=settings.max_retries,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            response_format=settings.response_format,
        )
    from metaft.phi3.hub import model_directory
    from metaft.synthesis.local import LocalModel

    return LocalModel(
        model_directory(settings.generator),
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
    )


def ask(settings: Settings, unique: list['Passage'], generator: 'Model') -> tuple[dict[str, 'Answer'], dict]:
    """Ask about what was not asked before, showing progress and the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from metaft.synthesis import answers

    path, num = settings.workdir / 'answers.jsonl', settings.questions_per_passage
    known = answers.read_answers(path)
    done = sum(answers.key_of(p, generator.name, num) in known for p in unique)
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task('passages asked', total=len(unique), completed=done)
        return answers.gather(path, unique, generator, num, lambda outcome: progress.advance(bar))


def check(
    settings: Settings, unique: list['Passage'], generator_name: str, answers: dict[str, 'Answer']
) -> tuple[list['SourcedExample'], list[dict]]:
    """Return the good examples, and what was rejected with its reason."""
    from metaft.synthesis import checks, prompting
    from metaft.synthesis.answers import key_of
    from metaft.synthesis.splitting import SourcedExample

    good: list[SourcedExample] = []
    rejects: list[dict] = []
    for passage in unique:
        answer = answers.get(key_of(passage, generator_name, settings.questions_per_passage))
        if answer is None:
            continue
        source = (passage.document, passage.start, passage.end)
        span = dict(zip(('document', 'start', 'end'), source))
        try:
            told = {'refused': 'refused', 'length': 'truncated'}.get(answer.finish)
            pairs = [] if told else prompting.parse(answer.text)
            told = told or (None if pairs else 'nothing')
            detail = answer.text[:200]
        except prompting.MalformedError as error:
            pairs, told, detail = [], 'malformed', f'{error}: {answer.text[:200]}'
        if told:
            rejects.append({'reason': told, **span, 'detail': detail})
        for question, text in pairs:
            told = checks.reason_to_reject(question, text, passage.text)
            if told:
                rejects.append({'reason': told, **span, 'question': question, 'answer': text})
            else:
                good.append(SourcedExample(question, text, passage.text, *source))
    return good, rejects


def split(settings: Settings, read: 'Documents', good: list['SourcedExample'], rejects: list[dict]) -> 'Splits':
    """Split the good examples; repetitions are added to the rejects."""
    from metaft.synthesis import splitting

    if not good:
        raise DataError(
            'no example passed the checks; rejects.json in the workdir says why: try a stronger generating model'
        )
    found = splitting.split(good, read.documents, similarity=settings.duplicate_similarity, seed=settings.seed)
    for e in found.duplicates:
        span = {'document': e.document, 'start': e.start, 'end': e.end}
        rejects.append({'reason': 'duplicate', **span, 'question': e.question, 'answer': e.answer})
    return found


def write(settings: Settings, read: 'Documents', found: 'Splits', counts: Counter, generator_name: str) -> None:
    """Write splits, the documents' text and the datasheet."""
    from metaft.synthesis import checks
    from metaft.tasks.dataset import load_dataset
    from metaft.tasks.datasheet import datasheet

    workdir = settings.workdir
    texts = ''.join(json.dumps(dataclasses.asdict(document)) + '\n' for document in read.documents)
    program.write_text(workdir / 'documents.jsonl', texts)
    for name, part in found.examples.items():
        rows = [row(e, settings.with_context) for e in part]
        lines = ''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in rows)
        program.write_text(workdir / f'{name}.jsonl', lines)
    paths = [workdir / f'{name}.jsonl' for name in found.examples]
    dataset = dataclasses.replace(load_dataset(*paths), name=workdir.name)
    why = (
        ''
        if found.unit == 'document'
        else ' There were too few documents to split those: a test question may be '
        'about a document that training questions are about, though never about the same passage.'
    )
    rejected = [f'- {reason} ({checks.REASONS[reason]}): {count}' for reason, count in counts.most_common()]
    knobs = {name: getattr(settings, name) for name in
             ('questions_per_passage', 'passage_characters', 'with_context', 'duplicate_similarity', 'temperature',
              'seed')}  # fmt: skip
    sheet = datasheet(
        dataset,
        made=f'Written by the generating model {generator_name} about passages of {len(read.documents)} documents, '
        f'checked by rules, split by {found.unit}.{why}',
        knobs=knobs,
        licence=settings.licence,
        notes=['Rejected examples or passages:\n\n' + '\n'.join(rejected)] if rejected else [],
    )
    program.write_text(workdir / 'datasheet.md', sheet)
    sizes = ', '.join(f'{len(part):,} {name}' for name, part in found.examples.items())
    print(f'wrote {sizes} examples, split by {found.unit}.{why}')
    flags = ' '.join(f'--{name}={workdir / name}.jsonl' for name in found.examples)
    print(f'next: launch/local.sh tune {flags}')


def row(example: 'SourcedExample', with_context: bool) -> dict:
    """Return an example as it is written: `tune` reads question, answer, context and id, the span says its source."""
    record = {'id': example.id, 'question': example.question, 'answer': example.answer}
    context = {'context': example.context} if with_context else {}
    return record | context | {'document': example.document, 'start': example.start, 'end': example.end}


if __name__ == '__main__':
    program.run(main, Settings)
