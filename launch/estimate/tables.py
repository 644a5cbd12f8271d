"""A plan for people: memory per GPU, batches, time and cost, and in words what the figures rest on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table

from llamatrain.energy import ENERGIES, MASSES, Rates, cost, energy_kwh, gpu_watts, tonnes_co2, unit_for
from llamatrain.errors import UserError
from llamatrain.given import Given
from llamatrain.hardware import CORE_SHARE, HOST_LINK, HOST_UPDATES, MFU, READ_SHARE, Machine
from llamatrain.model.config import ModelConfig
from llamatrain.outlook import PARTS, Range, bytes_in_words, clock, parts, short, span

from .chain import Estimated


def memory(found: Sequence[Estimated]) -> Table:
    """Return a row per phase of each stage: what a GPU holds, and how much host memory a node needs."""
    rows = []
    for one in (one for one in found if one.work is not None):
        assert one.work is not None
        machine = one.machine
        host = sum(one.work.host(machine))
        for number, (phase, held, _) in enumerate(one.work.phases(machine)):
            mark = "[red]✗[/red]" if held.total > machine.usable else "[green]✓[/green]"
            name = f"[dim]  {phase}[/dim]" if number else f"[bold]{one.name}[/bold]"
            rows.append((f"{mark} {name}", parts(held), held.total, "" if number else f"{machine.ranks:,}", host))
    used = [part for part in PARTS if any(cells[part] for _, cells, *_ in rows)]
    device = "GPUs" if any(one.machine.gpus for one in found) else "ranks"
    unit = unit_of(found)
    table = _table(["", *used, "all", device, "host"])
    for name, cells, total, ranks, host in rows:
        shown = [_amount(value, unit) for value in (*(cells[part] for part in used), total)]
        table.add_row(name, *shown[:-1], f"[bold]{shown[-1]}[/bold]", ranks, _amount(host, unit) if ranks else "")
    return table


def parameters(model: ModelConfig) -> str:
    """Say how large a model is."""
    number = model.parameters
    return f"{number / 1e9:,.1f}B parameters" if number >= 1e9 else f"{number / 1e6:,.1f}M parameters"


def unit_of(found: Sequence[Estimated]) -> str:
    """Return the unit of memory that suits all stages."""
    return "GB" if any(one.work and one.work.most(one.machine) > 2e9 for one in found) else "MB"


def batches(found: Sequence[Estimated]) -> Iterator[str]:
    """Yield in words how each training's global batch is shared, how many steps there are, and what the network needs."""
    for one in found:
        if one.work is not None and one.work.zero is not None and one.pace is not None:
            work, machine = one.work, one.machine
            steps = f"{work.steps:,.0f} steps of " if work.steps else ""
            network = f"; network {one.pace.network:.2g} s of a step" if one.pace.network else ""
            yield f"{one.name}: {steps}{work.batch(machine)}{network}"
            if machine.gpus and machine.ranks > work.rows:
                yield f"{one.name}: GPUs above the {work.rows:,} rows of a global batch buy nothing"


def times(found: Sequence[Estimated], rates: Rates) -> Table:
    """Return a row per stage: seconds of a step, time, hours, checkpoints, of energy, carbon and money the middle; and the total."""
    own = [one for one in found if one.work is not None]
    gpus = any(one.machine.gpus for one in own)
    price = rates.gpu_hour_price if gpus else None
    hours, kwh = total(map(device_hours, own)), total(energy(one, rates) for one in own)
    tonnes = tuple(tonnes_co2(one, rates.pue, rates.carbon_intensity) for one in kwh)
    (power, per_kwh), (mass, per_tonne) = unit_for(kwh[1], ENERGIES), unit_for(tonnes[1], MASSES)
    head = ["", "step, s", "time", f"{'GPU' if gpus else 'core'} hours", power, f"{mass}CO2eq"]
    table = _table([*head, *([rates.currency] if price is not None else []), "checkpoints", "write"])

    def costs(hours: Range, kwh: Range) -> list[str]:
        mean = sum(kwh) / 2
        carbon = tonnes_co2(mean, rates.pue, rates.carbon_intensity) * per_tonne
        money = [] if price is None else [short(cost(sum(hours) / 2, price))]
        return [span(hours), short(mean * per_kwh), short(carbon), *money]

    for one in own:
        assert one.work is not None and one.pace is not None
        kept = round(one.work.kept_bytes / one.work.checkpoint_bytes) if one.work.checkpoint_bytes else 0
        table.add_row(
            f"[bold]{one.name}[/bold]",
            span(one.pace.step) if one.pace.step[1] else "–",
            clock(one.hours),
            *costs(device_hours(one), energy(one, rates)),
            f"{kept * len(one.names)} x {bytes_in_words(one.work.checkpoint_bytes)}" if kept else "–",
            f"{short(write_seconds(one))} s" if kept else "–",
        )
    disk = sum(len(one.names) * one.work.kept_bytes for one in own if one.work)
    whole = ["all in turn", "", clock(total(one.hours for one in own)), *costs(hours, kwh), bytes_in_words(disk), ""]
    table.add_row(*(f"[bold]{cell}[/bold]" for cell in whole))
    return table


