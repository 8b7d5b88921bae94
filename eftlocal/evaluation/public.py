"""Public benchmarks' files: what tells each by its fields, and how a line becomes items.

How they are asked follows lm-evaluation-harness and llama-perplexity. Completions of a text (HellaSwag, Winogrande,
PIQA) are raw: every model gets the text as it is, and the completion follows with the space before it. Questions
(GSM8K, TruthfulQA, ARC, MMLU, IFEval) go through the models' views, as in a chat, without examples before them.

GSM8K        the likelihood is that of the worked answer; a generated one is right by its last number
TruthfulQA   MC1: the best answer against the false ones; MC2: all true against all false. Two items, two sources
HellaSwag    the harness's text: "activity: context", without the artefacts of WikiHow
Winogrande   two contexts with an option each; what follows the blank is the completion (partial evaluation)
PIQA         "Question: goal", "Answer:" as in the harness
ARC          the question alone; the choices' texts are the completions. OpenBookQA and CommonsenseQA have this form
MMLU         the choices stand below the question; their letters are the completions
IFEval       generated only, and judged by its own checks
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypedDict, cast

from eftlocal.emulation import from_json
from eftlocal.emulation.from_json import kind
from eftlocal.emulation.prompts import Prompt, Raw
from eftlocal.errors import EftError
from eftlocal.evaluation import ifeval
from eftlocal.evaluation.checks import last_number
from eftlocal.evaluation.fields import LETTERS, Fields, listed, place, prompt, text, texts
from eftlocal.evaluation.items import Check, Choices, Item, Question

__all__ = ["FORMATS", "Format", "Marks", "hellaswag"]


class Marks(TypedDict):
    """What each item of a line has of it."""

    where: str
    source: str
    kind: str | None


class Format(NamedTuple):
    """A benchmark's form: its name, what tells it, and how its lines are read."""

    name: str
    tells: Callable[[Fields], bool]
    read: Callable[[Marks, Fields], tuple[Item, ...]]


def _has(*names: str) -> Callable[[Fields], bool]:
    return lambda fields: all(name in fields for name in names)


# --- generated --------------------------------------------------------------------------------------------------------


def _is_gsm8k(fields: Fields) -> bool:
    answer = fields.get("answer")
    return "question" in fields and isinstance(answer, str) and "####" in answer


def _gsm8k(marks: Marks, fields: Fields) -> tuple[Item, ...]:
    asked, answer = prompt(fields, "question"), text(fields, "answer")
    _, given, final = answer.rpartition("####")
    if not given or last_number(final) is None:
        raise EftError("the answer does not end with #### and a number")
    return (Question(**marks, prompt=asked, answers=(answer,), check=Check("number")),)


def _ifeval(marks: Marks, fields: Fields) -> tuple[Item, ...]:
    names, arguments = texts(fields, "instruction_id_list"), fields.get("kwargs")
    if not isinstance(arguments, list) or not all(isinstance(each, dict) for each in arguments):
        raise EftError(f"kwargs is {kind(arguments)}; it must be a list of objects, one for each instruction")
    if len(arguments) != len(names):
        raise EftError(f"has {len(names)} instructions and {len(arguments)} kwargs; there must be as many")
    instructions = ifeval.checked(text(fields, "prompt"), names, cast(list[Mapping[str, object]], arguments))
    return (Question(**marks, prompt=prompt(fields, "prompt"), answers=(), check=Check("ifeval", instructions)),)


# --- questions with choices -------------------------------------------------------------------------------------------


def _choices(marks: Marks, asked: Prompt, choices: Sequence[str], right: frozenset[int]) -> Choices:
    return Choices(**marks, pairs=tuple((asked, choice) for choice in choices), right=right)


