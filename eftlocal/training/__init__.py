"""Training: a GGUF model as a torch model, what it is trained on, and how. Only this folder imports torch.

Importing it without the extra `tune` raises TrainingError, which says what to install.
"""

from eftlocal.errors import TrainingError

try:
    import gguf  # noqa: F401 - the modules of this folder import them
    import torch  # noqa: F401
except ImportError as error:
    raise TrainingError(
        f"Training needs the package {error.name}, which is not installed.",
        "pip install 'eftlocal[tune]' --extra-index-url https://download.pytorch.org/whl/cpu (without a GPU)",
    ) from None
