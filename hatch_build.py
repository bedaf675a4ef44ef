"""Makes the gRPC stubs from the .proto files, beside them: for every build, and for `make proto`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent


def protos(root: Path = ROOT) -> list[str]:
    """The .proto files, relative to ``proto/``."""
    return sorted(str(path.relative_to(root / "proto")) for path in (root / "proto").rglob("*.proto"))


def run_protoc(root: Path, *outputs: str) -> None:
    """Runs protoc over all .proto files. RuntimeError when it refuses them; its words go to stderr."""
    # protoc looks for protoc-gen-mypy on the PATH; it lies beside the interpreter, activated or not.
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")
    if protoc.main(["protoc", f"-I{root / 'proto'}", *outputs, *protos(root)]):
        raise RuntimeError("protoc refused the .proto files: see its messages above")


def generate(root: Path = ROOT) -> None:
    """Writes messages, services and their types beside each .proto file. Idempotent."""
    out = root / "proto"
    run_protoc(
        root,
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
    )


class StubsHook(BuildHookInterface[Any]):
    """Hatchling calls this before it collects the files of a wheel, an sdist or an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(Path(self.root))


if __name__ == "__main__":
    generate()
