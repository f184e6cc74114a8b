"""Every setting of every process: one Struct a section, a docstring and unit for each key.

The reference page `docs/reference/configuration.md` is generated from here. Defaults suit one
machine. A setting lives here or nowhere: nothing outside `config/` reads the environment.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65_535)]
Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all sections share."""


class Gateway(Section, frozen=True, kw_only=True):
    """The HTTP door."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="Port to listen on; 0 = any.")] = 9996
    sync_event_bytes_max: Annotated[
        int, Meta(ge=1, description="Largest event of a sync call.")
    ] = 6 * 1024 * 1024
    async_event_bytes_max: Annotated[
        int, Meta(ge=1, description="Largest event of an async call.")
    ] = 1024 * 1024
    result_bytes_max: Annotated[int, Meta(ge=1, description="Largest result of a call.")] = (
        6 * 1024 * 1024
    )
    package_bytes_max: Annotated[int, Meta(ge=1, description="Largest package, as uploaded.")] = (
        256 * 1024 * 1024
    )
    waiting_max: Annotated[
        int, Meta(ge=1, description="Sync calls waiting for their result at one time.")
    ] = 4_096
    waiting_bytes_max: Annotated[
        int, Meta(ge=1, description="Bytes waiting sync calls may hold: of events, and of streams.")
    ] = 256 * 1024 * 1024
    deadline_grace_ms: Annotated[
        int, Meta(ge=0, description="How long past its deadline a result is still waited for.")
    ] = 500
    drain_ms: Annotated[
        int, Meta(ge=0, description="On shutdown, how long running calls may go on.")
    ] = 30_000
    triggers_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Triggers of one namespace; more are refused.")
    ] = 5_000
    leave_ms: Annotated[
        int,
        Meta(ge=0, description="In a cluster, on shutdown, how long open connections are served."),
    ] = 3_000
    announce_ms: Annotated[
        int, Meta(ge=10, description="In a cluster, time between signs of life to the scheduler.")
    ] = 1_000
    url: Annotated[
        str,
        Meta(description="In a cluster, where nodes and gateways reach this one; empty = found."),
    ] = ""
    public_url: Annotated[
        str, Meta(description="Where callers reach the platform, e.g. nginx; empty = this gateway.")
    ] = ""
    forwarded_from: Annotated[
        str, Meta(description="Proxies whose forwarding headers are believed: addresses, commas.")
    ] = "127.0.0.1"


class Queue(Section, frozen=True, kw_only=True):
    """Endpoints of the scheduler and of those who talk to it; equal on all of a cluster."""

    host: Annotated[str, Meta(description="Where the scheduler is reached.")] = "127.0.0.1"
    scheduler_port: Annotated[
        int, Meta(ge=1, le=65_535, description="PULL: invocations from gateways and agents.")
    ] = 5557
    collector_port: Annotated[
        int, Meta(ge=1, le=65_535, description="PULL: joins, heartbeats, outcomes from nodes.")
    ] = 5556
    node_port: Annotated[
        int, Meta(ge=1, le=65_535, description="PULL on each node: dispatches.")
    ] = 5558
    gateway_port: Annotated[
        int, Meta(ge=1, le=65_535, description="PULL on each gateway: results of sync calls.")
    ] = 5559
    bind: Annotated[
        str, Meta(description="Address that this process's sockets listen on; empty = `host`'s.")
    ] = ""
    advertise: Annotated[
        str, Meta(description="Address at which others reach this process; empty = found.")
    ] = ""
    key_file: Annotated[
        str,
        Meta(description="File with the cluster key (`pratai keys cluster`); empty = no key."),
    ] = ""
    frame_bytes_max: Annotated[
        int, Meta(ge=65_536, description="Largest frame taken from a socket.")
    ] = 16 * 1024 * 1024
    waiting_max: Annotated[
        int, Meta(ge=1, description="Messages that wait for one peer; more are dropped, counted.")
    ] = 20_000

    def scheduler_endpoint(self) -> str:
        """Where the scheduler's consumer_producer is reached."""
        return f"tcp://{self.host}:{self.scheduler_port}"

    def collector_endpoint(self) -> str:
        """Where the scheduler's collector is reached."""
        return f"tcp://{self.host}:{self.collector_port}"