def _arc(marks: Marks, fields: Fields) -> tuple[Item, ...]:
    """The Hub's form has lists of texts and labels, the original one choices as objects inside of the question."""
    inside = fields["question"] if isinstance(fields.get("question"), dict) else fields
    inside = cast(Fields, inside)
    if (given := inside.get("choices")) is None:
        raise EftError("has no choices")
    if isinstance(given, list) and all(isinstance(each, dict) for each in given):
        given = {name: [each.get(name) for each in given] for name in ("text", "label")}
    if not isinstance(given, dict):
        raise EftError(f"choices is {kind(given)}; it must be an object with text and label")
    choices, labels = texts(given, "text", 2), texts(given, "label", 2)
    if len(labels) != len(choices):
        raise EftError(f"has {len(choices)} choices and {len(labels)} labels")
    key = text(fields, "answerKey").strip()
    if key not in labels:
        raise EftError(f"answerKey is {kind(key)}; the labels are {', '.join(labels)[:60]}")
    asked = prompt(inside, "question_stem", "question", "stem")
    return (_choices(marks, asked, choices, frozenset({labels.index(key)})),)


def _mmlu(marks: Marks, fields: Fields) -> tuple[Item, ...]:
    choices = texts(fields, "choices", 2)
    asked = listed(prompt(fields, "question"), choices)
    letters, answer = LETTERS[: len(choices)], fields.get("answer")
    if answer in (None, ""):
        raise EftError("has no answer")
    named = choices if isinstance(answer, str) and answer in choices and len(answer) > 1 else letters
    return (_choices(marks, asked, letters, frozenset({place("answer", answer, named)})),)


def _mmlu_table(marks: Marks, fields: Fields) -> tuple[Item, ...]:
    """MMLU's own tables have a column for each choice."""
    return _mmlu(marks, {**fields, "choices": [fields.get(letter, "") for letter in "ABCD"]})


# --- completions of a text --------------------------------------------------------------------------------------------


def hellaswag(marks: Marks, context: str, endings: Sequence[str], label: object) -> Choices:
    """A context and its endings, which are texts to complete. `label`: the right one's index."""
    index = place("label", label, range_of(endings))
    return Choices(**marks, pairs=tuple((Raw(context), f" {ending}") for ending in endings), right=frozenset({index}))


def range_of(choices: Sequence[str]) -> tuple[str, ...]:
    """The indices as texts: what a label may be."""
    return tuple(map(str, range(len(choices))))


def _hellaswag(marks: Marks, fields: Fields) -> tuple[Item, ...]:
    if fields.get("ctx_a") is not None:
        after = from_json.string("ctx_b", fields.get("ctx_b", ""))
        context = f"{text(fields, 'ctx_a')} {after.capitalize()}"
    else:
        context = text(fields, "ctx")
    if fields.get("activity_label") is not None:
        context = f"{text(fields, 'activity_label')}: {context}"
    endings = texts({"endings": [_without_artefacts(each) for each in texts(fields, "endings", 2)]}, "endings", 2)
    label = _given(fields, "label")
    return (hellaswag(marks, _without_artefacts(context), endings, label),)


def _without_artefacts(context: str) -> str:
    """As lm_eval/tasks/hellaswag/utils.py: brackets come from WikiHow's pages."""
    return re.sub(r"\[.*?\]", "", context.strip().replace(" [title]", ". ")).replace("  ", " ")


def _winogrande(marks: Marks, fields: Fields) -> tuple[Item, ...]:
    sentence, options = text(fields, "sentence"), [text(fields, name) for name in ("option1", "option2")]
    before, blank, after = sentence.partition("_")
    if not blank or not after.strip():
        raise EftError("the sentence has no blank (_) with a text after it")
    if "_" in after:
        raise EftError(f"the sentence has {sentence.count('_')} blanks (_); it must have one")
    if options[0] == options[1]:
        raise EftError(f"both options are {kind(options[0])}")
    answer = _given(fields, "answer")
    if str(answer).strip() not in ("1", "2"):
        raise EftError(f"answer is {kind(answer)}; it must be 1 or 2")
    pairs = tuple((Raw(before + option), after) for option in options)
    return (Choices(**marks, pairs=pairs, right=frozenset({int(str(answer)) - 1})),)


def _piqa(marks: Marks, fields: Fields) -> tuple[Item, ...]:
    asked = Raw(f"Question: {text(fields, 'goal')}\nAnswer:")
    ways = [f" {text(fields, name)}" for name in ("sol1", "sol2")]
    return (_choices(marks, asked, ways, frozenset({place("label", _given(fields, "label"), ("0", "1"))})),)


def _given(fields: Fields, name: str) -> object:
    """A field that the test splits of benchmarks leave empty."""
    if (value := fields.get(name)) in (None, ""):
        raise EftError(f"has no {name}", "Test splits have none; use the validation split.")
    return value


