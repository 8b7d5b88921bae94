"""The runs of the demo family's study. Each stage varies one thing around what the stages before it chose."""

from collections.abc import Iterator
from dataclasses import replace

from .lab import Setting

METHODS = ("lora", "full", "mofo")
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
EPOCHS = {50: 10.0, 200: 5.0, 1000: 2.0}  # examples -> how often each is seen, where nothing else is said
SEEDS, FINAL = (0, 1, 2), (10, 11, 12, 13, 14)
KINDS = tuple((method, consistent) for method in METHODS for consistent in (False, True))


def rates() -> Iterator[Setting]:
    """Each method, plain and consistent, at each rate, for each number of examples."""
    for seed in SEEDS:
        for n, epochs in EPOCHS.items():
            for method, consistent in KINDS:
                for lr in RATES:
                    yield Setting(method=method, consistent=consistent, lr=lr, n=n, epochs=epochs, seed=seed)


def trial() -> Iterator[Setting]:
    """What two ways to find a rate say of the data of each of those runs."""
    for setting in rates():
        if setting.lr == RATES[0]:
            yield replace(setting, lr=1e-3)


def epochs() -> Iterator[Setting]:
    """How long, and with which rate, since both together say how far the parameters move."""
    for seed in SEEDS:
        for n, several in {50: (5.0, 20.0, 40.0), 200: (2.0, 10.0, 20.0), 1000: (1.0, 4.0, 8.0)}.items():
            for method in METHODS:
                for lr in RATES[1:4]:
                    for times in several:
                        yield Setting(method=method, consistent=True, lr=lr, n=n, epochs=times, seed=seed)


def sizes() -> Iterator[Setting]:
    """MoFO's fraction, LoRA's rank and alpha, and the beta of the consistent loss."""
    for seed in SEEDS:
        for n, times in ((50, 10.0), (1000, 2.0)):
            common = Setting(consistent=True, n=n, epochs=times, seed=seed)
            for lr in RATES[1:4]:
                for fraction in (0.01, 0.02, 0.1, 0.15, 0.3):
                    yield replace(common, method="mofo", lr=lr, fraction=fraction)
                for fraction in (0.05, 0.15, 0.3):
                    yield replace(common, method="lora+mofo", lr=lr, fraction=fraction)
                for rank, alpha in ((4, 8.0), (8, 16.0), (16, 16.0), (16, 64.0), (32, 64.0), (64, 128.0)):
                    yield replace(common, lr=lr, rank=rank, alpha=alpha)
                for beta in (0.5, 1.5, 2.0):
                    for method in ("lora", "mofo"):
                        yield replace(common, method=method, lr=lr, beta=beta)


def patience() -> Iterator[Setting]:
    """When to stop: looks in a row that bring nothing better."""
    for seed in SEEDS:
        for n, times in ((50, 40.0), (1000, 8.0)):
            for method in ("lora", "mofo"):
                for most in (2, 4, 10):
                    for looks in (10, 20):
                        yield Setting(
                            method=method, consistent=True, n=n, epochs=times, seed=seed, patience=most, looks=looks
                        )


def forget() -> Iterator[Setting]:
    """The path of full and MoFO, in small pieces: what is forgotten at each held-out loss."""
    for seed in FINAL:
        for n, times in ((50, 10.0), (1000, 2.0)):
            for method in METHODS:
                for consistent in (False, True):
                    for lr in RATES[1:4]:
                        yield Setting(
                            method=method,
                            consistent=consistent,
                            lr=lr,
                            n=n,
                            epochs=times,
                            seed=seed,
                            looks=30,
                            patience=99,
                        )


def final() -> Iterator[Setting]:
    """The final figures: other seeds, and the held-out questions, also at rates beside the best."""
    for seed in FINAL:
        for n, times in EPOCHS.items():
            for method, consistent in KINDS:
                for lr in RATES[1:4]:
                    yield Setting(method=method, consistent=consistent, lr=lr, n=n, epochs=times, seed=seed)


STAGES = {f.__name__: f for f in (rates, final, forget, trial, epochs, sizes, patience)}
WHAT = {"trial": "trial", "forget": "path", "final": "development,questions"}
