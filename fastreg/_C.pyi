"""The compiled module: the argument structs of csrc/api.h, where shapes and units stand, and the functions on them.

A test compares this file with the module.
"""

from typing import ClassVar, TypeAlias

Address: TypeAlias = int
"""`tensor.data_ptr()`, 0 for null."""
Sizes: TypeAlias = tuple[int, ...]
"""D, H, W."""

class DType:
    __members__: ClassVar[dict[str, DType]]
    f32: ClassVar[DType]
    f64: ClassVar[DType]
    f16: ClassVar[DType]
    bf16: ClassVar[DType]

class Mode:
    __members__: ClassVar[dict[str, Mode]]
    linear: ClassVar[Mode]
    nearest: ClassVar[Mode]

class Padding:
    __members__: ClassVar[dict[str, Padding]]
    zeros: ClassVar[Padding]
    border: ClassVar[Padding]
    reflection: ClassVar[Padding]
    symmetric: ClassVar[Padding]
    itk: ClassVar[Padding]

class Floor:
    __members__: ClassVar[dict[str, Floor]]
    none: ClassVar[Floor]
    max: ClassVar[Floor]
    add: ClassVar[Floor]

class Measure:
    __members__: ClassVar[dict[str, Measure]]
    dot: ClassVar[Measure]
    ssd: ClassVar[Measure]

class Scheme:
    __members__: ClassVar[dict[str, Scheme]]
    central: ClassVar[Scheme]
    least: ClassVar[Scheme]

class MindKind:
    __members__: ClassVar[dict[str, MindKind]]
    mind: ClassVar[MindKind]
    ssc: ClassVar[MindKind]

class WarpArgs:
    needed: ClassVar[tuple[str, ...]]
    ndim: int
    batch: int
    channels: int
    size: Sizes
    grid: Sizes
    dtype: DType
    mode: Mode
    padding: Padding
    channels_last: bool
    normalised: bool
    align_corners: bool
    vol_shared: bool
    threads: int
    vol: Address
    flow: Address
    out: Address
    grad_out: Address
    grad_vol: Address
    grad_flow: Address
    deterministic: bool
    scratch: Address
    stream: Address
    def __init__(
        self,
        *,
        ndim: int,
        batch: int,
        channels: int,
        size: Sizes,
        grid: Sizes,
        dtype: DType,
        mode: Mode,
        padding: Padding,
        channels_last: bool,
        normalised: bool = ...,
        align_corners: bool = ...,
        vol_shared: bool = ...,
        threads: int,
        vol: Address,
        flow: Address,
        out: Address = ...,
        grad_out: Address = ...,
        grad_vol: Address = ...,
        grad_flow: Address = ...,
        deterministic: bool = ...,
        scratch: Address = ...,
        stream: Address = ...,
    ) -> None: ...

class LnccForm:
    needed: ClassVar[tuple[str, ...]]
    window: Sizes
    floor: Floor
    floor_eps: float
    den_eps: float
    num_eps: float
    cross_floor: bool
    mean: bool
    count: bool
    flat_eps: float
    flat: float
    clamp: bool
    squared: bool
    def __init__(
        self,
        *,
        window: Sizes,
        floor: Floor,
        floor_eps: float,
        den_eps: float,
        num_eps: float,
        cross_floor: bool,
        mean: bool,
        count: bool,
        flat_eps: float,
        flat: float,
        clamp: bool,
        squared: bool,
    ) -> None: ...

class LnccArgs:
    needed: ClassVar[tuple[str, ...]]
    ndim: int
    batch: int
    channels: int
    size: Sizes
    dtype: DType
    form: LnccForm
    threads: int
    a: Address
    b: Address
    weight: Address
    weight_channels: int
    mask: Address
    mask_channels: int
    scale: float
    grad_a: Address
    grad_b: Address
    map: Address
    workspace: int
    value: Address
    scratch: Address
    stream: Address
    def __init__(
        self,
        *,
        ndim: int,
        batch: int,
        channels: int,
        size: Sizes,
        dtype: DType,
        form: LnccForm,
        threads: int,
        a: Address,
        b: Address,
        weight: Address = ...,
        weight_channels: int = ...,
        mask: Address = ...,
        mask_channels: int = ...,
        scale: float,
        grad_a: Address = ...,
        grad_b: Address = ...,
        map: Address = ...,
        workspace: int = ...,
        value: Address = ...,
        scratch: Address = ...,
        stream: Address = ...,
    ) -> None: ...