# --- TruthfulQA -------------------------------------------------------------------------------------------------------


def _truthfulqa(marks: Marks, fields: Fields) -> tuple[Item, ...]:
    """mc_task.json, and the Hub's multiple_choice: each set of choices with its labels."""
    found: list[Item] = []
    for name, task in (("mc1_targets", "MC1"), ("mc2_targets", "MC2")):
        if fields.get(name) is not None:
            choices, labels = _targets(name, fields[name])
            right = frozenset(i for i, label in enumerate(labels) if label == 1)
            found.append(_task(marks, task, prompt(fields, "question"), choices, right))
    if not found:
        raise EftError("has no mc1_targets and no mc2_targets")
    return tuple(found)


def _targets(name: str, value: object) -> tuple[Sequence[str], Sequence[object]]:
    """{answer: 0 or 1}, or {"choices": [...], "labels": [...]}."""
    if not isinstance(value, dict) or not value:
        raise EftError(f"{name} is {kind(value)}; it must be an object of answers with 0 or 1")
    if value.keys() == {"choices", "labels"}:
        choices, labels = texts(value, "choices", 2), value["labels"]
    else:
        choices, labels = texts({name: list(value)}, name, 2), list(value.values())
    if not isinstance(labels, list) or len(labels) != len(choices):
        raise EftError(f"{name} has not a label for each choice")
    if wrong := [label for label in labels if isinstance(label, bool) or label not in (0, 1)]:
        raise EftError(f"{name} has the label {kind(wrong[0])}; each must be 0 or 1")
    return choices, labels


def _task(marks: Marks, task: str, asked: Prompt, choices: Sequence[str], right: frozenset[int]) -> Choices:
    if not right or len(right) == len(choices) or (task == "MC1" and len(right) > 1):
        wanted = "one true answer" if task == "MC1" else "true and false answers"
        raise EftError(f"{task} has {len(right)} true of {len(choices)} answers; it needs {wanted}")
    return _choices({**marks, "source": f"{marks['source']} {task}"}, asked, choices, right)


def _truthfulqa_table(marks: Marks, fields: Fields) -> tuple[Item, ...]:
    """TruthfulQA.csv, and the Hub's `generation`: the best, the correct and the incorrect answers."""
    names = {name.lower().replace(" ", "_"): value for name, value in fields.items()}
    best = _closed(text(names, "best_answer"))
    true, false = (_several(names, name) for name in ("correct_answers", "incorrect_answers"))
    true = tuple(sorted(true, key=lambda answer: answer != best))  # the best first, as in mc_task.json
    asked = prompt(names, "question")
    return (
        _task(marks, "MC1", asked, (best, *false), frozenset({0})),
        _task(marks, "MC2", asked, (*true, *false), frozenset(range(len(true)))),
    )


def _several(fields: Fields, name: str) -> tuple[str, ...]:
    """Answers in a list, or in a cell with semicolons between them, as truthfulqa/utilities.py reads them."""
    given = texts(fields, name) if isinstance(fields.get(name), list) else tuple(text(fields, name).split(";"))
    return tuple(_closed(answer) for answer in given if answer.strip())


def _closed(answer: str) -> str:
    return answer.strip().removesuffix(".") + "."


FORMATS: Final[Sequence[Format]] = (
    Format("IFEval", _has("instruction_id_list"), _ifeval),
    Format("TruthfulQA", lambda fields: "mc1_targets" in fields or "mc2_targets" in fields, _truthfulqa),
    Format("TruthfulQA", _has("Best Answer", "Incorrect Answers"), _truthfulqa_table),
    Format("TruthfulQA", _has("best_answer", "incorrect_answers"), _truthfulqa_table),
    Format("HellaSwag", _has("endings"), _hellaswag),
    Format("Winogrande", _has("sentence", "option1", "option2"), _winogrande),
    Format("PIQA", _has("goal", "sol1", "sol2"), _piqa),
    Format("ARC", _has("answerKey"), _arc),
    Format("MMLU", _has("question", "choices"), _mmlu),
    Format("MMLU", _has("question", "A", "B", "C", "D", "answer"), _mmlu_table),
    Format("GSM8K", _is_gsm8k, _gsm8k),
)
