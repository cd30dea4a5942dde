"""The launch of one instance over several nodes: one rank per GPU under mpirun or Slurm, rank 0 serves.

``trtllm-llmapi-launch`` makes the ranks workers of the server (NVIDIA's docs/source/commands/trtllm-serve). On one node
trtllm-serve spawns its workers itself. Launched by nobody yet: for later platforms, and to be seen in a preview.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.port import EngineSpec
from rollout.errors import Refused

GPUS_PER_NODE = 8  # of a usual node (HGX), where the engine file says nothing
LAUNCH = "trtllm-llmapi-launch"


@dataclass(frozen=True)
class Nodes:
    """How ranks are spread: as many on each node."""

    nodes: int
    per_node: int

    @property
    def world(self) -> int:
        """Ranks, which is TP x PP."""
        return self.nodes * self.per_node


def spread(spec: EngineSpec) -> Nodes | None:
    """The nodes that an instance needs, or None where one will do. ``options.gpus_per_node`` says how large one is.

    Raises Refused where the ranks cannot be the same number on each node.
    """
    world = spec.tensor_parallel * spec.pipeline_parallel
    limit = int(spec.options.get("gpus_per_node") or GPUS_PER_NODE)
    if world <= limit:
        return None
    per_node = next((n for n in range(limit, 0, -1) if world % n == 0), 1)
    if per_node == 1 and limit > 1:
        rule = f"{world} ranks do not spread evenly over nodes of {limit} GPUs"
        raise Refused("tensor_parallel x pipeline_parallel", world, rule, f"choose a multiple of {limit}")
    return Nodes(world // per_node, per_node)


def launch(argv: Sequence[str], nodes: Nodes, launcher: str = "mpirun", stated: bool = False) -> tuple[str, ...]:
    """The command for all nodes. ``launcher``: mpirun (Open MPI, which takes the nodes from ./hosts) or srun.
    ``stated``: the YAML says how many GPUs a node has, else a flag does."""
    words = [*argv] if stated else [*argv, "--gpus_per_node", str(nodes.per_node)]
    world = str(nodes.world)
    if launcher == "srun":
        spread_ = ("--nodes", str(nodes.nodes), "--ntasks-per-node", str(nodes.per_node), "--mpi=pmix")
        return ("srun", "-n", world, *spread_, LAUNCH, *words)
    spread_ = ("--hostfile", "hosts", "--map-by", f"ppr:{nodes.per_node}:node")
    return ("mpirun", "-n", world, *spread_, LAUNCH, *words)