class IntegrateArgs:
    needed: ClassVar[tuple[str, ...]]
    ndim: int
    batch: int
    size: Sizes
    dtype: DType
    steps: int
    padding: Padding
    threads: int
    velocity: Address
    flow: Address
    saved: Address
    grad_flow: Address
    grad_velocity: Address
    scratch: Address
    stream: Address
    def __init__(
        self,
        *,
        ndim: int,
        batch: int,
        size: Sizes,
        dtype: DType,
        steps: int,
        padding: Padding,
        threads: int,
        velocity: Address = ...,
        flow: Address = ...,
        saved: Address = ...,
        grad_flow: Address = ...,
        grad_velocity: Address = ...,
        scratch: Address = ...,
        stream: Address = ...,
    ) -> None: ...

class SmoothnessArgs:
    needed: ClassVar[tuple[str, ...]]
    ndim: int
    batch: int
    size: Sizes
    dtype: DType
    threads: int
    flow: Address
    grad: Address
    value: Address
    scratch: Address
    stream: Address
    def __init__(
        self,
        *,
        ndim: int,
        batch: int,
        size: Sizes,
        dtype: DType,
        threads: int,
        flow: Address,
        grad: Address = ...,
        value: Address = ...,
        scratch: Address = ...,
        stream: Address = ...,
    ) -> None: ...

class PenaltyArgs:
    needed: ClassVar[tuple[str, ...]]
    ndim: int
    batch: int
    size: Sizes
    dtype: DType
    smoothness: float
    volume: float
    threads: int
    velocity: Address
    known: Address
    grad: Address
    value: Address
    scratch: Address
    stream: Address
    def __init__(
        self,
        *,
        ndim: int,
        batch: int,
        size: Sizes,
        dtype: DType,
        smoothness: float,
        volume: float,
        threads: int,
        velocity: Address,
        known: Address = ...,
        grad: Address = ...,
        value: Address = ...,
        scratch: Address = ...,
        stream: Address = ...,
    ) -> None: ...

class AdamArgs:
    needed: ClassVar[tuple[str, ...]]
    ndim: int
    batch: int
    size: Sizes
    dtype: DType
    count: int
    step: float
    beta1: float
    beta2: float
    eps: float
    passes: int
    threads: int
    velocity: Address
    grad: Address
    mean: Address
    square: Address
    stream: Address
    def __init__(
        self,
        *,
        ndim: int,
        batch: int,
        size: Sizes,
        dtype: DType,
        count: int,
        step: float,
        beta1: float,
        beta2: float,
        eps: float,
        passes: int,
        threads: int,
        velocity: Address,
        grad: Address,
        mean: Address,
        square: Address,
        stream: Address = ...,
    ) -> None: ...

class DeterminantArgs:
    needed: ClassVar[tuple[str, ...]]
    ndim: int
    batch: int
    size: Sizes
    dtype: DType
    scheme: Scheme
    threads: int
    flow: Address
    out: Address
    stream: Address
    def __init__(
        self,
        *,
        ndim: int,
        batch: int,
        size: Sizes,
        dtype: DType,
        scheme: Scheme,
        threads: int,
        flow: Address,
        out: Address,
        stream: Address = ...,
    ) -> None: ...

class CorrelateArgs:
    needed: ClassVar[tuple[str, ...]]
    ndim: int
    batch: int
    channels: int
    size: Sizes
    dtype: DType
    radius: int
    measure: Measure
    padding: Padding
    sharpness: float
    threads: int
    a: Address
    b: Address
    out: Address
    grad: Address
    grad_a: Address
    grad_b: Address
    scratch: Address
    stream: Address
    def __init__(
        self,
        *,
        ndim: int,
        batch: int,
        channels: int,
        size: Sizes,
        dtype: DType,
        radius: int,
        measure: Measure,
        padding: Padding,
        sharpness: float,
        threads: int,
        a: Address,
        b: Address,
        out: Address = ...,
        grad: Address = ...,
        grad_a: Address = ...,
        grad_b: Address = ...,
        scratch: Address = ...,
        stream: Address = ...,
    ) -> None: ...

