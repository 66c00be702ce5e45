"""Reads TensorBoard's event files as TensorBoard does: what starts at a step forgets what was said from it on.

The format of records: length (8 bytes), its checksum (4), an Event as protocol buffer, its checksum (4).
"""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog


def events(path: Path) -> list[Event]:
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) pairs of each curve of a run, in the order of the files' names."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("*tfevents*")):
        for event in events(path):
            if event.session_log.status == SessionLog.START:
                for name, points in found.items():
                    found[name] = [point for point in points if point[0] < event.step]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found
