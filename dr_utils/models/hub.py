"""Networks of timm, with weights from the model hub."""

from __future__ import annotations

import difflib
from contextlib import nullcontext

from torch import nn

from dr_utils.checks import nearest_first
from dr_utils.fetch import hub_within_reach
from dr_utils.models.network import Network, NetworkCard
from dr_utils.store import AssetError


def is_timm_model(name: str) -> bool:
    """Whether timm knows this architecture, and this pretrained tag if the name has one."""
    import timm

    architecture, _, tag = name.partition(".")
    return timm.is_model(architecture) and (not tag or name in timm.list_models(f"{architecture}.*", pretrained=True))


def similar_timm_models(name: str, n: int = 3) -> list[str]:
    """Return up to `n` names of timm models that look like the given one."""
    import timm

    known = timm.list_models()
    if timm.is_model(name.partition(".")[0]):  # the architecture exists: it is the tag that does not
        known = timm.list_models(name.partition(".")[0] + ".*", pretrained=True)
    return difflib.get_close_matches(name, known, n, cutoff=0.5)


def load_timm(name: str, offline: list[str], *, pretrained: bool = True) -> Network:
    """Load a timm model as a `Network`.

    Parameters
    ----------
    name : str
        Architecture, with a pretrained tag or without: "vit_small_patch16_224.augreg_in21k".
    offline : list of str
        Networks that need no hub, for the message of the error.
    pretrained : bool
        Random weights if False.

    Raises
    ------
    AssetError
        The hub cannot be reached and its cache does not have the weights.
    ValueError
        The model has no published weights, or none that can be loaded.
    """
    import timm

    model = None
    with hub_within_reach() if pretrained else nullcontext(True) as reachable:
        try:
            model = timm.create_model(name, pretrained=pretrained)
        except Exception as error:
            if pretrained and (not reachable or _is_connection_error(error)):
                raise AssetError(
                    f"the weights of timm model {name!r} cannot be fetched: the model hub cannot be reached from here; "
                    f"available offline, nearest first: {', '.join(nearest_first(name, offline))}."
                ) from error
            raise ValueError(f"timm model {name!r} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    data = timm.data.resolve_model_data_config(model)
    head = model.get_classifier()
    head = head if isinstance(head, nn.Linear) else None
    model.reset_classifier(0)
    return Network(_card(name, model, head, pretrained), model, head, mean=data["mean"], std=data["std"])


def _card(name: str, model: nn.Module, head: nn.Linear | None, pretrained: bool) -> NetworkCard:
    cfg = model.pretrained_cfg
    width = head.in_features if head is not None else getattr(model, "head_hidden_size", model.num_features)
    hub = cfg.get("hf_hub_id") or cfg.get("url") or "no published weights"
    return NetworkCard(
        name=name, title=name, width=int(width), family=name.partition(".")[0].partition("_")[0], training="standard",
        upstream=_upstream(cfg) if pretrained else "none", kind="imagenet",
        source=f"timm, {hub}" if pretrained else "timm, random weights",
        licence=cfg.get("license") or "unstated", top1=None,
    )  # fmt: skip


def _upstream(cfg: dict) -> str:
    tag = cfg.get("tag") or ""
    for part, data in (
        ("in21k", "imagenet21k"),
        ("in22k", "imagenet21k"),
        ("in12k", "imagenet12k"),
        ("in1k", "imagenet1k"),
    ):
        if part in tag:
            return data
    by_classes = {1000: "imagenet1k", 21841: "imagenet21k", 21843: "imagenet21k"}
    return by_classes.get(cfg.get("num_classes"), tag or "unknown")


def _is_connection_error(error: BaseException) -> bool:
    # timm and the hub's client wrap what the socket said; the cause is somewhere along the chain.
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__name__ in (
            "LocalEntryNotFoundError",
            "OfflineModeIsEnabled",
            "ConnectError",
            "ConnectionError",
            "ConnectTimeout",
            "ReadTimeout",
            "URLError",
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
