"""Weights between those of a base model and those that runs have adapted from it.

A weight of the merged model is (1 - alpha) * base + alpha * adapted: WiSE-FT (Wortsman et al. 2022,
"Robust fine-tuning of zero-shot models", section 3) and, for language models, LM-Cocktail (Xiao et
al. 2023, section 3). Of several runs, `adapted` is their mean, a uniform soup (Wortsman et al.
2022, "Model soups", section 2).

The result has the layout of the run's own files: the same names, shapes, precision and shards, with
tied weights stored once. So their headers are copied, and only numbers are new. One tensor is in
memory at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from mlmtune.errors import ConfigError
from mlmtune.modeling.kept_weights import name_when_loaded
from mlmtune.modeling.loading import LoadedModel
from mlmtune.modeling.weight_files import weight_files
from mlmtune.training.checkpoint import save_model


@dataclass(frozen=True)
class _Stored:
    """Where a tensor is stored, and as what."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def kind(self) -> tuple[str, tuple[int, ...]]:
        return self.dtype, self.shape


class Interpolation:
    """The weights between a base model and the mean of adapted ones.

    Args:
        base: The base model, loaded as the runs loaded it; it is not kept.
        base_name: Its name, for errors.
        adapted: The folders that runs wrote their models to.
        folder: A folder for the base as a run would write it, from which it is read again.

    Attributes:
        new_weights: The names, in the files of the runs, of weights that the base lacks, such as
            those of a new masked-LM head. They are the same at every alpha.

    Raises:
        ConfigError: The models differ in more than the values of their floating-point weights.
    """

    def __init__(
        self, base: LoadedModel, base_name: str, adapted: Sequence[Path], folder: Path
    ) -> None:
        # Saved as a run saves it, because files have other names, and even other tensors, than
        # models in memory; and so the base takes no memory.
        save_model(folder, base)
        self._base = _layout(folder)
        self._layouts = [_layout(path) for path in adapted]
        for path, layout in zip(adapted[1:], self._layouts[1:], strict=True):
            _check_same_layout(adapted[0], self._layouts[0], path, layout)
        for name in self._layouts[0] | self._base:
            its, stored = self._base.get(name), self._layouts[0].get(name)
            if its is not None and stored is not None and its.shape == stored.shape:
                continue
            if stored is None:
                difference = f"lacks the weight {name} of its base {base_name}"
            else:
                of_base = "lacks it" if its is None else f"has it as {list(its.shape)}"
                difference = (
                    f"has its weight {name} as {list(stored.shape)}, and its base {base_name} "
                    f"{of_base}"
                )
            raise ConfigError(
                f"{adapted[0]}: {difference}, so they are of different architectures; restore the "
                "base that the run started from"
            )
        weights = base.model.state_dict()
        # By address, because of two tied weights only one is listed as new, and one is stored.
        drawn = {weights[name].data_ptr() for name in base.new_weights}
        in_memory = {name: weights.get(name_when_loaded(name, base.model)) for name in self._base}
        self.new_weights = tuple(
            name for name, t in in_memory.items() if t is not None and t.data_ptr() in drawn
        )
        self._check_buffers(base_name, adapted)

    def _check_buffers(self, base_name: str, adapted: Sequence[Path]) -> None:
        """Refuse integers that differ, because a mean of them has no meaning."""
        for name, stored in self._base.items():
            of_base = _read(stored.file, name)
            if of_base.is_floating_point():
                continue
            for folder, layout in zip(adapted, self._layouts, strict=True):
                if not torch.equal(_read(layout[name].file, name), of_base):
                    raise ConfigError(
                        f"{folder}: {name} holds integers that differ from those of {base_name}, "
                        "and there is nothing between them; restore the base that the run started "
                        "from"
                    )

    def write(self, folder: Path, alpha: float) -> None:
        """Write the files of the merged weights.

        Args:
            folder: The folder to write to, which exists. Files of these names are replaced.
            alpha: 0 gives the base and 1 the mean of the runs, both to the bit.
        """
        for file in dict.fromkeys(stored.file for stored in self._layouts[0].values()):
            target = folder / file.name
            target.unlink(missing_ok=True)  # a model that was read from it may still be mapped
            with file.open("rb") as source, target.open("wb") as written:
                length = source.read(8)
                written.write(length + source.read(int.from_bytes(length, "little")))
                for name in _names(file):
                    numbers = self._merged(name, alpha).reshape(-1).view(torch.uint8)
                    written.write(numbers.numpy().data)

    def _merged(self, name: str, alpha: float) -> torch.Tensor:
        first, *others = (_read(layout[name].file, name) for layout in self._layouts)
        if not first.is_floating_point():
            return first
        mean = first.float()
        for number, other in enumerate(others, start=2):
            mean = mean + (other.float() - mean) / number  # exact where all are equal
        if name in self.new_weights:
            return mean.to(first.dtype).contiguous()
        of_base = _read(self._base[name].file, name).float()
        # lerp() computes from the nearer end, so it is exact at both and where they are equal.
        merged = torch.lerp(of_base, mean, alpha)
        return merged.to(first.dtype).contiguous()


def _layout(folder: Path) -> dict[str, _Stored]:
    """Return the tensors of a folder by name, in the order of their files."""
    layout = {}
    for file in weight_files(folder, {}):
        with safe_open(file, "pt") as opened:
            for name in opened.offset_keys():
                tensor = opened.get_slice(name)
                layout[name] = _Stored(file, tensor.get_dtype(), tuple(tensor.get_shape()))
    return layout


def _names(file: Path) -> list[str]:
    """Return the names of a file's tensors in the order in which it stores them."""
    with safe_open(file, "pt") as opened:
        return list(opened.offset_keys())


def _read(file: Path, name: str) -> torch.Tensor:
    # Opened for each tensor, so that the pages of those before are given back.
    with safe_open(file, "pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(name)
        return tensor


def _check_same_layout(
    first: Path, of_first: dict[str, _Stored], other: Path, of_other: dict[str, _Stored]
) -> None:
    for name in of_first | of_other:
        one, another = of_first.get(name), of_other.get(name)
        if one is None or another is None or one.kind != another.kind:
            raise ConfigError(
                f"{other}: its weight {name} is not as in {first}, so the runs are of different "
                "architectures; merge runs of one base and one objective"
            )
