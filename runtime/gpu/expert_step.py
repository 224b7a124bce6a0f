"""A layer's experts within a step: routed and planned on the device, then computed in three branches side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.gpu.combine import launch_combine
from kernels.gpu.experts import launch_down, launch_gate_up
from kernels.gpu.feed_forward import Operand
from kernels.gpu.norm import launch_rms_norm
from kernels.gpu.page_in import launch_page_in
from kernels.gpu.policy import Policy
from kernels.gpu.quantise import Quantised
from kernels.gpu.route import Guesses, RouterShape, launch_ahead, launch_route, launch_route_step
from kernels.gpu.tables import ExpertShape, Fetches, Groups, InPlace, Kind, Placement
from runtime.config import ModelConfig
from runtime.gpu.branches import Branches, Mark
from runtime.gpu.dense_step import DenseStep
from runtime.gpu.host_share import HostShare, Staging
from runtime.gpu.scratch import Scratch
from runtime.gpu.step_rows import StepRows
from runtime.gpu.step_tables import StepTables
from runtime.layers import DecoderLayer
from runtime.moe import GUESSED, MoELayer, Router


@dataclass(frozen=True)
class Paths:
    """How a missing expert comes to be computed; which branches a step has is fixed, as a graph holds them all.

    Without `fetching` every expert has a slot. Without `host` all that is missing is fetched, and always finds a slot.
    With `guessing` the experts that the next layer may need are fetched ahead; else, with `admitting`, those
    that the host computed.
    """

    fetching: bool
    host: HostShare | None
    staging: tuple[Staging, Staging] | None  # of what is needed and what is fetched ahead, where frames are not pinned
    guessing: bool
    admitting: bool


@dataclass(frozen=True)
class _Layer:
    """One layer of a step under way."""

    position: int
    rows: StepRows
    groups: Groups
    normed: Tensor  # fp32 [T, M]
    a: Quantised  # [T, M]
    hidden: Quantised  # [T K, F]
    y: Tensor  # fp32 [T K, M]
    fault: Tensor


class ExpertStep:
    """Launches the experts of any layer of a step."""

    def __init__(
        self,
        config: ModelConfig,
        shape: ExpertShape,
        layers: tuple[int, ...],
        placement: Placement,
        policy: Policy,
        tables: StepTables,
        in_place: InPlace,
        scratch: Scratch,
        dense: DenseStep,
        branches: Branches,
    ) -> None:
        """`layers` are those that have experts."""
        self._config = config
        self._shape = shape
        self._layers = layers
        self._placement = placement
        self._policy = policy
        self._tables = tables
        self._in_place = in_place
        self._scratch = scratch
        self._dense = dense
        self._branches = branches
        self._router = RouterShape(
            config.num_experts_per_tok, config.n_group, config.topk_group, config.routed_scaling_factor
        )

    def launch(
        self,
        layer: DecoderLayer,
        following: DecoderLayer | None,
        middle: Tensor,
        out: Tensor,
        rows: StepRows,
        paths: Paths,
        ahead: Mark,
        fault: Tensor,
    ) -> Mark:
        """out = middle + experts + shared expert, fp32 [T, M], once what the layer before fetched `ahead` is there.

        Returns when what this one fetches ahead is there.
        """
        assert isinstance(layer.mlp, MoELayer)
        step = self._begin(layer, middle, rows, fault)
        self._branches.wait(ahead)
        weights = self._plan(step, layer.mlp.route)
        planned = self._branches.mark()
        coming, fetched = self._fetch(step, paths, planned)
        computed = self._compute_in_place(step, paths, planned)
        begun = self._fetch_ahead(step, paths, following, middle, coming, computed)
        self._compute(step, Kind.RESIDENT)
        shared = self._scratch.rows("shared", *middle.shape)
        self._dense.swiglu(layer.mlp.shared, self._shared_operand(step, layer.mlp), shared, None, fault)
        self._branches.wait(fetched, computed)
        launch_combine(
            step.y,
            weights,
            out,
            pair_kinds=step.groups.pair_kinds,
            in_place=None if paths.host is None else self._in_place.outputs,
            shared=shared,
            residual=middle,
        )
        return begun

    def _begin(self, layer: DecoderLayer, middle: Tensor, rows: StepRows, fault: Tensor) -> _Layer:
        """Norms the rows: for the router as they are, and for the experts quantised."""
        config, shape, scratch = self._config, self._shape, self._scratch
        count, width, k = rows.count, config.hidden_size, config.num_experts_per_tok
        normed = scratch.rows("normed", count, width)
        a = scratch.quantised("expert operand", count, width, shape.gate_up.group)
        launch_rms_norm(middle, layer.post_attention_norm, config.rms_norm_eps, normed, a, fault)
        h = scratch.quantised("hidden", count, k * shape.inner, shape.down.group)
        hidden = Quantised(h.q.view(-1, shape.inner), h.scales.view(count * k, -1))
        y = scratch.rows("y", count, k * width).view(-1, width)
        position = self._layers.index(layer.index)
        return _Layer(position, rows, self._tables.groups_of(count), normed, a, hidden, y, fault)

    def _shared_operand(self, step: _Layer, mlp: MoELayer) -> Operand:
        """What the shared expert takes: most often it is what the others take."""
        takes, theirs = mlp.shared.gate_up.format, self._shape.gate_up
        if takes.is_quantised and takes.group == theirs.group:
            return step.a
        return self._dense.operand(step.normed, mlp.shared.gate_up, step.fault)

    def _plan(self, step: _Layer, router: Router) -> Tensor:
        """Routes, and says what becomes of each expert; weights fp32 [T, K]."""
        tables, count = self._tables, step.rows.count
        weights = self._scratch.rows("weights", count, self._config.num_experts_per_tok)
        launch_route_step(
            step.normed,
            router.weight,
            router.bias,
            self._router,
            step.position,
            self._placement,
            tables.fetch_of,
            step.groups,
            weights,
            tables.ids[step.position, :count],
            tables.needed,
            self._in_place,
            self._policy,
            tables.route,
            step.rows.inputs.forced_ids[step.position] if step.rows.forced else None,
        )
        return weights

    def _fetch(self, step: _Layer, paths: Paths, planned: Mark) -> tuple[Mark, Mark]:
        """Brings what is to be fetched and computes it: when it has come, and when it is computed."""
        if not paths.fetching:
            return planned, None
        with self._branches.on("link", planned) as stream:
            self._move(self._tables.needed, paths.staging and paths.staging[0], stream)
            coming = self._branches.mark()
            self._compute(step, Kind.FETCHED)
            return coming, self._branches.mark()

    def _compute_in_place(self, step: _Layer, paths: Paths, planned: Mark) -> Mark:
        if paths.host is None:
            return None
        with self._branches.on("host", planned) as stream:
            paths.host.launch(step.position, step.a, stream)
            return self._branches.mark()

    def _fetch_ahead(
        self,
        step: _Layer,
        paths: Paths,
        following: DecoderLayer | None,
        middle: Tensor,
        coming: Mark,
        computed: Mark,
    ) -> Mark:
        """While the link would be idle: guesses for the next layer, else what the host computed here."""
        guessing = paths.guessing and following is not None and isinstance(following.mlp, MoELayer)
        if not guessing and not paths.admitting:
            return None
        with self._branches.on("ahead", coming) as stream:
            guesses = None
            if guessing and following is not None:
                guesses = self._guess(step, following, middle)
            else:
                # The host may still read a frame that an exchange would write to.
                self._branches.wait(computed)
            tables = self._tables
            most = tables.ahead.most
            launch_ahead(
                self._placement, step.position, step.groups, guesses, tables.ahead, self._policy, tables.route, most
            )
            self._move(tables.ahead, paths.staging and paths.staging[1], stream)
            return self._branches.mark()

    def _guess(self, step: _Layer, following: DecoderLayer, middle: Tensor) -> Guesses:
        """What the next layer's router makes of this layer's hidden state."""
        assert isinstance(following.mlp, MoELayer)
        config, scratch, count = self._config, self._scratch, step.rows.count
        k, router = config.num_experts_per_tok, following.mlp.route
        normed = scratch.rows("guess normed", *middle.shape)
        launch_rms_norm(middle, following.post_attention_norm, config.rms_norm_eps, normed, None, None)
        ids = scratch.rows("guess ids", count, k, dtype=torch.int32)
        weights = scratch.rows("guess weights", count, k)
        products = scratch.rows("guess products", count, config.num_experts)
        launch_route(normed, router.weight, router.bias, self._router, weights, ids, products)
        return Guesses(step.position + 1, ids, weights, max(1, int(GUESSED * k)))

    def _move(self, fetches: Fetches, staging: Staging | None, stream: torch.cuda.Stream | None) -> None:
        if staging is not None:
            staging.node.enqueue(stream)
        launch_page_in(fetches, self._placement, None if staging is None else staging.ring)

    def _compute(self, step: _Layer, kind: Kind) -> None:
        launch_gate_up(step.a, step.groups, self._shape, step.hidden, step.fault, (kind,))
        launch_down(step.hidden, step.groups, self._shape, step.y, (kind,))
