"""Checks the protocol: the stubs on disk are those of the .proto files, and no released message broke.

What may not change once released (``proto/released.binpb``, a FileDescriptorSet): the number, name,
type and cardinality of a field, the name and number of an enum's value, the messages of an RPC. A
field or value may go when its number and its name are ``reserved``.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
RELEASED = ROOT / "proto" / "released.binpb"


def described(root: Path = ROOT) -> FileDescriptorSet:
    """What the .proto files say now."""
    from hatch_build import run_protoc

    with tempfile.NamedTemporaryFile() as out:
        run_protoc(root, f"--descriptor_set_out={out.name}")
        files = FileDescriptorSet.FromString(Path(out.name).read_bytes())
    for _, declaration in _declarations(files):
        for field in getattr(declaration, "field", ()):
            field.ClearField("json_name")  # protoc writes it here but not into the stubs
    return files


def stale(now: FileDescriptorSet) -> Iterator[str]:
    """A line for each .proto file whose stubs were made from another text."""
    for file in now.file:
        module = importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
        if FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb) != file:
            yield f"{file.name}: its stubs are of an older text; run `make proto`"


def broken(released: FileDescriptorSet, now: FileDescriptorSet) -> Iterator[str]:
    """A line for each promise of ``released`` that ``now`` does not keep."""
    current = dict(_declarations(now))
    for name, old in _declarations(released):
        new = current.get(name)
        if new is None:
            yield f"{name}: was released and is gone"
        elif hasattr(old, "field"):
            yield from _kept(name, old, new, {f.number: _field(f) for f in new.field}, old.field)
        elif hasattr(old, "value"):
            yield from _kept(name, old, new, {v.number: (v.name,) for v in new.value}, old.value)
        else:
            methods = {m.name: _method(m) for m in new.method}
            for method in old.method:
                if methods.get(method.name) != _method(method):
                    yield f"{name}.{method.name}: was released and is gone or takes other messages"


def _kept(name: str, old: Any, new: Any, members: dict[int, tuple[Any, ...]], released: Any) -> Iterator[str]:
    # A message's reserved range excludes its end, an enum's includes it.
    past_end = 0 if hasattr(old, "field") else 1
    for member in released:
        promise = _field(member) if hasattr(old, "field") else (member.name,)
        if member.number in members:
            if members[member.number] != promise:
                yield (
                    f"{name}.{member.name} = {member.number}: was {promise}, is {members[member.number]}; "
                    "give the new meaning a new number"
                )
        elif member.name not in new.reserved_name or not any(
            r.start <= member.number < r.end + past_end for r in new.reserved_range
        ):
            yield (
                f"{name}.{member.name} = {member.number}: is gone; add `reserved {member.number}; "
                f'reserved "{member.name}";` and a line that says what it was'
            )


def _declarations(files: FileDescriptorSet) -> Iterator[tuple[str, Any]]:
    """Every message, enum and service with its full name."""
    for file in files.file:
        found: list[tuple[str, Any]] = [(file.package, message) for message in file.message_type]
        found += [(file.package, other) for other in (*file.enum_type, *file.service)]
        for scope, declaration in found:
            name = f"{scope}.{declaration.name}"
            yield name, declaration
            for part in ("nested_type", "enum_type"):
                found += [(name, inner) for inner in getattr(declaration, part, ())]


def _field(field: Any) -> tuple[Any, ...]:
    return field.name, field.Type.Name(field.type), field.Label.Name(field.label), field.type_name


def _method(method: Any) -> tuple[Any, ...]:
    return method.input_type, method.output_type, method.client_streaming, method.server_streaming


def main() -> None:
    now = described()
    if "--release" in sys.argv[1:]:
        RELEASED.write_bytes(now.SerializeToString(deterministic=True))
        return
    released = FileDescriptorSet.FromString(RELEASED.read_bytes())
    if complaints := [*stale(now), *broken(released, now)]:
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main()
