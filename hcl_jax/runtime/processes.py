"""Agreement between the processes of a run, through the coordinator's key-value store: no device, no collective.

Every wait has a limit. A run of one process needs no coordinator.
"""

import collections
import json
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed  # the store has no public name in jax 0.10

from hcl_jax.errors import InputError

_calls: collections.Counter[str] = collections.Counter()
_alone: dict[str, str] = {}  # the store of a run of one process


def count() -> int:
    """How many processes the run has. jax.process_count() waits for all of them, minutes long, the first time."""
    joined = distributed.global_state.num_processes or 1
    return joined if joined > 1 else jax.process_count()


def index() -> int:
    """The number of this process; like `count`, it waits for no other one."""
    joined = distributed.global_state.num_processes or 1
    return distributed.global_state.process_id if joined > 1 else jax.process_index()


def publish(key: str, text: str) -> None:
    """Stores a text that every process can read; a key is set once."""
    client = distributed.global_state.client
    if client is None:
        _alone.setdefault(key, text)
    else:
        client.key_value_set(f"hcl_jax/{key}", text)


def published(prefix: str) -> dict[str, str]:
    """The texts whose key begins with `prefix` and a slash, {rest of the key: text}."""
    client = distributed.global_state.client
    start = f"{prefix}/"
    if client is None:
        return {k.removeprefix(start): v for k, v in _alone.items() if k.startswith(start)}
    entries = client.key_value_dir_get(f"hcl_jax/{start}")
    return {k.partition(f"hcl_jax/{start}")[2]: v for k, v in entries}


def broadcast_from_first(name: str, compute: Callable[[], Any], seconds: float) -> Any:
    """The result of `compute` in the first process, in all of them; an InputError there is raised everywhere.

    Args:
      name: what it is about, for messages. All processes call in the same order.
      compute: returns something that JSON can hold; called in the first process only.
      seconds: how long to wait for it.

    Raises:
      TimeoutError: no result in that time.
    """
    if count() == 1:
        return compute()
    key = _key(name)
    if index() == 0:
        try:
            message = {"value": compute()}
        except InputError as error:
            publish(key, json.dumps({"error": [error.where, str(error.found), error.allowed]}))
            raise
        publish(key, json.dumps(message))
    message = json.loads(_wait(key, seconds, f"process 0 about {name}"))
    if "error" in message:
        raise _shared(*message["error"])
    return message["value"]


def assert_equal(name: str, value: dict[str, str], seconds: float) -> None:
    """Refuses to go on unless all processes have the same value.

    Args:
      name: what it is about, for messages. All processes call in the same order.
      value: {field: text}.
      seconds: how long to wait for the others.

    Raises:
      InputError: naming the process and the field, with both texts.
      TimeoutError: a process published nothing in that time.
    """
    if count() == 1:
        return
    key = _key(name)
    publish(f"{key}/{index()}", json.dumps(value))
    for i in range(count()):
        other = json.loads(_wait(f"{key}/{i}", seconds, f"process {i} about {name}"))
        if i == 0:
            first = other
        for field in sorted(first.keys() | other.keys()):
            if first.get(field) != other.get(field):
                raise _shared(f"process {i}: {field}", other.get(field), f"{first.get(field)}, as process 0 has it")


def run_on_all(name: str, work: Callable[[], Any], seconds: float) -> Any:
    """The result of the same work in every process; if one is refused, all of them raise that one's InputError.

    Otherwise the others would hang at their next collective, waiting for one that has left.
    """
    if count() == 1:
        return work()
    key, refusal, result = _key(name), "", None
    try:
        result = work()
    except InputError as error:
        refusal = json.dumps([error.where, str(error.found), error.allowed])
    publish(f"{key}/{index()}", refusal)
    for i in range(count()):
        first = _wait(f"{key}/{i}", seconds, f"process {i} about {name}")
        if first:
            raise _shared(*json.loads(first))
    return result


def is_of_a_peer(error: BaseException | None) -> bool:
    """Whether an error is what the loss of another process looks like: one of the runtime, or a wait without an end.

    Orbax raises such ones from others of its own. A disk that takes too long has an errno; a wait for a peer has none.
    """
    while error is not None and count() > 1:
        timeout = isinstance(error, TimeoutError) and error.errno is None
        if timeout or isinstance(error, jax.errors.JaxRuntimeError):
            return True
        error = error.__cause__
    return False


def agree(name: str, work: Callable[[], dict[str, str]], seconds: float) -> None:
    """As `assert_equal` of what `work` returns; not called where there is one process.

    Raises:
      InputError: of `work` in one of them, or of a difference.
    """
    if count() > 1:
        assert_equal(name, run_on_all(name, work, seconds), seconds)


def _shared(where: str, found: object, allowed: str) -> InputError:
    error = InputError(where, found, allowed)
    error.shared = True
    return error


def _key(name: str) -> str:
    _calls[name] += 1
    return f"{name}/{_calls[name]}"


def _wait(key: str, seconds: float, what: str) -> str:
    client = distributed.global_state.client
    assert client is not None  # a run of several processes has one
    try:
        return client.blocking_key_value_get(f"hcl_jax/{key}", int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise TimeoutError(f"waited {seconds:.0f} s for {what}; is that process stuck or gone? ({error})") from None
