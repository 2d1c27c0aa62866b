"""How Orbax makes a finished step visible: together with its manifest, in one rename."""

import shutil

import orbax.checkpoint as ocp
from etils import epath

from hcl_jax.disk import whole
from hcl_jax.workdir import files, manifest

TEMPORARY = ocp.path.atomicity.TMP_DIR_SUFFIX


def with_manifest(folder: epath.Path) -> type:
    """Orbax's temporary path for the steps of a folder, with the manifest before the rename (on a disk) or last (gs://).

    Args:
      folder: `checkpoints/` of a workdir.
    """
    ways = ocp.path.atomicity
    plain = ways.AtomicRenameTemporaryPath if files.is_disk(folder) else ways.CommitFileTemporaryPath

    class WithManifest(plain):  # type: ignore[misc, valid-type]
        async def finalize(self) -> None:
            final = self.get_final()
            if final.parent != folder:  # an item inside of a step
                await super().finalize()
                return
            if not files.is_disk(folder):
                await super().finalize()
                manifest.write(final, {"step": int(final.name)})
                return
            # Orbax renames to a place that it cleans up as unfinished, the manifest is added, and the rename that
            # counts comes last: no step is ever visible without its manifest.
            staged = folder / f"{final.name}{TEMPORARY}-sealing"
            shutil.rmtree(staged, ignore_errors=True)
            self._final_path = staged
            try:
                await super().finalize()
            finally:
                self._final_path = final
            if not (staged / "state" / "manifest.ocdbt").exists():
                raise OSError(f"{final}: Orbax left the parts of the state apart")
            manifest.write(staged, {"step": int(final.name)})
            staged.rename(final)
            whole.flush(folder)

    return WithManifest
