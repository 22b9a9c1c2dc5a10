"""Whether an adapter's settings and tensors fit each other and the base, and in which names."""

from collections.abc import Mapping, Sequence

from vlm2vec_service.engine.adapter_config import AdapterConfig
from vlm2vec_service.engine.adapter_file import FLOATS, Contents, bounded
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.linear import AdaptedLinear
from vlm2vec_service.engine.placement import Placement, placements
from vlm2vec_service.errors import AdapterError, listed


def fit(
    config: AdapterConfig,
    contents: Contents,
    backbone: Backbone,
    linears: Mapping[str, AdaptedLinear],
) -> Placement:
    """Finds the placement that PEFT gave the adapter whose tensors are ``contents``.

    PEFT writes a tensor under the name that it saw, so the names in the file say which generation
    of names the settings are meant in. Tools may have put the names of the original checkpoint in
    their place, as some versions of ``transformers`` do, but never others. So of all generations
    for those names, and else of the file's own, as far as the settings fit the tensors there, that
    is right in which most keys of ``alpha_pattern`` apply; another only if none of these fits.
    Raises `AdapterError` that lists what does not fit.
    """
    shapes = {name: (linear.out_features, linear.in_features) for name, linear in linears.items()}
    shapes |= backbone.inert
    known = {name: backbone.known_as(name) for name in shapes}
    found = placements(config, known)
    problems = [_problems(placement, config, contents, shapes, linears) for placement in found]
    written = _generation(contents, known)
    meant = [written] if written else list(range(len(found)))
    for generations in (meant, [index for index in range(len(found)) if index not in meant]):
        if fitting := [found[index] for index in generations if not problems[index]]:
            return max(fitting, key=lambda placement: placement.alphas_used)
    nearest = min(
        problems[written:] + problems[:written], key=lambda kinds: sum(map(len, kinds.values()))
    )
    raise AdapterError(
        "; ".join(f"{kind}: {listed(names)}" if names else kind for kind, names in nearest.items())
    )


def _generation(contents: Contents, known: Mapping[str, Sequence[str | None]]) -> int:
    """Finds the first generation whose names the file has; 0 if they are of several."""
    pairs = [(name, known[module]) for module, name in contents.written.items() if module in known]
    count = min((len(names) for _, names in pairs), default=0)
    fitting = (i for i in range(count) if all(names[i] == name for name, names in pairs))
    return next(fitting, 0)


def _problems(
    placement: Placement,
    config: AdapterConfig,
    contents: Contents,
    shapes: Mapping[str, tuple[int, int]],
    linears: Mapping[str, AdaptedLinear],
) -> dict[str, list[str]]:
    """Lists what does not fit, by kind, if PEFT put the adapter where ``placement`` says."""
    parts = contents.parts
    strays = contents.strays + [
        bounded(f"{module}.{part}")
        for module, entries in parts.items()
        for part in entries
        if module not in placement.ranks or (part == "base_layer" and module in linears)
    ]
    kinds = {
        "tensors that land on no linear layer": strays,
        "tensors that are there under two names": contents.twice,
        # What never reaches a vector may have tensors or not: our own training does not write it.
        "layers with tensors that adapter_config.json does not target": [
            module for module in parts if module in linears and module not in placement.targets
        ],
        "layers that adapter_config.json targets and the file lacks": [
            module for module in placement.targets if module in linears and module not in parts
        ],
        "tensors that do not fit": [
            problem
            for module in parts
            if module in placement.ranks
            for problem in _misfits(module, placement, config, contents, shapes)
        ],
    }
    found = {kind: names for kind, names in kinds.items() if names}
    if not placement.targets:
        found["adapter_config.json targets no linear layer of the base"] = []
    return found


def _misfits(
    module: str,
    placement: Placement,
    config: AdapterConfig,
    contents: Contents,
    shapes: Mapping[str, tuple[int, int]],
) -> list[str]:
    """Lists the tensors of ``module`` of another shape or type, or the parts if they are others."""
    entries = contents.parts[module]
    (out, in_), rank = shapes[module], placement.ranks[module]
    wanted = {
        "lora_A": (rank, in_),
        "lora_B": (out, rank),
        "lora_magnitude_vector": (out,),
        "base_layer": (out, in_),
    }
    misfits = [
        f"{module}.{part} is {bounded(str(entry.shape))}, not {wanted[part]}"
        for part, entry in entries.items()
        if entry.shape != wanted[part]
    ]
    misfits += [
        f"{module}.{part} is {bounded(entry.dtype)}, not one of {', '.join(FLOATS)}"
        for part, entry in entries.items()
        if entry.dtype not in FLOATS
    ]
    expected = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if config.use_dora else set())
    if set(entries) - {"base_layer"} != expected:
        misfits.append(f"{module} has {sorted(entries)}, not {sorted(expected)}")
    return misfits
