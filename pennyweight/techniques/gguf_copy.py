"""One GGUF file written from another: what is alike whenever that is done."""

from __future__ import annotations

from typing import Any


def copy_metadata(reader: Any, writer: Any, *, without: tuple[str, ...] = ()) -> None:
    """All of a reader's metadata into a writer, but for what the writer sets itself and names that begin with one of
    `without`."""
    import gguf

    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", *without)) or field.name == "general.architecture":
            continue
        sub_type = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)


def finish(writer: Any) -> None:
    """Write everything that was added, and close."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
