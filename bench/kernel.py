"""What a machine's memory is used for: processes, and the kernel for sockets.

The kernel's share is the growth of its slabs, page tables, stacks and per-processor areas, from
/proc/meminfo; what is in sockets' buffers, from /proc/net/sockstat, is not part of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.servers import rss_bytes

KERNEL = ("Slab", "PageTables", "KernelStack", "Percpu")
SLABS = ("TCP", "UDP", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "tw_sock_TCP")
"""Those that grow with sockets, by name in /proc/slabinfo."""


class Memory(NamedTuple):
    """Bytes at one time."""

    available: int
    kernel: int
    buffers: int
    """In TCP sockets, unread and unsent."""
    processes: int
    slabs: dict[str, int]
    """Empty: /proc/slabinfo is for root alone."""

    def since(self, before: Memory) -> Memory:
        """By how much each grew; `available`: by how much it fell."""
        return Memory(
            before.available - self.available,
            self.kernel - before.kernel,
            self.buffers - before.buffers,
            self.processes - before.processes,
            {name: size - before.slabs.get(name, 0) for name, size in self.slabs.items()},
        )


def memory(pids: Sequence[int] = ()) -> Memory:
    """Now. `pids`: the processes whose resident memory counts."""
    fields = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
    }
    return Memory(
        fields["MemAvailable"],
        sum(fields.get(name, 0) for name in KERNEL),
        socket_pages(Path("/proc/net/sockstat").read_text()) * os.sysconf("SC_PAGE_SIZE"),
        sum(map(rss_bytes, pids)),
        slabs(),
    )


def socket_pages(sockstat: str) -> int:
    """The pages in TCP's buffers."""
    for line in sockstat.splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return int(words[words.index("mem") + 1])
    return 0


def slabs(path: Path = Path("/proc/slabinfo")) -> dict[str, int]:
    """Bytes of each of `SLABS`."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, int] = {}
    for line in lines:
        name, *words = line.split()
        if name in SLABS:
            found[name] = int(words[1]) * int(words[2])  # objects there are, in use or not; bytes of each
    return found
