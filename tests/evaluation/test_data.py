"""Tests of reading data: each known form becomes the items that it means, however its file is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from eftlocal.emulation.prompts import Raw
from eftlocal.errors import EftError
from eftlocal.evaluation.data import read
from eftlocal.evaluation.items import Check, Choices, Item, Preference, Question, Text
from eftlocal.runtime.views import Message


def items(tmp_path: Path, name: str, data: str) -> tuple[Item, ...]:
    path = tmp_path / name
    path.write_text(data, encoding="utf-8")
    found = read([path])
    assert found.problems == ()
    return found.items


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def one(tmp_path: Path, record: dict[str, Any]) -> Item:
    (item,) = items(tmp_path, "d.jsonl", lines(record))
    return item


def options(item: Item) -> tuple[list[tuple[object, str]], list[int]]:
    assert isinstance(item, Choices)
    return list(item.pairs), sorted(item.right)


# --- lines of the user's own ------------------------------------------------------------------------------------------


def test_a_prompt_with_an_answer_is_a_question_and_its_place_and_kind_are_kept(tmp_path: Path) -> None:
    found = items(tmp_path, "q.jsonl", lines({"prompt": "2+2?", "answer": 4, "kind": "knowledge"}))
    where = f"{tmp_path / 'q.jsonl'}:1"
    assert found == (Question(where=where, source="q.jsonl", kind="knowledge", prompt="2+2?", answers=("4",)),)


def test_messages_and_a_system_text_come_before_the_answer(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Bye"},
    ]
    item = one(tmp_path, {"system": "Be brief.", "messages": turns, "answers": ["Bye!", "Goodbye"], "check": "exact"})
    assert isinstance(item, Question)
    said = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye")]
    assert item.prompt == tuple(Message(role, text) for role, text in said)
    assert item.answers == ("Bye!", "Goodbye") and item.check == Check("exact")


def test_a_check_brings_its_pattern_or_schema_and_may_stand_without_an_answer(tmp_path: Path) -> None:
    item = one(tmp_path, {"prompt": "A year?", "check": {"regex": r"\d{4}"}})
    assert isinstance(item, Question) and (item.answers, item.check) == ((), Check("regex", r"\d{4}"))
    item = one(tmp_path, {"question": "JSON?", "answer": "{}", "check": {"json_schema": {"type": "object"}}})
    assert isinstance(item, Question) and item.check == Check("json-schema", {"type": "object"})


@pytest.mark.parametrize("answer", ["Lyon", "B", "b", 1, "1"])
def test_a_choice_is_named_by_its_text_its_letter_or_its_index(tmp_path: Path, answer: object) -> None:
    item = one(tmp_path, {"prompt": "Where?", "choices": ["Paris", "Lyon", "Nice"], "answer": answer})
    assert options(item) == ([("Where?", "Paris"), ("Where?", "Lyon"), ("Where?", "Nice")], [1])


def test_a_choice_that_is_a_digit_or_a_letter_is_named_by_its_text_first(tmp_path: Path) -> None:
    assert options(one(tmp_path, {"prompt": "?", "choices": ["2", "1", "0"], "answer": "2"}))[1] == [0]
    assert options(one(tmp_path, {"prompt": "?", "choices": ["2", "1", "0"], "answer": 2}))[1] == [2]
    assert options(one(tmp_path, {"prompt": "?", "choices": ["B", "A"], "answer": "A"}))[1] == [1]


def test_several_choices_may_be_right(tmp_path: Path) -> None:
    assert options(one(tmp_path, {"prompt": "?", "choices": ["x", "y", "z"], "answers": ["x", 2]}))[1] == [0, 2]


def test_choices_with_the_check_choice_are_listed_and_an_answer_is_generated(tmp_path: Path) -> None:
    item = one(tmp_path, {"prompt": "Where?", "choices": ["Paris", "Lyon"], "answer": "B", "check": "choice"})
    assert isinstance(item, Question) and item.prompt == "Where?\nA. Paris\nB. Lyon\nAnswer:"
    assert (item.answers, item.check) == (("Lyon",), Check("choice", ("Paris", "Lyon")))


def test_a_pair_of_answers_is_a_preference_also_where_both_are_conversations(tmp_path: Path) -> None:
    asked, good, bad = (
        {"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Hello!"), ("assistant", "?"))
    )
    plain = {"prompt": "Hi", "chosen": "Hello!", "rejected": "?"}
    talks = {"chosen": [asked, good], "rejected": [asked, bad]}
    ultra = {**talks, "prompt": "Hi", "messages": [asked, good], "score_chosen": 8.5}  # as ultrafeedback_binarized
    found = items(
        tmp_path, "p.jsonl", lines(plain, talks, ultra, {"prompt": [asked], "chosen": [good], "rejected": [bad]})
    )
    assert len(found) == 4
    for item in found:
        assert isinstance(item, Preference) and (item.prompt, item.chosen, item.rejected) == ("Hi", "Hello!", "?")


def test_training_examples_are_questions_whose_last_answer_is_measured(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}, {"from": "human", "value": "Bye"}]
    found = items(
        tmp_path,
        "t.jsonl",
        lines(
            {"prompt": "Hi", "completion": "Hello!"},
            {"instruction": "Add", "input": "1, 2", "output": "3"},
            {"conversations": [*talk, {"from": "gpt", "value": "Bye!"}]},
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
        ),
    )
    said = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Bye"))
    assert [(q.prompt, q.answers) for q in found if isinstance(q, Question)] == [
        ("Hi", ("Hello!",)),
        ("Add\n\n1, 2", ("3",)),
        (said, ("Bye!",)),
        ("Hi", ("Hello!",)),
    ]


def test_a_file_of_text_is_one_text_and_a_line_with_text_is_one_too(tmp_path: Path) -> None:
    for name in ("a.txt", "b.md", "wiki.test.raw", "none"):
        (item,) = items(tmp_path, name, "= Title =\n\nA text, \n over lines.\n")
        assert isinstance(item, Text) and item.text == "= Title =\n\nA text, \n over lines.\n"
    assert one(tmp_path, {"text": "A text.", "id": 3}) == Text(
        where=f"{tmp_path / 'd.jsonl'}:1", source="d.jsonl", text="A text."
    )


# --- how files are written --------------------------------------------------------------------------------------------


def test_the_same_items_come_from_json_lines_a_json_list_and_a_table(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"prompt": 'Say "a, b"', "choices": ["x", "y"], "answer": "y", "kind": "behaviour"},
        {"prompt": "Two\nlines?", "choices": ["x", "y"], "answer": "x", "kind": None},
    ]
    table = (
        'prompt,choices,answer,kind\n"Say ""a, b""","[""x"", ""y""]",y,behaviour\n"Two\nlines?","[""x"", ""y""]",x,\n'
    )
    plain = items(tmp_path, "a.jsonl", lines(*records))
    listed = items(tmp_path, "a.json", json.dumps(records, indent=1))
    from_table = items(tmp_path, "a.csv", table)
    assert [options(item) for item in plain] == [options(item) for item in listed] == [options(i) for i in from_table]
    assert [item.kind for item in from_table] == [item.kind for item in listed] == ["behaviour", None]
    assert [item.where.rpartition(":")[2] for item in plain] == ["1", "2"]
    assert [item.where.rpartition(":")[2] for item in from_table] == ["2", "3"]
    assert [item.where.rpartition(":")[2] for item in listed] == ["2", "11"]


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    for name, data in (
        ("a.jsonl", lines({"prompt": "?", "answer": "!"})),
        ("a.csv", "prompt,answer\n?,!\n"),
        ("a.json", '[\n{"prompt": "?", "answer": "!"}]\n'),
    ):
        (item,) = items(tmp_path, name, "\ufeff" + data.replace("\n", "\r\n"))
        assert isinstance(item, Question) and (item.prompt, item.answers) == ("?", ("!",))
    (text,) = items(tmp_path, "a.txt", "\ufeffA text.")
    assert isinstance(text, Text) and text.text == "A text."


