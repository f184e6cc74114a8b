"""`scripts/cluster up | status | restart | down`: the whole cluster on this machine, really."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import time
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from composition import LocalCluster, Wanted
from members import ClusterProblem, Member
from nginx import NginxProblem

from elasticsearch_cluster import SetupProblem

USUAL_FOLDER = f"/var/tmp/pratai-cluster-{getpass.getuser()}"


class Progress:
    """Lines on stderr with the seconds since the start."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self, text: str) -> None:
        """Say what is being done."""
        print(f"[{time.monotonic() - self.began:5.1f} s] {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Run one command."""
    given = arguments()
    tell = Progress()
    cluster = LocalCluster(given.data, tell)
    known = cluster.load()
    try:
        if given.command == "up":
            return up(cluster, given, tell, known=known)
        if not known:
            print(f"No cluster runs over {given.data}.", file=sys.stderr)
            return 0 if given.command == "down" else 1
        if given.command == "status":
            return status(cluster, as_json=given.json)
        if given.command == "restart":
            for name in given.names:
                cluster.restart(name)
                tell(f"{name} serves again")
            return 0
        cluster.down(keep=given.keep)
        tell("everything is stopped" + ("" if given.keep else " and removed"))
    except (ClusterProblem, NginxProblem, SetupProblem) as problem:
        print(problem, file=sys.stderr)
        return 3
    return 0


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="scripts/cluster",
        description="The whole cluster on this machine: nginx, 3 gateways, scheduler, agent, "
        "2 nodes and 3 Elasticsearch nodes.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up_ = commands.add_parser("up", help="start everything; returns once calls are served")
    up_.add_argument("--elasticsearch", type=int, default=3, metavar="N", help="so many nodes (3)")
    up_.add_argument("--no-docker", action="store_true", help="two nodes with the process driver")
    up_.add_argument("--any-port", action="store_true", help="not the usual ports, but free ones")
    status_ = commands.add_parser("status", help="a table of what runs")
    status_.add_argument("--json", action="store_true")
    restart_ = commands.add_parser("restart", help="stop processes one by one and start them again")
    restart_.add_argument("names", nargs="+", metavar="NAME", help="as `status` calls them")
    down_ = commands.add_parser("down", help="stop everything and remove the data")
    down_.add_argument("--keep", action="store_true", help="leave data and logs")
    for one in (up_, status_, restart_, down_):
        one.add_argument(
            "--data", type=Path, default=Path(USUAL_FOLDER), metavar="DIR", help=f"[{USUAL_FOLDER}]"
        )
    return parser.parse_args()


def up(cluster: LocalCluster, given: argparse.Namespace, tell: Progress, *, known: bool) -> int:
    """Start everything, or say that it runs; what was started of a cluster that fails is ended."""
    if known and all(member.is_running(cluster.folder) for member in cluster.members):
        tell("it runs already")
        return status(cluster, as_json=False)
    if known:
        tell("ending what is left of an earlier cluster")
        cluster.down()
        cluster.members = []
    wanted = Wanted(
        cluster.folder,
        elasticsearch=given.elasticsearch,
        with_docker=not given.no_docker,
        any_port=given.any_port,
    )
    try:
        cluster.up(wanted)
    except BaseException:
        tell(f"it failed; ending what was started; logs stay in {cluster.folder}/logs")
        cluster.down(keep=True)
        raise
    tell("calls are served")
    print(f"export PRATAI_SERVER={cluster.url} PRATAI_KEY={cluster.key}")
    print("pratai nodes")
    print(
        "pratai deploy examples/classify && pratai invoke classify @examples/classify/samples/"
        "ticket.json"
    )
    print("scripts/cluster status        # and: scripts/cluster down")
    return 0


def status(cluster: LocalCluster, *, as_json: bool) -> int:
    """Tell of each process; 0 when all run and serve."""
    rows = [
        {
            "name": member.name,
            "pid": member.pid,
            "state": state_of(cluster, member),
            "memory_mb": memory_mb(member.pid),
            "url": member.url,
            "log": member.log,
        }
        for member in cluster.members
    ]
    well = all(row["state"] in ("ready", "runs") for row in rows)
    if as_json:
        told = {"url": cluster.url, "key": cluster.key, "well": well, "members": rows}
        print(json.dumps({**told, "nodes": cluster.nodes()}))
        return 0 if well else 1
    print(f"{'name':17}{'pid':>8}  {'state':10}{'memory':>8}  url")
    for row in rows:
        memory = f"{row['memory_mb']} MB"
        print(f"{row['name']:17}{row['pid']:>8}  {row['state']:10}{memory:>8}  {row['url']}")
    for node in cluster.nodes():
        print(f"{node['node_id']}: {node['state']}, {node['driver']}, {node['slots']} slots")
    return 0 if well else 1


def state_of(cluster: LocalCluster, member: Member) -> str:
    """`ended`, `runs`, or for what has a word of its own on it `ready` or `not ready`."""
    if not member.is_running(cluster.folder):
        return "ended"
    if not member.has_readiness:
        return "runs"
    return "ready" if member.is_ready() else "not ready"


def memory_mb(pid: int) -> int:
    """Resident memory of a process."""
    try:
        text = Path(f"/proc/{pid}/statm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.split()[1]) * 4096 // 1_000_000


if __name__ == "__main__":
    sys.exit(main())
