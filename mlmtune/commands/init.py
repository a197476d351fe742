"""`mlmtune init`: write a config to start from, or the JSON schema of configs."""

import json
from pathlib import Path

from mlmtune.config import ClassificationConfig, Config
from mlmtune.config_loading import SHIPPED_TASKS, json_schema, shipped_configs
from mlmtune.errors import ConfigError, ResourceError
from mlmtune.files import write_bytes
from mlmtune.shell import own_command


def list_configs() -> None:
    """Print the name and the first line of each config."""
    print("configs to start from (mlmtune init NAME):")
    for name, path in shipped_configs().items():
        print(f"  {name:<14}{path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")


def write_config(name: str, output: Path | None) -> None:
    """Write a config to a new file, NAME.yaml by default, and print the command that uses it.

    Raises:
        ConfigError: There is no such config, or the file exists.
        ResourceError: The file cannot be written.
    """
    configs = shipped_configs()
    if name not in configs:
        raise ConfigError(f"there is no config {name!r}; there are {', '.join(configs)}")
    target = output or Path(f"{name}.yaml")
    _write_new(target, configs[name].read_bytes())
    command = "finetune" if name in SHIPPED_TASKS else "train"
    print(f"wrote {target}; review it, then: {own_command(command, '--config', target)}")


def write_schema(name: str | None, output: Path | None) -> None:
    """Print the JSON schema of a kind of config, or write it to a new file.

    Args:
        name: A config of that kind; None for the kind that `mlmtune train` takes.
        output: The file; the schema is printed if None.

    Raises:
        ConfigError: The file exists.
        ResourceError: The file cannot be written.
    """
    kind = ClassificationConfig if name in SHIPPED_TASKS else Config
    text = json.dumps(json_schema(kind), indent=1) + "\n"
    if output is None:
        print(text, end="")
        return
    _write_new(output, text.encode())
    print(f"wrote {output}; an editor uses it if the first line of a config is:")
    print(f"# yaml-language-server: $schema={output}")


def _write_new(target: Path, content: bytes) -> None:
    if target.exists():  # the user may have edited it
        raise ConfigError(f"{target} exists already; give another name with --output FILE")
    try:
        write_bytes(target, content)
    except OSError as error:
        raise ResourceError(f"{target}: cannot be written ({error.strerror})") from error
