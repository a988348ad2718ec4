"""Inside the sandbox: what `sandbox.py` starts as a script, by path, in a bare interpreter.

Three processes. The supervisor reads the job and leaves the machine's namespaces; `init` is the
first process of its own process space (the supervisor itself, where there is none): it closes the
file system, starts the program, waits, kills whatever is left, and reports; the program runs with
limits and without rights. Each isolating step is tried on its own, and the report names those that
worked. Uses the standard library alone and never imports qwick.

Linux: unshare(2), user_namespaces(7), mount_setattr(2), capset(2), prctl(2), getrlimit(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
SPACES = NEW_MOUNTS | NEW_IPC | NEW_PIDS | NEW_NETWORK
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
QUIET = MS_NOSUID | MS_NODEV | MS_NOEXEC
MOUNT_SETATTR = 442  # the same number on every architecture but alpha
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
CAPSET = {"x86_64": 126, "aarch64": 91}
CAPABILITY_VERSION = 0x20080522
SET_PDEATHSIG, SET_DUMPABLE, SET_NO_NEW_PRIVS, SET_CHILD_SUBREAPER = 1, 4, 38, 36
NOBODY = 65534  # the kernel's overflow id: owns nothing
HOMES = ("/root", "/home")
SCRATCH_BYTES = 16 << 20
SWEEP_SECONDS = 5.0
REPORT_BYTES = 1 << 16

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Do the job that stdin describes; one JSON line on stdout tells how it went."""
    job = json.load(sys.stdin)
    out = hide_descriptors()
    root = os.geteuid() == 0
    if root:
        os.chown(job["work"], NOBODY, NOBODY)
    job["spare"] = tasks_of(NOBODY if root else os.geteuid())
    spaces = root and unshare(SPACES)
    if not spaces:
        if root and all_may_read(os.__file__):
            become_nobody()
        spaces = enter_user_space()
        if spaces:
            job["spare"] = 3  # counted in the new user space alone: supervisor, init, program
    steps: list[str] = []
    if spaces:
        steps += ["network", "leftovers"]
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            os._exit(0)
        die_with_parent()
        steps += close_files(job["work"])
    else:
        libc.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # The program is still to become nobody, unless it could not import any more then.
    job["root"] = os.geteuid() == 0 and all_may_read(os.__file__)
    if job["root"] or os.geteuid() != 0:
        steps.append("processes")  # root's are not limited by the kernel
    report = supervise(job)
    if not spaces:
        sweep()
    os.write(out, json.dumps({**report, "isolation": steps}).encode() + b"\n")
    os._exit(0)  # init's end is the end of its whole process space


def hide_descriptors() -> int:
    """Point 0, 1 and 2 to nothing; return a private descriptor of what was stdout.

    stderr stays until the program starts: it tells of defects of this file.
    """
    out = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return out


# -- leaving the machine ---------------------------------------------------------------------------


def unshare(flags: int) -> bool:
    """Leave the namespaces; whether the kernel let us."""
    return bool(libc.unshare(flags) == 0)


def enter_user_space() -> bool:
    """Leave the namespaces as an ordinary user: within a user namespace that maps only us."""
    user, group = os.geteuid(), os.getegid()
    if not unshare(SPACES | NEW_USER):
        return False
    with contextlib.suppress(OSError):
        write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{user} {user} 1")
    write("/proc/self/gid_map", f"{group} {group} 1")
    return True


def write(path: str, text: str) -> None:
    """Write `text` in one call, as the files of /proc want it."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def all_may_read(path: str) -> bool:
    """Whether any user may read the file: the interpreter still imports while the program runs."""
    if not os.stat(path).st_mode & 0o004:
        return False
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & 0o001:
            return False
    return True


def tasks_of(user: int) -> int:
    """Return how many tasks `user` has on the machine: the kernel's limit counts them all."""
    count = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == user:
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


# -- closing the file system -----------------------------------------------------------------------


def mount(kind: str, target: str, flags: int, options: str = "") -> bool:
    """Mount a `kind` file system of its own; whether it worked."""
    name = kind.encode()
    return bool(libc.mount(name, target.encode(), name, flags, options.encode()) == 0)


def close_files(work: str) -> list[str]:
    """Make every file read-only, hide homes and other processes, put a small disk at `work`."""
    done: list[str] = []
    if libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        return done
    attributes = (ctypes.c_uint64 * 4)(MS_RDONLY | MS_NOSUID, 0, 0, 0)  # set, clear, propagation
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    everything = ctypes.c_uint(AT_RECURSIVE)
    if libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", everything, attributes, size) == 0:
        done.append("writing")
    hidden = [hide_home(home) for home in HOMES if os.path.isdir(home)]
    if all(hidden):
        done.append("homes")
    # A new /proc shows this process space only; where the kernel forbids one, an empty folder does.
    if not mount("proc", "/proc", QUIET):
        mount("tmpfs", "/proc", QUIET | MS_RDONLY, "size=4k")
    owner, group = (NOBODY, NOBODY) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    options = f"size={SCRATCH_BYTES},nr_inodes=1024,mode=0700,uid={owner},gid={group}"
    if not mount("tmpfs", work, MS_NOSUID | MS_NODEV, options) and "writing" in done:
        raise OSError(ctypes.get_errno(), "no scratch disk for the program")
    os.chdir(work)
    return done