class Scheduler(Section, frozen=True, kw_only=True):
    """Queues, fairness, leases."""

    health_host: Annotated[str, Meta(description="Address of /healthz, /readyz and /metrics.")] = (
        "127.0.0.1"
    )
    health_port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="Their port; any free one if it is taken or 0."),
    ] = 9995
    queue_max: Annotated[
        int, Meta(ge=1, description="Sync calls queued for one function; more are throttled.")
    ] = 512
    backlog_max: Annotated[
        int, Meta(ge=1, description="Async events queued for one function; more are refused.")
    ] = 100_000
    backlog_total_max: Annotated[
        int, Meta(ge=1, description="Async events queued in all; more are refused.")
    ] = 1_000_000
    payload_bytes_max: Annotated[
        int,
        Meta(ge=0, description="Async events kept in memory; beyond it they wait in the journal."),
    ] = 64 * 1024 * 1024
    lease_grace_ms: Annotated[
        int, Meta(ge=0, description="How long past an attempt's deadline its lease lasts.")
    ] = 5_000
    recoveries_max: Annotated[
        int,
        Meta(ge=1, description="Times an event may be re-run because the platform died under it."),
    ] = 10
    node_silence_max_ms: Annotated[
        int, Meta(ge=1, description="A node unheard of for this long is lost.")
    ] = 10_000
    node_gone_ms: Annotated[
        int,
        Meta(ge=50, description="A node whose connection broke has this long to be there again."),
    ] = 1_000
    gateway_silence_max_ms: Annotated[
        int, Meta(ge=1, description="A gateway unheard of for this long is told nothing more.")
    ] = 10_000
    ownership_ms: Annotated[
        int,
        Meta(ge=1_000, description="How long the scheduler's claim to be the only one lasts."),
    ] = 10_000
    journal_look_ms: Annotated[
        int,
        Meta(ge=1_000, description="In a cluster, time between looks for events nobody sent on."),
    ] = 10_000


class Node(Section, frozen=True, kw_only=True):
    """What this machine gives to functions."""

    health_host: Annotated[str, Meta(description="Address of /healthz, /readyz and /metrics.")] = (
        "127.0.0.1"
    )
    health_port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="Their port; any free one if it is taken or 0."),
    ] = 9993
    slots: Annotated[
        int, Meta(ge=0, description="Calls run at one time; 0 = 32 for each processor.")
    ] = 0
    memory_mb: Annotated[
        int, Meta(ge=0, description="Memory for instances; 0 = three quarters of the machine's.")
    ] = 0
    instances_max: Annotated[int, Meta(ge=1, description="Instances at one time.")] = 512
    idle_max_ms: Annotated[
        int, Meta(ge=0, description="An instance unused for this long is stopped.")
    ] = 600_000
    start_wait_ms: Annotated[
        int,
        Meta(ge=0, description="A call waits this long for a busy instance before one is added."),
    ] = 5
    depth: Annotated[
        int, Meta(ge=1, le=64, description="Most events handed to one instance, if it is fast.")
    ] = 8
    heartbeat_ms: Annotated[int, Meta(ge=10, description="Time between heartbeats.")] = 2_000
    labels: Annotated[
        str, Meta(description="What this node is: `key=value`, separated by commas.")
    ] = ""
    cache_bytes_max: Annotated[
        int, Meta(ge=1, description="Size of the packages and layers that a node keeps.")
    ] = 8 * 1024**3
    fetch_timeout_ms: Annotated[
        int, Meta(ge=1, description="How long fetching a version from the gateways may take.")
    ] = 300_000
    ca_file: Annotated[
        str, Meta(description="Certificates to trust for https gateways; empty = the system's.")
    ] = ""
    log_bytes_max: Annotated[
        int, Meta(ge=0, description="Log text kept of one invocation; the rest is counted.")
    ] = 1024 * 1024
    init_timeout_ms: Annotated[
        int, Meta(ge=1, description="How long a function's own import may take.")
    ] = 10_000


class Driver(Section, frozen=True, kw_only=True):
    """How sandboxes are made."""

    name: Annotated[
        Literal["process", "docker", "fake"], Meta(description="Which driver this node uses.")
    ] = "process"
    uid_first: Annotated[
        int, Meta(ge=1, description="As root, instances run under user ids from here on.")
    ] = 600_000
    uid_count: Annotated[int, Meta(ge=1, description="How many user ids may be used.")] = 10_000
    processes_max: Annotated[
        int, Meta(ge=1, description="Processes and threads of one instance.")
    ] = 256
    files_max: Annotated[int, Meta(ge=16, description="Open files of one process.")] = 1_024
    docker_host: Annotated[
        str, Meta(description="docker: where the engine listens, on this machine.")
    ] = "unix:///var/run/docker.sock"
    base_image: Annotated[
        str,
        Meta(description="docker: image that `pratai runtimes build` starts from; empty = none."),
    ] = ""
    registry: Annotated[
        str,
        Meta(description="docker: registry that runtime images are pulled from; empty = none."),
    ] = ""
    cpu_millis: Annotated[
        int,
        Meta(ge=0, description="docker: thousandths of a processor for one version; 0 = all."),
    ] = 0
    pause_idle_ms: Annotated[
        int, Meta(ge=0, description="docker: an idle container is paused after it; 0 = never.")
    ] = 30_000
    containers_max: Annotated[
        int, Meta(ge=1, description="docker: containers at one time, one for each version.")
    ] = 128
    adopt_ms: Annotated[
        int,
        Meta(ge=0, description="docker: how long containers wait for a node that has gone."),
    ] = 60_000
    images_max: Annotated[
        int, Meta(ge=1, description="docker: images of functions that are kept.")
    ] = 32
    engine_timeout_ms: Annotated[
        int, Meta(ge=100, description="docker: how long one request to the engine may take.")
    ] = 30_000
    build_timeout_ms: Annotated[
        int, Meta(ge=1, description="docker: how long building or pulling an image may take.")
    ] = 900_000
    sweep_ms: Annotated[
        int, Meta(ge=100, description="docker: time between looks for what nothing uses.")
    ] = 600_000


