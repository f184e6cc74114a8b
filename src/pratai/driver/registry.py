"""Drivers by name, imported only when asked for. The one place that knows which there are."""

from __future__ import annotations

from pratai.config.schema import Driver as DriverConfig
from pratai.config.schema import Node as NodeConfig
from pratai.driver.base import Driver
from pratai.errors import ConfigError

NAMES = ("process", "docker", "fake")


def create_driver(config: DriverConfig, *, state_dir: str, node_config: NodeConfig) -> Driver:
    """The driver that `[driver] name` asks for; `state_dir` is where it may keep files.

    Raises:
        ConfigError: there is no such driver.

    """
    if config.name == "process":
        from pratai.driver.process.driver import ProcessDriver
        from pratai.runtimes import catalog

        return ProcessDriver(
            config,
            state_dir=state_dir,
            bootstrap=catalog.default_runtime().bootstrap,
            zygotes_max=min(64, node_config.instances_max),
        )
    if config.name == "docker":
        try:
            from pratai.driver.docker.driver import DockerDriver
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the docker driver needs the module {error.name}, which is not installed",
                next_step="Install it: pip install 'pratai[docker]'.",
                field="driver.name",
                value=config.name,
            ) from error
        return DockerDriver(config, state_dir=state_dir)
    if config.name == "fake":
        from pratai.driver.fake import FakeDriver

        return FakeDriver()
    raise ConfigError(
        f"there is no driver {config.name!r}",
        next_step="Set [driver] name to one of the allowed values.",
        field="driver.name",
        value=config.name,
        allowed=list(NAMES),
    )
