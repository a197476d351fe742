"""The engine that a config asks for."""

from mlmtune.cluster.engine import Cluster, ClusterEngine
from mlmtune.config import CorpusConfig, EngineConfig, TokenizationConfig
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.integrity import digest
from mlmtune.locations import cache_directory, expand_home
from mlmtune.shell import pip_install


def open_engine(
    config: EngineConfig, corpus: CorpusConfig, tokenization: TokenizationConfig, console: Console
) -> ClusterEngine | None:
    """Return the engine that prepares a corpus; None for this machine.

    Tasks that an earlier command left for the same corpus are waited for.

    Raises:
        ConfigError: An extra is missing, or the folders are not usable.
        MlmtuneError: The cluster does not answer.
    """
    if config.kind == "local":
        return None
    cluster = _cluster(config)
    cache_dir = tokenization.cache_dir
    shared = [cache_directory(cache_dir, "cleaned").parent]
    if tokenization.store is not None:
        shared.append(expand_home(tokenization.store).absolute().parent)
        shared[-1].mkdir(parents=True, exist_ok=True)
    root = cache_directory(cache_dir, "cluster")
    if config.folder is not None:
        root = expand_home(config.folder).absolute()
    folder = root / digest(corpus.model_dump_json().encode())[:12]
    engine = ClusterEngine(config, cluster, folder, tuple(shared), console)
    engine.wait_for_left_tasks()
    return engine


def _cluster(config: EngineConfig) -> Cluster:
    try:
        if config.kind == "slurm":
            from mlmtune.cluster.slurm import Slurm

            return Slurm(config)
        from mlmtune.cluster.ray_cluster import RayCluster

        return RayCluster(config)
    except ImportError as error:
        extra = "cluster" if config.kind == "slurm" else "ray"
        raise ConfigError(
            f"engine.kind: {config.kind} needs {error.name}; {pip_install(f'mlmtune[{extra}]')}"
        ) from error
