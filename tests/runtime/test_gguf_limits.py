"""Tests of numbers in metadata: what ends llama.cpp is refused, and what is not known to be safe is named."""

from pathlib import Path

import pytest
from gguf import TokenType

from eftlocal.errors import ModelFileError
from eftlocal.runtime import gguf
from eftlocal.runtime.gguf_limits import unproven
from tests import families
from tests.families import VOCAB, Family
from tests.runtime.altered import Changes, altered, ends_llama_cpp

PATTERN = "gemma3.attention.sliding_window_pattern"

DEADLY: dict[str, tuple[Changes, str]] = {  # by what is wrong; each change is made to a sound file
    "no layer slides": ({PATTERN: 1}, f"{PATTERN} is 1, expected 0, or 2 or more, since there is a sliding window"),
    "no layer of the list slides": (
        {PATTERN: [False] * 6},
        f"{PATTERN} is false for each layer, expected true for one or more, since there is a sliding window",
    ),
    "a rope scaling that is unknown": (
        {"llama.rope.scaling.type": "spline"},
        "llama.rope.scaling.type is 'spline', expected one of none, linear, yarn, longrope",
    ),
    "groups of no experts": ({"llama.expert_group_count": 2}, "llama.expert_group_count is 2, expected 0"),
    "groups that do not divide the experts": (
        {"llama.expert_count": 8, "llama.expert_used_count": 2, "llama.expert_group_count": 3},
        "llama.expert_group_count is 3, expected a divisor of the 8 experts",
    ),
    "all groups used": (
        {
            "llama.expert_count": 8,
            "llama.expert_used_count": 2,
            "llama.expert_group_count": 4,
            "llama.expert_group_used_count": 4,
        },
        "llama.expert_group_used_count is 4, expected 1 to 3",
    ),
    "more experts than llama.cpp has room for": (
        {"llama.expert_count": 2000, "llama.expert_used_count": 2},
        "llama.expert_count is 2,000, expected 0 to 1,024",
    ),
    "a pre-tokenizer that aborts at two spaces": (
        {"tokenizer.ggml.pre": "whitespace"},
        'tokenizer.ggml.pre is "whitespace", expected one for language models',
    ),
    "more predicting layers than layers": (
        {"llama.nextn_predict_layers": 3},
        "llama.nextn_predict_layers is 3, expected 0 to 2",
    ),
}


def made(case: str, family: Family, folder: Path) -> Path:
    changes = DEADLY[case][0]
    return altered(family.sliding if PATTERN in changes else family.tuned, folder / f"{len(case)}.gguf", changes)


@pytest.mark.parametrize("case", DEADLY)
def test_a_number_that_ends_llama_cpp_is_refused(case: str, family: Family, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        gguf.check(path := made(case, family, tmp_path))
    assert caught.value.message == f"{path}: {'' if 'spaces' in case else 'damaged: '}{DEADLY[case][1]}"


@pytest.mark.slow
def test_each_of_these_files_ends_llama_cpp(family: Family, tmp_path: Path) -> None:
    """If llama.cpp has mended one of them, its check can go."""
    empty = VOCAB.extended(["", f"[EMPTY_{len(VOCAB)}]"], TokenType.NORMAL)
    deadly = {case: made(case, family, tmp_path) for case in DEADLY}
    deadly["heads"] = families.write_model(tmp_path / "heads.gguf", seed=1, n_head_kv=3)
    deadly["rope"] = altered(_qwen2(tmp_path), tmp_path / "rope.gguf", {"qwen2.rope.dimension_count": 8})
    deadly["empty"] = families.write_model(tmp_path / "empty.gguf", seed=1, vocab=empty)
    deadly["bytes"] = altered(family.tuned, tmp_path / "bytes.gguf", {"tokenizer.ggml.model": "llama"})
    sound = [family.tuned, family.sliding, family.recurrent, _qwen2(tmp_path)]
    ended = ends_llama_cpp([*deadly.values(), *sound])
    assert dict(zip(deadly, ended, strict=False)) == dict.fromkeys(deadly, True)
    assert ended[len(deadly) :] == [False] * len(sound)
    for path in deadly.values():
        with pytest.raises(ModelFileError, match=r"^[^\n]*, expected [^\n]*$|listed twice"):
            gguf.check(path)


def _qwen2(folder: Path) -> Path:
    return families.write_model(folder / "qwen2.gguf", seed=1, architecture="qwen2")


def test_heads_that_llama_cpp_cannot_divide_are_refused(tmp_path: Path) -> None:
    path = families.write_model(tmp_path / "heads.gguf", seed=1, n_head_kv=3)
    with pytest.raises(ModelFileError, match="head_count_kv is 3, expected a divisor of the 4 heads"):
        gguf.check(path)
    odd = families.write_model(tmp_path / "odd.gguf", seed=1, d_model=60)
    with pytest.raises(ModelFileError, match=r"key_length is 15, expected an even number from 2|dimension_count is 15"):
        gguf.check(odd)


def test_layers_that_differ_are_checked_each_and_are_not_known_to_be_safe(family: Family, tmp_path: Path) -> None:
    path = altered(family.tuned, tmp_path / "layers.gguf", {"llama.attention.head_count_kv": [2, 3]})
    with pytest.raises(ModelFileError, match="head_count_kv is 3, expected a divisor of the 4 heads"):
        gguf.check(path)
    other = gguf.check(altered(family.tuned, tmp_path / "other.gguf", {"llama.attention.head_count_kv": [2, 1]}))
    assert unproven(other) == "llama.attention.head_count_kv, which differs between layers"  # and llama.cpp aborts
    same = gguf.check(altered(family.tuned, tmp_path / "same.gguf", {"llama.attention.head_count_kv": [2, 2]}))
    assert unproven(same) is None


def test_a_sliding_window_may_be_off(family: Family, tmp_path: Path) -> None:
    off: Changes = {PATTERN: 1, "gemma3.attention.sliding_window": 0}
    assert gguf.check(altered(family.sliding, tmp_path / "off.gguf", off)).tensors
    assert gguf.check(altered(family.sliding, tmp_path / "all.gguf", {PATTERN: 0})).tensors
    assert gguf.check(altered(family.sliding, tmp_path / "some.gguf", {PATTERN: [True] + [False] * 5})).tensors


def test_what_is_not_known_to_be_safe_is_named(family: Family, tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    cases: list[tuple[Changes, str]] = [
        ({"llama.pooling_type": 1}, "llama.pooling_type"),
        ({"llama.nextn_predict_layers": 1}, "llama.nextn_predict_layers"),
        (
            {"llama.expert_count": 4, "llama.expert_used_count": [1, 2]},
            "llama.expert_used_count, which differs between layers",
        ),
        ({"tokenizer.ggml.model": "bert"}, "the tokenizer bert"),
    ]
    for changes, name in cases:
        assert unproven(gguf.check(altered(family.tuned, path, changes))) == name
    falcon = families.write_model(path, seed=1, architecture="falcon")
    assert unproven(gguf.check(falcon)) == "the architecture falcon"


def test_the_models_of_the_demo_and_of_the_tests_are_known_to_be_safe(family: Family, smollm2: Path) -> None:
    demos = sorted(Path(__file__).parents[2].glob("demo/*.gguf"))
    for path in [smollm2, *demos, *(path for name, path in vars(family).items() if name != "lora")]:
        assert unproven(gguf.check(path)) is None
