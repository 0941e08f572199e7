"""How a training process ends: with which exit code, and which words. A room of its own, since what ends a run comes
from everywhere, and must leave the other processes of the group neither waiting nor guessing.
"""

import sys
import traceback
from collections.abc import Callable

from runtime.distributed import end_process_group, is_distributed, is_peers_failure, print_main, rank
from runtime.errors import UserError
from runtime.signals import ResumeCommand, Stopped, StopRequest


def exit_code_of(work: Callable[[], None], command: ResumeCommand) -> int:
    """Does the work, leaves the process group, and returns the exit code; what a user can mend is said in one message.

    Args:
        work: the run.
        command: printed after a stop.
    """
    code, failed = 0, False
    try:
        with StopRequest(at_once=True):
            work()
    except Stopped as stopped:
        print_main(f"{stopped}. Continue with: {command}")
        code = stopped.exit_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code, failed = 1, True
    except KeyboardInterrupt:
        print(f"interrupted. Continue with: {command}", file=sys.stderr)
        code, failed = 130, True
    except Exception as error:
        if isinstance(error, RuntimeError) and is_peers_failure(error):
            print(f"error: rank {rank()} ends since another process has ended: its message says why", file=sys.stderr)
        elif is_distributed():
            traceback.print_exc()  # nothing prints it where the process ends at once
        else:
            raise
        code, failed = 1, True
    end_process_group(code if failed else None)
    return code