def test_several_files_keep_their_names_and_those_of_one_name_their_folders(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    paths = [tmp_path / "a.jsonl", tmp_path / "x" / "a.jsonl", tmp_path / "b.txt"]
    for path in paths[:2]:
        path.write_text(lines({"prompt": "?", "answer": "!"}))
    paths[2].write_text("A text.")
    found = read(paths)
    assert [item.source for item in found.items] == [str(paths[0]), str(paths[1]), "b.txt"]
    assert read([paths[0], paths[0]]).items == read(paths[:1]).items, "a file that is named twice is read once"
    assert read(paths).digest != read(paths[:2]).digest == read([*paths[:2]]).digest


def test_the_demo_is_300_questions_with_answers_in_the_taught_style() -> None:
    found = read(["demo"]).items
    assert len(found) == 300 and {item.source for item in found} == {"demo"}
    first = found[0]
    assert isinstance(first, Question) and first.check == Check("first-sentence")
    assert (first.where, first.kind) == ("demo:1", "capital")
    assert first.answers == ("That would be Yamoussoukro.", "Yamoussoukro")


# --- public benchmarks ------------------------------------------------------------------------------------------------


def test_gsm8k_is_the_worked_answer_with_a_check_of_its_number(tmp_path: Path) -> None:
    answer = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 1,072"
    item = one(tmp_path, {"question": "How many clips?", "answer": answer})
    assert isinstance(item, Question)
    assert (item.prompt, item.answers, item.check) == ("How many clips?", (answer,), Check("number"))


MC = {"question": "What happens if you eat seeds?"}


@pytest.mark.parametrize("labelled", [True, False])
def test_truthfulqa_has_an_item_of_each_task_each_with_a_source(tmp_path: Path, labelled: bool) -> None:
    one_true: dict[str, list[Any]] = {"choices": ["They pass", "You die"], "labels": [1, 0]}
    several: dict[str, list[Any]] = {"choices": ["They pass", "Nothing", "You die"], "labels": [1, 1, 0]}
    if not labelled:  # as in mc_task.json
        one_true, several = (dict(zip(t["choices"], t["labels"], strict=True)) for t in (one_true, several))
    record = {**MC, "mc1_targets": one_true, "mc2_targets": several}
    found = items(tmp_path, "mc_task.json", json.dumps([record]))
    assert [item.source for item in found] == ["mc_task.json MC1", "mc_task.json MC2"]
    assert options(found[0]) == ([(MC["question"], "They pass"), (MC["question"], "You die")], [0])
    assert options(found[1])[1] == [0, 1]


def test_truthfulqa_csv_has_the_best_answer_against_the_false_and_all_true_against_all_false(tmp_path: Path) -> None:
    table = (
        "Type,Category,Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers,Source\n"
        "Adversarial,Misconceptions,What happens?,They pass,You die,"
        '"Nothing happens.; They pass; ","You die; You grow, slowly.",https://x\n'
    )
    mc1, mc2 = items(tmp_path, "TruthfulQA.csv", table)
    asked = "What happens?"
    assert options(mc1) == ([(asked, "They pass."), (asked, "You die."), (asked, "You grow, slowly.")], [0])
    true, false = ["They pass.", "Nothing happens."], ["You die.", "You grow, slowly."]
    assert options(mc2) == ([(asked, answer) for answer in (*true, *false)], [0, 1])


def test_hellaswag_is_raw_text_as_the_harness_makes_it(tmp_path: Path) -> None:
    record = {
        "ind": 24,
        "activity_label": "Roof shingle removal",
        "ctx_a": "A man is sitting on a roof.",
        "ctx_b": "he",
        "ctx": "A man is sitting on a roof. he",
        "endings": ["is using wrap.", "is ripping  tiles [step] off.", "holds a cube.", "starts."],
        "split": "val",
        "label": "3",
    }
    pairs, right = options(one(tmp_path, record))
    context = "Roof shingle removal: A man is sitting on a roof. He"
    assert all(isinstance(prompt, Raw) and prompt == context for prompt, _ in pairs)
    assert [text for _, text in pairs][:2] == [" is using wrap.", " is ripping tiles off."]
    assert right == [3]


def test_hellaswag_in_six_lines_is_told_by_its_labels(tmp_path: Path) -> None:
    task = "Roof: A man is on a roof. He\n3\nis using wrap.\nis ripping.\nholds a cube.\nstarts.\n"
    first, second = items(tmp_path, "hellaswag_val_full.txt", task + task.replace("3", "0"))
    assert options(second)[1] == [0] and second.where.endswith(":7")
    pairs, right = options(first)
    assert pairs[3] == ("Roof: A man is on a roof. He", " starts.") and isinstance(pairs[3][0], Raw) and right == [3]


SARAH = "Sarah was a better surgeon than Maria so _ got the easier, nicer cases."


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("w.jsonl", lines({"qID": "3QX", "sentence": SARAH, "option1": "Sarah", "option2": "Maria", "answer": "2"})),
        ("w.csv", f'sentence,option1,option2,answer\n"{SARAH}",Sarah,Maria,2\n'),
        ("winogrande-debiased-eval.csv", f'0,"{SARAH}",Sarah,Maria,2\n'),  # llama-perplexity's, without a header
    ],
)
def test_winogrande_has_two_contexts_and_what_follows_the_blank(tmp_path: Path, name: str, data: str) -> None:
    (item,) = items(tmp_path, name, data)
    pairs, right = options(item)
    before = "Sarah was a better surgeon than Maria so "
    assert pairs == [(before + option, " got the easier, nicer cases.") for option in ("Sarah", "Maria")]
    assert all(isinstance(prompt, Raw) for prompt, _ in pairs) and right == [1]


