"""`fastreg export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fastreg.utils.ranges import Range


@Parameter(name="*")
@dataclass
class Export:
    """Write a trained network as an ONNX model, for programs without PyTorch.

    Example: `fastreg export general general.onnx`

    The model holds standard operators of opset 20 alone. Its inputs "moving" and "fixed" are images as the network
    takes them: float32 [batch, channels, D, H, W] on one grid, normalised; the file's metadata say how. Its outputs are
    "moved" and "flow", in voxels. Needs the extra `onnx`; with onnxruntime the model is run and compared.
    """

    model: Path
    """The network: .safetensors, or general, the one that comes with fastreg."""
    output: Path
    """The model to write: .onnx."""
    shape: Annotated[tuple[int, ...] | None, Parameter(consume_multiple=True), Range(1)] = field(
        default=None, kw_only=True
    )
    """Voxels of the images along each axis, such as 160 192 224. If not given, the model takes images of any shape."""
    inverse: bool = field(default=False, kw_only=True)
    """Also give the inverse field and the fixed image moved by it (diffeomorphic networks only)."""
    overwrite: bool = field(default=False, kw_only=True)
    """Replace the file if it exists."""
    json: bool = field(default=False, kw_only=True)
    """Print JSON."""

    def run(self) -> None:
        """Loads, exports, and compares where that can be done."""
        from fastreg.cli.output import out, print_json
        from fastreg.nn import checkpoint
        from fastreg.nn.export import export_onnx, smallest_axis, worst_error
        from fastreg.utils.files import InputError, check_free

        if self.output.suffix != ".onnx":
            raise InputError(f"output {self.output}: expected .onnx, got {self.output.suffix or 'no ending'}")
        check_free(self.output, self.overwrite)
        net, about = checkpoint.load(self.model)
        passes = about.working.passes
        metadata = {"network": net.options, "working": about.working.to_json()}
        try:
            names = export_onnx(
                net, self.output, shape=self.shape, passes=passes, inverse=self.inverse, metadata=metadata
            )
        except ValueError as error:
            raise InputError(str(error)) from error
        least = smallest_axis(net, passes)
        worst = worst_error(self.output, net, self.shape or (least + 3,) * net.config.ndim, passes)
        if self.json:
            print_json({"model": str(self.output), "outputs": names, "shape": self.shape, "worst_error": worst})
            return
        taken = "any shape" if self.shape is None else "x".join(map(str, self.shape))
        limit = f", from {least} voxels along every axis" if self.shape is None else ""
        out.print(f"model   {self.output}: images of {taken}{limit}; gives {', '.join(names)}", soft_wrap=True)
        found = "not compared: onnxruntime is not installed" if worst is None else f"{worst:.1e}, in onnxruntime"
        out.print(f"worst error of moved against fastreg  {found}", soft_wrap=True)
