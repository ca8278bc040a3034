"""What does the finetuned model answer? Answers questions with a base model and, if given, an adapter on it.

    launch/local.sh generate --model=DIR --adapter=runs/mine/adapter --questions=questions.jsonl
    launch/local.sh generate --adapter=runs/mine/adapter            # asks at the terminal; an empty line ends

A questions file has a JSON object a line with a string `question`, optionally `context`, `id` and `answer`. Answers are
printed, or written to --output, as JSON lines that repeat the question's fields beside `generated`; where the file has
answers, exact match, token F1, ROUGE-L, BLEU and chrF are told at the end. The adapter is a LoRA, a DoRA or a soft
prompt in PEFT's format; a fully tuned or merged model is a --model of its own. Cost: loading and one compilation
(seconds), then one batch after another.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import program
from experiments.program import setting
from metaft.errors import DataError, InputError

ASSETS = Path(__file__).resolve().parent.parent / 'metaft' / 'assets'


@dataclasses.dataclass(frozen=True)
class Settings:
    model: str = setting(str(ASSETS / 'phi3_tiny'), 'directory or Hugging Face id of a Phi-3')
    adapter: Path | None = setting(None, 'directory of a LoRA or soft prompt in PEFT format; the bare model if empty')
    questions: Path | None = setting(None, 'JSON lines with question; the terminal if empty')
    output: Path | None = setting(None, 'where JSON lines with the answers go; standard output if empty')
    max_new_tokens: int = setting(48, 'the longest answer', unit='tokens')
    temperature: float = setting(0.0, '0 takes the most probable token, above 0 tokens are drawn')
    batch_size: int = setting(32, 'questions answered together')
    dtype: str | None = setting(
        None,
        'of the base; float32 on a CPU and bfloat16 on an accelerator if empty',
        choices=('float32', 'bfloat16'),
    )
    quantize: str | None = setting(None, 'store the base in 8 bits', choices=('int8',))
    seed: int = setting(0, 'of drawn tokens')

    def __post_init__(self):
        for name in ('max_new_tokens', 'batch_size'):
            if getattr(self, name) < 1:
                raise InputError(f'--{name} is {getattr(self, name)}; it must be at least 1')
        if not 0 <= self.temperature < float('inf'):
            raise InputError(f'--temperature is {self.temperature}; it must be 0 or a positive number')
        if self.output is not None and self.questions is None:
            raise InputError('--output needs --questions; answers at the terminal are printed')


def main(settings: Settings) -> None:
    """Answers the questions of a file, or those that are typed."""
    rows = None if settings.questions is None else read_questions(settings.questions)
    answer = answerer(settings)
    if rows is None:
        ask(answer)
        return
    answers = []
    for start in range(0, len(rows), settings.batch_size):
        answers += answer(rows[start : start + settings.batch_size], f'{settings.questions}', start)
    records = [row | {'generated': text} for row, text in zip(rows, answers, strict=True)]
    lines = ''.join(json.dumps(record, ensure_ascii=False) + '\n' for record in records)
    if settings.output is None:
        print(lines, end='')
    else:
        write(settings.output, lines)
    told = [record for record in records if 'answer' in record]
    if told:
        tell_scores([record['generated'] for record in told], [record['answer'].strip() for record in told])


def tell_scores(answers: Sequence[str], references: Sequence[str]) -> None:
    """Prints how near the answers come to the references, beside the answers themselves."""
    from metaft.tasks.text_metrics import text_metrics

    found = text_metrics(answers, references)
    right, num = round(found['exact_match'] * len(answers)), len(answers)
    print(
        f'exact match: {right} of {num} ({right / num:.3f}); token F1 {found["token_f1"]:.3f}, ROUGE-L '
        f'{found["rouge_l"]:.3f} (of 1); BLEU {found["bleu"]:.1f}, chrF {found["chrf"]:.1f} (of 100)',
        file=sys.stderr,
    )


def answerer(settings: Settings) -> Callable[[Sequence[dict], str, int], list[str]]:
    """Loads model, tokenizer and adapter; returns the function from rows (their file and first row) to answers.

    Raises:
      ModelError: the model or the adapter cannot be used, or do not fit each other.
    """
    import jax

    from metaft.adapters import dora, lora, peft
    from metaft.finetune.memory import loading
    from metaft.phi3 import generate, load_pretrained
    from metaft.phi3.casting import base_dtype
    from metaft.phi3.hub import model_directory
    from metaft.tasks.dataset import Example
    from metaft.tasks.prompts import encode_prompts
    from metaft.tasks.tokenizer import load_tokenizer, stop_ids

    directory = model_directory(settings.model)
    tokenizer = load_tokenizer(directory)
    dtype = base_dtype(settings.dtype)
    with loading(directory, dtype=dtype, quantize=settings.quantize):
        model = load_pretrained(directory, dtype, quantize=settings.quantize)
    prefix_PD = None
    if settings.adapter is not None:
        read = peft.load(settings.adapter, model.config)
        if read.method in ('lora', 'dora'):
            one = jax.tree.map(lambda leaf: leaf[None], (read.adapter, read.settings))  # a population of one
            model = (dora if read.method == 'dora' else lora).adapt(model, *one)
        else:
            prefix_PD = read.adapter['prompt_embeddings']
    soft = 0 if prefix_PD is None else prefix_PD.shape[0]
    room = model.config.max_position_embeddings - settings.max_new_tokens - soft

    def answer(rows: Sequence[dict], source: str, first: int) -> list[str]:
        examples = [Example(row['question'], '', row.get('context') or '') for row in rows]
        prompts = encode_prompts(examples, tokenizer)
        for number, prompt in enumerate(prompts, start=first + 1):
            if len(prompt) > room:
                raise DataError(
                    f'question {number} of {source} has {len(prompt)} tokens, with --max_new_tokens='
                    f'{settings.max_new_tokens} at most {max(room, 0)} fit into the model; shorten it'
                )
        key = jax.random.fold_in(jax.random.key(settings.seed), first)
        tokens = generate(
            model,
            prompts,
            max_new_tokens=settings.max_new_tokens,
            stop_ids=stop_ids(tokenizer),
            temperature=settings.temperature,
            key=key if settings.temperature > 0 else None,
            prefix_PD=prefix_PD,
        )
        return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    return answer


def ask(answer: Callable[[Sequence[dict], str, int], list[str]]) -> None:
    """Answers what is typed until an empty line or the end of the input."""
    for number in range(sys.maxsize):
        try:
            question = input('question> ' if sys.stdin.isatty() else '').strip()
        except EOFError:
            return
        if not question:
            return
        print(answer([{'question': question}], 'the terminal', number)[0], flush=True)


def read_questions(path: Path) -> list[dict]:
    """Reads JSON lines whose objects have a string `question`; other fields are kept.

    Raises:
      DataError: the file cannot be read or is empty, or a row is not such an object.
    """
    try:
        lines = path.read_text(encoding='utf-8-sig').split('\n')
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'questions file {path} cannot be read ({error}); give the path of a JSON-lines file') from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f'{path}, row {number} is broken JSON ({error}); give one JSON object a line') from None
        texts = [row.get(name) for name in ('question', 'context', 'answer')] if isinstance(row, dict) else [None]
        if not isinstance(texts[0], str) or not texts[0].strip() or not all(isinstance(t, str | None) for t in texts):
            raise DataError(f'{path}, row {number} is no object with a question (all texts are strings): {line:.60}')
        rows.append({name: value for name, value in row.items() if value is not None})
    if not rows:
        raise DataError(f'questions file {path} is empty; give one JSON object with a question a line')
    return rows


def write(path: Path, text: str) -> None:
    """Writes the answers.

    Raises:
      DataError: the place cannot be written.
    """
    try:
        path.write_text(text, encoding='utf-8')
    except OSError as error:
        raise DataError(f'--output {path} cannot be written ({error.strerror}); give another place') from None


if __name__ == '__main__':
    program.run(main, Settings)