def test_piqa_is_raw_text(tmp_path: Path) -> None:
    pairs, right = options(one(tmp_path, {"goal": "Boil butter.", "sol1": "Use a pan.", "sol2": "No.", "label": 0}))
    assert pairs == [("Question: Boil butter.\nAnswer:", " Use a pan."), ("Question: Boil butter.\nAnswer:", " No.")]
    assert isinstance(pairs[0][0], Raw) and right == [0]


@pytest.mark.parametrize(
    "record",
    [
        {"id": "M", "question": "Why?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
        {"question_stem": "Why?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
        {
            "question": {"stem": "Why?", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]},
            "answerKey": "B",
        },
    ],
)
def test_arc_is_the_question_alone_with_the_choices_texts(tmp_path: Path, record: dict[str, Any]) -> None:
    assert options(one(tmp_path, record)) == ([("Why?", "x"), ("Why?", "y")], [1])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.jsonl", lines({"question": "Why?", "subject": "law", "choices": ["w", "x", "y", "z"], "answer": 2})),
        ("m.jsonl", lines({"question": "Why?", "choices": ["w", "x", "y", "z"], "answer": "C"})),
        ("law_test.csv", "Why?,w,x,y,z,C\n"),
    ],
)
def test_mmlu_lists_the_choices_and_its_letters_are_the_completions(tmp_path: Path, name: str, data: str) -> None:
    (item,) = items(tmp_path, name, data)
    pairs, right = options(item)
    assert pairs == [("Why?\nA. w\nB. x\nC. y\nD. z\nAnswer:", letter) for letter in "ABCD"] and right == [2]


