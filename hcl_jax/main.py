"""Trains and evaluates a recipe.

python -m hcl_jax.main --config=simclr:digits --workdir=runs/digits
python -m hcl_jax.main --config=configs/simclr.py:cifar10 --config.optimizer.learning_rate=0.3 --workdir=DIR
python -m hcl_jax.main --workdir=DIR             resumes the run that DIR holds
python -m hcl_jax.main --workdir=DIR --config.train.steps=2000
                                                 makes it longer
python -m hcl_jax.main --config=simclr:imagenet --steps=2
                                                 tries a recipe on random input of the right shape, without its data
"""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import traceback

from hcl_jax import config as configs
from hcl_jax.cli import plain_log, read_config, recipe_parser, with_overrides
from hcl_jax.errors import NO_ROOM, CorruptState, InputError
from hcl_jax.runtime import distributed, programs


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The flags, and the overrides [(field, text)] of --config.FIELD=VALUE. Exits with 0 on --help, 2 on a fault."""
    parser = recipe_parser("main", __doc__, workdir="the run's folder; a run goes on")
    parser.epilog = f"Packaged recipes: {', '.join(configs.recipe_names())}. docs/config.md lists every field."
    parser.add_argument("--steps", type=int, metavar="N", help="N steps on random input, without data or evaluation")
    parser.add_argument("--profile", action="store_true", help="write a trace of ten steps to DIR/profile")
    return with_overrides(parser, arguments)


def _shown_choices() -> contextlib.AbstractContextManager[None]:
    """What the package logs (an engine `auto` that left dense) is printed once, not once a process."""
    from hcl_jax.runtime import processes

    return plain_log(sys.stdout, logging.INFO) if processes.index() == 0 else contextlib.nullcontext()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    known, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    alone = False  # whether this process alone knows what went wrong
    try:
        config = read_config(known, overrides)
        if known.workdir == "" or (known.workdir is None and known.steps is None):
            raise InputError("--workdir", "nothing", "the folder for this run")
        configs.check_section(config, "limits")
        distributed.prepare()
        distributed.join(config.limits.heartbeat, config.limits.barrier)
        with plain_log():
            programs.keep(programs.word_of(config))
        from hcl_jax.runtime.preemption import ctrl_c_saves, status_of_end
        from hcl_jax.train import train_and_evaluate
        from hcl_jax.workdir.quiet import silence_failed_saves

        silence_failed_saves()
        with _shown_choices(), tempfile.TemporaryDirectory() as scratch, ctrl_c_saves() as asked:
            train_and_evaluate(config, known.workdir or scratch, try_steps=known.steps, profile=known.profile)
        return 130 if asked.pressed else status_of_end()
    except InputError as error:
        status, text, alone = 2, str(error), not error.shared
    except KeyboardInterrupt:
        later = f"; --workdir={known.workdir} goes on from what is saved" if known.workdir else ""
        status, text = 130, f"stopped{later}"
    except (FloatingPointError, CorruptState) as error:
        status, text = 1, str(error)
    except TimeoutError as error:
        # That of a lost peer (runtime/preemption.py), with which launch.restart starts this process again.
        status, text, alone = 134 if _is_of_a_peer(error) else 1, str(error), True
    except OSError as error:
        if error.errno not in NO_ROOM:
            _leave(1, traceback.format_exc())
            raise
        status, text, alone = 2, f"--workdir={known.workdir}: {error.strerror}; what is saved is whole", True
    except Exception:
        _leave(1, traceback.format_exc())
        raise
    if alone:
        _leave(status, f"hcl_jax: {text}")
    if alone or _speaks():
        print(f"hcl_jax: {text}", file=sys.stderr)
    return status


def _is_of_a_peer(error: Exception) -> bool:
    if "jax" not in sys.modules:
        return False
    from hcl_jax.runtime import processes

    return processes.is_of_a_peer(error)


def _leave(status: int, text: str) -> None:
    """Ends one of several processes at once: an ordinary end waits for the others, and they wait for this one."""
    if "jax" in sys.modules:
        from hcl_jax.runtime import processes

        if processes.count() > 1:
            print(text, file=sys.stderr, flush=True)
            os._exit(status)


def _speaks() -> bool:
    """Whether this process is the first; unknown for one that has not joined the others."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return True
    from hcl_jax.runtime import processes

    return processes.index() == 0


if __name__ == "__main__":
    sys.exit(main())
