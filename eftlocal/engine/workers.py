"""The members' workers: their weights, their KV caches, and the threads in which they decode."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from eftlocal.arithmetic.arrays import Logits
from eftlocal.engine.context import MemberContext
from eftlocal.engine.executor import Executor
from eftlocal.engine.placing import Placing
from eftlocal.engine.sharing import Sharing
from eftlocal.engine.spec import MemberSpec
from eftlocal.errors import ContextError, DecodeError, EftError, ModelLoadError, RemoteError
from eftlocal.runtime.child.context import ChildContext, ChildModel
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.copies import SavedSequence
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan.placement import Plan
from eftlocal.runtime.plan.threads import MOST_ROWS, Split
from eftlocal.runtime.remote.context import RemoteContext
from eftlocal.runtime.speeds import Speeds
from eftlocal.runtime.vocab import Vocabulary

__all__ = ["Feeds", "Workers"]

MEASURED = 32  # tokens of a sequence in the KV cache for measuring speeds

Feeds = Mapping[int, Sequence[Feed]]  # member -> the tokens that continue its sequences


class Workers:
    """Loads members when they are first needed, and lets them decode at the same time.

    The weights of a file are loaded only once. Members are named by their index in `specs`. Not thread-safe: one thread
    owns the workers.

    n_ctx      the most tokens of one sequence
    n_seq      how many sequences each KV cache has room for
    n_threads  CPU threads that all members share
    plan       where each member shall run; None leaves it to llama.cpp
    speeds     measured speeds of models, by which threads are shared; None shares them by model size
    placing    where each member runs
    sharing    which members decode at the same time
    """

    def __init__(
        self,
        specs: Sequence[MemberSpec],
        *,
        n_ctx: int,
        n_threads: int,
        n_seq: int = 1,
        kv_type: str = "f16",
        plan: Plan | None = None,
        speeds: Speeds | None = None,
    ) -> None:
        self.specs = tuple(specs)
        self.n_ctx = n_ctx
        self.n_seq = n_seq
        self.n_threads = n_threads
        self.kv_type = kv_type
        self.placing = Placing(self.specs, plan)
        self.sharing = Sharing(self.specs, self.placing, n_threads=n_threads, kv_type=kv_type, speeds=speeds)
        self._closed = False
        self._executor = Executor(len(self.specs))
        self._models: dict[Path, Model] = {}
        self._contexts: dict[int, MemberContext] = {}
        self._ends: dict[tuple[int, ...], dict[int, bool]] = {}  # by members: token -> whether it is an end

    # --- weights ----------------------------------------------------------------------------------------------------

    def model(self, member: int) -> Model:
        """The member's model: weights and tokenizer. It is loaded at the first call. Raises ModelLoadError.

        Of a member on a server, it is the one that shares its tokens.
        """
        if self._closed:
            raise ModelLoadError("The emulator is closed.", "Load it again.")
        if (remote := self.specs[member].remote) is not None:
            paths = [spec.header.path for spec in self.specs]
            return self.model(paths.index(remote.vocabulary.path))
        header, rpc = self.specs[member].header, self.specs[member].rpc
        while header.path not in self._models:
            offload = self.placing.offload(member)
            try:
                self._models[header.path] = Model(header, offload) if rpc is None else ChildModel(header, offload, rpc)
            except ModelLoadError as error:
                self._fall_back(member, error)
        return self._models[header.path]

    @property
    def loaded(self) -> tuple[Model, ...]:
        """The models in memory, one for each file."""
        return tuple(self._models.values())

    def ends(self, members: Iterable[int]) -> Callable[[int], bool]:
        """Tells of a token whether it ends a generation in the vocabulary of one of these members (llama_vocab_is_eog).

        It depends on the members alone, and not on which others are loaded.
        """
        mine = tuple(members)
        known = self._ends.setdefault(mine, {})

        def is_end(token: int) -> bool:
            if (answer := known.get(token)) is None:
                answer = known[token] = any(self.model(member).is_eog(token) for member in mine)
            return answer

        return is_end

    def end_tokens(self, members: Iterable[int]) -> list[int]:
        """The tokens that end a generation in the vocabulary of one of these members, ascending."""
        return sorted({token for member in members for token in self.model(member).ends})

    def _fall_back(self, member: int, error: ModelLoadError) -> None:
        """Plan fewer layers of the member's file on devices. Raises `error` if there are none on devices."""
        self.placing.fall_back(member, error)
        self.sharing.forget()

    def _unload(self, path: Path) -> None:
        """Free a file's weights and the KV caches that use them."""
        self._executor.wait(self._contexts)
        for member in [m for m in self._contexts if self.specs[m].header.path == path]:
            self._contexts.pop(member).close()
        if (model := self._models.pop(path, None)) is not None:
            model.close()

    # --- KV caches --------------------------------------------------------------------------------------------------

    @property
    def n_fed(self) -> dict[int, int]:
        """Member -> tokens that it has decoded so far. Tokens that a cache held already do not count."""
        return {member: context.n_fed for member, context in self._contexts.items()}

    @property
    def n_batch(self) -> int:
        """The most tokens that all running members can decode in one call; 0 if no member has a KV cache yet."""
        return min((context.n_batch for context in self._contexts.values()), default=0)

    @property
    def max_rows(self) -> int:
        """The most rows of logits that all running members can return from one call; 0 without a KV cache."""
        return min((context.max_rows for context in self._contexts.values()), default=0)

    def context(self, member: int) -> MemberContext:
        """The member's KV cache. It is made at the first call. Raises ModelLoadError."""
        if member not in self._contexts:
            self._contexts[member] = self._make(member, n_ctx=self.n_ctx, n_seq=self.n_seq)
        return self._contexts[member]

    def expect_nothing(self, sequence: int) -> None:
        """No more tokens come for a sequence, whatever its members were told (`MemberContext.expect`)."""
        for context in self._contexts.values():
            context.expect(sequence, ())

    def prepare(self, members: Iterable[int]) -> None:
        """Make the KV caches of these members, and measure their speeds if needed. Raises ModelLoadError."""
        wanted = list(members)
        while missing := [m for m in wanted if m not in self._contexts]:  # a fall-back frees all caches of its file
            for member in missing:
                self.context(member)
        self.measure(wanted)

    def measure(self, members: Iterable[int], *, again: bool = False) -> None:
        """Measure how fast these members decode, as `Sharing.measure`, each in a small extra KV cache.

        A large model that was never measured takes about a second.
        """
        self.sharing.measure(members, partial(self._cache, n_ctx=MEASURED, n_seq=MOST_ROWS), again=again)

    def resize(self, *, n_ctx: int, n_seq: int) -> None:
        """Make the KV caches again, for `n_seq` sequences of `n_ctx` tokens. They keep what they hold, where llama.cpp
        can copy it: not with a sliding window.

        Raises ModelLoadError if one cannot be made. Then all have their old sizes again, and may be empty.
        """
        self._executor.wait(self._contexts)
        held = {member: (context.saved(), context.n_fed) for member, context in self._contexts.items()}
        before = self.n_ctx, self.n_seq
        try:
            self._remake(n_ctx, n_seq, held)
        except ModelLoadError:
            self._remake(*before, held)
            raise

    def _remake(self, n_ctx: int, n_seq: int, held: Mapping[int, tuple[Mapping[int, SavedSequence], int]]) -> None:
        """Make the KV caches of these members again. `held`: member -> copies of its sequences, and its n_fed."""
        self._close_contexts()  # before new ones are made: all would not fit in memory at the same time
        self.n_ctx, self.n_seq = n_ctx, n_seq
        for member, (sequences, n_fed) in held.items():
            context = self.context(member)
            context.restore(sequences)
            context.n_fed = n_fed

    def _make(self, member: int, *, n_ctx: int, n_seq: int) -> MemberContext:
        """Make the context of a member: of a model that is not on a server, a KV cache."""
        if (remote := self.specs[member].remote) is None:
            return self._cache(member, n_ctx=n_ctx, n_seq=n_seq)
        n_vocab, n_real = self.model(member).n_vocab, Vocabulary.of(remote.vocabulary).n_real
        return RemoteContext(remote.link, n_vocab=n_vocab, n_real=n_real, n_ctx=n_ctx, n_seq=n_seq)

    def _cache(self, member: int, *, n_ctx: int, n_seq: int) -> Context | ChildContext:
        """Make a KV cache of the member, where its model is. If a device is too small for it, put fewer layers there
        until it fits.
        """
        while True:
            try:
                model, lora, n_threads = self.model(member), self.specs[member].lora, self.n_threads
                if isinstance(model, ChildModel):
                    return ChildContext(
                        model, n_ctx=n_ctx, n_seq=n_seq, n_threads=n_threads, lora=lora, kv_type=self.kv_type
                    )
                return Context(model, n_ctx=n_ctx, n_seq=n_seq, n_threads=n_threads, lora=lora, kv_type=self.kv_type)
            except ModelLoadError as error:
                self._fall_back(member, error)
                self._unload(self.specs[member].header.path)

    def close(self) -> None:
        """Free all KV caches, then the weights. What needs a model afterwards raises ModelLoadError."""
        self._closed = True
        self._executor.close()
        self._close_contexts()
        for spec in self.specs:
            if spec.remote is not None:
                spec.remote.link.close()
        for model in self._models.values():
            model.close()
        self._models.clear()

    def _close_contexts(self) -> None:
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()

    # --- decoding ---------------------------------------------------------------------------------------------------

    def wait(self, members: Iterable[int]) -> None:
        """Wait until none of these members decodes. An interrupted call may have left them decoding."""
        self._executor.wait(members)

    def decode(self, feeds: Feeds, into: dict[int, Logits]) -> None:
        """Decode the feeds of each member, and put its logits, (rows, n_vocab), under its index in `into`.

        Raises DecodeError with the member's name, after all members have stopped.
        """
        self._executor.run(self._split(feeds), partial(self._decode, feeds, into))

    def start(self, feeds: Feeds, into: dict[int, Logits]) -> Future[None]:
        """As decode, but all members decode in other threads. Returns a future, which raises the error."""
        return self._executor.start(self._split(feeds), partial(self._decode, feeds, into))

    def more(self, member: int, sequence: int, tokens: Sequence[int], known: int) -> Logits | None:
        """A row with more tokens known, as `MemberContext.more`. Raises DecodeError with the member's name."""
        self.wait((member,))
        try:
            return self._contexts[member].more(sequence, tokens, known)
        except (ContextError, DecodeError, RemoteError) as error:
            raise self._named(member, error) from error

    def _split(self, feeds: Feeds) -> Split:
        """Which members decode when. Sets the threads of each context."""
        split = self.sharing.split({member: sum(len(feed.tokens) for feed in own) for member, own in feeds.items()})
        for member, threads in split.threads.items():
            self._contexts[member].set_threads(threads)
        return split

    def _decode(self, feeds: Feeds, into: dict[int, Logits], member: int) -> None:
        """Decode one member. Runs in a worker's thread; no other thread uses this member or its key of `into`."""
        try:
            into[member] = self._contexts[member].feed(feeds[member])
        except (ContextError, DecodeError, RemoteError) as error:
            raise self._named(member, error) from error

    def _named(self, member: int, error: EftError) -> DecodeError:
        """The error of a member with its name, which may be the address that the error begins with."""
        spec = self.specs[member]
        known = spec.remote is not None and error.message.startswith(spec.model)
        return DecodeError(error.message if known else f"{spec.name}: {error.message}", error.hint)