class Store(Section, frozen=True, kw_only=True):
    """Where everything durable is kept."""

    name: Annotated[
        Literal["sqlite", "elasticsearch", "memory"],
        Meta(description="Which store; memory keeps nothing."),
    ] = "sqlite"
    batch_max: Annotated[
        int, Meta(ge=1, description="Writes in one commit; 1 = a commit for each.")
    ] = 2_000
    waiting_max: Annotated[
        int, Meta(ge=1, description="Durable writes waiting; more are refused with 503.")
    ] = 50_000
    record_sync: Annotated[
        Literal["all", "failures"], Meta(description="Which sync calls are recorded.")
    ] = "all"
    record_buffer_max: Annotated[
        int, Meta(ge=1, description="Best-effort records waiting; more are dropped and counted.")
    ] = 20_000
    record_busy_rate_max: Annotated[
        int,
        Meta(ge=1, description="Successful sync calls recorded a second beside a busy loop."),
    ] = 1_000
    record_batch_max: Annotated[
        int, Meta(ge=1, description="Best-effort records written in each quarter of a second.")
    ] = 1_000
    invocations_age_max_ms: Annotated[
        int, Meta(ge=1, description="Finished invocations are kept this long.")
    ] = 7 * 86_400_000
    dead_age_max_ms: Annotated[int, Meta(ge=1, description="Dead letters are kept this long.")] = (
        30 * 86_400_000
    )
    logs_age_max_ms: Annotated[int, Meta(ge=1, description="Logs are kept this long.")] = (
        7 * 86_400_000
    )
    bytes_max: Annotated[
        int, Meta(ge=1, description="Size at which the oldest records are removed.")
    ] = 4 * 1024**3
    sweep_ms: Annotated[int, Meta(ge=100, description="Time between sweeps.")] = 60_000


class Agent(Section, frozen=True, kw_only=True):
    """What turns outside happenings into events."""

    health_host: Annotated[str, Meta(description="Address of /healthz, /readyz and /metrics.")] = (
        "127.0.0.1"
    )
    health_port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="Their port; any free one if it is taken or 0."),
    ] = 9994
    look_ms: Annotated[
        int, Meta(ge=10, description="Time between looks at triggers that others changed.")
    ] = 1_000
    late_max_ms: Annotated[
        int,
        Meta(ge=1, description="A timer's run later than this, the agent being away, is missed."),
    ] = 10_000
    missed_max: Annotated[
        int, Meta(ge=1, description="Missed runs made up for at most, whatever a timer asks.")
    ] = 10_000
    runs_max: Annotated[
        int, Meta(ge=1, description="Events of triggers that are being accepted at one time.")
    ] = 32
    lease_ms: Annotated[
        int, Meta(ge=1_000, description="How long an agent's claim on a folder or delivery lasts.")
    ] = 30_000
    folders: Annotated[
        str,
        Meta(description="Folders in which triggers may watch and move files: paths, commas."),
    ] = ""
    folder_files_max: Annotated[
        int, Meta(ge=1, description="Files of one watched folder that are looked at.")
    ] = 10_000
    folder_content_bytes_max: Annotated[
        int, Meta(ge=0, description="A file up to this size is given whole in its event.")
    ] = 256 * 1024
    deliver_max: Annotated[
        int, Meta(ge=1, description="Outcomes being delivered to URLs at one time.")
    ] = 16
    deliver_timeout_ms: Annotated[
        int, Meta(ge=1, description="How long a destination may take to answer.")
    ] = 10_000
    deliver_attempts_max: Annotated[
        int, Meta(ge=1, description="Times that an outcome is offered to its destination.")
    ] = 30
    deliver_age_max_ms: Annotated[
        int, Meta(ge=1, description="After this time an undelivered outcome is given up.")
    ] = 86_400_000
    deliver_hosts: Annotated[
        str, Meta(description="Hosts that outcomes may be sent to: patterns, commas; * = any.")
    ] = "*"
    deliver_private: Annotated[
        bool, Meta(description="Whether outcomes may be sent to this machine and private networks.")
    ] = False


