"""Processes that hear the signals which the shell above the tests ignores.

What `nohup`, or a `&` in a script, makes ignored stays so in every child, and Python then makes no KeyboardInterrupt.
"""

import sys

# Stands before a command: the same process then becomes it. No preexec_fn, for a fork beside JAX's threads warns.
HEARD = [
    sys.executable, "-S", "-c",
    "import os, signal, sys\n"
    "for n in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP): signal.signal(n, signal.SIG_DFL)\n"
    "os.execvp(sys.argv[1], sys.argv[1:])",
]  # fmt: skip
# As `setsid nohup COMMAND &` in a script leaves them.
DEAF = ["sh", "-c", 'trap "" INT QUIT HUP; exec "$@"', "sh"]