def hide_home(home: str) -> bool:
    """Put an empty folder over `home`; an interpreter that lives inside stays where it is."""
    prefix = os.path.realpath(sys.base_prefix)
    inside = f"{prefix}/".startswith(f"{home}/")
    kept = os.open(prefix, os.O_PATH) if inside else -1
    try:
        if not mount("tmpfs", home, QUIET, "size=64k,mode=0755"):
            return False
        if inside:
            os.makedirs(prefix)
            source, target = f"/proc/self/fd/{kept}".encode(), prefix.encode()
            if libc.mount(source, target, None, MS_BIND | MS_REC, None) != 0:
                raise OSError(ctypes.get_errno(), f"cannot keep {prefix} in reach")
        return mount("tmpfs", home, QUIET | MS_REMOUNT | MS_RDONLY, "size=64k,mode=0755")
    finally:
        if inside:
            os.close(kept)


# -- running the program ---------------------------------------------------------------------------


def supervise(job: dict[str, Any]) -> dict[str, str]:
    """Run the program in a child of its own; return the report's status and detail."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    end = time.monotonic() + job["seconds"]
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(inlet)
        run(job, outlet)
    os.close(outlet)
    code = wait_for(child, end)
    if code is None:
        return {"status": "timeout", "detail": f"still running after {job['seconds']:g} s"}
    os.set_blocking(inlet, False)
    told = b""
    with contextlib.suppress(BlockingIOError):
        told = os.read(inlet, REPORT_BYTES)
    for line in told.split(b"\n"):
        token, _, rest = line.partition(b" ")
        if token == job["token"].encode():  # else: the program wrote into a stranger's pipe
            found: dict[str, str] = json.loads(rest)
            return found
    if os.WIFSIGNALED(code):
        name = signal.Signals(os.WTERMSIG(code)).name
        return {"status": "died", "detail": f"killed by {name}"}
    ended = f"exit status {os.WEXITSTATUS(code)} before the end of the program"
    return {"status": "died", "detail": ended}


def wait_for(child: int, end: float) -> int | None:
    """Return the child's wait status, or None at time `end`; reaps whoever else dies meanwhile."""
    while True:
        with contextlib.suppress(ChildProcessError):
            while True:
                found, code = os.waitpid(-1, os.WNOHANG)
                if found == child:
                    return code
                if found == 0:
                    break
        left = end - time.monotonic()
        if left <= 0:
            return None
        signal.sigtimedwait([signal.SIGCHLD], left)


def run(job: dict[str, Any], outlet: int) -> NoReturn:
    """Become powerless, then run the program; tell how it ended, if it lets us."""
    for descriptor in range(3, 64):
        if descriptor != outlet:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    os.setsid()
    give_up_rights(job)
    os.dup2(1, 2)
    program, token, own = job.pop("program"), job.pop("token"), os.getpid()
    try:
        exec(compile(program, "program.py", "exec"), {"__name__": "program"})
        status, detail = "passed", ""
    except BaseException as error:  # SystemExit before the last line is a failure like any other
        status, detail = "failed", describe(error)
    if os.getpid() != own:  # a fork of the program came to its end
        os._exit(0)
    with contextlib.suppress(BaseException):
        told = json.dumps({"status": status, "detail": detail})
        os.write(outlet, f"{token} {told}\n".encode())
    os._exit(0)


def give_up_rights(job: dict[str, Any]) -> None:
    """Set every limit and drop every privilege; none can be taken back."""
    if job["root"]:
        become_nobody()
    for what, most in (
        (resource.RLIMIT_CPU, job["cpu_seconds"]),
        (resource.RLIMIT_AS, job["memory"]),
        (resource.RLIMIT_FSIZE, job["file_bytes"]),
        (resource.RLIMIT_NPROC, job["processes"] + job["spare"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    drop_capabilities()
    die_with_parent()  # last: a change of user clears it
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def become_nobody() -> None:
    """Change from root to the user who owns nothing."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    libc.prctl(SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self would belong to root from here on


def drop_capabilities() -> None:
    """Give up what root, or the maker of a user namespace, may do."""
    number = CAPSET.get(os.uname().machine)
    if number is None:
        return
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    if libc.syscall(number, header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies."""
    libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def describe(error: BaseException) -> str:
    """Return type and message, shortened; the program may have made either hostile."""
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except BaseException:
        return "an error that cannot be shown"


# -- afterwards, without a process space of its own ------------------------------------------------


def sweep() -> None:
    """Kill all descendants: orphans become our children (PR_SET_CHILD_SUBREAPER)."""
    end = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < end:
        for child in children():
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def children() -> Iterator[int]:
    """Yield the processes whose parent is this one."""
    own = os.getpid()
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if name.isdecimal():
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == own:
                        yield int(name)


if __name__ == "__main__":
    main()
