"""Training: a GGUF model as a torch model, what it is trained on, and how. Only this folder imports torch.

Importing it without the extra `tune` raises TrainingError, which says what to install.
"""

import os

from eftlocal.errors import TrainingError

# torch's threads wait for each other by spinning, so on a machine that does something else a step took twelve times as
# long with two threads as with one (700 tokens a second instead of 8,400). OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import gguf  # noqa: F401 - the modules of this folder import them
    import torch  # noqa: F401
except ImportError as error:
    raise TrainingError(
        f"Training needs the package {error.name}, which is not installed.",
        "pip install 'eftlocal[tune]' --extra-index-url https://download.pytorch.org/whl/cpu (without a GPU)",
    ) from None
