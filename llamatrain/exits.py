"""How a program ends: its exit code, and what it says where it fails. Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

from . import distributed
from .errors import BadNodeError, DiskError, LostRankError, mistake, no_space
from .stopping import EXIT_STOPPED, Stopped
from .watch import EXIT_HUNG

EXIT_FAILURE, EXIT_USER, EXIT_BAD_NODE = 1, 2, 76


def guarded(body: Callable[[], int], leaves: bool) -> int:
    """Return the exit code of `body`, or that of what it raised, which is said in a line where the user can mend it.

    `leaves`: the process ends with it, so that it leaves the other ranks.
    """
    try:
        code = body()
        if leaves:
            distributed.leave()  # after success alone: where a rank failed the others would wait for it
        sys.stdout.flush()  # here, where a reader who has seen enough is no failure
        return code
    except Stopped as stop:
        if os.environ.get("RANK", "0") == "0":
            print(f"stopped: {stop}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # standard output leads nowhere from here on, or the flush at exit would fail once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except BadNodeError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_NODE
    except LostRankError as error:
        print(f"error: rank {os.environ.get('RANK', '0')}: {error}", file=sys.stderr)
        return EXIT_HUNG
    except Exception as error:
        said = mistake(error)
        if said is not None:
            if os.environ.get("LLAMATRAIN_VERBOSE") == "1":
                traceback.print_exc()
            if _first_here():
                print(f"error: {said}", file=sys.stderr)
            return EXIT_FAILURE if isinstance(error, DiskError) or no_space(error) else EXIT_USER
        if distributed.lost_peer(error):  # what happened is told there
            print(f"rank {os.environ.get('RANK', '0')}: exiting because another rank has exited", file=sys.stderr)
        else:
            traceback.print_exc()
        return EXIT_FAILURE


def _first_here() -> bool:
    """Tell whether this rank speaks for its machine: one message each, as a file may be missing on one of them alone."""
    env = os.environ
    own = env.get("LOCAL_RANK", env.get("RANK", env.get("SLURM_LOCALID", "0")))
    world = env.get("WORLD_SIZE", env.get("SLURM_STEP_NUM_TASKS", "1"))
    if own.isdigit() and world.isdigit() and int(own) < int(world):
        return own == "0"
    return True  # the mistake may be the number itself