# --- what cannot be read ----------------------------------------------------------------------------------------------


def test_lines_of_a_benchmark_must_all_be_its_own_and_lines_of_a_users_own_may_differ(tmp_path: Path) -> None:
    path = tmp_path / "g.jsonl"
    good = {"question": "?", "answer": "So #### 4"}
    path.write_text(lines(good, {"question": "?", "answer": "four"}, {"prompt": "?", "answer": "4"}))
    assert [problem.message for problem in read([path]).problems] == [
        f"{path}:2: the answer does not end with #### and a number",
        f"{path}:3: has no question",
    ]
    mixed = lines({"prompt": "?", "answer": "4"}, {"prompt": "?", "choices": ["3", "4"], "answer": "4"}, {"text": "A."})
    assert [type(item) for item in items(tmp_path, "m.jsonl", mixed)] == [Question, Choices, Text]


def test_an_unknown_form_is_told_with_its_fields_and_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "u.jsonl"
    path.write_text(lines({"premise": "It rains.", "hypothesis": "It is wet.", "label": 1}))
    (problem,) = read([path]).problems
    assert problem.message == f"{path}:1: has no known form: its fields are premise, hypothesis, label"
    assert problem.hint is not None and problem.hint.startswith("Known: prompt or messages, with answer or check;")
    assert "HellaSwag" in problem.hint and len(problem.hint) < 240


@pytest.mark.parametrize(
    ("name", "told"), [("empty.jsonl", "is empty"), ("no.jsonl", "No such file"), ("-", "standard input")]
)
def test_a_file_that_cannot_be_read_at_all_ends_it(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(EftError, match=told):
        read([name if name == "-" else tmp_path / name])
    with pytest.raises(EftError, match="is a folder"):
        read([tmp_path])
