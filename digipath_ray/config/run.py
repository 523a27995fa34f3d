"""What a run does, as frozen dataclasses whose defaults are the paper's values.

A run is described by one :class:`RunConfig`, checked at construction: a wrong value
raises ``ValueError`` naming the field and the value. ``settings`` builds it from what
presets, files and the command line say.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from digipath_ray.config.artifacts import ARTIFACTS_MASK_MPP, ArtifactSpec
from digipath_ray.config.classes import (
    NO_HULL,
    WHOLE,
    check_classes,
    class_channels,
)
from digipath_ray.config.fields import check, check_choice, option
from digipath_ray.config.member import MemberSpec as MemberSpec
from digipath_ray.config.member import check_color_scale as check_color_scale
from digipath_ray.config.member import check_unique as check_unique
from digipath_ray.config.member import contexts_of as contexts_of
from digipath_ray.config.outcome import REFINING as REFINING
from digipath_ray.config.outcome import Ending as Ending
from digipath_ray.config.outcome import OutcomeSpec as OutcomeSpec
from digipath_ray.config.outcome import Refine as Refine

Edge = Literal["white", "reflect"]
Origin = Literal["canvas", "bounds"]
"""What level-0 px count from: the scanner's whole canvas, or the scanned bounds."""
TissueMethod = Literal["otsu", "camelyon", "paip", "paper", "all"]
Blend = Literal["mean", "linear", "gaussian"]
Overlap = Literal["full", "adaptive"]
Transform = Literal["identity", "rot90", "rot180", "rot270", "hflip", "vflip"]
Pools = Literal["shared", "per-member"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]
Stain = Literal["none", "macenko", "reinhard"]

CPU_BATCH_PX = 1 << 19
"""Model px that a network sees at once on a CPU: half a patch of 1024 px, so one; eight
of 256. Larger batches are not faster there, and take more memory."""
MAX_PATCH_PX = 1 << 14
"""Side of the largest patch: 268 Mpx, 3 GB as the floats that a network reads."""
TRANSFORMS: tuple[str, ...] = get_args(Transform)
ESTIMATED = "estimated"
"""Where epistemic uncertainty was estimated: 1 of a patch that two members saw, else 0;
added up beside the channels of a cascade."""


@dataclass(frozen=True, kw_only=True)
class SlideSpec:
    """How slides are read."""

    slide_mpp: float | None = option(
        None, "um/px of level 0 assumed for slides that state none"
    )
    allow_upsampling: bool = option(
        False, "read slides coarser than the model's mpp by interpolation (flagged)"
    )
    edge: Edge = option("white", "what is read beyond a slide's edge")

    def __post_init__(self) -> None:
        """Check the fields."""
        ok = self.slide_mpp is None or 0.01 <= self.slide_mpp <= 100
        check(ok, "slide.slide_mpp", self.slide_mpp, "um/px between 0.01 and 100")
        check_choice("slide.edge", self.edge, Edge)


