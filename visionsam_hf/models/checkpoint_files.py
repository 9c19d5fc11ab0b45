"""Read original checkpoints, without running anything in them, as weights named as in Meta's code."""

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionsam_hf.data.errors import UserError
from visionsam_hf.models.tiny_vit import spread_bias

_BIGGEST_ONNX_FILES = 2 * 2**30


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pt` or `.pth` file: all of it, or what lies under "model" or "state_dict" in a training checkpoint.

    Raises:
        UserError: it cannot be read, holds anything but tensors and plain values, or no weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: is damaged, or holds more than weights, which could run code, so it is not read;"
            " save its state_dict alone, or give another copy"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: cannot be read as a PyTorch checkpoint ({reason}); copy it again") from None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: holds no weights by name; give a checkpoint with a state_dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: {name!r} is a {type(value).__name__}, no tensor; give a checkpoint of weights alone")
    return content


def read_onnx_pair(directory: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """The weights of an encoder and a decoder exported from MobileSAM, and their two files.

    The exporter kept the names of some weights and dropped those of others; the nodes that read them are still named
    after their modules, so each anonymous weight is named by its node. Batch norms are folded already.

    Raises:
        UserError: onnx is not installed, the directory holds no such pair, or a weight that cannot be named.
    """
    try:
        # An extra: only those who convert ONNX files need it.
        import onnx
    except ImportError:
        raise UserError(f"{directory}: reading ONNX files needs onnx; pip install 'visionsam_hf[onnx]'") from None
    found: dict[str, tuple[Path, Any]] = {}
    for path in sorted(directory.glob("*.onnx")):
        if path.stat().st_size > _BIGGEST_ONNX_FILES:
            raise UserError(f"{path}: is larger than a MobileSAM's ONNX files are; give the directory of those")
        try:
            # What lies outside the file is not looked for: a path in a file from elsewhere is not followed.
            graph = onnx.load(str(path), load_external_data=False).graph
        except Exception as error:
            # protobuf's DecodeError derives from Exception alone.
            if isinstance(error, (OSError, MemoryError)) or type(error).__name__ != "DecodeError":
                raise
            raise UserError(f"{path}: is damaged, or no ONNX file; copy it again") from None
        names = {item.name for item in graph.input}
        half = "decoder" if {"point_coords", "image_embeddings"} <= names else "encoder"
        if half in found:
            raise UserError(f"{directory}: {found[half][0].name} and {path.name} are both an {half}; keep one of them")
        found[half] = path, graph
    if set(found) != {"encoder", "decoder"}:
        raise UserError(f"{directory}: holds no pair of ONNX files; put MobileSAM's encoder.onnx and sam.onnx there")
    weights = {f"image_encoder.{name}": value for name, value in _graph_weights(*found["encoder"], onnx.numpy_helper)}
    for name, value in _graph_weights(*found["decoder"], onnx.numpy_helper):
        if name == "iou_and_mask_tokens":
            weights["mask_decoder.iou_token.weight"], weights["mask_decoder.mask_tokens.weight"] = value[:1], value[1:]
        else:
            weights[_decoder_name(name)] = value
    return weights, [path for path, _ in found.values()]


def _decoder_name(name: str) -> str:
    """A name in the exported decoder, where modules that were taken out of the model begin anew, as it is in the model."""
    name = name.removeprefix("model.")
    if name.startswith(("transformer.", "output_upscaling.")):
        return f"mask_decoder.{name}"
    return f"prompt_encoder.{name}" if name.startswith("mask_downscaling.") else name


def _graph_weights(path: Path, graph: Any, numpy_helper: Any) -> Iterator[tuple[str, Tensor]]:
    """Each weight of a graph once, by its name or its node's."""
    tensors = {item.name: item for item in graph.initializer}
    constants = {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    makers = {output: node for node in graph.node for output in node.output}

    def values(tensor: Any) -> Tensor:
        if tensor.data_location:
            raise UserError(f"{path}: keeps {tensor.name} in another file, which is not read; give a file of its own")
        return torch.from_numpy(np.array(numpy_helper.to_array(tensor)))

    done = set()
    for node in graph.node:
        for place, source in enumerate(node.input):
            if source in tensors and source not in done:
                done.add(source)
                yield _named(path, node, place, source, values(tensors[source]))
        if node.op_type == "Softmax" and (scores := makers.get(node.input[0])) is not None and scores.op_type == "Add":
            for source in scores.input:
                if source in constants:
                    table = _bias_table(path, node.name, values(constants[source]))
                    yield f"{_scope(node.name)}.attention_biases", table


def _named(path: Path, node: Any, place: int, source: str, value: Tensor) -> tuple[str, Tensor]:
    """The name and shape that an initializer had as a parameter, from the node that reads it as its input `place`."""
    if not source.startswith("onnx::"):
        return source, value
    scope = _scope(node.name)
    if node.op_type == "Conv":
        return f"{scope}.{'weight' if place == 1 else 'bias'}", value
    if node.op_type == "MatMul" and scope:
        return f"{scope}.weight", value.T
    if node.op_type in ("Mul", "Add") and scope:
        # The norm of a map, over its channels.
        return f"{scope}.{'weight' if node.op_type == 'Mul' else 'bias'}", value.flatten()
    if node.op_type == "Mul" and value.dim() == 4 and value.shape[2:] == (1, 1):
        return "prompt_encoder.no_mask_embed.weight", value.flatten(1)
    if node.op_type == "Expand" and value.dim() == 3:
        return "iou_and_mask_tokens", value[0]
    raise UserError(f"{path}: {source} {tuple(value.shape)} is no weight of a MobileSAM; give its encoder.onnx and sam.onnx")


def _scope(node: str) -> str:
    """`/patch_embed/seq/seq.0/c/Conv` to `patch_embed.seq.0.c`: a sequence's name is repeated by its members'."""
    parts = node.strip("/").split("/")[:-1]
    kept = [part for part, after in zip(parts, [*parts[1:], ""]) if not re.match(rf"{re.escape(part)}\.\d+$", after)]
    return ".".join(kept)


def _bias_table(path: Path, node: str, biases: Tensor) -> Tensor:
    """(heads, n^2, n^2) biases of an attention, spread out by the exporter, to the (heads, n^2) that were learnt."""
    # The first cell meets the distances in the order in which they are numbered.
    table, side = biases[:, 0], round(biases.shape[-1] ** 0.5)
    if side**2 != biases.shape[-1] or not torch.equal(spread_bias(table.reshape(-1, side, side)), biases):
        raise UserError(f"{path}: {node} has no biases by distance; give MobileSAM's encoder")
    return table.contiguous()