class MindArgs:
    needed: ClassVar[tuple[str, ...]]
    ndim: int
    batch: int
    channels: int
    size: Sizes
    dtype: DType
    kind: MindKind
    threads: int
    image: Address
    floor: Address
    out: Address
    grad_out: Address
    grad_image: Address
    scratch: Address
    stream: Address
    def __init__(
        self,
        *,
        ndim: int,
        batch: int,
        channels: int,
        size: Sizes,
        dtype: DType,
        kind: MindKind,
        threads: int,
        image: Address,
        floor: Address,
        out: Address = ...,
        grad_out: Address = ...,
        grad_image: Address = ...,
        scratch: Address = ...,
        stream: Address = ...,
    ) -> None: ...

class WindowArgs:
    needed: ClassVar[tuple[str, ...]]
    ndim: int
    size: Sizes
    grid: Sizes
    threads: int
    vol: Address
    flow: Address
    out: Address
    def __init__(
        self,
        *,
        ndim: int,
        size: Sizes,
        grid: Sizes,
        threads: int,
        vol: Address,
        flow: Address,
        out: Address,
    ) -> None: ...

class cpu:
    @staticmethod
    def warp_forward(args: WarpArgs) -> None: ...
    @staticmethod
    def warp_backward(args: WarpArgs) -> None: ...
    @staticmethod
    def lncc(args: LnccArgs) -> float: ...
    @staticmethod
    def integrate_forward(args: IntegrateArgs) -> None: ...
    @staticmethod
    def integrate_backward(args: IntegrateArgs) -> None: ...
    @staticmethod
    def smoothness(args: SmoothnessArgs) -> float: ...
    @staticmethod
    def penalty(args: PenaltyArgs) -> float: ...
    @staticmethod
    def adam_step(args: AdamArgs) -> None: ...
    @staticmethod
    def determinant(args: DeterminantArgs) -> None: ...
    @staticmethod
    def correlate_forward(args: CorrelateArgs) -> None: ...
    @staticmethod
    def correlate_backward(args: CorrelateArgs) -> None: ...
    @staticmethod
    def mind_forward(args: MindArgs) -> None: ...
    @staticmethod
    def mind_backward(args: MindArgs) -> None: ...
    @staticmethod
    def lanczos(args: WindowArgs) -> None: ...
    @staticmethod
    def bspline(args: WindowArgs) -> None: ...
    @staticmethod
    def vote(args: WindowArgs) -> None: ...
    @staticmethod
    def isa() -> str: ...
    @staticmethod
    def set_isa(name: str) -> None: ...

class cuda:
    """There only where nvcc was found when fastreg was built."""

    @staticmethod
    def architectures() -> str: ...
    @staticmethod
    def warp_forward(args: WarpArgs) -> None: ...
    @staticmethod
    def warp_backward(args: WarpArgs) -> None: ...
    @staticmethod
    def warp_backward_scratch(args: WarpArgs) -> int: ...
    @staticmethod
    def lncc(args: LnccArgs) -> None: ...
    @staticmethod
    def lncc_scratch(args: LnccArgs) -> int: ...
    @staticmethod
    def integrate_forward(args: IntegrateArgs) -> None: ...
    @staticmethod
    def integrate_backward(args: IntegrateArgs) -> None: ...
    @staticmethod
    def smoothness(args: SmoothnessArgs) -> None: ...
    @staticmethod
    def smoothness_scratch(args: SmoothnessArgs) -> int: ...
    @staticmethod
    def penalty(args: PenaltyArgs) -> None: ...
    @staticmethod
    def penalty_scratch(args: PenaltyArgs) -> int: ...
    @staticmethod
    def adam_step(args: AdamArgs) -> None: ...
    @staticmethod
    def determinant(args: DeterminantArgs) -> None: ...
    @staticmethod
    def mind_forward(args: MindArgs) -> None: ...
    @staticmethod
    def mind_backward(args: MindArgs) -> None: ...
    @staticmethod
    def mind_scratch(args: MindArgs) -> int: ...
    @staticmethod
    def correlate_forward(args: CorrelateArgs) -> None: ...
    @staticmethod
    def correlate_backward(args: CorrelateArgs) -> None: ...
    @staticmethod
    def correlate_scratch(args: CorrelateArgs) -> int: ...