@dataclass(frozen=True, kw_only=True)
class RunSlideSpec(SlideSpec):
    """How a run reads slides; a fit takes their colors as they are."""

    stain: Stain = option(
        "none",
        "bring each slide's stains to those of the networks' training slides: one "
        "estimate per slide, by Macenko's method or Reinhard's",
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_choice("slide.stain", self.stain, Stain)


@dataclass(frozen=True, kw_only=True)
class TissueSpec:
    """How tissue is found, in physical units so one spec serves every scanner."""

    tissue: TissueMethod = option(
        "otsu", "how tissue is found; paper: Otsu alone; all: no glass at all"
    )
    mask_mpp: float = option(8.0, "um per mask px")
    close_um: float = option(160.0, "gaps up to this width are closed")
    open_um: float = option(40.0, "specks up to this width are removed")
    margin_um: float = option(
        0.0, "patches up to this far from tissue are predicted too (the original: 240)"
    )
    min_saturation: float = option(0.05, "HSV saturation below which all is glass")
    min_tissue_mm2: float = option(0.05, "a smaller tissue area is no tissue")
    exclude_ink: bool = option(True, "drawn ink is not tissue")

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice("tissue.tissue", self.tissue, TissueMethod)
        check(0.5 <= self.mask_mpp <= 64, "tissue.mask_mpp", self.mask_mpp, "0.5 to 64")
        for name in ("close_um", "open_um", "margin_um", "min_tissue_mm2"):
            value = getattr(self, name)
            check(value >= 0, f"tissue.{name}", value, "must not be negative")
        ok = 0 <= self.min_saturation < 1
        check(ok, "tissue.min_saturation", self.min_saturation, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class GridSpec:
    """The lattice of patches and the heatmap's scale."""

    mpp: float = option(0.25, "um per model px")
    patch_px: int = option(1024, "side of a patch, model px")
    stride_px: int = option(512, "step between neighboring patches, model px")
    downsample: int = option(16, "model px per heatmap px")
    overlap: Overlap = option(
        "full",
        "adaptive: patches that overlap others are predicted only where these leave "
        "doubt that there is nothing",
    )
    doubt: float = option(
        0.05,
        "adaptive overlap, cascade: probability, averaged over doubt_um, that leaves "
        "doubt",
    )
    doubt_um: float = option(
        40.0, "adaptive overlap, cascade: width of the smallest lesion to look for, um"
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        check(0.05 <= self.mpp <= 100, "grid.mpp", self.mpp, "um/px from 0.05 to 100")
        ok = 32 <= self.patch_px <= MAX_PATCH_PX
        check(ok, "grid.patch_px", self.patch_px, f"32 to {MAX_PATCH_PX}")
        ok = 1 <= self.stride_px <= self.patch_px
        want = (
            f"1 to patch_px ({self.patch_px}): say stride_px too, such as "
            f"{max(1, self.patch_px // 2)}"
        )
        check(ok, "grid.stride_px", self.stride_px, want)
        ok = 1 <= self.downsample <= 32
        check(ok, "grid.downsample", self.downsample, "1 to 32")
        check_choice("grid.overlap", self.overlap, Overlap)
        check(0 <= self.doubt <= 1, "grid.doubt", self.doubt, "0 to 1")
        check(self.doubt_um >= 0, "grid.doubt_um", self.doubt_um, "not negative, um")
        for name in ("patch_px", "stride_px"):
            value = getattr(self, name)
            ok = value % self.downsample == 0
            want = f"must be a multiple of downsample ({self.downsample})"
            check(ok, f"grid.{name}", value, want)

    @property
    def blocks_per_side(self) -> int:
        """Stride-sized blocks that one patch covers along a side."""
        return -(-self.patch_px // self.stride_px)

    @property
    def hm_patch(self) -> int:
        """Side of a patch in heatmap px."""
        return self.patch_px // self.downsample

    @property
    def hm_stride(self) -> int:
        """Step between patches in heatmap px."""
        return self.stride_px // self.downsample


@dataclass(frozen=True, kw_only=True)
class EnsembleSpec:
    """How members' answers become one heatmap."""

    tta: tuple[Transform, ...] = option(
        ("identity",),
        "test-time augmentations, comma-separated; more than one gives "
        "the aleatoric map",
    )
    blend: Blend = option("mean", "weight of a patch's pixels where patches overlap")
    keep_members: bool = option(False, "also write each member's map")
    keep_classes: bool = option(
        False, "also write the map, area and outline of each class that members know"
    )
    cascade: bool = option(
        False,
        "run the members from the cheapest on, each only where those before it leave "
        "doubt that there is nothing",
    )
    out_of_fold: bool = option(
        False, "predict a slide only by members fitted on neither it nor its patient"
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        check(len(self.tta) > 0, "ensemble.tta", self.tta, "name at least identity")
        for transform in self.tta:
            check_choice("ensemble.tta", transform, Transform)
        ok = len(set(self.tta)) == len(self.tta)
        check(ok, "ensemble.tta", self.tta, "name each transform once")
        ok = not (self.cascade and self.keep_members)
        want = "a cascade leaves the members' maps incomplete: choose one of the two"
        check(ok, "ensemble.keep_members", self.keep_members, want)
        check_choice("ensemble.blend", self.blend, Blend)


@dataclass(frozen=True, kw_only=True)
class ComputeSpec:
    """Where and how fast; nothing here changes a heatmap beyond its precision."""

    batch_size: int = option(8, "patches a network sees at once")
    chunk_cells: int = option(64, "patches read together, a multiple of batch_size")
    pools: Pools = option(
        "shared", "one pool of actors holding all members, or a pool per member"
    )
    cpus: int | None = option(
        None, "CPUs of this machine to use; default: all that the job may use"
    )
    actors: int | None = option(None, "actors per pool; default: one per GPU, or CPUs")
    gpus_per_actor: float | None = option(None, "GPU share of an actor")
    readers: int | None = option(None, "slide-reading tasks at once")
    precision: Precision = option("auto", "auto: float16 on a GPU, float32 on a CPU")
    compile_networks: bool = option(
        False, "torch.compile the networks (about a minute each, then faster)"
    )
    read_timeout_s: float = option(
        600.0, "a reader without progress for this many seconds is ended"
    )
    attempts: int = option(3, "attempts before a slide that kills its reader fails")
    finishers: int = option(2, "slides being stitched and written at once")

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("batch_size", "chunk_cells", "attempts", "finishers"):
            value = getattr(self, name)
            check(value >= 1, f"compute.{name}", value, "must be at least 1")
        ok = self.chunk_cells % self.batch_size == 0
        want = f"must be a multiple of batch_size ({self.batch_size})"
        check(ok, "compute.chunk_cells", self.chunk_cells, want)
        for name in ("cpus", "actors", "readers"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"compute.{name}", value, "at least 1")
        ok = self.gpus_per_actor is None or self.gpus_per_actor >= 0
        check(ok, "compute.gpus_per_actor", self.gpus_per_actor, "not negative")
        ok = self.read_timeout_s > 0
        check(ok, "compute.read_timeout_s", self.read_timeout_s, "must be positive")
        check_choice("compute.pools", self.pools, Pools)
        check_choice("compute.precision", self.precision, Precision)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run does; equal configs give equal heatmaps and outcomes."""

    slide: RunSlideSpec = field(default_factory=RunSlideSpec)
    tissue: TissueSpec = field(default_factory=TissueSpec)
    artifacts: ArtifactSpec = field(default_factory=ArtifactSpec)
    grid: GridSpec = field(default_factory=GridSpec)
    ensemble: EnsembleSpec = field(default_factory=EnsembleSpec)
    outcome: OutcomeSpec = field(default_factory=OutcomeSpec)
    members: tuple[MemberSpec, ...] = ()
    compute: ComputeSpec = field(default_factory=ComputeSpec)

    def __post_init__(self) -> None:
        """Check what only the whole can tell."""
        check_unique(self.members)
        check_classes(self.members, keep_classes=self.ensemble.keep_classes)
        burden, channels = self.outcome.outcome == "burden", self.class_channels
        if burden and self.outcome.refine_hull and WHOLE in channels:
            raise ValueError(NO_HULL)
        coarse, most = self.tissue.mask_mpp, ARTIFACTS_MASK_MPP
        ok = not self.artifacts.find or coarse <= most
        want = f"artifacts are found on masks of at most {most:g} um per px"
        check(ok, "tissue.mask_mpp", coarse, want)
        self._check_borders()

    def _check_borders(self) -> None:
        """Refuse what would leave gaps between patches whose borders are not used."""
        border, grid = self.hm_border, self.grid
        if border == 0:
            return
        used = (grid.hm_patch - 2 * border) * grid.downsample
        ok = used > 0 and grid.stride_px <= used
        want = (
            f"at most {max(used, 0)}, as a member's answer is not used within "
            f"{self.border_px} px of a patch's edge (border_px): a smaller step, or "
            "larger patches"
        )
        check(ok, "grid.stride_px", grid.stride_px, want)
        ok = grid.overlap == "full"
        want = "full where a member has border_px: patches must overlap over borders"
        check(ok, "grid.overlap", grid.overlap, want)

    @property
    def cpu_batch_size(self) -> int:
        """Patches a network sees at once on a CPU, whose caches hold few."""
        fit = CPU_BATCH_PX // self.grid.patch_px**2
        return max(1, min(self.compute.batch_size, fit))

    def fills_batches(self, *, on_gpu: bool) -> bool:
        """Whether the last batch is filled up, so that all have one shape.

        A compiled network is compiled once then, and a GPU chooses its kernels once.
        """
        return on_gpu or self.compute.compile_networks

    @property
    def border_px(self) -> int:
        """Model px along a patch's edges in which some member's answer is not used."""
        return max((m.border_px for m in self.members), default=0)

    @property
    def hm_border(self) -> int:
        """The same in heatmap px, of which those are not used that it touches."""
        return -(-self.border_px // self.grid.downsample)

    @property
    def contexts(self) -> tuple[int, ...]:
        """How many times coarser the contexts are that members ask for, sorted."""
        return contexts_of(self.members)

    @property
    def pools(self) -> int:
        """How many pools of actors hold the members: one, or one for each."""
        return len(self.members) if self.compute.pools == "per-member" else 1

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the heatmap's channels, those not estimated left out."""
        names = ["probability"]
        if len(self.ensemble.tta) > 1:
            names.append("aleatoric")
        if len(self.members) > 1:
            names.append("epistemic")
        if self.ensemble.keep_members:
            names += [f"member:{m.name}" for m in self.members]
        return (*names, *self.class_channels)

    @property
    def class_channels(self) -> tuple[str, ...]:
        """Those of them that are sums of classes."""
        return class_channels(self.members, keep_classes=self.ensemble.keep_classes)

    @property
    def summed(self) -> tuple[str, ...]:
        """Names of what is added up over patches, from which the channels are made."""
        cascade = self.ensemble.cascade and "epistemic" in self.channels
        return (*self.channels, *([ESTIMATED] if cascade else []))