def total(ranges: Iterable[Range]) -> Range:
    """Return the sum of ranges."""
    found = list(ranges)
    return sum(low for low, _ in found), sum(high for _, high in found)


def device_hours(one: Estimated) -> Range:
    """Return GPU hours, or core hours where there are no GPUs."""
    each = 1.0 if one.machine.gpus else one.machine.cores_per_rank
    return one.device_hours[0] * each, one.device_hours[1] * each


def energy(one: Estimated, rates: Rates) -> Range:
    """Return the kWh that the devices of stages take, without cooling."""
    draws, (low, high) = watts(one.machine, rates), device_hours(one)
    return energy_kwh(low, draws), energy_kwh(high, draws)


def watts(machine: Machine, rates: Rates) -> float:
    """Return what a GPU or a core draws; UserError where nobody says it."""
    found = (rates.gpu_watts or gpu_watts(machine.hardware.gpu)) if machine.gpus else rates.core_watts
    if found is None:
        raise UserError(
            f"cluster.hardware.gpu={machine.hardware.gpu}: its power is not known, need rates.gpu_watts=<watts>"
        )
    return found


def write_seconds(one: Estimated) -> float:
    """Return the seconds in which a checkpoint is written, by all nodes side by side."""
    assert one.work is not None
    return one.work.checkpoint_bytes / (one.machine.nodes * one.machine.hardware.disk_gigabytes_per_second * 1e9)


# --- in words ----------------------------------------------------------------------------------------------------


def reasons(found: Sequence[Estimated], given: Given, rates: Rates) -> Iterator[str]:
    """Yield in words what the figures rest on."""
    own = [one for one in found if one.work is not None]
    if not own:
        return
    machine = max((one.machine for one in own), key=lambda one: one.ranks)
    hardware = machine.hardware
    if machine.gpus:
        yield (
            f"step: 6 operations per parameter and token at {MFU[0]:.0%} to {MFU[1]:.0%} of {hardware.gpu_tflops:g} TFLOP/s, as the "
            "paper's GPU hours imply (2.2.1, table 2), a third more where activations are recomputed, or as long as the "
            f"network takes: {hardware.network_gigabytes_per_second:g} GB/s per GPU between nodes, {hardware.link_gigabytes_per_second:g} within one (cluster.hardware)"
        )
        if any(one.work.zero.offload_optimizer for one in own if one.work and one.work.zero):
            yield (
                f"step with states in host memory: GPUs wait while {HOST_LINK / 1e9:g} GB/s bring gradients there and weights back, and "
                f"a node's CPUs update {HOST_UPDATES / 1e9:g} billion parameters per second (assumptions)"
            )
        if any(one.work.sampled for one in own if one.work):
            yield (
                f"sampling: weights and caches are read once per token at {READ_SHARE[0]:.0%} to {READ_SHARE[1]:.0%} of "
                f"{hardware.gpu_gigabytes_per_second:,.0f} GB/s (an assumption)"
            )
    else:
        yield (
            f"step: operations of parameters and attention at {CORE_SHARE[0]:.0%} to {CORE_SHARE[1]:.0%} of {hardware.core_gflops:g} GFLOP/s "
            "per core, which pretraining reached on the machines of benchmarks/, and a little for each micro-batch"
        )
    if any(one.work.checkpoint_bytes for one in own if one.work):
        copies = max((one.work.host(one.machine) for one in own if one.work), key=sum)[1]
        waits = any(one.work.waits(one.machine) for one in own if one.work and one.work.checkpoint_bytes)
        room = "; for want of that, training waits while they are written" if waits else ""
        yield (
            f"checkpoints: as many as run.keep says stay; written at {hardware.disk_gigabytes_per_second:g} GB/s per node (cluster.hardware) while "
            f"training goes on: copies take up to {bytes_in_words(copies)} of a node's {bytes_in_words(machine.host)}{room}"
        )
    yield (
        f"energy: {watts(machine, rates):g} W per {'GPU' if machine.gpus else 'core'}; carbon with PUE {rates.pue:g} and "
        f"{rates.carbon_intensity:g} kg per kWh (rates); each as the middle of its range"
    )
    if given.assumed:
        yield f"data that are not there yet count as {'; '.join(given.assumed)}"


def _amount(value: float, unit: str) -> str:
    """Write bytes in a unit; nothing where there is none."""
    number = value / (1e9 if unit == "GB" else 1e6)
    return "–" if not value else f"{number:,.0f}" if number >= 1000 else f"{number:.1f}"


def _table(head: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table
