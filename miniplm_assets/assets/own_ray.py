"""Ray for one run alone, on this machine: nobody else reaches it. Imported where an experiment asks for Ray.

As it comes, Ray listens on every address of the machine, and keeps its sockets and logs in a folder in /tmp that any
user may make first. Whoever reaches it can run code as this user.
"""

import os
import secrets
import shutil
import tempfile
from typing import Any, Final

from dagster_ray import LocalRay  # noqa: TID253 - nobody imports this module unless Ray is asked for
from pydantic import PrivateAttr

from miniplm_assets.lineage.ray_crew import is_cluster_named

# What Ray reads as it starts here, and its processes after it.
LOOPBACK_ALONE: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # named after the systems where it is the default
TOKEN: Final = "RAY_AUTH_TOKEN"  # noqa: S105 - the name of a variable
TEMPORARY: Final = "RAY_TMPDIR"


class OwnRay(LocalRay):  # type: ignore[misc, unused-ignore]
    """The cluster that RAY_ADDRESS names, as it is; else one on this machine's loopback, behind a token of its own."""

    _folder: str | None = PrivateAttr(default=None)

    def connect(self, context: Any) -> Any:
        """Connect, or start Ray and connect."""
        if is_cluster_named():
            return super().connect(context)
        self._folder = tempfile.mkdtemp(prefix="miniplm-ray-")
        os.environ.update(LOOPBACK_ALONE | {TEMPORARY: self._folder})
        # Ray has it on by itself, with a token in the home folder, unless RAY_AUTH_MODE says otherwise.
        os.environ.setdefault(TOKEN, secrets.token_hex(32))
        from ray._private import ray_constants

        ray_constants.ENABLE_RAY_CLUSTER = False  # where Ray was imported before, it has read its variable
        return super().connect(context)

    def cleanup(self, context: Any, exception: BaseException | None) -> None:
        """Disconnect, which ends a Ray that was started here; nothing of it is left."""
        super().cleanup(context, exception)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