class Elasticsearch(Section, frozen=True, kw_only=True):
    """The cluster that `[store] name = elasticsearch` keeps everything in."""

    urls: Annotated[
        str, Meta(description="Where its nodes are reached: URLs, separated by commas.")
    ] = "http://127.0.0.1:9200"
    index_prefix: Annotated[
        str,
        Meta(
            pattern="^[a-z0-9][a-z0-9-]*$",
            max_length=64,
            description="What the names of all its indices begin with.",
        ),
    ] = "pratai"
    username: Annotated[str, Meta(description="User to log in as; empty = none.")] = ""
    password: Annotated[str, Meta(description="The user's password.")] = ""
    password_file: Annotated[
        str, Meta(description="File with the password, in the place of `password`.")
    ] = ""
    api_key: Annotated[
        str, Meta(description="API key (as encoded by Elasticsearch), in the place of a user.")
    ] = ""
    api_key_file: Annotated[
        str, Meta(description="File with the API key, in the place of `api_key`.")
    ] = ""
    ca_file: Annotated[
        str, Meta(description="Certificates to trust (PEM); empty = the system's.")
    ] = ""
    verify: Annotated[bool, Meta(description="Whether the nodes' certificates are checked.")] = True
    replicas: Annotated[
        int, Meta(ge=0, le=9, description="Copies of each new index beside the first.")
    ] = 1
    shards: Annotated[
        int, Meta(ge=1, le=64, description="Parts of each new index of invocations or logs.")
    ] = 1
    request_timeout_ms: Annotated[
        int, Meta(ge=100, le=120_000, description="How long one request may take.")
    ] = 10_000
    bulk_bytes_max: Annotated[
        int,
        Meta(ge=65_536, le=64 * 1024 * 1024, description="Bytes of one `_bulk`, unless one write."),
    ] = 8 * 1024 * 1024
    bulks_max: Annotated[int, Meta(ge=1, le=32, description="`_bulk` requests at one time.")] = 3
    index_age_max_ms: Annotated[
        int, Meta(ge=60_000, description="An index of invocations or logs is followed by another.")
    ] = 86_400_000
    index_bytes_max: Annotated[
        int, Meta(ge=1, description="The same at this size on disk, copies not counted.")
    ] = 20 * 1024**3
    index_docs_max: Annotated[
        int, Meta(ge=1, description="The same at so many invocations or log records.")
    ] = 20_000_000


class Packages(Section, frozen=True, kw_only=True):
    """Code by digest and its dependencies."""

    unpacked_bytes_max: Annotated[int, Meta(ge=1, description="Largest package, unpacked.")] = (
        512 * 1024 * 1024
    )
    files_max: Annotated[int, Meta(ge=1, description="Files in one package.")] = 20_000
    layer_timeout_ms: Annotated[
        int, Meta(ge=1, description="How long resolving dependencies may take.")
    ] = 600_000
    layer_bytes_max: Annotated[int, Meta(ge=1, description="Largest dependency layer.")] = (
        2 * 1024**3
    )
    layer_files_max: Annotated[
        int, Meta(ge=1, description="Files and folders in one dependency layer.")
    ] = 200_000
    source_builds: Annotated[
        bool,
        Meta(description="Whether dependencies without a wheel are built, outside any sandbox."),
    ] = False
    shared: Annotated[
        Literal["auto", "yes", "no"],
        Meta(description="Whether the store keeps packages too; auto = with elasticsearch."),
    ] = "auto"
    shared_writes_max: Annotated[
        int, Meta(ge=1, le=16, description="Parts of a package on their way to or from the store.")
    ] = 4
    shared_timeout_ms: Annotated[
        int, Meta(ge=1, description="How long one package may take to or from the store.")
    ] = 600_000
    transfers_max: Annotated[
        int, Meta(ge=1, description="Packages that a gateway sends to nodes at one time.")
    ] = 16


class Auth(Section, frozen=True, kw_only=True):
    """Who may call."""

    required: Annotated[bool, Meta(description="Whether a key is needed.")] = True


class Log(Section, frozen=True, kw_only=True):
    """What the platform itself writes."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severe level shown.")
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "text"], Meta(description="auto = text in a terminal.")
    ] = "auto"
    file_bytes_max: Annotated[
        int, Meta(ge=1024, description="Size at which logs/invocations.jsonl is rotated.")
    ] = 64 * 1024 * 1024


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All sections. `data_dir` is set by the command line, never by a file."""

    gateway: Gateway = Gateway()
    queue: Queue = Queue()
    scheduler: Scheduler = Scheduler()
    node: Node = Node()
    driver: Driver = Driver()
    store: Store = Store()
    elasticsearch: Elasticsearch = Elasticsearch()
    packages: Packages = Packages()
    agent: Agent = Agent()
    auth: Auth = Auth()
    log: Log = Log()
