"""A model in a child process gives what it gives in this one; what ends it, or keeps it silent, ends one call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from eftlocal.errors import DecodeError, ModelLoadError
from eftlocal.runtime import gguf
from eftlocal.runtime.child import patience, process
from eftlocal.runtime.child.context import ChildContext, ChildModel
from eftlocal.runtime.child.spawned import Spawned
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.interrupt import Stopped, may_decode, stop_decoding
from eftlocal.runtime.llama.model import Model
from tests import families
from tests.families import Family

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there, no child is started")

PROMPT = list(range(1, 41))
OPTIONS = {"n_ctx": 128, "n_seq": 3, "n_threads": 1, "kv_type": "f32"}


@pytest.fixture(scope="module")
def far(family: Family) -> Iterator[ChildModel]:
    model = ChildModel(gguf.check(family.reference))
    yield model
    model.close()


@pytest.fixture(scope="module")
def near(family: Family) -> Iterator[Model]:
    model = Model(gguf.check(family.reference))
    yield model
    model.close()


@pytest.fixture
def there(far: ChildModel) -> Iterator[ChildContext]:
    context = ChildContext(far, **OPTIONS)  # type: ignore[arg-type]
    yield context
    may_decode()
    context.close()


@pytest.fixture
def here(near: Model) -> Iterator[Context]:
    context = Context(near, **OPTIONS)  # type: ignore[arg-type]
    yield context
    context.close()


def pid_of(context: ChildContext) -> int:
    pid = context.model.process.pid
    assert pid is not None
    return pid


def gone(pid: int, within: float = 5.0) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not psutil.pid_exists(pid):
            return True
        with suppress(OSError, psutil.NoSuchProcess):
            others = sys.platform == "linux" and len([*Path(f"/proc/{pid}/task").iterdir()]) > 1
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE and not others:  # they hold its socket open
                return True
        time.sleep(0.01)
    return False


# --- the same as in this process --------------------------------------------------------------------------------------


def test_rows_are_equal_to_the_bit_whatever_is_fed_forked_and_rewound(there: ChildContext, here: Context) -> None:
    for context in (there, here):
        context.feed([Feed(0, PROMPT, 0)])
    assert (there.n_batch, there.max_rows, there.n_ctx, there.rewinds) == (
        here.n_batch,
        here.max_rows,
        here.n_ctx,
        here.rewinds,
    )
    rng = np.random.default_rng(1)
    for _ in range(40):
        source, target, n = int(rng.integers(3)), int(rng.integers(3)), int(rng.integers(60))
        if rng.random() < 0.3 and source != target:
            assert there.fork(source, target, n) == here.fork(source, target, n)
        if rng.random() < 0.4:
            assert there.rewind(source, n) == here.rewind(source, n)
        feeds = []
        for sequence in rng.permutation(3)[: rng.integers(1, 4)].tolist():
            tokens = rng.integers(0, 250, rng.integers(1, 6)).tolist()
            if here.held(sequence) + len(tokens) > 120:
                assert there.rewind(sequence, 5) == here.rewind(sequence, 5)
            feeds.append(Feed(sequence, tokens, int(rng.integers(0, len(tokens) + 1))))
        np.testing.assert_array_equal(there.feed(feeds), here.feed(feeds))
        assert [there.held(i) for i in range(3)] == [here.held(i) for i in range(3)]
        assert there.n_fed == here.n_fed
    assert not there.feed([Feed(0, [], 0)]).size


def test_its_tokenizer_is_the_models_and_there_are_no_weights_here(far: ChildModel, near: Model) -> None:
    for text in ("How large is Lyon?", "é 😀", ""):
        assert far.tokenize(text) == near.tokenize(text)
    for name in ("n_vocab", "bos", "add_bos", "rewinds", "controls", "adds_space", "ends", "end"):
        assert getattr(far, name) == getattr(near, name), name
    assert [far.piece(i) for i in range(far.n_vocab)] == [near.piece(i) for i in range(near.n_vocab)]


def test_an_adapter_counts(family: Family, far: ChildModel, near: Model) -> None:
    lora = (family.lora, 0.5)
    with_lora = ChildContext(far, n_ctx=64, lora=lora, kv_type="f32"), Context(near, n_ctx=64, lora=lora, kv_type="f32")
    try:
        there, here = (context.feed([Feed(0, PROMPT, 2)]).copy() for context in with_lora)
    finally:
        for context in with_lora:
            context.close()
    np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize("kind", ["sliding", "recurrent"])
def test_other_kinds_of_caches_are_the_same(family: Family, kind: str) -> None:
    header = gguf.check(getattr(family, kind))
    models = ChildModel(header), Model(header)
    there, here = ChildContext(models[0], n_ctx=64, kv_type="f32"), Context(models[1], n_ctx=64, kv_type="f32")
    try:
        for context in (there, here):
            context.feed([Feed(0, PROMPT, 1)])
        assert there.rewind(0, 10) == here.rewind(0, 10) and there.rewinds == here.rewinds
        np.testing.assert_array_equal(there.feed([Feed(0, [7, 8], 2)]), here.feed([Feed(0, [7, 8], 2)]))
    finally:
        for one in (there, here, *models):
            one.close()


def test_copies_go_on_in_a_larger_context(far: ChildModel, there: ChildContext, here: Context) -> None:
    larger = ChildContext(far, n_ctx=160, n_seq=5, kv_type="f32")
    try:
        for context in (there, here):
            context.feed([Feed(0, PROMPT, 0), Feed(2, PROMPT[:7], 0)])
        larger.restore(there.saved())
        assert [larger.held(i) for i in range(5)] == [40, 0, 7, 0, 0]
        feed = [Feed(0, [5], 1), Feed(2, [6], 1)]
        np.testing.assert_allclose(larger.feed(feed), here.feed(feed), atol=1e-4)
    finally:
        larger.close()


def test_a_refused_feed_is_an_error_as_here_and_the_child_lives(there: ChildContext) -> None:
    before = pid_of(there)
    for tokens in ([10**6], [1] * 200):
        with pytest.raises(DecodeError, match=r"vocabulary|do not fit in a context"):
            there.feed([Feed(0, tokens, 1)])
    assert there.feed([Feed(0, PROMPT, 1)]).shape[0] == 1 and pid_of(there) == before


# --- errors and ends --------------------------------------------------------------------------------------------------


def test_an_error_of_a_load_is_the_one_of_a_load_here(family: Family, tmp_path: Path, far: ChildModel) -> None:
    path = families.write_model(tmp_path / "unknown.gguf", seed=1, architecture="notyet")
    with pytest.raises(ModelLoadError) as here:
        Model(gguf.check(path))
    with pytest.raises(ModelLoadError) as there:
        ChildModel(gguf.check(path))
    assert there.value.message == here.value.message
    with pytest.raises(ModelLoadError, match=r"could not apply this adapter|adapter"):
        ChildContext(far, n_ctx=64, lora=(family.base, 1.0))
    with pytest.raises(ModelLoadError, match="could not create a context"):
        ChildContext(far, n_ctx=64, kv_type="q8_0")


def test_an_error_that_only_the_child_has_comes_through(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(family.base.read_bytes())
    header = gguf.check(path)

    def removed_before(model: Path) -> Spawned:
        model.unlink()
        return Spawned(model)

    monkeypatch.setattr(process, "Spawned", removed_before)
    with pytest.raises(Exception, match=r"model\.gguf"):
        ChildModel(header)


def test_a_kill_in_a_decode_is_one_error_and_the_next_feed_starts_another_child(
    there: ChildContext, here: Context
) -> None:
    there.feed([Feed(0, PROMPT, 1)])
    pid = pid_of(there)
    os.kill(pid, signal.SIGSTOP)
    killer = threading.Timer(0.1, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(DecodeError) as caught:
        there.feed([Feed(0, [5], 1)])
    killer.join()
    assert "the process that held it has ended: it was killed" in caught.value.message
    assert "\n" not in caught.value.message and "/continue" in (caught.value.hint or "")
    assert [there.held(i) for i in range(3)] == [0, 0, 0] == [there.rewind(i, 9) for i in range(3)]
    np.testing.assert_array_equal(there.feed([Feed(0, PROMPT, 1)]), here.feed([Feed(0, PROMPT, 1)]))
    assert pid_of(there) != pid and there.n_fed == 80


def test_a_kill_between_decodes_empties_the_sequences_and_the_next_feed_starts_another_child(
    there: ChildContext, here: Context
) -> None:
    there.feed([Feed(1, PROMPT, 1)])
    os.kill(pid_of(there), signal.SIGKILL)
    assert gone(pid_of(there))
    assert there.rewind(1, 30) == 0 == there.fork(1, 2, 30) and not there.saved()
    np.testing.assert_array_equal(there.feed([Feed(1, PROMPT, 1)]), here.feed([Feed(1, PROMPT, 1)]))


def test_two_contexts_of_one_child_are_both_empty_when_it_ends(far: ChildModel, there: ChildContext) -> None:
    other = ChildContext(far, n_ctx=64, kv_type="f32")
    try:
        for context in (there, other):
            context.feed([Feed(0, PROMPT, 0)])
        os.kill(pid_of(there), signal.SIGKILL)
        assert gone(pid_of(there))
        there.feed([Feed(0, PROMPT, 1)])
        assert there.held(0) == 40 and other.held(0) == 0
        other.feed([Feed(0, PROMPT[:5], 1)])
        assert other.held(0) == 5
    finally:
        other.close()


def test_what_llama_cpp_said_last_is_told(there: ChildContext) -> None:
    there.feed([Feed(0, PROMPT, 0)])
    child = there.model.process._child
    assert child is not None
    child.said.write(b"loading\n/home/x/ggml-rpc.cpp:618: Remote RPC server crashed or returned malformed response\n")
    child.said.flush()
    os.kill(pid_of(there), signal.SIGSTOP)
    killer = threading.Timer(0.05, os.kill, (pid_of(there), signal.SIGABRT))
    go_on = threading.Timer(0.1, os.kill, (pid_of(there), signal.SIGCONT))
    killer.start()
    go_on.start()
    with pytest.raises(DecodeError, match=r"has ended: ggml-rpc\.cpp:618: Remote RPC server crashed"):
        there.feed([Feed(0, [5], 1)])
    killer.join()
    go_on.join()


def test_a_child_that_does_not_answer_is_ended_in_time(there: ChildContext, monkeypatch: pytest.MonkeyPatch) -> None:
    there.feed([Feed(0, PROMPT, 0)])
    pid = pid_of(there)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    monkeypatch.setattr(patience, "SLOWER", 0)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(DecodeError, match="did not answer in 0 seconds"):
        there.feed([Feed(0, [5], 1)])
    assert time.monotonic() - began < 3 and gone(pid)
    monkeypatch.undo()
    assert there.feed([Feed(0, PROMPT, 1)]).shape[0] == 1


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_a_context_closes_at_once_after_ctrl_c_though_its_worker_hangs(far: ChildModel) -> None:
    context = ChildContext(far, **OPTIONS)  # type: ignore[arg-type]
    context.feed([Feed(0, PROMPT, 0)])
    pid = pid_of(context)
    os.kill(pid, signal.SIGSTOP)
    stopper = threading.Timer(0.1, stop_decoding)
    stopper.start()
    with pytest.raises(Stopped):
        context.feed([Feed(0, [5], 1)])
    stopper.join()
    may_decode()
    began = time.monotonic()
    context.close()
    assert time.monotonic() - began < 5 and gone(pid)


def test_ctrl_c_ends_a_wait_at_once_and_what_comes_late_is_not_taken_for_another_answer(
    there: ChildContext, here: Context
) -> None:
    there.feed([Feed(0, PROMPT, 0)])
    here.feed([Feed(0, PROMPT, 0)])
    pid = pid_of(there)
    os.kill(pid, signal.SIGSTOP)  # as a decode on another machine, which cannot be ended
    timer = threading.Timer(0.1, stop_decoding)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        there.feed([Feed(0, [5, 6], 2)])
    assert time.monotonic() - began < 2
    timer.join()
    may_decode()
    os.kill(pid, signal.SIGCONT)
    kept = there.rewind(0, 40)
    assert kept == 40
    np.testing.assert_array_equal(there.feed([Feed(0, [9], 1)]), here.feed([Feed(0, [9], 1)]))
    assert pid_of(there) == pid


def test_a_feed_after_ctrl_c_does_not_begin(there: ChildContext) -> None:
    stop_decoding()
    with pytest.raises(Stopped):
        there.feed([Feed(0, PROMPT, 1)])
    assert there.held(0) == 0
    may_decode()
    assert there.feed([Feed(0, PROMPT, 1)]).shape[0] == 1


@pytest.mark.slow
def test_ctrl_c_ends_a_long_decode_in_the_child(smollm2: Path) -> None:
    model = ChildModel(gguf.check(smollm2))
    context = ChildContext(model, n_ctx=1024, n_threads=1)
    try:
        timer = threading.Timer(0.3, stop_decoding)
        timer.start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            context.feed([Feed(0, list(range(100, 1000)), 1)])  # takes some ten seconds
        assert time.monotonic() - began < 2
        may_decode()
        began = time.monotonic()
        kept = context.rewind(0, 900)
        assert kept < 900 and time.monotonic() - began < 1  # the child has heard it, too
    finally:
        may_decode()
        context.close()
        model.close()


# --- no child is left -------------------------------------------------------------------------------------------------

HOLDS = """
import sys, time
from pathlib import Path
from eftlocal.runtime import gguf
from eftlocal.runtime.child.context import ChildModel
model = ChildModel(gguf.check(Path(sys.argv[1])))
print(model.process.pid, flush=True)
time.sleep(60)
"""


def test_the_child_ends_with_a_parent_that_is_killed(family: Family) -> None:
    command = [sys.executable, "-c", HOLDS, str(family.base)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert os.getsid(pid) == pid  # Ctrl-C in the terminal does not reach it
        parent.kill()
    assert gone(pid)


def test_the_child_ends_with_its_model(family: Family) -> None:
    model = ChildModel(gguf.check(family.base))
    pid = model.process.pid
    assert pid is not None
    model.close()
    assert gone(pid, 0.5)
